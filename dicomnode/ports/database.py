"""The port for the index: what instances there are, what they say, and where they are kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence

from dicomnode.model.entry import Counts, Entry, Fate, Policy
from dicomnode.model.query import Found, Location, Query
from dicomnode.ports.plugin import Plugin


class Database(Plugin):
    """Know every instance; agree with `model.query.Match.accepts` on what matches."""

    @abstractmethod
    async def index(self, entries: Sequence[Entry], policy: Policy) -> Sequence[Fate]:
        """Take in `entries` in one transaction; return the fate of each, in order.

        Idempotent: an entry whose key was indexed before is AGAIN. For one (tenant, SOP Instance UID): the first is
        NEW; one with a digest and length already kept is DUPLICATE (and is not remembered: its file goes);
        another one is ASIDE or REPLACED by `policy`, and both stay known, one of them current. An instance whose
        study or series UID differs from the earlier one's is judged in the same way.
        Attributes of patient, study and series: `keep-first` fills in what was empty, `replace` takes the newest.

        Raises: Unavailable, Full: nothing was indexed.
        """

    @abstractmethod
    async def find(self, query: Query) -> Sequence[Found]:
        """Return up to `query.limit` entities behind `query.after`, in the order of `Found.cursor`.

        Rows of successive pages neither repeat nor skip an entity that was there throughout. Raises: Unavailable;
        BadRequest for a key that is no searched column of the level or above.
        """

    @abstractmethod
    async def locate(self, tenant: str, study_uid: str, series_uid: str = "", sop_uid: str = "") -> Sequence[Location]:
        """Return the current object of each instance of the study, series or instance, by series and instance number.

        An empty UID does not restrict (with an empty `study_uid`, `sop_uid` is needed). Nothing known: empty.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> AsyncIterator[Location]:
        """Yield every kept object, also those set aside, whose key starts with `prefix`, in the order of keys."""

    @abstractmethod
    async def counts(self) -> Counts:
        """Return how much is known, over all tenants."""
