"""Whether a user identity that an association brings is one of ours (PS3.7 D.3.3.7). None of it is ever logged.

A name alone is believed only of a user who has neither passcode nor token. A JWT is compared with the tokens that are
configured, for web and DIMSE alike; Kerberos and SAML are refused.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping, Sequence

import msgspec

from dicomnode.config import UserTable
from dicomnode.dimse.items import Identity
from dicomnode.dimse.pdu import Rejection
from dicomnode.roles.storescp.passcode import DUMMY, fits, is_hashed

_NAME = 1
_NAME_AND_PASSCODE = 2
_JWT = 5
_UNSUPPORTED = {3: "Kerberos is not supported", 4: "SAML is not supported"}
_AT_ONCE = 2  # a check costs 16 MB and some 50 ms of a processor


class User(msgspec.Struct, frozen=True):
    """Somebody who proved to be a user of ours. `tenant` is "" for that of the peer."""

    name: str
    tenant: str = ""


class Identities:
    """The users of a node, and `tokens` that stand for nobody in particular."""

    def __init__(self, users: Mapping[str, UserTable], tokens: Sequence[str] = ()) -> None:
        self._users = dict(users)
        self._tokens = [(token.encode(), User("token")) for token in tokens if token]
        self._tokens += [
            (token.encode(), User(name, user.tenant)) for name, user in users.items() for token in user.tokens if token
        ]
        self._few = asyncio.Semaphore(_AT_ONCE)

    async def find(self, told: Identity) -> User:
        """Return who this is. Raises: Rejection."""
        if told.kind == _NAME:
            return self._by_name(told)
        if told.kind == _NAME_AND_PASSCODE:
            return await self._by_passcode(told)
        if told.kind == _JWT:
            return self._by_token(told)
        raise _refused(_UNSUPPORTED.get(told.kind, "a user identity of an unknown type"))

    def _by_name(self, told: Identity) -> User:
        name = _text(told.primary)
        user = self._users.get(name)
        if user is None or user.passcode or user.tokens:
            raise _refused("a user who is not known, or not by name alone")
        return User(name, user.tenant)

    async def _by_passcode(self, told: Identity) -> User:
        name = _text(told.primary)
        user = self._users.get(name)
        # A name that is not known takes as long as one that is, as far as passcodes are hashed.
        wanted = user.passcode if user is not None and user.passcode else DUMMY
        if is_hashed(wanted):
            async with self._few:
                right = await asyncio.to_thread(fits, wanted, told.secondary)
        else:
            right = fits(wanted, told.secondary)
        if user is None or not user.passcode or not right:
            raise _refused("a user who is not known, or a wrong passcode")
        return User(name, user.tenant)

    def _by_token(self, told: Identity) -> User:
        given = told.primary.strip(b" \0")
        # Every token is compared, so that the time tells nothing.
        found = [user for token, user in self._tokens if hmac.compare_digest(token, given)]
        if not found:
            raise _refused("a token that is not known")
        return found[-1]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").strip(" \0")


def _refused(problem: str) -> Rejection:
    """Return a rejection by the service user, for good, without a reason: the standard has none for this."""
    return Rejection(problem, 1, 1, 1)
