"""Schema changes as the journal tells them, and which of them may be done again elsewhere. Pure.

An event trigger writes each as a logical message in the transaction that made it. To do one again
is safe only where its words alone decide what it does: plain statements, whose result depends
neither on the clock nor on rows.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from itertools import groupby
from typing import Any

from pgkeep.errors import JournalInvalid

PREFIX = "pgkeep.ddl"
"""Of the logical messages that tell of schema changes."""

OWN_SCHEMA = "pgkeep"
"""Where capture keeps its function; nothing in it is part of anybody's database."""

# Of these, which are in no schema, we make several.
_OWN_KINDS = ("event trigger", "publication")


LONGEST_QUERY = 1_000_000
"""What is longer is cut off there, in characters."""


@dataclass(frozen=True, slots=True)
class ChangedObject:
    """Something that a statement made, altered or dropped."""

    type: str
    schema: str
    identity: str
    in_extension: bool = False

    @property
    def is_own(self) -> bool:
        if self.type in _OWN_KINDS:
            return self.identity.startswith(f"{OWN_SCHEMA}_")
        return OWN_SCHEMA in (self.schema, self.identity)

    @property
    def is_temporary(self) -> bool:
        return self.schema.startswith("pg_temp")


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One event: the statement that caused it, and under which role and search path it ran."""

    tag: str
    query: str
    role: str = ""
    search_path: str = ""
    objects: tuple[ChangedObject, ...] = ()
    rewrites: bool = False
    """Whether it wrote a table anew."""
    continues: bool = False
    """Whether an earlier event of the transaction had the text."""
    nested: bool = False
    """Whether more than one command came of what the client sent: a function, a DO block, or many
    statements at once."""
    fits: bool = True
    """Whether it is of the very statement whose turn it is in a text of plain ones."""
    number: int = 1
    """Which of its statement's events it is."""
    event: str = ""
    """The event trigger's; or what capture told itself: `noticed`, `not_published`."""
    at: str = ""
    """The server's clock when it was done, in ISO form."""
    settings: tuple[tuple[str, str], ...] = ()
    """Those of the session on which the meaning of constants depends."""

    def __str__(self) -> str:
        if self.event == "noticed":
            return "a schema change of which no statement was seen"
        names = ", ".join(one.identity for one in self.objects[:2])
        return (
            f"{self.tag}{f' ({names})' if names else ''}{f' by {self.role}' if self.role else ''}"
        )


# A statement tells of rewritten tables first, then of what it dropped, then of what it made.
_ORDER = {"table_rewrite": 0, "sql_drop": 1, "ddl_command_end": 2}


class ChangeReader:
    """Schema changes out of the messages of one transaction, in order. Make one for each.

    The text of what a client sent is in the first message only; those that follow without one are
    of the same statement, or of another that came of the same text.

    A text is done again as a whole: so each of its statements must have been told of, in order,
    and nothing between them. What nobody told of was done to a temporary table, or to something
    outside of the database; what comes in addition was done by somebody's own event trigger.
    """

    def __init__(self) -> None:
        self._last: SchemaChange | None = None
        self._left: deque[_Plain] = deque()
        """What the last text has, and was not told of yet."""

    def take(self, content: bytes) -> SchemaChange:
        """The change that a message tells of; `JournalInvalid` if it cannot be read."""
        try:
            document = json.loads(content)
            change = SchemaChange(
                tag=str(document["tag"]),
                query=str(document.get("query") or ""),
                role=str(document.get("role") or ""),
                search_path=str(document.get("search_path") or ""),
                objects=tuple(_object(one) for one in document.get("objects") or ()),
                rewrites=document["event"] == "table_rewrite",
                event=str(document["event"]),
                at=str(document.get("at") or ""),
                settings=tuple(
                    (str(name), str(value))
                    for name, value in (document.get("settings") or {}).items()
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise JournalInvalid("the journal holds a schema change that cannot be read") from exc
        before = self.untold()
        if document.get("query") is None:
            change = self._continued(change)
        else:
            self._left = deque(_plain_statements(change.query))
            change = replace(change, fits=before is None)
        if not change.role:  # done in the name of somebody else, by a function perhaps
            change = replace(change, nested=True)
        if change.event in _ORDER:
            if change.number == 1:
                change = replace(change, fits=change.fits and self._is_next(change.tag))
            self._last = change
        return change

    def untold(self) -> SchemaChange | None:
        """The last change, as one that does not fit, if more of its text should have been told."""
        if self._last is None or all(one.may_do_nothing for one in self._left):
            return None
        return replace(self._last, fits=False)

    def _is_next(self, tag: str) -> bool:
        while self._left:
            statement = self._left.popleft()
            if statement.tag == tag:
                return True
            if not statement.may_do_nothing:
                return False
        return False

    def _continued(self, change: SchemaChange) -> SchemaChange:
        last, change = self._last, replace(change, continues=True)
        if last is None:
            return change
        place, before = _ORDER.get(change.event, 0), _ORDER.get(last.event, 0)
        same = change.tag == last.tag and (before < place or before == place == 0)
        number = last.number + 1 if same else 1
        return replace(change, query=last.query, number=number, nested=last.nested or not same)


def _object(document: dict[str, Any]) -> ChangedObject:
    return ChangedObject(
        str(document.get("type") or ""),
        str(document.get("schema") or ""),
        str(document.get("identity") or document.get("table") or ""),
        bool(document.get("in_extension")),
    )


# --- what to do with one ----------------------------------------------------------------------


class Treatment(Enum):
    """What replay does when it meets a change."""

    IGNORE = "ignore"
    """It concerns nothing that is restored, or is done at the end anyway."""
    RUN = "run"
    """All that the client sent is done again."""
    DONE = "done"
    """It was, when its first event was met."""
    STOP = "stop"


NOT_ROWS = ("COMMENT", "GRANT", "REVOKE", "ALTER DEFAULT PRIVILEGES")
_VERBS = ("CREATE", "ALTER", "DROP")
_KINDS = frozenset(
    {
        "TABLE", "INDEX", "VIEW", "SCHEMA", "SEQUENCE", "FUNCTION", "PROCEDURE", "ROUTINE", "TYPE",
        "DOMAIN", "TRIGGER", "POLICY", "RULE", "AGGREGATE", "OPERATOR", "COLLATION", "CONVERSION",
        "STATISTICS", "CAST",
    }
)  # fmt: skip
_TAGS = (*NOT_ROWS, *(f"{verb} {kind}" for verb in _VERBS for kind in sorted(_KINDS)))
_BEGINS = ("BEGIN", "BEGIN TRANSACTION", "BEGIN WORK", "START TRANSACTION")
_ENDS = ("COMMIT", "COMMIT TRANSACTION", "COMMIT WORK", "END", "END TRANSACTION")
# Words that may stand between CREATE and the kind of what is created.
_BETWEEN = frozenset({"OR", "REPLACE", "UNIQUE", "RECURSIVE", "CONSTRAINT", "UNLOGGED"})
_MATVIEW = "materialized view"
_CLOCK = re.compile("now|today|tomorrow|yesterday", re.IGNORECASE)
# What may stand after the constant of a column's default: the next part, or a constraint.
_AFTER_DEFAULT = frozenset(
    {",", "NOT", "NULL", "CHECK", "CONSTRAINT", "UNIQUE", "PRIMARY", "REFERENCES", "COLLATE"}
)
_LITERAL_WORDS = frozenset({"TRUE", "FALSE", "NULL"})


def treatment(change: SchemaChange) -> Treatment:
    """Whether a change can be done again: only if nothing but its words decides what it does."""
    objects = change.objects
    if change.event in ("noticed", "not_published"):
        return Treatment.STOP
    if objects and all(one.is_own or one.is_temporary for one in objects):
        return Treatment.IGNORE
    if change.tag == "REFRESH MATERIALIZED VIEW":
        return Treatment.IGNORE  # all of them are filled at the end
    if change.tag == "REVOKE" and not objects[1:] and f" {OWN_SCHEMA}." in change.query:
        return Treatment.IGNORE  # it names no object
    if change.tag.endswith(" PUBLICATION"):
        return _of_publication(change)
    if change.rewrites or any(one.in_extension or one.type == _MATVIEW for one in objects):
        return Treatment.STOP
    plain = _plain_statements(change.query)
    if not change.fits or all(change.tag != one.tag for one in plain):
        return Treatment.STOP
    if not change.nested:
        return Treatment.RUN
    return Treatment.DONE if change.continues and len(plain) > 1 else Treatment.STOP


def is_alone(change: SchemaChange) -> bool:
    """Whether the client sent just one statement."""
    return len(split(change.query)) == 1


@dataclass(frozen=True, slots=True)
class _Plain:
    """A statement that may be done again."""

    tag: str
    may_do_nothing: bool
    """With IF EXISTS or IF NOT EXISTS, so that perhaps no event tells of it."""


@lru_cache(maxsize=2)  # a text of a thousand statements has as many events
def _plain_statements(query: str) -> tuple[_Plain, ...]:
    """The statements of a text that may be done again as a whole; none of any other."""
    if len(query) >= LONGEST_QUERY:
        return ()
    found = []
    for words in _without_transaction(split(query)):
        tag = _tag_of(words)
        if tag is None:
            return ()
        has_if = "IF" in (word.upper() for word in words[:6])
        found.append(_Plain(tag, has_if and not _may_mean_temporary(tag)))
    return tuple(found)


def _may_mean_temporary(tag: str) -> bool:
    """Whether a name may mean a temporary relation that hides a lasting one: no event tells."""
    verb, _, kind = tag.partition(" ")
    return verb != "CREATE" and kind in ("TABLE", "VIEW", "SEQUENCE", "INDEX", "TYPE")


def _without_transaction(statements: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """Without a BEGIN and a COMMIT around them."""
    if len(statements) > 1 and _is_in(statements[0], _BEGINS) and _is_in(statements[-1], _ENDS):
        return statements[1:-1]
    return statements


def _is_in(tokens: Sequence[str], known: Collection[str]) -> bool:
    return " ".join(tokens).upper() in known


def _of_publication(change: SchemaChange) -> Treatment:
    """No row depends on one, and capture changes its own while it follows the tables."""
    statements = split(change.query)
    plain = len(statements) == 1 and _begins_with(statements[0], change.tag)
    is_own = OWN_SCHEMA in change.query
    return Treatment.RUN if plain and not is_own and not change.nested else Treatment.IGNORE


def _tag_of(tokens: Sequence[str]) -> str | None:
    """The command tag of a statement that may be done again."""
    for tag in _TAGS:
        if _begins_with(tokens, tag):
            return None if _depends_on_more(tokens, tag) else tag
    return None


def _begins_with(tokens: Sequence[str], tag: str) -> bool:
    words = [token.upper() for token in tokens[:10]]
    if words[0] == "CREATE":
        while len(words) > 1 and words[1] in _BETWEEN:
            del words[1]
    wanted = tag.split()
    return words[: len(wanted)] == wanted


def _depends_on_more(tokens: Sequence[str], tag: str) -> bool:
    """Whether a statement fills something with rows, or a new column with more than a constant,
    or cannot be told apart from what follows it."""
    words = [token.upper() for token in tokens]
    if tag == "CREATE TABLE":
        return "AS" in words and "SELECT" in words
    if tag in ("CREATE FUNCTION", "CREATE PROCEDURE"):
        return "ATOMIC" in words  # the END of its body looks like that of a transaction
    if tag == "CREATE SCHEMA":
        return any(word in _VERBS for word in words[1:])
    if tag == "ALTER TABLE" and "ADD" in words:
        return not all(
            _is_constant(tokens[at + 1 :])
            for at, word in enumerate(words)
            if word == "DEFAULT" and words[at - 1] not in ("SET", "BY")
        )
    return False


def _is_constant(tokens: Sequence[str]) -> bool:
    """Whether what a DEFAULT is followed by is a constant, perhaps with its type, and no more."""
    rest = list(tokens[::-1])
    if rest and rest[-1] in ("-", "+"):
        rest.pop()
    if not rest or not _is_literal(rest.pop()):
        return False
    while rest[-2:] == [":", ":"]:
        del rest[-2:]
        while rest and _is_of_a_type(rest[-1]):
            rest.pop()
    return not rest or rest[-1].upper() in _AFTER_DEFAULT


def _is_literal(word: str) -> bool:
    if word[:1] == "'":
        return _CLOCK.search(word) is None
    return word.upper() in _LITERAL_WORDS or word[:1].isdigit()


def _is_of_a_type(word: str) -> bool:
    if word.upper() in _AFTER_DEFAULT:
        return False
    return word[:1].isalnum() or word[:1] in ('"', "_", ".", "[", "]")


# --- words --------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n\r]*)
      | (?P<comment>/\*)
      | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
      | (?P<string>'(?:[^']|'')*')
      | (?P<identifier>"(?:[^"]|"")*")
      | (?P<dollar>\$(?:[A-Za-z_\u0080-\uffff][A-Za-z0-9_\u0080-\uffff]*)?\$)
      | (?P<word>[A-Za-z_\u0080-\uffff][A-Za-z0-9_$\u0080-\uffff]*)
      | (?P<number>\d[\w.]*)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


@lru_cache(maxsize=2)
def split(text: str) -> tuple[tuple[str, ...], ...]:
    """The statements of a text, each as its tokens: words, constants, quoted names, signs.

    A body of its own language (BEGIN ATOMIC) falls apart: its semicolons look like ours.
    `ValueError` never: what is not closed ends with the text.
    """
    groups = groupby(_tokens(text), key=";".__eq__)
    return tuple(tuple(tokens) for is_end, tokens in groups if not is_end)


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None  # `other` matches anything
        start, at = at, match.end()
        if match.lastgroup == "comment":
            at = _end_of_comment(text, at)
        elif match.lastgroup == "dollar":
            end = text.find(match[0], at)
            at = len(text) if end < 0 else end + len(match[0])
            yield text[start:at]
        elif match.lastgroup != "space":
            yield match[0]


def _end_of_comment(text: str, at: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, at)
        if edge is None:
            return len(text)
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at
