"""Sessions of the OpenAI Agents SDK, kept in a store.

    import asyncio
    import agentmem
    from agentmem.integrations.openai_agents import AgentMemSession

    async def main() -> None:
        session = AgentMemSession("user-42", agentmem.open())  # or agentmem.connect()
        await session.add_items([{"role": "user", "content": "Sort the mail."}])
        print(await session.get_items(limit=10), await session.pop_item())

    asyncio.run(main())

Give it to the SDK as `Runner.run(agent, "Hello", session=session)`.
"""

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from agents.items import TResponseInputItem
from agents.memory import SessionSettings
from agents.memory.session_settings import coerce_session_settings, resolve_session_limit

import agentmem
from agentmem.integrations import lines
from agentmem.turn import turn

P = ParamSpec("P")
T = TypeVar("T")

_AGENTS = "openai-agents/"
_ITEMS = "items/"
_STAGE = "stage"


class AgentMemSession:
    """A `Session` of the SDK in a store of agentmem.

    Over the daemon several processes may use one session: each call is done whole, one after the
    other, and no item is popped twice. What a cancelled call was to change is changed all the same
    before the cancellation goes on.

    Args:
        session_id: Names the conversation; 1 to 241 bytes.
        store: Open while this is used: `agentmem.connect()`, or `agentmem.open(path)`.
        session_settings: `limit` is what `get_items` goes by when it is given none.
        flush: Whether a change returns only when it is durable. If not, what was added in the
            last half minute is lost with the machine, and with this process where the store is
            embedded.
    """

    session_settings: SessionSettings | None = None

    def __init__(
        self,
        session_id: str,
        store: agentmem.Store,
        *,
        session_settings: SessionSettings | dict[str, Any] | None = None,
        flush: bool = False,
    ) -> None:
        self.session_id = session_id
        self.session_settings = (
            SessionSettings()
            if session_settings is None
            else coerce_session_settings(session_settings)
        )
        self._store = store
        self._flush = flush
        self._agent_name = f"{_AGENTS}{session_id}"

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The last `limit` items, oldest first; all of them where neither it nor the settings
        say how many, or it is negative.

        Raises:
            NameTaken: Another process had the session for half a minute.
        """
        return await _settled(self._get, resolve_session_limit(limit, self.session_settings))

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items at the end: all of them, or none.

        Raises:
            NameTaken: Another process had the session for half a minute.
            OutOfMemory: The store is full.
            TypeError: JSON has no form for an item.
        """
        if items:
            await self._change(self._add, lines.encode(items))

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the last item away and return it; None if there is none."""
        return await self._change(self._pop)

    async def clear_session(self) -> None:
        """Take all items away."""
        await self._change(self._clear)

    async def _change(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result = await _settled(call, *args, **kwargs)
        if self._flush:
            await _settled(self._store.flush)
        return result

    def _get(self, limit: int | None) -> list[Any]:
        with turn(self._store, self._agent_name) as agent:
            items = _items(agent)
            if items is None:
                return []
            if limit is None or limit < 0:
                text = items.render()
            else:
                # Each message holds one item at least.
                text = b"".join(items[max(0, len(items) - limit) :])
        found = lines.decode(text)
        return found if limit is None or limit < 0 else found[max(0, len(found) - limit) :]

    def _add(self, text: bytes) -> None:
        with turn(self._store, self._agent_name) as agent:
            items = _items(agent)
            if items is None:
                items = agent.conversation(f"{_ITEMS}0")
            items.append(text)

    def _pop(self) -> Any:
        with turn(self._store, self._agent_name) as agent:
            items = _items(agent)
            if items is None:
                return None
            rest, _, last = items[-1].removesuffix(b"\n").rpartition(b"\n")
            _cut(agent, items, rest and rest + b"\n")
        (item,) = lines.decode(last)
        return item

    def _clear(self) -> None:
        with turn(self._store, self._agent_name) as agent:
            agent.close()


def _items(agent: agentmem.Agent) -> agentmem.Conversation | None:
    """The items of the session: messages of JSON lines, one for each call that added some.

    A conversation only grows. Whoever takes items away makes another one with a higher number,
    which counts from then on; lower ones, and what is staged, are left by a process that was
    killed.
    """
    names = agent.conversations()
    numbers = [int(name.removeprefix(_ITEMS)) for name in names if name.startswith(_ITEMS)]
    name = f"{_ITEMS}{max(numbers)}" if numbers else None
    for other in names:
        if other != name:
            agent.release(agent.conversation(other))
    return None if name is None else agent.conversation(name)


def _cut(agent: agentmem.Agent, items: agentmem.Conversation, rest: bytes) -> None:
    """Put `rest` in the place of the last message, or nothing where it is empty."""
    before = len(items) - 1
    next_name = f"{_ITEMS}{int(items.name.removeprefix(_ITEMS)) + 1}"
    if rest:
        stage = items.fork(before, name=_STAGE)
        stage.append(rest)
        stage.fork(name=next_name)
        agent.release(stage)
    elif before:
        items.fork(before, name=next_name)
    agent.release(items)


async def _settled(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`call` in a worker thread. If that is cancelled, the cancellation waits until it is done:
    what is called next must find all of it or nothing."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    cancelled = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        work.exception()  # seen, though nobody waits for it any more
        raise cancelled
    return work.result()
