"""Bech32 (BIP 173), as age uses it: no limit of 90 characters, and one case for each prefix."""

from __future__ import annotations

from collections.abc import Iterable

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_SYMBOLS = 6


def encode(prefix: str, payload: bytes) -> str:
    """`prefix` decides the case of the whole: age writes recipients small, identities large."""
    symbols = _regroup(payload, 8, 5, pad=True)
    text = (
        prefix.lower() + "1" + "".join(_ALPHABET[s] for s in symbols + _checksum(prefix, symbols))
    )
    return text.upper() if prefix.isupper() else text


def decode(prefix: str, text: str) -> bytes:
    """The payload of `text`. ValueError, which never quotes it, for anything not canonical."""
    head, separator, tail = text.rpartition("1")
    if not separator or head != prefix:
        raise ValueError("another prefix")
    if tail != (tail.upper() if prefix.isupper() else tail.lower()):
        raise ValueError("mixed case")
    symbols = [_ALPHABET.find(character) for character in tail.lower()]
    if -1 in symbols or len(symbols) < _CHECKSUM_SYMBOLS:
        raise ValueError("a character that bech32 does not have, or too short")
    payload, checksum = symbols[:-_CHECKSUM_SYMBOLS], symbols[-_CHECKSUM_SYMBOLS:]
    if checksum != _checksum(prefix, payload):
        raise ValueError("wrong checksum")
    return bytes(_regroup(payload, 5, 8, pad=False))


def _checksum(prefix: str, symbols: list[int]) -> list[int]:
    codes = prefix.lower().encode("ascii")
    expanded = [code >> 5 for code in codes] + [0] + [code & 31 for code in codes]
    remainder = _polymod([*expanded, *symbols, *[0] * _CHECKSUM_SYMBOLS]) ^ 1
    return [remainder >> 5 * (_CHECKSUM_SYMBOLS - 1 - i) & 31 for i in range(_CHECKSUM_SYMBOLS)]


def _polymod(symbols: Iterable[int]) -> int:
    remainder = 1
    for symbol in symbols:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ symbol
        for bit, generator in enumerate(_GENERATOR):
            remainder ^= generator if top >> bit & 1 else 0
    return remainder


def _regroup(groups: Iterable[int], from_bits: int, to_bits: int, *, pad: bool) -> list[int]:
    regrouped, held, held_bits = [], 0, 0
    for group in groups:
        held, held_bits = held << from_bits | group, held_bits + from_bits
        while held_bits >= to_bits:
            held_bits -= to_bits
            regrouped.append(held >> held_bits)
            held &= (1 << held_bits) - 1
    if pad and held_bits:
        regrouped.append(held << to_bits - held_bits)
    elif not pad and (held_bits >= from_bits or held):
        raise ValueError("padding that is not canonical")
    return regrouped
