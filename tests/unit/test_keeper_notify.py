"""Telling people, through real receivers on this machine."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from traceback import format_exception
from typing import Any

import pytest

from pgkeep.config import MailConfig, NotifyConfig, WebhookConfig
from pgkeep.errors import ConfigurationError, NotTold, PgkeepError
from pgkeep.keeper.messages import plain_text, slack_message
from pgkeep.keeper.notify import (
    Apprise,
    Channel,
    Mail,
    Slack,
    Webhook,
    _without_parts_of,
    bounded,
    channels,
    messages_for,
    ping,
    post,
    settled,
    tell,
    waiting,
)
from pgkeep.keeper.state import Message
from pgkeep.keeper.watch import Alert, Changes, Severity
from receivers import MailServer, Receiver, http_receiver, mail_server

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
ALERT = Alert(
    "shop/backup-old",
    Severity.CRITICAL,
    "shop",
    "the newest backup of shop is 26 h old <!channel>",
    "pgkeep backup shop",
    NOW - timedelta(hours=3),
    ("every second from A to B", "backup X of 26 h ago"),
)


def message(channel: str = "slack-0", *, is_over: bool = False, **more: Any) -> Message:
    return Message("0123456789abcdef", channel, ALERT, is_over, NOW, **more)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        yield found


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with mail_server() as found:
        yield found


# --- Slack ----------------------------------------------------------------------------------


def check_block_kit(body: dict[str, Any]) -> list[str]:
    """Slack's rules for the blocks that we use; the texts."""
    assert set(body) == {"text", "blocks"}
    assert 0 < len(body["text"]) <= 40_000
    assert 0 < len(body["blocks"]) <= 50
    texts = []
    for block in body["blocks"]:
        if block["type"] == "header":
            assert set(block) == {"type", "text"}
            assert block["text"]["type"] == "plain_text"
            assert 0 < len(block["text"]["text"]) <= 150
            texts.append(block["text"]["text"])
        elif block["type"] == "section":
            assert set(block) == {"type", "text"}
            assert set(block["text"]) == {"type", "text"}
            assert block["text"]["type"] == "mrkdwn"
            assert 0 < len(block["text"]["text"]) <= 3000
            texts.append(block["text"]["text"])
        else:
            assert block["type"] == "context"
            assert 0 < len(block["elements"]) <= 10
            texts += [one["text"] for one in block["elements"]]
    return texts


def test_slack_is_told_what_since_when_what_is_safe_and_what_to_type(receiver: Receiver) -> None:
    Slack(f"{receiver.url}/services/T0/B0/secret").tell(message(), NOW)
    (request,) = receiver.requests
    assert request.path == "/services/T0/B0/secret"
    assert request.headers["Content-Type"] == "application/json"
    texts = check_block_kit(request.document)
    assert texts[0] == "shop: critical"
    assert "2026-01-15 09:00 UTC (3 h)" in texts[2]
    assert "every second from A to B\nbackup X" in texts[3]
    assert texts[4] == "*Next*\n```pgkeep backup shop```"
    assert "<!channel>" not in request.body.decode(), "no text of ours may call everybody"


def test_slack_is_told_when_it_is_over() -> None:
    body = slack_message(ALERT, NOW, is_over=True, host="h")
    texts = check_block_kit(body)
    assert body["text"].startswith(":white_check_mark:")
    assert texts[0] == "shop: over"
    assert any("3 h, since" in text for text in texts)


def test_no_text_is_too_long_for_slack() -> None:
    endless = replace(ALERT, what="&" * 5000, database="d" * 200, remedy="pgkeep " + "`" * 4000)
    check_block_kit(slack_message(endless, NOW, is_over=False, host="h"))


# --- webhooks -------------------------------------------------------------------------------


def test_a_webhook_is_signed_over_its_body_and_the_time(receiver: Receiver) -> None:
    settings = WebhookConfig(url=f"{receiver.url}/hook", secret="s3cret")
    Webhook("ops", settings).tell(message("webhook-ops"), NOW)
    (request,) = receiver.requests
    assert request.document["event"] == "begun"
    assert request.document["key"] == "shop/backup-old"
    assert request.document["still_safe"] == list(ALERT.safe)
    parts = dict(part.split("=") for part in request.headers["X-Pgkeep-Signature"].split(","))
    signed = parts["t"].encode() + b"." + request.body
    assert parts["v1"] == hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert int(parts["t"]) == int(NOW.timestamp())


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_any_answer_but_success_is_not_told_and_shows_no_secret(
    receiver: Receiver, status: int
) -> None:
    receiver.status = status
    with pytest.raises(NotTold, match=str(status)) as caught:
        Slack(f"{receiver.url}/services/secret").tell(message(), NOW)
    assert "secret" not in str(caught.value)
    assert len(receiver.requests) == 1, "a redirect is not followed"


def test_a_receiver_that_is_not_there_is_not_told() -> None:
    with http_receiver() as gone:
        url = gone.url
    with pytest.raises(NotTold, match="does not answer"):
        post(url, b"", {})


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        post("file:///etc/passwd", b"", {})


# --- mail -----------------------------------------------------------------------------------


def mail_settings(address: str, **more: Any) -> MailConfig:
    return MailConfig(
        server=address, security=more.pop("security", "none"), sender="pgkeep@example.com",
        to=("a@example.com", "b@example.com"), **more,
    )  # fmt: skip


def test_a_mail_says_the_same(mails: MailServer) -> None:
    Mail(mail_settings(mails.address)).tell(message("mail"), NOW)
    (mail,) = mails.mails
    assert (
        mail["Subject"]
        .strip()
        .startswith("pgkeep shop: critical: the newest backup of shop is 26 h")
    )
    assert mail["To"] == "a@example.com, b@example.com"
    assert mail["Message-ID"] == "<0123456789abcdef@pgkeep>"
    text = mail.get_content()
    for part in (ALERT.what, "2026-01-15 09:00 UTC", "backup X of 26 h ago", "pgkeep backup shop"):
        assert part in text


def test_a_mail_server_that_refuses_is_not_told(mails: MailServer) -> None:
    mails.refuses = True
    with pytest.raises(NotTold, match="not today"):
        Mail(mail_settings(mails.address)).tell(message("mail"), NOW)


def test_mail_is_not_sent_in_the_clear_unless_that_was_chosen(mails: MailServer) -> None:
    with pytest.raises(NotTold, match="STARTTLS"):
        Mail(mail_settings(mails.address, security="starttls")).tell(message("mail"), NOW)
    assert mails.mails == []


# --- apprise --------------------------------------------------------------------------------


def test_apprise_is_an_extra_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    with pytest.raises(ConfigurationError) as caught:
        Apprise("json://127.0.0.1").tell(message("apprise-0"), NOW)
    assert "'.[apprise]'" in caught.value.hint


@pytest.mark.filterwarnings("default")
def test_apprise_tells_others(receiver: Receiver) -> None:
    Apprise(receiver.url.replace("http://", "json://")).tell(message("apprise-0"), NOW)
    (request,) = receiver.requests
    assert "pgkeep backup shop" in request.document["message"]


# --- the outbox -----------------------------------------------------------------------------


class Down:
    """A channel that never works."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem

    def tell(self, message: Message, now: datetime) -> None:
        raise self.problem


@pytest.mark.parametrize("problem", [NotTold("no"), ConfigurationError("no"), RuntimeError("no")])
def test_a_channel_that_is_down_is_tried_again_with_growing_pauses(problem: Exception) -> None:
    ways: dict[str, Channel] = {"slack-0": Down(problem)}
    left: Message | None = message()
    now, pauses = NOW, []
    while left is not None:
        left, found = tell(left, ways, now)
        assert isinstance(found, PgkeepError)
        if left is not None:
            assert left.again is not None
            pauses.append((left.again - now).total_seconds())
            now = left.again
    assert pauses[:6] == [5, 30, 120, 600, 1800, 1800]
    assert timedelta(days=3) <= now - NOW < timedelta(days=3, hours=1)


def test_what_was_told_is_not_told_again(receiver: Receiver) -> None:
    receiver.answers = [500]
    ways: dict[str, Channel] = {"slack-0": Slack(receiver.url)}
    left, problem = tell(message(), ways, NOW)
    assert left is not None
    assert problem is not None
    assert waiting([left], NOW) == ()
    assert tell(left, ways, NOW) == (None, None)
    assert len(receiver.requests) == 2


def test_nothing_is_over_before_it_was_told_to_have_begun() -> None:
    begun = message(again=NOW + timedelta(minutes=1))
    over = replace(message(is_over=True), id="second")
    elsewhere = replace(over, id="third", channel="mail")
    assert waiting([begun, over, elsewhere], NOW) == (elsewhere,)
    again = replace(begun, attempts=2)
    assert settled([begun, over], begun, again) == (again, over)
    assert settled([begun, over], begun, None) == (over,)
    assert waiting([over], NOW) == (over,)


def test_each_channel_is_told_what_is_severe_enough() -> None:
    mild = replace(ALERT, key="mild", severity=Severity.WARNING)
    changes = Changes((ALERT, mild), (mild,), ())
    made = messages_for(changes, ["a", "b"], Severity.CRITICAL, NOW)
    assert [(one.channel, one.alert.key, one.is_over) for one in made] == [
        ("a", "shop/backup-old", False), ("b", "shop/backup-old", False),
    ]  # fmt: skip
    assert len(messages_for(changes, ["a"], Severity.WARNING, NOW)) == 3
    assert len({one.id for one in made}) == 2


def test_the_outbox_is_bounded() -> None:
    many = [message(attempts=number) for number in range(500)]
    kept = bounded(many)
    assert len(kept) == 200
    assert kept[-1].attempts == 499


def test_the_configuration_names_the_channels() -> None:
    settings = NotifyConfig(
        slack=("https://a", "https://b"),
        mail=mail_settings("localhost:25"),
        webhooks={"ops": WebhookConfig(url="https://c")},
        apprise=("json://d",),
    )
    assert list(channels(settings)) == ["slack-0", "slack-1", "mail", "webhook-ops", "apprise-0"]


# --- pings ----------------------------------------------------------------------------------


def test_a_dead_mans_switch_hears_start_success_and_failure(receiver: Receiver) -> None:
    base = NotifyConfig(ping=f"{receiver.url}/key")
    named = NotifyConfig(ping=f"{receiver.url}/x/{{job}}/y")
    for what in ("start", "", "fail"):
        ping(base, "full-shop", what)
    ping(named, "full-shop", "")
    ping(NotifyConfig(), "full-shop", "")
    assert receiver.paths == [
        "/key/full-shop/start", "/key/full-shop", "/key/full-shop/fail", "/x/full-shop/y",
    ]  # fmt: skip


def test_the_text_of_a_reminder_is_whole() -> None:
    assert plain_text(ALERT, NOW, is_over=True).startswith("What:\n  the newest backup")


TOKEN = "T0ken-7f3a91c2"


@pytest.mark.parametrize(
    "tail",
    [
        f"/a b/{TOKEN}", f"/{TOKEN}/\n", f"/x?token={TOKEN}", f"/x#{TOKEN}", f"/%zz/{TOKEN}",
        f":port{TOKEN}/", f":99999/{TOKEN}",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_not_shown(receiver: Receiver, tail: str) -> None:
    receiver.status = 404
    base = receiver.url.rpartition(":")[0] if tail.startswith(":") else receiver.url
    with pytest.raises(NotTold) as caught:
        post(base + tail, b"", {})
    assert TOKEN not in "".join(format_exception(caught.value))


def test_a_login_in_an_address_is_not_shown() -> None:
    with pytest.raises(NotTold) as caught:
        post(f"http://user:{TOKEN}@127.0.0.1:1/", b"", {})
    assert TOKEN not in "".join(format_exception(caught.value))
    with pytest.raises(NotTold) as caught:
        post(f"http://user:{TOKEN}@[127.0.0.1/", b"", {})
    assert TOKEN not in "".join(format_exception(caught.value))


def test_what_a_server_repeats_of_the_address_is_left_out() -> None:
    url = f"https://h/services/{TOKEN}/x?key=Key-T0ken%2B1"
    said = f"no service /services/{TOKEN}/x with Key-T0ken+1 or Key-T0ken%2B1 here"
    assert _without_parts_of(url, said) == "no service /…/…/x with … or … here"
