"""What policies grant, in words that the providers understand."""

from __future__ import annotations

from typing import Any

import pytest

from pgkeep.repository.policies import Role, folder_advice, google_commands, s3_policy
from pgkeep.stores.remote import parse_place

PLACE = parse_place("s3://bucket/shops/daily")


def granted(role: Role, url: str = "s3://bucket/shops/daily") -> set[tuple[str, str]]:
    """Each action with each place where it is allowed."""
    policy: Any = s3_policy(role, parse_place(url))
    return {
        (action, resource.removeprefix("arn:aws:s3:::"))
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
        for action in statement["Action"]
        for resource in _listed(statement["Resource"])
    }


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def test_a_reader_may_list_and_get() -> None:
    assert granted(Role.READER) == {
        ("s3:ListBucket", "bucket"), ("s3:GetObject", "bucket/shops/daily/*"),
    }  # fmt: skip


def test_a_writer_may_put_and_nothing_that_takes_away() -> None:
    actions = {action for action, _ in granted(Role.WRITER)}
    assert ("s3:PutObject", "bucket/shops/daily/*") in granted(Role.WRITER)
    assert not [one for one in actions if "Delete" in one or one.startswith("s3:PutB")]


def test_a_pruner_deletes_no_key_and_puts_plans_alone() -> None:
    rights = granted(Role.PRUNER)
    where = {resource for action, resource in rights if action == "s3:DeleteObject"}
    assert where == {
        "bucket/shops/daily/objects/*", "bucket/shops/daily/condemned/*",
        "bucket/shops/daily/*/manifest.json", "bucket/shops/daily/*/manifest.json.sig",
    }  # fmt: skip
    assert [resource for action, resource in rights if action == "s3:PutObject"] == [
        "bucket/shops/daily/condemned/*"
    ]


@pytest.mark.parametrize("role", Role)
def test_what_harms_is_refused_whatever_else_is_granted(role: Role) -> None:
    policy: Any = s3_policy(role, PLACE)
    (never,) = [one for one in policy["Statement"] if one["Effect"] == "Deny"]
    assert never["Resource"] == ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]
    assert {"s3:DeleteObjectVersion", "s3:PutLifecycleConfiguration"} <= set(never["Action"])
    assert ("s3:DeleteObject" in never["Action"]) == (role is not Role.PRUNER)


def test_listings_are_for_the_folder_alone() -> None:
    policy: Any = s3_policy(Role.READER, PLACE)
    assert policy["Statement"][0]["Condition"] == {"StringLike": {"s3:prefix": "shops/daily/*"}}
    whole: Any = s3_policy(Role.READER, parse_place("s3://bucket"))
    assert "Condition" not in whole["Statement"][0]
    assert ("s3:GetObject", "bucket/*") in granted(Role.READER, "s3://bucket")


def test_commands_for_google_make_a_role_and_bind_it() -> None:
    make, bind = google_commands(Role.WRITER, parse_place("gs://bucket/shops"))
    assert make.startswith('gcloud iam roles create pgkeepWriter --project="$PROJECT"')
    assert "storage.objects.create" in make
    assert "storage.objects.delete" not in make
    assert "gs://bucket --member" in bind
    assert (
        'resource.type == "storage.googleapis.com/Bucket" ||'
        ' resource.name.startsWith("projects/_/buckets/bucket/objects/shops/")'
    ) in bind
    _, bind = google_commands(Role.READER, parse_place("gs://bucket"))
    assert "--condition" not in bind


def test_a_pruner_of_google_creates_plans_alone() -> None:
    make, _, plans = google_commands(Role.PRUNER, parse_place("gs://bucket/shops"))
    assert "storage.objects.create" not in make
    assert 'role="roles/storage.objectCreator"' in plans
    assert 'startsWith("projects/_/buckets/bucket/objects/shops/condemned/")' in plans
    assert "storage.googleapis.com/Bucket" not in plans


@pytest.mark.parametrize("role", Role)
def test_a_folder_has_no_such_rights_and_that_is_said(role: Role) -> None:
    assert any(line.startswith("/backups: ") for line in folder_advice(role, "/backups"))
