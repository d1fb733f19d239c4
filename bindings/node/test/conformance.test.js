"use strict";
/**
 * The behaviour suite of all languages, spec/conformance.json, run on the package for Node: on a store of this process,
 * and on a session with a daemon. spec/README.md says how a case is read.
 */

const assert = require("node:assert/strict");
const { spawn } = require("node:child_process");
const { once } = require("node:events");
const { readFileSync, rmSync, writeFileSync } = require("node:fs");
const { join } = require("node:path");
const { test } = require("node:test");
const { setTimeout: sleep } = require("node:timers/promises");
const { isDeepStrictEqual } = require("node:util");
const { Daemon, Folder, MEMORY_MAX_BYTES, agentmem } = require("./support");

const SUITE = JSON.parse(readFileSync(join(__dirname, "../../../spec/conformance.json")));
const PAUSE_MS = 20;

// What opens a store with these options, and which needs of cases it can serve

async function openEmbedded(options) {
  return agentmem.open(options);
}

/** A store of a daemon of its own, which ends with it. */
async function openConnected({ onFull, domains = [], ...options }) {
  const names = {
    memoryMaxBytes: "memory_max",
    warmAfterMs: "warm_after",
    coldAfterMs: "cold_after",
    quota_bytes: "quota",
    agents_max: "agents",
  };
  const line = ([name, value]) => {
    const of = name.endsWith("AfterMs") ? `${value}ms` : value;
    // Values of JSON are values of TOML.
    return `${names[name] ?? snake(name)} = ${JSON.stringify(of)}\n`;
  };
  const lines = Object.entries(options).map(line);
  for (const { name, ...given } of domains) lines.push(`[domains.${name}]\n`, ...Object.entries(given).map(line));
  const daemon = new Daemon(lines.join(""));
  const store = await enter(daemon.socket, { onFull });
  const close = store.close.bind(store);
  let isOver = false;
  store.close = async () => {
    await close();
    if (!isOver) daemon.stop();
    isOver = true;
  };
  return store;
}

/** A session with the daemon at `socket`, which it names. */
async function enter(socket, options) {
  const session = await agentmem.connect({ socket, start: false, ...options });
  return Object.assign(session, { socketOfCase: socket });
}

const OPENERS = [
  ["embedded", openEmbedded, ["folder", "options", "alone"]],
  ["connected", openConnected, ["daemon"]],
];

// Names and contents

const camel = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** The first bytes of xorshift32 from `seed`, its words written little end first. */
function pattern(seed, length) {
  const bytes = Buffer.alloc(Math.ceil(length / 4) * 4);
  for (let at = 0; at < length; at += 4) {
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    bytes.writeInt32LE(seed, at);
  }
  return bytes.subarray(0, length);
}

function content(given) {
  let once;
  if ("text" in given) once = Buffer.from(given.text);
  else if ("hex" in given) once = Buffer.from(given.hex, "hex");
  else once = pattern(given.pattern, given.len);
  return Buffer.concat(Array(given.times ?? 1).fill(once));
}

// Operations: each gives what it makes, or else the facts that are known then

async function has(thing, wanted) {
  const facts = {};
  for (const fact of wanted) {
    const known = fact === "messages" ? thing.length : thing[camel(fact)];
    facts[fact] = typeof known === "function" ? await known.call(thing) : known;
  }
  return facts;
}

/** Figures by the names of the suite, with dots for figures in figures. */
function flat(figures, prefix = "") {
  return Object.entries(figures).reduce((all, [name, figure]) => {
    const isGroup = typeof figure === "object" && figure !== null;
    return { ...all, ...(isGroup ? flat(figure, `${prefix}${snake(name)}.`) : { [prefix + snake(name)]: figure }) };
  }, {});
}

async function idOf(smu, { same_as, differs_from }) {
  const own = await smu.id();
  if (same_as !== undefined) assert.equal(own, same_as, "the ids differ");
  assert.notEqual(own, differs_from, "the ids are the same");
  return own;
}

const domainFacts = ({ logicalBytes, quotaBytes, agents, agentsMax }) => ({
  logical_bytes: logicalBytes,
  quota_bytes: quotaBytes,
  agents,
  agents_max: agentsMax,
});

/** What is said of each grant, by the names of the suite. */
const ofEach = (grants) => ({
  agents: grants.map(({ agent }) => agent),
  to_domains: grants.map(({ toDomain }) => toDomain),
  logical_bytes: grants.map(({ logicalBytes }) => logicalBytes),
  uses: grants.map(({ uses }) => uses),
});

async function kill(process) {
  process.kill("SIGKILL");
  await once(process, "exit");
}

async function agentSet(agent, { importance, quota_bytes }) {
  if (importance !== undefined) await agent.setImportance(importance);
  if (quota_bytes !== undefined) await agent.setQuotaBytes(quota_bytes);
}

const OPERATIONS = {
  close: ({ store }) => store.close(),
  store_has: ({ store }) => ({ memory_max_bytes: store.memoryMaxBytes, has_path: store.path !== null }),
  agents: async ({ store }) => ({ names: await store.agents() }),
  flush: ({ store }) => store.flush(),
  reclaim: async ({ store, target_bytes }) => ({ freed_bytes: await store.reclaim(target_bytes) }),
  verify: async ({ store }) => {
    const found = await store.verify();
    return { ...found, damaged: found.damaged.length };
  },
  stats: async ({ store }) => flat(await store.stats()),
  stats_of: async ({ store, name }) => flat(await store.agentStats(name)),
  enter: ({ store, ...domain }) => enter(store.socketOfCase, domain),
  domain_has: async ({ store }) => domainFacts(await store.domain()),
  domain_set: ({ store, quota_bytes = null, agents_max = null }) =>
    store.limitDomain({ quotaBytes: quota_bytes, agentsMax: agents_max }),
  grants: async ({ store }) => ofEach(await store.grants()),
  revoke: ({ store, grant, text }) => store.revoke(grant ?? text),
  process: () => spawn("sleep", ["1000"], { stdio: "ignore" }),
  kill: ({ process }) => kill(process),
  agent: ({ store, name, importance, quota_bytes, lasting, process }) =>
    store.agent(name, { importance, quotaBytes: quota_bytes, lasting, pid: process?.pid }),
  leave: ({ agent }) => agent.leave(),
  grant: ({ agent, smu, to_domain, lasts_ms, uses }) => agent.grant(smu, to_domain, { lastsMs: lasts_ms, uses }),
  redeem: ({ agent, grant, text }) => agent.redeem(grant ?? text),
  agent_has: ({ agent, wanted }) => has(agent, wanted),
  agent_set: ({ agent, ...given }) => agentSet(agent, given),
  agent_stats: async ({ agent }) => flat(await agent.stats()),
  agent_close: ({ agent }) => agent.close(),
  pause: ({ agent }) => agent.pause(),
  resume: ({ agent }) => agent.resume(),
  idle: ({ agent }) => agent.idle(),
  smus: ({ agent }) => agent.smus(),
  conversations: async ({ agent }) => ({ names: await agent.conversations() }),
  put: ({ agent, bytes, ...options }) => agent.put(bytes, options),
  attach: ({ agent, smu }) => agent.attach(smu),
  attach_id: ({ agent, id, hex }) => agent.attach(id ?? hex),
  attach_name: ({ agent, name }) => agent.attach(name),
  share: ({ agent, smu, to }) => agent.share(smu, to),
  release: ({ agent, smu }) => agent.release(smu),
  advise: ({ agent, smu, advice }) => agent.advise(smu, advice),
  smu_has: ({ smu, wanted }) => has(smu, wanted),
  id: ({ smu, ...others }) => idOf(smu, others),
  view: ({ smu }) => smu.view(),
  view_has: ({ view }) => ({ bytes: view.buffer }),
  view_release: ({ view }) => view.release(),
  conversation: ({ agent, name }) => agent.conversation(name),
  append: ({ conversation, bytes, json }) => conversation.append(bytes ?? JSON.parse(json)),
  get: async ({ conversation, index }) => ({
    json: await conversation.get(index),
    bytes: await conversation.raw(index),
  }),
  read: async ({ conversation, start, end }) => ({ messages: await conversation.slice(start, end) }),
  render: async ({ conversation }) => ({ bytes: await conversation.render() }),
  load: async ({ conversation, bytes }) => ({ count: await conversation.load(bytes) }),
  load_all: ({ agent, bytes }) => agent.load(bytes),
  fork: ({ conversation, agent, at, name }) => conversation.fork({ agent, at, name }),
  release_conversation: ({ agent, conversation }) => agent.release(conversation),
  advise_conversation: ({ agent, conversation, advice }) => agent.advise(conversation, advice),
  conversation_has: ({ conversation, wanted }) => has(conversation, wanted),
};

const FACTS_OF_WHAT_IS_MADE = {
  view: (view) => ({ bytes: view.buffer }),
  smus: (held) => ({ count: held.length }),
  load_all: (loaded) => ({ count: loaded.length }),
};

function agrees(wanted, found) {
  if (Array.isArray(wanted)) {
    return wanted.length === found.length && wanted.every((each, index) => agrees(each, found[index]));
  }
  if (wanted === null || typeof wanted !== "object") return wanted === found;
  if ("min" in wanted || "max" in wanted) {
    return typeof found === "number" && (wanted.min ?? found) <= found && found <= (wanted.max ?? found);
  }
  return Buffer.isBuffer(found) && content(wanted).equals(found);
}

const fits = (fact, wanted, found) =>
  fact === "json" ? isDeepStrictEqual(JSON.parse(wanted), found) : agrees(wanted, found);

/** One case under way: what its labels name so far. */
class Run {
  constructor(opener) {
    this.opener = opener;
    this.folder = new Folder();
    this.named = new Map();
    this.stores = [];
    this.processes = [];
  }

  async open({ path, ...given }) {
    const options = { memoryMaxBytes: MEMORY_MAX_BYTES, pressure: false };
    for (const [name, value] of Object.entries(given)) options[camel(name)] = value;
    if (path !== undefined) options.path = this.folder.at(path);
    const store = await this.opener(options);
    return store;
  }

  /** What the operation is called with: labels as what they name, contents as bytes. */
  fields(step) {
    const { needs, may } = SUITE.operations[step.op];
    const fields = may.includes("store") ? { store: "store" } : {};
    for (const key of [...needs, ...may]) if (key in step) fields[key] = step[key];
    for (const key of Object.keys(fields)) {
      if (!(key in SUITE.labels)) continue;
      assert(this.named.has(fields[key]), `nothing is called ${fields[key]}`);
      fields[key] = this.named.get(fields[key]);
    }
    if ("bytes" in fields) fields.bytes = content(fields.bytes);
    if (may.includes("ask")) fields.wanted = step.ask ?? Object.keys(step.expect);
    delete fields.as;
    return fields;
  }

  operation(name) {
    const own = {
      open: (fields) => this.open(fields),
      write_file: ({ file, bytes }) => writeFileSync(this.folder.at(file), bytes),
      remove_file: ({ file }) => rmSync(this.folder.at(file)),
    };
    const found = own[name] ?? OPERATIONS[name];
    assert(found, `no operation ${name}`);
    return found;
  }

  /** Carries a step out, names what it makes, and says what is known then. */
  async perform(step) {
    const fields = this.fields(step);
    const operation = this.operation(step.op);
    let outcome;
    for (let time = 0; time < (step.repeat ?? 1); time++) {
      // What is no promise is not waited for: a put is a plain call, and so is a release.
      outcome = operation(fields);
      if (outcome instanceof Promise) outcome = await outcome;
    }
    const label = step.as ?? (step.op === "open" ? "store" : undefined);
    if (Array.isArray(label)) {
      assert.equal(label.length, outcome.length);
      label.forEach((each, index) => this.named.set(each, outcome[index]));
    } else if (label !== undefined) {
      this.named.set(label, outcome);
    }
    if (outcome instanceof agentmem.Store) this.stores.push(outcome);
    if (step.op === "process") this.processes.push(outcome);
    const facts = FACTS_OF_WHAT_IS_MADE[step.op]?.(outcome) ?? outcome ?? {};
    if (step.op === "view" && label === undefined) {
      facts.bytes = Buffer.from(facts.bytes);
      outcome.release();
    }
    return facts;
  }

  async step(step) {
    const end = performance.now() + (step.within_ms ?? 0);
    for (;;) {
      let facts;
      try {
        facts = await this.perform(step);
      } catch (error) {
        if (error instanceof agentmem.AgentMemError && error.name === step.error) return;
        throw error;
      }
      assert(!("error" in step), "nothing was refused");
      const wrong = Object.entries(step.expect ?? {}).filter(([fact, wanted]) => !fits(fact, wanted, facts[fact]));
      if (wrong.length === 0) return;
      const found = wrong.map(([fact]) => `${fact}=${JSON.stringify(facts[fact])}`.slice(0, 300));
      assert(performance.now() < end, `found ${found}`);
      await sleep(PAUSE_MS);
    }
  }

  async close() {
    // Sessions go before the daemons that they are with.
    for (const store of this.stores.reverse()) await store.close();
    for (const process of this.processes) process.kill("SIGKILL");
    this.folder.remove();
  }
}

async function run(steps, opener) {
  const underWay = new Run(opener);
  try {
    for (const [index, step] of steps.entries()) {
      try {
        await underWay.step(step);
      } catch (error) {
        const said = `step ${index + 1}, ${JSON.stringify(step).slice(0, 300)}: ${error.name}: ${error.message}`;
        throw new assert.AssertionError({ message: said });
      }
    }
  } finally {
    await underWay.close();
  }
}

for (const [kind, opener, serves] of OPENERS) {
  for (const { name, needs = [], steps } of SUITE.cases) {
    const lacks = needs.filter((need) => !serves.includes(need));
    const skip = lacks.length > 0 && `the case needs ${lacks}`;
    test(`${kind}: ${name}`, { skip }, () => run(steps, opener));
  }
}

// The runner itself

test("patterns are what the suite says", () => {
  for (const given of SUITE.patterns) assert.equal(content(given).toString("hex"), given.is);
});

const RIGHT = [
  { op: "open" },
  { op: "agent", name: "a", as: "a" },
  { op: "put", agent: "a", kind: "message", bytes: { text: "content" }, as: "p" },
  { op: "id", smu: "p", as: "x" },
  { op: "conversation", agent: "a", as: "c" },
  { op: "append", conversation: "c", json: '{"n":1}' },
];

const WRONG = [
  { op: "view", smu: "p", expect: { bytes: { text: "contenu" } } },
  { op: "view", smu: "p", error: "Released" },
  { op: "smu_has", smu: "p", expect: { tier: "hot", shared_by: 2 } },
  { op: "smu_has", smu: "p", expect: { logical_bytes: { min: 8 } } },
  { op: "smu_has", smu: "p", expect: { logical_bytes: { max: 6 } } },
  { op: "smu_has", smu: "p", expect: { tier: "cold" }, within_ms: 50 },
  { op: "attach_name", agent: "a", name: "n", error: "Released" },
  { op: "attach_name", agent: "a", name: "n" },
  { op: "id", smu: "p", differs_from: "x" },
  { op: "agents", expect: { names: ["a", "b"] } },
  { op: "stats", expect: { "by_kind.message.count": 3 } },
  { op: "get", conversation: "c", index: 0, expect: { json: '{"n":2}' } },
  { op: "read", conversation: "c", start: 0, end: 1, expect: { messages: [] } },
];

test("what is right passes", () => run(RIGHT, openEmbedded));

for (const wrong of WRONG) {
  test(`a wrong expectation is found out: ${JSON.stringify(wrong)}`, async () => {
    const said = new RegExp(`^step ${RIGHT.length + 1},`);
    await assert.rejects(run([...RIGHT, wrong], openEmbedded), { message: said });
  });
}
