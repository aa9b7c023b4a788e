from __future__ import annotations

import struct
from io import BytesIO

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID, CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.dicom.part10 import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MAX_META_BYTES,
    FileMeta,
    read_file_meta,
    write_file_meta,
)
from dicomnode.dicom.uid import is_uid
from dicomnode.errors import BadInstance
from tests.corpus import data_set_of, make, needs_corpus, part10
from tests.dicom import oracle

META = write_file_meta(CTImageStorage, "1.2.3", ExplicitVRLittleEndian, "SENDER")
BODY = struct.pack("<HH2sH2s", 8, 0x60, b"CS", 2, b"CT")


def meta_of(file: bytes) -> FileMeta:
    found = read_file_meta(file, complete=True)
    assert found is not None
    return found


@given(st.text("0123456789.", min_size=1, max_size=64).filter(is_uid), st.text("ABC 1", max_size=16))
def test_pydicom_reads_what_is_written(uid: str, aet: str) -> None:
    file = write_file_meta(CTImageStorage, uid, ImplicitVRLittleEndian, aet)
    found = pydicom.filereader.read_preamble(stream := BytesIO(file), force=False)
    meta = pydicom.filereader._read_file_meta_info(stream)
    assert found == bytes(128)
    assert stream.read() == b""
    assert meta.FileMetaInformationGroupLength == len(file) - 144
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.MediaStorageSOPClassUID == CTImageStorage
    assert meta["MediaStorageSOPInstanceUID"].value == uid
    assert meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert meta.get("SourceApplicationEntityTitle", "") == aet.strip()
    assert meta_of(file).data_set_offset == len(file)


def test_our_names_are_valid() -> None:
    assert is_uid(IMPLEMENTATION_CLASS_UID)
    assert 0 < len(IMPLEMENTATION_VERSION_NAME) <= 16


def test_what_is_written_is_read() -> None:
    assert meta_of(META + BODY) == FileMeta(
        ExplicitVRLittleEndian,
        CTImageStorage,
        "1.2.3",
        len(META),
        "SENDER",
        IMPLEMENTATION_CLASS_UID,
        IMPLEMENTATION_VERSION_NAME,
    )


def test_a_uid_too_long_to_write_is_refused() -> None:
    for uids in (("1" * 1025, "1.2"), ("1.2", "1" * 1025)):
        with pytest.raises(BadInstance, match="longer than 1024"):
            write_file_meta(*uids, ExplicitVRLittleEndian)


def test_every_head_needs_more_until_the_next_element_is_seen() -> None:
    file = META + BODY
    for end in range(len(META) + 8):
        assert read_file_meta(file[:end], complete=False) is None
    assert read_file_meta(file[: len(META) + 8], complete=False) == meta_of(file)


def what_is_wrong(file: bytes) -> str:
    try:
        # Between two elements a cut is not to be seen: the data set is empty then, which others will refuse.
        return "" if meta_of(file).data_set_offset == len(file) else "another offset"
    except BadInstance as error:
        return str(error)


def test_every_cut_within_the_meta_information_is_refused() -> None:
    found = [what_is_wrong(META[:end]) for end in range(len(META))]
    assert found.count("") == 5
    assert set(found) - {""} == {
        "not DICOM: no bytes",
        "not DICOM: no 'DICM' at byte 128",
        "cut short in the file meta information",
    }


@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", b"PK\3\4" + bytes(200), bytes(200), b"\x08" * 300])
def test_what_is_no_dicom_is_told_so(noise: bytes) -> None:
    with pytest.raises(BadInstance, match=r"^not DICOM: no "):
        read_file_meta(noise, complete=True)


def test_the_preamble_may_be_missing() -> None:
    assert meta_of(META[128:] + BODY).data_set_offset == len(META) - 128
    assert meta_of(META[132:] + BODY).transfer_syntax_uid == ExplicitVRLittleEndian


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_bare_data_set_is_taken_for_what_it_looks_like(syntax: UID) -> None:
    data = data_set_of(part10(make(), syntax))
    found = meta_of(data)
    assert (found.transfer_syntax_uid, found.data_set_offset, found.guessed) == (syntax, 0, True)


@pytest.mark.parametrize("length", [0, 10, 100_000])
def test_a_wrong_group_length_does_no_harm(length: int) -> None:
    file = META[:140] + struct.pack("<L", length) + META[144:] + BODY
    assert meta_of(file).data_set_offset == len(META)


def test_a_missing_transfer_syntax_is_guessed_from_the_data_set() -> None:
    at = META.index(b"\x02\0\x10\0UI")
    size = 8 + struct.unpack_from("<H", META, at + 6)[0]
    found = meta_of(META[:at] + META[at + size :] + BODY)
    assert (found.transfer_syntax_uid, found.guessed) == (ExplicitVRLittleEndian, True)
    assert found.sop_instance_uid == "1.2.3"


def test_a_command_set_left_before_the_data_set_is_passed_over() -> None:
    command = struct.pack("<HHLL", 0, 0, 4, 12) + struct.pack("<HHL4s", 0, 2, 4, b"1.2\0")
    assert meta_of(META + command + BODY).data_set_offset == len(META) + len(command)


def test_meta_information_without_end_is_refused() -> None:
    element = struct.pack("<HH2sHL", 2, 0x0102, b"OB", 0, 1000) + bytes(1000)
    for complete in (True, False):
        with pytest.raises(BadInstance, match="longer than 65536 bytes"):
            read_file_meta(META + element * 70, complete=complete)
    huge = META + struct.pack("<HH2sHL", 2, 0x0102, b"OB", 0, 0xFFFFFFFF)
    with pytest.raises(BadInstance, match=f"longer than {MAX_META_BYTES} bytes"):
        read_file_meta(huge, complete=False)


@given(st.binary(max_size=40), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.booleans())
def test_damage_raises_nothing_but_bad_instance(tail: bytes, damage: list[tuple[int, int]], complete: bool) -> None:
    file = bytearray(META + tail)
    for at, value in damage:
        file[at % len(file)] = value
    try:
        found = read_file_meta(memoryview(file), complete=complete)
    except BadInstance:
        return
    assert found is None or 0 <= found.data_set_offset <= len(file)


def check_files(files: list[bytes]) -> None:
    for file in files:
        if file[128:132] != b"DICM":
            continue
        theirs = oracle.read(file).file_meta
        ours = meta_of(file)
        assert file[ours.data_set_offset :] == data_set_of(file) or ours.guessed
        if "TransferSyntaxUID" in theirs:
            assert ours.transfer_syntax_uid == theirs.TransferSyntaxUID
        assert ours.sop_instance_uid == theirs.get("MediaStorageSOPInstanceUID", "")


def test_every_file_of_the_wheel_is_as_pydicom_has_it() -> None:
    check_files([path.read_bytes() for path in oracle.wheel()])


@needs_corpus
def test_every_file_of_the_corpus_is_as_pydicom_has_it() -> None:
    check_files(
        [path.read_bytes() for path in oracle.corpus() if path.suffix != ".zst" and path.stat().st_size < 300_000]
    )
