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

test("handles are made by what they belong to", () => {
  const { Agent, Conversation, Smu, Store } = agentmem;
  assert.throws(() => new Agent({}, {}).name);
  assert.throws(() => new Conversation({}, {}).name);
  assert.throws(() => new Smu({}, {}).kind);
  assert.throws(() => new Store({}).isClosed);
});
