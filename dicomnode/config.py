"""The configuration as frozen structs. Every table refuses unknown keys.

Every key stands, with its default and unit, in config.toml.example; a test keeps it so.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

import msgspec

ROLES = ("storescp", "server", "consumer", "recorder", "transcoder")

# What the usual viewers decode by themselves: what is not compressed, deflated, RLE, JPEG, JPEG-LS, JPEG 2000, HTJ2K.
VIEWER_TRANSFER_SYNTAXES = tuple(
    f"1.2.840.10008.1.2{suffix}"
    for suffix in (
        *("", ".1", ".2", ".1.99", ".5", ".4.50", ".4.51", ".4.57", ".4.70"),
        *(".4.80", ".4.81", ".4.90", ".4.91", ".4.92", ".4.201", ".4.202", ".4.203"),
    )
)

# What can be made of an object: the four that are not compressed. dicom/transcode makes them.
TARGET_TRANSFER_SYNTAXES = tuple(f"1.2.840.10008.1.2{suffix}" for suffix in (".1", "", ".1.99", ".2"))

DimseService = Literal["echo", "store", "find", "move", "get", "commit", "worklist", "mpps"]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the configuration."""


TlsProfile = Literal["bcp195", "tls13"]


class ClientTlsTable(Table, frozen=True):
    """How peers are called on TLS: files in PEM form. `ca` "" trusts whom this machine trusts."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    profile: TlsProfile = "bcp195"


class NodeTable(Table, frozen=True):
    """What concerns the whole process."""

    data_dir: str = "dicomnode-data"
    tenant: str = "default"
    log: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    tls: ClientTlsTable = ClientTlsTable()


class LimitsTable(Table, frozen=True):
    """What a DIMSE peer may ask of us. Sizes in bytes, times in seconds."""

    associations: int = 100
    associations_per_peer: int = 50
    half_open: int = 100
    associate: int = 256 * 1024
    pdu_received: int = 16 * 1024 * 1024
    command_set: int = 64 * 1024
    data_set: int = 16 * 1024 * 1024 * 1024
    held_in_memory: int = 4 * 1024 * 1024
    storage_free: int = 512 * 1024 * 1024
    artim_s: float = 30.0
    idle_s: float = 600.0
    pdu_s: float = 300.0
    message_s: float = 3600.0
    drain_s: float = 30.0


class ServerTlsTable(Table, frozen=True):
    """The DIMSE door on TLS: files in PEM form. With `client_ca` peers must show a certificate signed by it."""

    port: int = -1
    certificate: str = ""
    key: str = ""
    client_ca: str = ""
    profile: TlsProfile = "bcp195"


class StoreScpTable(Table, frozen=True):
    """The DIMSE door."""

    host: str = "127.0.0.1"
    port: int = 11112
    ae_title: str = "DICOMNODE"
    ae_titles: dict[str, str] = {}
    tenant_element: bool = False
    max_pdu: int = 1024 * 1024
    operations_invoked: int = 16
    any_called_ae_title: bool = True
    accept_unknown_peers: bool | None = None
    accept_unknown_sop_classes: bool = True
    accept_private_transfer_syntaxes: bool = False
    user_identity: Literal["ignored", "checked", "required"] = "ignored"
    reuse_port: bool = False
    tls: ServerTlsTable = ServerTlsTable()
    limits: LimitsTable = LimitsTable()


class PeerTable(Table, frozen=True):
    """A DICOM node that we know. `services` is what it may ask of us; `tenant` is whose it is, "" for the node's.

    `certificate` is what it must show on TLS: a name in its certificate, or the SHA-256 of it in hexadecimal digits.
    """

    ae_title: str
    host: str
    port: int
    services: tuple[DimseService, ...] = get_args(DimseService)
    tls: bool | ClientTlsTable = False
    tenant: str = ""
    certificate: str = ""


class UserTable(Table, frozen=True):
    """Who may come in by user identity. `passcode`: as it is, or as `dicomnode passcode` prints it; "": none is asked.

    `tokens`: bearer tokens (JWT) that stand for this user. `tenant` is whose objects are meant, "" for the peer's.
    """

    passcode: str = ""
    tokens: tuple[str, ...] = ()
    tenant: str = ""


class AuthTable(Table, frozen=True):
    """Who may use the web door: whoever bears one of `tokens`; with no tokens, anyone who reaches it."""

    tokens: tuple[str, ...] = ()


class CorsTable(Table, frozen=True):
    """From which web pages a browser may use the web door. `*` is any."""

    origins: tuple[str, ...] = ()


class ServerLimitsTable(Table, frozen=True):
    """What a web client may ask of us. Sizes in bytes, times in seconds."""

    request_body: int = 64 * 1024 * 1024 * 1024
    part: int = 16 * 1024 * 1024 * 1024
    part_headers: int = 16 * 1024
    parts: int = 100_000
    held_in_memory: int = 4 * 1024 * 1024
    idle_s: float = 120.0
    results: int = 1000
    drain_s: float = 30.0


class ServerTable(Table, frozen=True):
    """The web door."""

    host: str = "127.0.0.1"
    port: int = 8080
    public_url: str = ""
    accept_anyone: bool = False
    reuse_port: bool = False
    trusted_proxies: tuple[str, ...] = ()
    access_log: bool = True
    auth: AuthTable = AuthTable()
    cors: CorsTable = CorsTable()
    limits: ServerLimitsTable = ServerLimitsTable()


class IngestTable(Table, frozen=True):
    """How objects are taken in, at whichever door. `max_header` and `carried` in bytes."""

    duplicates: Literal["keep-first", "replace"] = "keep-first"
    strict: bool = False
    max_header: int = 64 * 1024 * 1024
    carried: int = 32 * 1024


class ConsumerTable(Table, frozen=True):
    """How received objects are indexed. Times in seconds."""

    batch: int = 500
    linger_s: float = 0.1
    attempts: int = 5
    catch_up_s: float = 5.0


class RecorderTable(Table, frozen=True):
    """How rows come into the warehouse: so many at once, or what came in so many seconds."""

    rows: int = 10_000
    linger_s: float = 5.0
    attempts: int = 5


class TranscoderTable(Table, frozen=True):
    """Which transfer syntaxes viewers show, and the one that everything else is kept in besides its own."""

    viewer_transfer_syntaxes: tuple[str, ...] = VIEWER_TRANSFER_SYNTAXES
    target: str = "1.2.840.10008.1.2.1"
    at_once: int = 2
    attempts: int = 3


class OutboxTable(Table, frozen=True):
    """The log on this machine that messages go through where the broker is elsewhere. Sizes in bytes, times in seconds.

    `path` is empty for `<data_dir>/outbox.sqlite`.
    """

    path: str = ""
    most_bytes: int = 8 * 1024 * 1024 * 1024
    batch: int = 500
    linger_s: float = 0.01


class HealthTable(Table, frozen=True):
    """A door of its own for /livez, /readyz and /metrics, in every process; with `port` -1 there is none."""

    host: str = "127.0.0.1"
    port: int = -1


class PerformedTable(Table, frozen=True):
    """Where performed procedure steps are kept. `folder` is empty for `<data_dir>/performed`."""

    folder: str = ""


class WorklistTable(Table, frozen=True):
    """Where scheduled procedure steps come from. `folder` is empty for `<data_dir>/worklist`."""

    folder: str = ""
    entries: int = 10_000


class CommitmentTable(Table, frozen=True):
    """How storage commitment is reported. Times in seconds."""

    pending: int = 1000
    hold_s: float = 1.0
    answer_s: float = 30.0
    retry_s: float = 10.0
    give_up_s: float = 172_800.0


class QueryTable(Table, frozen=True):
    """How C-FIND, C-MOVE and C-GET are answered.

    `results` of one C-FIND, 0: without limit; `objects` of one C-MOVE or C-GET; `move_associations` of one C-MOVE.
    """

    relational: Literal["negotiated", "always", "never"] = "negotiated"
    results: int = 0
    objects: int = 100_000
    move_associations: int = 1


class PluginTable(Table, frozen=True):
    """Which plugin stands behind a port, and its options (checked by the plugin)."""

    use: str
    options: dict[str, Any] = {}


class Config(Table, frozen=True):
    """The whole configuration."""

    node: NodeTable = NodeTable()
    storescp: StoreScpTable = StoreScpTable()
    peers: dict[str, PeerTable] = {}
    users: dict[str, UserTable] = {}
    server: ServerTable = ServerTable()
    ingest: IngestTable = IngestTable()
    outbox: OutboxTable = OutboxTable()
    consumer: ConsumerTable = ConsumerTable()
    recorder: RecorderTable = RecorderTable()
    transcoder: TranscoderTable = TranscoderTable()
    health: HealthTable = HealthTable()
    performed: PerformedTable = PerformedTable()
    query: QueryTable = QueryTable()
    worklist: WorklistTable = WorklistTable()
    commitment: CommitmentTable = CommitmentTable()
    storage: PluginTable = PluginTable("files")
    broker: PluginTable = PluginTable("sqlite")
    database: PluginTable = PluginTable("sqlite")
    cache: PluginTable = PluginTable("memory")
    warehouse: PluginTable = PluginTable("duckdb")


def parse_peer(text: str) -> PeerTable:
    """Return the peer that `AET@host:port` names; an IPv6 address stands in brackets. Raises: ValueError."""
    found = re.fullmatch(r"([^@\\]{1,16})@(\[[0-9A-Fa-f:.]+\]|[^@:\[\]\s]+):([0-9]{1,5})", text)
    if not found or not 0 < int(found[3]) < 65536:
        raise ValueError(f"{text!r} is not AET@host:port, for example SCANNER@192.0.2.7:104")
    return PeerTable(found[1].strip(), found[2].strip("[]"), int(found[3]))


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a socket bound to `host`, or whether an address is this machine's."""
    return host.startswith(("127.", "::ffff:127.")) or host in ("::1", "localhost")


def is_ae_title(text: str) -> bool:
    """Tell whether `text` is an AE title (PS3.5 6.2, VR AE), without its padding."""
    return 0 < len(text.strip()) <= 16 and all(" " <= c <= "~" and c != "\\" for c in text)


def is_tenant(text: str) -> bool:
    """Tell whether `text` may name a tenant; it then is safe as part of a path."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text) is not None
