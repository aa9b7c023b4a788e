"""C-FIND at a whole node: what is asked in any character set is found, and what is no question harms nobody."""

from __future__ import annotations

import random
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import TEXT_VR_DELIMS
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from dicomnode.dicom.identifier import write_identifier
from tests.corpus import corpus_files, identified, make, needs_corpus, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import storescu, stow

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


def associated(node: Running, syntax: str = ExplicitVRLittleEndian) -> Association:
    ae = AE("ASKER")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind, syntax)
    association = ae.associate(*node.scp)
    assert association.is_established
    return association


def ask_raw(association: Association, data: bytes) -> list[int]:
    """Return the statuses with which any bytes are answered as an identifier, none when the association ended."""
    request = C_FIND()
    request.MessageID = 1
    request.AffectedSOPClassUID = StudyRootQueryRetrieveInformationModelFind
    request.Priority = 2
    request.Identifier = BytesIO(data)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, next(iter(association._accepted_cx)))
    statuses: list[int] = []
    while not statuses or statuses[-1] in (0xFF00, 0xFF01):
        _, response = association.dimse.get_msg(block=True)
        if response is None:
            return []
        statuses.append(getattr(response, "Status", -1))
    association._reactor_checkpoint.set()
    return statuses


def study(**keys: str) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID = "STUDY", ""
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


def ask(node: Running, ds: Dataset) -> list[Dataset]:
    association = associated(node)
    try:
        found = list(association.send_c_find(ds, StudyRootQueryRetrieveInformationModelFind))
    finally:
        association.release()
    assert found[-1][0].Status == 0
    return [row for _, row in found if row is not None]


@pytest.mark.external("findscu")
def test_what_was_sent_is_found_at_once(shared: Running, tmp_path: Path) -> None:
    host, port = shared.scp
    for number in range(5):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(make(PatientID="FINDSCU", StudyInstanceUID=f"1.7.{number}")))
        assert storescu(shared, path).returncode == 0
        words = ["findscu", "-v", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=FINDSCU", host, str(port)]
        told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        assert (told.stdout + told.stderr).count("(Pending)") == number + 1


@needs_corpus
def test_names_of_the_world_are_found_in_their_own_character_sets(tmp_path: Path) -> None:
    """As each was written, whatever the answer is written in."""
    from tests.flows.running import start_node

    objects = [(path, ds) for path in corpus_files("charsets") if (ds := identified(path)) and ds.get("PatientName")]
    assert len(objects) > 5
    data = tmp_path / "data"
    told = dicomnode("import", "--json", *(str(path) for path, _ in objects), *sets(data))
    assert told.returncode == 0, told.stderr
    node = start_node(data, tmp_path / "log", *sets(data))
    try:
        for path, ds in objects:
            asked = study(StudyInstanceUID=str(ds.StudyInstanceUID))
            if "SpecificCharacterSet" in ds:
                asked.SpecificCharacterSet = ds.SpecificCharacterSet
            asked.PatientName = ds.PatientName
            rows = ask(node, asked)
            assert [str(row.PatientName) for row in rows] == [_name(ds)], path.name
            asked.PatientName = ""
            del asked.SpecificCharacterSet
            [row] = ask(node, asked)
            assert str(row.PatientName) == _name(ds), path.name
    finally:
        node.kill()


def _name(ds: Dataset) -> str:
    raw = ds.get_item("PatientName")
    assert raw is not None
    if isinstance(raw.value, bytes):
        sets_ = ds.get("SpecificCharacterSet", "") or ""
        encodings = convert_encodings([sets_] if isinstance(sets_, str) else list(sets_))
        return decode_bytes(raw.value, encodings, TEXT_VR_DELIMS).rstrip()
    return str(raw.value)


def _odd() -> list[bytes]:
    nested = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    level = write_identifier({"00080052": {"vr": "CS", "Value": ["STUDY"]}}, ExplicitVRLittleEndian)
    long_name = {"00080052": {"vr": "CS", "Value": ["STUDY"]}, "00100010": {"vr": "PN", "Value": ["*a" * 20_000]}}
    return [
        b"\0",
        b"\xff" * 1000,
        bytes(100_000),
        level[:-1],
        level[:5],
        level + nested * 300,
        level + nested * 10_000,
        level + b"\x10\x00\x10\x00PN\xff\xff" + b"x",
        level + b"\x10\x00\x10\x00UN\0\0\xff\xff\xff\xff",
        level + b"\x10\x00\x10\x00ZZ\x04\x00abcd",
        level + b"\xe0\x7f\x10\x00OW\0\0\xff\xff\xff\xff",
        level + b"\xfe\xff\x0d\xe0\0\0\0\0" * 100,
        level + b"\x08\x00\x05\x00CS\x04\x00zip " + b"\x10\x00\x10\x00PN\x04\x00x\x9c**",
        write_identifier(long_name, ExplicitVRLittleEndian),
        bytes(2_000_000),
    ]


@pytest.mark.timeout(120)
def test_what_is_no_question_is_refused_and_the_next_is_answered(shared: Running) -> None:
    status, _ = stow(shared, part10(make()))
    assert status == 200
    for data in _odd():
        association = associated(shared)
        try:
            statuses = ask_raw(association, data)
        finally:
            association.abort()
        assert statuses[-1:] in ([], [0], [0xA900], [0xC000]), (data[:40], statuses)
        assert statuses or len(data) > 1_000_000
    chance = random.Random(7)
    good = write_identifier(
        {
            "00080052": {"vr": "CS", "Value": ["STUDY"]},
            "00080020": {"vr": "DA", "Value": ["20200101-"]},
            "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe*"}]},
            "00321064": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["x"]}}]},
            "0020000D": {"vr": "UI"},
        },
        ExplicitVRLittleEndian,
    )
    association = associated(shared)
    for _ in range(200):
        spoilt = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        statuses = ask_raw(association, bytes(spoilt))
        assert statuses
        assert statuses[-1] in (0, 0xA900, 0xC000), (bytes(spoilt), statuses)
    association.release()
    assert len(ask(shared, study())) >= 1
    assert "message.failed" not in shared.told()
