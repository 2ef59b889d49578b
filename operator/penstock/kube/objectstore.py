"""The operator's object store: opened and looked at when it starts. Without one there are no files and no cache."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

from penstock.controller.ports import Halt, Transient
from penstock.controller.stores import in_ports_words
from penstock.engine.types import CacheEntry
from penstock.storage.errors import StoreUnavailable
from penstock.storage.objects import Store, check, open_store
from penstock.storage.settings import BadSettings, Kind, StoreSettings

log = logging.getLogger(__name__)


FULL_SECONDS = 60.0


@contextmanager
def in_cluster_words() -> Iterator[None]:
    """Turn errors of a store into `ports.Transient`: that it is full stops nothing that has no need of it.

    Raises:
        Transient: the store does not answer, refuses or is full.
    """
    try:
        with in_ports_words():
            yield
    except Halt as error:
        raise Transient(str(error), FULL_SECONDS) from error


class ObjectStore(NamedTuple):
    """The object store.

    Attributes:
        store: the store.
        max_file_bytes: how large the object of an output may be that has no bound of its own.
        authority: certificates, as PEM, of who signed that of the store's endpoint; empty: those that all trust.
    """

    store: Store
    max_file_bytes: int
    authority: str = ""


@asynccontextmanager
async def opened(settings: StoreSettings) -> AsyncIterator[ObjectStore]:
    """An object store that has been looked at. One that does not answer now may do so later: that is only logged.

    Raises:
        BadSettings: it refuses; the message names the setting and the remedy.
        StoreError: it cannot be used.
    """
    if settings.kind is Kind.FOLDER and not (settings.gateway_url and settings.signing_keys):
        raise BadSettings(
            f"PENSTOCK_STORE_URL={settings.store_url}: pods reach a folder through `penstock gateway` only; set "
            "PENSTOCK_GATEWAY_URL and PENSTOCK_SIGNING_KEYS"
        )
    store = open_store(settings)
    try:
        try:
            await check(store, settings)
        except StoreUnavailable as error:
            log.warning("the object store does not answer, steps with files wait for it: %s", error)
        path = settings.store_ca_file
        authority = "" if path is None else await asyncio.to_thread(path.read_text)
        yield ObjectStore(store, settings.max_file_bytes, authority)
    finally:
        await store.close()


class NoCache:
    """Remembers nothing: what a step's cache remembers is in the object store."""

    async def lookup(self, namespace: str, fingerprint: str) -> CacheEntry | None:
        """Nothing."""
        del namespace, fingerprint
        return None

    async def remember(self, namespace: str, entry: CacheEntry) -> None:
        """Nothing."""
        del namespace, entry
