"use strict";
/** What the suite of all languages does not say of the package for Node. */

const assert = require("node:assert/strict");
const { randomBytes } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { test } = require("node:test");
const { agentmem, connected, opened } = require("./support");

const { errors } = agentmem;

async function all(iterable) {
  const found = [];
  for await (const each of iterable) found.push(each);
  return found;
}

for (const [kind, open] of [
  ["embedded", opened],
  ["connected", connected],
]) {
  test(`${kind}: content is text, or bytes of any kind`, async (t) => {
    const agent = await (await open(t)).agent("a");
    const memory = new SharedArrayBuffer(4);
    new Uint8Array(memory).set([1, 2, 3, 4]);
    for (const [data, bytes] of [
      ["Grüße 😀", Buffer.from("Grüße 😀")],
      [Buffer.from([0, 255]), Buffer.from([0, 255])],
      [Buffer.from("abcdef").subarray(2, 4), Buffer.from("cd")],
      [new Uint16Array([1, 2]), Buffer.from([1, 0, 2, 0])],
      [new Float64Array([1]).subarray(0, 1), Buffer.from(new Float64Array([1]).buffer)],
      [new DataView(new ArrayBuffer(8), 2, 3), Buffer.alloc(3)],
      [new ArrayBuffer(5), Buffer.alloc(5)],
      [memory, Buffer.from([1, 2, 3, 4])],
    ]) {
      assert.deepEqual(await agent.put(data).read(), bytes);
    }
  });

  test(`${kind}: messages come back as they were given`, async (t) => {
    const agent = await (await open(t)).agent("a");
    const chat = await agent.conversation("chat");
    const given = [
      { role: "user", content: ["text", 1.5, null, true, {}] },
      Buffer.from("bytes"),
      "text",
      0,
      null,
      ["\u2028", "\ud83d\ude00"],
      { lone: "\ud800" },
    ];
    chat.append(given[0]);
    chat.extend(given.slice(1));
    assert.equal(chat.length, given.length);
    assert.deepEqual(await all(chat), given);
    assert.deepEqual(await chat.slice(1, 3), given.slice(1, 3));
    assert.deepEqual(await chat.slice(5), given.slice(5));
    assert.deepEqual(await chat.slice(3, 2), []);
    assert.deepEqual(await chat.get(-1), given.at(-1));
    assert.equal((await chat.raw(0)).toString(), JSON.stringify(given[0]));
    const fork = await chat.fork({ at: 2, name: "fork", agent });
    assert.equal(fork.agent, agent);
    assert.equal((await fork.render()).toString(), `${JSON.stringify(given[0])}\nbytes`);
  });

  test(`${kind}: an iteration sees what is added meanwhile`, async (t) => {
    const chat = await (await (await open(t)).agent("a")).conversation();
    chat.extend([1, 2]);
    const seen = [];
    for await (const message of chat) {
      seen.push(message);
      if (seen.length < 4) chat.append(seen.length + 10);
    }
    assert.deepEqual(seen, [1, 2, 11, 12, 13]);
  });

  test(`${kind}: what a store says of what is in it`, async (t) => {
    const store = await open(t);
    const agent = await store.agent("a", { quotaBytes: 9_000_000 });
    const smu = agent.put(Buffer.alloc(3_000_000, "content "), { kind: "system_prompt", name: "base", importance: 70 });
    const chat = await agent.conversation("chat");
    chat.extend(["one", Buffer.from("two"), "three"]);
    const id = await smu.id();
    const found = await store.inspect("base");
    assert.deepEqual([found.id, found.kind, found.names, found.holders], [id, "system_prompt", ["base"], { a: 1 }]);
    assert.equal((await store.inspect(id.slice(0, 10))).id, id);
    assert(found.unusedMs < 60_000);
    const described = await store.inspect("a/chat");
    assert.deepEqual([described.kind, described.agent, described.messages], ["conversation", "a", 3]);
    await assert.rejects(store.inspect("none"), errors.NotFound);

    assert((await smu.read()).equals(Buffer.concat(await all(store.pieces("base")))));
    assert.deepEqual(Buffer.concat(await all(store.pieces("a/chat"))), await chat.render());
    await assert.rejects(all(store.pieces("none")), errors.NotFound);

    const [figures] = await store.allAgentStats();
    const { tailBytes, warmBytes, coldBytes, ...rest } = figures;
    const { lastActiveMs, ...own } = await agent.stats();
    assert.deepEqual({ ...rest, lastActiveMs }, { ...own, lastActiveMs });
    assert.deepEqual([tailBytes, warmBytes, coldBytes], ['"one"two"three"'.length, 0, 0]);
    assert(Math.abs(figures.createdMs - Date.now()) < 60_000);

    await store.limit("a", 10);
    await assert.rejects(store.limit("b", 10), errors.NotFound);
    assert.throws(() => agent.put("more"), errors.QuotaExceeded);
    await store.limit("a", null);
    agent.put("more");
    assert.equal(await agent.pid(), process.pid);
    assert.equal(typeof (await smu.numaNode()), "number");
  });

  test(`${kind}: handles name what they belong to, and stores say whether they are open`, async (t) => {
    const store = await open(t);
    const agent = await store.agent("a");
    const other = await store.agent("b");
    const smu = agent.put("content");
    assert.equal(agent.store, store);
    assert.equal(smu.agent, agent);
    assert.equal((await agent.share(smu, other)).agent, other);
    assert.equal((await agent.conversation()).agent, agent);
    assert.equal(store.isClosed, false);
    await store[Symbol.asyncDispose]();
    assert.equal(store.isClosed, true);
    assert.throws(() => agent.put("more"), errors.Closed);
    await assert.rejects(store.agents(), errors.Closed);
  });

  test(`${kind}: an agent that is disposed of is closed`, async (t) => {
    const store = await open(t);
    const agent = await store.agent("a");
    await agent[Symbol.asyncDispose]();
    assert.deepEqual(await store.agents(), []);
  });
}

test("calls that wait do not keep others from theirs", async (t) => {
  const store = await opened(t);
  const agent = await store.agent("a");
  let turns = 0;
  const turning = setInterval(() => turns++, 1);
  for (let round = 0; round < 20; round++) {
    agent.put(Buffer.alloc(1 << 20, String(round)));
    await store.verify();
  }
  clearInterval(turning);
  assert(turns > 0);
});

test("without room a store fails where it was told to", async (t) => {
  const store = await opened(t, { onFull: "fail", cold: false, memoryMaxBytes: 16 << 20 });
  const agent = await store.agent("a");
  const putMore = () => {
    for (let round = 0; round < 1_000_000; round++) agent.put(randomBytes(60_000));
  };
  assert.throws(putMore, (error) => {
    assert(error instanceof errors.ArenaFull || error instanceof errors.OutOfMemory);
    return true;
  });
});

test("the package has the version of its manifest", () => {
  assert.equal(agentmem.version, require("../package.json").version);
});

test("the types of the native module name what it has", () => {
  const { native } = require("../dist/native");
  const declared = readFileSync(join(__dirname, "../lib/native.ts"), "utf8").matchAll(/^ {2}(\w+)\(/gm);
  assert.deepEqual([...declared].map(([, name]) => name).sort(), Object.keys(native).sort());
});
