from __future__ import annotations

import re
import tomllib
from pathlib import Path

from dicomnode.config import Config, PeerTable
from dicomnode.config_file import read_config

ROOT = Path(__file__).parent.parent
_SERVICES = ("echo", "find", "move", "get")


def test_the_peers_of_the_configuration_page_are_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    [example] = [one for one in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "[peers]" in one]
    file = tmp_path / "c.toml"
    file.write_text(example)
    config = read_config(file)
    assert config.peers["ct1"] == PeerTable("CT1", "192.0.2.7", 104)
    ws7 = config.peers["ws7"]
    assert (ws7.ae_title, ws7.services, ws7.tenant, ws7.certificate) == (
        "WS7",
        _SERVICES,
        "research",
        "ws7.example.org",
    )
    assert ws7.tls == Config().node.tls


def test_what_the_example_leaves_out_can_be_taken_in(tmp_path: Path) -> None:
    text = (ROOT / "config.toml.example").read_text()
    commented = re.findall(r"^# ([a-z0-9_]+ = .*|\[[a-z0-9_.]+\]|[A-Z]+ = .*)$", text, re.MULTILINE)
    assert len(commented) > 10
    with_them = re.sub(r"^# (?=[a-z0-9_]+ = |\[[a-z0-9_.]+\]|[A-Z]+ = )", "", text, flags=re.MULTILINE)
    tomllib.loads(with_them)
    file = tmp_path / "c.toml"
    file.write_text(with_them)
    config = read_config(file, (), {"READER_PASSCODE": "x", "GATEWAY_TOKEN": "y", "DICOMNODE_TOKEN": "z"})
    assert config.peers["ws7"].services == _SERVICES
    assert config.users["reader"].tenant == "research"
    assert config.storescp.ae_titles == {"RESEARCH": "research"}
