"""Threads, name resolution, cancellation, standard streams, the end of a process: nothing of migrations."""
