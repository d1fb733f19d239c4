/** Agents. */

import { amount, bytesOf, checked, maybeAmount, word, type Content } from "./arguments";
import { Conversation } from "./conversation";
import { InvalidArgument } from "./errors";
import { native, type AgentHandle } from "./native";
import { Smu, type Advice, type Kind } from "./smu";
import type { AgentStats } from "./stats";
import type { Store } from "./store";

/** What an agent does. */
export type AgentState = "active" | "idle" | "paused";

/** What a put may say about its content. */
export interface PutOptions {
  /** What the content is; "tool_result" by default. */
  kind?: Kind | undefined;
  /**
   * Name in the store by which others can attach; 1 to 255 bytes, and not 64 hex digits, which are an id. It names the
   * newest content that was put under it, and goes with the last lease on that.
   */
  name?: string | undefined;
  /** 0 to 100; 50 by default. */
  importance?: number | undefined;
}

/** How content is granted. */
export interface GrantOptions {
  /** For how many milliseconds, a year at most; an hour by default. */
  lastsMs?: number | undefined;
  /** How often it can be redeemed; once by default. */
  uses?: number | undefined;
}

const PUT = { kind: word, name: word, importance: amount };
const GRANT = { lastsMs: amount, uses: amount };

const KINDS = new Map(native.kinds().map((kind, number) => [kind, number]));

/** The number of a kind; throws InvalidArgument where it is none. */
export function kindNumber(kind: Kind): number {
  const number = KINDS.get(kind);
  if (number === undefined) throw new InvalidArgument(`${String(kind)} is none of ${[...KINDS.keys()].join(", ")}`);
  return number;
}

/** A registered agent: who holds leases, is charged for them, and is demoted together. */
export class Agent {
  /** Where it is registered. */
  readonly store: Store;
  /** @internal */
  readonly _native: AgentHandle;

  /** Made by `Store.agent`. */
  constructor(store: Store, handle: AgentHandle) {
    this.store = store;
    this._native = handle;
  }

  get name(): string {
    return native.agentName(this._native);
  }

  /** Most logical bytes it may hold; null: as many as it likes. */
  get quotaBytes(): number | null {
    return native.agentQuotaBytes(this._native);
  }

  /** The process that it belongs to. */
  async pid(): Promise<number> {
    return native.agentPid(this._native);
  }

  /** 0 to 100. */
  async importance(): Promise<number> {
    return native.agentImportance(this._native);
  }

  async state(): Promise<AgentState> {
    return (await native.agentState(this._native)) as AgentState;
  }

  /** Changes its importance, 0 to 100. */
  async setImportance(importance: number): Promise<void> {
    return native.agentSetImportance(this._native, amount(importance, "importance"));
  }

  /** Changes its quota; null: it has none. What it holds already stays. */
  async setQuotaBytes(quotaBytes: number | null): Promise<void> {
    return native.agentSetQuotaBytes(this._native, maybeAmount(quotaBytes, "quotaBytes"));
  }

  /**
   * Stores content and returns its handle at once; hashing, sharing and compression follow. Where there is no room it
   * waits, or fails if the store was opened with `onFull: "fail"`.
   *
   * @param data Text (kept as UTF-8) or bytes; at most 4 GiB. It is copied before this returns.
   * @throws QuotaExceeded: the agent's quota of logical bytes is used up.
   * @throws ArenaFull: there is no room just now, and the store does not wait for it.
   * @throws OutOfMemory: the budget is full and nothing can be demoted.
   * @throws InvalidArgument: data, a kind, a name, an importance or a size that cannot be.
   * @throws Closed: the agent or the store is closed.
   */
  put(data: Content, options: PutOptions = {}): Smu {
    const { kind = "tool_result", name, importance = 50 } = checked(options, PUT);
    const handle = native.put(this._native, bytesOf(data), kindNumber(kind), name, importance);
    return new Smu(this, handle);
  }

  /**
   * Leases content that is there already: by id (64 hex digits), by name, or by a handle.
   *
   * @throws NotFound: nothing is stored under that id or name.
   * @throws QuotaExceeded: the agent's quota of logical bytes is used up.
   */
  async attach(key: string | Smu): Promise<Smu> {
    const attached =
      key instanceof Smu
        ? native.attachSmu(this._native, key._native)
        : native.attachKey(this._native, word(key, "an id or name"));
    return new Smu(this, await attached);
  }

  /** Gives `to` a lease of its own on `smu`. No bytes move. */
  async share(smu: Smu, to: Agent): Promise<Smu> {
    return to.attach(smu);
  }

  /**
   * Lets agents of another trust domain copy `smu`, a handle of this agent's; gives the text that redeems the grant. It
   * holds nothing: once this agent releases `smu`, there is nothing to redeem. Every grant, redemption and revocation is
   * written to a log beside the daemon's socket.
   *
   * @param toDomain Who may; null: the user's own domain. Whether there is such a domain is not said.
   * @throws LimitReached: the domain has as many grants as it may have (1,024).
   * @throws InvalidArgument: a number or name out of range, or the agent's own domain.
   * @throws Unsupported: the store is no daemon's.
   * @throws Io: it could not be logged.
   */
  async grant(smu: Smu, toDomain: string | null, options: GrantOptions = {}): Promise<string> {
    const { lastsMs = 3_600_000, uses = 1 } = checked(options, GRANT);
    const to = toDomain === null ? undefined : word(toDomain, "toDomain");
    return native.agentGrant(this._native, smu._native, to, lastsMs, uses);
  }

  /**
   * Copies what another trust domain granted to this one. The copy has an id of this domain, and needs nothing of the
   * other any more.
   *
   * @throws NotFound: the grant cannot be redeemed here: it is unknown, used up, over, revoked, of what was released, or
   *   for another domain. It is not said which.
   * @throws InvalidArgument: that is not the text of a grant.
   * @throws QuotaExceeded: the agent's quota is used up. DomainQuotaExceeded: the domain's is.
   */
  async redeem(grant: string): Promise<Smu> {
    return new Smu(this, await native.agentRedeem(this._native, word(grant, "grant")));
  }

  /**
   * Gives a lease back: of content at once, of a conversation when the promise is kept. Content goes when its last lease
   * goes; views keep what they see.
   *
   * @throws Released: it was released before.
   */
  release(held: Smu): void;
  release(held: Conversation): Promise<void>;
  release(held: Smu | Conversation): void | Promise<void> {
    if (held instanceof Smu) return native.releaseSmu(this._native, held._native);
    return native.releaseConversation(this._native, held._native);
  }

  /** Says what is known about the next use. */
  async advise(held: Smu | Conversation, advice: Advice): Promise<void> {
    if (held instanceof Smu) return native.smuAdvise(held._native, word(advice, "advice"));
    return native.conversationAdvise(held._native, word(advice, "advice"));
  }

  /**
   * Handles of all it holds besides conversations. They are not leases of their own: releasing one gives back a
   * reference that the agent has already. After a store was opened again, this is where its content is found.
   */
  async smus(): Promise<Smu[]> {
    return (await native.agentSmus(this._native)).map((handle) => new Smu(this, handle));
  }

  /** Its conversation of that name, made when there is none; without a name a new one. */
  async conversation(name?: string): Promise<Conversation> {
    if (name !== undefined) word(name, "name");
    return new Conversation(this, await native.agentConversation(this._native, name));
  }

  /** Names of its conversations. */
  async conversations(): Promise<string[]> {
    return native.agentConversations(this._native);
  }

  /**
   * Makes a new conversation of each that a transcript holds, JSON or JSONL: usually one, and one for each run where a
   * list or the lines hold runs with messages of their own. Rendered one after the other they give the same bytes back.
   * If something is refused, none is left. Throws what {@link put} throws.
   */
  async load(transcript: Content): Promise<Conversation[]> {
    const loaded = await native.agentLoad(this._native, bytesOf(transcript));
    return loaded.map((handle) => new Conversation(this, handle));
  }

  /** Stops for now: its content is the first to be demoted. */
  async pause(): Promise<void> {
    return native.agentSetState(this._native, "paused");
  }

  /** Goes on: its state is active. */
  async resume(): Promise<void> {
    return native.agentSetState(this._native, "active");
  }

  /** Has nothing to do: its content is demoted early. */
  async idle(): Promise<void> {
    return native.agentSetState(this._native, "idle");
  }

  async stats(): Promise<AgentStats> {
    return (await native.agentStats(this._native)) as AgentStats;
  }

  /**
   * Leaves it to be taken up again by its name, with all that it holds, by this process or another: what closing the store
   * does with all of its agents. Its handles and those of its conversations throw `Closed` from then on.
   */
  async leave(): Promise<void> {
    return native.agentLeave(this._native);
  }

  /** Unregisters it: all its leases and conversations are given back. Closing the store keeps agents; this ends one. */
  async close(): Promise<void> {
    return native.agentClose(this._native);
  }

  /** What the end of an `await using` block does. */
  async [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
