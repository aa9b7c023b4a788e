from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.cli.conformance.facts import Facts, facts_of, name_of
from dicomnode.cli.conformance.keys import ignores_case, kinds, of_vr
from dicomnode.cli.conformance.markdown import prose, table
from dicomnode.cli.conformance.statement import statement
from dicomnode.cli.conformance.statuses import statuses_of
from dicomnode.cli.main import main
from dicomnode.config import Config
from dicomnode.config_file import read_config
from dicomnode.dimse.command import C_FIND_RQ, C_MOVE_RQ, N_ACTION_RQ
from dicomnode.dimse.service import service_of
from dicomnode.model.attributes import BY_KEYWORD

PAGE = Path(__file__).parent.parent.parent / "docs" / "conformance.md"

_FIND, _MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"

_ELSEWHERE = """
[node]
data_dir = "nowhere/at/all"
[storescp]
host = "0.0.0.0"
port = 104
ae_title = "PACS"
ae_titles = { RESEARCH = "research" }
any_called_ae_title = false
accept_unknown_sop_classes = false
accept_private_transfer_syntaxes = true
user_identity = "required"
max_pdu = 65536
operations_invoked = 3
tenant_element = true
[storescp.tls]
port = 2762
certificate = "hidden.crt"
key = "hidden.key"
client_ca = "hidden.ca"
[peers]
ct1 = "CT1@192.0.2.7:104"
ws7 = { ae_title = "WS7", host = "ws7.example.org", port = 2762, tls = true, services = ["echo", "find"] }
[users]
reader = { passcode = "hidden-passcode" }
[server]
host = "0.0.0.0"
auth = { tokens = ["hidden-token"] }
[query]
relational = "never"
results = 77
[ingest]
duplicates = "replace"
strict = true
"""


@pytest.fixture(scope="module")
def facts() -> Facts:
    return facts_of(Config())


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    (tmp_path / "config.toml").write_text(_ELSEWHERE)
    return statement(read_config(tmp_path / "config.toml"))


def test_the_page_is_what_the_defaults_do() -> None:
    assert PAGE.read_text(encoding="utf-8") == statement(Config()), (
        "write it anew: dicomnode conformance --config config.toml.example --output docs/conformance.md"
    )


def test_the_example_says_the_same_as_the_defaults() -> None:
    assert statement(read_config(PAGE.parent.parent / "config.toml.example")) == statement(Config())


@pytest.mark.parametrize(
    "told",
    [
        "| own AE titles | `PACS`, `RESEARCH` |",
        "| largest PDU received | 65536 bytes |",
        "contexts for storage and verification only | 3 |",
        "The called AE title must be one of ours",
        "are refused, unless related to a storage class",
        "Transfer syntaxes that the standard does not know are accepted.",
        "A user identity must be told",
        "relational queries: no",
        "relational retrieval: no",
        "77, then A700",
        "all are kept and the last is served",
        "values break the standard are refused",
        "on port 2762; certificates of peers are asked for and checked",
        "to ws7, TLS 1.2 and 1.3",
        "a bearer token is asked for",
        "| ws7 | WS7 | ws7.example.org | 2762 | echo, find | yes |",
        "| ct1 | CT1 | 192.0.2.7 | 104 | echo, store, find,",
        "| `storescp.tenant_element` | true |",
        "names the tenant of an object",
        "| RESEARCH | research |",
    ],
)
def test_it_follows_the_configuration(elsewhere: str, told: str) -> None:
    assert told in elsewhere
    assert told not in statement(Config())


def test_it_tells_no_secret_and_touches_nothing(elsewhere: str, tmp_path: Path) -> None:
    assert "hidden" not in elsewhere
    assert "reader" not in elsewhere
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
    assert not Path("nowhere").exists()


def test_every_service_and_syntax_is_told(facts: Facts) -> None:
    text = statement(Config())
    assert {service_of(uid) for uid in facts.services} >= {"echo", "find", "move", "get", "commit", "worklist", "mpps"}
    assert [uid for _, uid in facts.operations if uid not in facts.services] == []
    assert [uid for uid in (*facts.services, *facts.storage) if f"`{uid}`" not in text] == []
    assert [syntax.uid for syntax in facts.syntaxes(facts.storage[0]) if f"`{syntax.uid}`" not in text] == []
    assert name_of("1.2.840.10008.5.1.4.1.1.2") == "CT Image Storage"


@pytest.mark.parametrize(
    ("field", "uid", "codes"),
    [
        (C_FIND_RQ, _FIND, {0x0000, 0xA700, 0xA900, 0xC000, 0xFE00, 0xFF00, 0xFF01}),
        (C_MOVE_RQ, _MOVE, {0x0000, 0xA701, 0xA702, 0xA801, 0xA900, 0xB000, 0xC000, 0xFE00, 0xFF00}),
        (N_ACTION_RQ, "1.2.840.10008.1.20.1", {0x0000, 0x0110, 0x0112, 0x0115, 0x0123, 0x0213}),
    ],
)
def test_statuses_are_read_off_the_operation(facts: Facts, field: int, uid: str, codes: set[int]) -> None:
    assert {status.code for status in statuses_of(facts.methods()[field, uid])} == codes


def test_statuses_of_storage_say_why(facts: Facts) -> None:
    found = {status.code: status for status in statuses_of(facts.door.store)}
    assert set(found) == {0x0000, 0x0124, 0xA700, 0xA900, 0xC000}
    assert found[0xA900].meaning == "Data set does not match"
    assert "announced" in found[0xA900].cause
    assert [found[code].kind for code in (0x0000, 0xA700)] == ["Success", "Failure"]


@pytest.mark.parametrize(
    ("keyword", "matching"),
    [
        ("PatientName", ["single value", "wild card", "empty value"]),
        ("StudyDate", ["single value", "range", "empty value"]),
        ("StudyInstanceUID", ["single value", "list of UID", "empty value"]),
        ("Modality", ["single value", "list of values", "wild card", "empty value"]),
        ("InstanceNumber", ["single value", "empty value"]),
        ("AcquisitionDateTime", ["single value", "range"]),
        ("PatientWeight", ["single value"]),
        ("RequestAttributesSequence", ["sequence"]),
    ],
)
def test_matching_is_tried_on_the_matcher(keyword: str, matching: list[str]) -> None:
    assert kinds(BY_KEYWORD[keyword]) == matching


def test_what_ignores_case() -> None:
    assert ignores_case(BY_KEYWORD["PatientName"])
    assert ignores_case(BY_KEYWORD["StudyDescription"])
    assert not ignores_case(BY_KEYWORD["PatientID"])
    assert not ignores_case(of_vr("DA"))


def test_prose_is_wrapped_and_tables_are_escaped() -> None:
    assert prose("\n    a\n      b\n\n    - c\n      d\n    - e\n    ") == "a b\n\n- c d\n- e"
    assert max(map(len, prose("- " + "word " * 100).splitlines())) <= 120
    assert table(("a",), [("x|y\nz",)]) == "| a |\n|---|\n| x\\|y z |"
    assert table(("a",), []) == "None."


def test_the_command_writes_a_file_or_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = ["--config", str(PAGE.parent.parent / "config.toml.example")]
    assert main(["conformance", *example]) == 0
    assert capsys.readouterr().out == statement(Config())
    assert main(["conformance", *example, "--output", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == statement(Config())
    assert main(["conformance", *example, "--output", str(tmp_path / "no" / "page.md")]) == 2
    assert "--output" in capsys.readouterr().err
