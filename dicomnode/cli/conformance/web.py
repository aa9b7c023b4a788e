"""Section 4.2.2: the web application entity, from its routes (PS3.2 A.4.2, PS3.18)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

from dicomnode import errors
from dicomnode.cli.conformance.facts import Facts
from dicomnode.cli.conformance.keys import description, tag_text
from dicomnode.cli.conformance.markdown import code, heading, joined, prose, table
from dicomnode.dicom.answer import select
from dicomnode.dicom.transfer_syntax import of
from dicomnode.errors import ConfigError, NodeError
from dicomnode.model.attributes import Level
from dicomnode.roles.server.accept import DICOM, JSON, OCTETS, XML
from dicomnode.roles.server.door import table as routes
from dicomnode.roles.server.problem import MEDIA_TYPE, problem_of
from dicomnode.roles.server.qido import PARAMETERS
from dicomnode.roles.server.stow import Stow


def web(facts: Facts) -> str:
    """Return the section."""
    return joined(
        (
            heading("4.2.2", "Web application entity"),
            table(("method", "path", "what it does", "needs no token"), _routes()),
            heading("4.2.2.1", "Search (QIDO-RS)"),
            _search(facts),
            *(
                f"{level.name.title()} results have: {_returned(level)}."
                for level in Level
                if level is not Level.PATIENT
            ),
            heading("4.2.2.2", "Retrieve (WADO-RS, WADO-URI)"),
            prose(
                f"""
                - Objects come as they are kept, {code(DICOM)}{_second_form(facts)}. Nothing is transcoded on the way,
                  and 406 says where nothing suits.
                - Metadata come as {code(JSON)}, bulk data by reference.
                - Frames and bulk data come in the media type of the stored transfer syntax (8.2) or as {code(OCTETS)},
                  native pixels little endian.
                """
            ),
            heading("4.2.2.3", "Store (STOW-RS)"),
            _store(facts),
            heading("4.2.2.4", "Errors"),
            f"Errors are {code(MEDIA_TYPE)} (RFC 9457). Beside what HTTP itself wants:",
            table(("status", "when"), _errors()),
        )
    )


def _second_form(facts: Facts) -> str:
    """Return in what else objects come."""
    table = facts.config.transcoder
    if not table.viewer_transfer_syntaxes:
        return ""
    return f"; those that viewers do not show are soon kept in {of(table.target).name} too, for who takes only that"


def _search(facts: Facts) -> str:
    return prose(
        f"""
        - Answered as {code(JSON)}, with 204 for no match. Results of one query: {facts.config.server.limits.results} at
          the most; the header Warning says where there are more, to be had with `offset`.
        - Keys are attributes by keyword or tag, also within sequences, matched as in 4.2.1.5.3. Those that are not
          indexed are named in the header Warning.
        - Parameters that are no keys: {", ".join(map(code, sorted(PARAMETERS)))}.
        """
    )


def _store(facts: Facts) -> str:
    limits = facts.config.server.limits
    return prose(
        f"""
        - Parts of {code(DICOM)}, or one object as the body. Metadata with bulk data apart are not taken.
        - Answered as {code(JSON)} or {code(XML)} with what became of each object.
        - A request has {limits.request_body} bytes and {limits.parts} parts of {limits.part} bytes at the most.
        """
    )


def _routes() -> Iterator[Sequence[str]]:
    for route in routes(Stow()):
        does = (inspect.getdoc(route.handler) or "").splitlines()[0]
        yield route.method, code(route.template), does, "yes" if route.open else ""


def _returned(level: Level) -> str:
    return ", ".join(f"{description(tag)} {tag_text(tag)}" for tag in sorted(select(level).tags))


def _errors() -> Iterator[tuple[int, str]]:
    """Yield the status that each class of error comes to, but for those that end the program."""
    told: dict[int, list[str]] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, NodeError) and not issubclass(kind, ConfigError):
            told.setdefault(problem_of(kind("")).status, []).append((kind.__doc__ or "").splitlines()[0])
    yield from ((status, " ".join(told[status])) for status in sorted(told))
