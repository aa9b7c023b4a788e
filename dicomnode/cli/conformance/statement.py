"""The conformance statement as a whole (PS3.2 annex A)."""

from __future__ import annotations

from dicomnode.cli.conformance.annexes import annexes
from dicomnode.cli.conformance.associations import acceptance, model, policies
from dicomnode.cli.conformance.facts import facts_of
from dicomnode.cli.conformance.markdown import joined
from dicomnode.cli.conformance.overview import overview
from dicomnode.cli.conformance.parameters import parameters
from dicomnode.cli.conformance.requests import requests
from dicomnode.cli.conformance.security import character_sets, media, security
from dicomnode.cli.conformance.services import services
from dicomnode.cli.conformance.web import web
from dicomnode.config import Config

_SECTIONS = (
    overview,
    model,
    policies,
    requests,
    acceptance,
    services,
    web,
    parameters,
    media,
    character_sets,
    security,
    annexes,
)


def statement(config: Config) -> str:
    """Return the statement of a node that runs with `config`, in Markdown. Raises: ConfigError."""
    facts = facts_of(config)
    return joined(("# DICOM conformance statement", *(section(facts) for section in _SECTIONS))) + "\n"
