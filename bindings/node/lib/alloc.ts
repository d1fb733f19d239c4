/** The short way to share content: one call, on the user's daemon. */

import { isMainThread, threadId } from "node:worker_threads";
import { kindNumber, type Agent } from "./agent";
import type { Content } from "./arguments";
import { InvalidArgument } from "./errors";
import type { Kind, Smu } from "./smu";
import { connect } from "./store";

/** What is allocated. */
export interface AllocOptions {
  /** What it is. */
  type: Uppercase<Kind>;
  /** Text, or bytes. */
  data: Content;
  /** Name by which others can attach. */
  name?: string | undefined;
  /** 0 to 100; 50 by default. */
  importance?: number | undefined;
}

let own: Promise<Agent> | undefined;

/** Registers this process, or this worker of it. */
async function register(): Promise<Agent> {
  const store = await connect();
  try {
    return await store.agent(isMainThread ? `node-${process.pid}` : `node-${process.pid}-${threadId}`);
  } catch (error) {
    await store.close();
    throw error;
  }
}

/** The agent of this process: registered when it is needed first, and again after its store was closed or a failure. */
async function ownAgent(): Promise<Agent> {
  const known = own;
  const isGone = await known?.then(
    (agent) => agent.store.isClosed,
    () => true,
  );
  if (isGone && own === known) own = undefined;
  own ??= register();
  return own;
}

/**
 * Stores content in the name of this process, on the user's daemon (which is started where it does not run). The handle
 * names the agent that holds it: `smu.agent.release(smu)` gives it back, and so does the end of the process.
 *
 * Throws what `connect` and `Agent.put` throw.
 */
export async function alloc({ type, data, name, importance }: AllocOptions): Promise<Smu> {
  if (typeof type !== "string" || type !== type.toUpperCase()) {
    throw new InvalidArgument(`type ${String(type)}: give SYSTEM_PROMPT, TOOL_DEFINITION, TOOL_RESULT or MESSAGE`);
  }
  const kind = type.toLowerCase() as Kind;
  // Before a daemon is started for it.
  kindNumber(kind);
  const agent = await ownAgent();
  return agent.put(data, { kind, name, importance });
}
