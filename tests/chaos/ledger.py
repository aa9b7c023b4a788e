"""What was acknowledged, told by senders that nobody here wrote (pynetdicom) and that never give up."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

import msgspec
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, MRImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode

from tests.converting import JPEG_2000, jpeg_2000
from tests.corpus import make

_PAUSE_S = 0.2
_OUT_OF_RESOURCES = range(0xA700, 0xA800)


class Acknowledged(msgspec.Struct, frozen=True):
    """An object whose sender was told of a success: its UIDs, and the SHA-256 of the data set that was sent."""

    study: str
    series: str
    sop: str
    sha256: str
    syntax: str


class Refusal(msgspec.Struct, frozen=True):
    """A status that was no success, and when it came (of the monotonic clock)."""

    status: int
    at: float

    @property
    def is_out_of_resources(self) -> bool:
        return self.status in _OUT_OF_RESOURCES


class Ledger:
    """What several senders were told. `lost` counts the associations that were refused, or ended before an answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acknowledged: dict[str, Acknowledged] = {}
        self.refusals: list[Refusal] = []
        self.lost: Counter[str] = Counter()

    def acknowledge(self, one: Acknowledged) -> None:
        with self._lock:
            self._acknowledged[one.sop] = one

    def acknowledged(self) -> dict[str, Acknowledged]:
        """Return what is acknowledged by now, by SOP Instance UID."""
        with self._lock:
            return dict(self._acknowledged)

    def __len__(self) -> int:
        with self._lock:
            return len(self._acknowledged)


class Sender:
    """A modality: sends one object after another until it is told to stop, each again until it is acknowledged."""

    def __init__(self, where: Callable[[], tuple[str, int]], ledger: Ledger, seed: int, pace_s: float = 0.0) -> None:
        self._where = where
        self._ledger = ledger
        self._random = random.Random(seed)
        self._pace_s = pace_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sender-{seed}", daemon=True)
        self._association: Association | None = None
        self._socket: socket.socket | None = None
        self._study, self._series = str(generate_uid()), str(generate_uid())

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience_s: float = 60.0) -> None:
        """Send the object that is under way to its end, and no more."""
        self._stopping.set()
        self._thread.join(patience_s)
        assert not self._thread.is_alive(), "an object is not taken though nothing is away"

    def _run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            if number % 40 == 0:
                self._study, self._series = str(generate_uid()), str(generate_uid())
            self._deliver(*self._made(number))
            time.sleep(self._pace_s)
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._let_go()

    def _made(self, number: int) -> tuple[Dataset, str]:
        uids = {"StudyInstanceUID": self._study, "SeriesInstanceUID": self._series}
        if number % 10 == 0:
            return jpeg_2000(**uids), JPEG_2000
        size = self._random.choice((8, 8, 64, 200))
        pixels = self._random.randbytes(size * size * 2)
        return make(**uids, InstanceNumber=number, Rows=size, Columns=size, PixelData=pixels), ExplicitVRLittleEndian

    def _deliver(self, ds: Dataset, syntax: str) -> None:
        """Send `ds` until a success is told."""
        ds.ensure_file_meta()
        ds.file_meta.TransferSyntaxUID = UID(syntax)
        sent: list[bytes] = []
        while True:
            status = self._send(ds, sent)
            if status is not None and (status == 0 or 0xB000 <= status < 0xC000):
                digest = hashlib.sha256(sent[-1]).hexdigest()
                self._ledger.acknowledge(
                    Acknowledged(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, digest, syntax)
                )
                return
            if status is not None:
                self._ledger.refusals.append(Refusal(status, time.monotonic()))
            time.sleep(_PAUSE_S)

    def _send(self, ds: Dataset, sent: list[bytes]) -> int | None:
        association = self._associated()
        if association is None:
            self._ledger.lost["no association"] += 1
            return None
        try:
            answer = association.send_c_store(ds)
        except (RuntimeError, ValueError):  # it ended meanwhile
            self._ledger.lost["over"] += 1
            return None
        if "Status" not in answer:
            self._ledger.lost["no answer"] += 1
            association.abort()
            return None
        sent.append(_encoded(ds))
        return int(answer.Status)

    def _associated(self) -> Association | None:
        if self._association is not None and self._association.is_established:
            return self._association
        self._let_go()
        ae = AE("MODALITY")
        ae.acse_timeout, ae.dimse_timeout, ae.network_timeout, ae.connection_timeout = 5, 20, 60, 5
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        ae.add_requested_context(MRImageStorage, JPEG2000Lossless)
        try:
            host, port = self._where()
        except KeyError:  # it is being started
            return None
        association = ae.associate(host, port, ae_title="DICOMNODE", evt_handlers=[(evt.EVT_CONN_OPEN, self._keep)])
        held = association.dul.socket
        if held is not None and held.socket is not None:
            self._socket = held.socket
        self._association = association if association.is_established else None
        return self._association

    def _keep(self, event: evt.Event) -> None:
        held = event.assoc.dul.socket
        assert held is not None
        self._socket = held.socket

    def _let_go(self) -> None:
        """Close the socket of an association that is over: pynetdicom leaves some to the garbage collector."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _encoded(ds: Dataset) -> bytes:
    """Return the bytes that pynetdicom sends of `ds`."""
    syntax = ds.file_meta.TransferSyntaxUID
    encoded = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    assert encoded is not None
    return encoded
