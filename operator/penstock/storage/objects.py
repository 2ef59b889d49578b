"""The store itself: objects by key, streamed, whatever is behind it; S3, GCS and Azure through obstore.

Errors are those of `errors`. A key here is relative to the bucket's prefix, or to the folder.
"""

from __future__ import annotations

import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from penstock.storage.errors import NotFound, StoreError, StoreFull, StoreRefused, StoreUnavailable
from penstock.storage.paths import check_key
from penstock.storage.settings import PREFIX, BadSettings, Kind, StoreSettings

if TYPE_CHECKING:
    from penstock.step.digest import Digest
    from penstock.storage.multipart import S3

CHUNK = 1 << 20
"""Bytes that are read and written at once."""
_BATCH = 1000
"""Objects that are listed or deleted in one request."""
_PART = 8 << 20
_PARTS_AT_ONCE = 4

# Obstore 0.12 signs the quoted name for Azure, which signs the plain one: any other URL is refused by the server.
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")

Content: TypeAlias = "bytes | AsyncIterable[bytes]"
Method: TypeAlias = Literal["GET", "PUT"]


@dataclass(frozen=True, slots=True)
class Stat:
    """What a store knows of an object.

    Attributes:
        key: the object.
        size: its bytes.
        modified: when it was written, seconds since the epoch.
        etag: changes whenever its content does; without quotes.
    """

    key: str
    size: int
    modified: float
    etag: str


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request that whoever has it may send, until it expires. The URL is a credential: it is in no log.

    Attributes:
        url: where to.
        headers: what to send along.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


class Download:
    """An object that is being read: `stat` at once, its bytes by iterating, once."""

    def __init__(self, stat: Stat, stream: AsyncIterator[bytes]) -> None:
        self.stat = stat
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream

    async def whole(self) -> bytes:
        """All that is left of it."""
        return b"".join([chunk async for chunk in self._stream])


class Store(ABC):
    """An object store. All methods raise `StoreUnavailable` or `StoreRefused` besides what they name.

    Attributes:
        kind: what is behind it.
        max_signed_seconds: how long signed requests can be valid at most.
        s3: what only S3 can do; None elsewhere.
    """

    kind: Kind
    max_signed_seconds: int
    s3: S3 | None = None

    @abstractmethod
    async def get(self, key: str, start: int = 0) -> Download:
        """Begin to read an object.

        Args:
            key: the object.
            start: first byte, less than its size unless 0.

        Raises:
            NotFound: it is not there.
        """

    @abstractmethod
    async def put(self, key: str, content: Content) -> Stat:
        """Write an object; nobody ever sees a part of it, and what was there is replaced.

        Raises:
            StoreFull: there is no space left.
        """

    @abstractmethod
    async def head(self, key: str) -> Stat:
        """What is known of an object.

        Raises:
            NotFound: it is not there.
        """

    @abstractmethod
    def objects(self, prefix: str, after: str = "") -> AsyncIterator[Stat]:
        """All objects whose keys begin with `<prefix>/`, in the order of their keys.

        Args:
            prefix: whole parts of a key, without the last slash; empty: everything.
            after: only keys that come after this one.
        """

    @abstractmethod
    async def folders(self, prefix: str) -> list[str]:
        """The names that come next after `<prefix>/` in keys that go on after that name."""

    @abstractmethod
    async def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is as good as removed."""

    @abstractmethod
    async def copy(self, source: str, target: str) -> Stat:
        """Copy an object inside the store, of any size; what was at the target is replaced.

        Raises:
            NotFound: the source is not there.
        """

    @abstractmethod
    async def sign(
        self, method: Method, keys: Sequence[str], seconds: int, *, max_bytes: int | None = None
    ) -> list[SignedRequest]:
        """Requests that read or write objects without credentials.

        Args:
            method: `GET` or `PUT`.
            keys: the objects.
            seconds: how long they are valid; at most `max_signed_seconds` count.
            max_bytes: how large an upload may be; only a folder store holds people to it.
        """

    async def digest(self, stat: Stat) -> Digest | None:
        """Find out what the content of an object is that others have put there; None: nobody can say, or it changed.

        Args:
            stat: the object, as it was found.
        """
        del stat
        return None

    async def unpacked(self, stat: Stat, sha256: str, size: int) -> Stat:
        """Take an uploaded archive for the folder that it holds, where folders are kept as such; elsewhere it stays.

        Args:
            stat: the object, as it was found.
            sha256: digest of the folder.
            size: bytes of its files.

        Raises:
            StoreRefused: it is not the archive of this folder.
            StoreFull: there is no space left.
        """
        del sha256, size
        return stat

    async def expiry(self, seconds: int) -> int:
        """When requests that are signed now for so many seconds end to be valid, in seconds since the epoch.

        Temporary credentials take what they signed with them when they expire.
        """
        return int(time.time()) + min(seconds, self.max_signed_seconds)

    async def read(self, key: str) -> bytes:
        """A small object, as a whole.

        Raises:
            NotFound: it is not there.
        """
        return await (await self.get(key)).whole()

    def at(self, key: str) -> str:
        """Where a key is in the bucket: with the prefix of the store's URL."""
        return check_key(key)

    @abstractmethod
    async def close(self) -> None:
        """Give connections back; the store cannot be used any more."""


class CloudStore(Store):
    """A store in a cloud, or what speaks like one.

    Args:
        settings: which.
        backend: obstore's store, without the prefix.
        s3: what only S3 can do.
    """

    def __init__(self, settings: StoreSettings, backend: Any, s3: S3 | None = None) -> None:
        self.kind = settings.kind
        # S3 and Azure end at 7 days. The keys with which Google signs for an account that has none of its own are
        # good for 12 hours.
        self.max_signed_seconds = 12 * 3600 if self.kind is Kind.GCS else 7 * 86_400
        self.s3 = s3
        self._backend = backend
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""

    async def get(self, key: str, start: int = 0) -> Download:
        """See `Store`."""
        with _in_words(key):
            options = {"range": {"offset": start}} if start else None
            result = await self._backend.get_async(self.at(key), options=options)
        return Download(self._stat(result.meta), _chunks(result.stream(min_chunk_size=CHUNK), key))

    async def put(self, key: str, content: Content) -> Stat:
        """See `Store`."""
        path = self.at(key)
        with _in_words(key):
            if isinstance(content, bytes):
                await self._backend.put_async(path, content)
            else:
                head, rest = await _first(aiter(content), _PART)
                if rest is None:  # one request for what is small
                    await self._backend.put_async(path, head)
                else:
                    await self._backend.put_async(path, rest, chunk_size=_PART, max_concurrency=_PARTS_AT_ONCE)
        return await self.head(key)

    async def head(self, key: str) -> Stat:
        """See `Store`."""
        with _in_words(key):
            return self._stat(await self._backend.head_async(self.at(key)))

    async def objects(self, prefix: str, after: str = "") -> AsyncIterator[Stat]:
        """See `Store`."""
        at = self.at(prefix) if prefix else self._prefix.rstrip("/")
        with _in_words(prefix):
            stream = self._backend.list(at or None, offset=self.at(after) if after else None, chunk_size=_BATCH)
            async for batch in stream:
                for meta in batch:
                    found = self._stat(meta)
                    if found.key > after:  # not every server knows where to start
                        yield found

    async def folders(self, prefix: str) -> list[str]:
        """See `Store`."""
        at = self.at(prefix) if prefix else self._prefix.rstrip("/")
        with _in_words(prefix):
            result = await self._backend.list_with_delimiter_async(at or None)
        return sorted(found.rstrip("/").rsplit("/", 1)[-1] for found in result["common_prefixes"])

    async def delete(self, keys: Iterable[str]) -> None:
        """See `Store`."""
        paths = [self.at(key) for key in keys]
        for start in range(0, len(paths), _BATCH):
            with _in_words(""):
                try:
                    await self._backend.delete_async(paths[start : start + _BATCH])
                except FileNotFoundError:  # Azure and GCS tell
                    await self._delete_one_by_one(paths[start : start + _BATCH])

    async def copy(self, source: str, target: str) -> Stat:
        """See `Store`."""
        with _in_words(source):
            if self.s3 is not None:
                await self.s3.copy(self.at(source), self.at(target), (await self.head(source)).size)
            else:
                await self._backend.copy_async(self.at(source), self.at(target))
        return await self.head(target)

    async def sign(
        self, method: Method, keys: Sequence[str], seconds: int, *, max_bytes: int | None = None
    ) -> list[SignedRequest]:
        """See `Store`."""
        seconds = min(seconds, self.max_signed_seconds)
        if self.s3 is not None:
            signer = await self.s3.signer(seconds)
            return [SignedRequest(signer.url(method, self.at(key))) for key in keys]
        if self.kind is Kind.AZURE:
            for key in keys:
                if not _PLAIN.fullmatch(self.at(key)):
                    raise StoreRefused(
                        f"{key!r} cannot be signed for Azure: its path may have letters (a-z, A-Z), digits and any of "
                        "`-._/` only; copy the object to such a path"
                    )
        # Azure wants to be told what kind of object is written.
        headers = {"x-ms-blob-type": "BlockBlob"} if self.kind is Kind.AZURE and method == "PUT" else {}
        import obstore  # noqa: PLC0415 - many processes never sign

        with _in_words(""):
            urls = await obstore.sign_async(
                self._backend, method, [self.at(key) for key in keys], timedelta(seconds=seconds)
            )
        return [SignedRequest(url, headers) for url in urls]

    async def expiry(self, seconds: int) -> int:
        """See `Store`."""
        whole = await super().expiry(seconds)
        return whole if self.s3 is None else min(whole, (await self.s3.signer(self.max_signed_seconds)).expires)

    async def close(self) -> None:
        """See `Store`."""
        if self.s3 is not None:
            await self.s3.close()

    def at(self, key: str) -> str:
        """See `Store`."""
        return self._prefix + check_key(key)

    def _stat(self, meta: Mapping[str, Any]) -> Stat:
        key = str(meta["path"]).removeprefix(self._prefix)
        return Stat(key, meta["size"], meta["last_modified"].timestamp(), (meta["e_tag"] or "").strip('"'))

    async def _delete_one_by_one(self, paths: list[str]) -> None:
        for path in paths:
            try:
                await self._backend.delete_async(path)
            except FileNotFoundError:
                continue


def open_store(settings: StoreSettings) -> Store:
    """The store that settings name; nothing is asked of it yet, see `check`.

    Raises:
        BadSettings: no store can be made of them.
    """
    if settings.kind is Kind.FOLDER:
        from penstock.storage.folder import FolderStore  # noqa: PLC0415

        return FolderStore(settings.folder, keys=settings.signing_keys, gateway_url=settings.gateway_url)
    try:
        from penstock.storage.clouds import backend  # noqa: PLC0415
    except ImportError as error:
        raise BadSettings(
            f"{PREFIX}STORE_URL: a {settings.kind} store needs more than is installed ({error.name}); "
            "install penstock[operator]"
        ) from None
    return CloudStore(settings, *backend(settings))


async def check(store: Store, settings: StoreSettings) -> None:
    """Write, read and delete a small object, so that what is wrong with a store is known before it is needed.

    Raises:
        StoreFull: there is no space left.
        BadSettings: the store refuses; the message names the setting and the remedy.
        StoreUnavailable: it cannot be reached.
    """
    key, content = f".penstock-probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
    doing = "written"
    try:
        await store.put(key, content)
        doing = "read"
        if await store.read(key) != content:
            raise BadSettings(f"{_named(settings)}: an object that was just written reads as another one")
        doing = "listed"
        _ = [each async for each in store.objects(key)]
        doing = "deleted"
        await store.delete([key])
    except (StoreFull, BadSettings):
        raise
    except StoreUnavailable as error:
        raise StoreUnavailable(
            f"{_named(settings)}: cannot be reached; check PENSTOCK_STORE_ENDPOINT, the network and proxies ({error})"
        ) from error
    except StoreError as error:
        raise BadSettings(f"{_named(settings)}: objects cannot be {doing}: {_remedy(str(error), settings)}") from error


def _named(settings: StoreSettings) -> str:
    return f"{PREFIX}STORE_URL={settings.store_url}"


_REMEDIES = {
    "NoSuchBucket": "there is no such bucket; make it, or correct the name",
    "InvalidBucketName": "this cannot be the name of a bucket; correct it",
    "ContainerNotFound": "there is no such container; make it, or correct the name",
    "InvalidAccessKeyId": "the access key is not known; check the credentials (AWS_ACCESS_KEY_ID)",
    "XAdminUserNotFound": "the access key is not known; check the credentials (AWS_ACCESS_KEY_ID)",
    "SignatureDoesNotMatch": "the secret key is wrong; check the credentials (AWS_SECRET_ACCESS_KEY)",
    "ExpiredToken": "the credentials have expired; renew them",
    "AuthorizationHeaderMalformed": "the region is wrong; set PENSTOCK_STORE_REGION to the bucket's",
    "PermanentRedirect": "the bucket is in another region or at another endpoint; set PENSTOCK_STORE_REGION",
    "AuthorizationFailure": "the credentials are wrong; check AZURE_STORAGE_ACCOUNT_KEY or the workload identity",
    "AuthenticationFailed": "the credentials are wrong; check AZURE_STORAGE_ACCOUNT_KEY or the workload identity",
    "AccessDenied": "the credentials lack the right to; see docs/object-storage.md for those that are needed",
    "The bucket does not exist": "there is no such bucket; make it, or correct the name",
}


def _remedy(text: str, settings: StoreSettings) -> str:
    for code, remedy in _REMEDIES.items():
        if code in text:
            return f"{remedy} ({text})"
    if settings.kind is Kind.FOLDER:
        return text
    return f"check the bucket's name, the region and the credentials; docs/object-storage.md names the rights ({text})"


async def _first(stream: AsyncIterator[bytes], size: int) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """What a stream begins with, and all of it again if it is longer than `size`."""
    head: list[bytes] = []
    length = 0
    async for chunk in stream:
        head.append(chunk)
        length += len(chunk)
        if length > size:
            return b"", _chain(head, stream)
    return b"".join(head), None


async def _chain(head: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while head:
        yield head.pop(0)
    async for chunk in rest:
        yield chunk


async def _chunks(stream: Any, key: str) -> AsyncIterator[bytes]:
    with _in_words(key):
        async for chunk in stream:
            yield bytes(chunk)


_STATUS = re.compile(r"\b(4\d\d) [A-Z][a-z]+|status code: (4\d\d)")
_CODE = re.compile(r"<Code>\s*([A-Za-z0-9]+)\s*</Code>|\"(?:code|reason)\":\s*\"([A-Za-z]+)\"")
_AGAIN = frozenset({"408", "429"})
_SETUP = frozenset({"NoSuchBucket", "ContainerNotFound", "XAdminUserNotFound", "InvalidAccessKeyId"})


@contextmanager
def _in_words(key: str) -> Iterator[None]:
    """Turn what obstore raises into our errors."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        if _code(str(error)) in _SETUP:  # which the library takes for objects that are not there
            raise StoreRefused(_short(error)) from None
        raise NotFound(f"there is no object {key!r} in the store") from None
    except Exception as error:
        # Only what comes from obstore: its own classes, and built-in ones that its Rust half raises.
        kind = type(error)
        if kind.__module__ != "obstore.exceptions" and not isinstance(error, OSError | ValueError):
            raise
        if kind.__name__ in ("PermissionDeniedError", "UnauthenticatedError", "InvalidPathError"):
            raise StoreRefused(_short(error)) from None
        status = _STATUS.search(str(error))
        found = status and (status[1] or status[2])
        redirected = "redirect" in str(error)
        refused = (found and found not in _AGAIN) or redirected
        raise (StoreRefused if refused else StoreUnavailable)(_short(error)) from None


def _code(text: str) -> str:
    found = _CODE.search(text)
    return (found[1] or found[2]) if found else ""


def _short(error: Exception) -> str:
    """One line of an error that may hold a page of XML and the insides of a Rust value."""
    text = str(error).split("Debug source")[0].strip()
    code, message = _code(text), re.search(r"<Message>([^<]*)</Message>", text)
    line = " ".join(re.sub(r"<\?xml.*", "", text, flags=re.DOTALL).split())
    detail = ", ".join(part for part in (code, message[1].strip() if message else "") if part)
    return f"{line} {detail}".strip()[:500]
