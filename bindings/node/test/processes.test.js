"use strict";
/** Processes and threads: sharing, the daemon's start, and what is left when they end. */

const assert = require("node:assert/strict");
const { execFile, execFileSync } = require("node:child_process");
const { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } = require("node:fs");
const { join } = require("node:path");
const { test } = require("node:test");
const { promisify } = require("node:util");
const { Worker } = require("node:worker_threads");
const { Daemon, Folder, agentmem, connected, opened, until } = require("./support");

const PACKAGE = join(__dirname, "..");

/** What a Node prints that runs `code` with these variables; `agentmem` is there. */
async function node(code, variables = {}) {
  const all = `const agentmem = require(${JSON.stringify(PACKAGE)});\n(async () => {${code}})();`;
  const { stdout } = await promisify(execFile)(process.execPath, ["-e", all], {
    env: { ...process.env, ...variables },
    timeout: 60_000,
  });
  return stdout;
}

test("a process attaches what another one has put, by name", async (t) => {
  const store = await connected(t);
  const agent = await store.agent("here");
  const smu = agent.put("You plan.", { kind: "system_prompt", name: "base" });
  await smu.id();
  const socket = JSON.stringify(store.socketOfTest);
  const said = await node(`
    const store = await agentmem.connect({ socket: ${socket}, start: false });
    const agent = await store.agent("there");
    const smu = await agent.attach("base");
    console.log(await smu.text(), await smu.sharedBy());
    await store.close();`);
  assert.equal(said, "You plan. 2\n");
});

test("alloc puts for the process, on a daemon that it starts where none runs", async (t) => {
  const folder = new Folder();
  const socket = folder.at("agentmem.sock");
  const program = join(PACKAGE, "dist", "agentmemd");
  t.after(() => {
    execFileSync(program, ["--stop", `--socket=${socket}`], { timeout: 60_000 });
    folder.remove();
  });
  const said = await node(
    `
    const [a, b] = await Promise.all([
      agentmem.alloc({ type: "SYSTEM_PROMPT", data: "You plan.", name: "base", importance: 70 }),
      agentmem.alloc({ type: "TOOL_RESULT", data: Buffer.from("done") }),
    ]);
    console.log(a.kind, a.importance, a.agent === b.agent, a.agent.name === "node-" + process.pid, await b.text());
    a.agent.release(a);
    await a.agent.store.close();
    const c = await agentmem.alloc({ type: "MESSAGE", data: "again" });
    console.log(await c.text(), await c.name());`,
    { AGENTMEM_SOCKET: socket, XDG_CONFIG_HOME: folder.path },
  );
  assert.equal(said, "system_prompt 70 true true done\nagain null\n");
});

test("a daemon that does not start is unreachable, and says why", async () => {
  await assert.rejects(agentmem.connect({ socket: "/proc/none/agentmem.sock" }), (error) => {
    assert(error instanceof agentmem.errors.Unreachable);
    assert.match(error.message, /agentmemd did not start: .*none/);
    return true;
  });
  await assert.rejects(agentmem.connect({ socket: "/nowhere", start: false }), agentmem.errors.Unreachable);
});

test("puts and views of what is hot do not wait for a daemon that was stopped", async (t) => {
  const store = await connected(t);
  const agent = await store.agent("a");
  const smu = agent.put("You plan.");
  (await smu.view()).release();
  const processes = readFileSync(`${store.socketOfTest}.lock`, "utf8").match(/\d+/g).map(Number);
  processes.forEach((pid) => process.kill(pid, "SIGSTOP"));
  const late = [];
  try {
    for (let round = 0; round < 100; round++) {
      late.push(agent.put(`late ${round}`));
      const view = smu.viewNow();
      assert.equal(view.buffer.toString(), "You plan.");
      view.release();
    }
  } finally {
    processes.forEach((pid) => process.kill(pid, "SIGCONT"));
  }
  const texts = await Promise.all(late.map((each) => each.text()));
  texts.forEach((text, round) => assert.equal(text, `late ${round}`));
});

test("domains know nothing of each other", async (t) => {
  const daemon = new Daemon();
  t.after(() => daemon.stop());
  const { socket } = daemon;
  const open = (domain, token) => agentmem.connect({ socket, domain, token, start: false });
  const stores = [await open(), await open("one", "a token of sixteen"), await open("two", Buffer.alloc(16, 7))];
  const ids = [];
  for (const store of stores) {
    const agent = await store.agent("same");
    await assert.rejects(agent.attach("base"), agentmem.errors.NotFound);
    ids.push(await agent.put("You plan.", { name: "base" }).id());
    assert.deepEqual(await store.agents(), ["same"]);
  }
  assert.equal(new Set(ids).size, 3);
  await assert.rejects(open("one", "another token of more"), agentmem.errors.PermissionDenied);
  const [own, one] = stores;
  assert.equal((await one.domain()).name, "one");
  const [giver, taker] = [await own.agent("giver"), await one.agent("taker")];
  const given = giver.put("You act.", { kind: "system_prompt" });
  const before = Date.now();
  const grant = await giver.grant(given, "one", { lastsMs: 60_000, uses: 2 });
  assert.equal(await (await taker.redeem(grant)).text(), "You act.");
  const [{ id, createdMs, expiresMs, ...listed }] = await own.grants();
  const content = await given.id();
  assert.deepEqual(listed, {
    agent: "giver",
    toDomain: "one",
    content,
    kind: "system_prompt",
    logicalBytes: 8,
    uses: 1,
  });
  assert(createdMs >= before && expiresMs === createdMs + 60_000);
  await own.revoke(id);
  await assert.rejects(taker.redeem(grant), agentmem.errors.NotFound);
  await assert.rejects(giver.redeem(id), agentmem.errors.InvalidArgument);
  // A quota that is given with the session is the domain's, and one that cannot be makes no session.
  const limited = await agentmem.connect({
    socket,
    domain: "one",
    token: "a token of sixteen",
    quotaBytes: 100,
    start: false,
  });
  assert.deepEqual(await limited.domain(), {
    name: "one",
    logicalBytes: 17,
    quotaBytes: 100,
    agents: 2,
    agentsMax: null,
  });
  assert.throws(() => taker.put(Buffer.alloc(100)), agentmem.errors.DomainQuotaExceeded);
  await limited.close();
  for (const store of stores) await store.close();
});

test("a process that ends without closing its store has flushed, and leaves no folder", async (t) => {
  const folder = new Folder();
  t.after(() => folder.remove());
  const path = JSON.stringify(folder.at("store"));
  for (const end of ["", "process.exit(0);"]) {
    const temporary = await node(`
      const kept = await agentmem.open({ path: ${path} });
      const agent = await kept.agent("a");
      agent.put(${JSON.stringify(`before ${end}`)});
      const temporary = await agentmem.open();
      console.log(temporary.path);
      ${end}`);
    assert.equal(existsSync(temporary.trim()), false);
  }
  const store = await opened(t, { path: folder.at("store") });
  const held = await (await store.agent("a")).smus();
  assert.deepEqual(await Promise.all(held.map((smu) => smu.text())), ["before ", "before process.exit(0);"]);
});

test("each thread has sessions of its own, and gives its pins back when it ends", async (t) => {
  const store = await connected(t);
  const agent = await store.agent("main");
  const smu = agent.put(Buffer.alloc(100_000, "x"), { name: "shared" });
  await smu.id();
  const code = `
    const { parentPort, workerData } = require("node:worker_threads");
    const agentmem = require(workerData.package);
    (async () => {
      const store = await agentmem.connect({ socket: workerData.socket, start: false });
      const agent = await store.agent("worker");
      const smu = await agent.attach("shared");
      globalThis.view = await smu.view();
      const refused = await agent.attach("nothing").catch((error) => error);
      parentPort.postMessage([globalThis.view.buffer.length, refused instanceof agentmem.errors.NotFound]);
      setInterval(() => {}, 1000);
    })();`;
  for (let round = 0; round < 3; round++) {
    const workerData = { package: PACKAGE, socket: store.socketOfTest };
    const worker = new Worker(code, { eval: true, workerData });
    const said = await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
    assert.deepEqual(said, [100_000, true]);
    assert.equal((await store.stats()).pinnedBytes, 100_000);
    await worker.terminate();
    assert(await until(async () => (await store.stats()).pinnedBytes === 0), "a thread that ended pins");
    assert.equal(await smu.text(), "x".repeat(100_000));
  }
});

test("a store that is opened in a thread goes with it", async (t) => {
  const folder = new Folder();
  t.after(() => folder.remove());
  const code = `
    const { parentPort, workerData } = require("node:worker_threads");
    const agentmem = require(workerData.package);
    (async () => {
      const store = await agentmem.open({ path: workerData.path });
      (await store.agent("a")).put("kept");
      parentPort.postMessage("put");
    })();`;
  const workerData = { package: PACKAGE, path: folder.at("store") };
  const worker = new Worker(code, { eval: true, workerData });
  await new Promise((resolve, reject) => worker.once("exit", resolve).once("error", reject));
  const store = await opened(t, { path: folder.at("store") });
  const [smu] = await (await store.agent("a")).smus();
  assert.equal(await smu.text(), "kept");
});

test("the quick start of the README does what it says", async (t) => {
  const folder = new Folder();
  t.after(() => folder.remove());
  const readme = readFileSync(join(PACKAGE, "README.md"), "utf8");
  const [, code] = /```js\n(.*?)```/s.exec(readme);
  const [, printed] = /prints\n\n```\n(.*?)```/s.exec(readme);
  const modules = folder.at("node_modules");
  mkdirSync(modules);
  symlinkSync(PACKAGE, join(modules, "libagentmem-node"));
  writeFileSync(folder.at("quick.mjs"), code);
  const { stdout } = await promisify(execFile)(process.execPath, [folder.at("quick.mjs")], { timeout: 60_000 });
  assert.equal(stdout, printed);
});
