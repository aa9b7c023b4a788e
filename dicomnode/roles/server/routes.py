"""Which handler a path belongs to. In a template `{name}` takes any one segment, `{name*}` all the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

Handler = Callable[[Any], Awaitable[Any]]


class Route(msgspec.Struct, frozen=True):
    """One method of one resource. `template` is also the label in metrics and logs; `open` needs no token.

    `service` is what it is measured as, "" for what needs no measuring here.
    """

    method: str
    template: str
    handler: Handler
    open: bool = False
    service: str = ""


class _Node:
    __slots__ = ("children", "methods", "name", "rest", "wild")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.wild: _Node | None = None
        self.name = ""
        self.rest = False
        self.methods: dict[str, Route] = {}


class Routes:
    """All routes, as a tree of segments."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._root = _Node()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.template.strip("/").split("/"):
            if segment.startswith("{"):
                if node.wild is None:
                    node.wild = _Node()
                    node.wild.name = segment.strip("{}*")
                    node.wild.rest = segment.endswith("*}")
                node = node.wild
            else:
                node = node.children.setdefault(segment, _Node())
        node.methods[route.method] = route

    def find(self, path: str) -> tuple[Mapping[str, Route], dict[str, str]] | None:
        """Return the routes of a percent-encoded path by method, and what its braces took; None for no resource."""
        node, taken = self._root, dict[str, str]()
        segments = path.strip("/").split("/")
        for position, segment in enumerate(segments):
            found = node.children.get(segment)
            if found is None:
                found = node.wild
                if found is None or not segment:
                    return None
                if found.rest:
                    taken[found.name] = unquote("/".join(segments[position:]))
                    return found.methods, taken
                taken[found.name] = unquote(segment) if "%" in segment else segment
            node = found
        return (node.methods, taken) if node.methods else None
