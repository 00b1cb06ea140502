"""What each store tells of itself, from real servers; what cannot be learned says why."""

from __future__ import annotations

import json
import stat
from datetime import date
from pathlib import Path

import pytest

from fault_proxy import Answer, FaultProxy
from object_servers import GcsServer, S3Server
from pgkeep.stores import LocalStore, StoreSettings, open_store
from pgkeep.stores import facts as facts_module
from pgkeep.stores.facts import (
    ELSEWHERE,
    ExpiryRule,
    ObjectLock,
    Retention,
    StoreFacts,
    Unknown,
)
from pgkeep.stores.gcs_facts import bucket_facts


def facts_of(server: S3Server, bucket: str, endpoint: str | None = None) -> StoreFacts:
    return open_store(f"s3://{bucket}/shop/backups", server.settings(endpoint=endpoint)).facts()


# --- S3 ---------------------------------------------------------------------------------------


def test_a_plain_bucket_protects_nothing(moto: S3Server) -> None:
    assert facts_of(moto, moto.new_bucket()) == StoreFacts(
        versioning=False, object_lock=None, expiry=(), public=False
    )


def test_versions_and_locks_are_seen(moto: S3Server) -> None:
    bucket = moto.new_bucket(object_lock=True)
    facts = facts_of(moto, bucket)
    assert (facts.versioning, facts.object_lock) == (True, ObjectLock())
    for period, days in (({"Days": 30}, 30), ({"Years": 2}, 730)):
        moto.client.put_object_lock_configuration(
            Bucket=bucket,
            ObjectLockConfiguration={
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", **period}},  # type: ignore[typeddict-item]
            },
        )
        assert facts_of(moto, bucket).object_lock == ObjectLock("GOVERNANCE", days)


def test_rules_that_would_remove_our_objects_are_seen_and_no_others(moto: S3Server) -> None:
    bucket = moto.new_bucket()
    moto.client.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {"ID": "all", "Status": "Enabled", "Filter": {}, "Expiration": {"Days": 30}},
                {"ID": "off", "Status": "Disabled", "Filter": {}, "Expiration": {"Days": 1}},
                {"ID": "above", "Status": "Enabled", "Filter": {"Prefix": "shop/"},
                 "Expiration": {"Days": 90}},
                {"ID": "below", "Status": "Enabled", "Filter": {"Prefix": "shop/backups/objects/"},
                 "Expiration": {"Date": "2030-01-01T00:00:00Z"}},
                {"ID": "beside", "Status": "Enabled", "Filter": {"Prefix": "logs/"},
                 "Expiration": {"Days": 2}},
                {"ID": "tagged", "Status": "Enabled",
                 "Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Expiration": {"Days": 3}},
                {"ID": "old", "Status": "Enabled", "Filter": {},
                 "NoncurrentVersionExpiration": {"NoncurrentDays": 60}},
            ]
        },
    )  # fmt: skip
    assert facts_of(moto, bucket).expiry == (
        ExpiryRule("all", "", 30),
        ExpiryRule("above", "shop/", 90),
        ExpiryRule("below", "shop/backups/objects/", None, date(2030, 1, 1)),
    )


def test_a_bucket_that_strangers_may_read_is_seen(moto: S3Server) -> None:
    bucket = moto.new_bucket()
    moto.client.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert facts_of(moto, bucket).public is True
    moto.client.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={"IgnorePublicAcls": True, "RestrictPublicBuckets": True},
    )
    assert facts_of(moto, bucket).public is False


def test_a_policy_that_lets_strangers_in_is_seen(moto: S3Server) -> None:
    bucket = moto.new_bucket()
    statement = {
        "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }  # fmt: skip
    moto.client.put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    assert facts_of(moto, bucket).public is True


def test_what_a_server_does_not_know_is_unknown(rclone: S3Server) -> None:
    facts = facts_of(rclone, rclone.new_bucket())
    assert facts.expiry == facts.public == Unknown("not implemented by the server")
    assert (facts.versioning, facts.object_lock) == (False, None)
    assert facts.free_bytes == ELSEWHERE


def test_what_may_not_be_asked_is_unknown(moto: S3Server) -> None:
    with FaultProxy(moto.endpoint) as proxy:
        for question in ("versioning", "lifecycle", "publicAccessBlock", "object-lock"):
            proxy.on(Answer(403), match=f"*[?]{question}*")
        facts = facts_of(moto, moto.new_bucket(), endpoint=proxy.endpoint)
    denied = Unknown("access denied")
    assert facts == StoreFacts(versioning=denied, object_lock=denied, expiry=denied, public=denied)


def test_a_lock_that_is_not_told_for_a_moment_is_no_missing_lock(
    moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts_module, "_PAUSES_SECONDS", (0, 0))
    bucket = moto.new_bucket(object_lock=True)
    with FaultProxy(moto.endpoint) as proxy:
        proxy.on(Answer(503), match="*[?]object-lock*", times=2)
        assert facts_of(moto, bucket, endpoint=proxy.endpoint).object_lock == ObjectLock()
        proxy.on(Answer(503), match="*[?]object-lock*")
        facts = facts_of(moto, bucket, endpoint=proxy.endpoint)
    assert facts.object_lock == Unknown("the server answered 503 503")


# --- Google Cloud Storage -----------------------------------------------------------------------


def test_a_bucket_of_google_tells_what_its_server_knows(
    gcs: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint)
    bucket = gcs.new_bucket()
    facts = open_store(f"gs://{bucket}/shop", StoreSettings(lock_folder=tmp_path)).facts()
    assert facts.versioning is False
    assert facts.expiry == ()
    assert facts.retention is None
    assert facts.object_lock == ELSEWHERE


def test_a_bucket_of_google_that_may_not_be_looked_at_says_which_right_is_missing(
    gcs: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = gcs.new_bucket()
    with FaultProxy(gcs.endpoint) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.endpoint)
        proxy.on(Answer(403), match=f"*/b/{bucket}[?]*")
        facts = open_store(f"gs://{bucket}/shop").facts()
    why = Unknown("access denied: it needs storage.buckets.get")
    assert (facts.versioning, facts.soft_delete_seconds, facts.public) == (why, why, why)


def test_the_properties_of_a_bucket_of_google_are_read_as_its_api_gives_them(
    gcs: GcsServer,
) -> None:
    """The emulator keeps few properties: here the SDK's own type holds what the API documents."""
    from google.cloud.storage import Bucket

    bucket = Bucket(gcs.client, "example")
    bucket._set_properties(
        {
            "versioning": {"enabled": True},
            "softDeletePolicy": {"retentionDurationSeconds": "604800"},
            "retentionPolicy": {"retentionPeriod": "86400", "isLocked": True},
            "iamConfiguration": {
                "publicAccessPrevention": "enforced",
                "uniformBucketLevelAccess": {"enabled": True},
            },
            "lifecycle": {
                "rule": [
                    {"action": {"type": "Delete"}, "condition": {"age": 30}},
                    {"action": {"type": "Delete"},
                     "condition": {"age": 9, "matchesPrefix": ["shop/objects/", "logs/"]}},
                    {"action": {"type": "Delete"}, "condition": {"createdBefore": "2026-01-31"}},
                    {"action": {"type": "Delete"}, "condition": {"age": 1, "isLive": False}},
                    {"action": {"type": "Delete"}, "condition": {"numNewerVersions": 3}},
                    {"action": {"type": "SetStorageClass", "storageClass": "COLDLINE"},
                     "condition": {"age": 2}},
                ]
            },
        }
    )  # fmt: skip
    assert bucket_facts(lambda: bucket, "shop/") == StoreFacts(
        versioning=True,
        soft_delete_seconds=604800,
        retention=Retention(86400, True),
        public=False,
        uniform_access=True,
        expiry=(
            ExpiryRule("rule 1", "", 30),
            ExpiryRule("rule 2", "shop/objects/", 9),
            ExpiryRule("rule 3", "", None, date(2026, 1, 31)),
        ),
    )


# --- a folder -----------------------------------------------------------------------------------


def test_a_folder_tells_its_room_and_mode(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "repository")
    gone = store.facts()
    assert gone.free_bytes == gone.mode == Unknown("no such file or directory")
    store.put("a", b"x")
    facts = store.facts()
    assert facts.mode == 0o700
    assert isinstance(facts.free_bytes, int)
    assert facts.free_bytes > 0
    assert facts.versioning == ELSEWHERE
    (tmp_path / "repository").chmod(0o755)
    assert facts != store.facts()
    assert stat.S_IMODE((tmp_path / "repository").stat().st_mode) == store.facts().mode
