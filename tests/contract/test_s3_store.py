"""S3: the contract on two servers, what goes along with each PUT, what each answer means, locks."""

from __future__ import annotations

import stat
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import md5, sha256
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from fault_proxy import Answer, FaultProxy
from object_servers import SECRET_KEY, S3Server
from pgkeep.errors import (
    ConfigurationError,
    ObjectMissing,
    RepositoryLocked,
    StoreAccessDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from pgkeep.stores import Store, StoreSettings, open_store
from pgkeep.stores.remote import parse_place
from pgkeep.stores.s3 import S3Store
from pgkeep.stores.s3_errors import translated
from pgkeep.testing import StoreContract


class TestS3StoreOnRclone(StoreContract):
    @pytest.fixture
    def store(self, rclone: S3Server, tmp_path: Path) -> Store:
        self.settings = rclone.settings(lock_folder=tmp_path)
        return open_store(f"s3://{rclone.new_bucket()}/a/folder", self.settings)

    def another(self, store: Store) -> Store:
        return open_store(store.url, self.settings)


class TestS3StoreOnMoto(StoreContract):
    @pytest.fixture
    def store(self, moto: S3Server, tmp_path: Path) -> Store:
        self.settings = moto.settings(lock_folder=tmp_path)
        return open_store(f"s3://{moto.new_bucket()}", self.settings)

    def another(self, store: Store) -> Store:
        return open_store(store.url, self.settings)


def store_at(server: S3Server, bucket: str, **settings: object) -> S3Store:
    changed = replace(server.settings(), **settings)  # type: ignore[arg-type]
    return S3Store(parse_place(f"s3://{bucket}/folder"), changed)


CALLS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("a", b"x"),
    "get": lambda store: store.get("a"),
    "size": lambda store: store.size("a"),
    "list": lambda store: list(store.list("")),
    "folders": lambda store: list(store.folders("")),
    "delete": lambda store: store.delete("a"),
    "facts": lambda store: store.facts(),
}


# --- what is sent ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 20 << 20])
def test_a_put_is_one_request_with_its_length_and_sha256(rclone: S3Server, size: int) -> None:
    data = b"x" * size
    with FaultProxy(rclone.endpoint) as proxy:
        store = store_at(rclone, rclone.new_bucket(), endpoint=proxy.endpoint)
        store.put("a", data)
        (request,) = proxy.requests
    assert (request.method, request.path.partition("?")[2]) == ("PUT", "")
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert headers["content-length"] == str(size)
    assert headers["content-md5"] == b64encode(md5(data).digest()).decode()
    assert headers["x-amz-content-sha256"] == sha256(data).hexdigest()
    assert not [name for name in headers if "checksum" in name or name == "transfer-encoding"]
    assert "aws-chunked" not in headers.get("content-encoding", "")


def test_an_objects_name_is_its_hash_in_the_signature(rclone: S3Server) -> None:
    """Were it computed again, the wrong one would not be there."""
    right, wrong = sha256(b"data").hexdigest(), sha256(b"other").hexdigest()
    with FaultProxy(rclone.endpoint) as proxy:
        store = store_at(rclone, rclone.new_bucket(), endpoint=proxy.endpoint)
        for name in (right, wrong):
            store.put(f"objects/{name[:2]}/{name}", b"data")
        store.put(f"elsewhere/{wrong}", b"data")
        signed = [
            {key.lower(): value for key, value in request.headers.items()}["x-amz-content-sha256"]
            for request in proxy.requests
        ]
        assert store.get(f"objects/{right[:2]}/{right}") == b"data"
    assert signed == [right, wrong, right]


def test_a_signature_by_name_is_a_right_one(rclone: S3Server) -> None:
    name = sha256(b"data").hexdigest()
    settings = rclone.settings()
    store = store_at(
        rclone, rclone.new_bucket(), secret_access_key=f"{settings.secret_access_key}x"
    )
    with pytest.raises(StoreAccessDenied):
        store.put(f"objects/{name[:2]}/{name}", b"data")


def test_an_md5_goes_to_a_server_without_tls_or_that_asks_for_one(rclone: S3Server) -> None:
    for code, message in (
        ("InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is required"),
        ("MissingContentMD5", "Missing required header for this request: Content-Md5."),
        ("BadRequest", "An MD5 is wanted."),
    ):
        with FaultProxy(rclone.endpoint) as proxy:
            store = store_at(rclone, rclone.new_bucket(), endpoint=proxy.endpoint)
            store._wants_md5 = False  # as it is behind TLS
            proxy.on(error_answer(400, code, message), method="PUT", times=1)
            store.put("a", b"x")
            store.put("b", b"y")
            assert store.get("a") == b"x"
            sent = ["Content-MD5" in request.headers for request in proxy.requests[:3]]
        assert sent == [False, True, True], code
    for endpoint, expected in (
        ("http://host", True), ("https://host", False), (None, False),
    ):  # fmt: skip
        assert store_at(rclone, "bucket", endpoint=endpoint)._wants_md5 is expected


def test_the_bucket_stands_where_it_was_asked_to_stand(rclone: S3Server) -> None:
    with FaultProxy(rclone.endpoint) as proxy:
        store = store_at(rclone, rclone.new_bucket(), endpoint=proxy.endpoint)
        list(store.list(""))
        assert proxy.requests[0].path.startswith("/bucket-")
    client = store_at(
        rclone, "bucket", endpoint="http://s3.example", addressing="virtual"
    )._client()
    url = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "a"})
    assert url.startswith("http://bucket.s3.example/a")


# --- what an answer means -------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_bucket_is_no_missing_object(rclone: S3Server, moto: S3Server, call: str) -> None:
    for server in (rclone, moto):
        with pytest.raises(StoreError, match="there is no bucket 'no-such-bucket'") as caught:
            CALLS[call](store_at(server, "no-such-bucket"))
        assert not isinstance(caught.value, ObjectMissing)


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_secret_is_told_and_not_shown(rclone: S3Server, call: str) -> None:
    store = store_at(rclone, rclone.new_bucket(), secret_access_key="Wrong" + SECRET_KEY)
    with pytest.raises(StoreAccessDenied) as caught:
        CALLS[call](store)
    assert "secret_access_key" in caught.value.hint
    assert SECRET_KEY not in str(caught.value) + repr(store_at(rclone, "bucket")._settings)


@dataclass(frozen=True, slots=True)
class Proxied:
    """A store, and what is between it and its server."""

    proxy: FaultProxy
    store: S3Store


@pytest.fixture(scope="module")
def proxied(rclone: S3Server) -> Iterator[Proxied]:
    with FaultProxy(rclone.endpoint) as proxy:
        yield Proxied(proxy, store_at(rclone, rclone.new_bucket(), endpoint=proxy.endpoint))


def error_answer(status: int, code: str, message: str = "Some Text.") -> Answer:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, text.encode(), {"Content-Type": "application/xml"})


@pytest.mark.parametrize(
    ("answer", "kind", "told", "hint"),
    [
        (
            error_answer(403, "AccessDenied"),
            StoreAccessDenied,
            "403 AccessDenied: Some Text",
            "s3:",
        ),
        (error_answer(400, "ExpiredToken"), StoreAccessDenied, "400 ExpiredToken", "Log in again"),
        (error_answer(403, "RequestTimeTooSkewed"), StoreError, "clock", "NTP"),
        (error_answer(301, "PermanentRedirect"), StoreError, "redirect", "region"),
        (error_answer(400, "EntityTooLarge"), StoreError, "EntityTooLarge", "40 MiB"),
        (error_answer(403, "QuotaExceeded"), StoreFull, "QuotaExceeded", "quota"),
        (error_answer(507, "InsufficientStorage"), StoreFull, "507", "space"),
        (error_answer(501, "NotImplemented"), StoreError, "501 NotImplemented", ""),
        (error_answer(400, "RequestTimeout"), StoreUnavailable, "RequestTimeout", ""),
        (error_answer(400, "BadDigest"), StoreUnavailable, "BadDigest", ""),
    ],
    ids=lambda value: "",
)
@pytest.mark.parametrize("call", ["put", "get", "size"])
def test_an_answer_is_told_in_its_kind_with_what_to_do(
    proxied: Proxied, call: str, answer: Answer, kind: type[StoreError], told: str, hint: str
) -> None:
    proxied.proxy.clear()
    proxied.proxy.on(answer)
    with pytest.raises(StoreError) as caught:
        CALLS[call](proxied.store)
    assert type(caught.value) is kind
    assert told in caught.value.message
    assert hint in caught.value.hint


def test_a_server_that_speaks_no_tls_is_told(rclone: S3Server) -> None:
    store = store_at(rclone, "bucket", endpoint=rclone.endpoint.replace("http:", "https:"))
    with pytest.raises(StoreError, match="TLS") as caught:
        store.get("a")
    assert not isinstance(caught.value, StoreUnavailable)


def test_no_credentials_are_told(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "none")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    store = store_at(rclone, "bucket", access_key_id=None, secret_access_key=None)
    with pytest.raises(StoreAccessDenied, match="no usable credentials"):
        store.get("a")


def test_credentials_of_the_environment_and_of_a_profile_are_used(
    rclone: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    none = {"access_key_id": None, "secret_access_key": None}
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test-access-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        store_at(rclone, rclone.new_bucket(), **none).put("a", b"x")
    (tmp_path / "credentials").write_text(
        f"[backup]\naws_access_key_id = test-access-key\naws_secret_access_key = {SECRET_KEY}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    store_at(rclone, rclone.new_bucket(), **none, profile="backup").put("a", b"x")
    with pytest.raises(ConfigurationError, match="no AWS profile 'other'"):
        store_at(rclone, "bucket", **none, profile="other").put("a", b"x")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (StoreSettings(access_key_id="a"), "belong together"),
        (StoreSettings(secret_access_key="a"), "belong together"),
        (StoreSettings(session_token="a"), "session_token goes with"),
        (StoreSettings(credentials_file=Path("a")), "is for gs://"),
        (StoreSettings(endpoint="server"), "endpoint is not the URL"),
        (StoreSettings(endpoint="https://u:p@server"), "endpoint is not the URL"),
        (StoreSettings(endpoint="https://server/?x=y"), "endpoint is not the URL"),
        (StoreSettings(endpoint="https://[server"), "endpoint is not the URL"),
        (StoreSettings(endpoint="https://server:port"), "endpoint is not the URL"),
        (StoreSettings(endpoint=""), "endpoint is not the URL"),
    ],
)
def test_settings_that_cannot_be_right_are_refused_at_once(
    settings: StoreSettings, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        open_store("s3://bucket", settings)


# --- what is foreign or odd -------------------------------------------------------------------


def test_marks_for_folders_are_no_files(rclone: S3Server, moto: S3Server) -> None:
    bucket = moto.new_bucket()
    moto.client.put_object(Bucket=bucket, Key="folder/empty/", Body=b"")
    store = store_at(moto, bucket)
    store.put("a/b", b"x")
    assert [file.name for file in store.list("")] == ["a/b"]


def test_what_is_beside_the_prefix_is_not_seen(moto: S3Server) -> None:
    bucket = moto.new_bucket()
    for key in ("folder2/a", "folder", "other/folder/a", "a"):
        moto.client.put_object(Bucket=bucket, Key=key, Body=b"")
    store = store_at(moto, bucket)
    assert list(store.list("")) == []
    assert list(store.folders("")) == []


# --- object lock ------------------------------------------------------------------------------


def test_in_a_locked_bucket_nothing_is_lost(moto: S3Server) -> None:
    bucket = moto.new_bucket(object_lock=True)
    moto.client.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}},
        },
    )
    store = store_at(moto, bucket)
    store.put("a", b"first")
    store.put("a", b"second")
    store.delete("a")
    with pytest.raises(ObjectMissing):
        store.get("a")
    found = moto.client.list_object_versions(Bucket=bucket)
    versions = [item["VersionId"] for item in found["Versions"]]
    assert len(versions) == 2
    assert len(found["DeleteMarkers"]) == 1
    for version in versions:
        with pytest.raises(ClientError) as caught:
            moto.client.delete_object(Bucket=bucket, Key="folder/a", VersionId=version)
        assert isinstance(translated(caught.value, "cannot delete 'a'"), StoreAccessDenied)
    assert len(moto.client.list_object_versions(Bucket=bucket)["Versions"]) == 2


# --- the lock ---------------------------------------------------------------------------------


def test_the_lock_is_a_private_file_of_this_host_named_after_the_place(
    rclone: S3Server, tmp_path: Path
) -> None:
    settings = rclone.settings(lock_folder=tmp_path / "state" / "locks")
    bucket = rclone.new_bucket()
    store = open_store(f"s3://{bucket}/folder", settings)
    other = open_store(f"s3://{bucket}/other", settings)
    with store.exclusive("backup"), other.exclusive("backup"):
        with (
            pytest.raises(RepositoryLocked, match=f"s3://{bucket}/folder is locked by.*backup"),
            open_store(f"s3://{bucket}/folder/", settings).exclusive("prune"),
        ):
            pass
        files = list((tmp_path / "state" / "locks").iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert bucket not in str(files)


def test_without_a_folder_for_locks_there_is_no_writing(rclone: S3Server) -> None:
    with pytest.raises(StoreError, match="no folder"), store_at(rclone, "bucket").exclusive("x"):
        pass


# --- locks ------------------------------------------------------------------------------------


def test_the_end_of_a_lock_is_told(moto: S3Server) -> None:
    bucket = moto.new_bucket(object_lock=True)
    moto.client.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 60}},
        },
    )
    store = open_store(f"s3://{bucket}/shop", moto.settings())
    store.put("a", b"x")
    until = store.locked_until("a")
    assert until is not None
    left = until - datetime.now(UTC)
    assert timedelta(days=59, hours=23) < left <= timedelta(days=60)
    (file,) = store.list("")
    assert file.stored is not None
    assert abs(until - timedelta(days=60) - file.stored) < timedelta(minutes=1)


def test_an_object_without_a_lock_is_told_from_one_that_may_not_be_asked_for(
    moto: S3Server,
) -> None:
    bucket = moto.new_bucket(object_lock=True)
    open_store(f"s3://{bucket}", moto.settings()).put("a", b"x")
    with FaultProxy(moto.endpoint) as proxy:
        store = open_store(f"s3://{bucket}", moto.settings(endpoint=proxy.endpoint))
        assert store.locked_until("a") is None
        proxy.on(Answer(403), match="*[?]retention*")
        with pytest.raises(StoreAccessDenied):
            store.locked_until("a")


@pytest.mark.parametrize("call", ["get", "size"])
def test_what_is_denied_and_not_listed_is_missing(rclone: S3Server, call: str) -> None:
    """As S3 answers for a missing object where the key may list a part of the bucket alone."""
    denied = error_answer(403, "AccessDenied")
    with FaultProxy(rclone.endpoint) as proxy:
        store = store_at(rclone, rclone.new_bucket(), endpoint=proxy.endpoint)
        store.put("there-too", b"x")
        proxy.on(denied, match="*/there*")
        with pytest.raises(StoreAccessDenied):
            getattr(store, call)("there-too")
        with pytest.raises(ObjectMissing):
            getattr(store, call)("there")
        proxy.on(denied)
        with pytest.raises(StoreAccessDenied):
            getattr(store, call)("there")
