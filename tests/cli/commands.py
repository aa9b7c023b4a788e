"""The command line called as a user calls it, beside servers in the test's own loop."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dicomnode.cli.main import main


class Shell:
    """Runs commands in a thread; `out` and `err` are what the last one printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    async def __call__(self, *words: str) -> int:
        """Return the exit code."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(main, words)
        self.out, self.err = self._capsys.readouterr()
        return code

    @property
    def json(self) -> Any:
        """What it printed, as one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """What it printed, as a JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]
