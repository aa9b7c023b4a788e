"""Rows 1 and 2: names that would lead out of the storage, or into a shell, at every door that takes objects."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.dimse import pdu
from tests.attacks.nested import with_element
from tests.attacks.peer import CONTEXTS, Peer
from tests.attacks.watch import indexed, serves, until
from tests.corpus import data_set_of, make, part10
from tests.dimse.requests import request
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, stow

HOSTILE = {
    "up": b"../../x",
    "far up": b"../" * 20 + b"tmp/dicomnode-escaped",
    "absolute": b"/etc/x",
    "backslashes": b"..\\x",
    "drive": b"C:\\x",
    "NUL inside": b"1.2\0/../x",
    "300 bytes": b"1" * 300,
    "1,024 bytes": b"1." * 512,
    "dot": b".",
    "dots": b"..",
    "inner dots": b"1..2",
    "unicode": "\uff11\uff0e\uff12\u2215..\u2215\u00e9\u202e".encode(),
    "no UTF-8": b"\xff\xfe\x80",
    "trailing space": b"1.2.3   ",
    "newline": b"1.2\n3",
    "lower case": b"1.2.abc",
    "upper case": b"1.2.ABC",
    "a shell's": b";$(touch x)`touch y`|touch z",
    "percent": b"%2e%2e%2fx",
    "option": b"--help",
    "reserved": b"CON",
}
UIDS = {"SOPInstanceUID": 0x00080018, "StudyInstanceUID": 0x0020000D, "SeriesInstanceUID": 0x0020000E}
OTHERS = {"PatientID": 0x00100020, "AccessionNumber": 0x00080050, "StudyDate": 0x00080020, "PatientName": 0x00100010}


def _objects() -> Iterator[tuple[str, bytes]]:
    """Yield data sets with one hostile value each, and with hostile UIDs at all levels at once."""
    for value in HOSTILE.values():
        for keyword, tag in (UIDS | OTHERS).items():
            yield keyword, _with(make(), {keyword: tag}, value)
        yield "all", _with(make(), UIDS, value)
    yield "empty", _with(make(), UIDS, b"")


def _with(ds: object, tags: dict[str, int], value: bytes) -> bytes:
    for keyword in tags:
        delattr(ds, keyword)
    data = data_set_of(part10(ds))  # type: ignore[arg-type]
    padded = value + b"\0" * (len(value) % 2)
    for keyword, tag in tags.items():
        vr = {"PatientID": b"LO", "AccessionNumber": b"SH", "StudyDate": b"DA", "PatientName": b"PN"}.get(
            keyword, b"UI"
        )
        data = with_element(data, struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(padded)) + padded)
    return data


OBJECTS = list(_objects())
_FILE = part10(make())
HEAD = _FILE[: len(_FILE) - len(data_set_of(_FILE))]


def _check(node: Running, outside: Path, kept: list[bytes]) -> None:
    """Check that every file is inside the storage, and that what was taken is there and served as it came."""
    root = (node.data_dir / "storage").resolve()
    files = [path for path in outside.rglob("*") if path.is_file() and path.suffix == ".dcm"]
    assert all(path.resolve().is_relative_to(root) for path in files)
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert {path.name for path in outside.iterdir()} <= {"data", "log-0", "in"}
    assert not [path for name in ("x", "y", "z") for path in (Path(name), outside / name) if path.exists()]
    assert not Path("/tmp/dicomnode-escaped").exists()
    assert not Path("/etc/x").exists()
    stored = {hashlib.sha256(data_set_of(path.read_bytes())).digest() for path in files}
    assert {hashlib.sha256(data).digest() for data in kept} <= stored
    # No component is longer than a file system takes, and all are of plain characters.
    names = {part for path in root.rglob("*") for part in path.relative_to(root).parts}
    assert all(
        len(name) <= 100 and name.isascii() and name.replace(".", "").replace("-", "").isalnum() for name in names
    )


def _served(node: Running, kept: list[bytes]) -> None:
    """Check that whatever the index lists comes by the URL it names, or is refused where no path can hold the UID."""
    until(lambda: indexed(node) >= len(kept), node.told()[-2000:], 40)
    rows = instances(node)
    assert len(rows) >= len(kept) - 2 * len(HOSTILE), "all but those that share an identity"
    served = 0
    for row in rows:
        (url,) = row["00081190"]["Value"]
        status, body = node.get(url.removeprefix(node.url), "application/dicom")
        uids = ["\\".join(row[tag].get("Value", [""])) for tag in ("0020000D", "0020000E", "00080018")]
        if {".", ".."}.intersection(uids) or "\\" in "".join(uids):
            # Clients and servers shorten such paths; several values are no UID to ask for.
            assert status in (200, 400, 404), uids
        elif all(re.fullmatch(r"[!-.0-~]{1,128}", uid) for uid in uids):
            assert status == 200, uids
            assert data_set_of(body) in kept
            served += 1
        else:
            assert status == 400, uids
            assert json.loads(body)["title"] == "Bad Request"
    assert served > len(rows) // 2


def test_c_store(start: Callable[..., Running], tmp_path: Path) -> None:
    node = start()
    kept = []
    with Peer(node) as peer:
        peer.associate()
        for what, data in OBJECTS:
            # The command set names it too.
            status = peer.store(data, uid="../../x" if what == "all" else "1.2.3")
            assert status in (0, 0xC000, 0xA900), what
            if status == 0:
                kept.append(data)
        for uid in ("../../x", "/etc/x", "", ";$(touch x)", "x" * 300):
            for more in ({"uid": uid}, {"sop_class": uid}):
                kept.append(data_set_of(part10(make())))
                assert peer.store(kept[-1], **more) == 0
        peer.release()
    assert len(kept) >= len(OBJECTS) - len(HOSTILE)
    _check(node, tmp_path, kept)
    _served(node, kept)
    serves(node)


def test_titles(start: Callable[..., Running], tmp_path: Path) -> None:
    node = start()
    kept = []
    for title in ("../../../x", "/etc/x", "..", ".", ";$(touch x)", "`touch y`", "a|b>z", "x" * 16):
        with Peer(node) as peer:
            asked = bytearray(request(CONTEXTS))
            asked[10:26] = asked[26:42] = title.encode().ljust(16)[:16]
            assert peer.associate(bytes(asked)) == pdu.ASSOCIATE_AC
            kept.append(data_set_of(part10(make())))
            assert peer.store(kept[-1]) == 0
            peer.release()
    with Peer(node) as peer:
        asked[26:42] = b"\0\xff\n\x1b[31mx\r\n\0\0\0\0\0\0"[:16].ljust(16)
        assert peer.associate(bytes(asked)) == pdu.ASSOCIATE_AC
        peer.release()
    _check(node, tmp_path, kept)
    assert "\x1b" not in node.told()


def test_stow(start: Callable[..., Running], tmp_path: Path) -> None:
    node = start()
    kept = []
    for what, data in OBJECTS:
        status, _ = stow(node, HEAD + data)
        assert status in (200, 202, 409), what
        if status != 409:
            kept.append(data)
    assert len(kept) >= len(OBJECTS) - len(HOSTILE)
    _check(node, tmp_path, kept)
    _served(node, kept)
    serves(node)


def test_import(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, (_, data) in enumerate(OBJECTS):
        (folder / f"{number}.dcm").write_bytes(HEAD + data)
    told = dicomnode("import", str(folder), "--json", *sets(tmp_path / "data"), cwd=tmp_path)
    assert told.returncode in (0, 1), told.stderr
    assert "Traceback" not in told.stderr
    root = (tmp_path / "data" / "storage").resolve()
    written = [path for path in tmp_path.rglob("*.dcm") if path.parent != folder]
    assert len(written) >= len(OBJECTS) - len(HOSTILE) - 60, "all but the repeats and those without an identity"
    assert all(path.resolve().is_relative_to(root) for path in written)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "data"}


@pytest.mark.parametrize("pair", [("1.2.abc", "1.2.ABC"), ("1.2.3", "1.2.3 "), ("é", "e\u0301")])
def test_names_that_a_file_system_may_take_for_one_stay_apart(pair: tuple[str, str], node: Running) -> None:
    tags = {"SOPInstanceUID": 0x00080018}
    both = [_with(make(PatientID=str(n)), tags, uid.encode()) for n, uid in enumerate(pair)]
    with Peer(node) as peer:
        peer.associate()
        assert [peer.store(data) for data in both] == [0, 0]
        peer.release()
    files = list((node.data_dir / "storage").rglob("*.dcm"))
    assert len({str(path).lower() for path in files}) == 2
    assert {data_set_of(path.read_bytes()) for path in files} == set(both)


def test_a_name_that_a_database_would_cut_does_not_stop_the_index(node: Running) -> None:
    # Two objects of one UID with a NUL in it, the second after the first was indexed, kept all others out for ever.
    tags = {"SOPInstanceUID": 0x00080018}
    for number in range(2):
        with Peer(node) as peer:
            peer.associate()
            assert peer.store(_with(make(PatientID=str(number)), tags, b"1.2\0/../x")) == 0xC000
            peer.release()
        serves(node)
