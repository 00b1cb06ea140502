"""What a platform refused of a restore, in words that say what it means for the user. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pgkeep.postgres.archive import Entry


@dataclass(frozen=True, slots=True)
class Refused:
    """A statement that the target refused: for what, in whose words, and what follows."""

    what: str
    reason: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}. {self.meaning}"


_STRUCTURE = frozenset({"TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE", "TYPE", "DOMAIN",
                        "FUNCTION", "PROCEDURE", "AGGREGATE", "OPERATOR", "SCHEMA",
                        "FOREIGN TABLE"})  # fmt: skip
_FOREIGN = frozenset({"FOREIGN DATA WRAPPER", "SERVER", "USER MAPPING"})

_MEANINGS = {
    "EXTENSION": "What needs it is left out.",
    "TRIGGER": "It does not act in the target: make it by hand if the platform lets you.",
    "EVENT TRIGGER": "It does not act in the target.",
    "POLICY": "Who may see which rows differs from the source: make it in the dashboard.",
    "ROW SECURITY": "Whether policies count there is as the platform has it.",
    "ACL": "Privileges there are as the platform has them.",
    "DEFAULT ACL": "New objects get other privileges there than in the source.",
    "PUBLICATION": "Realtime or your subscribers do not get these changes.",
    "PUBLICATION TABLE": "Realtime or your subscribers do not get changes of this table.",
    "COMMENT": "Only the comment is missing.",
    "INDEX": "Queries work, some slower.",
    "CONSTRAINT": "The rows are there, unchecked.",
    "FK CONSTRAINT": "The rows are there, and nothing keeps them consistent from now on.",
    "DEFAULT": "New rows get no default there.",
    "SECURITY LABEL": "Only the label is missing.",
}
_OWNER = "It is there, and belongs to the role that restored it."


def meaning_of(entry: Entry | None, message: str) -> str:
    """What follows from a refusal for the restored database."""
    if entry is None:
        return "See the message."
    if "must be able to SET ROLE" in message or "must be member of role" in message:
        return _OWNER
    if entry.kind in _MEANINGS:
        return _MEANINGS[entry.kind]
    if entry.kind in _FOREIGN:
        return "Foreign tables that use it do not work, and what is built on them is not there."
    if entry.kind in _STRUCTURE:
        return "It is not as in the source, nor is what depends on it."
    return "It is not in the target."


def named(entry: Entry) -> str:
    """An entry in words: `trigger "users on_signup" in schema auth`."""
    where = f" in schema {entry.namespace}" if entry.namespace else ""
    tag = " ".join(entry.tag.splitlines())
    return f"{entry.kind.lower()} {tag}{where}"
