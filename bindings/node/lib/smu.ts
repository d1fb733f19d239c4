/** Handles on content. */

import type { Agent } from "./agent";
import { native, type SmuHandle } from "./native";
import { newPin, View } from "./view";

/** What content is. */
export type Kind = "system_prompt" | "tool_definition" | "tool_result" | "message";

/** Where content is: raw in RAM, compressed in RAM, on SSD, elsewhere. */
export type Tier = "hot" | "warm" | "cold" | "remote";

/** What is known about the next use: keep it resident, not needed soon, promote it now. */
export type Advice = "hot" | "cold" | "will_need";

/** A handle on one semantic memory unit: immutable content with a kind. */
export class Smu {
  /** Whose handle it is. */
  readonly agent: Agent;
  /** @internal */
  readonly _native: SmuHandle;

  /** Made by agents. */
  constructor(agent: Agent, handle: SmuHandle) {
    this.agent = agent;
    this._native = handle;
  }

  get kind(): Kind {
    return native.smuKind(this._native) as Kind;
  }

  /** Length of the content. */
  get logicalBytes(): number {
    return native.smuLogicalBytes(this._native);
  }

  /** 0 to 100. */
  get importance(): number {
    return native.smuImportance(this._native);
  }

  /** Its newest name, if it has one. */
  async name(): Promise<string | null> {
    return native.smuName(this._native);
  }

  async tier(): Promise<Tier> {
    return (await native.smuTier(this._native)) as Tier;
  }

  /** NUMA node that holds the raw bytes; null while they are not hot. */
  async numaNode(): Promise<number | null> {
    return native.smuNumaNode(this._native);
  }

  /** Content id, 64 hex digits. Waits until the engine has sealed the content. */
  async id(): Promise<string> {
    return native.smuId(this._native);
  }

  /** Bytes kept for it after sharing and codec. Waits until it is sealed. */
  async storedBytes(): Promise<number> {
    return native.smuStoredBytes(this._native);
  }

  /** Agents that hold it. Waits until it is sealed. */
  async sharedBy(): Promise<number> {
    return native.smuSharedBy(this._native);
  }

  /**
   * A view of the content; what is not hot is promoted first.
   *
   * @throws Released: the handle was released.
   * @throws Damaged: the stored bytes fail their checksum.
   * @throws OutOfMemory: there is no room to promote it to.
   */
  async view(): Promise<View> {
    const now = this.viewNow();
    if (now !== null) return now;
    const pin = newPin();
    return new View(await native.view(this._native, pin), pin);
  }

  /**
   * A view, if it can be had without asking the engine: of content that is hot, once the engine has taken it in. Null
   * otherwise; {@link view} gives one then.
   *
   * @throws Released: the handle was released.
   */
  viewNow(): View | null {
    const pin = newPin();
    const buffer = native.viewNow(this._native, pin);
    return buffer === null ? null : new View(buffer, pin);
  }

  /** A copy of the content. Throws what {@link view} throws. */
  async read(): Promise<Buffer> {
    using view = await this.view();
    return Buffer.from(view.buffer);
  }

  /** The content as text; throws a TypeError if it is none. */
  async text(): Promise<string> {
    using view = await this.view();
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(view.buffer);
  }
}
