"""Backups of PostgreSQL over a connection string, proven by restoring them."""

__version__ = "0.1.0"
