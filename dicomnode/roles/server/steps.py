"""The worklist and what was performed of it, for a RIS and for people: /api/v1/worklist, /api/v1/performed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from dicomnode.dicom.item_query import MOST_KEYS, ItemQuery, parse_item_query
from dicomnode.errors import BadRequest
from dicomnode.model.steps import STEP_SEQUENCE, ScheduledStep
from dicomnode.roles.server.accept import JSON
from dicomnode.roles.server.body import read_json
from dicomnode.roles.server.call import Call
from dicomnode.services.worklist import LONGEST_ENTRY

ROOT = "/api/v1/worklist"

_PLAIN = "application/json"
_PARAMETERS = frozenset({"limit", "offset", "fuzzymatching"})
_encode = msgspec.json.Encoder().encode

# Attributes of the scheduled step itself may be asked for without the sequence around them.
_OF_STEP = frozenset(
    {
        *("Modality", "ScheduledStationAETitle", "ScheduledStationName", "ScheduledPerformingPhysicianName"),
        *("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime", "ScheduledProcedureStepID"),
        *("ScheduledProcedureStepDescription", "ScheduledProcedureStepLocation", "ScheduledProcedureStepStatus"),
    }
)


class Entry(msgspec.Struct, frozen=True):
    """An entry as the list tells of it: its name, and what it says as DICOM JSON."""

    name: str
    entry: Mapping[str, Any]


class Kept(msgspec.Struct, frozen=True):
    """What a client is told of the entry it sent."""

    name: str
    warnings: tuple[str, ...]


async def listed(call: Call) -> web.Response:
    """Answer with the entries that fit the query's keys, also those that are done."""
    steps = await call.services.worklist.search(call.tenant, _query(call, _OF_STEP), done=True)
    start, most = _page(call)
    return call.answer(_encode([Entry(step.name, step.attributes) for step in steps[start : start + most]]), _PLAIN)


async def create(call: Call) -> web.Response:
    """Keep a new entry."""
    step = await call.services.worklist.create(call.tenant, await read_json(call, LONGEST_ENTRY))
    return _kept(call, step, new=True)


async def replace(call: Call) -> web.Response:
    """Keep an entry under the name that the client gives it."""
    attributes = await read_json(call, LONGEST_ENTRY)
    step, new = await call.services.worklist.replace(call.tenant, call.params["entry"], attributes)
    return _kept(call, step, new=new)


async def entry(call: Call) -> web.Response:
    """Answer with one entry."""
    step = await call.services.worklist.entry(call.tenant, call.params["entry"])
    return call.answer(_encode(step.attributes), JSON)


async def delete(call: Call) -> web.Response:
    """Forget an entry."""
    await call.services.worklist.delete(call.tenant, call.params["entry"])
    return call.answer(status=204)


async def performed(call: Call) -> web.Response:
    """Answer with the performed steps that fit the query's keys, the last changed first."""
    start, most = _page(call)
    steps = await call.services.performed.search(call.tenant, _query(call), start + most)
    return call.answer(_encode(steps[start:]), JSON)


async def performed_one(call: Call) -> web.Response:
    """Answer with one performed step."""
    return call.answer(_encode(await call.services.performed.get(call.tenant, call.params["step"])), JSON)


def _kept(call: Call, step: ScheduledStep, *, new: bool) -> web.Response:
    headers = {"Location": f"{ROOT}/{step.name}"} if new else {}
    return call.answer(_encode(Kept(step.name, step.warnings)), _PLAIN, 201 if new else 200, headers)


def _query(call: Call, of_step: frozenset[str] = frozenset()) -> ItemQuery:
    query = call.request.query
    if len(query) > MOST_KEYS:
        raise BadRequest(f"more than {MOST_KEYS} parameters")
    keys = [(name, text) for name, text in query.items() if name not in _PARAMETERS]
    named = [(f"{STEP_SEQUENCE}.{name}" if name in of_step else name, text) for name, text in keys]
    return parse_item_query(named, fuzzy=query.get("fuzzymatching", "").lower() == "true")


def _page(call: Call) -> Sequence[int]:
    """Return how many results to pass over, and how many to show."""
    most = call.table.limits.results
    return _count(call, "offset", 0), min(_count(call, "limit", most), most)


def _count(call: Call, name: str, otherwise: int) -> int:
    text = call.request.query.get(name, "")
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequest(f"{name} must be a whole number that is not negative")
    return int(text)
