"""The form of an API key, `lagar_<id>_<secret>`, shared by the catalog that stores its digest and by who checks it."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final, Literal

Scope = Literal["infer", "feedback", "read", "admin"]
SCOPES: Final[tuple[Scope, ...]] = ("infer", "feedback", "read", "admin")
"""What a key may do: predict, send outcomes, look (metadata, pages, metrics), everything."""
MAX_KEY_LENGTH: Final = 256

_ALPHABET: Final = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
_ID_LENGTH: Final = 10
_SECRET_LENGTH: Final = 40


def new_key() -> tuple[str, str]:
    """(id, secret) of a new key: 58 and 233 bits of chance, letters and digits only."""
    return _word(_ID_LENGTH), _word(_SECRET_LENGTH)


def write_key(key_id: str, secret: str) -> str:
    """The key as its owner sees it, once."""
    return f"lagar_{key_id}_{secret}"


def split_key(presented: str) -> tuple[str, str] | None:
    """(id, secret) of `lagar_<id>_<secret>`; None when it has another form."""
    if len(presented) > MAX_KEY_LENGTH:
        return None
    prefix, _, rest = presented.partition("_")
    key_id, _, secret = rest.partition("_")
    return (key_id, secret) if prefix == "lagar" and key_id and secret else None


def digest_of(secret: str) -> str:
    """Hex SHA-256 of the secret part: with 233 bits of chance there is nothing for a slow hash to slow down."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _word(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
