"""Makes obstore's stores from our settings, and finds the credentials for S3.

GCS and Azure: obstore finds credentials itself. S3: botocore does, for obstore and for what we sign.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import botocore.exceptions
import botocore.session
import obstore.store

from penstock.storage.errors import StoreRefused, StoreUnavailable
from penstock.storage.multipart import S3
from penstock.storage.settings import PREFIX, BadSettings, Kind, StoreSettings
from penstock.storage.sigv4 import Credentials

if TYPE_CHECKING:
    from obstore.store import AzureConfig, S3Credential

_CONNECT = timedelta(seconds=5)
_SILENCE = timedelta(seconds=60)
"""How long a store may send nothing in the middle of an answer."""
_REQUEST = timedelta(days=1)
"""Bound of a whole request; large objects on slow lines take hours."""
_RETRIES = 3
_RETRY = timedelta(seconds=15)
_WEEK = 7 * 86_400


def backend(settings: StoreSettings) -> tuple[Any, S3 | None]:
    """Obstore's store for a cloud, and what only S3 can do.

    Raises:
        BadSettings: no store can be made of the settings.
    """
    client: dict[str, Any] = {
        "connect_timeout": _CONNECT,
        "read_timeout": _SILENCE,
        "timeout": _REQUEST,
        "allow_http": settings.store_endpoint.startswith("http://"),
    }
    if settings.store_ca_file is not None:
        client["root_certificate"] = settings.store_ca_file.read_bytes()
    common: dict[str, Any] = {
        "client_options": client,
        "retry_config": {"max_retries": _RETRIES, "retry_timeout": _RETRY},
    }
    try:
        match settings.kind:
            case Kind.S3:
                return _s3(settings, common)
            case Kind.GCS:
                return obstore.store.GCSStore(settings.bucket, **common), None
            case _:
                return _azure(settings, common), None
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise BadSettings(f"{PREFIX}STORE_URL={settings.store_url}: {str(error).split('Debug source')[0]}") from None


def _s3(settings: StoreSettings, common: dict[str, Any]) -> tuple[Any, S3]:
    session = botocore.session.Session()
    region = settings.store_region or session.get_config_variable("region") or "us-east-1"
    path_style = settings.store_path_style
    if path_style is None:
        path_style = bool(settings.store_endpoint)
    endpoint = (settings.store_endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
    scheme, _, rest = endpoint.partition("://")
    base = f"{endpoint}/{settings.bucket}" if path_style else f"{scheme}://{settings.bucket}.{rest}"
    chain = CredentialChain(session)
    store = obstore.store.S3Store(
        settings.bucket,
        region=region,
        # Obstore wants the bucket in the endpoint where it stands in the host.
        endpoint=endpoint if path_style else base,
        virtual_hosted_style_request=not path_style,
        # A digest of every part in advance costs more than TLS, which already protects it.
        unsigned_payload=base.startswith("https://"),
        credential_provider=chain.for_obstore,
        **common,
    )
    return store, S3(base=base, bucket=settings.bucket, region=region, credentials=chain.get, ca=settings.store_ca_file)


def _azure(settings: StoreSettings, common: dict[str, Any]) -> Any:
    config: AzureConfig = {}
    if settings.store_account:
        config["account_name"] = settings.store_account
    elif not (os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_CONNECTION_STRING")):
        raise BadSettings(f"{PREFIX}STORE_ACCOUNT is not set: name the storage account of {settings.store_url}")
    if settings.store_endpoint:
        config["endpoint"] = settings.store_endpoint
    return obstore.store.AzureStore(settings.bucket, config=config, **common)


class CredentialChain:
    """Credentials for S3 from where AWS's own tools find them: environment, files, workload identity, instance.

    Args:
        session: botocore's session.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._source: Any = None

    async def get(self) -> Credentials:
        """Credentials that are good now; temporary ones are renewed 15 minutes before they end.

        Raises:
            StoreRefused: there are none.
            StoreUnavailable: whoever gives them does not answer.
        """
        source = self._source
        if source is not None and not hasattr(source, "refresh_needed"):
            return self._freeze(source)  # fixed: no thread is needed
        return await asyncio.to_thread(self._get)

    def for_obstore(self) -> S3Credential:
        """The same as obstore wants it; it asks again 5 minutes before they end.

        Not a coroutine: obstore asks from threads of its own, where there is no event loop.
        """
        found = self._get()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": None if found.expires is None else datetime.fromtimestamp(found.expires, UTC),
        }

    def _get(self) -> Credentials:
        with self._lock:
            try:
                if self._source is None:
                    self._source = self._session.get_credentials()
                if self._source is None:
                    raise StoreRefused(
                        "there are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from a "
                        "Secret, or give the service account a role (docs/object-storage.md)"
                    )
                return self._freeze(self._source)
            except (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError) as error:
                raise StoreUnavailable(f"credentials for S3 cannot be fetched now: {error}") from None
            except botocore.exceptions.BotoCoreError as error:
                raise StoreRefused(f"there are no credentials for S3: {error}") from None

    @staticmethod
    def _freeze(source: Any) -> Credentials:
        frozen = source.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token, _end(source))


def _end(source: Any) -> int | None:
    """When credentials end; botocore tells only whether they will have ended after so many seconds."""
    needed = getattr(source, "refresh_needed", None)
    if needed is None or not needed(_WEEK):
        return None
    low, high = 0, _WEEK
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if needed(middle) else (middle, high)
    return int(time.time()) + low
