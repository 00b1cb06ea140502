"""Telling people: each channel takes one message or raises `NotTold`. Nothing here is retried.

`Telling` keeps what was not delivered and tries again with growing pauses, in the state's outbox,
so that neither a restart nor a channel that is down loses a message, and no job waits for one.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import json
import re
import secrets
import smtplib
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.utils import formatdate
from http.client import HTTPException
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from pgkeep.config import MailConfig, NotifyConfig, Secret, WebhookConfig, resolve
from pgkeep.errors import ConfigurationError, NotTold, PgkeepError
from pgkeep.keeper.messages import document, mail_message, plain_text, slack_message, title
from pgkeep.keeper.state import Message
from pgkeep.keeper.watch import Alert, Changes, Severity

_TIMEOUT_SECONDS = 10
_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800))
_GIVE_UP = timedelta(days=3)
_OUTBOX = 200


class Channel(Protocol):
    """A way to tell people."""

    def tell(self, message: Message, now: datetime) -> None:
        """Deliver it, within seconds, or raise `NotTold` (or `ConfigurationError`)."""


@dataclass(frozen=True, slots=True)
class Slack:
    """An incoming webhook."""

    url: Secret

    def tell(self, message: Message, now: datetime) -> None:
        url = resolve(self.url, "the webhook of Slack")
        body = slack_message(message.alert, now, is_over=message.is_over, host=socket.gethostname())
        post(url, _json(body), {"Content-Type": "application/json"})


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that is sent JSON."""

    name: str
    settings: WebhookConfig

    def tell(self, message: Message, now: datetime) -> None:
        url = resolve(self.settings.url, f"the URL of webhook {self.name!r}")
        body = _json(
            document(
                message.alert, now, is_over=message.is_over, id=message.id,
                host=socket.gethostname(),
            )
        )  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if self.settings.secret is not None:
            secret = resolve(self.settings.secret, f"the secret of webhook {self.name!r}")
            headers["X-Pgkeep-Signature"] = sign(body, secret, int(now.timestamp()))
        post(url, body, headers)


def sign(body: bytes, secret: str, moment: int) -> str:
    """The value of `X-Pgkeep-Signature`: over the time too, so that nobody can send it again."""
    signed = f"{moment}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail server."""

    settings: MailConfig

    def tell(self, message: Message, now: datetime) -> None:
        settings = self.settings
        mail = mail_message(
            message.alert, now, is_over=message.is_over, sender=settings.sender, to=settings.to,
            id=message.id,
        )  # fmt: skip
        del mail["Date"]
        mail["Date"] = formatdate(now.timestamp())
        try:
            with self._connected() as server:
                server.send_message(mail)
        except (OSError, smtplib.SMTPException, ssl.SSLError) as exc:
            raise NotTold(f"mail through {settings.server} failed: {_reason(exc)}") from exc

    def _connected(self) -> smtplib.SMTP:
        settings = self.settings
        host, _, port = settings.server.partition(":")
        tls = ssl.create_default_context()
        if settings.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                host, int(port or 465), timeout=_TIMEOUT_SECONDS, context=tls
            )
        else:
            server = smtplib.SMTP(host, int(port or 587), timeout=_TIMEOUT_SECONDS)
        try:
            self._log_in(server, tls)
        except BaseException:
            server.close()
            raise
        return server

    def _log_in(self, server: smtplib.SMTP, tls: ssl.SSLContext) -> None:
        settings = self.settings
        if settings.security == "starttls":
            server.starttls(context=tls)
        if settings.user is not None and settings.password is not None:
            server.login(settings.user, resolve(settings.password, "the password for mail"))


@dataclass(frozen=True, slots=True)
class Apprise:
    """Any of a hundred services, by apprise's URL."""

    url: Secret

    def tell(self, message: Message, now: datetime) -> None:
        try:
            apprise = importlib.import_module("apprise")
        except ImportError as exc:
            raise ConfigurationError(
                "notify.apprise is configured, and apprise is not installed",
                hint="Run: pip install '.[apprise]' in the folder of pgkeep's source.",
            ) from exc
        service = apprise.Apprise()
        if not service.add(resolve(self.url, "a URL of apprise")):
            raise ConfigurationError("a URL of notify.apprise is none that apprise knows")
        text = plain_text(message.alert, now, is_over=message.is_over)
        if not service.notify(body=text, title=title(message.alert, is_over=message.is_over)):
            raise NotTold("apprise could not deliver a message")


def channels(settings: NotifyConfig) -> dict[str, Channel]:
    """The configured channels, by names that stay the same."""
    found: dict[str, Channel] = {
        f"slack-{number}": Slack(url) for number, url in enumerate(settings.slack)
    }
    if settings.mail is not None:
        found["mail"] = Mail(settings.mail)
    found |= {f"webhook-{name}": Webhook(name, one) for name, one in settings.webhooks.items()}
    found |= {f"apprise-{number}": Apprise(url) for number, url in enumerate(settings.apprise)}
    return found


# --- the outbox -----------------------------------------------------------------------------


def messages_for(
    changes: Changes, names: Iterable[str], minimum: Severity, now: datetime
) -> tuple[Message, ...]:
    """What is to be told, for each channel."""
    return tuple(
        Message(secrets.token_hex(8), name, alert, is_over, now)
        for is_over, alerts in ((False, changes.begun), (True, changes.over))
        for alert in alerts
        if alert.severity is Severity.CRITICAL or minimum is Severity.WARNING
        for name in names
    )


def waiting(outbox: Sequence[Message], now: datetime) -> tuple[Message, ...]:
    """Those whose turn it is. On one channel, nothing is over before it was told to have begun."""
    found = []
    held: set[tuple[str, str]] = set()
    for one in outbox:
        about = (one.channel, one.alert.key)
        if about not in held and (one.again is None or one.again <= now):
            found.append(one)
        held.add(about)
    return tuple(found)


def settled(
    outbox: Sequence[Message], message: Message, left: Message | None
) -> tuple[Message, ...]:
    """The outbox after a try: without the message, or with what is left of it in its place."""
    kept = (left if one.id == message.id else one for one in outbox)
    return tuple(one for one in kept if one is not None)


def tell(
    message: Message, ways: Mapping[str, Channel], now: datetime
) -> tuple[Message | None, PgkeepError | None]:
    """Try once: the message if it has to be tried again, and what went wrong."""
    channel = ways.get(message.channel)
    if channel is None:  # no longer configured
        return None, None
    try:
        channel.tell(message, now)
    except PgkeepError as exc:
        return _later(message, now), exc
    except Exception as exc:
        return _later(message, now), NotTold(f"{message.channel} failed: {_reason(exc)}")
    return None, None


def _later(message: Message, now: datetime) -> Message | None:
    if now - message.made > _GIVE_UP:
        return None
    pause = _PAUSES[min(message.attempts, len(_PAUSES) - 1)]
    return replace(message, attempts=message.attempts + 1, again=now + pause)


def bounded(outbox: Sequence[Message]) -> tuple[Message, ...]:
    """The newest, lest a channel that is down for long fills the state."""
    return tuple(outbox[-_OUTBOX:])


# --- pings ----------------------------------------------------------------------------------


def ping(settings: NotifyConfig, job: str, what: str) -> None:
    """Tell a dead man's switch; `what` is `start`, `fail` or empty for success."""
    if settings.ping is None:
        return
    base = resolve(settings.ping, "the URL of pings")
    url = base.replace("{job}", job) if "{job}" in base else f"{base.rstrip('/')}/{job}"
    post(f"{url}/{what}" if what else url, b"", {})


# --- HTTP -----------------------------------------------------------------------------------

Post = Callable[[str, bytes, Mapping[str, str]], None]


def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """POST; `NotTold` unless the answer is a 2xx. The URL may be secret: no error shows it."""
    if not url.startswith(("https://", "http://")):
        raise ConfigurationError("an address to tell people at is no http(s) URL")
    host = "an address to tell people at"
    try:
        host = urlsplit(url).hostname or host
        request = urllib.request.Request(url, body, dict(headers), method="POST")  # noqa: S310
        request.add_header("User-Agent", "pgkeep")
        with _OPENER.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as exc:
        with exc:
            said = ""
            with suppress(OSError, HTTPException):
                said = _without_parts_of(url, exc.read(200).decode(errors="replace").strip())
        raise NotTold(f"{host} answered {exc.code} {said}".strip()) from None
    except urllib.error.URLError as exc:
        raise NotTold(f"{host} does not answer: {_reason(exc)}") from None
    except TimeoutError:
        raise NotTold(f"{host} does not answer in time") from None
    except (OSError, ValueError, HTTPException) as exc:  # texts of which quote the URL
        raise NotTold(f"{host} cannot be told: {type(exc).__name__}") from None


def _without_parts_of(url: str, text: str) -> str:
    """A server may repeat what it was asked for, and a token is often a part of that."""
    parts = (part for part in re.split(r"[/?&=#:@]", url.partition("://")[2]) if len(part) > 5)
    for part in sorted(parts, key=len, reverse=True):
        for form in (part, unquote(part)):
            text = text.replace(form, "…")
    return text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would send the body, and what it tells, to where nobody configured it."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _json(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def _reason(exc: BaseException) -> str:
    reason = getattr(exc, "reason", None)
    return str(reason or exc).splitlines()[0] if str(reason or exc) else type(exc).__name__


def example_alert(now: datetime) -> Alert:
    """What `pgkeep notify` sends, to see whether it arrives."""
    return Alert(
        "test", Severity.WARNING, "", "this is a test: nothing is wrong", "pgkeep status", now,
        ("everything that was safe before",),
    )  # fmt: skip
