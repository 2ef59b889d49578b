"""What goes from a home: old executions with their folders, files that nobody needs, cache entries that are old.

Records go first, folders after them: what a kill leaves is folders without a record, and the next collection takes
those. In the same way files of a cache entry go one collection after it. Nothing is taken from an execution that a
process runs: its lock is held. The data store is never touched.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.engine.status import load_values
from penstock.local.database import Database
from penstock.local.filestore import WRITES, HomeStore
from penstock.local.home import Busy, Home, HomeError, Ownership
from penstock.local.objects import below_objects, leftovers, remove, remove_tree, usage
from penstock.storage.cache import files_of
from penstock.storage.errors import StoreError

DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What stays.

    Attributes:
        keep: so many of the newest finished executions of each pipeline.
        days: executions that were created in so many days.
        cache_days: cache entries that were made in so many days, with their files.
    """

    keep: int
    days: float
    cache_days: float


@dataclass(frozen=True, slots=True)
class OldExecution:
    """An execution that goes.

    Attributes:
        uid: its uid.
        name: its name; empty where only its folders are left.
        phase: its phase.
        created_at: when it was created, seconds since the epoch; 0 where nobody knows.
        bytes: how large its folders are, files that stay not counted.
    """

    uid: str
    name: str
    phase: str
    created_at: float
    bytes: int


@dataclass(slots=True)
class Collected:
    """What a collection removed, or would remove.

    Attributes:
        executions: the executions, oldest first.
        cache_entries: how many cache entries.
        busy: names of executions that would have gone, but are in use.
        other_bytes: bytes of what copies left that did not come to their end.
    """

    executions: list[OldExecution] = field(default_factory=list)
    cache_entries: int = 0
    busy: list[str] = field(default_factory=list)
    other_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All bytes."""
        return sum(each.bytes for each in self.executions) + self.other_bytes


class Collector:
    """Collects what is of no use any more in one home.

    Args:
        home: the home.
        database: its database.
    """

    def __init__(self, home: Home, database: Database) -> None:
        self._home = home
        self._db = database

    def collect(self, rules: Rules, *, now: float, dry_run: bool = False) -> Collected:
        """Remove, or only say what would go.

        Args:
            rules: what stays.
            now: seconds since the epoch.
            dry_run: remove nothing.

        Raises:
            LocalError: the home cannot be read or written.
        """
        found = Collected()
        # Folders first, then records: whatever begins after this line is in neither list.
        folders = self._folders()
        rows = self._db.rows(
            "SELECT uid, name, pipeline, phase, finished, created_at FROM executions ORDER BY created_at, uid"
        )
        old = {row["uid"]: row for row in _old(rows, rules, now)}
        orphans = folders - {row["uid"] for row in rows}
        needed = self._needed([row["uid"] for row in rows if row["uid"] not in old])
        stale = self._stale(needed, now - rules.cache_days * DAY)
        # Also what a stale entry refers to stays for now: an execution may have found it a moment ago.
        needed.update(key for keys in self._cached().values() for key in keys)
        found.cache_entries = len(stale)
        if not dry_run:
            self._forget(stale)
        for uid in [*old, *sorted(orphans)]:
            row = old.get(uid)
            one = OldExecution(
                uid,
                "" if row is None else row["name"],
                "" if row is None else row["phase"],
                0.0 if row is None else row["created_at"],
                sum(size for _, size in self._goes(uid, needed)),
            )
            if uid in orphans and not one.bytes and not (self._home.runs / uid).exists():
                continue  # nothing but files that stay
            if self._remove(one, needed, dry_run=dry_run):
                found.executions.append(one)
            else:
                found.busy.append(one.name or uid)
        found.other_bytes = self._sweep_copies(now, dry_run=dry_run)
        return found

    def _folders(self) -> set[str]:
        return {
            entry.name
            for top in (self._home.runs, self._home.objects)
            for entry in os.scandir(top)
            if entry.is_dir(follow_symlinks=False)
        }

    def _needed(self, uids: Iterable[str]) -> set[str]:
        """Where in `objects/` all files are that executions hold: inputs, outputs of steps, of items, of attempts."""
        found: set[str] = set()
        for uid in uids:
            for table, columns in _JSON.items():
                names = ", ".join(columns)
                for row in self._db.rows(f"SELECT {names} FROM {table} WHERE uid = ?", uid):  # noqa: S608
                    for text in row:
                        if text:
                            found.update(_keys(json.loads(text)))
        return found

    def _cached(self) -> dict[str, list[str]]:
        """Where in `objects/` the files of cache entries are, by fingerprint."""
        return {
            row["fingerprint"]: [
                below_objects(file.key) for file in files_of(load_values(json.loads(row["outputs"])).values())
            ]
            for row in self._db.rows("SELECT fingerprint, outputs FROM cache")
        }

    def _stale(self, needed: Collection[str], before: float) -> set[str]:
        """Fingerprints of old cache entries whose files no execution that stays holds."""
        old = {
            row["fingerprint"] for row in self._db.rows("SELECT fingerprint FROM cache WHERE created_at < ?", before)
        }
        return {each for each, keys in self._cached().items() if each in old and not any(key in needed for key in keys)}

    def _forget(self, fingerprints: Iterable[str]) -> None:
        with self._db.transaction() as connection:
            connection.executemany("DELETE FROM cache WHERE fingerprint = ?", [(each,) for each in fingerprints])

    def _remove(self, one: OldExecution, needed: Collection[str], *, dry_run: bool) -> bool:
        """Remove an execution; False if a process runs it."""
        if dry_run:
            return not self._is_busy(one.uid)
        try:
            ownership = Ownership(self._home, one.uid)
        except Busy:
            return False
        with ownership:
            gone = self._db.execute("DELETE FROM executions WHERE uid = ? AND finished", (one.uid,))
            if not gone and self._db.row("SELECT 1 FROM executions WHERE uid = ?", one.uid):
                return False  # it was created after the folders were listed
            for path, _ in self._goes(one.uid, needed):
                if path.is_dir() and not path.is_symlink():
                    remove_tree(path)
                else:
                    _unlink(path)
            _remove_empty(self._home.objects / one.uid)
        return True

    def _is_busy(self, uid: str) -> bool:
        if not (self._home.run(uid) / ".lock").exists():
            return False
        try:
            with Ownership(self._home, uid):
                return False
        except Busy:
            return True

    def _goes(self, uid: str, needed: Collection[str]) -> Iterator[tuple[Path, int]]:
        """What of an execution goes, each with its bytes."""
        run, objects = self._home.run(uid), self._home.objects / uid
        if objects.is_dir():
            kept = {key for key in needed if key.startswith(f"{uid}/")}
            yield from _below(objects, uid, kept)
        if run.is_dir():  # with the lock, so it comes last
            yield run, usage(run)[0]

    def _sweep_copies(self, now: float, *, dry_run: bool) -> int:
        """Remove what killed copies have left in the data store; a copy that takes a day is not believed to live."""
        try:
            size = HomeStore(self._home).clean(now, dry_run=dry_run)
        except StoreError as error:
            raise HomeError(str(error)) from error
        for path in leftovers(self._home.datastore):
            # Not the time of its content, which a copy may have from elsewhere.
            if path.name != WRITES and now - path.lstat().st_ctime > DAY:
                size += usage(path)[0]
                if not dry_run:
                    remove(path)
        return size


_JSON: Mapping[str, tuple[str, ...]] = {
    "executions": ("inputs", "head"),
    "steps": ("status",),
    "items": ("status",),
    "attempts": ("ended",),
}
"""Where records hold files."""


def _old(rows: Iterable[Any], rules: Rules, now: float) -> list[Any]:
    """The executions that go, oldest first; `rows` are in the order of their creation."""
    by_pipeline: dict[str, list[Any]] = {}
    for row in rows:
        if row["finished"]:
            by_pipeline.setdefault(row["pipeline"], []).append(row)
    old = [
        row
        for ours in by_pipeline.values()
        for row in ours[: max(0, len(ours) - rules.keep)]
        if now - row["created_at"] > rules.days * DAY
    ]
    return sorted(old, key=lambda row: row["created_at"])


def _keys(value: object) -> Iterator[str]:
    """Where files are in `objects/` that a JSON value names; what only looks like a key keeps a file that could go."""
    if isinstance(value, dict):
        key = value.get("key")
        if isinstance(key, str):
            yield below_objects(key)
        for each in value.values():
            yield from _keys(each)
    elif isinstance(value, list):
        for each in value:
            yield from _keys(each)


def _below(folder: Path, key: str, kept: Collection[str]) -> Iterator[tuple[Path, int]]:
    """What is below a folder of objects and is not kept, in as few pieces as possible."""
    if not kept:
        yield folder, usage(folder)[0]
        return
    for entry in os.scandir(folder):
        inside = f"{key}/{entry.name}"
        if inside in kept:
            continue
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _below(path, inside, {each for each in kept if each.startswith(f"{inside}/")})
        else:
            yield path, usage(path)[0]


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _remove_empty(folder: Path) -> None:
    """Remove a folder of objects if nothing is left in it."""
    if folder.is_dir() and not any(files for _, _, files in os.walk(folder)):
        with suppress(OSError):
            shutil.rmtree(folder)
