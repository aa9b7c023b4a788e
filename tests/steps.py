"""Worklist entries and performed steps, made with pydicom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

STUDY = "1.2.826.0.1.3680043.8.498.1"
_OF_STEP = frozenset(
    {
        *("Modality", "ScheduledStationAETitle", "ScheduledStationName", "ScheduledPerformingPhysicianName"),
        *("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime", "ScheduledProcedureStepID"),
        *("ScheduledProcedureStepDescription", "ScheduledProcedureStepLocation", "ScheduledProcedureStepStatus"),
    }
)


def scheduled(**changes: Any) -> Dataset:
    """Return an entry; `changes` by keyword go to the step or to the item around it, None takes one away."""
    ds, step = Dataset(), Dataset()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "P1", "19700102", "F"
    ds.AccessionNumber, ds.StudyInstanceUID, ds.RequestedProcedureID = "A1", STUDY, "R1"
    ds.RequestedProcedureDescription = "Head CT"
    step.Modality, step.ScheduledStationAETitle = "CT", "CT1"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = "20260705", "1030"
    step.ScheduledPerformingPhysicianName, step.ScheduledProcedureStepID = "House^Gregory", "S1"
    step.ScheduledProcedureStepDescription = "Head without contrast"
    for keyword, value in changes.items():
        target = step if keyword in _OF_STEP else ds
        if value is None:
            delattr(target, keyword)
        else:
            setattr(target, keyword, value)
    ds.ScheduledProcedureStepSequence = [step]
    return ds


def as_json(ds: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ds.to_json())
    return found


def drop(folder: Path, name: str, ds: Dataset) -> Path:
    """Put an entry into a folder as a RIS does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(as_json(ds), ensure_ascii=False), encoding="utf-8")
    return path


def performed(**changes: Any) -> Dataset:
    """Return what a modality says when it begins the step of `scheduled()`; None takes an attribute away."""
    ds, item = Dataset(), Dataset()
    item.StudyInstanceUID, item.ScheduledProcedureStepID, item.AccessionNumber = STUDY, "S1", "A1"
    item.ReferencedStudySequence, item.ScheduledProtocolCodeSequence = [], []
    item.RequestedProcedureID, item.RequestedProcedureDescription = "R1", ""
    item.ScheduledProcedureStepDescription = ""
    ds.ScheduledStepAttributesSequence = [item]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "P1", "19700102", "F"
    ds.ReferencedPatientSequence = []
    ds.PerformedProcedureStepID, ds.PerformedStationAETitle, ds.PerformedStationName = "PP1", "CT1", ""
    ds.PerformedLocation, ds.PerformedProcedureStepStartDate = "", "20260705"
    ds.PerformedProcedureStepStartTime, ds.PerformedProcedureStepStatus = "103100", "IN PROGRESS"
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "", ""
    ds.PerformedProcedureStepDescription, ds.PerformedProcedureTypeDescription = "", ""
    ds.ProcedureCodeSequence, ds.PerformedProtocolCodeSequence, ds.PerformedSeriesSequence = [], [], []
    ds.Modality, ds.StudyID = "CT", ""
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def finished(status: str = "COMPLETED") -> Dataset:
    """Return what a modality says when the step has ended."""
    ds, series = Dataset(), Dataset()
    ds.PerformedProcedureStepStatus = status
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "20260705", "104500"
    series.PerformingPhysicianName, series.ProtocolName, series.OperatorsName = "House^Gregory", "Head", ""
    series.SeriesInstanceUID, series.SeriesDescription, series.RetrieveAETitle = generate_uid(), "", ""
    series.ReferencedImageSequence, series.ReferencedNonImageCompositeSOPInstanceSequence = [], []
    ds.PerformedSeriesSequence = [series]
    return ds
