// Command golang-migrate applies the migrations of the folder in its argument to DATABASE_URL, with the defaults of
// golang-migrate. It locks by itself.
package main

import (
	"errors"
	"log"
	"os"
	"strings"

	"github.com/golang-migrate/migrate/v4"
	_ "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	_ "github.com/golang-migrate/migrate/v4/source/file"
)

func main() {
	url := strings.Replace(os.Getenv("DATABASE_URL"), "postgresql://", "pgx5://", 1)
	m, err := migrate.New("file://"+os.Args[1], url)
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		log.Fatal(err)
	}
}
