"""Find what is there: C-FIND and QIDO meet here. Files are never opened; what the index does not keep is not matched.

Keys with a column go to the database; keys of other indexed attributes are matched on the rows that come back; keys of
attributes that are not indexed cannot be matched and are told in `Answer.unmatched` (PS3.4 C.2.2.1.3, PS3.18 8.3.4).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from dicomnode.dicom.answer import MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY, Selection, select
from dicomnode.dicom.item_query import Period
from dicomnode.dicom.matching import parse_match
from dicomnode.dicom.residual import Named, Residual, parse_path, parse_residual
from dicomnode.errors import BadRequest
from dicomnode.model.attributes import BY_KEYWORD, BY_TAG, Attribute, Level
from dicomnode.model.query import Found, Match, OneOf, Query, Range
from dicomnode.ports.database import Database

MOST_SCANNED = 100_000
MOST_UIDS = 10_000
_PAGE = 500

_OF_STUDY = {
    MODALITIES_IN_STUDY: Attribute(MODALITIES_IN_STUDY, "ModalitiesInStudy", "CS", Level.STUDY),
    SOP_CLASSES_IN_STUDY: Attribute(SOP_CLASSES_IN_STUDY, "SOPClassesInStudy", "UI", Level.STUDY),
}
# What viewers ask of studies, though the attribute belongs to the levels below.
_ASKED_OF_STUDIES = {"00080060": MODALITIES_IN_STUDY, "00080016": SOP_CLASSES_IN_STUDY}
# Dates with the times that belong to them (PS3.4 C.2.2.2.5.2).
_MOMENTS = (
    ("StudyDate", "StudyTime"),
    ("SeriesDate", "SeriesTime"),
    ("ContentDate", "ContentTime"),
    ("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
)
_LATEST = "235959.999999"
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Question(msgspec.Struct, frozen=True):
    """What is asked: entities of `level` that fit every key; keys are names (keyword, tag, or a path) and texts.

    `include` names further attributes, or `all`; unknown ones are passed over. `study_uid` and `series_uid` restrict
    to one study or series. `limit` None is the most that the node gives at once. With `combined`, a range of dates and
    one of times are one range of moments.
    """

    tenant: str
    level: Level
    keys: tuple[tuple[str, str], ...] = ()
    include: tuple[str, ...] = ()
    fuzzy: bool = False
    limit: int | None = None
    offset: int = 0
    study_uid: str = ""
    series_uid: str = ""
    combined: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What was found, which attributes to show of it, whether there is more, and the keys that could not be matched."""

    found: tuple[Found, ...]
    selection: Selection
    more: bool = False
    unmatched: tuple[str, ...] = ()


class Stream(msgspec.Struct, frozen=True):
    """All that fits, read from the index page by page as it is asked for, and the keys that could not be matched.

    Reading on raises BadRequest and Unavailable.
    """

    found: AsyncIterator[Found]
    unmatched: tuple[str, ...] = ()


class _Plan:
    """Where each key is matched."""

    def __init__(self) -> None:
        self.matches: dict[str, Match] = {}
        self.residuals: list[Residual | Period] = []
        self.below: dict[str, Match] = {}
        self.below_residuals: list[Residual | Period] = []
        self.deepest = Level.PATIENT
        self.unmatched: list[str] = []

    def restrict(self, keyword: str, values: tuple[str, ...]) -> None:
        """Ask for one of `values`, beside what is asked of `keyword` already."""
        asked = self.matches.get(keyword)
        kept = values if asked is None else tuple(value for value in values if asked.accepts(value))
        self.matches[keyword] = OneOf(kept)

    def combine(self) -> None:
        """Let ranges of dates and times that belong together be one range each, matched on the rows."""
        for matches, residuals in ((self.matches, self.residuals), (self.below, self.below_residuals)):
            for day, hour in _MOMENTS:
                date, time = matches.get(day), matches.get(hour)
                if isinstance(date, Range) and isinstance(time, Range):
                    del matches[hour]
                    low = (date.low, time.low) if date.low else ("", "")
                    high = (date.high, time.high or _LATEST)
                    residuals.append(Period((BY_KEYWORD[day].tag,), (BY_KEYWORD[hour].tag,), low, high))

    @property
    def is_vain(self) -> bool:
        """Whether nothing can fit."""
        return any(isinstance(match, OneOf) and not match.values for match in self.matches.values())


class Find:
    """Find studies, series and instances. `caught_up` waits for the index; an answer has `most` rows at the most."""

    def __init__(self, database: Database, caught_up: Callable[[], Awaitable[None]], most: int = 1000) -> None:
        self._database = database
        self._caught_up = caught_up
        self._most = most

    async def search(self, question: Question) -> Answer:
        """Return the entities that fit, in the order of `Found.cursor`, with all that was acknowledged before.

        Raises: BadRequest, naming the key at fault and never its value; Unavailable.
        """
        plan = await self._plan(question)
        most = self._most if question.limit is None else min(question.limit, self._most)
        selection = _selection(question)
        if not most or plan.is_vain:
            return Answer((), selection, False, tuple(plan.unmatched))
        rows = []
        async for row in self._rows(question, plan, question.offset, most + 1):
            rows.append(row)
            if len(rows) > most:
                break
        return Answer(tuple(rows[:most]), selection, len(rows) > most, tuple(plan.unmatched))

    async def stream(self, question: Question) -> Stream:
        """Return all entities that fit, behind `offset`, whatever `limit` says; otherwise as `search`."""
        plan = await self._plan(question)
        found = _nothing() if plan.is_vain else self._rows(question, plan, question.offset, None)
        return Stream(found, tuple(plan.unmatched))

    async def count(self, question: Question) -> int:
        """Return how many entities fit, whatever `limit` and `offset` say. Raises: as `search`."""
        plan = await self._plan(question)
        if plan.is_vain:
            return 0
        return len([None async for _ in self._rows(question, plan, 0, MOST_SCANNED + 1)])

    async def _plan(self, question: Question) -> _Plan:
        if question.offset < 0 or (question.limit is not None and question.limit < 0):
            raise BadRequest("limit and offset must not be negative")
        plan = _Plan()
        for name, text in question.keys:
            _place(plan, question, name, text)
        if question.study_uid:
            plan.restrict("StudyInstanceUID", (question.study_uid,))
        if question.series_uid:
            plan.restrict("SeriesInstanceUID", (question.series_uid,))
        if question.combined:
            plan.combine()
        await self._caught_up()
        if plan.below or plan.below_residuals:
            await self._descend(question, plan)
        return plan

    async def _descend(self, question: Question, plan: _Plan) -> None:
        """Turn keys of the levels below into the UIDs of what has anything that fits them."""
        if question.level is Level.PATIENT:
            raise BadRequest("patients cannot be sought by what their studies contain")
        lower = _Plan()
        lower.matches = {**plan.matches, **plan.below}
        lower.residuals = plan.below_residuals
        tag, keyword, part = _UIDS[question.level]
        uids: dict[str, None] = {}
        at_lower = msgspec.structs.replace(question, level=plan.deepest)
        async for row in self._rows(at_lower, lower, 0, MOST_SCANNED + 1):
            values = _decode(getattr(row, part)).get(tag, {}).get("Value") or [""]
            uids[values[0]] = None
            if len(uids) > MOST_UIDS:
                raise BadRequest("too much fits what is asked of the levels below; add a key such as StudyDate")
        plan.restrict(keyword, tuple(uids))

    async def _rows(self, question: Question, plan: _Plan, offset: int, most: int | None) -> AsyncIterator[Found]:
        """Yield up to `most` rows that fit, behind the first `offset`, in pages and with bounded work a row."""
        residuals, after, scanned = plan.residuals, "", 0
        page = _PAGE if residuals or most is None else min(most, _PAGE)
        while True:
            query = Query(
                question.tenant,
                question.level,
                plan.matches,
                page,
                after,
                0 if residuals or after else offset,
            )
            rows = await self._database.find(query)
            for row in rows:
                if residuals and not _fits(row, residuals):
                    continue
                if residuals and offset:
                    offset -= 1
                    continue
                yield row
            scanned += len(rows)
            if len(rows) < query.limit or (most is not None and scanned >= most and not residuals):
                return
            if scanned >= MOST_SCANNED and (residuals or most is not None):
                raise BadRequest("too many rows to look through; add a key such as StudyDate")
            after = rows[-1].cursor


_UIDS = {
    Level.STUDY: ("0020000D", "StudyInstanceUID", "study"),
    Level.SERIES: ("0020000E", "SeriesInstanceUID", "series"),
    Level.INSTANCE: ("00080018", "SOPInstanceUID", "instance"),
}


def _place(plan: _Plan, question: Question, name: str, text: str) -> None:
    """Decide where one key is matched."""
    named = parse_path(name)
    if named is None:
        raise BadRequest(f"{_printable(name)} is no attribute and no parameter")
    tag = named.path[0]
    if question.level is Level.STUDY and len(named.path) == 1:
        tag = _ASKED_OF_STUDIES.get(tag, tag)
    attribute = _OF_STUDY.get(tag) or BY_TAG.get(tag)
    if attribute is None:
        if text.strip():
            plan.unmatched.append(named.keyword)
        return
    is_below = attribute.level > question.level
    if len(named.path) == 1 and (attribute.form is not None or tag in _OF_STUDY):
        match = parse_match(attribute, text, fuzzy=question.fuzzy)
        matches = plan.below if is_below else plan.matches
        if match is not None and attribute.keyword not in matches:
            matches[attribute.keyword] = match
            plan.deepest = max(plan.deepest, attribute.level)
            return
    _place_residual(plan, named, attribute.level, parse_residual(named, text, fuzzy=question.fuzzy), is_below=is_below)


def _place_residual(plan: _Plan, named: Named, level: Level, residual: Residual | None, *, is_below: bool) -> None:
    if residual is None:
        return
    if named.path[0] in _OF_STUDY:
        plan.unmatched.append(named.keyword)  # asked twice; the first is matched
        return
    (plan.below_residuals if is_below else plan.residuals).append(residual)
    plan.deepest = max(plan.deepest, level)


async def _nothing() -> AsyncIterator[Found]:
    return
    yield


def _fits(row: Found, residuals: list[Residual | Period]) -> bool:
    attributes: dict[str, Any] = {}
    for fragment in (row.patient, row.study, row.series, row.instance):
        if fragment != "{}":
            attributes.update(_decode(fragment))
    return all(residual.accepts(attributes) for residual in residuals)


def _selection(question: Question) -> Selection:
    named = [found.path[0] for name in (*question.include, *_names(question.keys)) if (found := parse_path(name))]
    above = [
        level
        for level, uid in ((Level.STUDY, question.study_uid), (Level.SERIES, question.series_uid))
        if level < question.level and not uid
    ]
    return select(question.level, named, above=above, everything="all" in question.include)


def _names(keys: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name, _ in keys))


def _printable(name: str) -> str:
    return "".join(c for c in name[:64] if c.isascii() and c.isalnum()) or "a parameter"
