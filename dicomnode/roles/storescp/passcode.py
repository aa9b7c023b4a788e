"""Passcodes kept as scrypt hashes, in the form `$scrypt$ln=14,r=8,p=1$SALT$HASH` (RFC 7914; base64 without padding)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets

_LN, _R, _P = 14, 8, 1
_FORM = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})"
)
_MEMORY = 192 * 1024 * 1024  # what ln=17, r=8 takes, and some more


def hashed(passcode: bytes) -> str:
    """Return what to keep of a passcode; it takes some 50 ms."""
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(passcode, salt=salt, n=2**_LN, r=_R, p=_P, maxmem=_MEMORY, dklen=32)
    return f"$scrypt$ln={_LN},r={_R},p={_P}${_packed(salt)}${_packed(digest)}"


def is_hashed(kept: str) -> bool:
    """Tell whether this is a hash, and no passcode as it is."""
    return _FORM.fullmatch(kept) is not None


def fits(kept: str, passcode: bytes) -> bool:
    """Tell whether `passcode` is the one that is `kept`, hashed or as it is; how near it is takes no other time."""
    found = _FORM.fullmatch(kept)
    if found is None:
        return hmac.compare_digest(kept.encode(), passcode)
    ln, r, p = (int(found[i]) for i in (1, 2, 3))
    try:
        salt, digest = _unpacked(found[4]), _unpacked(found[5])
        made = hashlib.scrypt(passcode, salt=salt, n=2**ln, r=r, p=p, maxmem=_MEMORY, dklen=len(digest))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(made, digest)


def _packed(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def _unpacked(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


DUMMY = f"$scrypt$ln={_LN},r={_R},p={_P}${_packed(bytes(16))}${_packed(bytes(32))}"
"""What no passcode fits, yet takes as long to find out."""
