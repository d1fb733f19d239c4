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

/** A whole number of something, not negative. */
export function amount(value: number, name: string): number {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new InvalidArgument(`${name}=${String(value)} is not a whole number from 0 on`);
  }
  return value;
}

/** The same, or nothing. */
export function maybeAmount(value: number | null | undefined, name: string): number | undefined {
  return value === undefined || value === null ? undefined : amount(value, name);
}

/** A text that names something. */
export function word(value: string, what: string): string {
  if (typeof value !== "string" || !value.isWellFormed()) {
    throw new InvalidArgument(`${what} is not text: ${String(value)}`);
  }
  return value;
}

/** The same, or nothing. */
export function maybeWord(value: string | undefined, what: string): string | undefined {
  return value === undefined ? undefined : word(value, what);
}

function typeName(value: unknown): string {
  if (value === null || typeof value !== "object") return value === null ? "null" : typeof value;
  return value.constructor?.name ?? "object";
}
