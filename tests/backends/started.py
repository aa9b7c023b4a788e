"""The servers of this test run: each is started when a test first asks for it, and stopped at the end.

A technology's module here has `running()`, a context manager that yields the server or skips, and
`options(port, server)`, which makes the options of its plugin with a place of its own there (a schema, a prefix).
"""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import ExitStack
from typing import Any

_stack = ExitStack()
_servers: dict[str, Any] = {}


def server(name: str) -> Any:
    """Return the running server of `name`; skip the test where there is none."""
    if name not in _servers:
        _servers[name] = _stack.enter_context(importlib.import_module(f"tests.backends.{name}").running())
    return _servers[name]


def options(port: str, name: str) -> dict[str, Any]:
    """Return options for the plugin `name` of `port`; none where it needs no server of ours."""
    if importlib.util.find_spec(f"tests.backends.{name}") is None:
        return {}
    made: dict[str, Any] = importlib.import_module(f"tests.backends.{name}").options(port, server(name))
    return made


def stop() -> None:
    """Have every server gone."""
    _servers.clear()
    _stack.close()
