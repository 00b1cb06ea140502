"""One tree of errors. Each kind has a permanent code, and a hint that says what to do.

A message is one lower-case line without a full stop and with the value that matters; a hint is
a sentence. Codes are never used twice: people search for them, and scripts match them.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process answers. Scripts may rely on these."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    ATTENTION = 3


class PgkeepError(Exception):
    """The root of every error that a person is meant to read."""

    code = "E000"
    exit_code = ExitCode.FAILED
    usual_hint = "Run the command again with --debug, and report what it shows."
    """What to do where the one who raises knows nothing better."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"


# --- usage and configuration: nothing was touched -----------------------------------------


class UsageError(PgkeepError):
    """The call itself cannot be carried out: options that exclude each other, a bad value."""

    code = "E001"
    exit_code = ExitCode.USAGE
    usual_hint = "Run the command with --help."


class ConfigurationError(PgkeepError):
    """The configuration is missing, unreadable or contradicts itself."""

    code = "E002"
    exit_code = ExitCode.USAGE
    usual_hint = "docs/reference.md lists every setting."


class ProgramMissing(PgkeepError):
    """No PostgreSQL program of the needed kind and version was found, or no gpg."""

    code = "E003"
    exit_code = ExitCode.USAGE


# E004, an end by a signal, is no exception of this tree: `pgkeep.cli.main` tells of it.


class OutputFailed(PgkeepError):
    """Standard output takes no more: the disk is full, or whoever read it has gone."""

    code = "E005"
    usual_hint = "Make room, or send the output elsewhere."


# --- reaching and reading a database ------------------------------------------------------


class ConnectionFailed(PgkeepError):
    """The server could not be reached at all."""

    code = "E010"
    usual_hint = "Is the server up, and may this machine reach it?"


class AuthenticationFailed(ConnectionFailed):
    """The server refused the role or the password. Never retried: platforms ban the address."""

    code = "E011"


class UnknownHost(ConnectionFailed):
    """The host name does not resolve."""

    code = "E012"


class TlsRefused(ConnectionFailed):
    """An encrypted connection was asked for and could not be made or trusted."""

    code = "E013"


class TransactionPooler(ConnectionFailed):
    """A pooler in transaction mode keeps no session, so no snapshot can be held through it."""

    code = "E014"


class ServerUnsupported(PgkeepError):
    """The server is older than PostgreSQL 14."""

    code = "E015"


class DatabaseError(PgkeepError):
    """The server answered a statement with an error that has no kind of its own here."""

    code = "E020"
    usual_hint = "Look into the server's log; run the command again when the cause is gone."


class PermissionMissing(DatabaseError):
    """The role may not read (or write) something that is needed."""

    code = "E021"


class RowsHidden(DatabaseError):
    """Row-level security would filter what the role reads: the backup would lack rows."""

    code = "E022"


class TableChanged(DatabaseError):
    """A table was dropped, altered, emptied or locked while the backup was reading it."""

    code = "E023"


class ConnectionLost(DatabaseError):
    """The connection broke while it was in use."""

    code = "E024"


class CountMismatch(DatabaseError):
    """The rows of a table's parts are not the rows that the same snapshot counts."""

    code = "E025"


class SnapshotHeldTooLong(DatabaseError):
    """The backup would have held back the source's vacuum for longer than allowed."""

    code = "E026"


class ProgramFailed(PgkeepError):
    """pg_dump, pg_restore or psql ended with an error."""

    code = "E027"
    usual_hint = "Run the command again with --debug; the server's log may say more."


# --- restoring ------------------------------------------------------------------------------


class TargetNotReady(PgkeepError):
    """The target database lacks something that the restore needs (a role, a table, a right)."""

    code = "E040"
    usual_hint = "Make what is missing in the target, then run the same command again."


class TargetNotEmpty(PgkeepError):
    """The target database already holds something."""

    code = "E041"


class RestoreFailed(PgkeepError):
    """A restore ended before it was complete; the target is marked as incomplete."""

    code = "E042"
    usual_hint = "Drop the target database and create it again before the next try."


class ProofFailed(PgkeepError):
    """What was restored is not what was backed up."""

    code = "E043"
    usual_hint = "Do not use the target. Restore again, or use another backup."


# --- sealing --------------------------------------------------------------------------------


class KeyMissing(PgkeepError):
    """No key was given that opens this."""

    code = "E050"
    usual_hint = "Pass the key with --identity FILE."


class KeyUnusable(PgkeepError):
    """A key file or recipient cannot be read or understood, or its passphrase is wrong."""

    code = "E051"
    usual_hint = "Check the file, or give another key."


class RecipientUnusable(KeyUnusable):
    """A configured recipient is no public key that can be sealed to, or gpg knows none such."""

    code = "E054"
    exit_code = ExitCode.USAGE
    usual_hint = "Correct encryption.recipients in the configuration."


class NotAuthentic(PgkeepError):
    """A signature is wrong or missing, or the signer is not one that is trusted."""

    code = "E052"
    usual_hint = "Do not trust this until you know why: it was changed, or comes from another host."


class DamagedObject(PgkeepError):
    """A stored object's bytes are not those that were written."""

    code = "E053"
    usual_hint = "Use another copy of the repository, or another backup."


# --- stores and repositories ----------------------------------------------------------------


class StoreError(PgkeepError):
    """A store could not do what it was asked."""

    code = "E060"
    usual_hint = "Check the disk or the provider, then run the same command again."


class ObjectMissing(StoreError):
    """The store holds nothing under this name."""

    code = "E061"
    usual_hint = "Use another copy of the repository, or another backup."


class StoreFull(StoreError):
    """The disk or the quota is full. Nothing half-written keeps its final name."""

    code = "E062"


class StoreAccessDenied(StoreError):
    """The store may not be read or written with the rights at hand."""

    code = "E063"


class StoreUnavailable(StoreError):
    """A store did not answer, or not now: what the retrying of remote stores is for."""

    code = "E069"
    usual_hint = "Check the network and the provider, then run the same command again."


class RepositoryMissing(StoreError):
    """There is no repository at this place (or it cannot be seen)."""

    code = "E064"


class RepositoryVanished(RepositoryMissing):
    """There is no repository at a place where this host has written to one: a disk that is not
    mounted, perhaps. None is made there until it is forgotten (`pgkeep forget`)."""

    code = "E055"


class RepositoryLocked(StoreError):
    """Another process is writing to the repository."""

    code = "E065"


class RepositoryUnsupported(StoreError):
    """The repository has a format that this version does not know."""

    code = "E066"


class BackupMissing(PgkeepError):
    """No such backup."""

    code = "E067"
    usual_hint = "Run: pgkeep list"


class ManifestInvalid(PgkeepError):
    """A manifest, or a table of contents, does not have the form that it must have."""

    code = "E068"
    usual_hint = "The file is damaged, or was not written by pgkeep. Use another copy or backup."


# --- the journal ----------------------------------------------------------------------------


class CaptureImpossible(PgkeepError):
    """The server, or the rights of the role, do not allow that changes are captured."""

    code = "E070"


class SlotLost(PgkeepError):
    """The replication slot is gone, was moved by somebody else, or holds too much WAL."""

    code = "E071"
    usual_hint = "Capture makes a new slot and a new backup; the gap stays in the journal."


class JournalInvalid(PgkeepError):
    """A segment of the journal does not have the form that it must have."""

    code = "E072"
    usual_hint = "Use another copy of the repository, or restore to an earlier moment."


class MomentUnreachable(PgkeepError):
    """No backup and journal lead to the moment that was asked for."""

    code = "E073"
    usual_hint = "Run pgkeep status to see which moments can be reached."


class ReplayFailed(PgkeepError):
    """A change of the journal does not fit the target."""

    code = "E074"
    usual_hint = "Restore to an earlier moment, or from another backup, and report this."


class SchemaChangedUnseen(SlotLost):
    """Tables were altered, and nothing tells which of the captured rows came before that."""

    code = "E075"
    usual_hint = "The journal begins anew with a backup; what lies between is a gap."


# --- the keeper -----------------------------------------------------------------------------


class KeeperRunning(PgkeepError):
    """Another keeper runs with the same state folder."""

    code = "E080"


class StateUnwritable(PgkeepError):
    """The keeper's own state cannot be kept."""

    code = "E081"
    usual_hint = "Check the disk and the rights of the state folder."


class NotTold(PgkeepError):
    """A message could not be delivered."""

    code = "E082"
    usual_hint = "The keeper tries again. Check the address and its secret."


class LedgerBroken(PgkeepError):
    """An entry of the ledger was edited, removed or cut off."""

    code = "E083"
    usual_hint = "Somebody or something changed the record: compare it with a copy, and ask who."


class AddressTaken(PgkeepError):
    """The address for metrics cannot be listened at."""

    code = "E084"
    usual_hint = "Choose another with --metrics HOST:PORT, or end what uses it."


# --- networks -------------------------------------------------------------------------------


class NetworkRefused(PgkeepError):
    """The address of a database or store is outside of the configured networks."""

    code = "E093"


class StateUnsafe(PgkeepError):
    """The state folder, or a file in it, is open to others."""

    code = "E094"


# --- a platform's own interface ---------------------------------------------------------------


class PlatformRefused(PgkeepError):
    """The platform's interface said no: token, plan, or a state that does not allow it."""

    code = "E085"


class PlatformUnreachable(PgkeepError):
    """The platform's interface does not answer, or asks to wait."""

    code = "E086"
    usual_hint = "Try again later; https://status.supabase.com tells of failures."

    def __init__(self, message: str, *, hint: str = "", again_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.again_after = again_after
        """Seconds to wait, where the platform said so."""


class PlatformRestoreFailed(PgkeepError):
    """A restore in place did not come to its end."""

    code = "E087"
    usual_hint = "Look at the project's dashboard; run the same command again to go on waiting."


# --- files beside the database --------------------------------------------------------------


class FilesUnavailable(PgkeepError):
    """The storage of files does not answer, or refuses."""

    code = "E095"
    usual_hint = "Look at the key and at the project's status; run the same command again."

    def __init__(self, message: str, *, hint: str = "", is_final: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.is_final = is_final
        """Whether another try would be answered the same: a wrong key, a plan, a size."""


class FileGone(PgkeepError):
    """A file is not there, or not the one that the database lists."""

    code = "E096"


class FilesNotWhole(PgkeepError):
    """A restored file is not what was backed up."""

    code = "E097"


# --- a second factor ------------------------------------------------------------------------


class FactorNeeded(PgkeepError):
    """What was asked for needs a second factor, and none was given."""

    code = "E090"
    usual_hint = "docs/second-factor.md says how to give one."


class FactorRefused(PgkeepError):
    """A code is wrong or used already, or none is looked at after too many wrong ones."""

    code = "E091"
    usual_hint = "Look at the app again: a code is good for about a minute, and once."


class ApprovalInvalid(PgkeepError):
    """A signature does not approve this action, or does not any more."""

    code = "E092"
    usual_hint = "Run the command without it to get a new challenge, and sign that."
