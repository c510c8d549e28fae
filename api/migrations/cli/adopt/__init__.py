"""`./migrate.sh adopt`: looks at the files of a project and shows what to change to use this package."""
