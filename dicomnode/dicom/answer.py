"""What a query answers about an entity that was found, as one DICOM JSON object (PS3.18 10.6.3.3).

Stored attributes stay the JSON text they are; whole elements are chosen, so nothing is decoded in vain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from dicomnode.model.attributes import Level
from dicomnode.model.query import Found

_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode

MODALITIES_IN_STUDY = "00080061"
SOP_CLASSES_IN_STUDY = "00080062"

# PS3.18 tables 10.6.3-3 to 10.6.3-5, without what is computed, and with the description that every study list shows.
_ALWAYS: dict[Level, str] = {
    Level.PATIENT: "00100010 00100020 00100021 00100030 00100040",
    Level.STUDY: "00080020 00080030 00080050 00080090 00080201 00081030 00100010 00100020 00100021 00100030 00100040"
    " 0020000D 00200010",
    Level.SERIES: "00080060 00080201 0008103E 0020000D 0020000E 00200011 00400244 00400245 00400275",
    Level.INSTANCE: "00080016 00080018 00080201 0020000D 0020000E 00200013 00280008 00280010 00280011 00280100",
}


class Selection(msgspec.Struct, frozen=True):
    """Which attributes an answer has: `tags`, or with `everything` all that are known."""

    tags: frozenset[str]
    everything: bool = False


def select(
    level: Level, include: Iterable[str] = (), *, above: Iterable[Level] = (), everything: bool = False
) -> Selection:
    """Return the attributes for answers of `level`: the standard's, those of the levels `above`, and tags `include`."""
    tags = set(include)
    for each in (level, *above):
        tags.update(_ALWAYS[each].split())
    if Level.STUDY in (level, *above):
        tags.add(MODALITIES_IN_STUDY)
    return Selection(frozenset(tags), everything)


def compose(found: Found, level: Level, selection: Selection, base_url: str) -> str:
    """Return `found` as a DICOM JSON object, tags ascending; RetrieveURL is below `base_url` (".../dicomweb")."""
    elements = dict(_upper(level, found.patient, found.study, found.series, selection))
    if level is Level.INSTANCE:
        elements.update(_chosen(found.instance, selection))
    elements.update(_computed(found, level, selection))
    elements["00081190"] = f'{{"vr":"UR","Value":["{_retrieve_url(elements, level, base_url)}"]}}'
    return "{" + ",".join([f'"{tag}":{elements[tag]}' for tag in sorted(elements)]) + "}"


@lru_cache(maxsize=512)
def _upper(level: Level, patient: str, study: str, series: str, selection: Selection) -> Mapping[str, str]:
    """Return the chosen elements of the levels that repeat from row to row."""
    elements: dict[str, str] = {"00080005": '{"vr":"CS","Value":["ISO_IR 192"]}'}
    for fragment in (patient, study, series):
        if fragment != "{}":
            elements.update(_chosen(fragment, selection))
    if level is not Level.PATIENT:
        elements["00080056"] = '{"vr":"CS","Value":["ONLINE"]}'
    return elements


def _chosen(fragment: str, selection: Selection) -> dict[str, str]:
    elements = _split(fragment)
    if selection.everything:
        return {tag: str(raw, "utf-8") for tag, raw in elements.items()}
    return {tag: str(elements[tag], "utf-8") for tag in selection.tags & elements.keys()}


def _computed(found: Found, level: Level, selection: Selection) -> dict[str, str]:
    elements = {}
    wanted = selection.tags
    if found.modalities and (MODALITIES_IN_STUDY in wanted or selection.everything):
        elements[MODALITIES_IN_STUDY] = _strings("CS", found.modalities)
    if found.sop_classes and (SOP_CLASSES_IN_STUDY in wanted or selection.everything):
        elements[SOP_CLASSES_IN_STUDY] = _strings("UI", found.sop_classes)
    if level is Level.PATIENT:
        elements["00201200"] = f'{{"vr":"IS","Value":[{found.studies}]}}'
    elif level is Level.STUDY:
        elements["00201206"] = f'{{"vr":"IS","Value":[{found.series_count}]}}'
        elements["00201208"] = f'{{"vr":"IS","Value":[{found.instance_count}]}}'
    elif level is Level.SERIES:
        elements["00201209"] = f'{{"vr":"IS","Value":[{found.instance_count}]}}'
    elif found.transfer_syntax_uid:
        elements["00083002"] = _strings("UI", (found.transfer_syntax_uid,))
    return elements


def _strings(vr: str, values: tuple[str, ...]) -> str:
    return f'{{"vr":"{vr}","Value":{_encode(values).decode()}}}'


_PLAIN_UID = re.compile(r"[0-9.]+")
_UID_TAGS = (("studies", "0020000D"), ("series", "0020000E"), ("instances", "00080018"))


def _retrieve_url(elements: Mapping[str, str], level: Level, base_url: str) -> str:
    url = base_url
    for name, tag in _UID_TAGS[: level.value]:
        url += f"/{name}/{_uid(elements.get(tag, ''))}"
    return url


def _uid(element: str) -> str:
    """Return the UID of an element's JSON text as it stands in a URL; our own text is written without spaces."""
    text = element.partition('"Value":["')[2].partition('"')[0]
    if _PLAIN_UID.fullmatch(text):
        return text
    values = _decode(element).get("Value") if element else None
    return quote(str(values[0]), safe="") if values else ""
