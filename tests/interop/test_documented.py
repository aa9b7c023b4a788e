"""docs/interoperability.md names every test of this folder, and no other."""

from __future__ import annotations

import re
from pathlib import Path

_HERE = Path(__file__).parent
_DOCUMENT = _HERE.parent.parent / "docs" / "interoperability.md"


def test_the_document_names_each_test() -> None:
    named = set(re.findall(r"`(test_\w+\.py::test_\w+)`", _DOCUMENT.read_text()))
    there = {
        f"{path.name}::{name}"
        for path in _HERE.glob("test_*.py")
        if path != Path(__file__)
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert named == there
