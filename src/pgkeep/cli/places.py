"""The way to a configured repository: its server, its settings, its secrets."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pgkeep import config as configuration
from pgkeep.config import RepositoryConfig, Secret
from pgkeep.errors import ConfigurationError
from pgkeep.networks import Rule, is_this_machine
from pgkeep.stores import StoreSettings


def check_way(name: str, item: RepositoryConfig, rule: Rule) -> None:
    """Refuse a store outside of the networks, and one that would be talked to unencrypted."""
    host = _host_of(item)
    if host is None:
        return
    is_plain = (item.endpoint or "").lower().startswith("http://")
    if is_plain and not item.plain_http and not is_this_machine(host):
        raise ConfigurationError(
            f"the endpoint of repository {name!r} is http://, and keys would go there readable",
            hint="Use https://, or set plain_http = true if the network itself is encrypted.",
        )
    if rule.networks:
        rule.check(host, f"repository {name!r}")


def _host_of(item: RepositoryConfig) -> str | None:
    """The server that a repository is on; None for a folder of this machine."""
    if item.endpoint:
        return urlsplit(item.endpoint).hostname
    parts = urlsplit(item.url)
    if parts.scheme == "s3":
        return f"s3.{item.region}.amazonaws.com" if item.region else "s3.amazonaws.com"
    return "storage.googleapis.com" if parts.scheme == "gs" else None


def store_settings(name: str, item: RepositoryConfig, state_dir: Path) -> StoreSettings:
    """How to reach a configured repository, its secrets fetched from where they are."""

    def secret(key: str) -> str | None:
        value: Secret | None = getattr(item, key)
        if value is None:
            return None
        return configuration.resolve(value, f"{key} of repository {name!r}")

    return StoreSettings(
        endpoint=item.endpoint,
        region=item.region,
        addressing=item.addressing,
        profile=item.profile,
        access_key_id=secret("access_key_id"),
        secret_access_key=secret("secret_access_key"),
        session_token=secret("session_token"),
        credentials_file=item.credentials_file,
        timeout_seconds=item.timeout_seconds,
        attempts=item.attempts,
        upload_limit=item.upload_limit,
        download_limit=item.download_limit,
        lock_folder=state_dir / "locks",
    )
