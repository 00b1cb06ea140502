"""The configuration that init writes: the roles of repositories, in order, and valid throughout."""

from __future__ import annotations

import tomllib

import pytest

from pgkeep.cli.template import SupabaseCopy, named, repository_sections, toml
from pgkeep.config import parse
from pgkeep.errors import UsageError
from pgkeep.model import Kind

ROLES = ["s3", "google", "supabase", "local"]


def active(text: str) -> list[str]:
    return list(parse(tomllib.loads(text)).repositories)


def uncommented(text: str) -> str:
    """With all that is only proposed."""
    return "\n".join(line[1:] if line[:1] == "#" != line[1:2] and line[1:2] != " " else line
                     for line in text.splitlines())  # fmt: skip


def test_only_what_was_asked_for_is_active() -> None:
    text = repository_sections(["file:///backups"], None)
    assert active(text) == ["local"]
    assert '[repositories.local]\nurl = "file:///backups"\n' in text


def test_what_is_proposed_is_a_valid_configuration_in_the_order_of_roles() -> None:
    text = uncommented(repository_sections(["file:///backups"], None))
    repositories = parse(tomllib.loads(text)).repositories
    assert list(repositories) == ROLES
    assert repositories["supabase"].kinds == (Kind.SCHEMA,)
    assert repositories["google"].url.startswith("gs://")
    assert repositories["s3"].required


def test_all_roles_can_be_asked_for() -> None:
    urls = ["file:///b", "gs://bucket/x", "s3://bucket/x"]
    text = repository_sections(urls, SupabaseCopy.parse("abcdefgh/copies"))
    assert active(text) == ROLES
    assert list(parse(tomllib.loads(uncommented(text))).repositories) == ROLES
    supabase = parse(tomllib.loads(text)).repositories["supabase"]
    assert supabase.endpoint == "https://abcdefgh.storage.supabase.co/storage/v1/s3"
    assert supabase.url == "s3://copies/pgkeep"
    assert not parse(tomllib.loads(text)).inline_secrets()


def test_two_of_a_kind_get_two_names() -> None:
    urls = ["s3://a", "file:///b", "s3://c"]
    assert named(urls) == {"s3": "s3://a", "local": "file:///b", "s3-2": "s3://c"}
    assert active(repository_sections(urls, None)) == ["s3", "s3-2", "local"]


@pytest.mark.parametrize("text", ["", "abc", "abc/", "/bucket", "a.b/c", "abc/de/f"])
def test_a_copy_in_supabase_is_a_project_and_a_bucket(text: str) -> None:
    with pytest.raises(UsageError, match="is not PROJECT/BUCKET"):
        SupabaseCopy.parse(text)


@pytest.mark.parametrize("text", ["", 'a"b', "a\\b", "a\nb", "ä\t"])
def test_strings_come_back_as_they_were(text: str) -> None:
    assert tomllib.loads(f"a = {toml(text)}") == {"a": text}
