"""What each database does in its own way, one folder for each; `registry` finds the folder by the URL."""
