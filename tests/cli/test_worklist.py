from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from tests.cli.commands import Shell
from tests.corpus import part10
from tests.dimse.programs import dcmtk

TODAY = datetime.now().astimezone().strftime("%Y%m%d")


def _step(number: int, **attributes: Any) -> bytes:
    step = Dataset()
    step.Modality, step.ScheduledStationAETitle = "CT", "CT1"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = TODAY, "101500"
    step.ScheduledPerformingPhysicianName, step.ScheduledProcedureStepID = "House^Gregory", f"S{number}"
    step.ScheduledProcedureStepDescription = "Abdomen"
    for keyword, value in attributes.items():
        setattr(step, keyword, value)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Müller^Jörg", f"P{number}", "19700102", "M"
    ds.AccessionNumber, ds.StudyInstanceUID = f"A{number}", f"1.2.3.{number}"
    ds.RequestedProcedureID, ds.RequestedProcedureDescription = f"R{number}", "CT of the abdomen"
    ds.ScheduledProcedureStepSequence = Sequence([step])
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.31", f"1.2.3.{number}.1"
    return part10(ds, ExplicitVRLittleEndian)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    steps = tmp_path / "worklists" / "RIS"
    steps.mkdir(parents=True)
    (steps / "lockfile").write_text("")
    (steps / "1.wl").write_bytes(_step(1))
    (steps / "2.wl").write_bytes(_step(2, Modality="MR", ScheduledStationAETitle="MR1"))
    (steps / "3.wl").write_bytes(_step(3, ScheduledProcedureStepStartDate="20010101"))
    return steps.parent


@pytest.mark.external("wlmscpfs")
async def test_dcmtk_tells_what_is_scheduled(shell: Shell, folder: Path) -> None:
    async with dcmtk("wlmscpfs", "-dfp", str(folder)) as port:
        peer = f"RIS@127.0.0.1:{port}"

        async def found(*words: str) -> list[str]:
            assert await shell("worklist", peer, "--json", *words) == 0
            return sorted(row["00100020"]["Value"][0] for row in shell.lines)

        assert await found() == ["P1", "P2", "P3"]
        assert await found("--date", "today") == ["P1", "P2"]
        assert await found("--date", "20000101-20011231") == ["P3"]
        assert await found("--modality", "MR") == ["P2"]
        assert await found("--station", "CT1", "--date", "today") == ["P1"]
        assert await found("-k", "ScheduledProcedureStepSequence.Modality=CT", "-k", "PatientID=P3") == ["P3"]
        assert await found("--limit", "1") in (["P1"], ["P2"], ["P3"])
        assert await found("-k", "PatientName=Nobody*") == []


@pytest.mark.external("wlmscpfs")
async def test_people_are_shown_columns(shell: Shell, folder: Path) -> None:
    async with dcmtk("wlmscpfs", "-dfp", str(folder)) as port:
        assert await shell("worklist", f"RIS@127.0.0.1:{port}", "--modality", "MR") == 0
    headings, row = (line.split("\t") for line in shell.out.splitlines())
    shown = dict(zip(headings, row, strict=True))
    assert shown["ScheduledProcedureStepStartDate"] == TODAY
    assert shown["PatientName"] == "Müller^Jörg"
    assert shown["ScheduledStationAETitle"] == "MR1"
