"""Real objects go through every door and come back byte for byte, findable, and described as pydicom describes them.

Objects that share a SOP Instance UID (one picture in many transfer syntaxes) go to tenants of their own, so that each
is served and none is a duplicate.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.uid import UID, MediaStorageDirectoryStorage

from dicomnode.dicom.uid import is_uid
from tests.corpus import CORPUS, WHEEL, corpus_files, data_set_of, identified, wheel_files
from tests.dicom import oracle
from tests.flows.running import Running, dicomnode, sets
from tests.flows.send import storescu

# Cut short: pydicom makes the best of them, we refuse what is not whole.
CUT_SHORT = {"MR_truncated.dcm", "rtplan_truncated.dcm"}
# Decimals where integers should be: pydicom cuts them off, we keep the text that was sent.
LOSSY = {"DX-Im-DRGEM.dcm"}
# Data set trailing padding says nothing (PS3.10 7.2), and metadata is read up to the pixel data.
PADDING = "FFFCFFFC"


class Sample(msgspec.Struct, frozen=True):
    """A real object: its file, identity, and the tenant it goes to."""

    path: Path
    tenant: str
    study: str
    series: str
    sop: str
    syntax: str

    @property
    def data_set(self) -> bytes:
        return data_set_of(self.path.read_bytes())


def _samples(paths: list[Path]) -> list[Sample]:
    seen: dict[str, int] = defaultdict(int)
    samples = []
    for path in paths:
        ds = identified(path)
        if ds is None or path.name in CUT_SHORT or "TransferSyntaxUID" not in ds.file_meta:
            continue
        if ds.SOPClassUID == MediaStorageDirectoryStorage:
            continue
        uid = str(ds.SOPInstanceUID)
        uids = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), uid)
        samples.append(Sample(path, f"t{seen[uid]}", *uids, str(ds.file_meta.TransferSyntaxUID)))
        seen[uid] += 1
    return samples


SOURCES = {"wheel": wheel_files(), "corpus": corpus_files()}
source = pytest.mark.parametrize(
    "samples",
    [
        pytest.param(
            _samples(paths), id=name, marks=[] if paths else [pytest.mark.skip(f"real objects: none in {CORPUS}")]
        )
        for name, paths in SOURCES.items()
    ],
)


def _get(node: Running, sample: Sample, path: str, accept: str) -> bytes:
    url = f"{node.url}/dicomweb/studies/{sample.study}/series/{sample.series}/instances"
    request = urllib.request.Request(url + path, headers={"Accept": accept, "x-tenant": sample.tenant})
    with urllib.request.urlopen(request, timeout=60) as reply:
        body: bytes = reply.read()
    return body


def _check(node: Running, samples: list[Sample]) -> None:
    wrong: list[str] = []
    for sample in samples:
        name = f"{sample.path.parent.name}/{sample.path.name}"
        if data_set_of(_get(node, sample, f"/{sample.sop}", "application/dicom")) != sample.data_set:
            wrong.append(f"{name}: other bytes came back")
        rows = json.loads(_get(node, sample, f"?SOPInstanceUID={sample.sop}", "application/dicom+json"))
        if [row["00080018"]["Value"] for row in rows] != [[sample.sop]]:
            wrong.append(f"{name}: found {len(rows)} times")
        (told,) = json.loads(_get(node, sample, f"/{sample.sop}/metadata", "application/dicom+json"))
        wrong += [f"{name}: {line}" for line in differences(told, sample.path)]
    assert not wrong, "\n".join(wrong)


@source
def test_import(samples: list[Sample], start: Callable[..., Running], tmp_path: Path) -> None:
    data = tmp_path / "data"
    for tenant, group in _by_tenant(samples):
        told = dicomnode("import", "--json", *(str(s.path) for s in group), *sets(data, f"node.tenant={tenant}"))
        summary = json.loads(told.stdout)
        assert (summary["new"], summary["refusals"]) == (len(group), [])
    _check(start(data_dir=data), samples)


@source
def test_stow(samples: list[Sample], node: Running) -> None:
    for tenant, group in _by_tenant(samples):
        for at in range(0, len(group), 25):
            files = [sample.path.read_bytes() for sample in group[at : at + 25]]
            body = (
                b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + f + b"\r\n" for f in files) + b"--x--\r\n"
            )
            headers = {
                "Content-Type": 'multipart/related; type="application/dicom"; boundary=x',
                "x-tenant": tenant,
            }
            request = urllib.request.Request(f"{node.url}/dicomweb/studies", body, headers)
            with urllib.request.urlopen(request, timeout=120) as reply:
                assert reply.status == 200, reply.read()
    _check(node, samples)


@source
def test_stow_with_dicomweb_client(samples: list[Sample], node: Running) -> None:
    """pydicom writes the data sets anew on their way, so what is compared is what it writes."""
    sent = 0
    for tenant, group in _by_tenant(samples):
        client = DICOMwebClient(f"{node.url}/dicomweb", headers={"x-tenant": tenant})
        for sample in group:
            ds = pydicom.dcmread(sample.path)
            written = _written(ds)
            if written is None or not all(map(is_uid, (sample.study, sample.series, sample.sop))):
                continue  # pydicom cannot write it, or the client itself refuses such UIDs
            client.store_instances([ds])
            got = client.retrieve_instance(sample.study, sample.series, sample.sop)
            assert _written(got) == written, sample.path
            assert len(client.search_for_instances(search_filters={"SOPInstanceUID": sample.sop})) == 1
            sent += 1
    assert sent > 0.8 * len(samples)


def _written(ds: Dataset) -> bytes | None:
    """Return the data set as pydicom writes it, None where it cannot."""
    buffer = pydicom.filebase.DicomBytesIO()
    try:
        pydicom.dcmwrite(buffer, ds)
    except Exception:  # noqa: BLE001 -- whatever it says, it cannot write it
        return None
    return data_set_of(buffer.getvalue())


def differences(told: dict[str, Any], path: Path) -> list[str]:
    """Return the tags of which the node tells something else than pydicom; none where pydicom itself fails."""
    expected = _expected(path)
    if expected is None or path.name in LOSSY:
        return []
    found = oracle.normal(_by_reference(told))
    tags = (expected.keys() | found.keys()) - {PADDING}
    return [tag for tag in sorted(tags) if expected.get(tag) != found.get(tag)]


@cache
def _expected(path: Path) -> dict[str, Any] | None:
    return oracle.to_json(oracle.read(path.read_bytes()))


def _by_reference(value: Any) -> Any:
    """Return JSON in which every reference reads the same."""
    if isinstance(value, list):
        return [_by_reference(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: oracle.URI if key == "BulkDataURI" else _by_reference(one) for key, one in value.items()}


def _by_tenant(samples: list[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.tenant].append(sample)
    yield from groups.items()


# How dcmtk 3.6.7's storescu is told to propose a transfer syntax; what it does not know it cannot send.
_PROPOSE = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}


class Witness:
    """dcmtk's storescp, which writes down exactly what storescu sends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.port = _free_port()
        self._process = subprocess.Popen(
            ["storescp", "+xa", "+B", "-od", str(folder), str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for(self.port)

    def stop(self) -> dict[str, bytes]:
        """Return the data set of each object that was sent, by SOP Instance UID."""
        self._process.terminate()
        self._process.wait(10)
        files = [path.read_bytes() for path in self.folder.iterdir()]
        return {_uid(file): data_set_of(file) for file in files}


def _uid(file: bytes) -> str:
    return str(pydicom.dcmread(pydicom.filebase.DicomBytesIO(file), stop_before_pixels=True).SOPInstanceUID)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _wait_for(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return


@source
@pytest.mark.external("storescu", "storescp")
@pytest.mark.timeout(240)
def test_cstore_with_dcmtk(samples: list[Sample], start: Callable[..., Running], tmp_path: Path) -> None:
    compared = 0
    for tenant, group in _by_tenant(samples):
        node = start(f"node.tenant={tenant}", data_dir=tmp_path / "data")
        witness = Witness(tmp_path / f"witness-{tenant}")
        for syntax, option in _PROPOSE.items():
            paths = [sample.path for sample in group if sample.syntax == syntax]
            if paths:
                words = ["-nh", option]
                command = ["storescu", *words, "127.0.0.1", str(witness.port), *map(str, paths)]
                subprocess.run(command, capture_output=True, timeout=120, check=False)
                storescu(node, *paths, options=words)
        by_uid = {sample.sop: sample for sample in group}
        for uid, data_set in witness.stop().items():
            if sample := by_uid.get(uid):
                got = data_set_of(_get(node, sample, f"/{uid}", "application/dicom"))
                assert got == data_set, f"{sample.path} ({UID(sample.syntax).name})"
                compared += 1
        assert node.stop() == 0
    # What dcmtk itself could not send to its own receiver says nothing of ours.
    assert compared >= 0.85 * sum(sample.syntax in _PROPOSE for sample in samples)


@pytest.mark.parametrize("name", sorted(CUT_SHORT))
def test_what_is_cut_short_is_refused(name: str, tmp_path: Path) -> None:
    told = dicomnode("import", "--json", str(WHEEL / name), *sets(tmp_path / "data"))
    summary = json.loads(told.stdout)
    assert (told.returncode, summary["refused"]) == (1, 1)
    assert "cut short" in summary["refusals"][0]["reason"]


def test_the_folders_are_what_we_think() -> None:
    assert WHEEL.is_dir()
    assert len(_samples(wheel_files())) > 60
