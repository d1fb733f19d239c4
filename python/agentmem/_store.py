"""The border to the native engine: the only file that imports the native module."""

import atexit
import weakref
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from agentmem import daemon, registry
from agentmem._native import (
    Agent,
    Conversation,
    Corpus,
    MessageSet,
    Smu,
    Store,
    Tally,
    View,
    __version__,
    connect_store,
    environment_block,
    equal_share,
    open_store,
)
from agentmem.errors import AgentMemError, Unreachable
from agentmem.policy import Candidate, Policy

__all__ = [
    "Agent",
    "Conversation",
    "Corpus",
    "MessageSet",
    "Smu",
    "Store",
    "Tally",
    "View",
    "__version__",
    "connect",
    "environment_block",
    "equal_share",
    "open",
]


def open(
    path: str | PathLike[str] | None = None,
    *,
    memory_max: int | str = "2G",
    policy: Literal["semantic", "lru"] | Policy = "semantic",
    cold: bool = True,
    warm_after_s: float = 300.0,
    cold_after_s: float = 172800.0,
    on_full: Literal["wait", "fail"] = "wait",
    arena_bytes: int | str = "32M",
    warm_level: int = 3,
    cold_level: int = 9,
    pressure: bool = True,
    backend: Literal["user", "kernel", "auto"] = "user",
) -> Store:
    """Open a store in this process; use it in a `with` statement, or call its `close`.

    Amounts of bytes are numbers, or text such as "512M" or "2G" (powers of 1024).

    Args:
        path: Folder of the cold tier, created when missing; a store closed there opens again with
            the same agents, names, conversations and SMUs. None: a temporary folder that only
            this user can read, removed at close.
        memory_max: Budget for everything that the engine keeps in RAM, its tables included.
        policy: Who is demoted first: "semantic", "lru", or a `Policy` of your own.
        cold: Whether there is a cold tier. Without one nothing is written to disk, and a put that
            cannot be held raises `OutOfMemory`.
        warm_after_s: Seconds without use after which hot content is compressed.
        cold_after_s: Seconds without use after which compressed content moves to the cold tier.
        on_full: What a put does when the arena is full: "wait" for the engine, or "fail" with
            `ArenaFull`.
        arena_bytes: Size of the ring that puts are written to.
        warm_level: zstd level from hot to warm, 1 to 19.
        cold_level: zstd level for content that ages into the cold tier, 1 to 19.
        pressure: Whether to demote earlier when the kernel reports memory pressure.
        backend: What holds sealed SMUs of a page or more while they are in RAM: "user", the engine;
            "kernel", the kernel module, which keeps equal content once for all processes of this
            user and compresses what is cold where it is; "auto", the module where there is one,
            else the engine. `stats()["backend"]` says which it is.

    Raises:
        InvalidArgument: An argument is out of range.
        Unsupported: `backend` is "kernel", and the module is not loaded.
        PermissionDenied: `backend` is "kernel", and this user may not open `/dev/agentmem`.
        StoreLocked: Another process has `path` open.
        Version: `path` was written by another format version.
        Damaged: The index in `path` cannot be read.
        Io: The system refused to read or write.
    """
    store = open_store(
        path,
        memory_max=memory_max,
        policy=_Named(policy) if isinstance(policy, Policy) else policy,
        cold=cold,
        warm_after_s=warm_after_s,
        cold_after_s=cold_after_s,
        on_full=on_full,
        arena_bytes=arena_bytes,
        warm_level=warm_level,
        cold_level=cold_level,
        pressure=pressure,
        backend=backend,
    )
    _stores.add(store)
    return store


def connect(
    socket: str | PathLike[str] | None = None,
    *,
    domain: str | None = None,
    token: str | None = None,
    quota_bytes: int | str | None = None,
    on_full: Literal["wait", "fail"] = "wait",
    start: bool = True,
) -> Store:
    """Open a session with the daemon; use it in a `with` statement, or call its `close`.

    It has the face of a store that `open` gives, and shares its content with every other session
    without copying. Put and view of hot SMUs never wait for the daemon. Agents of a session that
    was closed keep what they hold, and can be taken up again by their name; those of a process
    that dies give it back.

    Args:
        socket: Where the daemon listens. None: `AGENTMEM_SOCKET`, else `agentmem/agentmem.sock` in
            `XDG_RUNTIME_DIR`.
        domain: A trust domain within this user's, for agents that do not trust the others: ids,
            names, content, quotas and figures of one mean nothing in another. None: the user's own.
        token: What opens the domain, 16 to 1,024 bytes. Whoever names a domain first makes it,
            unless the daemon's configuration has `open_domains = false`.
        quota_bytes: Most logical bytes that all agents of the domain may hold together from now on,
            see `Store.limit_domain`. None: as it was, and for a new domain what the daemon's
            configuration gives it.
        on_full: What a put does when the session's arena is full: "wait" for the daemon, or "fail"
            with `ArenaFull`.
        start: Whether to start the daemon where none listens.

    Raises:
        Unreachable: Nobody listens there, and none could be started.
        Version: The daemon is of another version.
        PermissionDenied: The daemon belongs to another user; or the domain has another token, or
            does not exist and cannot be made, of which it is not said which; or the quota is more
            than the configuration gives.
        InvalidArgument: A name or token that cannot be one, or one without the other.
        LimitReached: The daemon has as many sessions or domains as it may have.
    """
    path = Path(socket or registry.socket())
    try:
        store = connect_store(path, domain=domain, token=token, on_full=on_full)
    except Unreachable:
        if not start:
            raise
        daemon.start(path)
        store = connect_store(path, domain=domain, token=token, on_full=on_full)
    if quota_bytes is not None:
        try:
            store.limit_domain(quota_bytes=quota_bytes, agents_max=store.domain()["agents_max"])
        except AgentMemError:
            store.close()
            raise
    _stores.add(store)
    return store


# A program that ends without closing its stores still flushes, and leaves no temporary folder.
_stores: weakref.WeakSet[Store] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for store in list(_stores):
        store.close()


def open_stores() -> list[Store]:
    """The stores of this process that nobody closed, sessions with a daemon included."""
    return [store for store in _stores if not store.is_closed]


class _Named:
    """A policy for the engine, which sends plain tuples where the policy wants named fields."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def choose(self, batch: list[tuple[Any, ...]]) -> Sequence[int]:
        return self._policy.choose([Candidate._make(fields) for fields in batch])
