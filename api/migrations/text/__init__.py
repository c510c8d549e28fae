"""Text from elsewhere, made safe to show, to log and to store."""
