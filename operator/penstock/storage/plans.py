"""The plan of an attempt: what its containers may fetch and upload, by signed requests, and nothing more.

A plan is JSON for the pod (a Secret), with one entry a file. Whoever has it has these rights until it expires: no part
of it is in a log. The elements of a list of files have the same `name` and an `index` from 0.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from penstock.engine.types import AttemptId, File
from penstock.storage.multipart import MAX_OBJECT, part_sizes
from penstock.storage.objects import SignedRequest, Store
from penstock.storage.paths import DATA, file_key, output_key, parts
from penstock.storage.sigv4 import Signer

VERSION = 1
_MAX_PARTS = 6000
"""Parts in all the outputs of one plan: at 100 bytes each they leave room in a Secret (1 MiB)."""
MAX_FILE_BYTES = 1 << 40
"""Default of what an output may hold: 1 TiB, of which the plan is 26 KB on S3."""
_SMALL = 16 << 20
"""What is bounded by this goes up in one piece."""
_FILES = 1_000_000
"""For so many files of a folder there is room in its object beside their content, where nothing bounds their number."""
_A_FILE = 2048
"""Bytes of a tar for one file beside its content, if its name is no longer than some hundred bytes."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file or folder that an attempt is to upload.

    Attributes:
        name: name of the output.
        max_bytes: how large its content may be; the tar of a folder may be larger.
        max_files: how many files a folder may hold.
    """

    name: str
    max_bytes: int | None = None
    max_files: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan.

    Attributes:
        document: what the pod reads.
    """

    document: Mapping[str, Any] = field(repr=False)

    @property
    def expires(self) -> int:
        """Until when its requests are valid, in seconds since the epoch."""
        return int(self.document["expires"])

    def to_json(self) -> str:
        """As the pod reads it."""
        return json.dumps(self.document, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What `to_json` wrote."""
        return cls(json.loads(text))


async def make_plan(
    store: Store,
    *,
    namespace: str,
    uid: str,
    attempt: AttemptId,
    inputs: Mapping[str, File | Sequence[File | None]],
    outputs: Sequence[Output],
    seconds: int,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Plan:
    """The plan of an attempt. On S3 it begins uploads, which `close_plan` ends.

    Args:
        store: the store.
        namespace: the execution's.
        uid: the execution's.
        attempt: which attempt.
        inputs: its file inputs by name.
        outputs: its file outputs.
        seconds: how long it is to be valid. It may end earlier: where the store or temporary credentials do not let
            signatures live that long. `Plan.expires` says when; `renew_plan` makes one that is valid longer.
        max_file_bytes: how large the content of an output may be that has no bound of its own. On S3 every 5 GiB take
            100 bytes of the plan. With many outputs it is less: `max_bytes` in the plan says how much.

    Raises:
        BadObjectPath: a file is not of this namespace.
        StoreUnavailable: the store does not answer.
        StoreRefused: the store refuses.
    """
    entries = [entry for name, value in inputs.items() for entry in _input_entries(name, value)]
    wanted: list[dict[str, Any]] = [
        {
            "name": output.name,
            "key": output_key(uid, attempt, output.name),
            "max_bytes": min(output.max_bytes or max_file_bytes, _room(store, len(outputs))),
            "max_files": output.max_files,
        }
        for output in outputs
    ]
    uploads = await _begin(store, namespace, wanted)
    return await _sign(store, namespace, entries, wanted, uploads, seconds)


async def person_plan(
    store: Store,
    *,
    namespace: str,
    downloads: Mapping[str, File | Sequence[File | None]],
    uploads: Sequence[tuple[str, str, int]],
    seconds: int,
) -> Plan:
    """A plan for a person's own transfers, in the form of an attempt's: the same code carries it out.

    Args:
        store: the store.
        namespace: whose files.
        downloads: files by the name that the plan gives them.
        uploads: for each object that is to be written its name in the plan, its path in the data store, and how large
            it may be.
        seconds: how long it is to be valid, see `make_plan`.

    Raises:
        BadObjectPath: a file is not of this namespace, or a path is none.
        StoreUnavailable: the store does not answer.
        StoreRefused: the store refuses.
    """
    entries = [entry for name, value in downloads.items() for entry in _input_entries(name, value)]
    wanted: list[dict[str, Any]] = [
        {
            "name": name,
            "key": "/".join((DATA, *parts(path))),
            "max_bytes": min(size, _room(store, len(uploads))),
            "max_files": None,
        }
        for name, path, size in uploads
    ]
    return await _sign(store, namespace, entries, wanted, await _begin(store, namespace, wanted), seconds)


async def renew_plan(store: Store, namespace: str, plan: Plan, seconds: int) -> Plan:
    """The same plan, valid for longer: same files, same uploads, new signatures; parts that went up already count."""
    entries = [{**entry, "url": "", "headers": {}} for entry in plan.document["inputs"]]
    wanted = [
        {name: entry[name] for name in ("name", "key", "max_bytes", "max_files")} for entry in plan.document["outputs"]
    ]
    return await _sign(store, namespace, entries, wanted, _uploads(plan), seconds)


async def close_plan(store: Store, namespace: str, plan: Plan) -> None:
    """Forget the uploads of a plan that were not completed. Doing it twice, or after the plan expired, does no harm."""
    if store.s3 is None:
        return
    await _abort(store, {file_key(namespace, key): upload for key, upload in _uploads(plan).items()})


def _input_entries(name: str, value: File | Sequence[File | None]) -> list[dict[str, Any]]:
    if isinstance(value, File):
        return [_input_entry(name, value)]
    return [_input_entry(name, file) | {"index": index} for index, file in enumerate(value) if file is not None]


def _input_entry(name: str, file: File) -> dict[str, Any]:
    return {
        "name": name,
        "key": file.key,
        "url": "",
        "headers": {},
        "sha256": file.sha256,
        "size": file.size,
        "folder": file.folder,
    }


async def _begin(store: Store, namespace: str, wanted: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Begin an upload in parts for each output that may need one; returns their ids by file key."""
    s3 = store.s3
    if s3 is None:
        return {}
    large = [each["key"] for each in wanted if each["max_bytes"] > _SMALL]
    begun = await asyncio.gather(
        *(s3.create(store.at(file_key(namespace, key))) for key in large), return_exceptions=True
    )
    uploads = {key: upload for key, upload in zip(large, begun, strict=True) if isinstance(upload, str)}
    for result in begun:
        if isinstance(result, BaseException):
            await _abort(store, {file_key(namespace, key): upload for key, upload in uploads.items()})
            raise result
    return uploads


async def _abort(store: Store, uploads: Mapping[str, str]) -> None:
    if store.s3 is not None:
        await asyncio.gather(*(store.s3.abort(store.at(key), upload) for key, upload in uploads.items()))


async def _sign(
    store: Store,
    namespace: str,
    entries: Sequence[dict[str, Any]],
    wanted: Sequence[dict[str, Any]],
    uploads: Mapping[str, str],
    seconds: int,
) -> Plan:
    seconds = min(seconds, store.max_signed_seconds)
    expires = await store.expiry(seconds)
    reads = await store.sign("GET", [file_key(namespace, entry["key"]) for entry in entries], seconds)
    inputs = [entry | _request(read) for entry, read in zip(entries, reads, strict=True)]
    signer = await store.s3.signer(seconds) if store.s3 is not None else None
    outputs = []
    for each in wanted:
        key = file_key(namespace, each["key"])
        most = _stored(each)
        (put,) = await store.sign("PUT", [key], seconds, max_bytes=most)
        entry = {"name": each["name"], "key": each["key"], "put": _request(put)}
        if signer is not None and each["key"] in uploads:
            entry["multipart"] = _multipart(signer, store.at(key), uploads[each["key"]], most)
        outputs.append(entry | {"max_bytes": each["max_bytes"], "max_files": each["max_files"]})
    return Plan({"version": VERSION, "expires": expires, "inputs": inputs, "outputs": outputs})


def _request(signed: SignedRequest) -> dict[str, Any]:
    return {"url": signed.url, "headers": dict(signed.headers)}


def _room(store: Store, outputs: int) -> int:
    """How large the object of one of so many outputs can be at most."""
    if store.s3 is None:
        return MAX_OBJECT
    left, size = _MAX_PARTS // max(1, outputs), 0
    for count, part in part_sizes(MAX_OBJECT):
        size += min(count, left) * part
        left -= min(count, left)
    return min(size, MAX_OBJECT)


def _stored(wanted: Mapping[str, Any]) -> int:
    """How large an object can be that has the content it may have."""
    content: int = wanted["max_bytes"]
    if wanted["key"].split("/", 1)[0] == DATA:  # who asked for it knows what is to come
        return content
    # A thousandth for what cannot be compressed.
    return min(MAX_OBJECT, content + content // 1000 + _A_FILE * (wanted["max_files"] or _FILES))


def _multipart(signer: Signer, key: str, upload: str, size: int) -> dict[str, Any]:
    sizes = part_sizes(size)
    numbers = range(1, sum(count for count, _ in sizes) + 1)
    whole = {"uploadId": upload}
    parts = []
    for number in numbers:
        signature = signer.signature("PUT", key, {**whole, "partNumber": str(number)})
        parts.append(f"partNumber={number}&{signature}")
    return {
        "sizes": [list(each) for each in sizes],
        "url": signer.address(key, whole),
        "parts": parts,
        "complete": signer.url("POST", key, whole),
        "abort": signer.url("DELETE", key, whole),
    }


def _uploads(plan: Plan) -> dict[str, str]:
    """The ids of a plan's uploads by file key."""
    return {
        entry["key"]: parse_qs(urlsplit(entry["multipart"]["url"]).query)["uploadId"][0]
        for entry in plan.document["outputs"]
        if "multipart" in entry
    }
