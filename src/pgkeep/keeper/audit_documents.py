"""The audit as JSON."""

from __future__ import annotations

from pgkeep.keeper.audit import Audit, Copy, DatabaseAudit
from pgkeep.repository.ledger import Entry


def audit_document(report: Audit) -> dict[str, object]:
    """All of it, moments in ISO form, sizes in bytes, durations in seconds."""
    return {
        "month": str(report.month),
        "written": report.written.isoformat(),
        "host": report.host,
        "tool": report.tool,
        "clean": report.is_clean,
        "recommendations": list(report.recommendations),
        "databases": [_database(one) for one in report.databases],
        "copies": [_copy(one) for one in report.copies],
        "dollars_a_month": round(report.dollars, 4),
        "access": [
            {"command": what, "ended": number, "badly": failed}
            for what, number, failed in report.access
        ],
        "notable": [_entry(one) for one in report.notable],
        "incidents": [_entry(one) for one in report.incidents],
        "configuration_changes": [_entry(one) for one in report.changes],
        "ledger_problems": list(report.ledger_problems),
    }


def _database(one: DatabaseAudit) -> dict[str, object]:
    return {
        "database": one.name,
        "backups": [
            {"backup": item.backup, "kind": item.kind.value, "rows": item.totals.rows,
             "seconds": item.seconds, "bytes_of_backup": item.totals.stored_bytes}
            for item in one.backups
        ],
        "drills": [
            {"started": item.started.isoformat(), "kind": item.kind, "backup": item.backup,
             "outcome": item.outcome.value, "rows": item.rows, "seconds": item.seconds}
            for item in one.drills
        ],
        "objectives": [
            {"name": item.name, "met": item.is_met,
             "promised_seconds": item.promised.total_seconds(),
             "measured_seconds": None if item.measured is None else item.measured.total_seconds()}
            for item in one.objectives
        ],
        "loss_seconds_by_day": {f"{item.at:%Y-%m-%d}": item.value for item in one.losses},
        "tables": [
            {"table": item.name, "rows_before": item.before, "rows_after": item.after}
            for item in one.tables
        ],
        "tables_known": one.tables_known,
        "schema_changes": one.schema_changes,
        "checklist": [
            {"item": line.item.id, "done": line.is_done,
             "evidence": line.tick.evidence if line.tick else None,
             "at": line.tick.at.isoformat() if line.tick else None, "remedy": line.remedy}
            for line in one.checklist
        ],
    }  # fmt: skip


def _copy(one: Copy) -> dict[str, object]:
    return {
        "repository": one.name,
        "url": one.url,
        "backups": one.backups,
        "stored_bytes": one.stored_bytes,
        "checked": one.checked,
        "problems": list(one.problems),
        "price_per_gigabyte_month": one.price,
        "dollars_a_month": round(one.dollars, 4),
        "forecast_bytes": {
            "three_months": round(one.forecast.in_three_months),
            "year": round(one.forecast.in_a_year),
        },
    }


def _entry(one: Entry) -> dict[str, object]:
    return {
        "at": one.at.isoformat(),
        "what": one.what,
        "database": one.database or None,
        "who": one.who,
        "from": one.source,
        "reason": one.reason or None,
        "state": one.state,
        "error": one.error or None,
    }
