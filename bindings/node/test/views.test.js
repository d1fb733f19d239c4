"use strict";
/** Views: no copy, pins that last as long as they must and no longer. */

const assert = require("node:assert/strict");
const { randomBytes } = require("node:crypto");
const { join } = require("node:path");
const { test } = require("node:test");
const { agentmem, connected, gc, opened, until } = require("./support");

const PACKAGE = join(__dirname, "..");
const KINDS = [
  ["embedded", opened],
  ["connected", connected],
];

/** An SMU of so many bytes that is hot, and its bytes. */
async function hot(store, lengthBytes) {
  const agent = await store.agent("agent");
  const bytes = randomBytes(lengthBytes);
  const smu = agent.put(bytes);
  (await smu.view()).release();
  return { agent, bytes, smu };
}

/** Views a thousand times, and releases nothing. Its own frame: one that waits keeps what it last had. */
function lookOften(smu, bytes) {
  for (let round = 0; round < 1000; round++) assert.equal(smu.viewNow().buffer[round], bytes[round]);
}

/** A part of what a view shows. */
async function partOf(smu) {
  return (await smu.view()).buffer.subarray(100, 200);
}

const pinned = async (store) => (await store.stats()).pinnedBytes;

for (const [kind, open] of KINDS) {
  test(`${kind}: views are no copies`, async (t) => {
    const store = await open(t);
    const { bytes, smu } = await hot(store, 20 << 20);
    gc();
    const before = process.memoryUsage().rss;
    const views = await Promise.all(Array.from({ length: 20 }, () => smu.view()));
    for (const view of views) {
      assert.equal(view.isCopy, false);
      assert(view.buffer.equals(bytes));
    }
    // Once it is mapped here, and that may be for the first time.
    const more = process.memoryUsage().rss - before;
    assert(more < 2 * bytes.length, `20 views took ${more} bytes`);
    views.forEach((view) => view.release());
  });

  test(`${kind}: a view that is released pins nothing, and its buffers are empty`, async (t) => {
    const store = await open(t);
    const { bytes, smu } = await hot(store, 4096);
    const view = await smu.view();
    const { buffer } = view;
    const part = buffer.subarray(10, 20);
    assert.equal(await pinned(store), 4096);
    assert(part.equals(bytes.subarray(10, 20)));
    view.release();
    view.release();
    assert.equal(buffer.length, 0);
    assert.equal(part.length, 0);
    assert.equal(await pinned(store), 0);
    assert.throws(() => view.buffer, agentmem.errors.Released);
  });

  test(`${kind}: a part of a buffer keeps the pin when the view is gone`, async (t) => {
    const store = await open(t);
    const { bytes, smu } = await hot(store, 4096);
    const parts = [await partOf(smu)];
    gc();
    await new Promise(setImmediate);
    assert.equal(await pinned(store), 4096);
    await store.reclaim();
    assert(parts[0].equals(bytes.subarray(100, 200)));
    parts.length = 0;
    const isFree = async () => {
      gc();
      return (await pinned(store)) === 0;
    };
    assert(await until(isFree), "nobody has the buffer, and it pins");
  });

  test(`${kind}: views that nobody releases go with the garbage, ten thousand of them`, async (t) => {
    const store = await open(t);
    const { bytes, smu } = await hot(store, 1000);
    for (let turn = 0; turn < 10; turn++) {
      lookOften(smu, bytes);
      await new Promise(setImmediate);
    }
    const isFree = async () => {
      gc();
      return (await pinned(store)) === 0;
    };
    assert(await until(isFree), "views that nobody has pin");
  });

  test(`${kind}: what is not hot is promoted by a promise, and not by viewNow`, async (t) => {
    const store = await open(t);
    const { bytes, smu } = await hot(store, 100_000);
    await store.reclaim();
    assert.equal(smu.viewNow(), null);
    assert.notEqual(await smu.tier(), "hot");
    const view = await smu.view();
    assert(view.buffer.equals(bytes));
    view.release();
  });

  test(`${kind}: a view outlives its handle, its lease and its store`, async (t) => {
    const store = await open(t);
    const { agent, bytes, smu } = await hot(store, 2 << 20);
    const view = await smu.view();
    agent.release(smu);
    await assert.rejects(smu.view(), agentmem.errors.Released);
    assert.throws(() => smu.viewNow(), agentmem.errors.Released);
    assert(view.buffer.equals(bytes));
    await store.close();
    assert(view.buffer.equals(bytes));
    view.release();
  });

  test(`${kind}: nothing is a view of nothing`, async (t) => {
    const store = await open(t);
    const agent = await store.agent("agent");
    const view = await agent.put("").view();
    assert.equal(view.buffer.length, 0);
    view.release();
    assert.throws(() => view.buffer, agentmem.errors.Released);
  });
}

test("a disposed view is released, and read and text leave no pin", async (t) => {
  const store = await opened(t);
  const agent = await store.agent("agent");
  const smu = agent.put("Grüße");
  const view = await smu.view();
  view[Symbol.dispose]();
  assert.throws(() => view.buffer, agentmem.errors.Released);
  assert.equal(await smu.text(), "Grüße");
  assert.deepEqual(await smu.read(), Buffer.from("Grüße"));
  await assert.rejects(agent.put(Buffer.of(0xff)).text(), TypeError);
  assert.equal(await pinned(store), 0);
});

test("views that nobody releases have a limit", async (t) => {
  const { smu } = await hot(await opened(t), 100);
  const views = [];
  const viewOn = () => {
    for (;;) views.push(smu.viewNow());
  };
  assert.throws(viewOn, agentmem.errors.LimitReached);
  // What the tests before have left counts until it is collected.
  assert(views.length > 1 << 17 && views.length <= 1 << 18);
  await assert.rejects(smu.view(), agentmem.errors.LimitReached);
  views.pop().release();
  (await smu.view()).release();
  views.forEach((view) => view.release());
});

test("memory of a view is not moved to another thread", async (t) => {
  const store = await opened(t);
  const { bytes, smu } = await hot(store, 4096);
  const view = await smu.view();
  const memory = view.buffer.buffer;
  let copy;
  try {
    copy = structuredClone(memory, { transfer: [memory] });
  } catch (error) {
    // Some versions of Node refuse, others copy.
    assert.equal(error.name, "DataCloneError");
  }
  assert(view.buffer.equals(bytes));
  view.release();
  assert(copy === undefined || Buffer.from(copy).equals(bytes));
});

test("a second evaluation of the package takes no pins of the first", async (t) => {
  const store = await opened(t);
  const smu = (await store.agent("a")).put("of the first");
  const view = await smu.view();
  const isOurs = (path) => path.startsWith(join(PACKAGE, "dist")) && path.endsWith(".js");
  const loaded = Object.keys(require.cache).filter(isOurs);
  const kept = loaded.map((path) => [path, require.cache[path]]);
  for (const path of loaded) delete require.cache[path];
  t.after(() => kept.forEach(([path, module]) => (require.cache[path] = module)));
  const again = require(PACKAGE);
  assert.notEqual(again.View, view.constructor);
  const other = await again.open();
  t.after(() => other.close());
  const [one, two] = [(await other.agent("b")).put("one"), (await other.agent("b2")).put("two")];
  for (const each of [one, two, one, two]) (await each.view()).release();
  assert.equal(view.buffer.toString(), "of the first");
  assert.equal((await store.stats()).pinnedBytes, "of the first".length);
  view.release();
  assert.equal((await store.stats()).pinnedBytes, 0);
});
