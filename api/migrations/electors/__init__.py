"""Who may try to migrate, decided outside the database. The database's own lock still decides who runs."""
