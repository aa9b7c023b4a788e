"""Every row of the attack table names its tests, and all of them are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[^`]*test_\w+\.py(?:::\w+)?)`", PAGE)))
ROWS = [line.split(" | ") for line in PAGE.splitlines() if re.match(r"\| \d", line)]


@pytest.mark.parametrize("named", NAMED)
def test_a_named_test_exists(named: str) -> None:
    path, _, function = named.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert function in functions if function else any(name.startswith("test_") for name in functions)


def test_every_attack_that_is_not_the_webs_alone_has_a_test() -> None:
    told = {number for row in ROWS if "tests/" in row[-1] for number in re.findall(r"\d+", row[0])}
    assert {"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "12", "16", "17", "20", "24"} <= told


def test_no_attack_test_is_forgotten() -> None:
    for path in sorted((ROOT / "tests" / "attacks").glob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE):
            assert f"`tests/attacks/{path.name}::{name}`" in PAGE, name
