"""The C-STORE sub-operations of one C-MOVE or C-GET: the objects, and how many of them have gone (PS3.4 C.4.2.1.6)."""

from __future__ import annotations

import asyncio

from dicomnode.dicom.identifier import write_identifier
from dicomnode.dimse import status
from dicomnode.dimse.outgoing import Opened, Sendable, Transcoder
from dicomnode.dimse.responder import Cancellation, Reply
from dicomnode.dimse.sender import Sent
from dicomnode.errors import Refused
from dicomnode.model.query import Location
from dicomnode.services.retrieve import Retrieve

_FAILED_SOP_INSTANCE_UID_LIST = "00080058"


class Kept:
    """An object of the storage that can be sent, until the peer that asked for it wants no more."""

    def __init__(self, location: Location, retrieve: Retrieve, cancellation: Cancellation) -> None:
        self._location = location
        self._retrieve = retrieve
        self._cancellation = cancellation

    @property
    def sop_class_uid(self) -> str:
        """Its SOP class."""
        return self._location.sop_class_uid

    @property
    def sop_instance_uid(self) -> str:
        """Its own UID."""
        return self._location.sop_uid

    @property
    def transfer_syntax_uid(self) -> str:
        """How it is kept."""
        return self._location.transfer_syntax_uid

    async def open(self) -> Opened:
        """Return its data set. Raises: Refused, the peer wants no more; NotFound, Corrupt, Unavailable."""
        if self._cancellation.asked:
            raise Refused("the peer wants no more")
        await asyncio.sleep(0)  # one that is open and can be sent goes first; this is read while the peer takes that
        first, rest = await self._retrieve.data_set(self._location)
        return Opened(first) if rest is None else Opened(first, rest, rest.aclose)

    async def open_as(self, transfer_syntax_uid: str) -> Opened | None:
        """Return its data set in another transfer syntax, None where it is not kept in that. Raises: as `open`."""
        (form,) = await self._retrieve.suited((self._location,), lambda uid: uid == transfer_syntax_uid)
        if form is self._location:
            return None
        return await Kept(form, self._retrieve, self._cancellation).open()


class KeptFirst:
    """Gives objects another transfer syntax: as they are kept in it, else by `transcoder`."""

    def __init__(self, transcoder: Transcoder) -> None:
        self._transcoder = transcoder

    @property
    def targets(self) -> tuple[str, ...]:
        """What can be made, the best first."""
        return self._transcoder.targets

    async def transcode(self, sendable: Sendable, transfer_syntax_uid: str) -> Opened:
        """Return the data set in that transfer syntax. Raises: BadInstance, where it cannot be decoded; NodeError."""
        kept = await sendable.open_as(transfer_syntax_uid) if isinstance(sendable, Kept) else None
        return kept or await self._transcoder.transcode(sendable, transfer_syntax_uid)


class Suboperations:
    """How many sub-operations remain, went well, with a warning, and failed, and which ones failed."""

    def __init__(self, count: int, cancellation: Cancellation, transfer_syntax_uid: str) -> None:
        self.remaining = count
        self._cancellation = cancellation
        self._transfer_syntax_uid = transfer_syntax_uid
        self._completed = self._warnings = 0
        self._failed: list[str] = []

    def sent(self, sent: Sent[Kept]) -> None:
        """Count an object; one that was not sent because nobody wants it any more remains."""
        if sent.status is None and self._cancellation.asked:
            return
        self.remaining -= 1
        if not sent.is_stored:
            self._failed.append(sent.sendable.sop_instance_uid)
        elif sent.is_warning:
            self._warnings += 1
        else:
            self._completed += 1

    def pending(self) -> Reply:
        """Return how far it is."""
        return self._reply(status.PENDING, remaining=self.remaining)

    def last(self) -> Reply:
        """Return how it ended, with the UIDs of what failed."""
        if self._cancellation.asked and self.remaining:
            return self._reply(status.CANCELLED, remaining=self.remaining)
        if self._failed and not self._completed and not self._warnings:
            return self._reply(status.UNABLE_TO_PERFORM_SUBOPERATIONS)
        if self._failed or self._warnings:
            return self._reply(status.SUBOPERATIONS_WITH_FAILURES)
        return self._reply(status.SUCCESS)

    def _reply(self, result: int, remaining: int | None = None) -> Reply:
        data = b""
        if self._failed and result != status.PENDING:
            failed = {_FAILED_SOP_INSTANCE_UID_LIST: {"vr": "UI", "Value": self._failed}}
            data = write_identifier(failed, self._transfer_syntax_uid)
        return Reply(
            result,
            data,
            remaining=remaining,
            completed=self._completed,
            failed=len(self._failed),
            warning=self._warnings,
        )
