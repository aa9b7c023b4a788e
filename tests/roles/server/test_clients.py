"""The Python `dicomweb-client`, and the requests of viewers, literally (reference/anchors.md, section 5)."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import JPEG2000Lossless

from tests.corpus import corpus_files, identified, make, needs_corpus
from tests.rooms import EMBEDDED, Rooms, open_door, open_rooms

T = TypeVar("T")
STUDY, SERIES = "1.2.10", "1.2.10.1"


class Client:
    """The synchronous client, each call of it in a thread."""

    def __init__(self, address: str) -> None:
        self.sync = DICOMwebClient(f"{address}/dicomweb")

    async def __call__(self, verb: str, *args: Any, **more: Any) -> Any:
        return await asyncio.to_thread(getattr(self.sync, verb), *args, **more)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with open_rooms(tmp_path, EMBEDDED) as rooms, open_door(rooms) as server:
        yield Client(server.address)


async def test_every_verb_of_the_python_client(client: Client) -> None:
    objects = [
        make(StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID=f"{SERIES}.{n}", InstanceNumber=n)
        for n in range(1, 4)
    ]
    for ds in objects:
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    answer = await client("store_instances", objects)
    assert len(answer.ReferencedSOPSequence) == 3
    assert "FailedSOPSequence" not in answer
    (study,) = await client("search_for_studies", search_filters={"PatientName": "Doe*"}, fields=["StudyDescription"])
    assert study["0020000D"]["Value"] == [STUDY]
    assert await client("search_for_studies", search_filters={"PatientID": "nobody"}) == []
    assert len(await client("search_for_series", STUDY)) == 1
    assert len(await client("search_for_instances", STUDY, SERIES, get_remaining=True)) == 3
    assert len(await client("retrieve_study", STUDY)) == 3
    assert len(await client("retrieve_series", STUDY, SERIES)) == 3
    got = await client("retrieve_instance", STUDY, SERIES, f"{SERIES}.2")
    assert got.SOPInstanceUID == f"{SERIES}.2"
    assert [ds.InstanceNumber for ds in await asyncio.to_thread(lambda: list(client.sync.iter_study(STUDY)))] == [
        1,
        2,
        3,
    ]
    assert len(await client("retrieve_study_metadata", STUDY)) == 3
    assert len(await client("retrieve_series_metadata", STUDY, SERIES)) == 3
    metadata = await client("retrieve_instance_metadata", STUDY, SERIES, f"{SERIES}.1")
    assert pydicom.Dataset.from_json(metadata, bulk_data_uri_handler=lambda uri: b"").PatientName == "Doe^Jane"
    uri = metadata["7FE00010"]["BulkDataURI"]
    assert await client("retrieve_bulkdata", uri) == [bytes(range(128))]
    for media_types in (None, ("application/octet-stream",), (("application/octet-stream", "1.2.840.10008.1.2.1"),)):
        frames = await client("retrieve_instance_frames", STUDY, SERIES, f"{SERIES}.1", [1], media_types=media_types)
        assert frames == [bytes(range(128))]


async def test_the_python_client_is_told_what_is_wrong(client: Client) -> None:
    import requests

    with pytest.raises(requests.HTTPError, match="404"):
        await client("retrieve_instance", "1", "2", "3")
    with pytest.raises(requests.HTTPError, match="400"):
        await client("search_for_studies", search_filters={"NoSuchKey": "1"})


@needs_corpus
async def test_the_python_client_with_real_objects(client: Client) -> None:
    files = [path for path in corpus_files() if (ds := identified(path)) is not None and "charsets" in str(path)]
    objects = [pydicom.dcmread(path) for path in files]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about what it writes again
        answer = await client("store_instances", objects)
    assert len(answer.ReferencedSOPSequence) == len(objects)
    for ds in objects:
        found = await client("retrieve_instance_metadata", ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        expected = ds["PatientName"].value.components if str(ds.PatientName) else ()
        name = found["00100010"].get("Value", [{}])[0]
        assert [name[k] for k in ("Alphabetic", "Ideographic", "Phonetic") if k in name] == [c for c in expected if c]


# Path, headers, expected status, and what the content type begins with.
VIEWERS: list[tuple[str, str, str, int, str]] = [
    (
        "OHIF study list",
        "/studies?limit=101&offset=0&fuzzymatching=false&includefield=00081030%2C00080060%2C00080090%2C00100030",
        "application/dicom+json",
        200,
        "application/dicom+json",
    ),
    (
        "OHIF study list, filtered",
        (
            "/studies?PatientName=*do*&00100020=*P*&AccessionNumber=*A*&StudyDescription=*ct*&ModalitiesInStudy=CT"
            "&StudyDate=19700102-20991231&limit=101&offset=0&fuzzymatching=true&includefield=00081030%2C00080060"
        ),
        "application/dicom+json",
        200,
        "application/dicom+json",
    ),
    ("OHIF UID list", f"/studies?StudyInstanceUID={STUDY}%5C1.9&limit=101", "application/dicom+json", 200, ""),
    ("OHIF expand", f"/studies/{STUDY}/series?includefield=0008103E%2C00080021", "application/dicom+json", 200, ""),
    ("OHIF lazy", f"/studies/{STUDY}/series?SeriesInstanceUID={SERIES}", "application/dicom+json", 200, ""),
    ("OHIF metadata", f"/studies/{STUDY}/series/{SERIES}/metadata", "application/dicom+json", 200, ""),
    ("OHIF nothing", "/studies?PatientName=*nobody*&limit=101", "application/dicom+json", 204, ""),
    (
        "OHIF frames",
        f"/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/frames/1",
        'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
        200,
        'multipart/related; type="application/octet-stream"',
    ),
    (
        "OHIF frames of a wanted syntax",
        f"/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/frames/1",
        'multipart/related; type="image/jp2"; transfer-syntax="1.2.840.10008.1.2.4.90"; transfer-syntax="*"',
        200,
        'multipart/related; type="image/jp2"',
    ),
    (
        "OHIF single part",
        f"/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/frames/1?accept=image/jp2",
        "*/*",
        200,
        "image/jp2",
    ),
    (
        "OHIF without frames",
        f"/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1",
        'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
        200,
        'multipart/related; type="application/octet-stream"',
    ),
    (
        "OHIF wadouri",
        (
            f"/wado?requestType=WADO&studyUID={STUDY}&seriesUID={SERIES}&objectUID={SERIES}.1"
            "&contentType=application/dicom&transferSyntax=*"
        ),
        "*/*",
        200,
        "application/dicom",
    ),
    (
        "Cornerstone",
        f"/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/frames/1",
        "multipart/related; type=application/octet-stream; transfer-syntax=*",
        200,
        'multipart/related; type="application/octet-stream"',
    ),
    (
        "Weasis studies",
        (
            "/studies?00100020=P1&00100021=&includefield=00080020,00080030,00080050,00080061,00080090,00081030,00100010,"
            "00100020,00100021,00100030,00100040,0020000D,00200010"
        ),
        "application/dicom+json",
        200,
        "",
    ),
    (
        "Weasis series",
        f"/series?0020000E={SERIES}&includefield=0008103E,00080060,0020000E,00200011,00081190",
        "application/dicom+json",
        200,
        "",
    ),
    ("Weasis count", f"/series?0020000E={SERIES}&includefield=00201209", "application/dicom+json", 200, ""),
    (
        "Weasis instances",
        f"/instances?00080018={SERIES}.1&includefield=00080016,00080018,00200013,00081190&limit=1&offset=0",
        "application/dicom+json",
        200,
        "",
    ),
    (
        "Weasis retrieve",
        f"/studies/{STUDY}/series/{SERIES}",
        'multipart/related;type="application/dicom";transfer-syntax=*',
        200,
        'multipart/related; type="application/dicom"',
    ),
    (
        "dicomweb-client mixed syntaxes",
        f"/studies/{STUDY}",
        'multipart/related; type="application/dicom"',
        200,
        'multipart/related; type="application/dicom"',
    ),
]


@pytest.fixture
async def viewed(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """A door with a study of a JPEG 2000 and a native instance, and a function that asks it."""
    async with open_rooms(tmp_path) as rooms:
        await _fill(rooms)
        async with open_door(rooms) as server, aiohttp.ClientSession(server.address) as web:
            yield web.get


async def _fill(rooms: Rooms) -> None:
    from pydicom.encaps import encapsulate

    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}
    ds = make(**uids, SOPInstanceUID=f"{SERIES}.1", PixelData=encapsulate([b"\xff\x4f\xff\x51" + bytes(90)]))
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    await rooms.take_in(ds, JPEG2000Lossless)
    await rooms.take_in(make(**uids, SOPInstanceUID=f"{SERIES}.2", InstanceNumber=2))


@pytest.mark.parametrize(
    ("path", "accept", "status", "kind"), [row[1:] for row in VIEWERS], ids=[r[0] for r in VIEWERS]
)
async def test_what_viewers_send(path: str, accept: str, status: int, kind: str, viewed: Callable[..., Any]) -> None:
    async with viewed(f"/dicomweb{path}", headers={"Accept": accept}) as response:
        content = await response.read()
        assert response.status == status, content
        assert response.headers.get("Content-Type", "").startswith(kind)
    if "frames" in path and "multipart" in accept:
        # Cornerstone's parser: the boundary comes first, and the decoder is chosen by the part's own type.
        head, _, rest = content.partition(b"\r\n\r\n")
        assert head.startswith(b"--")
        assert b"\r\nContent-Type: " in head
        assert b"transfer-syntax=1.2.840.10008.1.2.4.90" in head
        assert rest.startswith(b"\xff\x4f\xff\x51" + bytes(90))


async def test_what_viewers_read_of_an_answer_is_there(viewed: Callable[..., Any]) -> None:
    ohif_study = "0020000D 00080020 00080030 00080050 00100020 00100010 00100030 00201208 00081030 00080061 00080090"
    ohif_series = "0020000D 0020000E 00080060 00200011 00201209 00081190"
    weasis_instance = "00080016 00080018 00200013 00081190"
    for path, tags in (
        ("/studies?includefield=00081030%2C00080060%2C00080090%2C00100030", ohif_study),
        (f"/studies/{STUDY}/series?includefield=0008103E%2C00080021", ohif_series),
        (f"/studies/{STUDY}/series/{SERIES}/instances", weasis_instance),
    ):
        async with viewed(f"/dicomweb{path}") as response:
            (row, *_) = await response.json(content_type=None)
        assert set(tags.split()) <= row.keys()
