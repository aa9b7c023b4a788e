"""On what kind of file system a folder is.

One that is elsewhere can keep any call waiting for as long as its server is away, and shows late what other machines
did. So nothing that touches it is called on the event loop, and what is not found is looked for again.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_ELSEWHERE = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|9p|ceph|lustre|afs|gpfs|beegfs|orangefs|virtiofs|fuse(\..*)?")


def is_elsewhere(fd: int) -> bool:
    """Tell whether an open folder is on a file system that other machines share; False where that cannot be known."""
    return _ELSEWHERE.fullmatch(_kind_of(fd)) is not None


def _kind_of(fd: int) -> str:
    """Return what the kernel calls the file system of `fd`."""
    with contextlib.suppress(OSError):
        mount = re.search(r"^mnt_id:\s*(\d+)$", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE)
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines() if mount else ():
            about, _, kind = line.partition(" - ")
            if mount and about.partition(" ")[0] == mount[1]:
                return kind.partition(" ")[0]
    return ""
