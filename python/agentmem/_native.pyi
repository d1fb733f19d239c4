"""The engine's Python face, written in Rust. Use it through :mod:`agentmem`."""

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, overload

from typing_extensions import Buffer

KindName: TypeAlias = Literal["system_prompt", "tool_definition", "tool_result", "message"]
TierName: TypeAlias = Literal["hot", "warm", "cold", "remote"]
StateName: TypeAlias = Literal["active", "idle", "paused"]
AdviceName: TypeAlias = Literal["hot", "cold", "will_need"]
Size: TypeAlias = int | str
"""Bytes, or a text such as ``"2G"``, ``"512M"``, ``"64K"`` (powers of 1024)."""

__version__: str

def environment_block() -> bytes:
    """The environment of this process, as a program that it started would have it:
    ``NAME=VALUE``, with a NUL between two."""

def connect_store(
    socket: str | PathLike[str],
    *,
    domain: str | None = None,
    token: str | None = None,
    on_full: Literal["wait", "fail"] = "wait",
) -> Store:
    """Open a session with the daemon that listens at ``socket``.

    Args:
        socket: Path of its Unix socket.
        domain: Name of a trust domain; ``None``: the user's own.
        token: What opens that domain, 16 to 1,024 bytes. Whoever names a domain first makes it,
            unless the daemon's configuration has ``open_domains = false``.
        on_full: What a put does when the session's arena is full: ``"wait"`` for the daemon, or
            ``"fail"`` with ``ArenaFull``.

    Raises:
        Unreachable: Nobody listens there.
        Version: The daemon is of another version.
        PermissionDenied: The daemon belongs to another user; or the domain has another token, or
            does not exist and cannot be made, of which it is not said which.
        InvalidArgument: A name or token that cannot be one, or one without the other.
        LimitReached: The daemon has as many sessions or domains as it may have.
    """

def open_store(
    path: str | PathLike[str] | None = None,
    *,
    memory_max: Size = "2G",
    policy: str | Any = "semantic",
    cold: bool = True,
    warm_after_s: float = 300.0,
    cold_after_s: float = 172800.0,
    on_full: Literal["wait", "fail"] = "wait",
    arena_bytes: Size = "32M",
    warm_level: int = 3,
    cold_level: int = 9,
    pressure: bool = True,
    backend: Literal["user", "kernel", "auto"] = "user",
) -> Store:
    """Open a store whose engine runs on a thread of this process.

    Args:
        path: Folder of the cold tier, created when missing; a store closed there opens again with
            the same agents, names, conversations and SMUs. ``None``: a temporary folder that only
            this user can read (mode 0700), removed at close.
        memory_max: Budget in bytes for everything the engine keeps in RAM, its tables included.
        policy: ``"semantic"``, ``"lru"``, or an object with ``choose(batch)``, see
            :class:`agentmem.Policy`.
        cold: Whether there is a cold tier. Without one nothing is written to disk, and a put that
            cannot be held raises :class:`~agentmem.errors.OutOfMemory`.
        warm_after_s: Seconds without use after which hot content is compressed.
        cold_after_s: Seconds without use after which compressed content moves to SSD.
        on_full: What a put does when the arena is full: ``"wait"`` for the engine, or ``"fail"``
            with :class:`~agentmem.errors.ArenaFull`.
        arena_bytes: Size of the ring that puts are written to; lowered to an eighth of
            ``memory_max`` where that is less.
        warm_level: zstd level from hot to warm, 1 to 19.
        cold_level: zstd level for content that ages into the cold tier, 1 to 19.
        pressure: Whether to read ``/proc/pressure/memory`` and demote earlier under pressure.
        backend: What holds sealed SMUs of a page or more while they are in RAM: ``"user"``, the
            engine; ``"kernel"``, the kernel module; ``"auto"``, the module where there is one.

    Raises:
        InvalidArgument: An argument is out of range.
        Unsupported: ``backend`` is ``"kernel"``, and the module is not loaded.
        PermissionDenied: ``backend`` is ``"kernel"``, and this user may not open its device.
        StoreLocked: Another process has ``path`` open.
        Version: ``path`` was written by another format version.
        Damaged: The index in ``path`` cannot be read.
        Io: The system refused to read or write.
    """

class Store:
    """A store of semantic memory units, with its engine. Thread-safe; not usable after fork."""

    @property
    def path(self) -> str | None:
        """Folder of the cold tier; ``None`` when there is no cold tier."""
    @property
    def memory_max(self) -> int:
        """The budget, in bytes."""
    @property
    def is_closed(self) -> bool:
        """Whether it can be used no more: it was closed, or is the parent's of this process."""
    def agent(
        self,
        name: str,
        *,
        importance: int | None = None,
        quota_bytes: Size | None = None,
        pid: int | None = None,
        lasting: bool = False,
    ) -> Agent:
        """Register an agent, or take up the one of that name that nobody has: of a reopened store,
        of a session that was closed, or one that was left (:meth:`Agent.leave`).

        Args:
            name: Unique among the agents of the store, 1 to 255 bytes.
            importance: 0 to 100; ``None``: 50, or what it was if the store knows the agent.
            quota_bytes: Most logical bytes it may hold; ``None``: no limit, or what it was.
            pid: Process it belongs to; this one by default. An agent whose process has died is
                reaped.
            lasting: Whether it is not reaped then, but waits to be taken up again, with all that
                was put and appended until then.

        Raises:
            NameTaken: A registered agent has that name, and somebody has it.
            InvalidArgument: The name or importance is out of range.
            LimitReached: The store has its most agents (1,000,000).
        """
    def agents(self) -> list[str]:
        """Names of all agents, those of a reopened store that nobody took up yet included."""
    def flush(self) -> None:
        """Return when all that was put before is durable.

        Raises:
            Unsupported: The store has no cold tier.
            Io: The system refused to write; nothing is lost, and a later flush can succeed.
        """
    def stats(self) -> dict[str, Any]:
        """Figures of the whole store.

        Keys: ``agents``, ``smus``, ``conversations``, ``messages``, ``frames``, ``logical_bytes``,
        ``stored_bytes``, ``resident_bytes`` (what the engine accounts against ``memory_max``),
        ``module_bytes`` (of that, what the kernel module holds),
        ``hot_bytes``, ``warm_bytes``, ``cold_bytes``, ``disk_bytes`` (blocks allocated on SSD),
        ``orphan_bytes`` (records that no index named at open, given back then),
        ``table_bytes``, ``arena_bytes``, ``shared_bytes``, ``saved_bytes``, ``pinned_bytes``,
        ``by_kind`` (kind to ``{count, logical_bytes, stored_bytes, put_bytes,
        duplicate_bytes}``), ``by_tier`` (tier to ``{count, bytes}``), ``counters`` (name to int:
        ``put``, ``put_shared``, ``refault_warm``, ``refault_cold``, ``refault_warm_bytes``,
        ``refault_cold_bytes``, ``demote_warm``, ``demote_cold``, ``promote_warm``,
        ``promote_cold``, ``evict``, ``gc_rewrite``, ``gc_merge``, ``reject_memory``,
        ``policy_error`` and others), ``policy``, ``backend`` ("user" or "kernel": what holds sealed
        SMUs of a page or more).
        """
    def reclaim(self, target_bytes: Size | None = None) -> int:
        """Demote until the engine holds at most ``target_bytes`` of RAM (by default: nothing hot
        that can be demoted). Return the bytes given back."""
    def agent_stats(self, name: str) -> dict[str, Any]:
        """:meth:`Agent.stats` of the agent called ``name``, whoever has it."""
    def all_agent_stats(self) -> list[dict[str, Any]]:
        """:meth:`agent_stats` of every agent, whoever has it, by name; and of what each holds, the
        bytes that are compressed in RAM (``warm_bytes``), on SSD (``cold_bytes``), and raw in
        conversations (``tail_bytes``). Shared content counts in full for each that holds it."""
    def limit(self, name: str, quota_bytes: Size | None) -> None:
        """Change the quota of the agent called ``name``, whoever has it; ``None``: it has none.
        What it holds already stays.

        Raises:
            NotFound: There is no such agent.
        """
    def domain(self) -> dict[str, Any]:
        """What the trust domain of the session holds and may hold, all its agents together:
        ``name`` (empty for the user's own), ``logical_bytes`` (what its agents are charged for) and
        ``quota_bytes``, ``agents`` and ``agents_max``; ``None`` where there is no limit."""
    def limit_domain(self, *, quota_bytes: Size | None, agents_max: int | None) -> None:
        """Change what the trust domain may hold, all its agents together, until the daemon is
        started anew; ``None``: as much as the daemon's configuration gives it. What it holds
        already stays.

        Raises:
            PermissionDenied: That is more than the configuration gives it.
            Unsupported: The store is no daemon's.
        """
    def grants(self) -> list[dict[str, Any]]:
        """What other trust domains may still copy from this one, oldest first: ``id`` (which does
        not redeem it), ``agent``, ``to_domain`` (``None``: the user's own), ``content`` (id of the
        SMU here), ``kind``, ``logical_bytes``, ``uses`` (left), ``created_s`` and ``expires_s``
        (Unix seconds).

        Raises:
            Unsupported: The store is no daemon's.
        """
    def revoke(self, grant: str) -> None:
        """Take a grant of this domain back, by its text or its id. What was redeemed before stays
        where it is.

        Raises:
            NotFound: This domain has no such grant, or no longer.
            InvalidArgument: That is neither the text of a grant nor an id.
            Unsupported: The store is no daemon's.
        """
    def inspect(self, key: str) -> dict[str, Any]:
        """What ``key`` means, whoever holds it: an id or its first digits (four at least, and of no
        other id), the name of an SMU, or ``AGENT/CONVERSATION``. Looking is no use of it.

        Returns for an SMU ``id``, ``kind``, ``names``, ``importance``, ``logical_bytes``,
        ``stored_bytes``, ``tier``, ``pinned``, ``shared_by``, ``holders`` (up to 1,000 agents,
        and how many references each has), ``unused_s`` (since it was last seen used) and
        ``frames``; for a conversation ``agent``, ``conversation``, ``kind``
        (``"conversation"``), ``messages``, ``logical_bytes``, ``stored_bytes``, ``tail_bytes``
        (raw), ``unused_s`` and ``frames``. Up to 1,000 frames are given, each with ``number``,
        ``codec``, ``logical_bytes``, ``stored_bytes``, ``items``, ``in_ram``, ``on_ssd`` and
        ``age_s`` (since it was made, or the store opened).

        Raises:
            NotFound: It means nothing here.
            InvalidArgument: Several ids begin with these digits.
        """
    def pieces(self, key: str) -> Iterator[bytes]:
        """The bytes of what ``key`` means as for :meth:`inspect`, piece by piece and without
        promoting it; a conversation as :meth:`Conversation.render` gives it.

        Raises what :meth:`inspect` raises, and ``Damaged`` where bytes fail their checksum."""
    def verify(self) -> dict[str, Any]:
        """Read and check every frame and every id.

        Returns ``{"frames": int, "smus": int, "messages": int, "bytes": int, "orphans": int,
        "damaged": [str, ...]}``; ``damaged`` names each SMU, conversation or frame that is hurt.
        """
    def close(self) -> None:
        """Flush where there is a path, stop the engine and give all memory back. Views stay
        readable until they are released. Closing twice is fine."""
    def flush_async(self) -> Awaitable[None]:
        """:meth:`flush` in a worker thread."""
    def reclaim_async(self, target_bytes: Size | None = None) -> Awaitable[int]:
        """:meth:`reclaim` in a worker thread."""
    def verify_async(self) -> Awaitable[dict[str, Any]]:
        """:meth:`verify` in a worker thread."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

class Agent:
    """A registered agent: who holds leases, is charged for them, and is demoted together."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def importance(self) -> int:
        """0 to 100; can be set."""
    @importance.setter
    def importance(self, value: int) -> None: ...
    @property
    def state(self) -> StateName: ...
    @property
    def quota_bytes(self) -> int | None:
        """Most logical bytes it may hold; can be set."""
    @quota_bytes.setter
    def quota_bytes(self, value: Size | None) -> None: ...
    def put(
        self,
        data: str | Buffer,
        *,
        kind: KindName = "tool_result",
        name: str | None = None,
        importance: int = 50,
    ) -> Smu:
        """Store content and return its handle at once; hashing, sharing and compression follow.

        Args:
            data: Text (kept as UTF-8) or anything with a contiguous buffer; at most 4 GiB.
            kind: What the content is.
            name: Name in the store by which others can attach; 1 to 255 bytes, and not 64 hex
                digits, which are an id. It names the newest content that was put under it, and
                goes with the last lease on that. A second put of the same content counts once it
                is sealed, which :attr:`Smu.id` waits for.
            importance: 0 to 100.

        Raises:
            QuotaExceeded: The agent's quota of logical bytes is used up.
            DomainQuotaExceeded: All agents of the domain together have used up theirs.
            ArenaFull: The ring is full and the store was opened with ``on_full="fail"``.
            OutOfMemory: The budget is full and nothing can be demoted.
            InvalidArgument: A kind, name, importance or size that is out of range.
            Closed: The agent or the store is closed.
            ForkedChild: This process is a fork of the one that opened the store.
        """
    def attach(self, key: str | bytes | Smu) -> Smu:
        """Lease content that is there already, by id (64 hex digits or 32 bytes) or by name.

        Raises:
            NotFound: Nothing is stored under that id or name.
            QuotaExceeded: The agent's quota of logical bytes is used up.
        """
    def share(self, smu: Smu, to: Agent) -> Smu:
        """Give ``to`` a lease of its own on ``smu``; return its handle. No bytes move."""
    def grant(
        self, smu: Smu, to_domain: str | None, *, expires_s: float = 3600.0, uses: int = 1
    ) -> str:
        """Let agents of another trust domain copy ``smu``; return the text that redeems the grant.
        It holds nothing: once this agent releases ``smu``, there is nothing to redeem.

        Every grant, redemption and revocation is written to a log beside the daemon's socket.
        Grants survive a daemon that is killed, and end when it is stopped.

        Args:
            smu: What to copy; this agent's own handle.
            to_domain: Who may; ``None``: the user's own domain. Whether there is such a domain is
                not said.
            expires_s: For how many seconds, a year at most.
            uses: How often.

        Raises:
            LimitReached: The domain has as many grants as it may have (1,024).
            InvalidArgument: A number or name out of range, or the agent's own domain.
            Unsupported: The store is no daemon's.
            Io: It could not be logged.
        """
    def redeem(self, grant: str) -> Smu:
        """Copy what another trust domain granted to this one, and return its handle. The copy has
        an id of this domain, and needs nothing of the other any more.

        Raises:
            NotFound: The grant cannot be redeemed here: it is unknown, used up, over, revoked, of
                what was released, or for another domain. It is not said which.
            InvalidArgument: That is not the text of a grant.
            QuotaExceeded: The agent's quota is used up. `DomainQuotaExceeded`: the domain's is.
            Unsupported: The store is no daemon's.
        """
    def release(self, held: Smu | Conversation) -> None:
        """Give a lease back. Content goes when its last lease goes; views keep what they see.

        Raises:
            Released: It was released before.
        """
    def advise(self, held: Smu | Conversation, advice: AdviceName) -> None:
        """Say what is known about the next use: ``"cold"`` demotes soon, ``"hot"`` keeps it
        resident while the budget allows, ``"will_need"`` promotes now."""
    def smus(self) -> list[Smu]:
        """Handles of everything this agent holds besides conversations, in the order of their
        slots. They are not leases of their own: releasing one gives back one reference that the
        agent has already. After a store was opened again, this is where its content is found."""
    def conversation(self, name: str | None = None) -> Conversation:
        """The agent's conversation of that name, created when there is none; without a name a new
        one."""
    def load(self, transcript: str | Buffer) -> list[Conversation]:
        """Make a new conversation of each that a transcript holds, JSON or JSONL: usually one, and
        one for each run where a list or the lines hold runs with messages of their own. Rendered
        one after the other they give the same bytes back. If something is refused, none is left.

        Raises what :meth:`put` raises."""
    def conversations(self) -> list[str]:
        """Names of its conversations."""
    def pause(self) -> None:
        """Stop for now: its content is the first to be demoted."""
    def resume(self) -> None:
        """Go on: state becomes active."""
    def idle(self) -> None:
        """Nothing to do: its content is demoted early."""
    def stats(self) -> dict[str, Any]:
        """Figures of this agent: ``name``, ``pid``, ``state``, ``importance``, ``quota_bytes``,
        ``created_s``, ``last_active_s`` (Unix seconds), ``smus``, ``conversations``, ``messages``,
        ``logical_bytes``, ``hot_bytes``, ``stored_bytes``, ``shared_bytes``."""
    def leave(self, *, keep_empty: bool = True) -> None:
        """Leave it to be taken up again by its name, with all that it holds, by this process or
        another: what closing the store does with all of its agents. Its handles and those of its
        conversations raise ``Closed`` from then on.

        Args:
            keep_empty: Whether it stays if it holds nothing; otherwise it is then closed.
        """
    def close(self) -> None:
        """Unregister: all its leases and conversations are given back. Closing the *store* keeps
        agents; closing an agent ends it."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

class Smu:
    """A handle on one semantic memory unit: immutable content with a kind."""

    @property
    def kind(self) -> KindName: ...
    @property
    def logical_bytes(self) -> int: ...
    @property
    def importance(self) -> int: ...
    @property
    def name(self) -> str | None: ...
    @property
    def tier(self) -> TierName: ...
    @property
    def numa_node(self) -> int | None:
        """NUMA node that holds the raw bytes; ``None`` while they are not hot."""
    @property
    def id(self) -> str:
        """Content id, 64 hex digits. Waits until the engine has sealed the content."""
    @property
    def stored_bytes(self) -> int:
        """Bytes kept for it after sharing and codec. Waits until it is sealed."""
    @property
    def shared_by(self) -> int:
        """Agents that hold it. Waits until it is sealed."""
    def view(self) -> View:
        """A read-only view, to be used in a ``with`` statement; zero copy. What is not hot is
        promoted first.

        Raises:
            Released: The handle was released.
            Damaged: The stored bytes fail their checksum.
            OutOfMemory: There is no room to promote it to.
        """
    def view_async(self) -> Awaitable[View]:
        """:meth:`view` in a worker thread."""
    def read(self) -> bytes:
        """A copy of the content."""
    def text(self) -> str:
        """The content as text; raises ``UnicodeDecodeError`` if it is none."""
    def __len__(self) -> int: ...

class View:
    """Pins content and gives its bytes as a read-only buffer. Leaving the ``with`` block unpins;
    a ``memoryview`` that is still alive then keeps the bytes until it goes."""

    def __enter__(self) -> memoryview: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def release(self) -> None:
        """What leaving the ``with`` block does."""
    def __len__(self) -> int: ...

Message: TypeAlias = Mapping[str, Any] | Sequence[Any] | str | Buffer

class Conversation:
    """An ordered, forkable list of messages.

    Its name is unique among its agent's. A message given as bytes (or another buffer) comes back as
    the same bytes; one given as a dict, list or str comes back equal as a value.
    """

    @property
    def name(self) -> str:
        """Its name; one was made up if none was given."""
    @property
    def logical_bytes(self) -> int: ...
    @property
    def stored_bytes(self) -> int:
        """Bytes of the frames it uses and of its unpacked tail. Waits for the engine."""
    def append(self, message: Message) -> None:
        """Add one message. Raises what :meth:`Agent.put` raises."""
    def extend(self, messages: Sequence[Message]) -> None:
        """Add several messages in order; if one is refused, those before it are in."""
    def load(self, transcript: str | Buffer) -> int:
        """Add a whole conversation given as JSON or JSONL, split into its messages. Return how
        many; if one is refused, those before it are in. :meth:`render` gives the same bytes back,
        and indexing gives each message's own text as bytes, without what surrounds it. Where the
        text holds several conversations, :meth:`Agent.load` tells them apart."""
    def render(self) -> bytes:
        """All messages in order as one text: loaded transcripts byte for byte; values as one JSON
        text a line; bytes as they are."""
    def fork(
        self, at: int | None = None, *, name: str | None = None, agent: Agent | None = None
    ) -> Conversation:
        """A new conversation with the first ``at`` messages (all by default), sharing their
        storage; held by the same agent or by ``agent``.

        Raises:
            InvalidArgument: ``at`` is beyond the end.
            NameTaken: The agent has a conversation of that name.
        """
    def raw(self, index: int) -> bytes:
        """The bytes of one message, whichever way it was given, without what surrounded it in a
        transcript."""
    def read_async(self, index: int) -> Awaitable[Any]:
        """``self[index]`` in a worker thread."""
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...

class Corpus:
    """Texts to measure with: transcripts of agents, system prompts and tool definitions."""

    @staticmethod
    def open(paths: Sequence[str | PathLike[str]]) -> Corpus:
        """Read folders, files and ``.tar.zst`` archives into memory, as one corpus.

        Raises:
            Io: One of them cannot be read, or there is no text in it.
        """
    @staticmethod
    def generate(seed: int, size_bytes: int) -> Corpus:
        """Make about ``size_bytes`` of transcripts that have the sizes and the compression ratios
        of real ones."""
    @property
    def synthetic(self) -> bool:
        """Whether any of it is generated."""
    def sources(self) -> dict[str, list[list[str]]]:
        """Where the conversations come from: source to its files, and each file as the names of
        the conversations in it. The name of the only one is the path inside the corpus."""
    def original(self, name: str) -> list[bytes]:
        """The messages of one conversation.

        Raises:
            NotFound: There is none of that name.
        """
    def rewritten(
        self, seed: int, agent: int, target_bytes: int
    ) -> Iterator[tuple[str, list[bytes]]]:
        """Conversations for agent number ``agent``: the name of each original, and its messages
        with words and identifiers replaced, the same throughout and otherwise than for any other
        agent. They end with the message that reaches ``target_bytes`` in all. A thread rewrites
        ahead by one conversation."""
    def prompt(self, seed: int, size_bytes: int) -> bytes:
        """A system prompt of that many bytes, from those of the corpus or generated."""
    def tools(self, seed: int, size_bytes: int) -> bytes:
        """Tool definitions of that many bytes, from those of the corpus or generated."""

class Tally:
    """How conversations compress with zstd at level 3, summed up."""

    def __init__(self) -> None: ...
    def add(self, conversation: Sequence[bytes]) -> None:
        """Add a conversation, given as its messages in order."""
    @property
    def logical_bytes(self) -> int:
        """Bytes of everything that was added."""
    def ratios(self) -> dict[str, float]:
        """Original by compressed bytes: each ``message`` alone, in a ``block`` of 64 KiB, in a
        ``stream`` with a flush after every message, and the conversation as a ``whole``."""

class MessageSet:
    """The messages of one agent, remembered by hash."""

    def __init__(self) -> None: ...
    def add(self, messages: Sequence[bytes]) -> None:
        """Add messages, each as often as it occurs."""

def equal_share(agents: Sequence[MessageSet]) -> float:
    """The share of the bytes of all agents that lies in messages which another agent has too."""
