from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dicomnode.documents import LONGEST_BYTES, Documents, file_of, is_name
from dicomnode.errors import Full, Unavailable


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    return Documents(tmp_path / "docs", "home", "documents")


def test_what_was_written_is_read(documents: Documents) -> None:
    assert documents.read("home", "a.json") is None
    assert documents.write("home", "a.json", b"one")
    assert documents.write("home", "a.json", b"two")
    assert documents.read("home", "a.json") == b"two"
    assert [path.name for path in documents.root.iterdir()] == ["a.json"]


def test_new_ones_replace_nothing(documents: Documents) -> None:
    assert documents.write("home", "a.json", b"one", new=True)
    assert not documents.write("home", "a.json", b"two", new=True)
    assert documents.read("home", "a.json") == b"one"


def test_tenants_have_folders_of_their_own(documents: Documents) -> None:
    documents.write("home", "a.json", b"home")
    documents.write("clinic", "a.json", b"clinic")
    assert documents.root.joinpath("a.json").read_bytes() == b"home"
    assert documents.root.joinpath("clinic", "a.json").read_bytes() == b"clinic"
    assert documents.tenants() == ["home", "clinic"]
    assert [one.file for one in documents.listed("home")] == ["a.json"]
    assert documents.listed("nobody") == []


def test_only_documents_are_listed_the_newest_first(documents: Documents) -> None:
    for name in ("old.json", "new.json", ".hidden.json", "other.txt"):
        documents.root.mkdir(exist_ok=True)
        (documents.root / name).write_text("{}")
    (documents.root / "folder.json").mkdir()
    os.mkfifo(documents.root / "pipe.json")
    (documents.root / "dangling.json").symlink_to("nowhere")
    os.utime(documents.root / "old.json", ns=(1, 1))
    assert [one.file for one in documents.listed("home")] == ["new.json", "old.json"]


def test_a_rewritten_document_is_listed_as_another(documents: Documents) -> None:
    seen = set()
    for _ in range(5):
        documents.write("home", "a.json", b"same size")
        (listed,) = documents.listed("home")
        assert listed not in seen
        seen = {listed}


def test_what_is_no_document_is_not_read(documents: Documents) -> None:
    documents.write("home", "long.json", b"x" * (LONGEST_BYTES + 1))
    assert documents.read("home", "long.json") is None
    os.mkfifo(documents.root / "pipe.json")
    assert documents.read("home", "pipe.json") is None


def test_what_is_deleted_is_gone(documents: Documents) -> None:
    documents.write("home", "a.json", b"one")
    assert documents.delete("home", "a.json")
    assert not documents.delete("home", "a.json")
    assert documents.read("home", "a.json") is None


@pytest.mark.parametrize("file", ["../a.json", "b/a.json", "/etc/a.json", ".a.json", "..", "a\0.json"])
def test_no_name_leads_out_of_the_folder(file: str, documents: Documents) -> None:
    for step in (lambda: documents.read("home", file), lambda: documents.delete("home", file)):
        with pytest.raises(ValueError, match="not the name of a document"):
            step()
    with pytest.raises(ValueError, match="not the name of a document"):
        documents.write("home", file, b"")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a b", "ä", "-a", "a" * 129, "a\n"])
def test_names_that_are_none(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(ValueError, match="not the name of a document"):
        file_of(name)


def test_names_become_files() -> None:
    assert file_of("RIS.order_7-b") == "RIS.order_7-b.json"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = Documents(tmp_path / "file" / "docs", "home", "worklist")
    with pytest.raises(Unavailable, match=r"^worklist: "):
        broken.write("home", "a.json", b"")
    with pytest.raises(Unavailable, match=r"^worklist: "):
        broken.listed("home")


def test_a_full_disk_is_told_and_leaves_what_was(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    documents.write("home", "a.json", b"one")

    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Full, match="No space"):
        documents.write("home", "a.json", b"two")
    assert documents.read("home", "a.json") == b"one"
    assert [path.name for path in documents.root.iterdir()] == ["a.json"]


def _race(root: Path, number: int) -> None:
    """What each of several processes does at once: claim a name, and count in a document."""
    documents = Documents(root, "home", "documents")
    for turn in range(20):
        if documents.write("home", f"claim-{turn}.json", str(number).encode(), new=True):
            documents.write("home", f"won-{turn}-{number}.json", b"1")
        with documents.alone():
            count = int(documents.read("home", "count.json") or b"0")
            documents.write("home", "count.json", str(count + 1).encode())
        documents.write("home", "contended.json", bytes([number]) * 100_000)
        found = documents.read("home", "contended.json") or b""
        assert len(found) == 100_000
        assert len(set(found)) == 1, "never a part of each"


def test_several_processes_write_without_harm(documents: Documents) -> None:
    program = f"import sys; sys.path.insert(0, {os.getcwd()!r}); from pathlib import Path; "
    program += f"from tests.test_documents import _race; _race(Path({str(documents.root)!r}), int(sys.argv[1]))"
    running = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(4)]
    assert [each.wait(30) for each in running] == [0, 0, 0, 0]
    assert documents.read("home", "count.json") == b"80"
    names = [one.file for one in documents.listed("home")]
    assert len([name for name in names if name.startswith("won-")]) == 20, "each name is claimed once"
    assert [path.name for path in documents.root.iterdir() if path.name.startswith(".")] == [".lock"]


def test_without_links_and_locks_one_process_still_works(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert documents.write("home", "a.json", b"one", new=True)
    assert not documents.write("home", "a.json", b"two", new=True)
    with documents.alone():
        assert documents.read("home", "a.json") == b"one"
