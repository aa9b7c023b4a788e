from __future__ import annotations

import re
from pathlib import Path

from dicomnode import errors
from dicomnode.errors import ConfigError, NodeError, NotFound, Unavailable


def subclasses(kind: type[NodeError]) -> set[type[NodeError]]:
    return {kind} | {
        leaf for child in kind.__subclasses__() for leaf in subclasses(child) if leaf.__module__ == errors.__name__
    }


def test_the_tree_on_top_names_every_error() -> None:
    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+\b", errors.__doc__ or ""))
    assert {kind.__name__ for kind in subclasses(NodeError)} <= drawn


def test_every_error_is_documented() -> None:
    assert all(kind.__doc__ for kind in subclasses(NodeError))


def test_the_docstring_is_the_message_where_none_is_given() -> None:
    assert str(NotFound()) == "There is no such thing here."


def test_facts_make_sentences() -> None:
    assert str(ConfigError("a.b", "is wrong", "mend it")) == "a.b: is wrong (mend it)"
    assert str(Unavailable("sqlite", "locked")) == "sqlite: locked"


def test_architecture_page_names_every_error() -> None:
    page = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text()
    assert all(kind.__name__ in page for kind in subclasses(NodeError))
