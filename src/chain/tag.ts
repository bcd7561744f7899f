/**
 * Tags: what search looks blocks up by (DESIGN section 5). An index that can be rebuilt from the entries, never evidence.
 *
 *     tag of a person or thing = first 8 bytes of H("sealog/tag/v1\0" ‖ tag key ‖ LP(kind) ‖ LP(value))
 *     tag of action, site, service = first 8 bytes of H("sealog/tag/v1\0" ‖ LP(kind) ‖ LP(value))
 *     tag key = HKDF-SHA-256(data key, no salt, info = "sealog/tag-key/v1\0", 32 bytes)
 *
 * read as a signed big-endian integer, since that is PostgreSQL's bigint: a quarter of the room of a whole hash. Two values
 * that share a tag cost a search one needless look; the entries that it finds are always compared with what was asked for.
 * The tag key dies with the data key, so that what stays in a backup's index names nobody. Cutting the hash to 8 bytes is
 * also what makes H over key and message a sound keyed hash here (there is no state to extend).
 *
 * A block stores its tags placed: the last 5 bytes of a tag behind 3 that say where in the log the block begins,
 *
 *     place = (id of the stream · 10368889 + ⌊first seq / 8192⌋) mod 2^24
 *
 * so that in the index of all tags those of one stretch of a stream stand together. Whoever looks for a tag goes from stretch to stretch, and meets
 * as many blocks as a stretch has, however many there are in all.
 */
import assert from 'node:assert/strict';
import { hkdfSync } from 'node:crypto';
import { isIPv6 } from 'node:net';
import { concatBytes, lengthPrefixed, utf8 } from './bytes.ts';
import type { JsonValue } from './canonical.ts';
import { sha256 } from './sha256.ts';

const TAG_TAG = utf8('sealog/tag/v1\0');

/** `actor` covers an actor's id, name and e-mail. The first three are keyed, the others plain. */
export type TagKind = 'actor' | 'target' | 'ip' | 'action' | 'site' | 'service';

const TAG_KEY_BYTES = 32;

interface KindBytes {
  /** What every hashed message begins with, with room for the key where there is one. */
  readonly head: Uint8Array;
  readonly isKeyed: boolean;
}

const KINDS: Readonly<Record<TagKind, KindBytes>> = {
  actor: kindBytes('actor', true),
  target: kindBytes('target', true),
  ip: kindBytes('ip', true),
  action: kindBytes('action', false),
  site: kindBytes('site', false),
  service: kindBytes('service', false),
};

function kindBytes(kind: TagKind, isKeyed: boolean): KindBytes {
  const head = concatBytes(TAG_TAG, new Uint8Array(isKeyed ? TAG_KEY_BYTES : 0), lengthPrefixed(utf8(kind)));
  return { head, isKeyed };
}

/** For messages that fit: this runs for some marks of every event, and SHA-256 has read a message before the next is written. */
const scratch = Buffer.alloc(4096);

/** What of an entry is tagged: kind and value, normalised. */
export interface Mark {
  readonly kind: TagKind;
  readonly value: string;
}

/** Returns the key of a stream's keyed tags in one drop month. */
export function tagKeyOf(dataKey: Uint8Array): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', dataKey, new Uint8Array(0), utf8('sealog/tag-key/v1\0'), 32));
}

/** Returns the tag of a mark, a signed 64-bit integer. */
export function tagOf({ kind, value }: Mark, tagKey: Uint8Array): bigint {
  assert(tagKey.length === TAG_KEY_BYTES, 'a tag key has 32 bytes');
  const { head, isKeyed } = KINDS[kind];
  const length = head.length + 4 + Buffer.byteLength(value);
  const message = length <= scratch.length ? scratch : Buffer.alloc(length);
  message.set(head);
  if (isKeyed) message.set(tagKey, TAG_TAG.length);
  message.writeUInt32BE(length - head.length - 4, head.length);
  assert(value.isWellFormed(), 'a text with a lone surrogate has no UTF-8 form');
  message.write(value, head.length + 4);
  const hash = sha256(message.subarray(0, length));
  return new DataView(hash.buffer, hash.byteOffset, 8).getBigInt64(0);
}

/** Spreads streams over the places: odd, and far from any fraction of 2^24. */
const STREAM_STEP = 10_368_889;
const STRETCH_ENTRIES = 8192;
const PLACE_BYTES = 3;
/** What a placed tag keeps of a tag: its last bytes. */
export const KEPT_BITS = 8 * (8 - PLACE_BYTES);

/** Returns the tags that a block stores that begins with `firstSeq`, in the stream with this number, each once: two may end alike. */
export function placedTags(tags: Iterable<bigint>, streamId: number, firstSeq: number): Set<bigint> {
  const placed = new Set<bigint>();
  for (const tag of tags) placed.add(placedTag(tag, streamId, firstSeq));
  return placed;
}

export function placedTag(tag: bigint, streamId: number, firstSeq: number): bigint {
  const stretch = Math.floor(firstSeq / STRETCH_ENTRIES) % 2 ** (8 * PLACE_BYTES);
  const place = (Math.imul(streamId, STREAM_STEP) + stretch) & (2 ** (8 * PLACE_BYTES) - 1);
  scratch.writeBigInt64BE(tag);
  scratch.writeUIntBE(place, 0, PLACE_BYTES);
  return scratch.readBigInt64BE(0);
}

/** What marks are taken from. A part that is erased or was never there has none. */
export interface Marked {
  readonly action: string;
  readonly source: { readonly service?: JsonValue; readonly site?: JsonValue };
  readonly actor?: JsonValue | undefined;
  readonly target?: JsonValue | undefined;
}

/** Returns the marks of an entry; equal ones may repeat. */
export function marksOf({ action, source, actor, target }: Marked): Mark[] {
  const marks: Mark[] = [{ kind: 'action', value: action }];
  add(marks, 'service', source.service);
  add(marks, 'site', source.site);
  if (isObject(actor)) {
    add(marks, 'actor', actor['id']);
    add(marks, 'actor', actor['name']);
    add(marks, 'actor', actor['email'], normalizeEmail);
    add(marks, 'ip', actor['ip'], normalizeIp);
  }
  if (isObject(target)) {
    add(marks, 'target', target['id']);
    add(marks, 'target', target['name']);
  }
  return marks;
}

function add(
  marks: Mark[],
  kind: TagKind,
  value: JsonValue | undefined,
  normalize: (text: string) => string = (text) => text,
): void {
  if (typeof value === 'string') marks.push({ kind, value: normalize(value) });
}

function isObject(value: JsonValue | undefined): value is { readonly [member: string]: JsonValue } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** E-mail addresses are looked up without regard to case, spaces around them, or the Unicode form they were typed in. */
export function normalizeEmail(email: string): string {
  return email.trim().normalize('NFC').toLowerCase();
}

/** IPv6 addresses have many spellings: returned is that of RFC 5952. IPv4-mapped ones are looked up as IPv4; anything else as it stands. */
export function normalizeIp(ip: string): string {
  const text = ip.trim();
  if (!isIPv6(text)) return text.toLowerCase();
  const [address = '', zone] = text.split('%');
  const normal = new URL(`http://[${address}]`).hostname.slice(1, -1);
  const mapped = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(normal);
  if (mapped?.[1] !== undefined && mapped[2] !== undefined) {
    const high = Number.parseInt(mapped[1], 16);
    const low = Number.parseInt(mapped[2], 16);
    return `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`;
  }
  return zone === undefined ? normal : `${normal}%${zone}`;
}
