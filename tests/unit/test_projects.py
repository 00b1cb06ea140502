"""Which project of Supabase a database or a copy is in."""

from __future__ import annotations

import pytest

from pgkeep.platforms.projects import (
    SameProject,
    project_of_database,
    project_of_storage,
    same_projects,
)

REF = "abcdefghijklmnopqrst"
OTHER = "zyxwvutsrqponmlkjihg"


@pytest.mark.parametrize(
    ("endpoint", "project"),
    [
        (f"https://{REF}.supabase.co/storage/v1/s3", REF),
        (f"https://{REF}.storage.supabase.co/storage/v1/s3", REF),
        (f"https://{REF.upper()}.storage.Supabase.co", REF),
        ("https://account.r2.cloudflarestorage.com", None),
        (f"https://{REF}.supabase.co.example.com", None),
        (None, None),
    ],
)
def test_the_project_of_a_storage_is_in_its_host(endpoint: str | None, project: str) -> None:
    assert project_of_storage(endpoint) == project


@pytest.mark.parametrize(
    ("host", "user", "project"),
    [
        (f"db.{REF}.supabase.co", "postgres", REF),
        ("aws-0-eu-central-1.pooler.supabase.com", f"postgres.{REF}", REF),
        ("aws-0-eu-central-1.pooler.supabase.com", f"backup_role.{REF}", REF),
        ("aws-0-eu-central-1.pooler.supabase.com", "postgres", None),
        ("db.example.com", f"postgres.{REF}", None),
        ("/tmp", "postgres", None),
    ],
)
def test_the_project_of_a_database_is_in_its_host_or_user(
    host: str, user: str, project: str | None
) -> None:
    assert project_of_database(host, user) == project


def test_only_a_copy_in_the_very_project_is_told() -> None:
    endpoints = {
        "near": f"https://{REF}.storage.supabase.co/storage/v1/s3",
        "far": f"https://{OTHER}.storage.supabase.co/storage/v1/s3",
        "s3": None,
    }
    databases = {"shop": (f"db.{REF}.supabase.co", "postgres"), "local": ("localhost", "me")}
    (found,) = same_projects(endpoints, databases)
    assert found == SameProject("near", "shop", REF)
    assert REF in found.what
