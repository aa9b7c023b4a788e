"""The commands that the README shows for talking to another node, run against one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus import make, part10
from tests.flows.running import Running, dicomnode

_README = Path(__file__).parent.parent.parent / "README.md"
_PEER = "PACS@192.0.2.9:104"


def shown() -> list[list[str]]:
    """Return the words of each command, in the order in which the README has them."""
    (block,) = re.findall(
        r"^## Talk to another DICOM node\n.*?^```\n(.*?)^```", _README.read_text(), re.DOTALL | re.MULTILINE
    )
    return [shlex.split(line) for line in block.splitlines() if line and not line.startswith("#")]


def address(node: Running) -> str:
    host, port = node.scp
    return f"DICOMNODE@{host}:{port}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two images of one study."""
    folder = tmp_path / "folder-with-images"
    folder.mkdir()
    first = make(PatientName="DOE^JOHN")
    second = make(PatientName="DOE^JOHN", StudyInstanceUID=first.StudyInstanceUID)
    for number, ds in enumerate((first, second)):
        (folder / f"{number}.dcm").write_bytes(part10(ds))
    (folder.parent / "study").write_text(first.StudyInstanceUID)
    return folder


def test_the_commands_for_talking_to_another_node(start: Callable[..., Running], folder: Path, tmp_path: Path) -> None:
    ours = start(data_dir=tmp_path / "ours")
    pacs = start(f"peers.ours={address(ours)}", data_dir=tmp_path / "pacs")
    study = (tmp_path / "study").read_text()
    commands = shown()
    assert [words[1] for words in commands] == ["echo", "store", "commit", "find", "get", "move", "worklist"]
    said: dict[str, str] = {}
    for program, name, *words in commands:
        assert program == ".venv/bin/dicomnode"
        real = [word.replace(_PEER, address(pacs)).replace("=1.2.3", f"={study}") for word in words]
        done = dicomnode(name, *real, cwd=tmp_path)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        said[name] = done.stdout
    assert study in said["find"] or "DOE" in said["find"]
    assert len([path for path in (tmp_path / "fetched").rglob("*") if path.is_file()]) == 2
    assert [one["0020000D"]["Value"] for one in ours.json("/dicomweb/studies")] == [[study]]
    assert len(ours.json("/dicomweb/instances")) == 2
