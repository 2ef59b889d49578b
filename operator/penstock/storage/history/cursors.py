"""Cursors of pages: the key of the last object that was shown, and the order that it is a key of. Pure.

Of the history, and of whoever pages in the same way where there is none.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from penstock.storage.history.filters import BadQuery


def cursor(order: str, descending: bool, *key: object) -> str:
    """The cursor after an object.

    Args:
        order: a word for what is sorted by.
        descending: whether the greatest come first.
        key: where the object stands in that order: texts and whole numbers.
    """
    text = json.dumps([order, descending, *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(given: str, order: str, descending: bool, kinds: Sequence[type]) -> list[Any]:
    """The key of a cursor.

    Args:
        given: what was given.
        order: the order that is asked for.
        descending: whether the greatest come first.
        kinds: of what kind each part of the key is.

    Raises:
        BadQuery: it is none, or that of another order.
    """
    try:
        found = json.loads(base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        found = None
    if not isinstance(found, list) or [type(each) for each in found] != [str, bool, *kinds]:
        raise no_cursor()
    if found[:2] != [order, descending]:
        raise BadQuery("after: is a cursor of another order; ask for the first page of this one")
    return found[2:]


def no_cursor() -> BadQuery:
    """What was given is no cursor."""
    return BadQuery("after: is no cursor that a page has given")
