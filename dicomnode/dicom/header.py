"""What the node must know of an object to keep it and find it again, read from the head of its data set.

This stands on the path of every object received: what repeats within a series is looked up, not made again.
"""

from __future__ import annotations

from collections.abc import Iterator

from dicomnode.dicom import charset as charsets
from dicomnode.dicom import nesting, transfer_syntax, values
from dicomnode.dicom.charset import Charset
from dicomnode.dicom.checks import fault
from dicomnode.dicom.inflate import heads
from dicomnode.dicom.json_writer import Memo, Writer
from dicomnode.dicom.pick import ATTRIBUTES, MAX_INDEXED_BYTES, SLOTS, Picked, pick
from dicomnode.dicom.place import Place
from dicomnode.dicom.scan import BIG, LITTLE, PIXEL_DATA, UNDEFINED, CutShort, Grammar, Walk, is_padding, looks_implicit
from dicomnode.dicom.uid import MAX_UID_BYTES
from dicomnode.dicom.vr import LONG, NAMES, SHORT
from dicomnode.errors import BadInstance
from dicomnode.model.attributes import Level
from dicomnode.model.instance import Fragments, Header

Buffer = bytes | bytearray | memoryview

_FIRST_BYTES = 64 * 1024
_MAX_ELEMENTS_BEHIND = 4096
# 60 KB may inflate to 60 MB, which would hold up everyone else for a quarter of a second.
_MAX_INFLATED = 8 * 1024 * 1024
_MEMO_ELEMENTS = 4096
_MEMO_LEVELS = 512
_MEMO_CONTEXTS = 16
_MEMO_LEVEL_BYTES = 4096
_MEMO_ELEMENT_BYTES = 256 + 12
_MAX_FRAMES = 2**31 - 1

_ENDS = [
    (
        min(slot for slot, a in enumerate(ATTRIBUTES) if slot and a.level == level),
        max(slot for slot, a in enumerate(ATTRIBUTES) if slot and a.level == level) + 1,
    )
    for level in Level
]
_SOP_CLASS, _SOP_INSTANCE = SLOTS["SOPClassUID"], SLOTS["SOPInstanceUID"]
_STUDY, _SERIES = SLOTS["StudyInstanceUID"], SLOTS["SeriesInstanceUID"]
_PATIENT_ID, _STUDY_DATE = SLOTS["PatientID"], SLOTS["StudyDate"]
_ACCESSION_NUMBER, _NUMBER_OF_FRAMES = SLOTS["AccessionNumber"], SLOTS["NumberOfFrames"]


def read_header(data_set: Buffer, transfer_syntax_uid: str, *, complete: bool = True) -> Header | None:
    """Return what the head of `data_set` says of the object; None when it takes more bytes and more may come.

    `complete` says that `data_set` is the whole data set; then it is also checked that its last element is whole.

    Raises:
        BadInstance: it is no data set, cut short, or lacks one of the UIDs that identify it.
    Source: PS3.4 B, PS3.5 7.
    """
    syntax = transfer_syntax.of(transfer_syntax_uid)
    problem = str(CutShort())
    for head, whole in heads(data_set, _MAX_INFLATED) if syntax.deflated else _heads(data_set, complete):
        grammar = BIG if syntax.big_endian else LITTLE
        implicit = looks_implicit(head, 0, len(head), syntax.implicit)
        try:
            picked = pick(head, grammar, implicit=implicit)
            if picked.ended and not whole:
                continue
            if syntax.deflated:
                _check_end(memoryview(head), picked.at, grammar, implicit, complete=False)
            else:
                _check_end(memoryview(data_set), picked.at, grammar, implicit, complete=complete)
        except CutShort as short:
            problem = str(short)  # the error itself would hold the head through its traceback, in a ring
            continue
        return _Reading(picked, grammar, implicit).header()
    if complete:
        raise BadInstance(problem)
    return None


def _heads(data_set: Buffer, complete: bool) -> Iterator[tuple[bytes, bool]]:
    """Yield ever longer heads of `data_set`, and whether each is the whole of it: most of it is never looked at."""
    if not isinstance(data_set, bytes):
        view = memoryview(data_set)
        size = _FIRST_BYTES
        while size < len(view):
            yield bytes(view[:size]), False
            size *= 8
        data_set = bytes(view)
    yield data_set, complete


def _check_end(data: memoryview, at: int, grammar: Grammar, implicit: bool, *, complete: bool) -> None:
    """Raise CutShort unless the elements from `at` on are all there, up to the pixel data, if they are to be.

    Sequences of undefined length are not entered: whether what is behind them is whole goes unchecked.
    """
    try:
        _check_behind(data, at, grammar, implicit)
    except CutShort:
        if complete:
            raise


def _check_behind(data: memoryview, at: int, grammar: Grammar, implicit: bool) -> None:
    walk = Walk(data, grammar)
    for _ in range(_MAX_ELEMENTS_BEHIND):
        at = at if implicit else _over_plain(data, at, grammar)
        if at == len(data) or is_padding(data, at):
            return
        tag, _, value_at, length = walk.header(at, implicit)
        if length == UNDEFINED and tag not in PIXEL_DATA:
            nesting.check_stretch(data, value_at, len(data), grammar)
            return
        if length == UNDEFINED and data[-8:] == grammar.sequence_end:
            return
        if length >= nesting.LEAST_BYTES and tag not in PIXEL_DATA:
            nesting.check_element(data, at, min(value_at + length, len(data)), grammar)
        at = walk.after(at, implicit)
        if at < 0 or tag in PIXEL_DATA:
            return


def _over_plain(data: memoryview, at: int, grammar: Grammar) -> int:
    """Return where the first element from `at` on begins that is none of the plain many: those are passed over fast."""
    header, long, last = grammar.explicit, grammar.length, len(data) - 12
    while at <= last:
        group, _, code, length = header(data, at)
        if group >= 0x7FE0:
            return at
        size = 8 + length
        if code not in SHORT:
            length = long(data, at + 8)[0]
            if code not in LONG or length >= nesting.LEAST_BYTES:
                return at
            size = 12 + length
        if at + size > last + 12:
            return at
        at += size
    return at


class _Memo:
    """Texts and faults made before under one encoding and character set: of elements, and of whole levels."""

    def __init__(self, charset: Charset) -> None:
        self.charset = charset
        self.elements: dict[bytes, tuple[str, str]] = {}
        self.levels: dict[tuple[bytes | None, ...], tuple[str, tuple[str, ...]]] = {}


_memos: dict[tuple[bool, bool, bytes | None], _Memo] = {}


def _memo(implicit: bool, big_endian: bool, charset: bytes | None) -> _Memo:
    key = (implicit, big_endian, charset)
    memo = _memos.get(key)
    if memo is None:
        if len(_memos) >= _MEMO_CONTEXTS:
            _memos.clear()
        found = charsets.DEFAULT if charset is None else charsets.of(_value(charset, implicit)[:1024])
        memo = _memos[key] = _Memo(found)
    return memo


def _value(element: bytes, implicit: bool) -> bytes:
    return element[12:] if not implicit and element[4:6] in LONG else element[8:]


class _Reading:
    """One header being put together from what was picked."""

    def __init__(self, picked: Picked, grammar: Grammar, implicit: bool) -> None:
        self._picked = picked
        self._found = picked.found
        self._grammar = grammar
        self._implicit = implicit
        self._memo = _memo(implicit, grammar.big_endian, picked.found[0])
        self._warnings: list[str] = []

    def header(self) -> Header:
        picked, charset = self._picked, self._memo.charset
        if charset.misspelt:
            self._warnings.append("SpecificCharacterSet has a term that is not defined")
        for slot in picked.too_long:
            self._warnings.append(f"{ATTRIBUTES[slot].keyword} is longer than {MAX_INDEXED_BYTES} bytes, not indexed")
        sop_class, sop_instance = self._uid(_SOP_CLASS), self._uid(_SOP_INSTANCE)
        study, series = self._uid(_STUDY), self._uid(_SERIES)
        frames = self._number_of_frames()
        fragments = Fragments(self._level(0), self._level(1), self._level(2), self._level(3))
        return Header(
            sop_class,
            sop_instance,
            study,
            series,
            self._text(_PATIENT_ID, charset),
            self._text(_STUDY_DATE, charset),
            self._text(_ACCESSION_NUMBER, charset),
            frames,
            fragments,
            tuple(self._warnings),
        )

    def _uid(self, slot: int) -> str:
        element = self._found[slot]
        if element is None or len(element) > MAX_UID_BYTES:
            problem = f"longer than {MAX_UID_BYTES} bytes" if element or slot in self._picked.too_long else "missing"
            raise BadInstance(f"{ATTRIBUTES[slot].keyword} is {problem}")
        uid = _value(element, self._implicit).decode("latin-1").strip("\0 ")
        if not uid:
            raise BadInstance(f"{ATTRIBUTES[slot].keyword} is empty")
        if "\0" in uid:
            # Databases cut a text at a NUL in places, or take none, so that two names would be one.
            raise BadInstance(f"{ATTRIBUTES[slot].keyword} has a NUL within it")
        return uid

    def _text(self, slot: int, charset: Charset) -> str:
        element = self._found[slot]
        return "" if element is None else charset.decode(_value(element, self._implicit)).strip("\0 ")

    def _number_of_frames(self) -> int:
        element = self._found[_NUMBER_OF_FRAMES]
        text = b"" if element is None else _value(element, self._implicit).strip(b"\0 ")
        if not text:
            return 1
        number = int(text) if text.isdigit() and len(text) <= 10 else 0
        if not 1 <= number <= _MAX_FRAMES:
            self._warnings.append("NumberOfFrames is no number of frames, taken as 1")
            return 1
        return number

    def _level(self, level: int) -> str:
        first, last = _ENDS[level]
        elements = tuple(self._found[first:last])
        known = self._memo.levels.get(elements)
        if known is None:
            known = self._make_level(first, elements)
            # Of the instances of a series no two are alike.
            if level != Level.INSTANCE and sum([len(e) for e in elements if e]) <= _MEMO_LEVEL_BYTES:
                if len(self._memo.levels) >= _MEMO_LEVELS:
                    self._memo.levels.clear()
                self._memo.levels[elements] = known
        if known[1]:
            self._warnings.extend(known[1])
        return known[0]

    def _make_level(self, slot: int, elements: tuple[bytes | None, ...]) -> tuple[str, tuple[str, ...]]:
        texts, faults = [], []
        memo = self._memo.elements
        for number, element in enumerate(elements, slot):
            if element is None:
                continue
            known = memo.get(element)
            if known is None:
                known = self._make(number, element)
                if len(element) <= _MEMO_ELEMENT_BYTES:
                    if len(memo) >= _MEMO_ELEMENTS:
                        memo.clear()
                    memo[element] = known
            if known[0]:
                texts.append(known[0])
            if known[1]:
                faults.append(known[1])
        return "{" + ",".join(texts) + "}", tuple(faults)

    def _make(self, slot: int, element: bytes) -> tuple[str, str]:
        """Return the JSON member of one element, and what is wrong with its value."""
        attribute, charset = ATTRIBUTES[slot], self._memo.charset
        if self._implicit and attribute.vr != "SQ":
            vr = attribute.vr
        elif not self._implicit and element[4:6] in SHORT:
            vr = NAMES[element[4:6]]
        else:
            try:
                return f'"{attribute.tag}":{{{self._unusual(element)}}}', ""
            except (BadInstance, CutShort):
                return "", f"{attribute.keyword} is malformed, not indexed"
        value = element[8:]
        body = values.encode(vr, value, self._grammar.big_endian, charset)
        return f'"{attribute.tag}":{{{body}}}', fault(attribute.keyword, vr, value, charset) if value else ""

    def _unusual(self, element: bytes) -> str:
        """Return the inside of the JSON object of a sequence, or of an element with an unusual header."""
        walk = Walk(element, self._grammar)
        elements, _ = walk.data_set(0, len(element), self._implicit, 0)
        place = Place(element, elements, implicit=self._implicit, big=self._grammar.big_endian)
        place.charset = self._memo.charset
        writer = Writer(element, walk, big_endian=self._grammar.big_endian, memo=_ITEMS)
        return writer.body(elements[0], place)


_ITEMS = Memo()
