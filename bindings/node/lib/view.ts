/** Views of content. */

import { Released } from "./errors";
import { native, type Pin } from "./native";

/**
 * Pinned content. The pin goes when the view is released, or when the garbage collector finds that nobody has the
 * buffer any more; until then the bytes stay in RAM.
 */
export class View {
  readonly #pin: Pin;
  #buffer: Buffer | undefined;

  /** Whether the bytes were copied, because this runtime forbids buffers over memory that is not its own. */
  readonly isCopy: boolean;

  /** Made by `Smu.view`. */
  constructor(pin: Pin) {
    const shown = native.show(pin);
    this.#pin = pin;
    this.#buffer = shown ?? native.copy(pin);
    this.isCopy = shown === null;
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

  /**
   * Gives the pin back and takes the bytes from the buffer, whose length is 0 from now on. What works on it
   * asynchronously, such as a write to a file, must have ended. Releasing twice is fine.
   */
  release(): void {
    const buffer = this.#buffer;
    this.#buffer = undefined;
    if (buffer !== undefined && !this.isCopy) native.unpin(this.#pin, buffer);
  }

  /** What the end of a `using` block does. */
  [Symbol.dispose](): void {
    this.release();
  }
}
