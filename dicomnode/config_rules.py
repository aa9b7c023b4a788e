"""What can be wrong with a configuration whose values have the right types: ranges, keys that do not go together."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dicomnode.config import Config, PeerTable, is_ae_title, is_loopback, is_tenant
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
        ("consumer.batch", config.consumer.batch >= 1, "must be at least 1"),
        ("query.results", config.query.results >= 0, "must not be negative"),
        ("query.objects", config.query.objects >= 1, "must be at least 1"),
        ("query.move_associations", 1 <= config.query.move_associations <= 64, "must be 1 to 64"),
        ("consumer.attempts", config.consumer.attempts >= 1, "must be at least 1"),
        ("worklist.entries", config.worklist.entries >= 1, "must be at least 1"),
        ("commitment.pending", config.commitment.pending >= 1, "must be at least 1"),
    )
    return [ConfigError(path, problem) for path, holds, problem in rules if not holds]


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
