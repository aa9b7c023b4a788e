from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage

from dicomnode.config import PeerTable
from dicomnode.dimse.items import Proposal, Role
from dicomnode.dimse.scu import Association, proposals
from dicomnode.dimse.service import VERIFICATION
from dicomnode.errors import PeerError
from dicomnode.services.watermark import Watermark
from dicomnode_memory.storage import MemoryStorage, Options
from tests.corpus import data_set_of, make, part10
from tests.roles.test_storescp import Kept, door, program

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
STORING = proposals([(VERIFICATION, (IMPLICIT,)), (CTImageStorage, (EXPLICIT,))])


async def test_senders_are_refused_early_and_for_now_while_others_are_served(tmp_path: Path) -> None:
    kept, data = Kept(), data_set_of(part10(make()))
    async with MemoryStorage(Options(capacity_bytes=1000), tmp_path) as storage:
        mark = Watermark(storage, 500)
        async with door(kept, watermark=mark) as role:
            peer = PeerTable("DICOMNODE", *role.endpoint)
            async with Association.request(peer, "ME", STORING) as before:
                assert await before.store(CTImageStorage, "1.2.1", EXPLICIT, data) == 0
                await storage.put("k", [bytes(900)])
                await mark.look()
                assert await before.store(CTImageStorage, "1.2.2", EXPLICIT, data) == 0xA700
                assert await before.echo() == 0
                with pytest.raises(PeerError, match="local limit exceeded") as caught:
                    async with Association.request(peer, "ME", STORING):
                        pass
                assert caught.value.transient
                for asked in (
                    STORING[:1],
                    # Who only takes objects, by C-GET, needs no room here.
                    [
                        Proposal(1, VERIFICATION, (IMPLICIT,)),
                        Proposal(3, CTImageStorage, (EXPLICIT,), Role(False, True)),
                    ],
                ):
                    async with Association.request(peer, "ME", asked) as other:
                        assert await other.echo() == 0
                await storage.delete(["k"])
                await mark.look()
                assert await before.store(CTImageStorage, "1.2.3", EXPLICIT, data) == 0
    assert [arrival.sop_instance_uid for arrival in kept.arrivals] == ["1.2.1", "1.2.3"]


@pytest.mark.external("storescu")
async def test_storescu_is_told_to_come_later(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(part10(make()))
    async with (
        MemoryStorage(Options(capacity_bytes=1000), tmp_path) as storage,
        door(watermark=Watermark(storage, 5000)) as role,
    ):
        code, said = await program("storescu", *role.endpoint, path)
        assert code != 0
        assert "Rejected Transient" in said
        assert "Local Limit Exceeded" in said
        assert (await program("echoscu", *role.endpoint))[0] == 0
