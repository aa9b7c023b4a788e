from __future__ import annotations

import io

import pytest

from dicomnode.cli.main import main
from dicomnode.config_file import read_config
from dicomnode.roles.storescp.passcode import fits


def test_a_passcode_is_printed_as_the_configuration_keeps_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("öffne dich\n"))
    assert main(["passcode"]) == 0
    kept = capsys.readouterr().out.strip()
    assert fits(kept, "öffne dich".encode())
    assert "$" + kept.partition("$")[2] == kept
    # It is taken as it is, not for the name of an environment variable.
    config = read_config(None, [f"users.anna.passcode={kept}"], {})
    assert config.users["anna"].passcode == kept


def test_an_empty_passcode_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert main(["passcode"]) == 1
    assert "empty" in capsys.readouterr().err
