/** Never run: the compiler checks that the types say what the package offers. */

import * as agentmem from "..";
import { Agent, Conversation, errors, Smu, Store, View } from "..";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(_: Same<A, B>): void {}

export async function stores(): Promise<void> {
  await using store: Store = await agentmem.open({
    path: "folder",
    memoryMaxBytes: 64 << 20,
    policy: "lru",
    cold: true,
    warmAfterMs: 1000,
    coldAfterMs: 2000,
    onFull: "fail",
    arenaBytes: 1 << 20,
    warmLevel: 3,
    coldLevel: 9,
    pressure: false,
  });
  const token = Buffer.alloc(16);
  await agentmem.connect({ socket: "s", domain: "d", token, quotaBytes: 1, onFull: "wait", start: false });
  // @ts-expect-error: there is no such policy.
  await agentmem.open({ policy: "random" });
  // @ts-expect-error: there is no such option.
  await agentmem.open({ memoryMax: 1 });
  same<string | null, typeof store.path>(true);
  const stats: agentmem.Stats = await store.stats();
  const bytes: number = stats.byKind.system_prompt.storedBytes + stats.byTier.cold.bytes + (stats.counters["put"] ?? 0);
  const figures: agentmem.AgentStatsByTier[] = await store.allAgentStats();
  const found = await store.inspect("ab");
  if (found.kind === "conversation") found.tailBytes;
  else found.holders["a"];
  const damaged: string[] = (await store.verify()).damaged;
  for await (const piece of store.pieces("name")) piece.length;
  await store.limit("a", null);
  const domain: agentmem.DomainStats = await store.domain();
  await store.limitDomain({ quotaBytes: domain.quotaBytes, agentsMax: null });
  // @ts-expect-error: each limit is said.
  await store.limitDomain({ quotaBytes: 1 });
  const grants: agentmem.Grant[] = await store.grants();
  await Promise.all(grants.map((grant) => store.revoke(grant.id)));
  await store.reclaim(bytes + figures.length + damaged.length);
}

export async function agents(store: Store): Promise<Smu> {
  const agent: Agent = await store.agent("a", { importance: 9, quotaBytes: 1, pid: 2, lasting: true });
  const state: "active" | "idle" | "paused" = await agent.state();
  const smu = agent.put(new Uint16Array(4), { kind: "tool_definition", name: state, importance: 1 });
  // @ts-expect-error: a put takes bytes or text.
  agent.put(7);
  // @ts-expect-error: there is no such kind.
  agent.put("", { kind: "memo" });
  same<void, ReturnType<typeof release>>(true);
  const release = () => agent.release(smu);
  const conversation: Promise<void> = agent.release(await agent.conversation());
  await conversation;
  const grant: string = await agent.grant(smu, null, { lastsMs: 1000, uses: 3 });
  await agent.redeem(grant);
  await agent.leave();
  return agent.attach(smu);
}

export async function contents(smu: Smu): Promise<number> {
  using view: View = await smu.view();
  const now: View | null = smu.viewNow();
  const buffer: Buffer = view.buffer;
  // @ts-expect-error: it cannot be set.
  smu.importance = 3;
  // @ts-expect-error: handles are made by agents.
  new Smu();
  await smu.agent.advise(smu, "will_need");
  return buffer.length + (now?.buffer.length ?? 0) + (await smu.storedBytes()) + (await smu.id()).length;
}

interface Turn {
  role: string;
  content: unknown[];
}

export async function conversations(conversation: Conversation, agent: Agent): Promise<void> {
  const turn: Turn = { role: "user", content: ["text", 1, null, true] };
  conversation.append(turn);
  conversation.append(Buffer.from("bytes"));
  // @ts-expect-error: it would not come back equal.
  conversation.append(undefined);
  const message: agentmem.JsonValue | Buffer = await conversation.get(-1);
  for await (const each of conversation) same<typeof message, typeof each>(true);
  const fork: Conversation = await conversation.fork({ at: 1, name: "n", agent });
  const text: Buffer = await fork.render();
  text.toString();
}

export function caught(error: unknown): string {
  if (error instanceof errors.NotFound) same<"NotFound", typeof error.name>(true);
  if (error instanceof agentmem.AgentMemError) {
    same<"never" | "later" | "after_fix", typeof error.retry>(true);
    return `${error.name} ${error.code} ${error.number} ${error.errno}`;
  }
  return "";
}

export async function shared(): Promise<Smu> {
  // @ts-expect-error: types are written in capitals.
  await agentmem.alloc({ type: "system_prompt", data: "" });
  return agentmem.alloc({ type: "SYSTEM_PROMPT", data: "You plan.", name: "base", importance: 70 });
}
