"""Objects that a peer sends, written to a folder: whole or not at all, never outside it, over nothing that is there."""

from __future__ import annotations

import asyncio
import filecmp
import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO

from dicomnode import log
from dicomnode.dicom.part10 import write_file_meta
from dicomnode.dicom.uid import component
from dicomnode.dimse import status
from dicomnode.dimse.responder import StoreRequest
from dicomnode.errors import BadInstance

_log = log.get(__name__)


class Received:
    """A folder, and how many files were `written` to it and how many it `known`: had already, byte for byte."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written = self.known = 0

    async def keep(self, request: StoreRequest) -> int:
        """Write an object as `<its UID>.dcm`; return the status of the C-STORE response.

        A file of that name that is not the same stays, and a digest is added to the name of the new one.
        """
        uid = request.affected_sop_instance_uid
        try:
            head = write_file_meta(
                request.affected_sop_class_uid, uid, request.transfer_syntax_uid, request.caller.calling_aet
            )
            descriptor, name = await asyncio.to_thread(tempfile.mkstemp, ".part", ".", self._folder)
        except BadInstance:
            return status.CANNOT_UNDERSTAND
        except OSError as error:
            return _full(error)
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                await asyncio.to_thread(_write, file, head, request.data)
                if request.rest is not None:
                    async for chunk in request.rest:
                        await asyncio.to_thread(file.write, chunk)
            if await asyncio.to_thread(self._placed, part, component(uid)):
                self.written += 1
            else:
                self.known += 1
        except OSError as error:
            return _full(error)
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        return status.SUCCESS

    def _placed(self, part: Path, stem: str) -> bool:
        """Give a whole file its name; return False where the same is there already."""
        part.chmod(0o666 & ~_umask())
        for name in (f"{stem}.dcm", f"{stem}-{_digest(part)}.dcm"):
            try:
                os.link(part, self._folder / name)
            except FileExistsError:
                if _is_same(part, self._folder / name):
                    return False
            else:
                return True
        raise OSError("two objects of one name and digest")


def _write(file: IO[bytes], head: bytes, data: memoryview) -> None:
    file.write(head)
    file.write(data)


def _full(error: OSError) -> int:
    _log.warning("file.refused", reason=error.strerror)
    return status.OUT_OF_RESOURCES


def _is_same(part: Path, other: Path) -> bool:
    return other.is_file() and not other.is_symlink() and filecmp.cmp(part, other, shallow=False)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
