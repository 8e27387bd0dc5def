"""Open the store: SQLite in WAL mode, foreign keys on, migrated to the newest shape."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlite_utils import Database

from engine.errors import UserError
from engine.store.migrations import migrations


@cache
def _known() -> set[str]:
    """The names of all changes of shape: what would be done to a database that has seen none."""
    nothing = Database(memory=True)
    names = {m.name for m in migrations.pending(nothing)}
    nothing.close()
    return names


class Store:
    """One connection to a workspace's database. Use one per thread; SQLite keeps them apart.

    patience: seconds that it waits for another program that writes, before it gives up with a UserError.
    """

    def __init__(self, path: Path, patience: float = 30.0):
        self.path = path
        try:
            self.connection = sqlite3.connect(path, timeout=patience, check_same_thread=False)
            self.connection.row_factory = sqlite3.Row
            self.db = Database(self.connection)
            # One at a time: a second process must not make a table that the first is just making.
            with FileLock(path.with_suffix(".lock")):
                self.connection.execute("PRAGMA journal_mode=WAL")
                self.connection.execute("PRAGMA foreign_keys=ON")
                self.connection.execute("PRAGMA synchronous=NORMAL")
                self._migrate()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"The database {path} does not open ({error}). Move it away to start anew, or restore a copy."
            ) from error

    def _migrate(self) -> None:
        """Bring the tables to the newest shape. Raises UserError where they have one that is newer than this code."""
        if any(m.name not in _known() for m in migrations.applied(self.db)):
            raise UserError(
                f"The database {self.path} was made by a newer version of the studio. Install that, or newer."
            )
        migrations.apply(self.db)

    def rows(self, sql: str, *values: Any) -> list[dict]:
        return [dict(row) for row in self.connection.execute(sql, values)]

    def row(self, sql: str, *values: Any) -> dict | None:
        found = self.rows(sql, *values)
        return found[0] if found else None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, taken for writing at once so that two writers queue instead of failing.

        Raises UserError where another program, as one that shows tables, keeps its own open for too long.
        """
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise UserError(
                f"Another program has changed {self.path} and neither saved that nor given it up. Do so there, or "
                "close it, then try again."
            ) from error
        try:
            yield self.connection
        except BaseException:
            self.connection.rollback()
            raise
        self.connection.commit()

    def insert(self, table: str, **values: Any) -> int:
        """Add a row (dicts and lists as JSON) and return its id."""
        with self.writing() as connection:
            return insert(connection, table, **values)

    def update(self, table: str, row_id: int, **values: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        with self.writing() as connection:
            connection.execute(f"UPDATE {table} SET {names} WHERE id = ?", [*map(_plain, values.values()), row_id])

    def close(self) -> None:
        self.connection.close()


def insert(connection: sqlite3.Connection, table: str, **values: Any) -> int:
    """`Store.insert` inside a transaction that is already open."""
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    cursor = connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", [*map(_plain, values.values())])
    return int(cursor.lastrowid or 0)


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def like(text: str) -> str:
    """A LIKE pattern (with ESCAPE, a backslash) for what holds `text` itself, its % and _ included."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def now() -> str:
    """UTC time as text that sorts."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
