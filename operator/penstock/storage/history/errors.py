"""What goes wrong with a history's database, in two kinds: what heals by itself, and what a person has to change.

The words of a driver are kept, its addresses are not: a URL is shown without password and options.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from penstock.storage.history.records import NotAnExecution

_HEALS_SQLITE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_NOMEM", "SQLITE_INTERRUPT")
_HEALS_POSTGRES = ("08", "53", "57P", "57014", "58", "40", "55P03", "25006", "XX000")
"""Connection, no room, shut down, cancelled, its disk, two at once, a lock, a standby, internal."""
_REMEDY_SQLITE = {
    "SQLITE_CANTOPEN": "the folder must be there and be writable",
    "SQLITE_READONLY": "who runs penstock must be allowed to write the file and its folder",
    "SQLITE_PERM": "who runs penstock must be allowed to write the file and its folder",
    "SQLITE_AUTH": "who runs penstock must be allowed to write the file and its folder",
    "SQLITE_NOTADB": "name another file, or move this one away",
    "SQLITE_CORRUPT": "restore it from a backup, or move it away",
}
_REMEDY_POSTGRES = {
    "28": "check user, password and pg_hba.conf",
    "3D": "create it: CREATE DATABASE …",
    "3F": "create the schema, or set the user's search_path",
    "42501": "the user must own the tables, or at first be allowed to make them: GRANT CREATE ON SCHEMA public TO …",
    "42P07": "it belongs to something else: give the history a database of its own",
    "42P01": "somebody has removed a table: restore it from a backup",
    "42703": "somebody has changed a table: restore it from a backup",
}


class HistoryUnavailable(Exception):  # noqa: N818 - a state
    """The database does not answer, or has no room, now: try again. The message is for people."""


class BadHistory(Exception):  # noqa: N818 - a fact
    """The database cannot be used as it is; the message says what a person has to do."""


def shown(url: URL) -> str:
    """A database for messages: what and where it is, without password and options."""
    if url.get_backend_name() == "sqlite":
        return str(url.database or "")
    host = url.host or url.query.get("host") or "localhost"
    place = f"{host}:{url.port}" if url.port else str(host)
    user = f"{url.username}@" if url.username else ""
    return f"postgresql://{user}{place}/{url.database or ''}"


@contextmanager
def in_words(place: str) -> Iterator[None]:
    """Turn errors of drivers into ours.

    Args:
        place: the database, as `shown` gives it.

    Raises:
        HistoryUnavailable: it heals by itself.
        BadHistory: a person has to do something.
        NotAnExecution: what was to be written is nothing that a database takes.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _of_driver(place, error, error) from error
    except DBAPIError as error:
        raise _of_driver(place, error, error.orig or error) from error
    except PoolTimeout as error:
        raise HistoryUnavailable(f"{place}: all connections are in use") from error
    except NoSuchModuleError as error:
        raise BadHistory(f"{place}: no such kind of database; use sqlite:///FILE or postgresql://…") from error
    except (StatementError, OverflowError) as error:  # a number that JSON, or no column, has
        raise NotAnExecution(f"cannot be stored: {_text(getattr(error, 'orig', None) or error)}") from error
    except SQLAlchemyError:
        raise
    except TimeoutError as error:
        raise HistoryUnavailable(f"{place}: does not answer in time") from error
    except OSError as error:
        raise HistoryUnavailable(f"{place}: cannot be reached: {_text(error)}") from error
    except Exception as error:  # asyncpg's own, where SQLAlchemy does not wrap them
        if getattr(error, "sqlstate", None) is None and type(error).__module__.split(".", 1)[0] != "asyncpg":
            raise
        raise _of_driver(place, error, error) from error


def _of_driver(place: str, error: Exception, original: BaseException) -> Exception:
    text = _text(original)
    cause = original.__cause__
    while cause is not None and getattr(original, "sqlstate", None) is None:
        original, cause = cause, cause.__cause__
    state = getattr(original, "sqlstate", None) or ""
    name = getattr(original, "sqlite_errorname", "")
    if getattr(error, "connection_invalidated", False) or state.startswith(_HEALS_POSTGRES):
        return HistoryUnavailable(f"{place}: {text}")
    if state.startswith("22"):
        return NotAnExecution(f"cannot be stored: {text}")
    if name.startswith(_HEALS_SQLITE):
        return HistoryUnavailable(f"{place}: {text}")
    for code, remedy in _REMEDY_POSTGRES.items():
        if state.startswith(code):
            return BadHistory(f"{place}: {text}; {remedy}")
    for code, remedy in _REMEDY_SQLITE.items():
        if name.startswith(code):
            return BadHistory(f"{place}: {text}; {remedy}")
    if not state and not name:  # the driver's own: a connection that broke, or a statement that took too long
        return HistoryUnavailable(f"{place}: {text or type(original).__name__}")
    return BadHistory(f"{place}: {text} ({state or name}); give the history a database of its own")


def _text(error: BaseException) -> str:
    """The first line of what a driver says, without the name of its class."""
    first = str(error).strip().split("\n", 1)[0]
    return first.rpartition(">: ")[2] if first.startswith("<class ") else first
