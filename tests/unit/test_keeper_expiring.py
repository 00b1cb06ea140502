"""Certificates that run out are seen before they do."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from pgkeep.config import parse
from pgkeep.keeper.expiring import Expiring

NOW = datetime(2026, 1, 15, 7, tzinfo=UTC)
CONFIG = parse(
    {
        "databases": {
            "shop": {"url": "postgresql://u:p@db.example.com:6000/shop"},
            "here": {"url": "postgresql://u:p@127.0.0.1/shop"},
            "broken": {"url": {"env": "NO_SUCH_VARIABLE_AT_ALL"}},
        },
        "repositories": {
            "s3": {"url": "s3://b", "endpoint": "https://store.example.com"},
            "local": {"url": "file:///b"},
            "plain": {"url": "s3://b", "endpoint": "http://127.0.0.1:9000"},
        },
    }
)


def test_servers_elsewhere_are_asked_and_remembered_for_most_of_a_day() -> None:
    asked: list[tuple[str, int, bool]] = []

    def ask(host: str, port: int, is_postgres: bool) -> date | None:
        asked.append((host, port, is_postgres))
        return date(2026, 2, 1) if is_postgres else None

    expiring = Expiring(CONFIG, ask)
    expected = {"the certificate of database shop (db.example.com)": date(2026, 2, 1)}
    assert expiring.look(NOW) == expected
    assert asked == [("db.example.com", 6000, True), ("store.example.com", 443, False)]
    assert expiring.look(NOW + timedelta(hours=19)) == expected
    assert len(asked) == 2
    expiring.look(NOW + timedelta(hours=21))
    expiring.look(NOW - timedelta(days=1))  # a clock that was put back
    assert len(asked) == 6
