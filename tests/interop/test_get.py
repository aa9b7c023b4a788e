"""C-GET from the node: programs of other people fetch what it has, byte for byte where they keep what they get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import uid

from tests.flows.running import Running
from tests.flows.send import stow
from tests.interop.objects import Sample, named, sample, syntaxes
from tests.interop.places import Place
from tests.interop.queriers import QUERIERS, files_in, getscu
from tests.interop.reading import elements, essence
from tests.interop.senders import NATIVE, Told

# How dcmtk 3.6.7's getscu is told to propose a transfer syntax; with +xi it proposes explicit VR.
_PREFER = {
    uid.ExplicitVRLittleEndian: "+xe",
    uid.ExplicitVRBigEndian: "+xb",
    uid.DeflatedExplicitVRLittleEndian: "+xd",
    uid.JPEGBaseline8Bit: "+xy",
    uid.JPEGExtended12Bit: "+xx",
    uid.JPEGLosslessSV1: "+xs",
    uid.JPEGLSLossless: "+xt",
    uid.JPEGLSNearLossless: "+xu",
    uid.JPEG2000Lossless: "+xv",
    uid.JPEG2000: "+xw",
    uid.RLELossless: "+xr",
}


def _held(node: Running, syntax: str, folder: Path) -> tuple[Sample, dict[str, str]]:
    """Have the node hold an object; return it and the keys to fetch it by."""
    ours = folder / "ours"
    ours.mkdir()
    one = sample(syntax, ours)
    status, reply = stow(node, one.path.read_bytes())
    assert status == 200, reply
    keys = {"StudyInstanceUID": one.study, "SeriesInstanceUID": one.series, "SOPInstanceUID": one.sop}
    return one, keys


@pytest.mark.external("getscu")
@pytest.mark.parametrize(
    "syntax", [pytest.param(syntax, id=named(syntax)) for syntax in syntaxes() if syntax in _PREFER]
)
def test_getscu_in_each_transfer_syntax(syntax: str, node: Running, place: Place, tmp_path: Path) -> None:
    one, keys = _held(node, syntax, tmp_path)
    got = tmp_path / "got"
    got.mkdir()
    told = getscu(place, "IMAGE", keys, got, _PREFER[uid.UID(syntax)])
    assert told.well, told.words
    assert files_in(got) == {one.sop: (syntax, one.data_set)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=one.marks) for name, one in QUERIERS.items() if one.get is not None]
)
@pytest.mark.parametrize("syntax", [pytest.param(syntax, id=named(syntax)) for syntax in sorted(NATIVE)])
def test_a_program_gets_an_image(name: str, syntax: str, node: Running, place: Place, tmp_path: Path) -> None:
    one, keys = _held(node, syntax, tmp_path)
    got = tmp_path / "got"
    got.mkdir()
    told = _get(name)(place, "IMAGE", keys, got)
    assert told.well, told.words
    ((sop, (as_syntax, data_set)),) = files_in(got).items()
    assert sop == one.sop
    # They propose what they like best first, which need not be what the node has. The last two decode all they get and
    # write it anew, other decimals, character sets and private elements included.
    compared = essence if name in ("odil", "dcmjs") else elements
    assert compared(as_syntax, data_set) == compared(syntax, one.data_set)


def _get(name: str) -> Callable[[Place, str, dict[str, str], Path], Told]:
    get = QUERIERS[name].get
    assert get is not None
    return get
