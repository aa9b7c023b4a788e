"""What a peer does not take as it is kept, it gets in a transfer syntax that it takes."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet  # type: ignore[attr-defined]

from tests.corpus import make, part10
from tests.flows.running import Running
from tests.flows.send import stow


@pytest.mark.parametrize(
    ("syntax", "completed"), [(ExplicitVRLittleEndian, 1), (ImplicitVRLittleEndian, 1), (ExplicitVRBigEndian, 0)]
)
def test_c_get_of_a_peer_that_takes_one_syntax(shared: Running, syntax: UID, completed: int) -> None:
    ds = make()
    assert stow(shared, part10(ds))[0] == 200
    came: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        came.append(event.dataset)
        return 0

    ae = AE("ASKER")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    ae.add_requested_context(CTImageStorage, syntax)
    host, port = shared.scp
    role = build_role(CTImageStorage, scp_role=True)
    association = ae.associate(host, port, ae_title="DICOMNODE", ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, keep)])
    assert association.is_established
    asked = Dataset()
    asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", ds.StudyInstanceUID
    *_, (last, _) = association.send_c_get(asked, StudyRootQueryRetrieveInformationModelGet)
    association.release()
    assert (last.NumberOfCompletedSuboperations, len(came)) == (completed, completed)
    for got in came:
        assert got.PixelData == ds.PixelData
        assert got.PatientName == ds.PatientName
