"""The broker's file: what its one thread does with it. All that waits becomes one transaction.

Only publishing and withdrawing wait for the disk. An acknowledgement survives the death of the process; where a power
cut undoes it the message comes twice, which every worker can bear.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from dicomnode_sqlite.connect import connect, install, not_opened, told

SHIFT = 40
_ROWS = 64
_LOG_PAGES = 4000
_FOLD_PAGES = 3000  # as we reckon them; the log's first pages are on the disk already, and more would not be
_PAGE_BYTES = 4096
_NO_BOUND = 2**30
_PLENTY_BYTES = 1024 * 1024 * 1024
_OPTION = "broker.options.path"
_positions = msgspec.json.Encoder().encode

_NOT_DONE = (
    "NOT EXISTS (SELECT 1 FROM acknowledged AS a WHERE a.position = message.position AND subscriber = ?)"
    " ORDER BY position"
)
_WAITING = f"SELECT position FROM message WHERE position > ? AND position < ? AND {_NOT_DONE}"  # noqa: S608 -- constants
_DONE = (
    "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM subscriber WHERE topic = ? AND since < value"
    " AND id NOT IN (SELECT subscriber FROM acknowledged WHERE position = value))"
)
_READ = (
    "SELECT position, key, body, published, cargo IS NOT NULL FROM message"  # noqa: S608 -- constants
    f" WHERE position IN (SELECT value FROM json_each(?)) AND {_NOT_DONE}"
)

_CARGO = "SELECT cargo FROM message WHERE position = ?"
_STEPS = {
    1: "ALTER TABLE message ADD COLUMN cargo BLOB",
    2: "ALTER TABLE topic ADD COLUMN sure INTEGER NOT NULL DEFAULT 0",
}

Row = tuple[int, str, bytes, float, bytes | None]
Kept = tuple[int, str, bytes, float, bool]


class Group(msgspec.Struct, frozen=True):
    """A registered group: its row's id, its topic's id, and the position behind which its messages begin."""

    id: int
    topic: int
    since: int


class Insert(msgspec.Struct, frozen=True):
    """Keep messages, in the order of their positions; `beyond` what the file's bound allows, if need be."""

    rows: list[Row]
    beyond: bool = False


class Withdraw(msgspec.Struct, frozen=True):
    """Have messages never published."""

    positions: list[int]


class Ack(msgspec.Struct, frozen=True):
    """Have `group` done with messages."""

    group: Group
    positions: list[int]


class Register(msgspec.Struct, frozen=True):
    """Make a group, if it is new, that gets what lies behind position `since`. Result: Group."""

    topic: int
    name: str
    since: int


class Topic(msgspec.Struct, frozen=True):
    """Make a topic, if it is new. Result: its id."""

    name: str


class Waiting(msgspec.Struct, frozen=True):
    """Result: the positions that `group` has not acknowledged, in order."""

    group: Group


class Sure(msgspec.Struct, frozen=True):
    """Note up to which position each topic's messages were delivered: topic ids, each with a position."""

    positions: list[tuple[int, int]]


class Room(msgspec.Struct, frozen=True):
    """Result: how many bytes more the file may take, None where it has no bound."""


class Fold(msgspec.Struct, frozen=True):
    """Have what the log holds in the file itself, so that the log begins anew: tens of ms, never on the loop."""


class Cargo(msgspec.Struct, frozen=True):
    """Result: the bytes kept with the message at `position`, None where there are none."""

    position: int


class Read(msgspec.Struct, frozen=True):
    """Result: the rows at `positions` that `group` has not acknowledged, in order."""

    group: Group
    positions: list[int]


Unsynced = Ack | Read | Waiting | Cargo | Sure | Room
Work = Insert | Withdraw | Register | Topic | Unsynced
Order = Work | Fold


class Journal:
    """The file, for one thread at a time."""

    def __init__(self, path: Path, fsync: Literal["always", "never"], most_bytes: int = 0) -> None:
        self._path = path
        self._most_pages = max(most_bytes // _PAGE_BYTES, 0)
        self._sync = "FULL" if fsync == "always" else "OFF"
        self._synced = True
        self._logged = 0  # pages, reckoned

    @property
    def is_long(self) -> bool:
        """Tell whether it is time for a Fold."""
        return self._logged >= _FOLD_PAGES

    def open(self) -> None:
        """Open the file, make its tables where they are not. Raises: ConfigError, Unavailable."""
        try:
            # EXCLUSIVE: a second process is refused, and no shared memory is needed to agree with one.
            self._connection = connect(
                self._path,
                (
                    "locking_mode = EXCLUSIVE",
                    f"synchronous = {self._sync}",
                    f"wal_autocheckpoint = {4 * _LOG_PAGES}",
                    "cache_size = -16384",
                ),
            )
        except sqlite3.Error as error:
            raise not_opened(error, _OPTION, self._path) from error
        try:
            install(self._connection, "broker.sql", 3, (_OPTION, self._path), _STEPS)
            self._make_room()
            self._bound(self._most_pages)
            self._groups: dict[int, int] = defaultdict(int)
            for topic, count in self._connection.execute("SELECT topic, count(*) FROM subscriber GROUP BY topic"):
                self._groups[topic] = count
        except BaseException as error:
            self._connection.close()
            if isinstance(error, sqlite3.Error):
                raise not_opened(error, _OPTION, self._path) from error
            raise

    def _bound(self, pages: int) -> None:
        if pages:
            self._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    def _make_room(self) -> None:
        """Have the log as long as it may become, so that a commit overwrites blocks and needs no new ones.

        On a journalling file system that is what most of the wait for the disk is about: 2 x measured on ext4, beside
        objects that are synced at the same time.
        """
        disk = os.statvfs(self._path.parent)
        if self._sync != "FULL" or disk.f_bavail * disk.f_frsize < _PLENTY_BYTES:
            return
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        run("CREATE TABLE filling (bytes BLOB)")
        run("INSERT INTO filling VALUES (zeroblob(?))", (_LOG_PAGES * _PAGE_BYTES,))
        run("COMMIT")
        run("DROP TABLE filling")
        run("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def topics(self) -> list[tuple[str, int, int, int]]:
        """Return each topic: its name, id, the highest position that was ever given, and the one noted by `Sure`."""
        return self._connection.execute(
            "SELECT name, id, max(last, coalesce((SELECT max(position) FROM message"  # noqa: S608 -- a constant
            f" WHERE position BETWEEN topic.id << {SHIFT} AND ((topic.id + 1) << {SHIFT}) - 1), 0)), sure FROM topic"
        ).fetchall()

    def groups(self) -> list[tuple[str, str, Group]]:
        """Return each group: its topic's name, its own, and what is known of it."""
        found = self._connection.execute(
            "SELECT topic.name, subscriber.name, subscriber.id, topic, since FROM subscriber"
            " JOIN topic ON topic.id = subscriber.topic"
        )
        return [(topic, name, Group(*group)) for topic, name, *group in found]

    def carry_out(self, orders: list[Order]) -> Sequence[object]:
        """Carry out `orders`; return the result of each, or Unavailable or Full where nothing of it was done."""
        work = [order for order in orders if not isinstance(order, Fold)]
        if len(work) < len(orders):
            return self._fold_behind(orders)
        try:
            return self._together(work)
        except (sqlite3.Error, ValueError) as error:
            if len(orders) == 1:
                return [told(error)]
        return [result for order in orders for result in self.carry_out([order])]  # one must not spoil the others

    def _fold_behind(self, orders: list[Order]) -> Sequence[object]:
        work: list[Order] = [order for order in orders if not isinstance(order, Fold)]
        results = iter(self.carry_out(work) if work else ())
        self._logged = 0
        with contextlib.suppress(sqlite3.Error):  # the log goes on growing until one succeeds
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return [None if isinstance(order, Fold) else next(results) for order in orders]

    def _together(self, orders: list[Work]) -> Sequence[object]:
        self._wait_for_disk(not all(isinstance(order, Unsynced) for order in orders))
        if self._most_pages and any(isinstance(order, Insert) and order.beyond for order in orders):
            self._bound(_NO_BOUND)
            try:
                return self._transaction(orders)
            finally:
                self._bound(self._most_pages)
        first = orders[0]
        if len(orders) == 1 and isinstance(first, Insert) and len(first.rows) <= _ROWS:
            self._insert(first.rows)  # one statement is its own transaction
            return [None]
        return self._transaction(orders)

    def _wait_for_disk(self, wanted: bool) -> None:
        if wanted != self._synced and self._sync == "FULL":
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._synced = wanted

    def _transaction(self, orders: list[Work]) -> Sequence[object]:
        groups = self._groups.copy()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            results = self._results(orders)
            self._connection.execute("COMMIT")
        except BaseException:
            self._groups = groups
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return results

    def _results(self, orders: list[Work]) -> list[object]:
        results: list[object] = []
        rows: list[Row] = []
        for order in orders:
            if isinstance(order, Insert):
                rows.extend(order.rows)  # in one go with those that follow
                results.append(None)
                continue
            self._insert(rows)
            rows = []
            results.append(self._result(order))
        self._insert(rows)
        return results

    def _result(self, order: Withdraw | Register | Topic | Unsynced) -> object:
        match order:
            case Withdraw(positions):
                self._delete(positions)
            case Ack(group, positions):
                self._ack(group, positions)
            case Register(topic, name, since):
                return self._register(topic, name, since)
            case Topic(name):
                return self._topic(name)
            case Waiting(group):
                return self._waiting(group)
            case Read(group, positions):
                return self._read(group, positions)
            case Sure(positions):
                self._connection.executemany("UPDATE topic SET sure = ? WHERE id = ?", [(p, t) for t, p in positions])
            case Cargo() | Room():
                return self._cargo(order.position) if isinstance(order, Cargo) else self._room()
        return None

    def _cargo(self, position: int) -> object:
        found = self._connection.execute(_CARGO, (position,)).fetchone()
        return found and found[0]

    def _room(self) -> int | None:
        if not self._most_pages:
            return None
        taken = self._connection.execute("PRAGMA page_count").fetchone()[0]
        unused = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        return max(self._most_pages - int(taken) + int(unused), 0) * _PAGE_BYTES

    def _insert(self, rows: list[Row]) -> None:
        # A statement for many rows: each step of a statement gives up the interpreter's lock and must get it back.
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            self._logged += 3 + sum(1 + (len(row[2]) + len(row[4] or b"")) // _PAGE_BYTES for row in some)
            values = ",".join(["(?,?,?,?,?)"] * len(some))
            self._connection.execute(
                f"INSERT INTO message (position, key, body, published, cargo) VALUES {values}",  # noqa: S608 -- only marks
                [value for row in some for value in row],
            )

    def _delete(self, positions: list[int]) -> None:
        if not positions:
            return
        self._connection.execute(
            "DELETE FROM message WHERE position IN (SELECT value FROM json_each(?))", (_positions(positions),)
        )
        self._logged += 3 + len(positions)
        highest = max(positions)
        self._connection.execute("UPDATE topic SET last = max(last, ?) WHERE id = ?", (highest, highest >> SHIFT))

    def _ack(self, group: Group, positions: list[int]) -> None:
        if self._groups[group.topic] == 1:
            self._delete(positions)
            return
        told_of = (_positions(positions),)
        self._connection.execute(
            "INSERT OR IGNORE INTO acknowledged (position, subscriber) SELECT value, ? FROM json_each(?)"
            " WHERE value IN (SELECT position FROM message)",
            (group.id, *told_of),
        )
        done = self._connection.execute(_DONE, (*told_of, group.topic))
        gone = [position for (position,) in done]
        self._delete(gone)
        self._connection.execute(
            "DELETE FROM acknowledged WHERE position IN (SELECT value FROM json_each(?))", (_positions(gone),)
        )

    def _topic(self, name: str) -> int:
        self._connection.execute("INSERT OR IGNORE INTO topic (name, last) VALUES (?, 0)", (name,))
        return int(self._connection.execute("SELECT id FROM topic WHERE name = ?", (name,)).fetchone()[0])

    def _register(self, topic: int, name: str, since: int) -> Group:
        made = self._connection.execute(
            "INSERT OR IGNORE INTO subscriber (topic, name, since) VALUES (?, ?, ?)", (topic, name, since)
        ).rowcount
        self._groups[topic] += max(made, 0)
        found = self._connection.execute(
            "SELECT id, topic, since FROM subscriber WHERE topic = ? AND name = ?", (topic, name)
        )
        return Group(*found.fetchone())

    def _waiting(self, group: Group) -> list[int]:
        behind, before = max(group.since, group.topic << SHIFT), (group.topic + 1) << SHIFT
        return [position for (position,) in self._connection.execute(_WAITING, (behind, before, group.id))]

    def _read(self, group: Group, positions: list[int]) -> list[Kept]:
        return self._connection.execute(_READ, (_positions(positions), group.id)).fetchall()
