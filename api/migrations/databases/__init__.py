"""The databases, a folder each; `registry` finds the folder by the URL."""
