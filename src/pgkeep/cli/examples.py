"""What people type most, for `pgkeep COMMAND --help` and the reference. A test parses each."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "demo": (
        ("pgkeep demo", "a disaster undone, on a server of its own"),
        ("pgkeep demo --keep ./demo-shop", "and the files stay, to look at"),
    ),
    "init": (
        ("pgkeep init shop", "the connection string is in SHOP_DATABASE_URL"),
        ("pgkeep init shop --repository s3://bucket/pgkeep", "backups go to S3"),
        ("pgkeep init shop --recipient age1...", "a key that you have, none is made"),
    ),
    "doctor": (
        ("pgkeep doctor", "everything that is configured"),
        ("pgkeep doctor --offline", "repositories alone: no login anywhere"),
    ),
    "backup": (
        ("pgkeep backup shop", "all of it; what did not change is not read again"),
        ("pgkeep backup shop --tier daily", "kept as long as daily ones are"),
        ("pgkeep backup shop --dry-run", "what it would read"),
    ),
    "list": (
        ("pgkeep list", "all databases"),
        ("pgkeep list shop --schema-changes --identity KEY", "who altered what, and when"),
        ("pgkeep list shop --repository s3://bucket/pgkeep --identity KEY", "on a new machine"),
    ),
    "show": (
        ("pgkeep show shop", "the newest backup"),
        ("pgkeep show shop 20260115T0600", "the one whose id begins so"),
    ),
    "restore": (
        ("pgkeep restore shop --target env:EMPTY_DATABASE_URL --identity KEY", "the newest backup"),
        (
            "pgkeep restore shop --to '2026-01-15 12:00:00+00:00' --target env:EMPTY_DATABASE_URL"
            " --identity KEY",
            "to a second",
        ),
        (
            "pgkeep restore shop --table public.orders --into-schema recovered --target env:LIVE"
            " --identity KEY",
            "one table, beside the live one",
        ),
    ),
    "export": (
        ("pgkeep export shop -o dump.sql.gz --identity KEY", "everything"),
        ("pgkeep export shop -o - --table public.orders --identity KEY", "one table, to a pipe"),
    ),
    "files": (
        ("pgkeep files shop --identity KEY", "which there are"),
        ("pgkeep files shop 'avatars/*' --to-folder ./back --identity KEY", "some of them back"),
    ),
    "diff": (
        ("pgkeep diff --target env:LIVE", "after restore --into-schema recovered"),
        ("pgkeep diff --target env:LIVE --sql put-back.sql", "and SQL that puts rows back"),
    ),
    "capture": (
        ("pgkeep capture shop --dry-run", "what it makes in the database"),
        ("pgkeep capture shop", "until it is interrupted"),
        ("pgkeep capture shop --remove", "nothing of it stays in the database"),
    ),
    "status": (
        ("pgkeep status", "all databases"),
        ("pgkeep status shop --offline", "while the server is gone"),
    ),
    "drill": (
        ("pgkeep drill shop --identity KEY", "the newest backup, on a scratch server"),
        ("pgkeep drill shop --random-moment --identity KEY", "any second of the journal"),
    ),
    "recover": (
        ("pgkeep recover shop --in-place --dry-run", "the plan, and what is lost"),
        (
            "pgkeep recover shop --in-place --to '2026-01-15 12:00:00+00:00' --identity KEY",
            "the old database is kept under another name",
        ),
        (
            "pgkeep recover shop --in-place --to-last-reachable --identity KEY",
            "with all that the journal has",
        ),
        ("pgkeep recover shop --target env:EMPTY_DATABASE_URL --identity KEY", "somewhere else"),
    ),
    "runbook": (("pgkeep runbook shop -o runbook.html", "to print, and to keep elsewhere"),),
    "sync": (
        ("pgkeep sync", "after a repository was down, or is new"),
        ("pgkeep sync --dry-run", "what is missing where"),
    ),
    "verify": (
        ("pgkeep verify", "signatures and sizes: hardly a byte is read"),
        ("pgkeep verify --read 2GB", "and two gigabytes, those read longest ago"),
    ),
    "prune": (
        ("pgkeep prune --dry-run", "what would go, and why the rest stays"),
        ("pgkeep prune", "condemn, and delete what was condemned a day ago"),
    ),
    "reseal": (
        ("pgkeep reseal --dry-run --identity KEY", "what opens"),
        ("pgkeep reseal --identity KEY", "after encryption.recipients was changed"),
    ),
    "forget": (("pgkeep forget usb-disk", "it is gone for good"),),
    "policy": (
        ("pgkeep policy writer s3 > writer.json", "of the repository that is called s3"),
        ("pgkeep policy pruner gs://bucket/pgkeep", "of a URL"),
    ),
    "factor": (
        ("pgkeep factor enroll ada-phone", "an authenticator app"),
        ("pgkeep factor enroll ada-token --ssh-key ada-token.pub --verify-required", "FIDO2"),
        ("pgkeep factor list", "which there are"),
    ),
    "checklist": (
        ("pgkeep checklist", "what is due, and what ticks it"),
        ("pgkeep checklist --sign team --name 'Ada Lovelace'", "what only a person can do"),
    ),
    "audit": (
        ("pgkeep audit", "this month, into this folder"),
        ("pgkeep audit shop --month 2026-10 -o reports", "one database, one month"),
    ),
    "schedule": (
        ("pgkeep schedule", "what is next"),
        ("pgkeep schedule --cron", "lines for a crontab"),
        ("pgkeep schedule --systemd --output units", "services and timers, as files"),
    ),
    "run": (
        ("pgkeep run", "in the foreground, for systemd or a container"),
        ("pgkeep run --metrics 127.0.0.1:9187", "Prometheus may ask too"),
        ("pgkeep run --test-notify", "does everybody hear of it?"),
    ),
    "ledger": (
        ("pgkeep ledger --last 50", "who did what"),
        ("pgkeep ledger --verify", "nobody has altered it"),
    ),
}


def epilog(command: str) -> Text:
    """The examples of a command as the end of its help: text of rich, which keeps its lines."""
    text = Text("Examples:")
    for typed, what in EXAMPLES[command]:
        text.append(f"\n{what}:\n", style="dim")
        text.append(f"  {typed}", style="bold")
    return text
