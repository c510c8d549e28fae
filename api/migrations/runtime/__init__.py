"""Threads, name resolution, cancellation, standard streams and the end of a process, without anything of migrations."""
