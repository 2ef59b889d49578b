"""The data store of a namespace: people's own objects by path, and what deployments publish there.

An object is a file under `data/`. What its bytes do not say (its digest, whether it is a folder) is in a record under
`records/`, which counts only as long as the object is the one that it was written about. Records of earlier versions,
under `meta/`, count as well; they go with their object, and are never written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from penstock.engine.types import File
from penstock.storage.errors import NotFound, StoreRefused
from penstock.storage.objects import Content, Download, SignedRequest, Stat, Store
from penstock.storage.paths import DATA, check_namespace, data_key, expand, file_key, meta_key, parts, record_key

MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class DataObject:
    """An object in the data store.

    Attributes:
        path: where it is.
        size: bytes of content; in a listing, of what is stored (a folder is stored compressed).
        modified: when it was written, seconds since the epoch.
        etag: changes whenever it does.
        sha256: digest of its content; None in a listing, and where nobody has computed it.
        folder: whether it is a folder; not known in a listing.
    """

    path: str
    size: int
    modified: float
    etag: str
    sha256: str | None = None
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing.

    Attributes:
        objects: in the order of their paths.
        after: what to give for the next page; None: this is the last one.
    """

    objects: tuple[DataObject, ...]
    after: str | None


class DataStore:
    """The data store of a namespace. Methods raise what `Store` raises, and `BadObjectPath` for a path that is none.

    Args:
        store: where it is kept.
        namespace: whose it is.
    """

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._namespace = check_namespace(namespace)

    async def put(self, path: str, content: Content) -> DataObject:
        """Store a file; what was at the path is replaced."""
        hashed = _Hashed(content)
        stat = await self._store.put(data_key(self._namespace, path), hashed)
        return await self._describe(path, stat, sha256=hashed.sha256, size=stat.size, folder=False)

    async def get(self, path: str) -> Download:
        """Begin to read an object, as it is stored.

        Raises:
            NotFound: it is not there.
        """
        with _named(path):
            return await self._store.get(data_key(self._namespace, path))

    async def info(self, path: str) -> DataObject:
        """What is known of an object.

        Raises:
            NotFound: it is not there.
        """
        with _named(path):
            stat = await self._store.head(data_key(self._namespace, path))
        meta = await self._meta(path, stat)
        if meta is None and (found := await self._store.digest(stat)) is not None:
            return await self._describe(path, stat, sha256=found.sha256, size=found.size, folder=found.folder)
        path = "/".join(parts(path))
        if meta is None:
            return DataObject(path, stat.size, stat.modified, stat.etag)
        return DataObject(path, meta["size"], stat.modified, stat.etag, meta["sha256"], meta["folder"])

    async def file(self, path: str) -> File:
        """An object as the value of an input.

        Raises:
            NotFound: it is not there.
        """
        found = await self.info(path)
        return File(f"{DATA}/{found.path}", found.sha256 or f"etag-{found.etag}", found.size, found.folder)

    async def list(self, prefix: str = "", *, limit: int = MAX_PAGE, after: str | None = None) -> Page:
        """The objects in a folder of the data store and below, a page at a time.

        Args:
            prefix: path of the folder; empty: all.
            limit: objects of a page, at most 1000.
            after: `Page.after` of the page before.
        """
        top = f"{self._namespace}/{DATA}"
        at = "/".join((top, *parts(prefix))) if prefix.strip("/") else top
        start = data_key(self._namespace, after) if after else ""
        found: list[DataObject] = []
        async for stat in self._store.objects(at, start):
            if len(found) == min(max(limit, 1), MAX_PAGE):
                return Page(tuple(found), found[-1].path)
            path = stat.key.removeprefix(f"{top}/")
            found.append(DataObject(path, stat.size, stat.modified, stat.etag))
        return Page(tuple(found), None)

    async def delete(self, path: str) -> None:
        """Remove an object.

        Raises:
            NotFound: it is not there.
        """
        key = data_key(self._namespace, path)
        with _named(path):
            await self._store.head(key)
        await self._store.delete([key, record_key(self._namespace, path), meta_key(self._namespace, path)])

    async def download_link(self, path: str, seconds: int) -> SignedRequest:
        """A request with which anyone may read the object, as it is stored, for so long.

        Raises:
            NotFound: it is not there.
        """
        key = data_key(self._namespace, path)
        with _named(path):
            await self._store.head(key)
        return (await self._store.sign("GET", [key], seconds))[0]

    async def upload_link(self, path: str, seconds: int) -> SignedRequest:
        """A request with which anyone may write the object, for so long."""
        return (await self._store.sign("PUT", [data_key(self._namespace, path)], seconds))[0]

    async def record(
        self, path: str, *, sha256: str, size: int, folder: bool = False, etag: str | None = None
    ) -> DataObject:
        """Note what an object is that was written with an upload link: until then nobody knows its digest.

        Args:
            path: where it is.
            sha256: digest of its content.
            size: bytes of its content.
            folder: whether it is the archive of a folder.
            etag: what the store answered to the upload; None: that is not known.

        Raises:
            NotFound: it is not there.
            StoreRefused: what is there is something else: somebody has written it meanwhile.
        """
        with _named(path):
            stat = await self._store.head(data_key(self._namespace, path))
        if (etag is not None and etag != stat.etag) or (not folder and size != stat.size):
            known = await self._meta(path, stat)
            if known is not None and (known["sha256"], known["size"], known["folder"]) == (sha256, size, folder):
                # Recorded before, and the answer was lost: a folder that was unpacked has another etag.
                return DataObject("/".join(parts(path)), size, stat.modified, stat.etag, sha256, folder)
            raise StoreRefused(
                f"{path!r} is not what was uploaded: somebody else has written it meanwhile; put it again"
            )
        if folder:
            stat = await self._store.unpacked(stat, sha256, size)
        return await self._describe(path, stat, sha256=sha256, size=size, folder=folder)

    async def publish(self, file: File, pattern: str, *, execution_id: str, now: float) -> DataObject:
        """Copy what an execution gave to a path of the data store.

        Args:
            file: what it gave.
            pattern: the path, see `paths.expand`.
            execution_id: for the pattern.
            now: for the pattern, seconds since the epoch.

        Raises:
            NotFound: the file is not there any more.
        """
        path = expand(pattern, execution_id=execution_id, now=now)
        source = file_key(self._namespace, file.key)
        target = data_key(self._namespace, path)
        stat = await (self._store.head(target) if source == target else self._store.copy(source, target))
        if file.sha256.startswith("etag-"):  # of the source: it says nothing about the copy
            return DataObject(path, stat.size, stat.modified, stat.etag)
        return await self._describe(path, stat, sha256=file.sha256, size=file.size, folder=file.folder)

    async def _describe(self, path: str, stat: Stat, *, sha256: str, size: int, folder: bool) -> DataObject:
        record = {
            "path": "/".join(parts(path)),  # for people: the key does not tell
            "sha256": sha256,
            "size": size,
            "folder": folder,
            "etag": stat.etag,
            "modified": stat.modified,
            "stored": stat.size,
        }
        await self._store.put(record_key(self._namespace, path), json.dumps(record).encode())
        return DataObject("/".join(parts(path)), size, stat.modified, stat.etag, sha256, folder)

    async def _meta(self, path: str, stat: Stat) -> dict[str, Any] | None:
        """The record about an object, if it is about this very content."""
        for key in (record_key(self._namespace, path), meta_key(self._namespace, path)):
            try:
                record = json.loads(await self._store.read(key))
                if (record["etag"], record["stored"]) == (stat.etag, stat.size):
                    return dict(record)
            except (NotFound, ValueError, LookupError, TypeError):
                continue
        return None


class _Hashed:
    """Content that is digested while it is read."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks: AsyncIterable[bytes] = _once(self._content) if isinstance(self._content, bytes) else self._content
        async for chunk in chunks:
            self._digest.update(chunk)
            yield chunk


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


@contextmanager
def _named(path: str) -> Iterator[None]:
    """People know paths, not keys."""
    try:
        yield
    except NotFound:
        raise NotFound(f"there is no object {path!r} in the data store") from None
