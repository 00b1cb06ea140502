"""Alerts as messages: for Slack (Block Kit), mail, and programs. Pure."""

from __future__ import annotations

from datetime import datetime
from email.message import EmailMessage
from typing import Any

from pgkeep.keeper.text import duration
from pgkeep.keeper.watch import Alert, Severity

# Slack refuses a block with more than 3,000 characters, and a header with more than 150.
_SECTION_CHARACTERS = 2900
_HEADER_CHARACTERS = 150
_EMOJI = {Severity.CRITICAL: ":rotating_light:", Severity.WARNING: ":warning:"}


def title(alert: Alert, *, is_over: bool) -> str:
    """One line: what it is about and how bad."""
    about = alert.database or "all databases"
    state = "over" if is_over else alert.severity.value
    return f"pgkeep {about}: {state}: {alert.what}"


def lines(alert: Alert, now: datetime, *, is_over: bool) -> list[tuple[str, str]]:
    """What a person wants to know, as headings and texts."""
    lasted = duration(now - alert.since)
    since = f"{alert.since:%Y-%m-%d %H:%M} UTC"
    found = [("What", alert.what)]
    if is_over:
        return [*found, ("Lasted", f"{lasted}, since {since}")]
    found.append(("Since", f"{since} ({lasted})"))
    if alert.safe:
        found.append(("Still safe", "\n".join(alert.safe)))
    return [*found, ("Next", alert.remedy)]


def slack_message(alert: Alert, now: datetime, *, is_over: bool, host: str) -> dict[str, Any]:
    """The body for an incoming webhook. `text` is what a notification shows."""
    emoji = ":white_check_mark:" if is_over else _EMOJI[alert.severity]
    about = alert.database or "all databases"
    heading = f"{about}: {'over' if is_over else alert.severity.value}"
    blocks: list[dict[str, Any]] = [
        {
            "type": "header",
            "text": {"type": "plain_text", "text": heading[:_HEADER_CHARACTERS], "emoji": True},
        },
        *(_section(name, text) for name, text in lines(alert, now, is_over=is_over)),
        {
            "type": "context",
            "elements": [{"type": "mrkdwn", "text": f"pgkeep on {_mrkdwn(host)} · {alert.key}"}],
        },
    ]
    return {"text": f"{emoji} {_mrkdwn(title(alert, is_over=is_over))}", "blocks": blocks}


def _section(name: str, text: str) -> dict[str, Any]:
    clean = _mrkdwn(text)[:_SECTION_CHARACTERS]
    if name == "Next" and text.startswith(("pgkeep ", "df ")):
        clean = f"```{clean.replace('`', chr(39))}```"
    return {"type": "section", "text": {"type": "mrkdwn", "text": f"*{name}*\n{clean}"}}


def _mrkdwn(text: str) -> str:
    """Slack's three special characters, so that no text of ours calls @channel or makes a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def plain_text(alert: Alert, now: datetime, *, is_over: bool) -> str:
    """The same for mail and others."""
    parts = []
    for name, text in lines(alert, now, is_over=is_over):
        parts.append(f"{name}:\n" + "\n".join(f"  {line}" for line in text.splitlines()))
    return "\n\n".join(parts) + "\n"


def mail_message(
    alert: Alert, now: datetime, *, is_over: bool, sender: str, to: tuple[str, ...], id: str
) -> EmailMessage:
    """A mail. Told twice by accident, it has the same Message-ID."""
    message = EmailMessage()
    message["Subject"] = " ".join(title(alert, is_over=is_over).split())[:200]
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Date"] = now
    message["Message-ID"] = f"<{id}@pgkeep>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(plain_text(alert, now, is_over=is_over))
    return message


def document(alert: Alert, now: datetime, *, is_over: bool, id: str, host: str) -> dict[str, Any]:
    """The body for a webhook."""
    return {
        "id": id,
        "event": "over" if is_over else "begun",
        "key": alert.key,
        "severity": alert.severity.value,
        "database": alert.database or None,
        "what": alert.what,
        "since": alert.since.isoformat(),
        "sent": now.isoformat(),
        "still_safe": list(alert.safe),
        "remedy": alert.remedy,
        "host": host,
    }
