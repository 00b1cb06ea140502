"""What protects or threatens the objects in a bucket of S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError

from pgkeep.errors import StoreUnavailable
from pgkeep.stores.facts import (
    ExpiryRule,
    ObjectLock,
    StoreFacts,
    Unknown,
    asked,
    prefixes_meet,
)
from pgkeep.stores.s3_errors import SdkError, code_of, status_of, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import LifecycleRuleOutputTypeDef

T = TypeVar("T")

_EVERYBODY = (
    "http://acs.amazonaws.com/groups/global/AllUsers",
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers",
)


def bucket_facts(client: S3Client, bucket: str, prefix: str) -> StoreFacts:
    """Ask for each fact on its own: what one right or server lacks hides no other."""
    return StoreFacts(
        versioning=_learned(lambda: _versioning(client, bucket)),
        object_lock=_learned(
            lambda: _object_lock(client, bucket),
            absent={"ObjectLockConfigurationNotFoundError": None},
        ),
        expiry=_learned(
            lambda: tuple(_expiry(client, bucket, prefix)),
            absent={"NoSuchLifecycleConfiguration": ()},
        ),
        public=_learned(lambda: _public(client, bucket)),
    )


class _NoAnswer(Exception):
    """The server answered something else than what was asked."""


def _learned(ask: Callable[[], T], absent: Mapping[str, T] | None = None) -> T | Unknown:
    try:
        return asked(ask, _passes)
    except ClientError as exc:
        code, status = code_of(exc), status_of(exc)
        if absent and code in absent:
            return absent[code]
        if status in (401, 403):
            return Unknown("access denied")
        if status == 501 or code in ("NotImplemented", "MethodNotAllowed"):
            return Unknown("not implemented by the server")
        return Unknown(f"the server answered {status} {code}")
    except _NoAnswer:
        return Unknown("not implemented by the server")
    except SdkError as exc:
        return Unknown(f"{type(exc).__name__} in the AWS SDK")


def _passes(error: Exception) -> bool:
    return isinstance(error, SdkError) and isinstance(translated(error, ""), StoreUnavailable)


def _versioning(client: S3Client, bucket: str) -> bool:
    return client.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled"


def _object_lock(client: S3Client, bucket: str) -> ObjectLock | None:
    answer = client.get_object_lock_configuration(Bucket=bucket)
    if "ObjectLockConfiguration" not in answer:
        raise _NoAnswer
    configuration = answer["ObjectLockConfiguration"]
    if configuration.get("ObjectLockEnabled") != "Enabled":
        return None
    default = configuration.get("Rule", {}).get("DefaultRetention", {})
    days = default.get("Days", 0) + 365 * default.get("Years", 0)
    return ObjectLock(default.get("Mode", ""), days)


def _expiry(client: S3Client, bucket: str, prefix: str) -> Iterator[ExpiryRule]:
    answer = client.get_bucket_lifecycle_configuration(Bucket=bucket)
    if "Rules" not in answer:
        raise _NoAnswer
    for rule in answer["Rules"]:
        expiration = rule.get("Expiration", {})
        days, on = expiration.get("Days"), expiration.get("Date")
        begin = _rule_prefix(rule)
        if rule["Status"] == "Enabled" and (days or on) and begin is not None:
            if not prefixes_meet(begin, prefix):
                continue
            day = on.date() if isinstance(on, datetime) else None
            yield ExpiryRule(rule.get("ID", ""), begin, days, day)


def _rule_prefix(rule: LifecycleRuleOutputTypeDef) -> str | None:
    """What keys begin with; `None` if the rule is for tagged objects only, which ours are not."""
    chosen: Mapping[str, Any] = rule.get("Filter", {})
    both: Mapping[str, Any] = chosen.get("And", {})
    if "Tag" in chosen or both.get("Tags"):
        return None
    return str(both.get("Prefix") or chosen.get("Prefix") or rule.get("Prefix") or "")


def _public(client: S3Client, bucket: str) -> bool:
    """By the policy or by the access list, unless all of that is blocked."""
    blocked = _blocked(client, bucket)
    if not blocked.get("RestrictPublicBuckets") and _policy_is_public(client, bucket):
        return True
    if blocked.get("IgnorePublicAcls"):
        return False
    answer = client.get_bucket_acl(Bucket=bucket)
    if "Grants" not in answer:
        raise _NoAnswer
    return any(grant.get("Grantee", {}).get("URI") in _EVERYBODY for grant in answer["Grants"])


def _blocked(client: S3Client, bucket: str) -> Mapping[str, object]:
    try:
        answer = client.get_public_access_block(Bucket=bucket)
    except ClientError as exc:
        if code_of(exc) == "NoSuchPublicAccessBlockConfiguration":
            return {}
        raise
    return {**answer.get("PublicAccessBlockConfiguration", {})}


def _policy_is_public(client: S3Client, bucket: str) -> bool:
    try:
        answer = client.get_bucket_policy_status(Bucket=bucket)
    except ClientError as exc:
        if code_of(exc) == "NoSuchBucketPolicy":
            return False
        raise
    return bool(answer.get("PolicyStatus", {}).get("IsPublic", False))
