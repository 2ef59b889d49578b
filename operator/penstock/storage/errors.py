"""What goes wrong with a store, in few words: the kinds that callers treat differently."""

from __future__ import annotations


class StoreError(Exception):
    """Something went wrong with the object store; the text is for people."""


class NotFound(StoreError):  # noqa: N818 - these names say what is the matter
    """There is no such object."""


class StoreUnavailable(StoreError):  # noqa: N818
    """The store does not answer, or says that it cannot now: it heals by itself, try again later."""


class StoreRefused(StoreError):  # noqa: N818
    """The store answers and refuses: rights, credentials, region, bucket. A person has to change something."""


class StoreFull(StoreError):  # noqa: N818
    """There is no space left in the folder of the store; what was stored before is intact."""


class BadObjectPath(StoreError, ValueError):  # noqa: N818
    """A path that names no place in the store."""
