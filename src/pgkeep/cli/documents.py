"""What several commands say with --json, under the same names."""

from __future__ import annotations

from collections.abc import Iterable

from pgkeep.model import Manifest, NotKept


def backup_document(manifest: Manifest) -> dict[str, object]:
    """A backup by its public manifest. `bytes_read` left the database, `bytes_stored` are new."""
    totals = manifest.totals
    return {
        "backup": manifest.backup,
        "database": manifest.database,
        "kind": manifest.kind.value,
        "tier": manifest.tier.value,
        "started": manifest.started.isoformat(),
        "finished": manifest.finished.isoformat(),
        "seconds": manifest.seconds,
        "server_version": manifest.server_version,
        "tables": totals.tables,
        "rows": totals.rows,
        "large_objects": totals.large_objects,
        "database_bytes": totals.database_bytes,
        "rows_read": totals.rows_read,
        "bytes_read": totals.read_bytes,
        "bytes_stored": totals.added_bytes,
        "bytes_of_text": totals.text_bytes,
        "bytes_of_backup": totals.stored_bytes,
        "parts_read": totals.parts_read,
        "parts_reused": totals.parts_reused,
        "not_kept": manifest.not_kept,
    }


def not_kept_documents(items: Iterable[NotKept]) -> list[dict[str, object]]:
    """What is not kept, and why."""
    return [
        {"what": item.what, "why": item.why, "needs_attention": item.needs_attention}
        for item in items
    ]
