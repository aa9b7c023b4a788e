from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dicomnode import plug
from dicomnode.config import TARGET_TRANSFER_SYNTAXES, ClientTlsTable, Config, PeerTable, is_loopback, parse_peer
from dicomnode.config_file import Faults, read_config
from dicomnode.config_rules import doubts
from dicomnode.dicom import transcode
from dicomnode.errors import ConfigError
from dicomnode.ports.storage import Storage

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config.toml.example"
UNSET_BY_DEFAULT = {"storescp.accept_unknown_peers"}


def faults_of(text: str, tmp_path: Path, *sets: str) -> list[str]:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(Faults) as caught:
        read_config(file, sets, {})
    return [str(fault) for fault in caught.value.all]


def paths_of(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            found |= paths_of(value, f"{prefix}{key}.")
        elif not isinstance(value, dict):
            found[prefix + key] = value
    return found


def defaults() -> dict[str, Any]:
    told = msgspec.to_builtins(Config())
    for port in ("storage", "broker", "database", "cache", "warehouse"):
        kind = plug.find(port, told[port]["use"])
        told[port]["options"] = msgspec.to_builtins(kind.Options())
    return {path: value for path, value in paths_of(told).items() if path not in UNSET_BY_DEFAULT}


def test_example_holds_every_key_with_its_default() -> None:
    told = paths_of(tomllib.loads(EXAMPLE.read_text()))
    assert told == {path: list(value) if isinstance(value, tuple) else value for path, value in defaults().items()}


def test_example_names_the_keys_that_have_no_default() -> None:
    text = EXAMPLE.read_text()
    assert all(f"# {path.rpartition('.')[2]} = " in text for path in UNSET_BY_DEFAULT)


def test_example_is_read_as_the_defaults() -> None:
    read = read_config(EXAMPLE)
    assert (
        msgspec.structs.replace(
            read,
            storage=Config().storage,
            broker=Config().broker,
            database=Config().database,
            cache=Config().cache,
            warehouse=Config().warehouse,
        )
        == Config()
    )


def test_no_file_is_the_defaults() -> None:
    assert read_config(None) == Config()


def test_sets_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[server]\nport = 1\n[storescp]\nport = 2\n")
    config = read_config(file, ["server.port=3", "node.tenant=clinic", "storage.options.fsync=never"])
    assert (config.server.port, config.storescp.port, config.node.tenant) == (3, 2, "clinic")
    assert config.storage.options == {"fsync": "never"}


def test_parts_of_values_come_from_the_environment_and_are_quoted_in_urls(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[broker]\nuse = "kafka"\n[broker.options]\nurl = "kafka://me:${SECRET}@host"\nprefix = "a ${SECRET} $SECRET"\n'
    )
    options = read_config(file, (), {"SECRET": "a/b@c"}).broker.options
    assert options == {"url": "kafka://me:a%2Fb%40c@host", "prefix": "a a/b@c $SECRET"}
    with pytest.raises(Faults, match=r"broker.options.url: the environment has no SECRET"):
        read_config(file, (), {})


def test_values_come_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[server.auth]\ntokens = ["$TOKEN"]\n')
    assert read_config(file, (), {"TOKEN": "s3cret"}).server.auth.tokens == ("s3cret",)
    with pytest.raises(Faults, match=r"server.auth.tokens\[0\]: the environment has no TOKEN"):
        read_config(file, (), {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[sever]\nport = 1", "sever: there is no such table (did you mean server?)"),
        ("[server]\nprot = 1", "server.prot: there is no such key (did you mean port?)"),
        (
            "[storescp.limits]\nassociation = 1",
            "storescp.limits.association: there is no such key (did you mean associations?)",
        ),
        ('[server]\nport = "8080"', "server.port: expected `int`, got `str`"),
        ('[ingest]\nduplicates = "first"', "ingest.duplicates: invalid enum value 'first'"),
        ("[server]\nport = 70000", "server.port: must be 0 to 65535"),
        (
            '[storescp]\nae_title = "MUCH_TOO_LONG_A_TITLE"',
            "storescp.ae_title: must be 1 to 16 printable ASCII characters",
        ),
        ('[node]\ntenant = "../x"', "node.tenant: must be 1 to 64"),
        ('[peers]\nct = "CT1 192.0.2.7"', "peers.ct: 'CT1 192.0.2.7' is not AET@host:port"),
        ('[peers]\nct = { ae_title = "A", host = "h", port = 0 }', "peers.ct.port: must be 1 to 65535"),
        ('[peers]\nct = { ae_title = "", host = "h", port = 1 }', "peers.ct.ae_title: must be 1 to 16"),
        ('[peers]\nct = { ae_title = "A", host = "h", port = 1, services = ["fnd"] }', "invalid enum value 'fnd'"),
        ('[peers]\nct = { ae_title = "A", host = "h", port = 1, tenant = "../x" }', "peers.ct.tenant: must be 1 to 64"),
        (
            '[peers]\nct = { ae_title = "A", host = "h", port = 1, certificate = "ct" }',
            "peers.ct.certificate: nobody would look at it",
        ),
        ("[storescp]\nport = -1", "storescp.port: both doors are shut"),
        ("[storescp.tls]\nport = 2762", "storescp.tls.certificate: is needed for storescp.tls.port"),
        (
            '[storescp.ae_titles]\nMUCH_TOO_LONG_A_TITLE = "x"',
            "storescp.ae_titles.MUCH_TOO_LONG_A_TITLE: must be 1 to 16",
        ),
        ('[storescp.ae_titles]\nA = "../x"', "storescp.ae_titles.A: must be 1 to 64"),
        ('[storescp]\nuser_identity = "required"', "storescp.user_identity: nobody could come in"),
        ('[users]\nanna = { passcode = "$scrypt$ln=14" }', "users.anna.passcode: is no hash"),
        ('[users]\nanna = { tenant = "a b" }', "users.anna.tenant: must be 1 to 64"),
        ("[recorder]\nrows = 0", "recorder.rows: must be 1 to 1000000"),
        ("[recorder]\nlinger_s = -1.0", "recorder.linger_s: must be 0 to 300"),
        ("[recorder]\nattempts = 0", "recorder.attempts: must be at least 1"),
        ('[server]\ntrusted_proxies = ["10.0.0.0/8", "proxy.local"]', "server.trusted_proxies[1]: is no address"),
        ("[health]\nport = 70000", "health.port: must be -1 to 65535"),
        ("[outbox]\nbatch = 0", "outbox.batch: must be at least 1"),
        ("[outbox]\nmost_bytes = 1000", "outbox.most_bytes: must be at least 16777216"),
        ("port = 1\n[", "is not TOML"),
        ("[storage]\noption = {}", "storage.option: there is no such key (did you mean options?)"),
    ],
)
def test_faults_are_told_with_their_path(text: str, told: str, tmp_path: Path) -> None:
    assert any(told in fault for fault in faults_of(text, tmp_path))


def test_every_faulty_table_is_told_at_once(tmp_path: Path) -> None:
    assert len(faults_of('[server]\nport = "x"\n[storescp]\nprot = 1\n[nod]\n', tmp_path)) == 3


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Faults, match=r"there is no such file \(cp config.toml.example config.toml\)"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize("word", ["port=1", "server.port", "=1", "server..port=1"])
def test_malformed_set_is_told(word: str) -> None:
    with pytest.raises(Faults, match=r"is not table\.key=value"):
        read_config(None, [word])


def test_open_doors_need_a_decision(tmp_path: Path) -> None:
    told = faults_of('[server]\nhost = "0.0.0.0"\n[storescp]\nhost = "::"\n', tmp_path)
    assert any(fault.startswith("server.host") for fault in told)
    assert any(fault.startswith("storescp.host") for fault in told)
    meant = [
        "server.host=0.0.0.0",
        "server.accept_anyone=true",
        "storescp.host=::",
        "storescp.accept_unknown_peers=true",
    ]
    assert read_config(None, meant).server.accept_anyone


def test_options_alone_are_those_of_the_default_plugin() -> None:
    config = read_config(None, ["broker.options.fsync=never"])
    assert (config.broker.use, config.broker.options) == ("sqlite", {"fsync": "never"})


def test_peers_are_read_in_either_form(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[peers]\na = "CT1@[::1]:104"\nb = {ae_title = "MR", host = "mr.local", port = 105}\n')
    assert read_config(file).peers == {"a": PeerTable("CT1", "::1", 104), "b": PeerTable("MR", "mr.local", 105)}


def test_a_peer_on_tls_holds_all_that_is_needed_to_call_it(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[peers]\na = {ae_title = "A", host = "h", port = 1, tls = true}\n'
        'b = {ae_title = "B", host = "h", port = 1, tls = {ca = "other.pem"}}\n'
        'c = "C@h:1"\n'
        '[node.tls]\nca = "ca.pem"\n[storescp.tls]\ncertificate = "own.pem"\nkey = "own.key"\n'
    )
    peers = read_config(file).peers
    assert peers["a"].tls == ClientTlsTable("ca.pem", "own.pem", "own.key")
    assert peers["b"].tls == ClientTlsTable("other.pem")
    assert peers["c"].tls is False


@pytest.mark.parametrize(
    "text", ["", "CT1", "CT1@h", "CT1@h:0", "CT1@h:99999", "@h:1", "A\\B@h:1", "SEVENTEEN_LETTERS@h:1"]
)
def test_what_is_no_peer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not AET@host:port"):
        parse_peer(text)


def test_loopback_is_recognised() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "example.org", "")))


def test_unknown_option_of_a_plugin_is_told() -> None:
    config = read_config(None, ["storage.options.fsnyc=never"])
    with pytest.raises(ConfigError, match=r"storage.options.fsnyc: there is no such option \(known: .*fsync"):
        plug.make("storage", Storage, config.storage, Path("unused"))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["transcoder.target=1.2.840.10008.1.2.4.90"], "nothing can be encoded in 1.2.840.10008.1.2.4.90"),
        (["transcoder.viewer_transfer_syntaxes=['1.2.840.10008.1.2']"], "is none that viewers show"),
        (["transcoder.at_once=0"], "must be 1 to 256"),
        (["transcoder.attempts=0"], "must be at least 1"),
    ],
)
def test_a_transcoder_that_could_not_work_is_told(words: list[str], problem: str) -> None:
    with pytest.raises(Faults, match=f"transcoder.*{problem}"):
        read_config(None, words)


def test_a_transcoder_that_has_nothing_to_do_may_have_any_target() -> None:
    words = ["transcoder.viewer_transfer_syntaxes=[]", "transcoder.target=1.2.840.10008.1.2.4.90"]
    assert read_config(None, words).transcoder.viewer_transfer_syntaxes == ()


def test_what_may_be_a_target_is_what_can_be_made() -> None:
    assert set(TARGET_TRANSFER_SYNTAXES) == set(transcode.TARGETS)


ALL = ("storescp", "server", "consumer", "recorder", "transcoder")
SHARED = ["broker.use=kafka", "database.use=postgres", "storage.options.root=/mnt/nas", "warehouse.use=clickhouse"]


@pytest.mark.parametrize(
    ("roles", "sets", "told"),
    [
        (ALL, [], []),
        (("storescp", "server", "consumer"), [], []),
        (("storescp", "consumer"), [], []),
        (("storescp",), [], ["broker.use: sqlite is of this process alone, which has no consumer"]),
        (("server",), ["broker.use=memory"], ["broker.use: memory is of this process alone, which has no consumer"]),
        (("consumer",), [], ["broker.use: sqlite is of this process alone, which has no door"]),
        (("recorder",), [], ["broker.use: sqlite is of this process alone, which has no door"]),
        *((tuple(roles), SHARED, []) for roles in (["storescp"], ["consumer"], ["server"], ["recorder"], ALL)),
        (ALL, SHARED[:1], []),
        (("recorder",), SHARED[:3], ["warehouse.use: duckdb is of this process alone"]),
        (("recorder", "server"), SHARED[:3], []),
        (("storescp",), SHARED[:2], ["storage.options.root: objects would be kept in this process's own folder"]),
        (
            ("consumer",),
            [SHARED[0], *SHARED[2:]],
            ["database.use: sqlite is of this process alone: others find nothing"],
        ),
        (("recorder",), [SHARED[0], *SHARED[2:]], []),
        (("server",), [*SHARED[:2], "storage.use=s3", "warehouse.use=off"], []),
    ],
)
def test_roles_that_will_never_meet_are_doubted(roles: tuple[str, ...], sets: list[str], told: list[str]) -> None:
    found = [str(doubt) for doubt in doubts(read_config(None, sets), roles)]
    assert len(found) == len(told)
    assert all(problem.startswith(start) for problem, start in zip(found, told, strict=True))
