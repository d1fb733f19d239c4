/** Views of content. */

import { markAsUntransferable } from "node:worker_threads";
import { Released } from "./errors";
import { native } from "./native";

let pins = native.firstPin();

/** The number of a new pin: none of this thread has had it. */
export function newPin(): number {
  return ++pins;
}

/**
 * Pinned content. The pin goes when the view is released, or when the garbage collector finds that nobody has the
 * buffer any more; until then the bytes stay in RAM.
 */
export class View {
  readonly #pin: number;
  #buffer: Buffer | undefined;

  /** Made by `Smu.view`. */
  constructor(buffer: Buffer, pin: number) {
    // Memory that is moved to another thread could outlive this one, which has the pin.
    markAsUntransferable(buffer.buffer);
    this.#buffer = buffer;
    this.#pin = pin;
  }

  /**
   * The content, where it is, without a copy.
   *
   * Nobody may write to it: others have the same bytes. In a session with the daemon a write ends the process (SIGSEGV);
   * in a store of this process it changes the content for everybody. Slices of it keep the pin too, and all of them have
   * length 0 once the view is released.
   *
   * @throws Released: the view was released.
   */
  get buffer(): Buffer {
    if (this.#buffer === undefined) throw new Released("a view");
    return this.#buffer;
  }

  /** Whether the bytes were copied, because this runtime forbids buffers over memory that is not its own. */
  get isCopy(): boolean {
    return this.#buffer !== undefined && !native.isPinned(this.#pin);
  }

  /**
   * Gives the pin back and takes the bytes from the buffer, whose length is 0 from now on. What works on it
   * asynchronously, such as a write to a file, must have ended. Releasing twice is fine.
   */
  release(): void {
    const buffer = this.#buffer;
    this.#buffer = undefined;
    if (buffer !== undefined) native.unpin(buffer, this.#pin);
  }

  /** What the end of a `using` block does. */
  [Symbol.dispose](): void {
    this.release();
  }
}
