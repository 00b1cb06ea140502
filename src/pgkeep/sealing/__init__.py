"""Sealing, opening and signing: bytes in, bytes out, no files and no network."""

from pgkeep.sealing.age import AgeWriter, Sink, X25519Identity, X25519Recipient, open_sealed
from pgkeep.sealing.gpg import Keyring
from pgkeep.sealing.keys import (
    EpochKey,
    Identity,
    PassphraseCallback,
    Recipient,
    load_epoch,
    load_epoch_of,
    load_identities,
    new_epoch,
    open_with,
    open_with_passphrase,
    parse_recipient,
    seal_to,
    seal_with_passphrase,
)
from pgkeep.sealing.recipients import (
    RecipientProblem,
    Recipients,
    SealedKey,
    check_recipients,
)
from pgkeep.sealing.sealer import Sealer, unseal
from pgkeep.sealing.signing import (
    PublicSigner,
    SigningKey,
    allowed_signers,
    read_allowed_signers,
    verify,
)

__all__ = [
    "AgeWriter",
    "EpochKey",
    "Identity",
    "Keyring",
    "PassphraseCallback",
    "PublicSigner",
    "Recipient",
    "RecipientProblem",
    "Recipients",
    "SealedKey",
    "Sealer",
    "SigningKey",
    "Sink",
    "X25519Identity",
    "X25519Recipient",
    "allowed_signers",
    "check_recipients",
    "load_epoch",
    "load_epoch_of",
    "load_identities",
    "new_epoch",
    "open_sealed",
    "open_with",
    "open_with_passphrase",
    "parse_recipient",
    "read_allowed_signers",
    "seal_to",
    "seal_with_passphrase",
    "unseal",
    "verify",
]
