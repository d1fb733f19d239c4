"""Threads in a file of LangGraph's SqliteSaver: tables `checkpoints` and `writes`.

A thread becomes a conversation. Each row is a message of JSON that has all columns but the blobs,
and these follow as messages of their own, in parts: a checkpoint holds the whole state, and most of
its parts are those of the one before.
"""

import base64
import heapq
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from agentmem.errors import Damaged, InvalidArgument
from agentmem.transfer.msgpack import parts

_TABLES = ("checkpoints", "writes")


class Thread(NamedTuple):
    """A thread, and about how many bytes its rows have."""

    thread_id: str
    size_bytes: int


def threads(path: Path) -> list[Thread]:
    """The threads in the file.

    Raises:
        InvalidArgument: It is no such file.
    """
    blobs = "length(checkpoint) + length(metadata)", "length(value)"
    each = " UNION ALL ".join(
        f"SELECT thread_id, {length} AS bytes FROM {table}"
        for table, length in zip(_TABLES, blobs, strict=True)
    )
    query = f"SELECT thread_id, sum(bytes) FROM ({each}) GROUP BY thread_id ORDER BY thread_id"
    try:
        with closing(_connect(path)) as database:
            return [Thread(thread, size or 0) for thread, size in database.execute(query)]
    except sqlite3.Error as error:
        raise InvalidArgument(f"{path} is no file of LangGraph's SqliteSaver: {error}") from None


def messages(path: Path, thread_id: str) -> Iterator[bytes]:
    """What that thread becomes: its rows by checkpoint, oldest first."""
    with closing(_connect(path)) as database:
        database.execute("BEGIN")  # both tables as they are at one moment
        tables = (_rows(database, table, thread_id) for table in _TABLES)
        for table, row in heapq.merge(*tables, key=_age):
            shown = {
                name: {"bytes": len(value)} if isinstance(value, bytes) else value
                for name, value in row.items()
            }
            header = json.dumps({"table": table, "row": shown}, ensure_ascii=False)
            yield f"{header}\n".encode()
            for value in row.values():
                if isinstance(value, bytes):
                    yield from parts(value)


def as_json_lines(conversation: Iterable[bytes]) -> Iterator[bytes]:
    """The rows of such a conversation, one a line: blobs are `{"base64": text}`.

    Raises:
        Damaged: Messages are missing.
    """
    rest = iter(conversation)
    for header in rest:
        record = json.loads(header)
        row = record["row"]
        for name, value in row.items():
            if isinstance(value, dict):
                blob = b""
                while len(blob) < value["bytes"]:
                    try:
                        blob += next(rest)
                    except StopIteration:
                        raise Damaged(f"the blob {name!r} of the last row is cut") from None
                row[name] = {"base64": base64.b64encode(blob).decode()}
        yield f"{json.dumps(record, ensure_ascii=False)}\n".encode()


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)


_Row = tuple[str, dict[str, Any]]


def _rows(database: sqlite3.Connection, table: str, thread_id: str) -> Iterator[_Row]:
    """The rows of a thread in a table, each with the table's name, by checkpoint."""
    query = f"SELECT * FROM {table} WHERE thread_id = ? ORDER BY {_ORDER[table]}"
    found = database.execute(query, (thread_id,))
    names = [column[0] for column in found.description]
    for row in found:
        yield table, dict(zip(names, row, strict=True))


_ORDER = {
    "checkpoints": "checkpoint_id, checkpoint_ns",
    "writes": "checkpoint_id, checkpoint_ns, task_id, idx",
}


def _age(named: _Row) -> tuple[str, str, str]:
    """What rows are merged by: ids of checkpoints sort by time."""
    table, row = named
    return row["checkpoint_id"], row["checkpoint_ns"], table
