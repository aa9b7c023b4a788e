from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from dicomnode import log


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_events_are_json_with_time_level_and_room(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("json", "info")
    log.get("ingest").info("instance.stored", size=7)
    told = json.loads(capsys.readouterr().err)
    assert told["event"] == "instance.stored"
    assert (told["level"], told["logger"], told["size"]) == ("info", "ingest", 7)
    assert told["timestamp"].endswith("Z")


def test_patient_data_never_gets_out(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("json", "info")
    log.get("x").info(
        "instance.stored", patient_name="CANARY", patient_id="CANARY", accession="CANARY", data_set=b"CANARY"
    )
    assert "CANARY" not in capsys.readouterr().err


def test_other_libraries_are_rendered_alike(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("json", "info")
    logging.getLogger("a.library").warning("something %s", "odd")
    assert json.loads(capsys.readouterr().err)["event"] == "something odd"


def test_level_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("console", "error")
    log.get("x").warning("association.rejected")
    assert capsys.readouterr().err == ""


def test_a_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("console", "info")
    _break("CAN" + "ARY")
    told = capsys.readouterr().err
    assert told.count("Traceback (most recent call last)") == 2
    assert "CANARY" not in told


def _break(secret: str) -> None:
    try:
        len(secret) / 0
    except ZeroDivisionError:
        log.get("x").exception("message.failed")
        logging.getLogger("a.library").exception("broken")
