// An agent-like program in JavaScript: every answer is a digest of all that it holds.
//
// It keeps a conversation of JSON turns, and what agents derive from one: an index of words, a
// cache of results, vectors, closures. A line on stdin is a turn, and is answered by a line on
// stdout: how many turns there were, and the digest. The same seed and the same lines give the
// same answers.

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

// What a turn takes in memory, with its share of everything derived from it.
const TURN_BYTES = 9_200;
const VOCABULARY = 4000;
const CACHED = 512;
const HOOKS = 256;
const INDEXED = 1000;
const DIMENSIONS = 64;

// Numbers of 32 bits that depend on the seed alone.
class Random {
  constructor(seed) {
    this.state = seed >>> 0;
  }

  next() {
    this.state = (this.state + 0x9e3779b9) >>> 0;
    let value = this.state;
    value = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
    value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
    return (value ^ (value >>> 16)) >>> 0;
  }

  below(limit) {
    return this.next() % limit;
  }
}

// A conversation and what is derived from it. The oldest turn goes when a new one comes.
class Chat {
  constructor(seed, mib) {
    this.random = new Random(seed);
    this.words = Array.from({ length: VOCABULARY }, () => this.word());
    this.count = 0;
    this.turns = [];
    this.texts = [];
    this.vectors = [];
    this.index = new Map();
    this.cache = new Map();
    this.hooks = [];
    const turns = Math.max(1, Math.floor((mib * 2 ** 20) / TURN_BYTES));
    for (let turn = 0; turn < turns; turn += 1) this.add("filling");
  }

  word() {
    const letter = () => 97 + this.random.below(26);
    const letters = Array.from({ length: 3 + this.random.below(7) }, letter);
    return String.fromCharCode(...letters);
  }

  // Appends a turn, and all that follows from it.
  add(line) {
    this.count += 1;
    const said = [line];
    for (let word = 0; word < 300; word += 1) said.push(this.words[this.random.below(VOCABULARY)]);
    const part = (_, at) => ({ type: "text", text: said.slice(at * 75, at * 75 + 75).join(" ") });
    const text = JSON.stringify({
      id: this.count,
      role: this.count % 2 ? "user" : "assistant",
      content: Array.from({ length: 5 }, part),
      usage: { input_tokens: this.random.below(20_000), cost: this.random.next() / 2 ** 32 },
      tools: said.slice(0, 3).map((name) => ({ name, line: name.length * this.count })),
    });
    this.texts.push(text);
    this.turns.push(JSON.parse(text));
    const coordinate = () => this.random.next() / 2 ** 32;
    this.vectors.push(Float64Array.from({ length: DIMENSIONS }, coordinate));
    for (const word of said.slice(0, 20)) this.note(word);
    this.remember(said[1], text);
    const [start, id] = [this.random.next(), this.count];
    this.hooks.push((number) => Math.imul(number ^ start, id));
    if (this.hooks.length > HOOKS) this.hooks.shift();
  }

  note(word) {
    const turns = this.index.get(word) ?? [];
    turns.push(this.count);
    if (turns.length > INDEXED) turns.shift();
    this.index.set(word, turns);
  }

  // Keeps a result, and forgets the one not used for longest.
  remember(word, text) {
    this.cache.delete(word);
    const result = createHash("shake128", { outputLength: 2000 }).update(text).digest();
    this.cache.set(word, result);
    if (this.cache.size > CACHED) this.cache.delete(this.cache.keys().next().value);
  }

  turn(line) {
    this.add(line);
    for (const table of [this.turns, this.texts, this.vectors]) table.shift();
    return `${this.count} ${this.digest()}`;
  }

  // Of everything, found by walking there.
  digest() {
    const whole = createHash("sha256");
    this.turns.forEach((turn, at) => {
      whole.update(this.texts[at]);
      whole.update(this.vectors[at]);
      whole.update(JSON.stringify(turn));
    });
    for (const [word, turns] of this.index) whole.update(`${word} ${turns.join(" ")}`);
    for (const [word, result] of this.cache) whole.update(word).update(result);
    const total = this.hooks.reduce((sum, hook) => (sum + hook(this.count)) | 0, 0);
    whole.update(`${total} ${this.random.state} ${this.words.join(" ")}`);
    return whole.digest("hex").slice(0, 32);
  }
}

const { values } = parseArgs({
  options: { seed: { type: "string", default: "1" }, mib: { type: "string", default: "80" } },
});
const chat = new Chat(Number(values.seed), Number(values.mib));
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${chat.turn(line)}\n`);
}
