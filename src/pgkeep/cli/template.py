"""The repositories in a new configuration: those that were asked for, and the rest as comments.

In the order of their roles: S3 first, Google second, the schema also in Supabase Storage, and a
folder on this machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pgkeep.errors import UsageError
from pgkeep.model import Kind

_PLACE = re.compile(r"([a-z0-9]+)/([A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class _Role:
    """A kind of repository, and what is said of it in a configuration."""

    name: str
    scheme: str
    what: str
    template: tuple[str, ...]
    """Settings that somebody may want, as comments below an active section too."""
    url: str
    """For where none was given."""


_S3 = _Role(
    "s3",
    "s3",
    "Amazon S3, or what speaks its protocol: the first copy, best in a bucket with versions and a"
    " lock.",
    (
        'region = "eu-central-1"',
        'access_key_id = { env = "BACKUP_KEY_ID" }  # not set: what the AWS SDK finds',
        'secret_access_key = { env = "BACKUP_SECRET" }',
        "required = true  # a backup fails without it",
    ),
    "s3://BUCKET/pgkeep",
)
_GOOGLE = _Role(
    "google",
    "gs",
    "Google Cloud Storage: the second copy, at another provider.",
    ('credentials_file = "/etc/pgkeep/google.json"  # not set: what the Google SDK finds',),
    "gs://BUCKET/pgkeep",
)
_LOCAL = _Role(
    "local",
    "file",
    "A folder here: quick to restore from, filed by day, week, month and schema.",
    (),
    "file:///backups",
)
_SUPABASE = "Supabase Storage: the schema too, in another project than the one that is backed up."


@dataclass(frozen=True, slots=True)
class SupabaseCopy:
    """A bucket in the storage of a Supabase project."""

    project: str
    bucket: str

    @classmethod
    def parse(cls, text: str) -> SupabaseCopy:
        """From `PROJECT/BUCKET`; `UsageError` if it is not that."""
        found = _PLACE.fullmatch(text)
        if found is None:
            raise UsageError(
                f"{text!r} is not PROJECT/BUCKET",
                hint="PROJECT is the reference in the project's URL: https://PROJECT.supabase.co",
            )
        return cls(found[1], found[2])

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/pgkeep"

    @property
    def settings(self) -> tuple[str, ...]:
        """All that its section needs."""
        return (
            f"url = {toml(self.url)}",
            f'endpoint = "https://{self.project}.storage.supabase.co/storage/v1/s3"',
            'region = "eu-central-1"  # the project\'s',
            'access_key_id = { env = "STORAGE_KEY_ID" }',
            'secret_access_key = { env = "STORAGE_SECRET" }',
            f"kinds = [{toml(Kind.SCHEMA)}]",
        )


def named(urls: Sequence[str]) -> dict[str, str]:
    """A name for each URL: that of its role, with a number where one comes again."""
    roles = {role.scheme: role.name for role in (_S3, _GOOGLE, _LOCAL)}
    found: dict[str, str] = {}
    for url in urls:
        name = roles.get(url.partition("://")[0], "local")
        number = sum(known.partition("-")[0] == name for known in found) + 1
        found[name if number == 1 else f"{name}-{number}"] = url
    return found


def repository_sections(urls: Sequence[str], supabase: SupabaseCopy | None) -> str:
    """The sections of all roles in their order; those that nobody asked for as comments."""
    names = named(urls)
    parts = [*_sections(_S3, names), *_sections(_GOOGLE, names)]
    copy = supabase or SupabaseCopy("PROJECT", "BUCKET")
    lines = ("[repositories.supabase]", *copy.settings)
    parts.append(_text(_SUPABASE, lines if supabase else _commented(lines)))
    return "\n".join([*parts, *_sections(_LOCAL, names)])


def _sections(role: _Role, names: dict[str, str]) -> Iterator[str]:
    own = [name for name in names if name.partition("-")[0] == role.name]
    for name in own:
        section = (f"[repositories.{name}]", f"url = {toml(names[name])}")
        yield _text(role.what, (*section, *_commented(role.template)))
    if not own:
        section = (f"[repositories.{role.name}]", f"url = {toml(role.url)}")
        yield _text(role.what, _commented((*section, *role.template)))


def _commented(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"#{line}" for line in lines)


def _text(what: str, lines: Sequence[str]) -> str:
    return "\n".join((f"# {what}", *lines, ""))


def toml(text: str) -> str:
    """A basic string of TOML."""
    return json.dumps(text, ensure_ascii=False)
