"""All tools, in the order of the report."""

from bench.peers.go import GOLANG_MIGRATE, GOOSE
from bench.peers.java import FLYWAY
from bench.peers.node import KNEX, NODE_PG_MIGRATE
from bench.peers.python import ALEMBIC, OURS, YOYO_MIGRATIONS

PEERS = (OURS, ALEMBIC, GOOSE, GOLANG_MIGRATE, KNEX, NODE_PG_MIGRATE, YOYO_MIGRATIONS, FLYWAY)
