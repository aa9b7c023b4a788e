from __future__ import annotations

import pytest

from dicomnode import __version__
from dicomnode.cli.main import COMMANDS, main


def test_no_command_prints_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    told = capsys.readouterr().out
    assert all(name in told for name in COMMANDS)


def test_unknown_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["stroe"])
    assert ended.value.code == 2
    assert "there is no command 'stroe'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"dicomnode {__version__}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert "--config" in capsys.readouterr().out


def test_faults_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--set", "server.prot=1", "--set", "nod.x=1"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 2
    assert all(line.startswith("dicomnode: ") for line in told)


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--debug", "--set", "nod.x=1"]) == 2
    assert "Traceback" in capsys.readouterr().err
