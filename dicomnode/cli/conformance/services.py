"""Section 4.2.1.5, SOP specific conformance: each service with its keys, rules and statuses (PS3.2 A.4.2.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dicomnode.cli.conformance.facts import OPERATIONS, Facts, name_of
from dicomnode.cli.conformance.keys import description, ignores_case, kinds, of_vr, tag_text
from dicomnode.cli.conformance.markdown import code, heading, joined, prose, table
from dicomnode.cli.conformance.statuses import Status, statuses_of, statuses_of_any
from dicomnode.dicom import transfer_syntax
from dicomnode.dicom.answer import MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY
from dicomnode.dicom.reply import COUNTED, LEVEL_NAMES
from dicomnode.dimse import service
from dicomnode.model.attributes import INDEXED, Attribute, Level
from dicomnode.model.commitment import Reason
from dicomnode.roles.storescp.hierarchy import FIND, UNIQUE_KEYS
from dicomnode.roles.storescp.retrieval import RetrievalScp
from dicomnode.services.commitment import MOST_REFERENCES
from dicomnode.services.performed import FIXED
from dicomnode.services.performed import NEEDED as NEEDED_OF_PERFORMED
from dicomnode.services.worklist import NEEDED, NEEDED_OF_STEP

# Required keys (PS3.4 C.6.1.1); which are unique the node says itself.
_REQUIRED = frozenset(
    [
        "PatientName",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "StudyID",
        "Modality",
        "SeriesNumber",
        "InstanceNumber",
    ]
)
_VRS = ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI", "US", "UT"]
_RELATIONAL = {
    "negotiated": "where extended negotiation has agreed to relational queries",
    "always": "always, also without negotiation",
    "never": "never",
}
_OF_STUDY = (
    Attribute(MODALITIES_IN_STUDY, "ModalitiesInStudy", "CS", Level.STUDY),
    Attribute(SOP_CLASSES_IN_STUDY, "SOPClassesInStudy", "UI", Level.STUDY),
)


def services(facts: Facts) -> str:
    """Return the section."""
    parts = [
        heading("4.2.1.5", "SOP specific conformance"),
        "Any request may be answered with:",
        _table(statuses_of_any()),
    ]
    for number, (title, write) in enumerate(_PARTS, 1):
        parts += [heading(f"4.2.1.5.{number}", title), *write(facts)]
    return joined(parts)


def _verification(_: Facts) -> Iterable[str]:
    yield "The node answers C-ECHO, and asks by `dicomnode echo`."


def _storage(facts: Facts) -> Iterable[str]:
    ingest = facts.config.ingest
    served = {"keep-first": "the first", "replace": "the last"}[ingest.duplicates]
    yield prose(
        f"""
        - Level 2, full: every attribute is kept, private ones too, and none is changed. The file meta information is
          ours.
        - Success says that the object and the message by which it is indexed are durable.
        - Of different objects with one SOP instance UID all are kept and {served} is served. Equal ones are kept once.
        - Objects whose values break the standard are {"refused" if ingest.strict else "kept"}.

        Statuses of C-STORE as SCP:
        """
    )
    yield _table(statuses_of(facts.door.store))


def _query(facts: Facts) -> Iterable[str]:
    query = facts.config.query
    yield prose(
        f"""
        - Levels: {_levels()}.
        - The unique key of each level above is needed, with one value; it may lack {_RELATIONAL[query.relational]}.
        - Keys of levels above may be used at a level, and keys of levels below, so that something below has to fit; at
          PATIENT those count as not indexed. Attributes within sequences may be keys too.
        - An attribute that the index does not have is answered empty. If it was asked for with a value, responses are
          pending with a warning (FF01).
        - Matches of one request: {f"{query.results}, then A700" if query.results else "without limit"}. C-CANCEL is
          heeded.
        - Responses have Query/Retrieve Level, Retrieve AE Title and, below PATIENT, Instance Availability ONLINE. They
          are in the character set of the query where that can hold them, else in UTF-8 (ISO_IR 192).

        Keys by level: U unique, R required, O optional. Each allows universal matching. Folded: case and accents do not
        matter.
        """
    )
    for level in Level:
        yield f"{LEVEL_NAMES[level]}; returned only: {_returned(level) or 'nothing'}."
        yield _keys(attribute for attribute in (*INDEXED, *_OF_STUDY) if attribute.level is level)
    yield "Statuses of C-FIND:"
    yield _statuses(facts, service.FIND)


def _retrieval(facts: Facts) -> Iterable[str]:
    query = facts.config.query
    yield prose(
        f"""
        - Unique keys as for C-FIND; that of the level itself is needed, and may be a list of UIDs. Others are passed
          over.
        - Objects of one request: {query.objects}; more are refused.
        - The destination of a C-MOVE is the AE title of a peer of 4.4.1, any other is answered A801. Associations to it
          at a time: {query.move_associations}. The move originator's AE title and message ID are told.
        - A C-GET is answered over its own association, in the contexts of which the requestor is SCP.
        - Objects go out in the transfer syntax that they are kept in. Where the other end does not take
          that{_otherwise(facts)} the sub-operation fails. The UIDs of those that failed are in the last response.
        - Pending responses come at the beginning and then about each second. C-CANCEL is heeded.
        """
    )
    for name, title in ((service.MOVE, "C-MOVE"), (service.GET, "C-GET")):
        yield f"Statuses of {title}:"
        yield _statuses(facts, name)


def _otherwise(facts: Facts) -> str:
    """Return what is done for a peer that does not take the transfer syntax of an object."""
    targets = {
        syntax.name
        for subject in facts.door.subjects
        if isinstance(subject, RetrievalScp) and subject.transcoder
        for syntax in map(transfer_syntax.of, subject.transcoder.targets)
    }
    return f" they are transcoded to {' or '.join(sorted(targets))}; where that fails too," if targets else ","


def _worklist(facts: Facts) -> Iterable[str]:
    yield prose(
        f"""
        - Entries are DICOM JSON objects in a folder, or come by `/api/v1/worklist` (4.2.2).
        - An entry should have: {_described(NEEDED)}; in its step: {_described(NEEDED_OF_STEP)}. One that lacks some is
          answered all the same.
        - Ranges of Scheduled Procedure Step Start Date and Time are one range together.
        - A step that is completed or discontinued is found only by a key for its status.
        - Every attribute of an entry can be a key and can be returned, within sequences too. It is matched by its VR:
        """
    )
    yield table(("VR", "matching"), [(vr, _matching(of_vr(vr))) for vr in _VRS])
    yield "Statuses of C-FIND:"
    yield _statuses(facts, service.WORKLIST)


def _performed(facts: Facts) -> Iterable[str]:
    fields = [field for field, uid in facts.operations if service.service_of(uid) == service.MPPS]
    names = ", ".join(dict.fromkeys(OPERATIONS[field] for field in fields))
    yield prose(
        f"""
        - Operations: {names}.
        - N-CREATE begins a step, IN PROGRESS. N-SET changes it until it is COMPLETED or DISCONTINUED, and then no more.
        - N-CREATE needs: {_described(NEEDED_OF_PERFORMED)}.
        - N-SET passes over, as it may not change: {_described(FIXED)}.
        - The worklist entry of the scheduled step follows: STARTED, COMPLETED or DISCONTINUED.

        Statuses of {names}:
        """
    )
    yield _statuses(facts, service.MPPS)


def _commitment(facts: Facts) -> Iterable[str]:
    commitment = facts.config.commitment
    reasons = ", ".join(f"{reason.value:04X} {reason.name.replace('_', ' ').lower()}" for reason in Reason)
    yield prose(
        f"""
        - Push model. The node commits itself to objects that are indexed and kept with as many bytes as were received.
        - References of one request: {MOST_REFERENCES} at the most. Reports owed at a time: {commitment.pending}.
        - The report (N-EVENT-REPORT) goes over the association of the request if the peer holds it for
          {commitment.hold_s:g} s, else over one that the node opens to the peer (4.4.1), being its SCP by role
          selection.
        - It is tried again with growing pauses from {commitment.retry_s:g} s for {commitment.give_up_s:g} s, after a
          restart too.
        - Failure reasons: {reasons}.

        Statuses of N-ACTION:
        """
    )
    yield _statuses(facts, service.COMMIT)


_PARTS: tuple[tuple[str, Callable[[Facts], Iterable[str]]], ...] = (
    ("Verification", _verification),
    ("Storage", _storage),
    ("Query", _query),
    ("Retrieval", _retrieval),
    ("Modality worklist", _worklist),
    ("Modality performed procedure step", _performed),
    ("Storage commitment", _commitment),
)


def _levels() -> str:
    return "; ".join(
        f"{name_of(uid)}: {', '.join(LEVEL_NAMES[level] for level in Level if model.first <= level <= model.last)}"
        for uid, model in FIND.items()
    )


def _keys(attributes: Iterable[Attribute]) -> str:
    rows = [
        (tag_text(each.tag), description(each.tag), each.vr, _type(each), _matching(each))
        for each in sorted(attributes, key=lambda each: each.tag)
    ]
    return table(("tag", "attribute", "VR", "type", "matching"), rows)


def _type(attribute: Attribute) -> str:
    if UNIQUE_KEYS[attribute.level][0] == attribute.tag:
        return "U"
    return "R" if attribute.keyword in _REQUIRED else "O"


def _matching(attribute: Attribute) -> str:
    return ", ".join(kinds(attribute)) + (" (folded)" if ignores_case(attribute) else "")


def _returned(level: Level) -> str:
    matched = {each.tag for each in _OF_STUDY}
    tags = sorted(tag for tag, of in COUNTED if of is level and tag not in matched)
    return _described(tags)


def _described(tags: Iterable[str]) -> str:
    return ", ".join(f"{description(tag)} {tag_text(tag)}" for tag in sorted(tags))


def _statuses(facts: Facts, name: str) -> str:
    """Return the statuses of every operation of a service."""
    return _table(statuses_of(*(do for (_, uid), do in facts.methods().items() if service.service_of(uid) == name)))


def _table(found: Sequence[Status]) -> str:
    rows = [(each.kind, code(f"{each.code:04X}"), each.meaning, each.cause) for each in found]
    return table(("class", "status", "meaning", "when"), rows)
