from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dicomnode.model.instance import receipt_id
from dicomnode.model.representation import Representation, folder_of, form_key, original_of, sealed
from dicomnode.ports.audit import study_of
from dicomnode.ports.storage import check_key

PLAIN = "1.2.840.10008.1.2.1"
ORIGINAL = f"default/20260102/1.2/1.2.1/1.2.1.1-{receipt_id()}.dcm"
UIDS = st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,12}", fullmatch=True)


@given(UIDS, UIDS, UIDS, st.sampled_from(["default", "a-b", "x.y-z"]))
def test_a_key_leads_to_its_original_and_back(study: str, series: str, sop: str, tenant: str) -> None:
    original = f"{tenant}/20260102/{study}/{series}/{sop}-{receipt_id()}.dcm"
    form = Representation(form_key(original, PLAIN, receipt_id()), PLAIN, 350, 1000, "0f" * 32)
    for key in (form.key, form.seal):
        assert check_key(key).startswith(folder_of(original))
        assert original_of(key) == original
        assert study_of(key) == study_of(original) == f"{tenant}/20260102/{study}"
    assert original_of(original) == ""
    assert sealed({original: 5, form.key: 1000, form.seal: 0}) == (form,)


@pytest.mark.parametrize("key", ["d/s/e/whole", "", "default/20260102/1.2/1.2.1/x0f-short.dcm", f"{ORIGINAL}/1.2"])
def test_other_keys_are_no_forms(key: str) -> None:
    assert original_of(key) == ""


def test_only_what_is_sealed_and_of_its_size_is_whole() -> None:
    first, second = (
        Representation(form_key(ORIGINAL, PLAIN, receipt_id(number * 10**9)), PLAIN, 350, 1000, "0f" * 32)
        for number in (1, 2)
    )
    assert sealed({first.key: 1000}) == ()  # being written, or left by a crash
    assert sealed({first.seal: 0}) == ()  # removed while it was written
    assert sealed({first.key: 999, first.seal: 0}) == ()
    held = {second.key: 1000, second.seal: 0, first.key: 1000, first.seal: 0}
    assert sealed(held) == (first, second)
