/** Stores: opened in this process, or a session with the daemon. */

import { Agent } from "./agent";
import { amount, bytesOf, checked, flag, maybeAmount, word, type Content } from "./arguments";
import { start } from "./daemon";
import { Unreachable } from "./errors";
import { native, type StoreHandle } from "./native";
import type {
  AgentStats,
  AgentStatsByTier,
  ConversationDescription,
  DomainStats,
  Grant,
  SmuDescription,
  Stats,
  Verification,
} from "./stats";

/** What a put does when there is no room: wait for the engine, or fail with ArenaFull. */
export type OnFull = "wait" | "fail";

/** How a store is opened. */
export interface OpenOptions {
  /**
   * Folder of the cold tier, made when missing; a store that was closed there opens again with the same agents, names,
   * conversations and SMUs. By default a temporary folder that only this user can read, removed at close.
   */
  path?: string | undefined;
  /** Budget for everything that the engine keeps in RAM, its tables included; 2 GiB by default. */
  memoryMaxBytes?: number | undefined;
  /** Who is demoted first; "semantic" by default. */
  policy?: "semantic" | "lru" | undefined;
  /** Whether there is a cold tier; without one nothing is written to disk. True by default. */
  cold?: boolean | undefined;
  /** Without use for so long, hot content is compressed; 5 minutes by default. */
  warmAfterMs?: number | undefined;
  /** Without use for so long, compressed content moves to the cold tier; days by default. */
  coldAfterMs?: number | undefined;
  /** "wait" by default, which waits in the event loop's thread. */
  onFull?: OnFull | undefined;
  /** Size of the ring that puts are written to; 32 MiB by default. */
  arenaBytes?: number | undefined;
  /** zstd level from hot to warm, 1 to 19; 3 by default. */
  warmLevel?: number | undefined;
  /** zstd level for content that ages into the cold tier, 1 to 19; 9 by default. */
  coldLevel?: number | undefined;
  /** Whether to demote earlier when the kernel reports memory pressure; true by default. */
  pressure?: boolean | undefined;
  /**
   * What holds sealed SMUs of a page or more while they are in RAM: "user", the engine, by default; "kernel", the kernel
   * module, or Unsupported where there is none; "auto", the module where there is one, else the engine.
   */
  backend?: "user" | "kernel" | "auto" | undefined;
}

/** How a session is opened. */
export interface ConnectOptions {
  /** Where the daemon listens; by default `AGENTMEM_SOCKET`, else `agentmem/agentmem.sock` in `XDG_RUNTIME_DIR`. */
  socket?: string | undefined;
  /**
   * A trust domain within this user's, for agents that do not trust the others: ids, names, content, quotas and figures
   * of one mean nothing in another. By default the user's own.
   */
  domain?: string | undefined;
  /** What opens the domain, 16 to 1,024 bytes. Who may make a domain by naming it first, the daemon's configuration says. */
  token?: Content | undefined;
  /**
   * Most logical bytes that all agents of the domain may hold together from now on, see {@link Store.limitDomain}. By
   * default as it was, and for a new domain what the daemon's configuration gives it.
   */
  quotaBytes?: number | undefined;
  /** "wait" by default, which waits in the event loop's thread. */
  onFull?: OnFull | undefined;
  /** Whether to start the daemon where none listens; true by default. */
  start?: boolean | undefined;
}

/** How an agent is registered. */
export interface AgentOptions {
  /** 0 to 100; by default 50, or what it was if the store knows the agent. */
  importance?: number | undefined;
  /** Most logical bytes it may hold; by default as many as it likes, or what it was. */
  quotaBytes?: number | undefined;
  /** Process it belongs to; this one by default. An agent whose process has died is reaped. */
  pid?: number | undefined;
  /**
   * Whether it is not reaped then, but waits to be taken up again by its name, with all that was put and appended until
   * then; false by default.
   */
  lasting?: boolean | undefined;
}

const OPEN = {
  path: word,
  memoryMaxBytes: amount,
  policy: word,
  cold: flag,
  warmAfterMs: amount,
  coldAfterMs: amount,
  onFull: word,
  arenaBytes: amount,
  warmLevel: amount,
  coldLevel: amount,
  pressure: flag,
  backend: word,
};
const CONNECT = { socket: word, domain: word, token: bytesOf, quotaBytes: amount, onFull: word, start: flag };
const AGENT = { importance: amount, quotaBytes: amount, pid: amount, lasting: flag };

/**
 * Opens a store whose engine runs on a thread of this process.
 *
 * @throws InvalidArgument: an option that there is not, or of another type, or out of range.
 * @throws StoreLocked: another process, or this one, has `path` open.
 * @throws Version: `path` was written by another format version.
 * @throws Damaged: the index in `path` cannot be read.
 * @throws Io: the system refused to read or write.
 */
export async function open(options: OpenOptions = {}): Promise<Store> {
  return kept(await native.openStore(checked(options, OPEN)));
}

/**
 * Opens a session with the daemon. It has the face of a store that {@link open} gives, and shares its content with every
 * other session without copying. Agents of a session that was closed keep what they hold, and can be taken up again by
 * their name; those of a process that dies give it back.
 *
 * @throws Unreachable: nobody listens there, and none could be started.
 * @throws Version: the daemon is of another version.
 * @throws PermissionDenied: the daemon belongs to another user; or the domain has another token, or does not exist and
 *   cannot be made, of which it is not said which; or the quota is more than the configuration gives.
 * @throws InvalidArgument: a name or token that cannot be one, or one without the other; and as {@link open}.
 * @throws LimitReached: the daemon has as many sessions or domains as it may have.
 */
export async function connect(options: ConnectOptions = {}): Promise<Store> {
  const { socket = native.defaultSocket(process.geteuid!()), quotaBytes, ...rest } = checked(options, CONNECT);
  const store = await dial(socket, rest);
  if (quotaBytes === undefined) return store;
  try {
    await store.limitDomain({ quotaBytes, agentsMax: (await store.domain()).agentsMax });
  } catch (error) {
    await store.close();
    throw error;
  }
  return store;
}

async function dial(socket: string, options: ConnectOptions): Promise<Store> {
  const { domain, onFull = "wait", start: mayStart = true } = options;
  const token = options.token === undefined ? undefined : bytesOf(options.token);
  const connected = async () => kept(await native.connectStore(socket, domain, token, onFull));
  try {
    return await connected();
  } catch (error) {
    if (!(error instanceof Unreachable) || !mayStart) throw error;
  }
  await start(socket);
  return connected();
}

/** Stores that nobody closed. They are closed when the process ends: it flushes, and leaves no temporary folder. */
const stores = new Set<Store>();

function kept(handle: StoreHandle): Store {
  const store = new Store(handle);
  stores.add(store);
  return store;
}

process.on("exit", () => {
  const failed: unknown[] = [];
  for (const store of stores) {
    try {
      native.storeCloseNow(store._native);
    } catch (error) {
      failed.push(error);
    }
  }
  if (failed.length > 0) throw failed[0];
});

/** A store of semantic memory units. It is there until it is closed, or the process ends. */
export class Store {
  /** @internal */
  readonly _native: StoreHandle;

  /** Made by `open` and `connect`. */
  constructor(handle: StoreHandle) {
    this._native = handle;
  }

  /** Folder of the cold tier; null where there is none, and in a session with the daemon. */
  get path(): string | null {
    return native.storePath(this._native);
  }

  /** The budget. */
  get memoryMaxBytes(): number {
    return native.storeMemoryMaxBytes(this._native);
  }

  /** Whether it can be used no more. */
  get isClosed(): boolean {
    return native.storeIsClosed(this._native);
  }

  /**
   * Registers an agent, or takes up the one of that name that nobody has: of a store that was opened again, of a session
   * that was closed, or one that was left ({@link Agent.leave}).
   *
   * @param name Unique among the agents of the store, 1 to 255 bytes.
   * @throws NameTaken: a registered agent has that name.
   * @throws InvalidArgument: the name or importance is out of range.
   * @throws LimitReached: the store has its most agents (1,000,000).
   */
  async agent(name: string, options: AgentOptions = {}): Promise<Agent> {
    const { importance, quotaBytes, pid, lasting = false } = checked(options, AGENT);
    const handle = native.storeAgent(this._native, word(name, "name"), importance, quotaBytes, pid, lasting);
    return new Agent(this, await handle);
  }

  /** Names of all agents, those included that nobody has taken up yet. */
  async agents(): Promise<string[]> {
    return native.storeAgents(this._native);
  }

  /**
   * Is kept when all that was put before is durable.
   *
   * @throws Unsupported: the store has no cold tier.
   * @throws Io: the system refused to write; nothing is lost, and a later flush can succeed.
   */
  async flush(): Promise<void> {
    return native.storeFlush(this._native);
  }

  /** Figures of the whole store. */
  async stats(): Promise<Stats> {
    return (await native.storeStats(this._native)) as Stats;
  }

  /** Figures of the agent called `name`, whoever has it. */
  async agentStats(name: string): Promise<AgentStats> {
    return (await native.storeAgentStats(this._native, word(name, "name"))) as AgentStats;
  }

  /** Figures of every agent, whoever has it, by name. */
  async allAgentStats(): Promise<AgentStatsByTier[]> {
    return (await native.storeAllAgentStats(this._native)) as AgentStatsByTier[];
  }

  /**
   * Changes the quota of the agent called `name`, whoever has it; null: it has none. What it holds already stays.
   *
   * @throws NotFound: there is no such agent.
   */
  async limit(name: string, quotaBytes: number | null): Promise<void> {
    return native.storeLimit(this._native, word(name, "name"), maybeAmount(quotaBytes, "quotaBytes"));
  }

  /** What the trust domain of the session holds and may hold, all its agents together. */
  async domain(): Promise<DomainStats> {
    return (await native.storeDomain(this._native)) as DomainStats;
  }

  /**
   * Changes what the trust domain may hold, all its agents together, until the daemon is started anew; null: as much as
   * the daemon's configuration gives it. What it holds already stays.
   *
   * @throws PermissionDenied: that is more than the configuration gives it.
   * @throws Unsupported: the store is no daemon's.
   */
  async limitDomain(limits: { quotaBytes: number | null; agentsMax: number | null }): Promise<void> {
    const { quotaBytes, agentsMax } = limits;
    return native.storeLimitDomain(
      this._native,
      maybeAmount(quotaBytes, "quotaBytes"),
      maybeAmount(agentsMax, "agentsMax"),
    );
  }

  /**
   * What other trust domains may still copy from this one, oldest first.
   *
   * @throws Unsupported: the store is no daemon's.
   */
  async grants(): Promise<Grant[]> {
    return (await native.storeGrants(this._native)) as Grant[];
  }

  /**
   * Takes a grant of this domain back, by its text or its id. What was redeemed before stays where it is.
   *
   * @throws NotFound: this domain has no such grant, or no longer.
   * @throws InvalidArgument: that is neither the text of a grant nor an id.
   * @throws Unsupported: the store is no daemon's.
   */
  async revoke(grant: string): Promise<void> {
    return native.storeRevoke(this._native, word(grant, "grant"));
  }

  /**
   * What `key` means, whoever holds it: an id or its first digits (four at least, and of no other id), the name of an
   * SMU, or `AGENT/CONVERSATION`. Looking is no use of it.
   *
   * @throws NotFound: it means nothing here.
   * @throws InvalidArgument: several ids begin with these digits.
   */
  async inspect(key: string): Promise<SmuDescription | ConversationDescription> {
    const described = await native.storeInspect(this._native, word(key, "key"));
    return described as SmuDescription | ConversationDescription;
  }

  /**
   * The bytes of what `key` means as for {@link inspect}, piece by piece and without promoting it; a conversation as
   * {@link Conversation.render} gives it.
   *
   * @throws Damaged: bytes fail their checksum.
   */
  async *pieces(key: string): AsyncGenerator<Buffer, void, undefined> {
    const found = await this.inspect(key);
    if (found.kind !== "conversation") {
      for (let at = 0; at < found.logicalBytes;) {
        const piece = await native.storeReadContent(this._native, found.id, at);
        at += piece.length;
        yield piece;
      }
      return;
    }
    for (let at = 0; at < found.messages;) {
      const piece = await native.storeReadMessages(this._native, found.number, at, found.messages);
      at += piece.messages;
      yield piece.text;
    }
  }

  /**
   * Demotes until the engine holds at most `targetBytes` of RAM; by default all that is hot and can be demoted. Gives
   * the bytes that were given back.
   */
  async reclaim(targetBytes?: number): Promise<number> {
    return native.storeReclaim(
      this._native,
      targetBytes === undefined ? targetBytes : amount(targetBytes, "targetBytes"),
    );
  }

  /** Reads and checks every frame and every id. */
  async verify(): Promise<Verification> {
    return (await native.storeVerify(this._native)) as Verification;
  }

  /**
   * Flushes where there is a path, stops the engine and gives all memory back; of a daemon's, ends the session. Views
   * stay readable until they go. Closing twice is fine.
   */
  async close(): Promise<void> {
    try {
      await native.storeClose(this._native);
    } finally {
      stores.delete(this);
    }
  }

  /** What the end of an `await using` block does. */
  async [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
