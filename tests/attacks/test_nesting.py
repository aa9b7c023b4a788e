"""Row 8: sequences in sequences, deeper than anything reads. Refused at every door, and the worker lives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.attacks.nested import nested, with_element
from tests.attacks.peer import Peer
from tests.attacks.watch import survives
from tests.corpus import data_set_of, make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, stow

DEPTHS = (200, 300, 10_000)
# Before what is indexed, indexed itself, behind all that is indexed.
TAGS = (0x00081140, 0x00400275, 0x52009229)


def hostile(depth: int, tag: int, *, implicit: bool, undefined: bool) -> bytes:
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    element = nested(depth, tag=tag, implicit=implicit, undefined=undefined)
    return with_element(data_set_of(part10(make(), syntax)), element, implicit=implicit)


ALL = [(depth, tag, undefined) for depth in DEPTHS for tag in TAGS for undefined in (True, False)]


@pytest.mark.parametrize("implicit", [True, False])
def test_c_store_refuses(implicit: bool, shared: Running) -> None:
    syntax = str(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
    with survives(shared), Peer(shared) as peer:
        peer.associate()
        for depth, tag, undefined in ALL:
            assert peer.store(hostile(depth, tag, implicit=implicit, undefined=undefined), syntax) == 0xC000
        # As deep as is read is kept, and told.
        assert peer.store(hostile(64, TAGS[0], implicit=implicit, undefined=True), syntax) == 0
        peer.release()


def test_stow_refuses_the_part_and_keeps_the_next(shared: Running) -> None:
    file = part10(make())
    head = file[: len(file) - len(data_set_of(file))]
    with survives(shared):
        for depth, tag, undefined in ALL:
            deep = head + hostile(depth, tag, implicit=False, undefined=undefined)
            assert stow(shared, deep)[0] == 409
            good = make()
            status, reply = stow(shared, deep, part10(good))
            assert status == 202
            assert len(reply["00081198"]["Value"]) == 1
            assert [item["00081155"]["Value"] for item in reply["00081199"]["Value"]] == [[good.SOPInstanceUID]]


def test_import_refuses(tmp_path: Path, node: Running) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    file = part10(make())
    head = file[: len(file) - len(data_set_of(file))]
    for number, (depth, tag, undefined) in enumerate(ALL):
        (folder / f"{number}.dcm").write_bytes(head + hostile(depth, tag, implicit=False, undefined=undefined))
    (folder / "good.dcm").write_bytes(file)
    told = dicomnode("import", str(folder), "--json", *sets(tmp_path / "other"))
    summary = json.loads(told.stdout)
    assert (summary["new"], summary["refused"]) == (1, len(ALL)), told.stderr
    assert "Traceback" not in told.stderr


def test_what_slipped_through_harms_no_reader(shared: Running) -> None:
    # Values that imitate delimiters hide the depth from the look at the door; whoever reads it refuses it then.
    fake = bytes.fromhex("feff0de000000000") * 2
    ds = make()
    inner = nested(300, undefined=True)
    private = b"\x09\x00\x10\x10OB\0\0" + len(fake).to_bytes(4, "little") + fake
    shallow = inner.replace(bytes.fromhex("feff00e0ffffffff"), bytes.fromhex("feff00e0ffffffff") + private)
    plain = data_set_of(part10(ds))
    hidden = with_element(plain, b"\x00\x52\x29\x92" + shallow[4:])
    with survives(shared), Peer(shared) as peer:
        peer.associate()
        taken = peer.store(hidden, uid=str(ds.SOPInstanceUID))
        peer.release()
        before = len(instances(shared))
        path = f"/dicomweb/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
        status, body = shared.get(f"{path}/metadata")
        assert taken == 0
        # What can be told of it is told: what the index has.
        assert status == 200
        (told,) = json.loads(body)
        assert told["00080018"]["Value"] == [ds.SOPInstanceUID]
        assert "52009229" not in told
        assert shared.get(path, "application/dicom")[0] == 200
        assert len(instances(shared)) == before
