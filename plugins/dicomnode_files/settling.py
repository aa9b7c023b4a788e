"""Many files made durable at once. Everything here blocks and runs in a thread."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from dicomnode_files.directories import Directories, Open, sync_directory

# Below this each file is synced by itself, so that what other programs have left to write is not waited for.
_FEW = 8
_FIRST_TO_TELL = (5, 8)  # the Linux that says when an earlier write failed; older ones return 0 all the same


def settle(directories: Directories, keys: Sequence[str], *, elsewhere: bool = False) -> None:
    """Have the files of `keys` and their names durable; what is not there is passed over. Raises: OSError.

    On a file system that is `elsewhere` a sync of all of it may promise less than one of each file.
    """
    files = defaultdict(list)
    for key in keys:
        folder, _, name = key.rpartition("/")
        files[folder].append(name)
    opened = {folder: found for folder in files if (found := directories.find(folder)) is not None}
    sync = None if len(keys) <= _FEW or elsewhere else _syncfs()
    if sync is not None:
        # Below the root there may be other file systems.
        for one in {os.fstat(found.fd).st_dev: found for found in opened.values()}.values():
            sync(one.fd)
        return
    for folder, found in opened.items():
        for name in files[folder]:
            _sync_file(found, name)
        sync_directory(found)


def _sync_file(directory: Open, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory.fd)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


def _syncfs() -> Callable[[int], None] | None:
    """Return syncfs(2), None where there is none that can be relied upon."""
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if os.uname().sysname != "Linux" or not version or tuple(map(int, version.groups())) < _FIRST_TO_TELL:
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None

    def sync(fd: int) -> None:
        if function(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return sync
