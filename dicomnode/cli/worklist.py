"""Ask a peer what is scheduled (Modality Worklist): for today, a modality, a station, or whatever -k says."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

from dicomnode.cli import loop
from dicomnode.cli.answers import Answers
from dicomnode.cli.keys import add_keys, keys_of
from dicomnode.cli.options import config_of
from dicomnode.cli.peer import add_peer, peer_of
from dicomnode.config import Config
from dicomnode.dimse.peer import connect

_STEP = "ScheduledProcedureStepSequence."
_DATE = _STEP + "ScheduledProcedureStepStartDate"
_MODALITY = _STEP + "Modality"
_STATION = _STEP + "ScheduledStationAETitle"
_TOLD = (
    _DATE,
    _STEP + "ScheduledProcedureStepStartTime",
    _MODALITY,
    _STATION,
    _STEP + "ScheduledProcedureStepDescription",
    _STEP + "ScheduledProcedureStepID",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "StudyInstanceUID",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_peer(parser)
    parser.add_argument("--date", default="", help="start date: today, YYYYMMDD or a range such as 20260101-20260131")
    parser.add_argument("--modality", default="", help="such as CT")
    parser.add_argument("--station", default="", metavar="AET", help="AE title of the station that is to do it")
    add_keys(parser)
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="stop after N steps (C-CANCEL)")
    parser.add_argument("--json", action="store_true", help="print each step as DICOM JSON, one a line")


def run(arguments: argparse.Namespace) -> int:
    """Print the scheduled steps; return 0, also when there are none."""
    config = config_of(arguments)
    keys = keys_of(arguments.keys, _TOLD)
    today = datetime.now().astimezone().strftime("%Y%m%d")
    wanted = {
        _DATE: today if arguments.date == "today" else arguments.date,
        _MODALITY: arguments.modality,
        _STATION: arguments.station,
    }
    keys |= {name: value for name, value in wanted.items() if value}
    answers = Answers(list(keys), as_json=arguments.json)
    try:
        loop.run(_ask(arguments, config, keys, answers))
    finally:
        answers.end()
    return 0


async def _ask(arguments: argparse.Namespace, config: Config, keys: dict[str, Any], answers: Answers) -> None:
    peer, calling = peer_of(arguments, config)
    async with connect(peer, calling, config.storescp.limits) as connected:
        async for one in connected.worklist(keys, limit=arguments.limit):
            answers.add(one)
