/**
 * Memory management for fleets of AI agents on Linux.
 *
 *     const agentmem = require("libagentmem-node");
 *
 *     const store = await agentmem.open();
 *     const agent = await store.agent("planner");
 *     const prompt = agent.put("You plan.", { kind: "system_prompt", name: "base-prompt" });
 *     const view = await prompt.view();
 *     console.log(view.buffer.toString());
 *     view.release();
 *     await store.close();
 *
 * What asks the engine is a promise; put, append, release and views of what is hot are plain calls. Everything thrown is
 * an `AgentMemError` of `agentmem.errors`.
 */

import { native } from "./native";

/** Version of the package. */
export const version = native.version();

export * as errors from "./errors";
export { Agent, type AgentState, type GrantOptions, type PutOptions } from "./agent";
export { alloc, type AllocOptions } from "./alloc";
export type { Content, JsonValue } from "./arguments";
export { Conversation, type ForkOptions, type Message } from "./conversation";
export { AgentMemError } from "./errors";
export { Smu, type Advice, type Kind, type Tier } from "./smu";
export type {
  AgentStats,
  AgentStatsByTier,
  ConversationDescription,
  DomainStats,
  FrameDescription,
  Grant,
  KindStats,
  SmuDescription,
  Stats,
  Verification,
} from "./stats";
export { connect, open, Store, type AgentOptions, type ConnectOptions, type OnFull, type OpenOptions } from "./store";
export { View } from "./view";
