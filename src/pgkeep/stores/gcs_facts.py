"""What protects or threatens the objects in a bucket of Google Cloud Storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import Any, Protocol

from google.api_core.exceptions import Forbidden, GoogleAPICallError

from pgkeep.errors import StoreUnavailable
from pgkeep.stores.facts import (
    ExpiryRule,
    Retention,
    StoreFacts,
    Unknown,
    asked,
    prefixes_meet,
)
from pgkeep.stores.gcs_errors import SdkError, translated

_EVERYBODY = {"allUsers", "allAuthenticatedUsers"}


class _UniformAccess(Protocol):
    uniform_bucket_level_access_enabled: bool
    public_access_prevention: str


class _SoftDelete(Protocol):
    retention_duration_seconds: int | None


class BucketProperties(Protocol):
    """What is used of the SDK's type for a bucket."""

    versioning_enabled: bool
    retention_period: int | None
    retention_policy_locked: bool | None
    soft_delete_policy: _SoftDelete
    iam_configuration: _UniformAccess
    lifecycle_rules: Iterable[Mapping[str, Any]]

    def get_iam_policy(self, **options: object) -> Any: ...


def bucket_facts(ask: Callable[[], BucketProperties], prefix: str) -> StoreFacts:
    """The bucket's properties, and its policy; each needs a right of its own."""
    try:
        bucket = asked(ask, _passes)
    except SdkError as exc:
        why = _why(exc, "storage.buckets.get")
        return StoreFacts(
            versioning=why, expiry=why, public=why, soft_delete_seconds=why, retention=why,
            uniform_access=why,
        )  # fmt: skip
    return StoreFacts(
        versioning=bool(bucket.versioning_enabled),
        expiry=tuple(_expiry(bucket.lifecycle_rules, prefix)),
        public=_public(bucket),
        soft_delete_seconds=bucket.soft_delete_policy.retention_duration_seconds or None,
        retention=_retention(bucket),
        uniform_access=bool(bucket.iam_configuration.uniform_bucket_level_access_enabled),
    )


def _passes(error: Exception) -> bool:
    return isinstance(error, SdkError) and isinstance(translated(error, ""), StoreUnavailable)


def _retention(bucket: BucketProperties) -> Retention | None:
    if not bucket.retention_period:
        return None
    return Retention(int(bucket.retention_period), bool(bucket.retention_policy_locked))


def _public(bucket: BucketProperties) -> bool | Unknown:
    if bucket.iam_configuration.public_access_prevention == "enforced":
        return False
    try:
        policy = bucket.get_iam_policy(requested_policy_version=3, retry=None)
    except SdkError as exc:
        return _why(exc, "storage.buckets.getIamPolicy")
    return any(_EVERYBODY.intersection(binding["members"]) for binding in policy.bindings)


def _expiry(rules: Iterable[Mapping[str, Any]], prefix: str) -> Iterator[ExpiryRule]:
    for number, rule in enumerate(rules, 1):
        condition = rule.get("condition", {})
        if rule.get("action", {}).get("type") != "Delete" or not _takes_live(condition):
            continue
        for begin in condition.get("matchesPrefix") or [""]:
            if prefixes_meet(begin, prefix):
                yield ExpiryRule(f"rule {number}", begin, _days(condition), _day(condition))


def _takes_live(condition: Mapping[str, Any]) -> bool:
    """Older versions are spare; a rule for those alone removes nothing that is in use."""
    only_old = {"numNewerVersions", "daysSinceNoncurrentTime", "noncurrentTimeBefore"}
    return condition.get("isLive") is not False and not only_old.intersection(condition)


def _days(condition: Mapping[str, Any]) -> int | None:
    return int(condition["age"]) if "age" in condition else None


def _day(condition: Mapping[str, Any]) -> date | None:
    value = condition.get("createdBefore")
    return date.fromisoformat(str(value)) if value else None


def _why(error: Exception, right: str) -> Unknown:
    if isinstance(error, Forbidden):
        return Unknown(f"access denied: it needs {right}")
    if isinstance(error, GoogleAPICallError):
        return Unknown(f"the server answered {error.code}")
    return Unknown(f"{type(error).__name__} in the Google SDK")
