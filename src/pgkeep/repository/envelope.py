"""A file that carries its own signature: a line that says what it is, a signed head, and a body.

pgkeep ...
{"format":1,...}
-----BEGIN SSH SIGNATURE-----
...
-----END SSH SIGNATURE-----
<body>
"""

from __future__ import annotations

from collections.abc import Sequence

from pgkeep.sealing import PublicSigner, SigningKey, verify

_END = b"-----END SSH SIGNATURE-----\n"


def pack(first_line: bytes, head: bytes, body: bytes, key: SigningKey) -> bytes:
    """The file. `head` is one line with its line break, and vouches for the body."""
    return first_line + head + key.sign(head) + body


def unpack(data: bytes, first_line: bytes, trusted: Sequence[PublicSigner]) -> tuple[bytes, bytes]:
    """Head and body. `ValueError` if it is no such file, `NotAuthentic` if not well signed."""
    first, end = len(first_line), data.find(_END)
    newline = data.find(b"\n", first) + 1
    if not data.startswith(first_line) or not first < newline < end:
        raise ValueError("not a file of this kind")
    end += len(_END)
    head = data[first:newline]
    verify(head, data[newline:end], trusted)
    return head, data[end:]
