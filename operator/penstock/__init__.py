"""Penstock: pipelines of containers on Kubernetes, and the same manifests on a laptop.

This module holds the version, and the SDK where somebody asks for it, so that importing any part of the package stays
cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in {"AsyncClient", "Client"}:
        from penstock import client  # noqa: PLC0415 - see above

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
