"""The command `lint`: what revisions will do to the readers and writers of a database that serves."""
