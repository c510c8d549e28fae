module bench/golang-migrate

go 1.25.0

require github.com/golang-migrate/migrate/v4 v4.20.1
