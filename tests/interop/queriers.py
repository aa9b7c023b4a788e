"""Programs that nobody here wrote, as they are told to ask and to fetch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pydicom
import pytest
from pydicom.datadict import keyword_for_tag, tag_for_keyword

from tests.interop.places import HOST, Place
from tests.interop.reading import parted
from tests.interop.senders import Told, dcmjs, dcmtk_tls, gdcm, needs_dcmjs, pynetdicom, run

Keys = Mapping[str, str]
Answers = list[dict[str, str]]
UNIQUE = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class Querier(msgspec.Struct, frozen=True):
    """A program. `find` returns the matches; `get` and `move` tell how it went, `get` with files in a folder.

    Keys are keywords of attributes and their values, "" to have them returned.
    """

    needs: tuple[str, ...]
    find: Callable[[Place, str, Keys, Path], Answers] | None = None
    get: Callable[[Place, str, Keys, Path], Told] | None = None
    move: Callable[[Place, str, Keys, Place], Told] | None = None

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        """What skips a test where the program is not installed."""
        return [pytest.mark.external(*self.needs)] + [needs_dcmjs] * ("node" in self.needs)


def files_in(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return transfer syntax and data set of each Part 10 file below `folder`, by SOP Instance UID."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (file := path.read_bytes())[128:132] == b"DICM":
            found[str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = parted(file)
    return found


def _dash_k(level: str, keys: Keys) -> list[str]:
    pairs = {"QueryRetrieveLevel": level} | dict(keys)
    return [word for keyword, value in pairs.items() for word in ("-k", f"{keyword}={value}")]


def _responses(folder: Path) -> Answers:
    """Read what findscu and its namesake wrote down."""
    return [_texts(pydicom.dcmread(path, force=True)) for path in sorted(folder.glob("rsp*.dcm"))]


def _texts(ds: pydicom.Dataset) -> dict[str, str]:
    return {element.keyword: str(element.value) for element in ds if element.VR != "SQ"}


# ---- dcmtk


def _dcmtk(program: str, place: Place, *more: str, root: str = "-S") -> Told:
    command = [program, "-v", *dcmtk_tls(place), root, "-aec", place.aet, *more, HOST, str(place.port)]
    done = run(command)
    return Told(done.returncode == 0, done.stdout + done.stderr)


def _findscu(place: Place, level: str, keys: Keys, folder: Path) -> Answers:
    root = "-P" if level == "PATIENT" else "-S"
    told = _dcmtk("findscu", place, "-X", "-od", str(folder), *_dash_k(level, keys), root=root)
    assert told.well, told.words
    assert "Received Final Find Response (Success)" in told.words, told.words
    return _responses(folder)


def _getscu(place: Place, level: str, keys: Keys, folder: Path) -> Told:
    return getscu(place, level, keys, folder, "+x=")


def getscu(place: Place, level: str, keys: Keys, folder: Path, prefer: str) -> Told:
    """Have dcmtk's getscu propose the transfer syntaxes that go with its option `prefer`."""
    told = _dcmtk("getscu", place, "+B", prefer, "-od", str(folder), *_dash_k(level, keys))
    return Told(told.well and "Received C-GET Response (Success)" in told.words, told.words)


def _movescu(place: Place, level: str, keys: Keys, to: Place) -> Told:
    told = _dcmtk("movescu", place, "-aem", to.aet, *_dash_k(level, keys))
    return Told(told.well and "Received Final Move Response (Success)" in told.words, told.words)


# ---- pynetdicom


def _pynetdicom_find(place: Place, level: str, keys: Keys, folder: Path) -> Answers:
    root = "-P" if level == "PATIENT" else "-S"
    told = pynetdicom("findscu", place, root, "-w", *_dash_k(level, keys), cwd=folder)
    assert told.well, told.words
    assert "Find SCP Result: 0x0000 (Success)" in told.words, told.words
    return _responses(folder)


def _pynetdicom_get(place: Place, level: str, keys: Keys, folder: Path) -> Told:
    told = pynetdicom("getscu", place, "-S", "-od", str(folder), *_dash_k(level, keys))
    return Told(told.well and "Get SCP Result: 0x0000 (Success)" in told.words, told.words)


def _pynetdicom_move(place: Place, level: str, keys: Keys, to: Place) -> Told:
    told = pynetdicom("movescu", place, "-S", "-aem", to.aet, *_dash_k(level, keys))
    return Told(told.well and "Move SCP Result: 0x0000 (Success)" in told.words, told.words)


# ---- GDCM


def gdcm_keys(level: str, keys: Keys) -> list[str]:
    """Return the options for a query of `level`."""
    root = "--patientroot" if level == "PATIENT" else "--studyroot"
    words = [root, f"--{level.lower()}"]
    for keyword, value in keys.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        words += ["--key", f"{tag >> 16:04x},{tag & 0xFFFF:04x}={value}"]
    return words


def _gdcm_find(place: Place, level: str, keys: Keys, _folder: Path) -> Answers:
    """Count the matches: it prints them after the release, of which it dies; but its debug log has each response."""
    told = gdcm(place, "-D", "--find", *gdcm_keys(level, keys))
    assert told.well, told.words
    assert "C-Find was successful." in told.words, told.words
    statuses = re.findall(r"^\(0000,0900\) .* (\d+) +# 2,1 Status", told.words, re.MULTILINE)
    assert statuses[-1] == "0", statuses
    return [{} for _ in range(sum(status in ("65280", "65281") for status in statuses) // 2)]  # logged twice each


# ---- Odil


def _odil_find(place: Place, level: str, keys: Keys, _folder: Path) -> Answers:
    done = run(["odil", "find", *_odil_words(place, level, keys)])
    assert done.returncode == 0, done.stderr
    answers: Answers = []
    for line in done.stdout.splitlines():
        if re.fullmatch(r"\d+ answers?", line) or not line.strip():
            answers.append({})
        elif found := re.search(r" ([0-9a-f]{4}),([0-9a-f]{4}) .. \[(.*)\]$", line):
            group, element, text = found.groups()
            answers[-1][keyword_for_tag(int(group + element, 16))] = text.strip("'")
    return [one for one in answers if one]


def _odil_get(place: Place, level: str, keys: Keys, folder: Path) -> Told:
    done = run(["odil", "get", "-d", str(folder), *_odil_words(place, level, keys)])
    return Told(done.returncode == 0, done.stdout + done.stderr)


def _odil_words(place: Place, level: str, keys: Keys) -> list[str]:
    root = "patient" if level == "PATIENT" else "study"
    pairs = {"QueryRetrieveLevel": level} | dict(keys)
    return [HOST, str(place.port), "ODIL", place.aet, root, *(f"{key}={value}" for key, value in pairs.items())]


# ---- dcmjs-dimse


def _dcmjs_find(place: Place, level: str, keys: Keys, _folder: Path) -> Answers:
    answers, words = dcmjs(place, {"kind": "find", "level": level, "keys": dict(keys)})
    *matches, final, released = answers
    assert (final, released) == ({"status": 0}, {"ended": "released"}), words
    assert {one["status"] for one in matches} <= {0xFF00}, words
    return [{key: _plain(value) for key, value in one["elements"].items()} for one in matches]


def _plain(value: Any) -> str:
    """Return an element of dcmjs as text; it has person names by representation."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "=".join(value[0].values())
    return "\\".join(map(str, value)) if isinstance(value, list) else str(value)


def _dcmjs_get(place: Place, level: str, keys: Keys, folder: Path) -> Told:
    answers, words = dcmjs(place, {"kind": "get", "uids": _uids(level, keys)}, folder=str(folder))
    return Told(_sums(answers), words)


def _dcmjs_move(place: Place, level: str, keys: Keys, to: Place) -> Told:
    answers, words = dcmjs(place, {"kind": "move", "destination": to.aet, "uids": _uids(level, keys)})
    return Told(_sums(answers), words)


def _uids(level: str, keys: Keys) -> list[str]:
    levels = ("STUDY", "SERIES", "IMAGE")
    return [keys[UNIQUE[one]] for one in levels[: levels.index(level) + 1]]


def _sums(answers: list[dict[str, Any]]) -> bool:
    *_, final, released = answers
    return final["status"] == 0 and final["failed"] == 0 and released == {"ended": "released"}


QUERIERS = {
    "dcmtk": Querier(("findscu", "getscu", "movescu"), _findscu, _getscu, _movescu),
    "pynetdicom": Querier((), _pynetdicom_find, _pynetdicom_get, _pynetdicom_move),
    "gdcm": Querier(("gdcmscu",), _gdcm_find),  # its --move is its own destination: see test_move
    "odil": Querier(("odil",), _odil_find, _odil_get),
    "dcmjs": Querier(("node",), _dcmjs_find, _dcmjs_get, _dcmjs_move),
}
