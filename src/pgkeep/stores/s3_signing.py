"""Signing a PUT with a SHA-256 that is known already, instead of computing it once more.

The signature of S3 covers the SHA-256 of the body. An object is named by just that, so for objects
the name is taken at its word: a server that checks signatures refuses bytes that are others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth

from pgkeep.stores.remote import PacedBody

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSRequest
    from mypy_boto3_s3 import S3Client

_OURS = "pgkeep-s3v4"
_NAMED_BY_HASH = re.compile(r"objects/[0-9a-f]{2}/([0-9a-f]{64})")


def sha256_in(name: str) -> str | None:
    """The SHA-256 that an object's name says."""
    found = _NAMED_BY_HASH.fullmatch(name)
    return found[1] if found else None


def sign_by_name(client: S3Client) -> None:
    """From now on, what is known of a body is not computed; and it is sent in blocks."""
    events = client.meta.events
    events.register_first("choose-signer.s3.PutObject", _choose)  # type: ignore[arg-type]
    events.register("before-send.s3.PutObject", _begin_sending)


class _SignedByName(S3SigV4Auth):
    def payload(self, request: AWSRequest) -> str:
        body: object = request.body
        known = body.sha256 if isinstance(body, PacedBody) else None
        return known or str(super().payload(request))


AUTH_TYPE_MAPS[_OURS] = _SignedByName


def _choose(signature_version: object, signing_name: str, **_: object) -> str | None:
    """In the place of the usual signature; buckets that want another one get theirs."""
    usual = signature_version in ("v4", "s3v4") and signing_name == "s3"
    return _OURS if usual else None


def _begin_sending(request: AWSPreparedRequest, **_: object) -> None:
    """All is hashed and signed now."""
    body: object = request.body
    if isinstance(body, PacedBody):
        body.begin_sending()
