"""From bytes, however they are cut, to PDUs and whole messages (PS3.8 9.3.5, annex E). No I/O.

The kernel writes into `buffer()`: a small reused one for heads and small things, and, inside a large fragment of a data
set, the very place where the data set is put together.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from dicomnode.config import LimitsTable
from dicomnode.dicom.digest import Digest
from dicomnode.dimse import command as dimse_command
from dicomnode.dimse import pdu
from dicomnode.dimse.command import Command
from dicomnode.dimse.pdu import Breach, Garbage
from dicomnode.dimse.room import Rest, Room
from dicomnode.errors import NodeError

_BEFORE = 4 * 1024  # until an association stands, a socket costs no more than this
_AFTER = 256 * 1024
_DIRECT = 64 * 1024  # with this much of a fragment to come, a read of its own pays
_ABORT_SIZE = 10  # bytes of an A-ABORT PDU


class Message(msgspec.Struct, frozen=True):
    """One DIMSE message. `data` of C-STORE is lent until the message is done with; of any other it is the taker's.

    `rest` follows it in a large data set; otherwise `digest` is that of its beginning.
    """

    context_id: int
    command: Command
    data: memoryview | None = None
    rest: Rest | None = None
    digest: Digest | None = None


class Sink(Protocol):
    """Who is told what arrived. Either method may raise Breach."""

    def begins(self, kind: int) -> None:
        """Learn that a PDU of this type begins."""

    def control(self, kind: int, body: bytes) -> None:
        """Take a PDU that is not P-DATA-TF, without its head."""

    def message(self, message: Message) -> bool:
        """Take a message; return whether it is done with. If not, no other request comes until `next`.

        Responses and C-CANCEL do come; what is returned for them does not matter.
        """

    def wanted(self) -> None:
        """Learn that the reader of a large data set wants more."""


class Receiver:
    """Take bytes apart for one association."""

    def __init__(self, sink: Sink, limits: LimitsTable) -> None:
        self._sink = sink
        self._limits = limits
        self.room = Room(limits.held_in_memory, sink.wanted)
        self.contexts: frozenset[int] = frozenset()
        self.established = False
        self.busy = False  # the sink has a request
        self._lent = False  # … whose data set lies in the room, or came through it
        self.held = False  # nothing more may be worked on now, so nothing should be read
        self.messages = self.pdus = 0
        self._over = False
        self._use(_BEFORE)
        self._body = bytearray()
        self._body_kind = 0
        self._body_left = 0
        self._pdu_left = 0
        self._pdv_left = 0
        self._pdv_context = 0
        self._pdv_control = 0
        self._command_set = bytearray()
        self._begun: Message | None = None  # the message whose data set is arriving
        self._announced = False  # … and which the sink already has, as it is large
        self._next: Message | None = None  # what came before its turn
        self._direct = False

    def _use(self, size: int) -> None:
        self._scratch = bytearray(size)
        self._view = memoryview(self._scratch)
        self._start = self._end = 0

    def establish(self, contexts: frozenset[int]) -> None:
        """Let data in, on these presentation contexts."""
        self.contexts = contexts
        self.established = True
        left = bytes(self._view[self._start : self._end])
        self._use(_AFTER)
        self._view[: len(left)] = left
        self._end = len(left)

    @property
    def within_pdu(self) -> bool:
        """Whether a PDU has begun and is not all here, though nothing keeps us from reading it."""
        return (self._pdu_left > 0 or self._body_left > 0) and not self.held

    @property
    def within(self) -> bool:
        """Whether a message has begun and is not all here."""
        return self._begun is not None or bool(self._command_set) or self._pdu_left > 0

    def buffer(self) -> memoryview:
        """Return where the next bytes go; never empty."""
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
            if (
                self._pdv_left >= _DIRECT
                and not self._over
                and not self._pdv_control & pdu.COMMAND_FRAGMENT
                and self._may_take()
            ):
                self._direct = True
                return self.room.space(self._pdv_left)
            return self._view
        if end == len(self._view):
            left = bytes(self._view[start:end])
            self._view[: len(left)] = left
            self._start, self._end = 0, len(left)
        return self._view[self._end :]

    def received(self, size: int) -> None:
        """Work on `size` bytes that were put into what `buffer` returned. Raises: Breach, Garbage."""
        if self._direct:
            self._direct = False
            self.room.filled(size)
            self._took(size)
        else:
            self._end += size
        self._work()

    def next(self) -> None:
        """Let go of the message that the sink had, and go on with what has come since. Raises: Breach."""
        if self._lent:
            self.room.empty()
        self.busy = self.held = self._lent = False
        waiting, self._next = self._next, None
        if waiting is not None:
            self._begin(waiting)
        self._work()

    def hold(self) -> None:
        """Work on nothing more until `go_on`: whoever takes responses is behind."""
        self.held = True

    def go_on(self) -> None:
        """Work on what waits, now that the reader of a large data set has caught up. Raises: Breach."""
        if self.held and self._next is None:
            self.held = False
            self._work()

    def end(self, error: NodeError) -> None:
        """Throw away all that comes from now on, and tell the reader of a half-arrived data set."""
        self._over = True
        self._throw_away()
        if self.room.rest is not None:
            self.room.rest.finish(error)

    def close(self) -> None:
        """Let the buffers go; nothing more will come. What a handler was lent stays its own."""
        self._use(0)
        self.room.close()

    def _throw_away(self) -> None:
        """Let go of what came after the end. Who aborts even then waits for us to close (PS3.8 AA-2), as dcmtk does."""
        last = bytes(self._view[max(self._start, self._end - _ABORT_SIZE) : self._end])
        self._start = self._end = 0
        if len(last) == _ABORT_SIZE and last[0] == pdu.ABORT and last[2:6] == b"\0\0\0\x04":
            self._sink.control(pdu.ABORT, last[6:])

    def _work(self) -> None:
        if self._over:
            self._throw_away()
            return
        while not self.held and not self._over:
            if self._pdv_left:
                if not self._fragment():
                    return
            elif self._pdu_left:
                if not self._pdv_head():
                    return
            elif self._body_left:
                if not self._control():
                    return
            elif not self._pdu_head():
                return

    def _pdu_head(self) -> bool:
        start, available = self._start, self._end - self._start
        if not available:
            return False
        kind = self._scratch[start]
        if not 0 < kind <= pdu.ABORT and not self.established:
            raise Garbage("this is no DICOM")
        if available < 6:
            return False
        length: int
        kind, length = pdu.HEAD.unpack_from(self._scratch, start)
        pdu.check_head(kind, length, self._limits.pdu_received, self._limits.associate)
        self.pdus += 1
        self._sink.begins(kind)
        self._start = start + 6
        if kind == pdu.P_DATA_TF:
            self._pdu_left = length
        else:
            self._body_kind, self._body_left = kind, length
        return True

    def _control(self) -> bool:
        size = min(self._body_left, self._end - self._start)
        if not size:
            return False
        self._body += self._view[self._start : self._start + size]
        self._start += size
        self._body_left -= size
        if not self._body_left:
            body, self._body = bytes(self._body), bytearray()
            self._sink.control(self._body_kind, body)
        return True

    def _pdv_head(self) -> bool:
        if self._pdu_left < 6:
            raise Breach("a fragment that does not fit into its PDU")
        if self._end - self._start < 6:
            return False
        length, context_id, control = pdu.PDV_HEAD.unpack_from(self._scratch, self._start)
        if not 2 <= length <= self._pdu_left - 4:
            raise Breach("a fragment that does not fit into its PDU")
        if context_id not in self.contexts:
            raise Breach("data on a presentation context that was not accepted")
        if control & pdu.COMMAND_FRAGMENT:
            if self._begun is not None:
                raise Breach("a command where a data set goes on")
            if len(self._command_set) + length - 2 > self._limits.command_set:
                raise Breach("a command set longer than limits.command_set")
        elif self._begun is None or self._begun.context_id != context_id:
            raise Breach("a data set that no command announced")
        self._start += 6
        self._pdu_left -= 6
        self._pdv_left, self._pdv_context, self._pdv_control = length - 2, context_id, control
        if not self._pdv_left:
            self._fragment_ended()
        return True

    def _fragment(self) -> bool:
        size = min(self._pdv_left, self._end - self._start)
        if not size:
            return False
        start = self._start
        if self._pdv_control & pdu.COMMAND_FRAGMENT:
            self._command_set += self._view[start : start + size]
        else:
            if not self._may_take():
                return False
            space = self.room.space(size)
            size = len(space)
            space[:] = self._view[start : start + size]
            self.room.filled(size)
        self._start = start + size
        self._took(size)
        return True

    def _may_take(self) -> bool:
        """Make ready for more of the data set; False while its reader is behind."""
        room = self.room
        if room.total + self._pdv_left > self._limits.data_set:
            raise Breach("a data set longer than limits.data_set", pdu.NOT_SPECIFIED)
        if room.overflows(1):
            assert self._begun is not None
            if self._begun.command.command_field != dimse_command.C_STORE_RQ:
                raise Breach("an identifier longer than limits.held_in_memory", pdu.NOT_SPECIFIED)
            first, rest = room.stream()
            self._announced = self._lent = True
            self._deliver(Message(self._begun.context_id, self._begun.command, first, rest))
        if room.rest is not None and room.rest.full:
            self.held = True
            return False
        return True

    def _took(self, size: int) -> None:
        self._pdu_left -= size
        self._pdv_left -= size
        if not self._pdv_left:
            self._fragment_ended()

    def _fragment_ended(self) -> None:
        if not self._pdv_control & pdu.LAST_FRAGMENT:
            return
        if not self._pdv_control & pdu.COMMAND_FRAGMENT:
            self._data_set_ended()
            return
        message = Message(self._pdv_context, dimse_command.decode(bytes(self._command_set)))
        self._command_set.clear()
        field = message.command.command_field
        response = field & dimse_command.RESPONSE
        if field == dimse_command.C_CANCEL_RQ or (response and not message.command.data_set):
            self._sink.message(message)
        elif self.busy and (self._lent or not response):
            # Its turn comes when the one before is done; until then nothing more is read.
            self._next = message
            self.held = True
        else:
            self._begin(message)

    def _begin(self, message: Message) -> None:
        if message.command.data_set:
            self._begun = message
            if message.command.command_field == dimse_command.C_STORE_RQ:
                self.room.digest = Digest()
        else:
            self._deliver(message)

    def _data_set_ended(self) -> None:
        begun, self._begun = self._begun, None
        assert begun is not None
        if self._announced:
            self._announced = False
            self.room.flush()
        elif begun.command.command_field == dimse_command.C_STORE_RQ:
            self._lent = True
            self._deliver(Message(begun.context_id, begun.command, self.room.whole(), None, self.room.digest))
        else:
            own = memoryview(bytes(self.room.whole()))
            self.room.empty()
            self._deliver(Message(begun.context_id, begun.command, own))

    def _deliver(self, message: Message) -> None:
        self.messages += 1
        if message.command.command_field & dimse_command.RESPONSE:
            self._sink.message(message)
            return
        self.busy = True
        if self._sink.message(message):
            if self._lent:
                self.room.empty()
            self.busy = self._lent = False
