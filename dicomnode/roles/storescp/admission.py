"""Who may come in by DIMSE, for which tenant, and what it may ask for."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import msgspec

from dicomnode.config import PeerTable, StoreScpTable, is_loopback, is_tenant
from dicomnode.dicom.uid import is_storage_sop_class
from dicomnode.dimse.items import Associate, Identity
from dicomnode.dimse.pdu import Rejection
from dicomnode.dimse.responder import Caller
from dicomnode.dimse.scp import Visitor
from dicomnode.dimse.service import EVERY
from dicomnode.roles.storescp.identity import Identities
from dicomnode.roles.storescp.peers import KnownPeers
from dicomnode.services.watermark import Watermark

_CALLING_NOT_RECOGNISED = 3
_CALLED_NOT_RECOGNISED = 7


class Admission:
    """The rules of one door. The tenant is that of the user, else of the AE title called, the peer, the node."""

    def __init__(
        self,
        table: StoreScpTable,
        peers: KnownPeers,
        tenant: str,
        identities: Identities,
        watermark: Watermark | None = None,
    ) -> None:
        self._table = table
        self._peers = peers
        self._tenant = tenant
        self._identities = identities
        self._watermark = watermark

    def __call__(self, request: Associate, visitor: Visitor) -> Caller | Coroutine[Any, Any, Caller]:
        """Return who asks, at once or, where a passcode is to be checked, later. Raises: Rejection."""
        table = self._table
        if not table.any_called_ae_title and request.called_aet not in (table.ae_title, *table.ae_titles):
            raise Rejection("a called AE title that is not ours", 1, 1, _CALLED_NOT_RECOGNISED)
        peer = self._peer(request.calling_aet, visitor)
        if self._watermark is not None and self._watermark.low and _would_store(request):
            raise Rejection("too little room in the storage, or in the log before the broker", 2, 3, 2)
        caller = Caller(
            request.calling_aet,
            request.called_aet,
            visitor.peer_ip,
            table.ae_titles.get(request.called_aet) or (peer.tenant if peer else "") or self._tenant,
            services=_services(peer),
        )
        told = request.user.identity if table.user_identity != "ignored" else None
        if told is not None:
            return self._identified(told, caller)
        if table.user_identity == "required":
            raise Rejection("no user identity", 1, 1, 1)
        return caller

    def _peer(self, calling_aet: str, visitor: Visitor) -> PeerTable | None:
        """Return the peer that this is, None for one that need not be known. Raises: Rejection."""
        for peer in self._peers.at(calling_aet, visitor.peer_ip):
            if not peer.certificate or (visitor.certificate and visitor.certificate.fits(peer.certificate)):
                return peer
        if self._peers.is_bound(calling_aet):
            raise Rejection("not the certificate of this AE title", 1, 1, _CALLING_NOT_RECOGNISED)
        accept = self._table.accept_unknown_peers
        if accept or (accept is None and is_loopback(visitor.peer_ip)):
            return None
        raise Rejection("a peer that is not known", 1, 1, _CALLING_NOT_RECOGNISED)

    async def _identified(self, told: Identity, caller: Caller) -> Caller:
        user = await self._identities.find(told)
        return msgspec.structs.replace(caller, user=user.name, tenant=user.tenant or caller.tenant)


def read_tenant(element: str) -> str | None:
    r"""Return the tenant that element (1211,1217) of a command set names, None where it names none.

    It holds the name, or its characters as decimal codes with backslashes between: `104\105` is `hi`.
    """
    parts = element.split("\\")
    if len(parts) > 1 and all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts):
        element = "".join(chr(int(part)) for part in parts)
    return element if is_tenant(element) else None


def _would_store(request: Associate) -> bool:
    """Tell whether it asks to send objects; not so who only takes them, by C-GET."""
    roles = request.user.roles
    return any(
        is_storage_sop_class(uid) and (uid not in roles or roles[uid].scu)
        for uid in (proposal.abstract_syntax for proposal in request.proposals)
    )


def _services(peer: PeerTable | None) -> frozenset[str]:
    allowed = frozenset[str](peer.services) if peer else EVERY
    return EVERY if allowed == EVERY else allowed
