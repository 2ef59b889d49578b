"""Outputs of an execution that has succeeded: published, dropped or kept, before anybody reads that it has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from penstock.api.execution import ExecutionOutput, ExecutionPhase
from penstock.controller.ports import Refused, Transient
from penstock.controller.publishing import StorePublisher, handed_on
from penstock.engine.status import from_timestamp
from penstock.engine.types import File, Head, Identity
from penstock.storage.datastore import DataStore
from penstock.storage.objects import Store, open_store
from penstock.storage.settings import StoreSettings

WHO = Identity("nightly-1", "u1", "n")
MODEL = File("executions/u1/train/1/model", "a" * 64, 5)
ENDED = Head(
    ExecutionPhase.SUCCEEDED,
    reason="Succeeded",
    started_at=from_timestamp("2026-03-02T23:59:59Z"),
    finished_at=from_timestamp("2026-03-03T00:10:00Z"),
    outputs={"model": MODEL, "log": "much"},
)


def outputs(*wanted: dict[str, Any]) -> list[ExecutionOutput]:
    return [ExecutionOutput.model_validate(each) for each in wanted]


@dataclass
class Shelf:
    """Publishes to nowhere, or fails."""

    fails: Exception | None = None
    published: list[tuple[str, str]] = field(default_factory=list)

    async def publish(self, identity: Identity, file: File, pattern: str, at: float) -> None:
        """Note it, or fail."""
        del identity, at
        if self.fails is not None:
            raise self.fails
        self.published.append((file.key, pattern))


async def test_what_is_named_goes_where_it_is_to_go_and_the_rest_is_kept() -> None:
    shelf = Shelf()
    wanted = outputs({"name": "model", "object": "models/{date}"}, {"name": "log", "void": True})
    head = await handed_on(shelf, WHO, ENDED, wanted)
    assert shelf.published == [(MODEL.key, "models/{date}")]
    assert head == replace(ENDED, outputs={"model": MODEL})
    assert await handed_on(shelf, WHO, ENDED, []) == ENDED


async def test_of_an_execution_that_has_not_succeeded_nothing_is_published() -> None:
    shelf = Shelf()
    failed = replace(ENDED, phase=ExecutionPhase.FAILED)
    assert await handed_on(shelf, WHO, failed, outputs({"name": "model", "object": "m"})) == failed
    assert shelf.published == []


async def test_an_output_that_was_not_given_is_not_published() -> None:
    shelf = Shelf()
    skipped = replace(ENDED, outputs={"model": None})
    assert await handed_on(shelf, WHO, skipped, outputs({"name": "model", "object": "m"})) == skipped
    assert shelf.published == []


@pytest.mark.parametrize(
    ("publisher", "said"),
    [(Shelf(Refused("it is read-only")), "it is read-only"), (None, "there is no object store")],
    ids=["refused", "no store"],
)
async def test_what_cannot_be_published_is_an_error_that_says_so(publisher: Shelf | None, said: str) -> None:
    head = await handed_on(publisher, WHO, ENDED, outputs({"name": "model", "object": "models/x"}))
    assert (head.phase, head.reason) == (ExecutionPhase.ERROR, "PublishFailed")
    assert head.message == f'output "model" cannot be published to models/x: {said}'


async def test_a_store_that_does_not_answer_is_asked_again() -> None:
    with pytest.raises(Transient):
        await handed_on(Shelf(Transient("away")), WHO, ENDED, outputs({"name": "model", "object": "m"}))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A folder."""
    found = open_store(StoreSettings(store_url=f"file://{tmp_path}"))
    yield found
    await found.close()


async def test_a_file_is_copied_to_its_path_by_the_date_of_the_start(store: Store) -> None:
    await store.put(f"n/{MODEL.key}", b"model")
    wanted = outputs({"name": "model", "object": "models/{date}/{execution_id}"})
    for _ in range(2):  # a second time is as good as the first
        head = await handed_on(StorePublisher(store), WHO, ENDED, wanted)
        assert head == ENDED
    found = await DataStore(store, "n").info("models/20260302/nightly-1")
    assert (found.size, found.sha256) == (5, "a" * 64)


@pytest.mark.parametrize("pattern", ["models/{day}", "../models", "gone"])
async def test_no_such_place_and_no_such_file_are_refusals(store: Store, pattern: str) -> None:
    with pytest.raises(Refused):
        await StorePublisher(store).publish(WHO, MODEL, pattern, 0.0)
