"""What can be wrong with a configuration whose values have the right types: ranges, keys that do not go together."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from ipaddress import ip_network

from dicomnode.config import TARGET_TRANSFER_SYNTAXES, Config, PeerTable, is_ae_title, is_loopback, is_tenant
from dicomnode.errors import ConfigError


def contradictions(config: Config) -> list[ConfigError]:
    """Return what each key allows and the keys together do not."""
    faults = []
    server, scp = config.server, config.storescp
    if not is_loopback(server.host) and not server.auth.tokens and not server.accept_anyone:
        faults.append(
            ConfigError(
                "server.host",
                f"{server.host} can be reached from other machines and nobody would be asked who they are",
                "set server.auth.tokens, or server.accept_anyone = true if that is meant",
            )
        )
    if not is_loopback(scp.host) and not config.peers and scp.accept_unknown_peers is None:
        faults.append(
            ConfigError(
                "storescp.host",
                f"{scp.host} can be reached from other machines and no peer is known",
                "list [peers], or set storescp.accept_unknown_peers = true if that is meant",
            )
        )
    faults.extend(_out_of_range(config))
    faults.extend(_transfer_syntaxes(config))
    faults.extend(_proxies(config))
    faults.extend(_tenants(config))
    faults.extend(_identities(config))
    for name, peer in config.peers.items():
        faults.extend(_peer(config, f"peers.{name}", peer))
    return faults


def _out_of_range(config: Config) -> list[ConfigError]:
    scp = config.storescp
    rules = (
        ("storescp.port", -1 <= scp.port < 65536, "must be -1 to 65535"),
        ("storescp.tls.port", -1 <= scp.tls.port < 65536, "must be -1 to 65535"),
        ("storescp.port", scp.port >= 0 or scp.tls.port >= 0, "both doors are shut: open this or storescp.tls.port"),
        ("storescp.tls.certificate", scp.tls.port < 0 or scp.tls.certificate != "", "is needed for storescp.tls.port"),
        ("storescp.operations_invoked", 1 <= scp.operations_invoked < 65536, "must be 1 to 65535"),
        ("storescp.limits.half_open", scp.limits.half_open >= 1, "must be at least 1"),
        ("storescp.limits.associate", 4096 <= scp.limits.associate <= 2**24, "must be 4096 to 16777216"),
        ("server.port", 0 <= config.server.port < 65536, "must be 0 to 65535"),
        ("storescp.ae_title", is_ae_title(scp.ae_title), _AE_TITLE),
        (
            "storescp.max_pdu",
            4096 <= scp.max_pdu <= scp.limits.pdu_received,
            "must be 4096 to limits.pdu_received",
        ),
        ("health.port", -1 <= config.health.port < 65536, "must be -1 to 65535"),
        ("outbox.batch", config.outbox.batch >= 1, "must be at least 1"),
        ("outbox.most_bytes", config.outbox.most_bytes >= 16 * 1024 * 1024, "must be at least 16777216"),
        ("consumer.batch", config.consumer.batch >= 1, "must be at least 1"),
        ("query.results", config.query.results >= 0, "must not be negative"),
        ("query.objects", config.query.objects >= 1, "must be at least 1"),
        ("query.move_associations", 1 <= config.query.move_associations <= 64, "must be 1 to 64"),
        ("consumer.attempts", config.consumer.attempts >= 1, "must be at least 1"),
        ("recorder.rows", 1 <= config.recorder.rows <= 1_000_000, "must be 1 to 1000000"),
        ("recorder.linger_s", 0 <= config.recorder.linger_s <= 300, "must be 0 to 300"),
        ("recorder.attempts", config.recorder.attempts >= 1, "must be at least 1"),
        ("transcoder.at_once", 1 <= config.transcoder.at_once <= 256, "must be 1 to 256"),
        ("transcoder.attempts", config.transcoder.attempts >= 1, "must be at least 1"),
        ("worklist.entries", config.worklist.entries >= 1, "must be at least 1"),
        ("commitment.pending", config.commitment.pending >= 1, "must be at least 1"),
    )
    return [ConfigError(path, problem) for path, holds, problem in rules if not holds]


def _transfer_syntaxes(config: Config) -> Iterator[ConfigError]:
    table = config.transcoder
    if not table.viewer_transfer_syntaxes:
        return  # nothing is converted
    if table.target not in TARGET_TRANSFER_SYNTAXES:
        known = ", ".join(TARGET_TRANSFER_SYNTAXES)
        yield ConfigError("transcoder.target", f"nothing can be encoded in {table.target}", f"choose one of {known}")
    elif table.target not in table.viewer_transfer_syntaxes:
        hint = "name it in transcoder.viewer_transfer_syntaxes, or choose one that is there"
        yield ConfigError("transcoder.target", "is none that viewers show", hint)


def _proxies(config: Config) -> Iterator[ConfigError]:
    for place, text in enumerate(config.server.trusted_proxies):
        try:
            ip_network(text, strict=False)
        except ValueError:
            hint = "such as 192.0.2.7 or 10.0.0.0/8; names are not looked up"
            yield ConfigError(f"server.trusted_proxies[{place}]", "is no address and no network", hint)


def _tenants(config: Config) -> Iterator[ConfigError]:
    tenants = {"node.tenant": config.node.tenant}
    tenants |= {f"storescp.ae_titles.{title}": tenant for title, tenant in config.storescp.ae_titles.items()}
    tenants |= {f"peers.{name}.tenant": peer.tenant for name, peer in config.peers.items() if peer.tenant}
    tenants |= {f"users.{name}.tenant": user.tenant for name, user in config.users.items() if user.tenant}
    for path, tenant in tenants.items():
        if not is_tenant(tenant):
            yield ConfigError(path, "must be 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit")
    for title in config.storescp.ae_titles:
        if not is_ae_title(title):
            yield ConfigError(f"storescp.ae_titles.{title}", _AE_TITLE)


def _identities(config: Config) -> Iterator[ConfigError]:
    if config.storescp.user_identity == "required" and not config.users and not config.server.auth.tokens:
        yield ConfigError("storescp.user_identity", "nobody could come in, as no user is known", "list [users]")
    for name, user in config.users.items():
        if user.passcode.startswith("$scrypt$") and not _SCRYPT.fullmatch(user.passcode):
            yield ConfigError(f"users.{name}.passcode", "is no hash", "make one with `dicomnode passcode`")


def _peer(config: Config, path: str, peer: PeerTable) -> Iterator[ConfigError]:
    if not is_ae_title(peer.ae_title):
        yield ConfigError(f"{path}.ae_title", _AE_TITLE)
    if not 0 < peer.port < 65536:
        yield ConfigError(f"{path}.port", "must be 1 to 65535")
    tls = config.storescp.tls
    if peer.certificate and not peer.tls and (tls.port < 0 or not tls.client_ca):
        hint = "set storescp.tls.port and storescp.tls.client_ca, or tls = true of this peer"
        yield ConfigError(f"{path}.certificate", "nobody would look at it", hint)


_AE_TITLE = "must be 1 to 16 printable ASCII characters, no backslash"
_SCRYPT = re.compile(r"\$scrypt\$ln=(1[0-7]),r=([1-8]),p=([1-4])\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}")

# Plugins whose backend is of one process, or of one folder, alone.
_OF_ONE_PROCESS = frozenset({"sqlite", "memory", "duckdb"})
_DOORS = frozenset({"storescp", "server"})


def doubts(config: Config, roles: Collection[str]) -> list[ConfigError]:
    """Return what a process of `roles` can start with and is hardly of use with: roles apart that never meet."""
    apart = not {"storescp", "server", "consumer"} <= set(roles)
    shared = "choose one that several processes share (docs/backends.md), or run these roles in one process"
    found = []
    if config.broker.use in _OF_ONE_PROCESS and not _DOORS.isdisjoint(roles) and "consumer" not in roles:
        problem = f"{config.broker.use} is of this process alone, which has no consumer: nothing received is indexed"
        found.append(ConfigError("broker.use", problem, shared))
    elif config.broker.use in _OF_ONE_PROCESS and _DOORS.isdisjoint(roles):
        problem = f"{config.broker.use} is of this process alone, which has no door: there is nothing to work on"
        found.append(ConfigError("broker.use", problem, shared))
    if config.broker.use in _OF_ONE_PROCESS or not apart:
        return found
    if config.database.use in _OF_ONE_PROCESS and not {"storescp", "server", "consumer"}.isdisjoint(roles):
        problem = f"{config.database.use} is of this process alone: others find nothing of what it indexes"
        found.append(ConfigError("database.use", problem, shared))
    counting = {"recorder", "server"} & set(roles)
    if config.warehouse.use in _OF_ONE_PROCESS and len(counting) == 1:
        problem = f"{config.warehouse.use} is of this process alone: one records there, and another would be asked"
        found.append(ConfigError("warehouse.use", problem, shared))
    if (config.storage.use == "files" and not config.storage.options.get("root")) or config.storage.use == "memory":
        hint = "set storage.options.root to a folder that all of them share, or choose an object store"
        found.append(ConfigError("storage.options.root", "objects would be kept in this process's own folder", hint))
    return found
