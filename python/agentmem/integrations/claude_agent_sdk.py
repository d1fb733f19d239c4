"""Sessions of the Claude Agent SDK, kept in a store.

    import anyio
    import agentmem
    from agentmem.integrations.claude_agent_sdk import AgentMemSessionStore

    async def main() -> None:
        sessions = AgentMemSessionStore(agentmem.open())  # or agentmem.connect()
        key = {"project_key": "-home-me-project", "session_id": "a session's id"}
        await sessions.append(key, [{"type": "user", "uuid": "1", "message": {}}])
        print(len(await sessions.load(key)), "entry")

    anyio.run(main)

Give it to the SDK as `ClaudeAgentOptions(session_store=sessions)`.
"""

import time
from collections import OrderedDict
from typing import Any, NamedTuple, cast

import anyio.to_thread
from claude_agent_sdk import (
    SessionKey,
    SessionListSubkeysKey,
    SessionStore,
    SessionStoreEntry,
    SessionStoreListEntry,
    SessionSummaryEntry,
    fold_session_summary,
)

import agentmem
from agentmem.claude_layout import (
    MAIN,
    SUMMARIES,
    Session,
    agents_of,
    conversation_of,
    metadata_of,
    session_of,
    subpath_of,
)
from agentmem.integrations import lines
from agentmem.turn import turn

_TRANSCRIPTS_KNOWN_MAX = 64


class AgentMemSessionStore(SessionStore):
    """A `SessionStore` of the SDK in a store of agentmem, with every optional method.

    Over the daemon several processes may use the same sessions. Each batch of entries is there
    whole or not at all, and an entry whose `uuid` its transcript has already is ignored. Lines of
    imported transcripts that hold no JSON are not loaded.

    Args:
        store: Open while this is used: `agentmem.connect()`, or `agentmem.open(path)`.
        flush: Whether an append returns only when it is durable. If not, what was appended in the
            last half minute is lost with the machine, and with this process where the store is
            embedded.
    """

    def __init__(self, store: agentmem.Store, *, flush: bool = False) -> None:
        self._store = store
        self._flush = flush
        self._uuids = _Uuids()

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Add entries to a transcript.

        Raises:
            NameTaken: Another process had the session for half a minute.
            OutOfMemory: The store is full.
        """
        if entries:
            await anyio.to_thread.run_sync(self._append, key, entries)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """The entries of a transcript; None if there is none."""
        return await anyio.to_thread.run_sync(self._load, key)

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """The sessions of a project, and when each was last added to."""
        return [
            {"session_id": summary["session_id"], "mtime": summary["mtime"]}
            for summary in await self.list_session_summaries(project_key)
        ]

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """The summaries of a project's sessions, as the SDK folded them."""
        return await anyio.to_thread.run_sync(self._summaries, project_key)

    async def delete(self, key: SessionKey) -> None:
        """Delete a session with all its subagents, or with a `subpath` one of these alone."""
        await anyio.to_thread.run_sync(self._delete, key)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """The subpaths under which a session has transcripts of subagents."""
        names = await anyio.to_thread.run_sync(self._conversations, key)
        return [subpath for name in names if (subpath := subpath_of(name)) is not None]

    def _append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        session, name = _session(key), conversation_of(key.get("subpath"))
        with turn(self._store, session.agent_name) as agent:
            transcript = agent.conversation(name)
            self._uuids.append(session, transcript, entries)
            if name == MAIN:
                _summarize(agent, session, is_written=True)
        if self._flush:
            self._store.flush()

    def _load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        subpath = key.get("subpath")
        with turn(self._store, _session(key).agent_name) as agent:
            text = _rendered(agent, conversation_of(subpath))
            metadata = _rendered(agent, metadata_of(subpath)) if subpath else b""
        if not text:
            return None
        # Of an imported subagent a file says what the SDK has as an entry.
        sidecar = _entries(metadata.replace(b"\n", b" "))
        about: Any = [{**each, "type": "agent_metadata"} for each in sidecar]
        return [*about, *_entries(text)]

    def _summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        prefix = agents_of(project_key)
        found = []
        for name in self._store.agents():
            session = session_of(name) if name.startswith(prefix) else None
            if session is None:
                continue
            with turn(self._store, name) as agent:
                if MAIN in agent.conversations() and len(agent.conversation(MAIN)):
                    found.append(_summarize(agent, session, is_written=False))
        return found

    def _delete(self, key: SessionKey) -> None:
        subpath = key.get("subpath")
        with turn(self._store, _session(key).agent_name) as agent:
            if not subpath:
                agent.close()
            elif (name := conversation_of(subpath)) in agent.conversations():
                agent.release(agent.conversation(name))

    def _conversations(self, key: SessionListSubkeysKey) -> list[str]:
        with turn(self._store, Session(key["project_key"], key["session_id"]).agent_name) as agent:
            return agent.conversations()


def _session(key: SessionKey) -> Session:
    return Session(key["project_key"], key["session_id"])


def _rendered(agent: agentmem.Agent, name: str) -> bytes:
    return agent.conversation(name).render() if name in agent.conversations() else b""


def _entries(text: bytes) -> list[SessionStoreEntry]:
    return [cast(SessionStoreEntry, each) for each in lines.decode(text) if isinstance(each, dict)]


def _summarize(agent: agentmem.Agent, session: Session, *, is_written: bool) -> SessionSummaryEntry:
    """The summary of a session, brought up to date and kept.

    It is a conversation of one message, named after how many messages of the transcript it is of:
    one that a killed writer left behind the transcript is so brought up to date by the next.
    """
    transcript = agent.conversation(MAIN)
    kept = sorted(
        (int(name.removeprefix(SUMMARIES)), name)
        for name in agent.conversations()
        if name.startswith(SUMMARIES)
    )
    before, summary = 0, None
    for count, name in kept:
        # One that is empty is of a writer that was killed in between.
        if conversation := agent.conversation(name):
            before, summary = count, cast(SessionSummaryEntry, conversation[0])
    if summary is not None and before == len(transcript):
        return summary
    now_ms = time.time_ns() // 1_000_000
    key: SessionKey = {"project_key": session.project_key, "session_id": session.session_id}
    folded = fold_session_summary(summary, key, _entries(b"\n".join(transcript[before:])))
    if summary is None:
        folded["mtime"] = now_ms
    elif is_written:
        folded["mtime"] = max(now_ms, summary["mtime"] + 1)
    name = f"{SUMMARIES}{len(transcript)}"
    agent.conversation(name).append(dict(folded))
    for _, other in kept:
        if other != name:
            agent.release(agent.conversation(other))
    return folded


class _Known(NamedTuple):
    """The uuids of a transcript, when it had so many messages and bytes."""

    messages: int
    logical_bytes: int
    uuids: set[str]


class _Uuids:
    """Which entries transcripts have, for those that were added to last."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Session, str], _Known] = OrderedDict()

    def append(
        self,
        session: Session,
        transcript: agentmem.Conversation,
        entries: list[SessionStoreEntry],
    ) -> None:
        """Add the entries that the transcript does not have yet, as one message."""
        key = session, transcript.name
        # Whatever fails below, it is read anew the next time.
        known = self._known.pop(key, None)
        before = b""
        if known is not None and known[:2] == (len(transcript), transcript.logical_bytes):
            uuids = known.uuids
        else:
            text = transcript.render()
            uuids = set(filter(None, map(_uuid, lines.decode(text))))
            # The last line of an imported one may be cut.
            before = b"\n" if text and not text.endswith(b"\n") else b""
        fresh = []
        for entry in entries:
            uuid = _uuid(entry)
            if uuid is None or uuid not in uuids:
                fresh.append(entry)
            if uuid is not None:
                uuids.add(uuid)
        if fresh:
            transcript.append(before + lines.encode(fresh))
        self._known[key] = _Known(len(transcript), transcript.logical_bytes, uuids)
        if len(self._known) > _TRANSCRIPTS_KNOWN_MAX:
            self._known.popitem(last=False)


def _uuid(entry: Any) -> str | None:
    uuid = entry.get("uuid") if isinstance(entry, dict) else None
    return uuid if isinstance(uuid, str) else None
