"""A peer on a plain socket that says what it is told to, right or wrong, and waits for what comes back."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomnode.dimse import command, pdu
from tests.corpus import data_set_of, part10
from tests.dimse.requests import CT, EXPLICIT, IMPLICIT, VERIFICATION, echo, p_data, pdv, request
from tests.flows.running import Running

DEFLATED = "1.2.840.10008.1.2.1.99"
CONTEXTS: Sequence[tuple[str, Sequence[str]]] = (
    (VERIFICATION, [IMPLICIT]),
    (CT, [EXPLICIT]),
    (CT, [IMPLICIT]),
    (CT, [DEFLATED]),
)
OF_SYNTAX = {EXPLICIT: 3, IMPLICIT: 5, DEFLATED: 7}
_PATIENCE_S = 30.0


class Peer:
    """One connection to the DIMSE door of `node`. Every wait ends after 30 s."""

    def __init__(self, node: Running, from_ip: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(node.scp, timeout=_PATIENCE_S, source_address=(from_ip, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send it all, or as much as is taken before the node closes."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def associate(self, raw: bytes | None = None) -> int:
        """Ask for an association; return the type of the answer, 0 for none."""
        self.send(request(CONTEXTS) if raw is None else raw)
        answer = self.pdu()
        return answer[0] if answer else 0

    def pdu(self) -> tuple[int, bytes] | None:
        """Return the next PDU's type and body, None when the node has closed."""
        head = self._exactly(6)
        if head is None:
            return None
        body = self._exactly(int.from_bytes(head[2:], "big"))
        return None if body is None else (head[0], body)

    def response(self) -> command.Command:
        """Return the next message's command set."""
        answer = self.pdu()
        assert answer is not None, "the node closed"
        assert answer[0] == pdu.P_DATA_TF, answer
        return command.decode(answer[1][6:])

    def echo(self) -> int | None:
        self.send(echo())
        return self.response().status

    def store(self, data_set: bytes, syntax: str = EXPLICIT, uid: str = "1.2.3.4", sop_class: str = CT) -> int | None:
        """Send a data set in PDUs of 60 KB; return the status."""
        number = OF_SYNTAX[syntax]
        self.send(p_data(pdv(number, 3, command.encode_store_rq(1, sop_class, uid))))
        for at in range(0, len(data_set), 60_000):
            piece = data_set[at : at + 60_000]
            self.send(p_data(pdv(number, 2 if at + 60_000 >= len(data_set) else 0, piece)))
        return self.response().status

    def store_object(self, ds: Dataset, syntax: UID = ExplicitVRLittleEndian) -> int | None:
        return self.store(data_set_of(part10(ds, syntax)), str(syntax), str(ds.SOPInstanceUID))

    def release(self) -> None:
        self.send(pdu.release_rq())
        answer = self.pdu()
        assert answer is not None
        assert answer[0] == pdu.RELEASE_RP
        self.socket.close()

    def is_closed(self) -> bool:
        """Wait until the node closes without another word; False when it says something."""
        return self._exactly(1) is None

    def ended_by(self) -> int:
        """Wait for the end; return ABORT when the node aborts, 0 when it closes without a word."""
        while (answer := self.pdu()) is not None:
            if answer[0] == pdu.ABORT:
                return pdu.ABORT
        return 0

    def reset(self) -> None:
        """Close with RST, as a crashed machine or a firewall does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except (ConnectionResetError, BrokenPipeError):
                return None
            if not more:
                return None
            data += more
        return data
