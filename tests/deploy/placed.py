"""The files of deploy/, with the addresses of a cluster put where the tests have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


def placed(path: str, places: Mapping[str, object]) -> str:
    """Return the text of a file of deploy/ with each of `places` in the place of its key, which must be there."""
    text = (DEPLOY / path).read_text()
    for there, here in places.items():
        assert there in text, f"{path} has no {there!r}"
        text = text.replace(there, str(here))
    return text
