"""pgkeep beside pg_dump and pg_restore, on one machine, in one run: see README.md."""
