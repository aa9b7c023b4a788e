"""Which transfer syntaxes viewers show, and so which objects are to be kept in another one besides."""

from __future__ import annotations

import msgspec

from dicomnode.model.messages import DicomObjectMeta, TransferStatus


class Viewers(msgspec.Struct, frozen=True):
    """What viewers show, and the transfer syntax that all else is converted to; without `shown` nothing is."""

    shown: frozenset[str] = frozenset()
    target: str = ""

    def asking(self, meta: DicomObjectMeta) -> DicomObjectMeta:
        """Return `meta`, and where viewers do not show the object, with what it is to be converted to."""
        if not self.shown or meta.transfer_syntax_uid in self.shown:
            return meta
        return msgspec.structs.replace(meta, target_ts=self.target, transfer_status=TransferStatus.NEEDED)
