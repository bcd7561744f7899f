/**
 * Who is to be erased, and where he stands: in the actor or target of an event (as a search finds him, by tag), or anywhere in the text of its
 * parts (a name in `raw` or `details`).
 *
 * What is asked for is held in memory alone while the search runs. Stored or logged it would be what an erasure is there to end.
 */
import { decodeCanonical, type JsonValue } from '../chain/canonical.ts';
import type { Entry } from '../chain/open-block.ts';
import { isOpen, type PartName } from '../chain/part.ts';
import { type Mark, normalizeEmail, normalizeIp, tagOf } from '../chain/tag.ts';

export interface Person {
  readonly id?: string | undefined;
  readonly name?: string | undefined;
  readonly email?: string | undefined;
  readonly ip?: string | undefined;
}

/** Shorter texts are looked for as whole values only: "7" stands in every text. */
const NEEDLE_LENGTH_MIN = 3;

/** Says in which parts of an entry a person stands. */
export class PersonFinder {
  readonly #person: Person;
  readonly #needles: readonly RegExp[];

  constructor(person: Person) {
    this.#person = person;
    this.#needles = Object.values(person)
      .filter((text) => typeof text === 'string' && text.trim().length >= NEEDLE_LENGTH_MIN)
      .map(needleOf);
  }

  /** Returns the tags of which a block has one that has the person as actor or target. */
  tags(tagKey: Uint8Array): bigint[] {
    const { id, name, email, ip } = this.#person;
    const marks: Mark[] = [];
    for (const value of [id, name, email]) {
      if (value === undefined) continue;
      const values = value === email ? [value, normalizeEmail(value)] : [value];
      for (const one of values) marks.push({ kind: 'actor', value: one }, { kind: 'target', value: one });
    }
    if (ip !== undefined) marks.push({ kind: 'ip', value: normalizeIp(ip) });
    return [...new Set(marks.map((mark) => tagOf(mark, tagKey)))];
  }

  /** Returns the parts in which the person stands. Without `isFull` those of entries alone whose actor or target he is. */
  partsIn(entry: Entry, isFull: boolean): PartName[] {
    const isNamed = entry.parts.some(
      (part) =>
        isOpen(part) && (part.name === 'actor' || part.name === 'target') && this.#isWho(decodeCanonical(part.value)),
    );
    if (!isNamed && !isFull) return [];
    return entry.parts.filter((part) => isOpen(part) && this.#isIn(part.name, part.value)).map(({ name }) => name);
  }

  #isIn(name: PartName, bytes: Uint8Array): boolean {
    const value = decodeCanonical(bytes);
    if ((name === 'actor' || name === 'target') && this.#isWho(value)) return true;
    return textsIn(name, value)
      .flatMap(readingsOf)
      .some((text) => this.#needles.some((needle) => needle.test(text)));
  }

  #isWho(value: JsonValue): boolean {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
    const { id, name, email, ip } = value as { readonly [member: string]: JsonValue | undefined };
    const own = this.#person;
    const isSame = (a: JsonValue | undefined, b: string | undefined) => b !== undefined && a === b;
    return (
      isSame(id, own.id) ||
      isSame(name, own.name) ||
      (own.email !== undefined && typeof email === 'string' && normalizeEmail(email) === normalizeEmail(own.email)) ||
      (own.ip !== undefined && typeof ip === 'string' && normalizeIp(ip) === normalizeIp(own.ip))
    );
  }
}

/** All texts of a value, names of members too; bytes that were sent as base64 are read as UTF-8. */
function textsIn(part: PartName, value: JsonValue): string[] {
  const base64 = part === 'raw' && typeof value === 'object' && value !== null && 'base64' in value && value['base64'];
  if (typeof base64 === 'string') {
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    return [new TextDecoder().decode(bytes)];
  }
  const texts: string[] = [];
  const open: JsonValue[] = [value];
  for (let one = open.pop(); one !== undefined; one = open.pop()) {
    if (typeof one === 'string') texts.push(one);
    else if (Array.isArray(one)) open.push(...one);
    else if (typeof one === 'object' && one !== null) {
      texts.push(...Object.keys(one));
      open.push(...Object.values(one as { readonly [member: string]: JsonValue }));
    } else if (typeof one === 'number') texts.push(String(one));
  }
  return texts;
}

const UTF_8 = new TextDecoder();

/** A text as it stands, and as whoever wrote it meant it: a line of an access log has `%40` for `@` and `+` for a space, JSON in it `\u00eb` for `ë`. */
function readingsOf(text: string): string[] {
  const meant = text
    .replace(/(?:%[0-9a-f]{2})+/gi, (run) => UTF_8.decode(Buffer.from(run.replaceAll('%', ''), 'hex')))
    .replace(/\\u([0-9a-f]{4})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  return [...new Set([text, meant, meant.replaceAll('+', ' ')])].map((one) => one.normalize('NFC'));
}

/** As a word of its own: `u-17` is not found in `u-170`. */
function needleOf(text: string): RegExp {
  const escaped = text
    .trim()
    .normalize('NFC')
    .replace(/[.*+?^${}()|[\]\\/]/g, '\\$&');
  return new RegExp(`(?<![\\p{L}\\p{N}])${escaped}(?![\\p{L}\\p{N}])`, 'iu');
}
