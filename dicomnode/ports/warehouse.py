"""The port for rows that are counted, not looked up: what was received, and who asked for what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from dicomnode.model.warehouse import AccessGrouping, Grouping, Holding, Span, Table, Use
from dicomnode.ports.plugin import Plugin


class Warehouse(Plugin):
    """Keep the rows of `model.warehouse.TABLES` for good, and count them."""

    @abstractmethod
    async def record(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Return when `rows`, structs whose fields are the table's columns by name, will survive a crash.

        Idempotent: see model.warehouse. Fields that are no column are left out. Raises: Unavailable, Full: perhaps
        some of `rows` are kept; recording all of them again makes it whole.
        """

    @abstractmethod
    async def holdings(self, by: Grouping, span: Span, most: int) -> Sequence[Holding]:
        """Return what was received, by label; days from the newest on, all else from the most bytes on, `most` of them.

        Of equal ones the lesser label comes first. A study is one of its tenant. A day is that of `created_time`. A
        modality is that of the series' row in `dicom_state_meta`, empty where there is none yet. Raises: Unavailable.
        """

    @abstractmethod
    async def accesses(self, by: AccessGrouping, span: Span, most: int) -> Sequence[Use]:
        """Return who asked, or for what, from the most requests on, `most` of them. Raises: Unavailable.

        Of equal ones the lesser label comes first.
        """

    @abstractmethod
    async def counts(self) -> Mapping[str, int]:
        """Return how many rows of different key each table holds, by its name. Raises: Unavailable."""

    @abstractmethod
    def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the `file_path` of each row of `dicom_object_meta` that begins with `prefix`, in order, each once."""


class Pulling(ABC):
    """A warehouse that can be set up to fetch the messages from the broker by itself, without a recorder."""

    @abstractmethod
    def definitions(self, *, pull: bool, broker: str) -> Sequence[str]:
        """Return the statements that make the tables; with `pull` also those that have them filled from `broker`.

        `broker` is the url of a Kafka. Each statement ends without a semicolon.
        """
