"""The documentation is true: what it shows runs, what it names exists, what exists is named."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from dicomnode import metrics, plug
from dicomnode.backends import PORTS
from dicomnode.cli.conformance.facts import facts_of
from dicomnode.cli.main import COMMANDS
from dicomnode.config import Config, PluginTable
from dicomnode.ports.cache import Cache

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

FOLDERS = {path.name for path in (ROOT / "plugins").iterdir()}


async def test_the_example_plugin_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL)
    assert code
    (tmp_path / "acme_cache.py").write_text(code[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        made: Cache = plug.make(
            "cache", Cache, PluginTable("acme_cache:FolderCache", {"folder": str(tmp_path / "c")}), tmp_path
        )
        async with made as cache:
            await cache.ping()
            await cache.put("k", b"value", 60)
            assert await cache.get("k") == b"value"
            await cache.forget("k")
            assert await cache.get("k") is None
    finally:
        sys.modules.pop("acme_cache", None)


def test_every_port_is_in_the_plugin_page() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text()
    assert all(f"`{port}`" in page for port in PORTS)


def test_every_command_is_told_in_the_changelog_or_readme() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [name for name in COMMANDS if not re.search(rf"`(dicomnode )?{name}`|dicomnode {name}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_promises_name_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(named) > 8
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_room_is_in_the_architecture() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    (order,) = re.findall(r"`(cli → [^`]+)`", page)
    found = {
        path.stem
        for path in (ROOT / "dicomnode").iterdir()
        if not path.name.startswith("_") and path.suffix != ".typed"
    }
    assert set(re.split(r",? ?→ ?|, ?", order.replace("\n", " "))) == found


def test_every_service_and_subject_is_in_the_architecture() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    (services,) = re.findall(r"the verbs: `([^`]+)`", page)
    files = {path.stem for path in (ROOT / "dicomnode" / "services").glob("*.py")}
    # A process of its own, not a verb of its own.
    assert set(services.split()) == files - {"__init__", "transcode_worker"}
    subjects = facts_of(Config()).door.subjects
    assert [type(each) for each in subjects if f"| `{type(each).__module__.rpartition('.')[2]}` |" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_are_there(page: Path) -> None:
    text = page.read_text()
    blocks = "".join(re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    shown = re.findall(r"(?:`|bin/)dicomnode ([a-z][a-z-]*)", text)
    shown += re.findall(r"^dicomnode ([a-z][a-z-]*)", blocks, re.MULTILINE)
    assert [name for name in shown if name not in COMMANDS] == []


def test_metrics_that_are_told_are_there() -> None:
    known = {line.split()[2] for line in metrics.exposition().decode().splitlines() if line.startswith("# HELP")}
    text = "".join(page.read_text() for page in PAGES)
    assert [name for name in re.findall(r"`(dicomnode_[a-z_]+)[`{]", text) if name not in known | FOLDERS] == []
