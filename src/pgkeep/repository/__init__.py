"""Where backups are kept: objects, manifests, the host's keys."""
