"""A query that arrives after a success sees that instance, at once."""

from __future__ import annotations

from tests.corpus import make, part10
from tests.flows.running import Running
from tests.flows.send import stow


def test_every_success_is_seen_by_the_next_query(shared: Running) -> None:
    for number in range(60):
        ds = make(PatientID=f"P{number}")
        status, reply = stow(shared, part10(ds))
        assert status == 200
        assert reply["00081199"]["Value"][0]["00081155"]["Value"] == [ds.SOPInstanceUID]
        found = shared.json(f"/dicomweb/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances")
        assert [row["00080018"]["Value"] for row in found] == [[ds.SOPInstanceUID]]
        assert len(shared.json(f"/dicomweb/studies?PatientID=P{number}")) == 1
