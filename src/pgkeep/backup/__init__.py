"""Making a backup: plan, read, publish."""
