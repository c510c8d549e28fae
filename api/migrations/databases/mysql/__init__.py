"""MySQL and MariaDB. Optional: without this folder the package works on the other databases."""
