"""Compare storage and index, both ways."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping

import msgspec

from dicomnode.model.query import Location
from dicomnode.model.representation import original_of, sealed
from dicomnode.ports.audit import sha256_of, study_of
from dicomnode.ports.database import Database
from dicomnode.ports.storage import Storage


class Checked(msgspec.Struct, frozen=True):
    """What the comparison found, each a tuple of storage keys.

    missing: indexed, but not in storage. damaged: of another size or digest than indexed. unknown: in storage, but not
    indexed (`sweep` mends that). orphans: forms in other transfer syntaxes whose object is gone, or that nobody
    finished; they take room and do no harm. `representations` are the forms that are whole.
    """

    objects: int
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    unknown: tuple[str, ...]
    representations: int = 0
    orphans: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Tell whether storage and index agree."""
        return not (self.missing or self.damaged or self.unknown)


class Fsck:
    """Compare storage and index."""

    def __init__(self, storage: Storage, database: Database) -> None:
        self._storage = storage
        self._database = database

    async def run(self, *, digests: bool, told: Callable[[], object] = lambda: None) -> Checked:
        """Return where storage and index differ; with `digests` every data set is read and its SHA-256 compared.

        Changes nothing. `told` is called for each indexed object.
        """
        found, studies = _Found(), set[str]()
        async for study, locations in _by_study(self._database):
            studies.add(study)
            held = {stored.key: stored.size async for stored in self._storage.list(f"{study}/")}
            for location in locations:
                told()
                await self._compare(location, held.get(location.key), found, digests=digests)
            indexed = {location.key for location in locations}
            found.unknown.extend(key for key in held if key not in indexed and not original_of(key))
            await self._compare_forms(held, indexed, found, digests=digests)
        async for stored in self._storage.list():
            if study_of(stored.key) not in studies:
                await self._judge_stray(stored.key, found)
        return found.checked()

    async def _compare_forms(
        self, held: Mapping[str, int], indexed: Collection[str], found: _Found, *, digests: bool
    ) -> None:
        """Judge the forms, in other transfer syntaxes, among what is `held` of a study."""
        originals = {key: original for key in held if (original := original_of(key))}
        whole: set[str] = set()
        for form in sealed({key: held[key] for key in originals}):
            whole |= {form.key, form.seal}
            found.representations += 1
            if digests and await sha256_of(self._storage, form.key, form.data_set_offset) != form.sha256:
                found.damaged.append(form.key)
        for key, original in originals.items():
            if key not in whole or (original not in held and original not in indexed):
                found.orphans.append(key)

    async def _judge_stray(self, key: str, found: _Found) -> None:
        """Judge what is of no study that the index knows."""
        original = original_of(key)
        if not original:
            found.unknown.append(key)
        elif await self._storage.size(original) is None:
            found.orphans.append(key)

    async def _compare(self, location: Location, size: int | None, found: _Found, *, digests: bool) -> None:
        found.objects += 1
        if size is None:
            found.missing.append(location.key)
        elif size != location.size or (digests and not await self._is_as_received(location)):
            found.damaged.append(location.key)

    async def _is_as_received(self, location: Location) -> bool:
        return await sha256_of(self._storage, location.key, location.data_set_offset) == location.sha256


class _Found:
    """What has been found so far."""

    def __init__(self) -> None:
        self.objects = 0
        self.missing: list[str] = []
        self.damaged: list[str] = []
        self.unknown: list[str] = []
        self.orphans: list[str] = []
        self.representations = 0

    def checked(self) -> Checked:
        """Return it."""
        return Checked(
            self.objects,
            tuple(self.missing),
            tuple(self.damaged),
            tuple(self.unknown),
            self.representations,
            tuple(self.orphans),
        )


async def _by_study(database: Database) -> AsyncIterator[tuple[str, list[Location]]]:
    """Yield what is indexed, in one walk, with the study that the keys name: a study is held at a time."""
    study, locations = "", list[Location]()
    async for location in database.keys():
        if study_of(location.key) != study:
            if locations:
                yield study, locations
            study, locations = study_of(location.key), []
        locations.append(location)
    if locations:
        yield study, locations
