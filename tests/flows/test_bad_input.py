"""Bad input gets a clear answer at every door, and nothing beside it is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from tests.corpus import make, part10
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import instances, storescu, stow

GOOD = make()


def _without(keyword: str) -> bytes:
    ds = make()
    delattr(ds, keyword)
    return part10(ds)


def _failures(reply: dict[str, Any]) -> list[int]:
    items = reply.get("00081198", {}).get("Value", []) + reply.get("0008119A", {}).get("Value", [])
    return [item["00081197"]["Value"][0] for item in items]


BAD: dict[str, bytes] = {
    "not DICOM": b"hello, this is a text file\n" * 40,
    "empty": b"",
    "cut in the meta information": part10(GOOD)[:200],
    "cut in the header": part10(GOOD)[:500],
    "cut in the pixels": part10(GOOD)[:-60],
    "no StudyInstanceUID": _without("StudyInstanceUID"),
    "no SeriesInstanceUID": _without("SeriesInstanceUID"),
    "no SOPInstanceUID": _without("SOPInstanceUID"),
    "no SOPClassUID": _without("SOPClassUID"),
    "empty StudyInstanceUID": part10(make(StudyInstanceUID="")),
}


@pytest.mark.parametrize("what", BAD)
def test_stow_refuses_the_bad_part_and_keeps_the_others(what: str, shared: Running) -> None:
    first, last = make(StudyInstanceUID=generate_uid()), make(StudyInstanceUID=generate_uid())
    before = len(instances(shared))
    status, reply = stow(shared, part10(first), BAD[what], part10(last))
    assert status == 202
    stored = [item["00081155"]["Value"][0] for item in reply["00081199"]["Value"]]
    assert stored == [first.SOPInstanceUID, last.SOPInstanceUID]
    assert len(_failures(reply)) == 1
    found = {row["00080018"]["Value"][0] for row in instances(shared)}
    assert set(stored) <= found
    assert len(found) == before + 2
    assert stow(shared, BAD[what])[0] == 409


def test_stow_to_another_study_is_refused(shared: Running) -> None:
    ds = make()
    status, reply = stow(shared, part10(ds), study="1.2.3")
    assert status == 409
    assert len(_failures(reply)) == 1
    assert shared.json(f"/dicomweb/instances?SOPInstanceUID={ds.SOPInstanceUID}") == []


def test_values_that_break_the_standard_are_kept_with_a_warning(start: Callable[..., Running]) -> None:
    node = start()
    file = part10(make(StudyInstanceUID="1.2.840.X"))
    status, reply = stow(node, file)
    assert status in (200, 202)
    (item,) = reply["00081199"]["Value"]
    assert item["00081196"]["Value"], "a warning reason"
    assert [row["0020000D"]["Value"] for row in instances(node)] == [["1.2.840.X"]]


def test_strict_refuses_them(start: Callable[..., Running]) -> None:
    node = start("ingest.strict=true")
    assert stow(node, part10(make(StudyInstanceUID="1.2.840.X")))[0] == 409
    assert stow(node, part10(make()))[0] == 200


HOSTILE = ["../../../../tmp/x", "/etc/passwd", "..", ".", "a/b", "1.2\\..\\x", "1" * 300, "1.2 \x00x", "\u202e1.2"]


def test_no_uid_leads_out_of_the_storage(start: Callable[..., Running], tmp_path: Path) -> None:
    node = start()
    for uid in HOSTILE:
        ds = make()
        hostile = part10(ds)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            value = getattr(ds, keyword)
            padded = uid.encode()[: len(value)].ljust(len(value), b"\0")
            stow(node, hostile.replace(value.encode(), padded))
    root = (node.data_dir / "storage").resolve()
    files = [path.resolve() for path in tmp_path.rglob("*.dcm")]
    assert len(files) > len(HOSTILE), "what can be kept is kept"
    assert all(path.is_relative_to(root) for path in files)
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "log-0"}
    assert stow(node, part10(make()))[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/dicomweb/nothing", 404),
        ("/nothing", 404),
        ("/dicomweb/studies/1.2.3", 404),
        ("/dicomweb/studies/1.2.3/metadata", 404),
        ("/dicomweb/studies/1.2.3/series/1.2/instances/1.2/frames/1", 404),
        ("/dicomweb/studies?NoSuchAttribute=1", 400),
        ("/dicomweb/studies?limit=many", 400),
        ("/dicomweb/studies?offset=-1", 400),
        ("/dicomweb/studies?StudyDate=yesterday", 400),
    ],
)
def test_bad_questions_get_a_problem_with_a_reason(path: str, status: int, shared: Running) -> None:
    got, body = shared.get(path)
    problem = json.loads(body)
    assert got == status
    assert problem["status"] == status
    assert problem["title"]
    assert "Traceback" not in body.decode()


@pytest.mark.external("storescu")
def test_dimse_refuses_what_cannot_be_identified(node: Running, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.dcm", tmp_path / "good.dcm"
    bad.write_bytes(_without("StudyInstanceUID"))
    good.write_bytes(part10(make()))
    sent = storescu(node, bad, options=["-v"])
    assert "Error: CannotUnderstand" in sent.stdout + sent.stderr
    assert storescu(node, good).returncode == 0
    assert len(instances(node)) == 1


def test_import_tells_what_it_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, (_what, file) in enumerate(BAD.items()):
        (folder / f"{number}.dcm").write_bytes(file)
    (folder / "good.dcm").write_bytes(part10(make()))
    told = dicomnode("import", str(folder), "--json", *sets(tmp_path / "data"))
    assert told.returncode == 1
    summary = json.loads(told.stdout)
    assert summary["new"] == 1
    assert summary["skipped"] == 2, "what is no DICOM at all is passed over in a folder"
    assert summary["refused"] == len(BAD) - 2
    assert all(refusal["reason"] for refusal in summary["refusals"])
    assert "Traceback" not in told.stderr
