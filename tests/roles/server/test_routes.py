from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.roles.server.routes import Route, Routes


async def handler(call: Any) -> None:
    """Do nothing."""


ROUTES = Routes(
    [
        Route("GET", "/", handler),
        Route("GET", "/a/{x}", handler),
        Route("POST", "/a/{x}", handler),
        Route("GET", "/a/{x}/b", handler),
        Route("GET", "/a/{x}/rest/{path*}", handler),
    ]
)


@pytest.mark.parametrize(
    ("path", "methods", "taken"),
    [
        ("/", {"GET"}, {}),
        ("/a/1.2", {"GET", "POST"}, {"x": "1.2"}),
        ("/a/1.2/", {"GET", "POST"}, {"x": "1.2"}),
        ("/a/1.2/b", {"GET"}, {"x": "1.2"}),
        ("/a/%2e%2F%20", {"GET", "POST"}, {"x": "./ "}),
        ("/a/1/rest/7FE00010", {"GET"}, {"x": "1", "path": "7FE00010"}),
        ("/a/1/rest/0008/1/00%2F", {"GET"}, {"x": "1", "path": "0008/1/00/"}),
    ],
)
def test_paths_are_found(path: str, methods: set[str], taken: dict[str, str]) -> None:
    found = ROUTES.find(path)
    assert found is not None
    assert (set(found[0]), found[1]) == (methods, taken)


@pytest.mark.parametrize("path", ["/a", "/b", "/a/1/c", "/a//b", "/a/1/b/c", "/a/1/rest", "/../a/1"])
def test_paths_are_not_found(path: str) -> None:
    assert ROUTES.find(path) is None


@given(st.text(alphabet="/ab.%2F{}*x", max_size=20))
def test_any_path_is_found_or_not(path: str) -> None:
    found = ROUTES.find(path)
    assert found is None or found[0]
