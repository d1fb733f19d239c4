/** Arguments as JavaScript gives them: content, amounts, names. */

import { isDeepStrictEqual } from "node:util";
import { InvalidArgument } from "./errors";

/** Bytes, or text that is kept as UTF-8. */
export type Content = string | NodeJS.ArrayBufferView | ArrayBufferLike;

/** A value that JSON can say: it comes back equal. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue };

/** The bytes of what was given, where they are. */
export function bytesOf(content: Content): Uint8Array {
  if (content instanceof Uint8Array) return content;
  if (typeof content === "string") return utf8(content);
  const bytes = bytesLike(content);
  if (bytes === undefined) {
    throw new InvalidArgument(
      `content of type ${typeName(content)}: give text, a Buffer, a typed array or an ArrayBuffer`,
    );
  }
  return bytes;
}

/** The bytes of something that has them; undefined for anything else. */
export function bytesLike(value: unknown): Uint8Array | undefined {
  if (value instanceof Uint8Array) return value;
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  if (value instanceof ArrayBuffer || value instanceof SharedArrayBuffer) return new Uint8Array(value);
  return undefined;
}

function utf8(text: string): Uint8Array {
  if (!text.isWellFormed()) throw new InvalidArgument("text with half of a surrogate pair, which has no UTF-8");
  return Buffer.from(text);
}

/** The JSON text of a value, which gives an equal value back. */
export function encodeValue(value: unknown): Uint8Array {
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw new InvalidArgument(`a message of type ${typeName(value)}: ${(error as Error).message}`);
  }
  if (text === undefined || !isDeepStrictEqual(JSON.parse(text), value)) {
    throw new InvalidArgument(
      `a message of type ${typeName(value)} would come back different:` +
        " give it as bytes, or use only what JSON has (plain objects, no undefined, no NaN)",
    );
  }
  return Buffer.from(text);
}

/** A number of something; that it is a whole one within range says the native module, which calls it the same. */
export function amount(value: number, name: string): number {
  if (typeof value !== "number") throw wrongType(value, name, "a number");
  return value;
}

/** The same, or null for none. */
export function maybeAmount(value: number | null, name: string): number | undefined {
  return value === null ? undefined : amount(value, name);
}

/** A text that names something. */
export function word(value: string, name: string): string {
  if (typeof value !== "string") throw wrongType(value, name, "text");
  if (!value.isWellFormed()) throw new InvalidArgument(`${name} has half of a surrogate pair, which has no UTF-8`);
  return value;
}

/** Yes or no. */
export function flag(value: boolean, name: string): boolean {
  if (typeof value !== "boolean") throw wrongType(value, name, "true or false");
  return value;
}

/** What each option must be. */
type Checks<Options> = { [Name in keyof Options]-?: (value: NonNullable<Options[Name]>, name: string) => unknown };

/** The options that were given, if each is one that there is, and is what `checks` wants. */
export function checked<Options extends object>(given: Options, checks: Checks<Options>): Options {
  if (typeof given !== "object" || given === null) throw wrongType(given, "options", "an object");
  for (const name in given) {
    const check = Object.hasOwn(checks, name) ? checks[name] : undefined;
    if (check === undefined) {
      throw new InvalidArgument(`there is no option ${name}; there are ${Object.keys(checks).join(", ")}`);
    }
    const value = given[name];
    if (value !== undefined) check(value as NonNullable<typeof value>, name);
  }
  return given;
}

function wrongType(value: unknown, name: string, wanted: string): InvalidArgument {
  const shown = typeof value === "object" || typeof value === "function" ? typeName(value) : String(value);
  return new InvalidArgument(`${name} is not ${wanted}: ${shown}`);
}

function typeName(value: unknown): string {
  if (value === null || typeof value !== "object") return value === null ? "null" : typeof value;
  return value.constructor?.name ?? "object";
}
