"use strict";
/** What tests share. */

const { execFileSync } = require("node:child_process");
const { mkdtempSync, rmSync, writeFileSync } = require("node:fs");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const { setTimeout: sleep } = require("node:timers/promises");
const v8 = require("node:v8");
const vm = require("node:vm");
const agentmem = require("..");

const MEMORY_MAX_BYTES = 64 << 20;
const PROGRAM = join(__dirname, "..", "dist", "agentmemd");

v8.setFlagsFromString("--expose-gc");
/** Collects garbage. */
const gc = vm.runInNewContext("gc");

/** An empty folder of this user's alone. */
class Folder {
  constructor() {
    this.path = mkdtempSync(join(tmpdir(), "agentmem-node-"));
  }

  /** A path in it. */
  at(name) {
    return join(this.path, name);
  }

  remove() {
    rmSync(this.path, { recursive: true });
  }
}

/** A daemon of its own, with this configuration (text of a TOML file), and not with the user's. */
class Daemon {
  constructor(configuration = "") {
    this.folder = new Folder();
    this.socket = this.folder.at("agentmem.sock");
    this.options = [`--socket=${this.socket}`, `--config=${this.folder.at("agentmemd.toml")}`];
    writeFileSync(this.folder.at("agentmemd.toml"), configuration);
    execFileSync(PROGRAM, ["--background", ...this.options], { timeout: 60_000 });
  }

  stop() {
    execFileSync(PROGRAM, ["--stop", ...this.options], { timeout: 60_000 });
    this.folder.remove();
  }
}

/** A store in this process; it is closed after the test `t`. */
async function opened(t, options = {}) {
  const store = await agentmem.open({ memoryMaxBytes: MEMORY_MAX_BYTES, pressure: false, ...options });
  t.after(() => store.close());
  return store;
}

/** A session with a daemon of the test `t`'s own. */
async function connected(t, options = {}) {
  const daemon = new Daemon(`memory_max = ${MEMORY_MAX_BYTES}\npressure = false\n`);
  const store = await agentmem.connect({ socket: daemon.socket, start: false, ...options });
  t.after(async () => {
    await store.close();
    daemon.stop();
  });
  return Object.assign(store, { socketOfTest: daemon.socket });
}

/** Waits until something is so, and says whether it became so in time. */
async function until(isSo, timeoutMs = 30_000) {
  const end = performance.now() + timeoutMs;
  while (performance.now() < end) {
    if (await isSo()) return true;
    await sleep(10);
  }
  return isSo();
}

module.exports = { Daemon, Folder, MEMORY_MAX_BYTES, agentmem, connected, gc, opened, until };
