/** The short way to share content: one call, on the user's daemon. */

import { isMainThread, threadId } from "node:worker_threads";
import { kindNumber, type Agent } from "./agent";
import { amount, bytesOf, checked, word, type Content } from "./arguments";
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

const ALLOC = { type: word, data: bytesOf, name: word, importance: amount };

/** The kind that a type means. */
function kindOf(type: Uppercase<Kind>): Kind {
  if (typeof type !== "string" || type !== type.toUpperCase()) {
    throw new InvalidArgument(`type ${String(type)}: give SYSTEM_PROMPT, TOOL_DEFINITION, TOOL_RESULT or MESSAGE`);
  }
  const kind = type.toLowerCase() as Kind;
  kindNumber(kind);
  return kind;
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
export async function alloc(options: AllocOptions): Promise<Smu> {
  const { type, data, name, importance } = checked(options, ALLOC);
  // Before a daemon is started for it.
  const [kind, bytes] = [kindOf(type), bytesOf(data)];
  const agent = await ownAgent();
  return agent.put(bytes, { kind, name, importance });
}
