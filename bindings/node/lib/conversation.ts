/** Conversations. */

import type { Agent } from "./agent";
import { amount, bytesLike, bytesOf, checked, encodeValue, word, type Content, type JsonValue } from "./arguments";
import { InvalidArgument } from "./errors";
import { native, type ConversationHandle } from "./native";

/** A message: bytes come back as the same bytes, a value of JSON comes back equal. */
export type Message = null | boolean | number | string | object;

/** How a fork is made. */
export interface ForkOptions {
  /** How many messages it has; all by default. */
  at?: number | undefined;
  /** Its name; one is made up by default. */
  name?: string | undefined;
  /** Who holds it; the agent of the conversation by default. */
  agent?: Agent | undefined;
}

const FORK = { at: amount, name: word, agent: someAgent };

function someAgent(agent: Agent): void {
  // Its class is known later than this file.
  if (agent?._native === undefined) throw new InvalidArgument("agent is not an Agent");
}

function giveBack(message: string | Buffer): JsonValue | Buffer {
  return typeof message === "string" ? (JSON.parse(message) as JsonValue) : message;
}

/** An ordered, forkable list of messages. Its name is unique among its agent's. */
export class Conversation {
  /** Who holds it. */
  readonly agent: Agent;
  /** @internal */
  readonly _native: ConversationHandle;

  /** Made by agents. */
  constructor(agent: Agent, handle: ConversationHandle) {
    this.agent = agent;
    this._native = handle;
  }

  /** Its name; one was made up if none was given. */
  get name(): string {
    return native.conversationName(this._native);
  }

  /** Messages in it. */
  get length(): number {
    return native.conversationLen(this._native);
  }

  /** Bytes of its messages. */
  get logicalBytes(): number {
    return native.conversationLogicalBytes(this._native);
  }

  /** Bytes of the frames it uses and of its unpacked tail. Waits for the engine. */
  async storedBytes(): Promise<number> {
    return native.conversationStoredBytes(this._native);
  }

  /**
   * Adds one message: bytes, or a value that JSON gives back equal. Throws what {@link Agent.put} throws.
   *
   * @throws InvalidArgument: a value that would come back different, such as one with undefined, NaN or a Date in it.
   */
  append(message: Message): void {
    const bytes = bytesLike(message);
    const agent = this.agent._native;
    native.conversationAppend(agent, this._native, bytes ?? encodeValue(message), bytes === undefined);
  }

  /** Adds several messages in order; if one is refused, those before it are in. */
  extend(messages: Iterable<Message>): void {
    for (const message of messages) this.append(message);
  }

  /**
   * Adds a transcript given as JSON or JSONL, split into its messages, and gives their number; if one is refused, those
   * before it are in. {@link render} gives the same bytes back, {@link get} each message's own text as bytes. Where the
   * text holds several conversations, {@link Agent.load} tells them apart.
   */
  async load(transcript: Content): Promise<number> {
    return native.conversationLoad(this._native, bytesOf(transcript));
  }

  /** All messages in order as one text: transcripts byte for byte, values as one JSON text a line, bytes as they are. */
  async render(): Promise<Buffer> {
    return native.conversationRender(this._native);
  }

  /**
   * A message as it was given; from the end where `index` is negative.
   *
   * @throws InvalidArgument: there is none.
   */
  async get(index: number): Promise<JsonValue | Buffer> {
    return giveBack(await native.conversationGet(this._native, this.#place(index)));
  }

  /** The bytes of one message, whichever way it was given, without what surrounded it in a transcript. */
  async raw(index: number): Promise<Buffer> {
    return native.conversationRaw(this._native, this.#place(index));
  }

  /** Messages from `start` on, before `end`, as they were given; all by default. */
  async slice(start = 0, end = this.length): Promise<(JsonValue | Buffer)[]> {
    const messages = [];
    for await (const message of this.#walk(amount(start, "start"), amount(end, "end"))) messages.push(message);
    return messages;
  }

  /** All messages as they were given, those too that are added meanwhile. */
  [Symbol.asyncIterator](): AsyncGenerator<JsonValue | Buffer, void, undefined> {
    return this.#walk(0, Number.MAX_SAFE_INTEGER);
  }

  async *#walk(at: number, end: number): AsyncGenerator<JsonValue | Buffer, void, undefined> {
    for (;;) {
      const messages = await native.conversationRead(this._native, at, end);
      if (messages.length === 0) return;
      at += messages.length;
      for (const message of messages) yield giveBack(message);
    }
  }

  #place(index: number): number {
    if (!Number.isSafeInteger(index)) throw new InvalidArgument(`message ${String(index)}`);
    return index < 0 ? this.length + index : index;
  }

  /**
   * A new conversation with the first messages of this one, which share their storage.
   *
   * @throws InvalidArgument: `at` is beyond the end.
   * @throws NameTaken: the agent has a conversation of that name.
   */
  async fork(options: ForkOptions = {}): Promise<Conversation> {
    const { at, name, agent = this.agent } = checked(options, FORK);
    return new Conversation(agent, await native.conversationFork(this._native, agent._native, at, name));
  }
}
