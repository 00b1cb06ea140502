"""What is written into the ledger of a command's options: everything but secrets."""

from __future__ import annotations

import pytest

from pgkeep.cli.recording import _details


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target", "postgresql://ada:geheim@db.example.com/shop"),
        ("target", "postgresql://ada@db.example.com/shop?password=geheim"),
        ("target", "host=db.example.com user=ada password=geheim dbname=shop"),
        ("repository_urls", ("s3://key:geheim@example.com/folder?token=geheim",)),
        ("other", "https://ada:geheim@example.com/"),
        ("target", "postgresql://ada:geheim@db.example.com:not-a-port/shop"),
    ],
)
def test_no_secret_is_on_record(name: str, value: object) -> None:
    found = _details({name: value})
    assert "geheim" not in found[name]
    assert "example.com" in found[name] or found[name] == "?"


def test_options_are_on_record_and_defaults_are_not() -> None:
    values = {"tables": ("public.a", "b"), "jobs": None, "dry_run": False, "backup": "2026",
              "as_json": True, "database": "shop", "reason": "why"}  # fmt: skip
    assert _details(values) == {"tables": "public.a, b", "backup": "2026"}
