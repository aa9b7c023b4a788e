"""Where the fuzzers begin: small inputs of each kind, made by our encoders, pynetdicom's and pydicom's."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import msgspec
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.dimse import associate, command, pdu
from dicomnode.dimse.associate import Policy
from tests.attacks.nested import nested
from tests.corpus import data_set_of, make, part10
from tests.dimse import requests


def _requests() -> Iterator[bytes]:
    yield requests.request()
    yield requests.request(extra=[requests.role(requests.CT, scu=True, scp=True), requests.identity(b"name", b"pass")])
    yield requests.request(extra=[requests.extended(requests.CT, b"\1\2")])
    yield requests.raw_request(requests.APPLICATION, requests.context(1), requests.context(3), requests.USER)


def _commands() -> Iterator[bytes]:
    fields = (
        *(command.C_STORE_RQ, command.C_ECHO_RQ, command.C_FIND_RQ, command.C_MOVE_RQ, command.C_GET_RQ),
        *(command.C_CANCEL_RQ, command.N_ACTION_RQ, command.N_EVENT_REPORT_RQ, 0x8001, 0x8020, 0x8021),
    )
    for field in fields:
        told = command.Command(field, message_id=7, affected_sop_class_uid=requests.CT, priority=1, status=0xFF00)
        more = {"responding_to": 7, "remaining": 3, "move_destination": "ELSEWHERE", "error_comment": "odd"}
        yield command.encode(msgspec.structs.replace(told, **more))
    yield command.encode_store_rq(1, requests.CT, "1.2.3.4")


def _pdus() -> Iterator[bytes]:
    asked = next(_requests())
    store, echo, release = requests.store(b"data" * 20), requests.echo(), pdu.release_rq()
    fragments = requests.p_data(*(requests.pdv(3, 0, bytes([n])) for n in range(20)), requests.pdv(3, 2, b""))
    begun = requests.p_data(requests.pdv(3, 3, command.encode_store_rq(1, requests.CT, "1.2.3.4")))
    for talk in (
        asked + echo + store + release,
        asked + begun + fragments + store + echo,
        asked + requests.store(bytes(3000)) + store,
        asked + pdu.abort(by_provider=False),
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        yield b"\x05" + talk
        yield b"\x90" + talk


def _acceptances() -> Iterator[bytes]:
    for asked in _requests():
        yield associate.negotiate(associate.read_request(asked[6:]), Policy(16384))[1][6:]


def _objects() -> Iterator[Dataset]:
    yield make()
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = requests.CT, "1.2.3"
    ds = make(ReferencedImageSequence=Sequence([item, item]), SpecificCharacterSet="\\ISO 2022 IR 87")
    ds["ReferencedImageSequence"].is_undefined_length = True
    ds.add_new(0x00091010, "LO", "OURS")
    ds.add_new(0x00091020, "UN", b"\1\2\3")
    yield ds


def _files() -> Iterator[bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for ds in _objects():
            for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
                yield part10(ds, syntax)
    plain = part10(make())
    yield from (plain[128:], plain[132:], plain[:200], data_set_of(plain))


def _data_sets() -> Iterator[bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for ds in _objects():
            for number, syntax in enumerate((ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)):
                data = data_set_of(part10(ds, syntax))
                yield bytes([number]) + data
                yield bytes([number | 128]) + data[:-100]
    data = data_set_of(part10(make()))
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    yield b"\3" + deflater.compress(data) + deflater.flush()
    for undefined in (True, False):
        yield b"\0" + nested(5, undefined=undefined) + data
        yield b"\1" + nested(70, implicit=True, undefined=undefined)
    fragments = struct.pack("<HHL", 0xFFFE, 0xE000, 0) + struct.pack("<HHL", 0xFFFE, 0xE000, 4) + b"abcd"
    yield b"\4" + data[: data.rindex(b"\xe0\x7f\x10\0")] + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + fragments


def _identifiers() -> Iterator[bytes]:
    item = Dataset()
    item.Modality, item.ScheduledProcedureStepStartDate = "CT", "20260101-20260102"
    ds = Dataset()
    ds.SpecificCharacterSet, ds.QueryRetrieveLevel = "ISO_IR 192", "STUDY"
    ds.PatientName, ds.StudyInstanceUID, ds.NumberOfStudyRelatedInstances = "J\u00fcr*", ["1.2", "1.3"], None
    ds.ScheduledProcedureStepSequence = Sequence([item])
    for number, syntax in enumerate((ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)):
        yield bytes([number]) + encoded(ds, syntax)


def encoded(ds: Dataset, syntax: UID) -> bytes:
    """Return `ds` as a bare data set, as pydicom writes it."""
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(buffer, ds, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return buffer.getvalue()


def _bodies() -> Iterator[bytes]:
    part = b"--x\r\nContent-Type: application/dicom\r\nA: b\r\n c\r\n\r\nDICM\r\n"
    for body in (
        part + part + b"--x--\r\n",
        b"preamble\r\n" + part + b"--x--",
        b"--x \t\r\n\r\n\r\n--x--",
        part + b"--x",
    ):
        yield b"\3" + body


def _questions() -> Iterator[bytes]:
    yield from (
        *(b"PatientName=DOE*^?", b"StudyDate=20260101-20260102", b"StudyTime=-1200", b"00080018=1.2\\1.3"),
        *(b"RequestAttributesSequence.ScheduledProcedureStepID=X", b"AcquisitionDateTime=20260101-0500"),
        *(b"SliceThickness=1.5", b"PatientID=\\*_%", b"00091010.00091020=1", b"InstanceNumber=1"),
    )


def _texts() -> Iterator[bytes]:
    yield from (
        b"ISO_IR 192\0J\xc3\xbcrgen",
        b"\\ISO 2022 IR 87\0Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
        b"ISO 2022 IR 6\\ISO 2022 IR 149\0\x1b$)C\xb1\xe8",
        b"GB18030\0\xcd\xf5",
        b"nonsense\0abc",
    )


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "pdus": _pdus,
    "request": lambda: (asked[6:] for asked in _requests()),
    "acceptance": _acceptances,
    "command_set": _commands,
    "header": _data_sets,
    "metadata": _data_sets,
    "identifier": _identifiers,
    "pixels": _data_sets,
    "file": _files,
    "multipart": _bodies,
    "question": _questions,
    "charset": _texts,
}


def write(target: str, folder: Path) -> None:
    """Write the seeds of `target` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[target]()):
        (folder / f"seed-{number}").write_bytes(seed)
