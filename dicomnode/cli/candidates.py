"""What PATHs may hold: every file below them, and every member of a ZIP among them. Nothing is unpacked to a name."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from dicomnode.errors import BadInstance, ConfigError

_HELD = 4 * 1024 * 1024
_CHUNK = 1024 * 1024


class Candidate(msgspec.Struct, frozen=True):
    """One file that may be DICOM: `name` for people, `path`, and `member` where it lies in a ZIP; `size` in bytes."""

    name: str
    path: Path
    size: int
    member: str = ""
    named: bool = False

    def open(self, most: int) -> IO[bytes]:
        """Return the bytes as a file. A ZIP's member is inflated into a temporary file first, `most` bytes at most.

        Raises: BadInstance: it cannot be read, or a ZIP lies about it.
        """
        try:
            if not self.member:
                return self.path.open("rb")
            return _inflated(self.path, self.member, most)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise BadInstance(f"cannot be read: {error}") from error


def found_in(paths: Sequence[Path]) -> Iterator[Candidate]:
    """Yield every candidate below `paths`, folders in the order of their names. Links to folders are not followed.

    Raises: ConfigError: a path does not exist.
    """
    for path in paths:
        if path.is_dir():
            yield from _below(path)
        elif path.name.upper() == "DICOMDIR" and path.is_file():
            yield from _below(path.parent)
        elif path.exists():
            yield from _of_file(path, named=True)
        else:
            raise ConfigError(str(path), "there is no such file or folder")


def _below(folder: Path) -> Iterator[Candidate]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.upper() != "DICOMDIR":
                yield from _of_file(Path(parent, name), named=False)


def _of_file(path: Path, *, named: bool) -> Iterator[Candidate]:
    if path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir() and Path(member.filename).name.upper() != "DICOMDIR":
                    yield Candidate(f"{path}!{member.filename}", path, member.file_size, member.filename)
    elif path.is_file():
        yield Candidate(str(path), path, path.stat().st_size, named=named)


def _inflated(path: Path, member: str, most: int) -> IO[bytes]:
    held: IO[bytes] = tempfile.SpooledTemporaryFile(_HELD)  # noqa: SIM115 -- the caller closes it
    with zipfile.ZipFile(path) as archive, archive.open(member) as packed:
        while chunk := packed.read(_CHUNK):
            held.write(chunk)
            if held.tell() > most:  # the size that a ZIP declares is only its word
                held.close()
                raise BadInstance(f"inflates to more than {most} bytes")
    held.seek(0)
    return held
