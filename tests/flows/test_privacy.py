"""Nothing of a patient gets into logs, errors or metrics."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.corpus import make, part10
from tests.flows.running import Running
from tests.flows.send import retrieved, storescu, stow

CANARY = "XCANARYX"


@pytest.mark.external("storescu")
def test_a_canary_is_never_told(start: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory) -> None:
    node = start("node.log_level=debug")
    ds = make(
        PatientName=f"{CANARY}^{CANARY}",
        PatientID=CANARY,
        AccessionNumber=CANARY,
        StudyDescription=CANARY,
        ReferringPhysicianName=CANARY,
        PatientComments=CANARY * 3,
    )
    file = part10(ds)
    assert stow(node, file)[0] == 200
    path = tmp_path_factory.mktemp("send") / "x.dcm"
    path.write_bytes(file)
    assert storescu(node, path).returncode == 0
    node.json(f"/dicomweb/studies?PatientName={CANARY}*&PatientID={CANARY}")
    node.get(f"/dicomweb/studies?NoSuchKey={CANARY}")
    node.get(f"/dicomweb/studies/{CANARY}")
    retrieved(node, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    ds.PatientBirthDate = ""
    ds.StudyInstanceUID = ""
    broken = part10(ds)
    for bad in (broken, file[:400], file[:700], file[:-50], file[:128] + b"DICM" + CANARY.encode() * 40):
        status, reply = stow(node, bad)
        assert status == 409
        assert CANARY not in str(reply)
    _, metrics = node.get("/metrics")
    assert CANARY not in metrics.decode()
    assert ds.SOPInstanceUID not in metrics.decode()
    assert node.stop() == 0
    assert CANARY not in node.told()
    assert node.told().strip(), "the log must have been written to be searched"
