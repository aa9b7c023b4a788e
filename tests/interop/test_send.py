"""`dicomnode echo` and `dicomnode store`: what the node's commands send, programs of other people have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.corpus import make, part10
from tests.flows.running import dicomnode
from tests.interop.keepers import KEEPERS
from tests.interop.objects import kept, sample, syntaxes
from tests.interop.reading import elements

by_keeper = pytest.mark.parametrize("name", [pytest.param(name, marks=one.marks) for name, one in KEEPERS.items()])


@by_keeper
def test_we_ask_whether_it_is_there(name: str, tmp_path: Path) -> None:
    with KEEPERS[name].keeping(tmp_path, None) as there:
        told = dicomnode("echo", "--json", there.place.peer)
    assert (told.returncode, json.loads(told.stdout)["status"]) == (0, 0)


@by_keeper
@pytest.mark.timeout(180)
def test_what_we_send_it_has(name: str, tmp_path: Path) -> None:
    keeper = KEEPERS[name]
    ours = tmp_path / "ours"
    ours.mkdir()
    samples = [sample(syntax, ours) for syntax in syntaxes() if keeper.takes is None or syntax in keeper.takes]
    with keeper.keeping(tmp_path, None) as there:
        told = dicomnode("store", "--json", there.place.peer, str(ours))
        summary = json.loads(told.stdout)
        assert (summary["stored"], summary["failures"]) == (len(samples), [])
        for one in samples:
            syntax, data_set = there.has(one)
            assert syntax == one.transfer_syntax, one
            if keeper.rewrites:
                assert elements(syntax, data_set) == elements(syntax, one.data_set), one
            else:
                assert data_set == one.data_set, one


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=KEEPERS[name].marks) for name in ("storescp", "orthanc", "pynetdicom", "dcmjs")]
)
def test_what_is_of_odd_length_goes_too(name: str, tmp_path: Path) -> None:
    """Such objects are malformed and there are many; dcmtk aborts when it is sent a fragment of odd length."""
    padding = b"\xfc\xff\xfc\xffOB\0\0\1\0\0\0\0"  # (FFFC,FFFC) of one byte
    one = kept(part10(make()) + padding, tmp_path)
    assert len(one.data_set) % 2 == 1
    with KEEPERS[name].keeping(tmp_path, None) as there:
        told = dicomnode("store", "--json", there.place.peer, str(one.path))
        assert json.loads(told.stdout)["stored"] == 1, told.stdout
        assert there.has(one)
