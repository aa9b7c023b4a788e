from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dicomnode import plug
from dicomnode.config import PluginTable
from dicomnode.errors import ConfigError, PluginMissing
from dicomnode.ports.broker import Broker
from dicomnode.ports.plugin import Plugin
from dicomnode.ports.storage import Storage


def test_built_in_plugins_come_through_the_same_door_as_strangers() -> None:
    assert {"files", "memory"} <= {point.name for point in plug.installed("storage")}


def test_a_dotted_path_needs_no_registration() -> None:
    assert plug.find("storage", "dicomnode_memory.storage:MemoryStorage") is plug.find("storage", "memory")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"broker.use: there is no broker plugin 'kafak' \(known: .*sqlite"):
        plug.find("broker", "kafak")


def test_missing_module_is_told() -> None:
    with pytest.raises(PluginMissing, match="there is no module nowhere"):
        plug.find("storage", "nowhere.at.all:Storage")


def test_missing_driver_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme_vault.py").write_text("import a_driver_that_is_not_here\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginMissing, match="needs a_driver_that_is_not_here"):
        plug.find("storage", "acme_vault:Vault")
    sys.modules.pop("acme_vault", None)


@pytest.mark.parametrize("use", ["dicomnode.errors:NodeError", "dicomnode.errors:nothing"])
def test_what_is_no_plugin_is_refused(use: str) -> None:
    with pytest.raises(ConfigError, match="is not a plugin class"):
        plug.find("storage", use)


def test_a_plugin_of_another_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a Broker"):
        plug.make("broker", Broker, PluginTable("dicomnode_memory.storage:MemoryStorage"), tmp_path)


def test_wrong_option_type_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"storage.options.threads: expected `int`"):
        plug.make("storage", Storage, PluginTable("files", {"threads": "many"}), tmp_path)


def test_making_touches_nothing(tmp_path: Path) -> None:
    plugin = plug.make("storage", Storage, PluginTable("files"), tmp_path / "data")
    assert isinstance(plugin, Plugin)
    assert not (tmp_path / "data").exists()
