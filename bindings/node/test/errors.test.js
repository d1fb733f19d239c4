"use strict";
/** Errors: their classes, and what is refused at the border. */

const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { test } = require("node:test");
const { agentmem, opened } = require("./support");

const { errors } = agentmem;
const TABLE = readFileSync(join(__dirname, "../../../spec/errors.toml"), "utf8");

/** The rows of the table, as far as this needs to read TOML. */
function rows() {
  return TABLE.split("[[error]]")
    .slice(1)
    .map((row) => Object.fromEntries([...row.matchAll(/^(\w+) = "?(.*?)"?$/gm)].map(([, key, value]) => [key, value])));
}

test("each row of the table has its class", () => {
  assert(rows().length > 10);
  for (const { name, number, retry } of rows()) {
    const error = new errors[name]("it");
    assert.equal(errors.BY_NUMBER[number], errors[name]);
    assert.equal(error.name, name);
    assert.equal(error.number, Number(number));
    assert.equal(error.code, `AGENTMEM_${name.replace(/(?<!^)(?=[A-Z])/g, "_").toUpperCase()}`);
    assert.equal(error.retry, retry);
    assert(error instanceof agentmem.AgentMemError && error instanceof Error);
    assert.match(error.stack, new RegExp(`^${name}: it\n`));
  }
  assert.equal(Object.keys(errors.BY_NUMBER).length, rows().length);
});

test("what the engine refuses has a class, a text and a stack, thrown or rejected", async (t) => {
  const store = await opened(t);
  const agent = await store.agent("a", { quotaBytes: 3 });
  assert.throws(
    () => agent.put("four"),
    (error) => {
      assert(error instanceof errors.QuotaExceeded);
      assert.match(error.message, /"a"/);
      assert.match(error.stack, /errors\.test\.js/);
      return true;
    },
  );
  await assert.rejects(agent.attach("nothing"), (error) => {
    assert(error instanceof errors.NotFound);
    assert.equal(error.code, "AGENTMEM_NOT_FOUND");
    assert.match(error.message, /nothing/);
    return true;
  });
});

test("arguments that cannot be are refused by name", async (t) => {
  const store = await opened(t);
  const agent = await store.agent("a");
  const conversation = await agent.conversation();
  const circle = {};
  circle.self = circle;
  for (const refused of [
    () => agent.put(7),
    () => agent.put(null),
    () => agent.put(["a"]),
    () => agent.put("\ud800"),
    () => agent.put("a", { kind: "memo" }),
    () => agent.put("a", { importance: 101 }),
    () => agent.put("a", { importance: 0.5 }),
    () => agent.put("a", { name: "" }),
    () => agent.put("a", { name: "x".repeat(256) }),
    () => agent.put("a", { name: 7 }),
    () => agent.put("a", { nmae: "a" }),
    () => agent.put("a", null),
    () => conversation.append(undefined),
    () => conversation.append({ a: undefined }),
    () => conversation.append(Number.NaN),
    () => conversation.append(new Date()),
    () => conversation.append(new Map()),
    () => conversation.append(1n),
    () => conversation.append(() => {}),
    () => conversation.append(circle),
  ]) {
    assert.throws(refused, errors.InvalidArgument, String(refused));
  }
  for (const refused of [
    () => agentmem.open({ memoryMaxBytes: -1 }),
    () => agentmem.open({ memoryMaxBytes: "64M" }),
    () => agentmem.open({ policy: "random" }),
    () => agentmem.open({ backend: "gpu" }),
    () => agentmem.open({ onFull: "perhaps" }),
    () => agentmem.open({ warmLevel: 20 }),
    () => agentmem.open("folder"),
    () => agentmem.connect({ domain: "alone", start: false }),
    () => store.agent(""),
    () => store.agent(7),
    () => store.agent("b", { importance: 101 }),
    () => store.agent("b", { quotaBytes: 0.5 }),
    () => store.reclaim(-1),
    () => agent.attach(7),
    () => agent.advise(conversation, "warm"),
    () => agent.setImportance(101),
    () => conversation.get(0),
    () => conversation.get(-1),
    () => conversation.get(0.5),
    () => conversation.fork({ at: 1 }),
    () => agentmem.alloc({ type: "system_prompt", data: "" }),
    () => agentmem.alloc({ type: "MEMO", data: "" }),
  ]) {
    await assert.rejects(async () => refused(), errors.InvalidArgument, String(refused));
  }
});

test("an option of another type is refused by its name, and so is one that there is not", async (t) => {
  const store = await opened(t);
  const agent = await store.agent("a");
  const chat = await agent.conversation();
  const wrong = {
    open: [
      agentmem.open,
      ["path", "memoryMaxBytes", "policy", "cold", "warmAfterMs", "onFull", "warmLevel", "pressure"],
    ],
    connect: [agentmem.connect, ["socket", "domain", "token", "quotaBytes", "onFull", "start"]],
    agent: [(options) => store.agent("b", options), ["importance", "quotaBytes", "pid", "lasting"]],
    put: [async (options) => agent.put("a", options), ["kind", "name", "importance"]],
    grant: [(options) => agent.grant(agent.put("a"), "domain", options), ["lastsMs", "uses"]],
    fork: [(options) => chat.fork(options), ["at", "name", "agent"]],
    alloc: [(options) => agentmem.alloc({ type: "MESSAGE", data: "", ...options }), ["type", "data", "name"]],
    limitDomain: [(options) => store.limitDomain({ quotaBytes: null, agentsMax: null, ...options }), ["agentsMax"]],
  };
  for (const [call, [attempt, names]] of Object.entries(wrong)) {
    for (const name of names) {
      for (const value of [Symbol("s"), () => {}, [], null]) {
        if (call === "limitDomain" && value === null) continue;
        await assert.rejects(attempt({ [name]: value }), (error) => {
          assert(error instanceof errors.InvalidArgument, `${call} ${name}: ${error}`);
          assert.match(error.message, name === "data" || name === "token" ? /content of type/ : new RegExp(name));
          return true;
        });
      }
    }
    if (call === "limitDomain") continue;
    await assert.rejects(attempt({ mistyped: 1 }), {
      name: "InvalidArgument",
      message: /^there is no option mistyped; there are /,
    });
  }
});

/** Numbers that napi by itself would wrap, cut, or take for 0. */
const NO_AMOUNTS = [-1, 0.5, Number.NaN, Infinity, -Infinity, 2 ** 53, -(2 ** 32) + 1, 1e300];

test("a number that an integer cannot hold is refused, never wrapped", async (t) => {
  const store = await opened(t);
  const agent = await store.agent("a");
  const chat = await agent.conversation();
  chat.extend([1, 2]);
  const calls = {
    memoryMaxBytes: [(number) => agentmem.open({ memoryMaxBytes: number })],
    arenaBytes: [(number) => agentmem.open({ arenaBytes: number })],
    warmAfterMs: [(number) => agentmem.open({ warmAfterMs: number })],
    warmLevel: [(number) => agentmem.open({ warmLevel: number }), 2 ** 32 + 3],
    coldLevel: [(number) => agentmem.open({ coldLevel: number }), 2 ** 32 + 3],
    importance: [(number) => store.agent("b", { importance: number }), 2 ** 32],
    quotaBytes: [(number) => store.agent("b", { quotaBytes: number })],
    pid: [(number) => store.agent("b", { pid: number }), 2 ** 32 + process.pid],
    targetBytes: [(number) => store.reclaim(number)],
    start: [(number) => chat.slice(number)],
    end: [(number) => chat.slice(0, number)],
    at: [(number) => chat.fork({ at: number })],
    uses: [(number) => agent.grant(agent.put("a"), "domain", { uses: number }), 2 ** 32 + 1],
    lastsMs: [(number) => agent.grant(agent.put("a"), "domain", { lastsMs: number })],
    agentsMax: [(number) => store.limitDomain({ quotaBytes: null, agentsMax: number })],
  };
  for (const [name, [call, ...more]] of Object.entries(calls)) {
    for (const number of [...NO_AMOUNTS, ...more]) {
      await assert.rejects(call(number), (error) => {
        assert(error instanceof errors.InvalidArgument, `${name}=${number}: ${error}`);
        assert.match(error.message, new RegExp(name));
        return true;
      });
    }
  }
  assert.throws(() => agent.put("a", { importance: 2 ** 32 + 50 }), errors.InvalidArgument);
  assert.deepEqual(await store.agents(), ["a"]);
});

test("handles are made by what they belong to", () => {
  const { Agent, Conversation, Smu, Store } = agentmem;
  assert.throws(() => new Agent({}, {}).name);
  assert.throws(() => new Conversation({}, {}).name);
  assert.throws(() => new Smu({}, {}).kind);
  assert.throws(() => new Store({}).isClosed);
});
