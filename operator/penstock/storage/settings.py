"""Which object store is used and how: one model, read from the environment, documented by its own fields.

Credentials are not settings: they come from where the platform keeps them (see docs/object-storage.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from penstock.storage.errors import BadObjectPath
from penstock.storage.paths import check_key
from penstock.storage.signing import BadKeys, SigningKeys

PREFIX = "PENSTOCK_"


class Kind(StrEnum):
    """What a store is, by the scheme of its URL."""

    S3 = "s3"
    GCS = "gs"
    AZURE = "az"
    FOLDER = "file"


_EXAMPLES = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///path/of/a/folder"
_MAX_PREFIX = 128


class StoreSettings(BaseModel):
    """Settings of the object store; each is the environment variable of the same name in capitals after `PENSTOCK_`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, arbitrary_types_allowed=True)

    store_url: str
    """`s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///path/of/a/folder`."""
    store_region: str = ""
    """Region of an S3 bucket; where it is empty, the region of the AWS environment, else `us-east-1`."""
    store_endpoint: Annotated[str, Field(pattern=r"^(https?://[^\s?#]+)?$")] = ""
    """URL of a store that speaks S3 (MinIO, Ceph and others) or Azure's protocol; empty: the provider's own."""
    store_path_style: bool | None = None
    """S3: whether the bucket stands in the path and not in the host; unset: it does where there is an endpoint."""
    store_ca_file: Path | None = None
    """PEM file of the authority that signed the certificate of the store's endpoint."""
    store_account: str = ""
    """Azure: name of the storage account, if the environment does not say (`AZURE_STORAGE_ACCOUNT_NAME`)."""
    max_file_bytes: Annotated[int, Field(ge=1, le=5 << 40)] = 1 << 40
    """How large the object of an output may be that has no bound of its own; on S3 plans grow with it."""
    gateway_url: Annotated[str, Field(pattern=r"^(https?://[^\s?#]+)?$")] = ""
    """Where pods reach `penstock gateway`, which serves the files of a folder store."""
    signing_keys: Annotated[SigningKeys | None, Field(repr=False)] = None
    """Folder store: keys of signed URLs, `name:secret` separated by commas; the first signs, all are accepted."""

    @field_validator("store_url")
    @classmethod
    def _url(cls, url: str) -> str:
        split = urlsplit(url)
        if split.scheme not in {kind.value for kind in Kind}:
            raise ValueError(f"is none of {_EXAMPLES}")
        if split.query or split.fragment or "@" in split.netloc:
            raise ValueError("must hold neither credentials nor parameters")
        if split.scheme == Kind.FOLDER:
            if split.netloc or split.path in ("", "/"):
                raise ValueError("must be file:/// and the path of a folder")
        elif not split.netloc:
            raise ValueError(f"names no bucket; write {_EXAMPLES}")
        elif prefix := unquote(split.path).strip("/"):
            try:
                check_key(prefix)
            except BadObjectPath as error:
                raise ValueError(f"{prefix!r} cannot be a prefix") from error
            if len(prefix.encode()) > _MAX_PREFIX:
                raise ValueError(f"its prefix is longer than {_MAX_PREFIX} bytes")
        return url

    @field_validator("signing_keys", mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        try:
            return SigningKeys.parse(value) if isinstance(value, str) else value
        except BadKeys as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.store_endpoint and self.kind not in (Kind.S3, Kind.AZURE):
            raise ValueError(f"{PREFIX}STORE_ENDPOINT: only s3:// and az:// have one; leave it out")
        if self.store_ca_file is not None and not self.store_ca_file.is_file():
            raise ValueError(f"{PREFIX}STORE_CA_FILE: there is no file {self.store_ca_file}")
        return self

    @property
    def kind(self) -> Kind:
        """What the store is."""
        return Kind(urlsplit(self.store_url).scheme)

    @property
    def bucket(self) -> str:
        """Name of the bucket or container; empty for a folder."""
        return urlsplit(self.store_url).netloc

    @property
    def prefix(self) -> str:
        """What stands before every key in the bucket, without slashes at its ends."""
        return "" if self.kind is Kind.FOLDER else unquote(urlsplit(self.store_url).path).strip("/")

    @property
    def folder(self) -> Path:
        """The folder of a folder store."""
        return Path(unquote(urlsplit(self.store_url).path))


class BadSettings(ValueError):  # noqa: N818 - a fact about the environment
    """Environment variables that cannot be used; the message names each and says what is wrong."""


def from_environment(environ: Mapping[str, str]) -> StoreSettings:
    """The store that an environment names.

    Raises:
        BadSettings: with everything that is wrong.
    """
    given = {
        name: environ[PREFIX + name.upper()]
        for name in StoreSettings.model_fields
        if environ.get(PREFIX + name.upper(), "")
    }
    if "store_url" not in given:
        raise BadSettings(f"{PREFIX}STORE_URL is not set: name an object store, {_EXAMPLES}")
    try:
        return StoreSettings.model_validate(given)
    except ValidationError as error:
        lines = []
        for each in error.errors(include_input=False, include_url=False):
            message = each["msg"].removeprefix("Value error, ")
            lines.append(f"{PREFIX}{str(each['loc'][0]).upper()}: {message}" if each["loc"] else message)
        raise BadSettings("\n".join(lines)) from None
