"""What the node has of an object, read through its web door; and what it counted."""

from __future__ import annotations

import re
from array import array
from io import BytesIO
from typing import Any

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from tests.corpus import data_set_of
from tests.flows.running import Running
from tests.flows.send import retrieved
from tests.interop.objects import Sample

_PADDING = Tag(0xFFFCFFFC)


def kept_by(node: Running, sample: Sample) -> tuple[str, bytes]:
    """Return the transfer syntax and the data set with which the node serves `sample`."""
    return parted(retrieved(node, sample.study, sample.series, sample.sop))


def parted(file: bytes) -> tuple[str, bytes]:
    """Return the transfer syntax and the data set of a file."""
    meta = pydicom.dcmread(BytesIO(file), stop_before_pixels=True).file_meta
    return str(meta.TransferSyntaxUID), data_set_of(file)


def associations(node: Running) -> dict[str, int]:
    """Return how many associations ended, by outcome."""
    _, body = node.get("/metrics", "text/plain")
    found = re.findall(r'^dicomnode_associations_total\{outcome="([^"]+)"\} ([0-9.]+)', body.decode(), re.MULTILINE)
    return {outcome: int(float(count)) for outcome, count in found}


def elements(transfer_syntax: str, data_set: bytes) -> Dataset:
    """Return what pydicom reads of `data_set`, but for group lengths and padding at its end, which say nothing."""
    syntax = UID(transfer_syntax)
    ds = read_dataset(BytesIO(data_set), syntax.is_implicit_VR, syntax.is_little_endian)
    ds.walk(_without_group_length)
    ds.pop(_PADDING, None)
    if "PixelData" in ds:
        if not syntax.is_little_endian and ds["PixelData"].VR == "OW":
            ds.PixelData = _swapped(ds.PixelData)
        ds["PixelData"].VR = "OB"  # dcmtk mends OW where the pixels are encapsulated
    return ds


def essence(transfer_syntax: str, data_set: bytes) -> dict[str, Any]:
    """Return what every program keeps of an object, also one that decodes all of it and writes it in its own way."""
    ds = elements(transfer_syntax, data_set)
    keywords = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientName")
    return {keyword: ds.get(keyword) for keyword in (*keywords, "StudyDate", "Rows", "Columns", "PixelData")}


def _swapped(words: bytes) -> bytes:
    swapped = array("H", words)
    swapped.byteswap()
    return swapped.tobytes()


def _without_group_length(ds: Dataset, element: DataElement) -> None:
    if element.tag.element == 0:
        del ds[element.tag]
