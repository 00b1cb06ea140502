"""What is wrong with recipients, and with where databases and their copies are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pgkeep.errors import PgkeepError
from pgkeep.findings import Finding, Severity
from pgkeep.platforms.projects import same_projects
from pgkeep.postgres.address import Address
from pgkeep.sealing import RecipientProblem

_RECIPIENTS = "recipients"


def recipient_findings(
    recipients: Sequence[str], problems: Sequence[RecipientProblem]
) -> Iterator[Finding]:
    """Whether backups can be sealed, and whether more than one key opens them."""
    if not recipients:
        yield Finding(
            Severity.ERROR,
            _RECIPIENTS,
            "none is configured, so nobody could open a backup",
            "Run pgkeep init, or set encryption.recipients to a public key (age1...).",
        )
    for problem in problems:
        severity = Severity.WARNING if problem.error is None else Severity.ERROR
        yield Finding(severity, f"recipient {problem.recipient}", problem.message, problem.hint)
    if len(recipients) == 1:
        yield Finding(
            Severity.NOTE,
            _RECIPIENTS,
            "one key alone opens the backups: if it is lost, so are they",
            "Add a second one, kept elsewhere; pgkeep reseal adds it to the backups that are"
            " there.",
        )


def address_findings(
    addresses: Mapping[str, Address | PgkeepError], endpoints: Mapping[str, str | None]
) -> Iterator[Finding]:
    """Databases without an address, and copies in the project of their database.

    `endpoints` are those of the repositories, by name.
    """
    for name, address in addresses.items():
        if isinstance(address, PgkeepError):
            yield Finding(Severity.ERROR, f"database {name}", address.message, address.hint)
        elif not address.is_verified:
            yield Finding(
                Severity.WARNING,
                f"database {name}",
                f"sslmode={address.parameters.get('sslmode')} in its URL: whoever answers gets the"
                " password, or at least every row",
                "Take sslmode out of the URL (verify-full is the default, and Supabase's roots come"
                " with pgkeep), or add sslrootcert=FILE for a root of your own.",
            )
    places = {
        name: (address.host, address.user)
        for name, address in addresses.items()
        if isinstance(address, Address)
    }
    for same in same_projects(endpoints, places):
        yield Finding(Severity.WARNING, f"repository {same.repository}", same.what, same.remedy)
