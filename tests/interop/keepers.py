"""Programs that nobody here wrote, to whom objects are sent; and what each of them then has."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec
import pytest
from pydicom import uid

from tests.corpus import data_set_of
from tests.interop.objects import Sample
from tests.interop.orthanc import Orthanc, orthanc
from tests.interop.places import QUICK, Certificate, Place, free_port, serving
from tests.interop.reading import parted
from tests.interop.senders import DCMJS, DCMJS_MODULES, DCMTK, NATIVE, dcmtk_tls, needs_dcmjs

Has = Callable[[Sample], tuple[str, bytes]]


class Kept(msgspec.Struct, frozen=True):
    """A program that listens at `place`; `has` returns the transfer syntax and the data set it has of an object."""

    place: Place
    has: Has


class Keeper(msgspec.Struct, frozen=True):
    """A program. `takes` are the transfer syntaxes that it accepts, None for all."""

    needs: tuple[str, ...]
    keeping: Callable[[Path, Certificate | None], AbstractContextManager[Kept]]
    takes: frozenset[str] | None = None
    rewrites: bool = False  # it has the elements of what it was sent, and encodes them in its own way

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        """What skips a test where the program is not installed."""
        return [pytest.mark.external(*self.needs)] + [needs_dcmjs] * ("node" in self.needs)


def _in_files(folder: Path) -> Has:
    """Look for an object among the Part 10 files of `folder`, whatever they are called."""

    def has(sample: Sample) -> tuple[str, bytes]:
        files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
        found = [file for file in files if file[128:132] == b"DICM" and sample.sop.encode() in file]
        assert len(found) == 1, (sample, len(found))
        return parted(found[0])

    return has


@contextmanager
def storescp(folder: Path, tls: Certificate | None = None, place: Place | None = None) -> Iterator[Kept]:
    """dcmtk's, which writes each data set as it comes."""
    place = place or Place("STORESCP", free_port(), tls)
    kept = folder / "kept"
    kept.mkdir()
    command = ["storescp", *dcmtk_tls(place), "+xa", "+B", "-aet", place.aet, "-od", str(kept), str(place.port)]
    with serving(command, place.port, folder / "log"):
        yield Kept(place, _in_files(kept))


@contextmanager
def dcmqrscp(folder: Path, tls: Certificate | None = None, peers: Sequence[Place] = ()) -> Iterator[Kept]:
    """dcmtk's archive, which sends to `peers`."""
    place = Place("DCMQRSCP", free_port(), tls)
    with serving(_dcmqrscp(folder, place, peers), place.port, folder / "log"):
        yield Kept(place, _in_files(folder / "kept"))


def _dcmqrscp(folder: Path, place: Place, peers: Sequence[Place]) -> list[str]:
    """Write a configuration that lets anybody in; return the command."""
    kept = folder / "kept"
    kept.mkdir()
    hosts = "".join(f"p{at} = ({peer.aet}, 127.0.0.1, {peer.port})\n" for at, peer in enumerate(peers))
    config = folder / "dcmqrscp.cfg"
    config.write_text(
        f"NetworkTCPPort = {place.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{hosts}HostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\n{place.aet} {kept} RW (200, 1024mb) ANY\nAETable END\n"
    )
    return ["dcmqrscp", *dcmtk_tls(place), "+B", "-c", str(config)]


@contextmanager
def _orthanc_keeps(folder: Path, tls: Certificate | None = None) -> Iterator[Kept]:
    with orthanc(folder) as running:
        yield Kept(running.place, lambda sample: parted(_file_in(running, sample)))


def _file_in(running: Orthanc, sample: Sample) -> bytes:
    query = {"Level": "Instance", "Query": {"SOPInstanceUID": sample.sop}}
    (one,) = running.ask("/tools/find", query)
    return running.get(f"/instances/{one}/file")


@contextmanager
def _pynetdicom_storescp(folder: Path, tls: Certificate | None = None) -> Iterator[Kept]:
    place = Place("STORESCP", free_port())
    kept = folder / "kept"
    command = [sys.executable, "-m", "pynetdicom", "storescp", str(place.port), "-aet", place.aet, "-od", str(kept)]
    with serving(command, place.port, folder / "log", env=QUICK | {"PYTHONWARNINGS": "ignore"}):
        yield Kept(place, _in_files(kept))


@contextmanager
def _dcmjs_scp(folder: Path, tls: Certificate | None = None) -> Iterator[Kept]:
    place = Place("DCMJS", free_port(), tls)
    kept = folder / "kept"
    kept.mkdir()
    words = [str(place.port), str(kept), *([] if tls is None else [str(tls.key), str(tls.cert), str(tls.ca)])]

    def has(sample: Sample) -> tuple[str, bytes]:
        (path,) = kept.glob(f"{sample.sop}_*")
        return path.name.partition("_")[2], path.read_bytes()

    env = os.environ | {"NODE_PATH": str(DCMJS_MODULES)}
    with serving(["node", str(DCMJS / "scp.cjs"), *words], place.port, folder / "log", env=env):
        yield Kept(place, has)


@contextmanager
def _simple_storage(folder: Path, tls: Certificate | None = None) -> Iterator[Kept]:
    """CTN's. Its archive needs MySQL; this keeps data sets in files without a head, named by UID."""
    place = Place("CTN", free_port())
    kept = folder / "kept"
    kept.mkdir()

    def has(sample: Sample) -> tuple[str, bytes]:
        (path,) = kept.rglob(f"*{sample.sop}*")
        file = path.read_bytes()
        return parted(file) if file[128:132] == b"DICM" else (sample.transfer_syntax, data_set_of(file))

    command = ["simple_storage", "-c", place.aet, "-s", "-x", str(kept), str(place.port)]
    with serving(command, place.port, folder / "log", cwd=kept):
        yield Kept(place, has)


_DEFLATED = frozenset({str(uid.DeflatedExplicitVRLittleEndian)})
KEEPERS = {
    "storescp": Keeper(("storescp",), storescp, DCMTK),
    "dcmqrscp": Keeper(("dcmqrscp",), dcmqrscp, NATIVE),
    # 1.10 writes what came deflated as if it were, and inflated.
    "orthanc": Keeper(("Orthanc",), _orthanc_keeps, DCMTK - _DEFLATED, rewrites=True),
    "pynetdicom": Keeper((), _pynetdicom_storescp),
    "dcmjs": Keeper(("node",), _dcmjs_scp),
    "ctn": Keeper(("simple_storage",), _simple_storage, NATIVE),
}
