// One agent of `agentmem demo --language node`: python/agentmem/demo/member.py for Node. What the frames mean is in
// python/agentmem/demo/wire.py; they come from descriptor 3, and what this has to say goes to descriptor 4. It ends with
// whoever holds the other end of its stdin.
"use strict";

const { createHash } = require("node:crypto");
const fs = require("node:fs");
const agentmem = require("..");

const [FEED, PIPE] = [3, 4];
const Kind = { PROMPT: 1, TOOLS: 2, WAKE: 3, WRITE: 4, IDLE: 5, PAUSE: 6, READ_BACK: 7, STATE: 9, FAILED: 11 };
const HEADER_BYTES = 13;
const PIPE_BUF = 4096;
const TEXT_BYTES_MAX = 2048;
const TAKEN = Buffer.from(".");

const PAGE_BYTES = 4096;
const ONE_IN = 100;
const READ_CONVERSATIONS = 2;
const READ_MESSAGES = 3;
// How far an agent goes on before it says so.
const TELL_BYTES = 4_000_000;
const TELL_CHECKS = 100;

/** Reads of each page a byte, so that all of it is mapped, as after reading it; their sum shows that it was done. */
function touch(bytes) {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += PAGE_BYTES) sum += bytes[at];
  return sum;
}

const hashOf = (bytes) => createHash("sha256").update(bytes).digest("hex");

/** Exactly that many bytes of the feed; null where it ends before the first. */
function readExactly(size) {
  const bytes = Buffer.allocUnsafeSlow(size);
  let filled = 0;
  while (filled < size) {
    const count = fs.readSync(FEED, bytes, filled, size - filled, null);
    if (count === 0 && filled === 0) return null;
    if (count === 0) throw new Error("the feed ends within a frame");
    filled += count;
  }
  return bytes;
}

function readFrame() {
  const header = readExactly(HEADER_BYTES);
  if (header === null) return null;
  const count = header.readUInt32LE(9);
  const lengths = count === 0 ? Buffer.alloc(0) : readExactly(4 * count);
  const messages = [];
  let total = 0;
  for (let n = 0; n < count; n++) total += lengths.readUInt32LE(4 * n);
  const body = total === 0 ? Buffer.alloc(0) : readExactly(total);
  for (let n = 0, at = 0; n < count; n++) {
    const end = at + lengths.readUInt32LE(4 * n);
    messages.push(body.subarray(at, end));
    at = end;
  }
  return { kind: header[0], conversation: header.readUInt32LE(5), messages };
}

/** What is no longer than PIPE_BUF gets through whole, whoever else writes. */
function tell(kind, agent, ...texts) {
  const messages = texts.map((text) => Buffer.from(text));
  const header = Buffer.alloc(HEADER_BYTES + 4 * messages.length);
  header[0] = kind;
  header.writeUInt32LE(agent, 1);
  header.writeUInt32LE(messages.length, 9);
  messages.forEach((message, n) => header.writeUInt32LE(message.length, HEADER_BYTES + 4 * n));
  const frame = Buffer.concat([header, ...messages]);
  if (frame.length > PIPE_BUF) throw new Error(`${frame.length} bytes at once`);
  fs.writeSync(PIPE, frame);
}

/** One of every hundred messages in the order of writing, chosen by a seed. */
class Samples {
  #state;
  #next;
  #chosen = [];
  seen = 0;

  constructor(seed) {
    this.#state = createHash("sha256").update(seed).digest().readUInt32LE(0) | 1;
    this.#next = this.#below(ONE_IN);
  }

  #below(limit) {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return (state >>> 0) % limit;
  }

  offer(conversation, first, messages) {
    while (this.#next < this.seen + messages.length) {
      const offset = this.#next - this.seen;
      this.#chosen.push({ conversation, index: first + offset, hash: hashOf(messages[offset]) });
      this.#next += ONE_IN - (this.#next % ONE_IN) + this.#below(ONE_IN);
    }
    this.seen += messages.length;
  }

  get chosen() {
    return this.#chosen;
  }
}

class Member {
  #agent;
  #number;
  #samples;
  #shared = [];
  #conversations = [];
  #told = -1;
  logicalBytes = 0;
  checked = 0;
  failed = 0;

  constructor(agent, number, seed) {
    this.#agent = agent;
    this.#number = number;
    this.#samples = new Samples(`${seed} ${number}`);
  }

  async take({ kind, conversation, messages }) {
    switch (kind) {
      case Kind.PROMPT:
        return this.#put(messages[0], "system_prompt");
      case Kind.TOOLS:
        return this.#put(messages[0], "tool_definition");
      case Kind.WAKE:
        return this.#wake();
      case Kind.WRITE:
        return this.#write(conversation, messages);
      case Kind.IDLE:
        return this.#agent.idle();
      case Kind.PAUSE:
        return this.#agent.pause();
      case Kind.READ_BACK:
        return this.#readBack();
      default:
        throw new Error(`a frame of kind ${kind}`);
    }
  }

  /** Puts what others put too, in full, as agents do that know nothing of each other. */
  async #put(content, kind) {
    const smu = this.#agent.put(content, { kind });
    this.#shared.push([smu, hashOf(content), touch(content)]);
    this.logicalBytes += content.length;
    // Known once it is sealed, and so no longer held by this process.
    await smu.id();
  }

  /** Goes on: reads the prompt, the tools and the ends of the latest conversations. */
  async #wake() {
    await this.#agent.resume();
    for (const [smu, , sum] of this.#shared) {
      const view = await smu.view();
      if (touch(view.buffer) !== sum) this.failed++;
      view.release();
    }
    for (const conversation of this.#conversations.slice(-READ_CONVERSATIONS)) {
      await conversation.slice(Math.max(0, conversation.length - READ_MESSAGES));
    }
  }

  async #write(number, messages) {
    if (number === this.#conversations.length) {
      this.#conversations.push(await this.#agent.conversation(`task-${number}`));
    }
    const conversation = this.#conversations[number];
    this.#samples.offer(number, conversation.length, messages);
    for (const message of messages) {
      conversation.append(message);
      this.logicalBytes += message.length;
    }
  }

  /** Reads what was sampled, and all that is shared, and compares it with what was put. */
  async #readBack() {
    for (const [smu, expected] of this.#shared) {
      await this.#check(async () => {
        const view = await smu.view();
        const found = hashOf(view.buffer);
        view.release();
        return found === expected;
      });
    }
    for (const { conversation, index, hash } of this.#samples.chosen) {
      await this.#check(async () => hashOf(await this.#conversations[conversation].raw(index)) === hash);
    }
    this.#told = -1;
  }

  async #check(isRight) {
    try {
      if (!(await isRight())) this.failed++;
    } catch (error) {
      if (!(error instanceof agentmem.errors.AgentMemError)) throw error;
      this.failed++;
    }
    this.checked++;
    if (this.checked % TELL_CHECKS === 0) this.#say();
  }

  /** Says how far it is, if that is news. */
  tell() {
    if (this.#told < 0 || this.logicalBytes >= this.#told + TELL_BYTES) this.#say();
  }

  #say() {
    this.#told = this.logicalBytes;
    const { chosen, seen } = this.#samples;
    const shared = this.#shared.map(([, hash]) => hash);
    const what = JSON.stringify([this.logicalBytes, seen, shared, this.#conversations.length, chosen]);
    const state = {
      logical_bytes: this.logicalBytes,
      messages: seen,
      samples: chosen.length + shared.length,
      checked: this.checked,
      failed: this.failed,
      digest: hashOf(what),
    };
    tell(Kind.STATE, this.#number, JSON.stringify(state));
  }
}

async function perform(socket, number, seed) {
  const store = await agentmem.connect({ socket, start: false });
  const name = `agent-${String(number).padStart(3, "0")}`;
  const member = new Member(await store.agent(name), number, seed);
  for (let frame; (frame = readFrame()) !== null;) {
    const { kind } = frame;
    await member.take(frame);
    if (kind === Kind.PROMPT || kind === Kind.TOOLS) {
      // What holds it is not to be held until the next one comes.
      frame = null;
      global.gc();
      fs.writeSync(FEED, TAKEN);
    }
    member.tell();
  }
  // It holds what it holds until then. Read as a file is: the other end is shared, and must go on blocking.
  fs.read(0, Buffer.alloc(1), 0, 1, null, () => process.exit(0));
}

const [socket, number, seed] = process.argv.slice(2);
perform(socket, Number(number), seed).catch((error) => {
  const text = Buffer.from(String(error.message ?? error)).subarray(0, TEXT_BYTES_MAX);
  tell(Kind.FAILED, 0, error.name ?? "Error", text);
  process.exit(1);
});
