"""The modality worklist: scheduled procedure steps, one a file of DICOM JSON (PS3.4 K).

A site drops files into the folder, or uses the API; either way the file is the truth, read again when it changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from dicomnode import log
from dicomnode.dicom.identifier import SPECIFIC_CHARACTER_SET, read_identifier, write_identifier
from dicomnode.dicom.item_query import ItemQuery
from dicomnode.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from dicomnode.documents import SUFFIX, Documents, Listed, file_of, is_name
from dicomnode.errors import BadRequest, NotFound
from dicomnode.model.instance import receipt_id
from dicomnode.model.steps import STEP_SEQUENCE, STEP_STATUS, ScheduledStep, items_of

LONGEST_ENTRY: Final = 64 * 1024
"""Bytes of JSON of an entry, at the most: ten thousand of them must fit into memory."""

_LOG = log.get("worklist")
_TAG = re.compile(r"[0-9A-F]{8}")
_BOM = b"\xef\xbb\xbf"
_STATUS_PATH = f"{STEP_SEQUENCE}.{STEP_STATUS}"

# What an SCP shall return a value for (PS3.4 table K.6-1, return key type 1).
NEEDED = {
    "00100010": "PatientName",
    "00100020": "PatientID",
    "0020000D": "StudyInstanceUID",
    "00401001": "RequestedProcedureID",
}
NEEDED_OF_STEP = {
    "00080060": "Modality",
    "00400001": "ScheduledStationAETitle",
    "00400002": "ScheduledProcedureStepStartDate",
    "00400003": "ScheduledProcedureStepStartTime",
    "00400009": "ScheduledProcedureStepID",
}


class _Read(msgspec.Struct, frozen=True, gc=False):
    """What a file said when it was last read, as JSON, which takes a tenth of the room; b"" where it is no entry."""

    listed: Listed
    body: bytes


class Worklist:
    """The entries of every tenant. Of more than `most` files of a tenant the oldest are passed over."""

    def __init__(self, documents: Documents, most: int) -> None:
        self._documents = documents
        self._most = most
        self._known: dict[str, dict[str, _Read]] = {}
        self._full: set[str] = set()
        self._reading = threading.Lock()

    async def search(self, tenant: str, query: ItemQuery, *, done: bool = False) -> Sequence[ScheduledStep]:
        """Return the entries that fit, by when their step begins.

        Steps that are done come only with `done`, or where the query has a key for their status. Raises: Unavailable.
        """
        return await asyncio.to_thread(self._search, tenant, query, done or _STATUS_PATH in query.keys)

    async def entry(self, tenant: str, name: str) -> ScheduledStep:
        """Return one entry. Raises: NotFound, Unavailable."""
        return await asyncio.to_thread(self._entry, tenant, name)

    async def create(self, tenant: str, attributes: object) -> ScheduledStep:
        """Keep a new entry, under a name of its own. Raises: BadRequest, Unavailable, Full."""
        return await asyncio.to_thread(self._create, tenant, attributes)

    async def replace(self, tenant: str, name: str, attributes: object) -> tuple[ScheduledStep, bool]:
        """Have an entry of this name say `attributes`; return it and whether it is new.

        Raises: BadRequest, Unavailable, Full.
        """
        return await asyncio.to_thread(self._replace, tenant, name, attributes)

    async def delete(self, tenant: str, name: str) -> None:
        """Have no entry of this name. Raises: NotFound, Unavailable."""
        await asyncio.to_thread(self._delete, tenant, name)

    async def follow(self, tenant: str, study_uid: str, step_id: str, status: str) -> int:
        """Have `status` in the entries of this step; return how many there are. Raises: Unavailable, Full."""
        return await asyncio.to_thread(self._follow, tenant, (study_uid, step_id), status)

    # In threads.

    def _create(self, tenant: str, attributes: object) -> ScheduledStep:
        name = receipt_id()
        step = parse_entry(name, file_of(name), attributes)
        self._documents.write(tenant, step.file, _encoded(step.attributes))
        return step

    def _search(self, tenant: str, query: ItemQuery, done: bool) -> Sequence[ScheduledStep]:
        found = [
            step for step in self._entries(tenant) if (done or not step.is_done) and query.accepts(step.attributes)
        ]
        return sorted(found, key=lambda step: step.order)

    def _entry(self, tenant: str, name: str) -> ScheduledStep:
        for step in self._entries(tenant):
            if step.name == name:
                return step
        raise NotFound("there is no such entry in the worklist")

    def _replace(self, tenant: str, name: str, attributes: object) -> tuple[ScheduledStep, bool]:
        try:
            file = self._entry(tenant, name).file
        except NotFound:
            if not is_name(name):
                raise BadRequest("a name is 1 to 128 of A-Z a-z 0-9 . _ -, first a letter or digit") from None
            file = file_of(name)
        step = parse_entry(name, file, attributes)
        body = _encoded(step.attributes)
        with self._documents.alone():
            new = self._documents.write(tenant, file, body, new=True)
            if not new:
                self._documents.write(tenant, file, body)
        return step, new

    def _delete(self, tenant: str, name: str) -> None:
        if not self._documents.delete(tenant, self._entry(tenant, name).file):
            raise NotFound("there is no such entry in the worklist")

    def _follow(self, tenant: str, identity: tuple[str, str], status: str) -> int:
        with self._documents.alone():
            steps = [step for step in self._entries(tenant) if step.identity == identity]
            for step in steps:
                item = {**step.step, STEP_STATUS: {"vr": "CS", "Value": [status]}}
                sequence = {"vr": "SQ", "Value": [dict(sorted(item.items()))]}
                self._documents.write(tenant, step.file, _encoded({**step.attributes, STEP_SEQUENCE: sequence}))
        return len(steps)

    def _entries(self, tenant: str) -> Iterator[ScheduledStep]:
        """Yield every entry of a tenant, having read the files that changed."""
        with self._reading:
            listed = self._documents.listed(tenant)
            if len(listed) > self._most and tenant not in self._full:
                self._full.add(tenant)
                _LOG.warning("worklist.full", files=len(listed), entries=self._most)
            known = self._known.get(tenant, {})
            kept = {one.file: self._current(tenant, one, known.get(one.file)) for one in listed[: self._most]}
            if kept:
                self._known[tenant] = kept
            else:
                self._known.pop(tenant, None)
        for file, read in kept.items():
            if read.body:
                yield ScheduledStep(_name_of(file), file, msgspec.json.decode(read.body))

    def _current(self, tenant: str, listed: Listed, known: _Read | None) -> _Read:
        if known is not None and known.listed == listed:
            return known
        # A long one need not be read to know that it is too long.
        body = self._documents.read(tenant, listed.file) if listed.size <= LONGEST_ENTRY else None
        try:
            step = parse_entry(_name_of(listed.file), listed.file, _decoded(body))
        except BadRequest as error:
            _LOG.warning("worklist.unreadable", file=listed.file, reason=str(error))
            return _Read(listed, b"")
        if step.warnings:
            _LOG.warning("worklist.incomplete", file=listed.file, reason=" ".join(step.warnings))
        return _Read(listed, msgspec.json.encode(step.attributes))


def parse_entry(name: str, file: str, attributes: object) -> ScheduledStep:
    """Return the entry that a DICOM JSON object, or a list of one, describes. Raises: BadRequest, quoting no value."""
    if isinstance(attributes, list) and len(attributes) == 1:
        attributes = attributes[0]
    # What can be answered is what can be written; and what was read back has one form.
    data_set = write_identifier(_checked(attributes), EXPLICIT_VR_LITTLE_ENDIAN)
    kept = read_identifier(data_set, EXPLICIT_VR_LITTLE_ENDIAN)
    kept.pop(SPECIFIC_CHARACTER_SET, None)
    items = items_of(kept, STEP_SEQUENCE)
    if len(items) != 1 or not items[0]:
        raise BadRequest(f"an entry has one item in its ScheduledProcedureStepSequence ({STEP_SEQUENCE})")
    return ScheduledStep(name, file, kept, tuple(_missing(kept, items[0])))


def _checked(attributes: object) -> dict[str, Any]:
    """Return what has the shape of a DICOM JSON object, tags and all. Raises: BadRequest."""
    waiting: list[object] = [attributes]
    while waiting:
        held = waiting.pop()
        if not isinstance(held, dict):
            raise BadRequest("an entry is one DICOM JSON object")
        for tag, element in held.items():
            if not _TAG.fullmatch(tag) or not isinstance(element, dict):
                raise BadRequest("an attribute is a tag of 8 hex digits in capitals and an object with vr and Value")
            items = element.get("Value")
            if element.get("vr") == "SQ" and isinstance(items, list):
                waiting.extend(item for item in items if item is not None)
    assert isinstance(attributes, dict)
    return attributes


def _missing(attributes: Mapping[str, Any], step: Mapping[str, Any]) -> Sequence[str]:
    absent = [
        keyword
        for holder, needed in ((attributes, NEEDED), (step, NEEDED_OF_STEP))
        for tag, keyword in needed.items()
        if not holder.get(tag, {}).get("Value")
    ]
    return (f"there is no value of {', '.join(absent)}.",) if absent else ()


def _name_of(file: str) -> str:
    """Return the name of the entry in a file: the file's own, or a digest where that cannot be one."""
    stem = file.removesuffix(SUFFIX)
    return stem if is_name(stem) else "x" + hashlib.sha256(file.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _decoded(body: bytes | None) -> object:
    if body is None:
        raise BadRequest(f"it is gone, or longer than {LONGEST_ENTRY} bytes")
    try:
        return msgspec.json.decode(body.removeprefix(_BOM))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("it is no JSON in UTF-8") from None


def _encoded(attributes: Mapping[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(attributes), indent=2) + b"\n"
