from __future__ import annotations

import uuid

from dicomnode.model.instance import request_id


def test_request_ids_are_unique_uuids_of_version_7_that_sort_by_time() -> None:
    made = [request_id(1_700_000_000_000_000_000 + milliseconds * 1_000_000) for milliseconds in range(1000)]
    assert made == sorted(made)
    assert len({request_id(0) for _ in range(1000)}) == 1000
    parsed = uuid.UUID(made[0])
    assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, made[0])
    assert parsed.int >> 80 == 1_700_000_000_000
