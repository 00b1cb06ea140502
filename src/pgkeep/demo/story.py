"""What the demonstration does to its server: the shop, the disaster, and what people notice."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import psycopg

SHOP, WRECK, RESTORED = "shop", "shop_wrecked", "shop_restored"

# What the owner of the shop would look at. A question may fail after the disaster: its table is
# gone.
QUESTIONS: tuple[tuple[str, str], ...] = (
    ("customers", "SELECT count(*) FROM customers"),
    ("products with a price", "SELECT count(*) FROM products WHERE price > 0"),
    ("items ordered", "SELECT count(*) FROM order_items"),
    ("entries in the audit log", "SELECT count(*) FROM audit_log"),
    ("large objects", "SELECT count(*) FROM pg_largeobject_metadata"),
)

DATABASE_SIZE = "SELECT pg_database_size(current_database())"


def script(name: str) -> str:
    """One of the demonstration's SQL files."""
    return (files("pgkeep.demo") / name).read_text(encoding="utf-8")


def run_script(url: str, name: str) -> None:
    """Run one of them."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script(name).encode())


def ask(url: str) -> dict[str, str]:
    """The answers to the owner's questions now."""
    answers = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for label, query in QUESTIONS:
            try:
                row = connection.execute(query.encode()).fetchone()
                answers[label] = f"{row[0]:,}" if row else "?"
            except psycopg.errors.UndefinedTable:
                answers[label] = "gone"
    return answers


def database_bytes(url: str) -> int:
    """How large the database is."""
    with psycopg.connect(url) as connection:
        row = connection.execute(DATABASE_SIZE).fetchone()
    return int(row[0]) if row else 0


def swap(admin_url: str) -> None:
    """Put the restored database in the place of the wrecked one, which is kept."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {SHOP} RENAME TO {WRECK}".encode())
        connection.execute(f"ALTER DATABASE {RESTORED} RENAME TO {SHOP}".encode())


def files_that_contain(folder: Path, text: str) -> tuple[int, int]:
    """(how many files hold the text, how many files there are)."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sum(text.encode() in path.read_bytes() for path in found), len(found)
