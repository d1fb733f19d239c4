/** What the native module offers (src/*.rs). Handles are opaque; what can wait is a promise. */

import { BY_NUMBER } from "./errors";

declare const handle: unique symbol;
interface Handle<Name extends string> {
  readonly [handle]: Name;
}

export type StoreHandle = Handle<"store">;
export type AgentHandle = Handle<"agent">;
export type SmuHandle = Handle<"smu">;
export type ConversationHandle = Handle<"conversation">;

interface Native {
  version(): string;
  kinds(): string[];
  makeErrorsWith(maker: (number: number, text: string) => Error): void;

  openStore(options: object): Promise<StoreHandle>;
  connectStore(
    socket: string,
    domain: string | undefined,
    token: Uint8Array | undefined,
    onFull: string,
  ): Promise<StoreHandle>;
  defaultSocket(user: number): string;
  storePath(store: StoreHandle): string | null;
  storeMemoryMaxBytes(store: StoreHandle): number;
  storeIsClosed(store: StoreHandle): boolean;
  storeAgent(
    store: StoreHandle,
    name: string,
    importance: number | undefined,
    quotaBytes: number | undefined,
    pid: number | undefined,
    lasting: boolean,
  ): Promise<AgentHandle>;
  storeAgents(store: StoreHandle): Promise<string[]>;
  storeFlush(store: StoreHandle): Promise<void>;
  storeStats(store: StoreHandle): Promise<object>;
  storeAgentStats(store: StoreHandle, name: string): Promise<object>;
  storeAllAgentStats(store: StoreHandle): Promise<object[]>;
  storeLimit(store: StoreHandle, name: string, quotaBytes: number | undefined): Promise<void>;
  storeInspect(store: StoreHandle, key: string): Promise<object>;
  storeReadContent(store: StoreHandle, id: string, offsetBytes: number): Promise<Buffer>;
  storeReadMessages(
    store: StoreHandle,
    number: number,
    index: number,
    end: number,
  ): Promise<{ text: Buffer; messages: number }>;
  storeDomain(store: StoreHandle): Promise<object>;
  storeLimitDomain(store: StoreHandle, quotaBytes: number | undefined, agentsMax: number | undefined): Promise<void>;
  storeGrants(store: StoreHandle): Promise<object[]>;
  storeRevoke(store: StoreHandle, grant: string): Promise<void>;
  storeReclaim(store: StoreHandle, targetBytes: number | undefined): Promise<number>;
  storeVerify(store: StoreHandle): Promise<object>;
  storeClose(store: StoreHandle): Promise<void>;
  storeCloseNow(store: StoreHandle): void;

  put(agent: AgentHandle, content: Uint8Array, kind: number, name: string | undefined, importance: number): SmuHandle;
  attachSmu(agent: AgentHandle, smu: SmuHandle): Promise<SmuHandle>;
  attachKey(agent: AgentHandle, key: string): Promise<SmuHandle>;
  releaseSmu(agent: AgentHandle, smu: SmuHandle): void;
  releaseConversation(agent: AgentHandle, conversation: ConversationHandle): Promise<void>;
  agentName(agent: AgentHandle): string;
  agentQuotaBytes(agent: AgentHandle): number | null;
  agentPid(agent: AgentHandle): Promise<number>;
  agentImportance(agent: AgentHandle): Promise<number>;
  agentState(agent: AgentHandle): Promise<string>;
  agentSetImportance(agent: AgentHandle, importance: number): Promise<void>;
  agentSetQuotaBytes(agent: AgentHandle, quotaBytes: number | undefined): Promise<void>;
  agentSetState(agent: AgentHandle, state: string): Promise<void>;
  agentSmus(agent: AgentHandle): Promise<SmuHandle[]>;
  agentConversation(agent: AgentHandle, name: string | undefined): Promise<ConversationHandle>;
  agentConversations(agent: AgentHandle): Promise<string[]>;
  agentLoad(agent: AgentHandle, transcript: Uint8Array): Promise<ConversationHandle[]>;
  agentStats(agent: AgentHandle): Promise<object>;
  agentGrant(
    agent: AgentHandle,
    smu: SmuHandle,
    toDomain: string | undefined,
    lastsMs: number,
    uses: number,
  ): Promise<string>;
  agentRedeem(agent: AgentHandle, grant: string): Promise<SmuHandle>;
  agentLeave(agent: AgentHandle): Promise<void>;
  agentClose(agent: AgentHandle): Promise<void>;

  smuKind(smu: SmuHandle): string;
  smuLogicalBytes(smu: SmuHandle): number;
  smuImportance(smu: SmuHandle): number;
  smuName(smu: SmuHandle): Promise<string | null>;
  smuTier(smu: SmuHandle): Promise<string>;
  smuNumaNode(smu: SmuHandle): Promise<number | null>;
  smuId(smu: SmuHandle): Promise<string>;
  smuStoredBytes(smu: SmuHandle): Promise<number>;
  smuSharedBy(smu: SmuHandle): Promise<number>;
  smuAdvise(smu: SmuHandle, advice: string): Promise<void>;

  firstPin(): number;
  viewNow(smu: SmuHandle, pin: number): Buffer | null;
  view(smu: SmuHandle, pin: number): Promise<Buffer>;
  isPinned(pin: number): boolean;
  unpin(buffer: Buffer, pin: number): void;

  conversationName(conversation: ConversationHandle): string;
  conversationLen(conversation: ConversationHandle): number;
  conversationLogicalBytes(conversation: ConversationHandle): number;
  conversationStoredBytes(conversation: ConversationHandle): Promise<number>;
  conversationAppend(agent: AgentHandle, conversation: ConversationHandle, message: Uint8Array, isValue: boolean): void;
  conversationLoad(conversation: ConversationHandle, transcript: Uint8Array): Promise<number>;
  /** The JSON text of messages that were given as values, the bytes of others. */
  conversationRead(conversation: ConversationHandle, index: number, end: number): Promise<(string | Buffer)[]>;
  conversationGet(conversation: ConversationHandle, index: number): Promise<string | Buffer>;
  conversationRaw(conversation: ConversationHandle, index: number): Promise<Buffer>;
  conversationRender(conversation: ConversationHandle): Promise<Buffer>;
  conversationFork(
    conversation: ConversationHandle,
    agent: AgentHandle,
    at: number | undefined,
    name: string | undefined,
  ): Promise<ConversationHandle>;
  conversationAdvise(conversation: ConversationHandle, advice: string): Promise<void>;
}

function load(): Native {
  try {
    return require("./agentmem.node") as Native;
  } catch (error) {
    const found = error as NodeJS.ErrnoException;
    if (found.code === "MODULE_NOT_FOUND") {
      throw new Error("agentmem was not built: npm install in bindings/node", { cause: error });
    }
    throw error;
  }
}

export const native = load();

native.makeErrorsWith((number, text) => {
  const kind = BY_NUMBER[number];
  return kind ? new kind(text) : new Error(`error ${number}, unknown to this version: ${text}`);
});
