"""A mark in the root of a storage, which this machine remembers.

A file system that is not mounted leaves an empty folder behind, and who writes there fills the wrong disk. So a root
that was once seen must show its mark again. A root within the node's own folder needs none.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from dicomnode.errors import ConfigError, Unavailable
from dicomnode_files.directories import Open, sync_directory

NAME = "~dicomnode"  # no key has a `~`
_MEMORY = "storage-roots.json"
_LONGEST = 100


class Mark:
    """The mark of `root`, as the node whose folder is `data_dir` remembers it."""

    def __init__(self, root: Path, data_dir: Path, *, demanded: bool) -> None:
        self._root = Path(os.path.abspath(root))
        self._memory = data_dir / _MEMORY
        self._needed = not self._root.is_relative_to(Path(os.path.abspath(data_dir)))
        self._demanded = demanded

    @property
    def expected(self) -> bool:
        """Whether the root must be there and marked already."""
        return self._needed and (self._demanded or str(self._root) in self._remembered())

    def check(self, root: Open) -> None:
        """Return when the open root is the one it was; mark and remember one that nobody has marked yet.

        Raises: Unavailable, the mark is missing; ConfigError, it is another's; OSError.
        """
        if not self._needed:
            return
        found = _read(root)
        if found is None and self.expected:
            raise self.missing()
        found = _make(root) if found is None else found
        known = self._remembered()
        before = known.get(str(self._root), "")
        if before and found and before != found:
            raise ConfigError(
                "storage.options.root",
                f"{self._root} is not the storage that it was",
                f"if it is meant, delete {self._memory}",
            )
        if known.get(str(self._root)) != (found or before):
            self._remember(known | {str(self._root): found or before})

    def missing(self) -> Unavailable:
        """Return what to say where there is no mark."""
        return Unavailable(
            "files",
            f"{self._root} is not marked as a storage: mount what belongs there, or, once it is, touch "
            f"{self._root / NAME}",
        )

    def _remembered(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._memory.read_bytes(), type=dict[str, str])
        except (FileNotFoundError, msgspec.MsgspecError):
            return {}

    def _remember(self, known: dict[str, str]) -> None:
        beside = self._memory.with_name(f"{_MEMORY}.new")
        beside.write_bytes(msgspec.json.encode(known))
        beside.replace(self._memory)


def _read(root: Open) -> str | None:
    try:
        fd = os.open(NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=root.fd)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, _LONGEST).decode("ascii", "replace").strip()
    finally:
        os.close(fd)


def _make(root: Open) -> str:
    mark = secrets.token_hex(16)
    try:
        fd = os.open(NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=root.fd)
    except FileExistsError:  # another machine was quicker, and may not have written it yet; one without text is any
        return _read(root) or ""
    try:
        os.write(fd, f"{mark}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(root)
    return mark
