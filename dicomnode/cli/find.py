"""Ask a peer what it has (C-FIND): patients, studies, series or images that match."""

from __future__ import annotations

import argparse
from typing import Any

from dicomnode.cli import loop
from dicomnode.cli.answers import Answers
from dicomnode.cli.keys import add_keys, add_level, keys_of
from dicomnode.cli.options import config_of
from dicomnode.cli.peer import add_peer, peer_of
from dicomnode.config import Config
from dicomnode.dimse.peer import connect

_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_TOLD: dict[str, tuple[str, ...]] = {
    "PATIENT": _PATIENT,
    "STUDY": (
        "StudyDate", "PatientName", "PatientID", "AccessionNumber", "ModalitiesInStudy", "StudyDescription",
        "NumberOfStudyRelatedInstances", "StudyInstanceUID",
    ),
    "SERIES": (
        "Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances", "StudyInstanceUID",
        "SeriesInstanceUID",
    ),
    "IMAGE": ("InstanceNumber", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_peer(parser)
    add_level(parser)
    add_keys(parser)
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="stop after N matches (C-CANCEL)")
    parser.add_argument("--json", action="store_true", help="print each match as DICOM JSON, one a line")


def run(arguments: argparse.Namespace) -> int:
    """Print the matches; return 0, also when there are none."""
    config = config_of(arguments)
    level = arguments.level.upper()
    keys = keys_of(arguments.keys, _TOLD[level])
    answers = Answers(list(keys), as_json=arguments.json)
    try:
        loop.run(_find(arguments, config, keys, answers))
    finally:
        answers.end()
    return 0


async def _find(arguments: argparse.Namespace, config: Config, keys: dict[str, Any], answers: Answers) -> None:
    peer, calling = peer_of(arguments, config)
    async with connect(peer, calling, config.storescp.limits) as connected:
        found = connected.find(keys, arguments.level.upper(), root=arguments.root, limit=arguments.limit)
        async for one in found:
            answers.add(one)
