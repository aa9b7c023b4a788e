"""pydicom as the oracle of the byte grammar: what it reads, what JSON it makes of that, and data sets it writes."""

from __future__ import annotations

import json
import logging
import math
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
import zstandard
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from tests.corpus import CORPUS

logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_WHEEL = Path(pydicom.data.__file__).parent
_FOLDERS = ("test_files", "charset_files", "palettes")
_NO_OBJECTS = {".py", ".pyc", ".json", ".md", ".png", ".txt", ".jpg", ".tiff", ".dump", ".gz", ".icc", ""}
_PIXELS = ("7FE00008", "7FE00009", "7FE00010")
URI = "here"


def wheel() -> list[Path]:
    """Return every object in the pydicom wheel, DICOMDIRs too."""
    return sorted(
        path
        for folder in _FOLDERS
        for path in (_WHEEL / folder).rglob("*")
        if path.is_file() and (path.suffix not in _NO_OBJECTS or path.name.startswith("DICOMDIR"))
    )


def corpus() -> list[Path]:
    """Return every object beside the project, the packed ones and DICOMDIRs too; none where there are none."""
    nothing = {".md", ".json", ".png"}
    return sorted(path for path in CORPUS.rglob("*") if path.is_file() and path.suffix not in nothing)


def bytes_of(path: Path) -> bytes:
    """Return the object in `path`."""
    found = path.read_bytes()
    return zstandard.decompress(found, max_output_size=1 << 30) if path.suffix == ".zst" else found


def read(file: bytes) -> Dataset:
    """Return what pydicom reads, however odd."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(BytesIO(file), force=True)


def to_json(ds: Dataset) -> dict[str, Any] | None:
    """Return what pydicom makes of `ds`, pixel data always by reference; None where it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found: dict[str, Any] = normal(json.loads(json.dumps(ds.to_json_dict(1024, lambda _: URI))))
        except (ValueError, TypeError, AttributeError, NotImplementedError, IndexError, OSError):
            return None
    for tag in _PIXELS:
        if len(found.get(tag, ())) > 1:
            found[tag] = {"vr": found[tag]["vr"], "BulkDataURI": URI}
    return found


def normal(value: Any) -> Any:
    """Return JSON with what pydicom leaves undecided or writes as no JSON ("OB or OW", NaN) as the standard has it."""
    if isinstance(value, list):
        return [normal(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else str(value)
    if not isinstance(value, dict):
        return value
    if " or " in str(value.get("vr", "")):
        value = value | {"vr": "OW"}
    return {key: normal(one) for key, one in value.items()}


def written(ds: Dataset, *, implicit: bool, big_endian: bool) -> bytes:
    """Return `ds` as pydicom encodes it."""
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = implicit, not big_endian
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dataset(file, ds)
    return bytes(file.getvalue())


def read_back(data: bytes, *, implicit: bool, big_endian: bool) -> Dataset:
    """Return what pydicom reads from a bare data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.filereader.read_dataset(BytesIO(data), implicit, not big_endian)


_TEXT = st.text("ABCXYZabc 0189.-_", max_size=20)
_NUMBER = st.integers(-(2**31) + 1, 2**31 - 1).map(str)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "AE": _TEXT,
    "AS": st.sampled_from(["", "042Y", "003M"]),
    "AT": st.integers(0x00080000, 0x7FDFFFFF),
    "CS": st.lists(st.text("ABC_ 1", max_size=16), max_size=3),
    "DA": st.sampled_from(["", "20240131", "19991231"]),
    "DS": st.lists(st.floats(-1e6, 1e6).map(lambda n: f"{n:.6g}"), max_size=4),
    "DT": st.sampled_from(["", "20240131101112.123456+0100"]),
    "FD": st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    "FL": st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=3),
    "IS": st.lists(_NUMBER, max_size=3),
    "LO": st.lists(_TEXT, max_size=3),
    "LT": st.text("abc\\ \n\t\"'/ü", max_size=40),
    "OB": st.binary(max_size=20).map(lambda b: b + b"\0" * (len(b) % 2)),
    "OD": st.binary(min_size=8, max_size=8),
    "OF": st.binary(min_size=4, max_size=4),
    "OL": st.binary(min_size=4, max_size=4),
    "OV": st.binary(min_size=8, max_size=8),
    "OW": st.binary(max_size=10).map(lambda b: b + b),
    "PN": st.lists(st.sampled_from(["Doe^John", "A^B^C", "Yamada^Tarou=X^Y=Z", "Müller^Änne"]), max_size=2),
    "SH": _TEXT,
    "SL": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    "SS": st.lists(st.integers(-(2**15), 2**15 - 1), max_size=3),
    "ST": _TEXT,
    "SV": st.integers(-(2**63), 2**63 - 1),
    "TM": st.sampled_from(["", "101112", "10", "101112.123456"]),
    "UC": _TEXT,
    "UI": st.lists(st.sampled_from(["1.2.3", "1.2.840.10008.1.2", "2.25.1"]), max_size=2),
    "UL": st.lists(st.integers(0, 2**32 - 1), max_size=3),
    "UN": st.binary(max_size=12).map(lambda b: b + b"\0" * (len(b) % 2)),
    "UR": st.sampled_from(["", "https://example.org/a?b=c"]),
    "US": st.lists(st.integers(0, 2**16 - 1), max_size=3),
    "UT": st.text("abc ", max_size=70),
    "UV": st.integers(0, 2**64 - 1),
}
# One attribute of the standard for each VR, so that implicit VR knows them too.
_TAGS = {
    "AE": 0x00080054, "AS": 0x00101010, "AT": 0x00280009, "CS": 0x00080008, "DA": 0x00080020, "DS": 0x00200032,
    "DT": 0x0008002A, "FD": 0x00189073, "FL": 0x00089459, "IS": 0x00200013, "LO": 0x0008103E, "LT": 0x00104000,
    "OB": 0x00282000, "OD": 0x00660022, "OF": 0x00640009, "OL": 0x00660040, "OV": 0x00720081, "OW": 0x00660023,
    "PN": 0x00100010, "SH": 0x00080050, "SL": 0x00186020, "SS": 0x00189219, "ST": 0x00080081, "SV": 0x00720082,
    "TM": 0x00080030, "UC": 0x00080119, "UI": 0x0020000D, "UL": 0x00186016, "UN": 0x00091001, "UR": 0x0008010E,
    "US": 0x00280010, "UT": 0x0008030E, "UV": 0x0008040C,
}  # fmt: skip
_SEQUENCES = (0x00081140, 0x00400275, 0x00091002, 0x5200_9230)


def _element(vr: str) -> st.SearchStrategy[tuple[int, str, Any]]:
    return st.tuples(st.just(_TAGS[vr]), st.just(vr), _VALUES[vr])


_ELEMENT = st.one_of([_element(vr) for vr in sorted(_VALUES)])


def _data_set(elements: list[tuple[int, str, Any]], items: list[tuple[int, list[Dataset], bool, bool]]) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, vr, value in elements:
            ds.add_new(tag, vr, value)
        for tag, found, undefined, item_undefined in items:
            ds.add_new(tag, "SQ", Sequence(found))
            ds[tag].is_undefined_length = undefined
            for item in found:
                item.is_undefined_length_sequence_item = item_undefined
    return ds


def _sets(inner: st.SearchStrategy[Dataset]) -> st.SearchStrategy[Dataset]:
    items = st.tuples(st.sampled_from(_SEQUENCES), st.lists(inner, max_size=2), st.booleans(), st.booleans())
    return st.builds(_data_set, st.lists(_ELEMENT, max_size=6), st.lists(items, max_size=2))


data_sets = st.recursive(st.builds(_data_set, st.lists(_ELEMENT, max_size=8), st.just([])), _sets, max_leaves=6)
"""Data sets of all VRs, with sequences of defined and undefined length within one another."""

encodings = st.sampled_from([(False, False), (True, False), (False, True)])
"""(implicit VR, big endian)."""
