"""MySQL and MariaDB. This folder is optional: the other databases work without it."""
