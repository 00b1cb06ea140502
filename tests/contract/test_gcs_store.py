"""Google Cloud Storage: the contract on an emulator, credentials, and what each answer means."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fault_proxy import Answer, FaultProxy
from object_servers import GcsServer
from pgkeep.errors import (
    ConfigurationError,
    ObjectMissing,
    StoreAccessDenied,
    StoreError,
    StoreUnavailable,
)
from pgkeep.stores import Store, StoreSettings, open_store
from pgkeep.stores.gcs import GcsStore
from pgkeep.stores.remote import parse_place
from pgkeep.testing import StoreContract


class TestGcsStore(StoreContract):
    @pytest.fixture
    def store(self, gcs: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint)
        self.settings = StoreSettings(lock_folder=tmp_path)
        return open_store(f"gs://{gcs.new_bucket()}/a/folder", self.settings)

    def another(self, store: Store) -> Store:
        return open_store(store.url, self.settings)


CALLS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("a", b"x"),
    "get": lambda store: store.get("a"),
    "size": lambda store: store.size("a"),
    "list": lambda store: list(store.list("")),
    "folders": lambda store: list(store.folders("")),
    "delete": lambda store: store.delete("a"),
    "facts": lambda store: store.facts(),
}


def store_at(endpoint: str, bucket: str, key: Path) -> GcsStore:
    settings = StoreSettings(endpoint=endpoint, credentials_file=key)
    return GcsStore(parse_place(f"gs://{bucket}/folder"), settings)


@pytest.fixture(scope="module")
def key(gcs: GcsServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service account's key."""
    return gcs.service_account(tmp_path_factory.mktemp("key"))


@dataclass(frozen=True, slots=True)
class Proxied:
    """A store, and what is between it and its server."""

    proxy: FaultProxy
    store: GcsStore


@pytest.fixture(scope="module")
def proxied(gcs: GcsServer, key: Path) -> Iterator[Proxied]:
    with FaultProxy(gcs.endpoint) as proxy:
        yield Proxied(proxy, store_at(proxy.endpoint, gcs.new_bucket(), key))


# --- what is sent ---------------------------------------------------------------------------


def test_a_put_is_whole_with_its_checksums_and_asks_nothing_else(gcs: GcsServer, key: Path) -> None:
    with FaultProxy(gcs.endpoint) as proxy:
        store = store_at(proxy.endpoint, gcs.new_bucket(), key)
        store.put("small", b"x")
        assert [request.method for request in proxy.requests] == ["POST"]
        proxy.clear()
        store.put("large", bytes(20 << 20))
        assert [request.method for request in proxy.requests] == ["POST", "PUT"]
        headers = {name.lower(): value for name, value in proxy.requests[1].headers.items()}
        assert headers["content-length"] == str(20 << 20)
        assert headers["authorization"] == "Bearer token"


# --- what an answer means -------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_bucket_is_no_missing_object(gcs: GcsServer, key: Path, call: str) -> None:
    with pytest.raises(StoreError, match="there is no bucket 'no-such-bucket'") as caught:
        CALLS[call](store_at(gcs.endpoint, "no-such-bucket", key))
    assert not isinstance(caught.value, ObjectMissing)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (401, "required", StoreAccessDenied),
        (403, "forbidden", StoreAccessDenied),
        (403, "retentionPolicyNotMet", StoreAccessDenied),
        (408, "timeout", StoreUnavailable),
        (429, "rateLimitExceeded", StoreUnavailable),
        (400, "invalid", StoreError),
        (412, "conditionNotMet", StoreError),
    ],
)
@pytest.mark.parametrize("call", ["put", "get", "size"])
def test_an_answer_is_told_in_its_kind(
    proxied: Proxied, call: str, status: int, reason: str, kind: type[StoreError]
) -> None:
    document = {"error": {"code": status, "errors": [{"reason": reason}], "message": "https://x"}}
    answer = Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"})
    proxied.proxy.clear()
    proxied.proxy.on(answer)
    with pytest.raises(StoreError, match=str(status)) as caught:
        CALLS[call](proxied.store)
    assert type(caught.value) is kind
    assert "http" not in caught.value.message


# --- credentials ----------------------------------------------------------------------------


def test_a_key_file_that_is_none_is_refused_and_not_shown(gcs: GcsServer, tmp_path: Path) -> None:
    for text in ("", "{", '{"private_key": "SecretText"}', '{"type": "service_account"}'):
        path = tmp_path / "key.json"
        path.write_text(text)
        with pytest.raises(ConfigurationError, match="key of a service account") as caught:
            store_at(gcs.endpoint, "bucket", path).get("a")
        assert "SecretText" not in caught.value.message + caught.value.hint
    with pytest.raises(ConfigurationError, match=r"none\.json"):
        store_at(gcs.endpoint, "bucket", tmp_path / "none.json").get("a")


def test_a_login_service_that_refuses_or_is_away_is_told(gcs: GcsServer, tmp_path: Path) -> None:
    path = gcs.service_account(tmp_path)
    with FaultProxy(gcs.token_uri) as proxy:
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, "token_uri": f"{proxy.endpoint}/token"}))
        refused = Answer(400, b'{"error": "invalid_grant"}', {"Content-Type": "application/json"})
        proxy.on(refused, times=1)
        store = store_at(gcs.endpoint, gcs.new_bucket(), path)
        with pytest.raises(StoreAccessDenied, match="refused the credentials"):
            store.put("a", b"x")
        store.put("a", b"x")
    store = store_at(gcs.endpoint, gcs.new_bucket(), path)
    with pytest.raises(StoreUnavailable, match="login service"):
        store.put("a", b"x")


def test_no_credentials_are_told(
    gcs: GcsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(StoreAccessDenied, match="no credentials"):
        GcsStore(parse_place("gs://bucket"), StoreSettings(endpoint=gcs.endpoint)).get("a")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (StoreSettings(access_key_id="a", secret_access_key="b"), "access_key_id is for s3://"),
        (StoreSettings(region="a"), "region is for s3://"),
        (StoreSettings(profile="a"), "profile is for s3://"),
        (StoreSettings(endpoint="server"), "endpoint is not the URL"),
    ],
)
def test_settings_that_cannot_be_right_are_refused_at_once(
    settings: StoreSettings, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        open_store("gs://bucket", settings)
