"""QIDO-RS: search (PS3.18 10.6)."""

from __future__ import annotations

from aiohttp import web

from dicomnode.dicom.answer import compose
from dicomnode.errors import BadRequest
from dicomnode.model.attributes import Level
from dicomnode.roles.server.accept import JSON, choose_text
from dicomnode.roles.server.call import Call
from dicomnode.roles.server.problem import HttpProblem
from dicomnode.services.find import Question

PARAMETERS = frozenset({"includefield", "fuzzymatching", "limit", "offset", "accept", "emptyvaluematching", "orderby"})
_MOST_KEYS = 100
_BOOLEANS = {"true": True, "false": False, "": False, "1": True, "0": False}


async def studies(call: Call) -> web.Response:
    """Search for studies."""
    return await _search(call, Level.STUDY)


async def series(call: Call) -> web.Response:
    """Search for series."""
    return await _search(call, Level.SERIES)


async def instances(call: Call) -> web.Response:
    """Search for instances."""
    return await _search(call, Level.INSTANCE)


async def _search(call: Call, level: Level) -> web.Response:
    if choose_text(call.ranges(), (JSON,)) is None:
        raise HttpProblem(406, "searches are answered as application/dicom+json", "Accept: application/dicom+json")
    answer = await call.services.find.search(_question(call, level))
    headers = _warnings(answer.more, answer.unmatched)
    if not answer.found:
        return call.answer(status=204, headers=headers)
    base = call.base_url()
    rows = [compose(found, level, answer.selection, base) for found in answer.found]
    return call.answer(f"[{','.join(rows)}]".encode(), JSON, headers=headers)


def _question(call: Call, level: Level) -> Question:
    query = call.request.query
    if len(query) > _MOST_KEYS:
        raise BadRequest(f"more than {_MOST_KEYS} parameters")
    _, study, series_uid, _ = call.uids()
    include = [name.strip() for value in query.getall("includefield", ()) for name in value.split(",")]
    return Question(
        tenant=call.tenant,
        level=level,
        keys=tuple((name, value) for name, value in query.items() if name not in PARAMETERS),
        include=tuple(name for name in include if name),
        fuzzy=_boolean("fuzzymatching", query.get("fuzzymatching", "")),
        limit=_count("limit", query["limit"]) if query.get("limit") else None,
        offset=_count("offset", query.get("offset") or "0"),
        study_uid=study,
        series_uid=series_uid,
    )


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequest(f"{name} must be a whole number that is not negative")
    return int(text)


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise BadRequest(f"{name} must be true or false")
    return _BOOLEANS[text.lower()]


def _warnings(more: bool, unmatched: tuple[str, ...]) -> dict[str, str]:
    told = []
    if more:
        told.append('299 dicomnode: "there are more results, which can be requested with offset"')
    if unmatched:
        told.append(f'299 dicomnode: "not indexed and so not matched: {" ".join(unmatched)}"')
    return {"Warning": ", ".join(told)} if told else {}
