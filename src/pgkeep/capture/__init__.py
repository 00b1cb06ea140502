"""Capturing changes: what it needs in the database, the slot, and segments of the journal."""
