"use strict";
/** p50 and p99 of a put of 1 KiB and of a view of something hot. Argument: the socket of a daemon; none: embedded. */

const { randomFillSync } = require("node:crypto");
const { setImmediate: turn } = require("node:timers/promises");
const agentmem = require(".");

const ROUNDS = 200_000;
const CONTENT_BYTES = 1024;
const HELD = 1024;
/** How often other work has its turn, as in any program: finalizers of buffers run then. */
const TURN_ROUNDS = 256;

function report(benchmark, session, tookMs) {
  const sorted = tookMs.sort();
  const ns = (share) => Math.round(sorted[Math.floor(ROUNDS * share)] * 1e6);
  const line = { benchmark, language: "node", session, rounds: ROUNDS, p50_ns: ns(0.5), p99_ns: ns(0.99) };
  console.log(JSON.stringify(line));
}

/** What each of many rounds took, in ms; a clock call is in each. `prepare` is not counted. */
async function timed(prepare, work) {
  const tookMs = new Float64Array(ROUNDS);
  for (let round = 0; round < ROUNDS; round++) {
    if (round % TURN_ROUNDS === 0) await turn();
    prepare(round);
    const start = performance.now();
    work(round);
    tookMs[round] = performance.now() - start;
  }
  return tookMs;
}

async function main(socket) {
  const session = socket === undefined ? "embedded" : "connected";
  const store = await (socket === undefined ? agentmem.open() : agentmem.connect({ socket, start: false }));
  const agent = await store.agent("bench-node");
  const content = Buffer.alloc(CONTENT_BYTES);
  const held = [];

  // Each different, and given back when a thousand more were put: what an agent's tool results are like.
  const prepare = (round) => {
    randomFillSync(content);
    if (held[round % HELD] !== undefined) agent.release(held[round % HELD]);
  };
  const put = (round) => (held[round % HELD] = agent.put(content));
  report("put_1kib", session, await timed(prepare, put));

  // The engine has taken in what was put, and this process has mapped it.
  for (const smu of held) (await smu.view()).release();
  let sum = 0;
  const view = (round) => {
    const shown = held[round % HELD].viewNow();
    sum += shown.buffer[0];
    shown.release();
  };
  const nothing = () => {};
  await timed(nothing, view);
  report("view_hot", session, await timed(nothing, view));

  const tookMs = new Float64Array(ROUNDS);
  for (let round = 0; round < ROUNDS; round++) {
    if (round % TURN_ROUNDS === 0) await turn();
    const start = performance.now();
    const shown = await held[round % HELD].view();
    sum += shown.buffer[0];
    shown.release();
    tookMs[round] = performance.now() - start;
  }
  report("view_hot_awaited", session, tookMs);
  await agent.close();
  await store.close();
  return sum;
}

main(process.argv[2]).then((sum) => (process.exitCode = sum === 0 ? 1 : 0));
