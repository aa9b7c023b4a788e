"""pynetdicom, which writes down exactly what a program sends: some write the data sets of their files anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, evt

from tests.interop.places import HOST, Place


class Witness:
    """What came, by SOP Instance UID: transfer syntax and data set."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[str, bytes]] = {}
        self.place = Place("WITNESS", 0)

    def take(self, event: evt.Event) -> int:
        request: Any = event.request
        uid = str(request.AffectedSOPInstanceUID)
        self.seen[uid] = str(event.context.transfer_syntax), request.DataSet.getvalue()
        return 0x0000


@contextmanager
def watching(transfer_syntax: str) -> Iterator[Witness]:
    """Have a witness that takes any object in `transfer_syntax` alone."""
    witness = Witness()
    node: Any = AE(ae_title="WITNESS")
    node.maximum_pdu_size = 0
    for context in AllStoragePresentationContexts:
        node.add_supported_context(context.abstract_syntax, transfer_syntax)
    server = node.start_server((HOST, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, witness.take)])
    witness.place = Place("WITNESS", server.socket.getsockname()[1])
    try:
        yield witness
    finally:
        server.shutdown()
