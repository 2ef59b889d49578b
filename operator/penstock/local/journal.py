"""What is recorded of attempts in SQLite: that one was asked for, and how it ended.

In between its folder knows best: see `spawn`. Nothing here decides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.engine.status import dump_values, load_values
from penstock.engine.types import AttemptId, AttemptPhase, Observation
from penstock.local.database import Database
from penstock.step.values import Declared


@dataclass(frozen=True, slots=True)
class Record:
    """What is recorded of one attempt.

    Attributes:
        declared: the outputs that its step declares.
        ended: how it ended, once it has.
    """

    declared: tuple[Declared, ...]
    ended: Observation | None


class Journal:
    """The table of attempts.

    Args:
        database: the home's database.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, key: str, attempt: AttemptId, declared: Sequence[Declared], *, now: float) -> bool:
        """Record that an attempt is asked for; False if it is recorded already."""
        outputs = json.dumps(declared, separators=(",", ":"))
        return (
            self._db.execute(
                "INSERT OR IGNORE INTO attempts (uid, step, idx, attempt, asked_at, outputs) VALUES (?, ?, ?, ?, ?, ?)",
                (key, *attempt, now, outputs),
            )
            == 1
        )

    def get(self, key: str, attempt: AttemptId) -> Record | None:
        """What is recorded of an attempt; None if nothing is."""
        row = self._db.row(
            "SELECT outputs, ended FROM attempts WHERE uid = ? AND step = ? AND idx = ? AND attempt = ?", key, *attempt
        )
        if row is None:
            return None
        declared = tuple(Declared(*entry) for entry in json.loads(row["outputs"]))
        return Record(declared, None if row["ended"] is None else _load(attempt, row["ended"]))

    def end(self, key: str, seen: Observation) -> None:
        """Record how an attempt ended."""
        self._db.execute(
            "UPDATE attempts SET ended = ? WHERE uid = ? AND step = ? AND idx = ? AND attempt = ?",
            (_dump(seen), key, *seen.id),
        )

    def remove(self, key: str, attempt: AttemptId) -> None:
        """Forget an attempt whose command was never run, so that it can be asked for again."""
        self._db.execute("DELETE FROM attempts WHERE uid = ? AND step = ? AND idx = ? AND attempt = ?", (key, *attempt))


def _dump(seen: Observation) -> str:
    entry = {
        "startedAt": seen.started_at,
        "finishedAt": seen.finished_at,
        "exitCode": seen.exit_code,
        "reason": seen.reason,
        "message": seen.message,
        "outputs": dump_values(seen.outputs),
    }
    return json.dumps(entry, separators=(",", ":"), allow_nan=False)


def _load(attempt: AttemptId, text: str) -> Observation:
    entry = json.loads(text)
    return Observation(
        attempt,
        AttemptPhase.ENDED,
        started_at=entry["startedAt"],
        finished_at=entry["finishedAt"],
        exit_code=entry["exitCode"],
        reason=entry["reason"],
        message=entry["message"],
        outputs=load_values(entry["outputs"]),
    )
