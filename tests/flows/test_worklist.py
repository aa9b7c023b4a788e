from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.events import Event

from dicomnode.roles.storescp.performed import PERFORMED_STEP
from dicomnode.roles.storescp.reports import STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE
from tests.corpus import make, part10
from tests.flows.running import Running
from tests.flows.send import stow
from tests.steps import finished, performed

EXAMPLE = re.search(
    r"```json\n(.*?)```", (Path(__file__).parent.parent.parent / "docs" / "worklist.md").read_text("utf-8"), re.DOTALL
)


def upload(node: Running) -> str:
    """Bring the example of the documentation in; return where it is."""
    assert EXAMPLE
    headers = {"Content-Type": "application/dicom+json"}
    request = urllib.request.Request(f"{node.url}/api/v1/worklist", EXAMPLE[1].encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.status == 201
        assert json.loads(reply.read())["warnings"] == []
        return str(reply.headers["Location"])


def findscu(node: Running, folder: Path, *keys: str) -> list[Dataset]:
    folder.mkdir(exist_ok=True)
    host, port = node.scp
    asked = [word for key in keys for word in ("-k", key)]
    command = ["findscu", "-W", "-X", "-od", str(folder), *asked, host, str(port)]
    subprocess.run(command, check=True, timeout=60, capture_output=True, env=os.environ | {"TCP_NODELAY": "1"})
    return [pydicom.dcmread(file, force=True) for file in sorted(folder.iterdir())]


@pytest.mark.external("findscu")
def test_the_example_of_the_documentation_goes_its_way(node: Running, tmp_path: Path) -> None:
    where = upload(node)
    station = "ScheduledProcedureStepSequence[0].ScheduledStationAETitle=CT1"
    (found,) = findscu(node, tmp_path / "scheduled", "PatientName", "StudyInstanceUID", "AccessionNumber", station)
    found.decode()
    assert (found.PatientName, found.AccessionNumber) == ("Müller^Zoë", "A2026-0117")

    begun = performed(PatientName="Müller^Zoë", SpecificCharacterSet="ISO_IR 192")
    item = begun.ScheduledStepAttributesSequence[0]
    item.StudyInstanceUID, item.ScheduledProcedureStepID = found.StudyInstanceUID, "S2026-0117"
    ae = AE("CT1")
    ae.add_requested_context(PERFORMED_STEP)
    modality = ae.associate(*node.scp)
    assert modality.is_established
    assert modality.send_n_create(begun, PERFORMED_STEP, "1.2.3")[0].Status == 0
    assert status_of(node, where) == "STARTED"
    assert modality.send_n_set(finished(), PERFORMED_STEP, "1.2.3")[0].Status == 0
    modality.release()

    assert status_of(node, where) == "COMPLETED"
    assert findscu(node, tmp_path / "done", "PatientName", station) == []
    (step,) = node.json("/api/v1/performed?PerformedProcedureStepStatus=COMPLETED")
    assert step["00100010"]["Value"] == [{"Alphabetic": "Müller^Zoë"}]
    assert "ller" not in node.told()


def status_of(node: Running, where: str) -> str:
    (step,) = node.json(where)["00400100"]["Value"]
    return str(step["00400020"]["Value"][0])


def test_a_killed_node_keeps_what_it_promised(start: Callable[..., Running], tmp_path: Path) -> None:
    ds = make()
    with Listening() as modality:
        peers = f"peers.ct1=CT1@127.0.0.1:{modality.port}"
        first = start(peers, "commitment.hold_s=30")
        where = upload(first)
        assert stow(first, part10(ds))[0] == 200
        ae = AE("CT1")
        ae.add_requested_context(PERFORMED_STEP)
        ae.add_requested_context(STORAGE_COMMITMENT)
        association = ae.associate(*first.scp)
        assert association.send_n_create(performed(), PERFORMED_STEP, "1.2.3")[0].Status == 0
        told, _ = association.send_n_action(asked(ds), 1, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE)
        assert told.Status == 0
        first.kill()
        association.abort()
        second = start(peers)
        assert second.json(where)["00100020"]["Value"] == ["P4711"]
        assert second.json("/api/v1/performed/1.2.3")["00100020"]["Value"] == ["P1"]
        report = modality.reports.get(timeout=30)
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [ds.SOPInstanceUID]


def asked(ds: Dataset) -> Dataset:
    request, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, ds.SOPInstanceUID
    request.TransactionUID, request.ReferencedSOPSequence = "1.2.3.4", [item]
    return request


class Listening:
    """A modality that waits for reports of storage commitment."""

    def __init__(self) -> None:
        self.reports: queue.Queue[Dataset] = queue.Queue()
        self._ae = AE("CT1")
        self._ae.add_supported_context(STORAGE_COMMITMENT, scu_role=False, scp_role=True)

    def __enter__(self) -> Self:
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._take)]
        self._server = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert self._server is not None
        assert self._server.socket is not None
        self.port = self._server.socket.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()

    def _take(self, event: Event) -> tuple[int, None]:
        self.reports.put(event.event_information)
        return 0x0000, None
