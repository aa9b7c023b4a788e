from __future__ import annotations

from dicomnode.model.uid_hash import seahash, uid_hash


def test_the_example_of_the_reference_implementation() -> None:
    assert seahash(b"to be or not to be") == 1988685042348123509


def test_a_hash_has_twenty_digits() -> None:
    assert len(uid_hash("1.2.840.10008.1.1")) == 20
    assert uid_hash("1.2.840.10008.1.1").isdigit()
    assert uid_hash("1.2") != uid_hash("1.3")
