"""`--input name=https://…`: what a URL leads to, fetched once, here, before anything starts."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import BinaryIO

from penstock import __version__
from penstock.cli.cluster import Refused
from penstock.cli.main import ERROR
from penstock.cli.transfers import Progress

_SECONDS = 60
_CHUNK = 1 << 20


def fetch(name: str, url: str, folder: Path) -> Path:
    """Fetch what a URL leads to; gives the file, which has the name that the URL's path ends with.

    The environment's proxies count (`HTTPS_PROXY` and its like), redirects are followed.

    Args:
        name: of the input, for messages.
        url: http or https.
        folder: is made, and gets the file.

    Raises:
        Refused: it cannot be fetched whole.
    """
    split = urllib.parse.urlsplit(url)
    # What comes after may be a signature, which belongs into no message.
    shown = f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}"
    if not split.hostname or "@" in split.netloc:
        raise Refused(
            f'--input "{name}": {shown} is not a URL that can be fetched: it needs a host, and no user or password; '
            "fetch it yourself and give it with @FILE"
        )
    last = urllib.parse.unquote(split.path).rstrip("/").rpartition("/")[2].replace("\\", "_")
    path = folder / (last if last.isprintable() and last not in {"", ".", ".."} else "download")
    request = urllib.request.Request(url, headers={"User-Agent": f"penstock/{__version__}"})  # noqa: S310 - it is HTTP
    try:
        folder.mkdir()
        with urllib.request.urlopen(request, timeout=_SECONDS) as response, path.open("wb") as file:  # noqa: S310
            _copy(response, file, shown)
    except urllib.error.HTTPError as error:
        with error:
            raise Refused(
                f'--input "{name}": {shown} answered {error.code} {error.reason}', ERROR if error.code >= 500 else 2
            ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        told = getattr(reason, "strerror", None) or reason
        raise Refused(f'--input "{name}": {shown} cannot be fetched: {told}', ERROR) from None
    return path


def _copy(response: http.client.HTTPResponse, file: BinaryIO, shown: str) -> None:
    progress = Progress(shown, response.length)
    expected, count = response.length, 0
    try:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            count += len(chunk)
            progress.count(len(chunk))
    finally:
        progress.close()
    if expected is not None and count < expected:
        raise OSError(f"the connection was cut after {count:,} of {expected:,} bytes")
