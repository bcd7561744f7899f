/** The tags of an entry, written from docs/format.md section 14 alone. */
import { isObject, readCanonical } from './naive-json.ts';
import { H, HKDF, LP, type NaiveRecord, type Part } from './naive-log.ts';

export function tagKey(dataKey: Uint8Array): Buffer {
  return HKDF(dataKey, Buffer.alloc(0), 'sealog/tag-key/v1\0');
}

/** A signed 64-bit integer. Without a key, a plain tag. */
export function tag(kind: string, value: string, key: Uint8Array = Buffer.alloc(0)): bigint {
  return H('sealog/tag/v1\0', key, LP(kind), LP(value)).readBigInt64BE(0);
}

/** A tag as a block of this stream stores it that begins with this entry. */
export function placed(tag: bigint, stream: number, firstSeq: number): bigint {
  const place = (BigInt(stream) * 10_368_889n + BigInt(Math.floor(firstSeq / 8192))) % 16_777_216n;
  const hex = place.toString(16).padStart(6, '0') + (tag & 0xff_ffff_ffffn).toString(16).padStart(10, '0');
  return Buffer.from(hex, 'hex').readBigInt64BE();
}

export function tagsOf(record: NaiveRecord, parts: readonly Part[], key: Uint8Array): readonly bigint[] {
  const [actor, target] = [partValue(parts, 'actor'), partValue(parts, 'target')];
  const { service, site } = record.source;
  return [
    ...texts(record.action).map((text) => tag('action', text)),
    ...texts(service).map((text) => tag('service', text)),
    ...texts(site).map((text) => tag('site', text)),
    ...texts(actor['id'], actor['name']).map((text) => tag('actor', text, key)),
    ...texts(actor['email']).map((text) => tag('actor', normalEmail(text), key)),
    ...texts(actor['ip']).map((text) => tag('ip', normalIp(text), key)),
    ...texts(target['id'], target['name']).map((text) => tag('target', text, key)),
  ];
}

export function normalEmail(text: string): string {
  return strip(text).normalize('NFC').toLowerCase();
}

export function normalIp(text: string): string {
  const stripped = strip(text);
  const [address, zone] = splitZone(stripped);
  const groups = address === null ? null : ipv6Groups(address);
  if (groups === null) return stripped.toLowerCase();
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) {
    const [high, low] = groups.slice(6) as [number, number];
    return [high >> 8, high & 255, low >> 8, low & 255].join('.');
  }
  return shortest(groups) + (zone === null ? '' : `%${zone}`);
}

/** The members of a part that is open and an object; else none. */
function partValue(parts: readonly Part[], name: string): { readonly [name: string]: unknown } {
  const part = parts.find((each) => each.name === name);
  if (part === undefined || 'closed' in part) return {};
  const value = readCanonical(part.value);
  return isObject(value) ? value : {};
}

function texts(...values: readonly unknown[]): readonly string[] {
  return values.filter((value) => typeof value === 'string');
}

const WHITE_SPACE = [
  ...[0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x20, 0xa0, 0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006],
  ...[0x2007, 0x2008, 0x2009, 0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000, 0xfeff],
];

function strip(text: string): string {
  if (WHITE_SPACE.includes(text.charCodeAt(0))) return strip(text.slice(1));
  if (WHITE_SPACE.includes(text.charCodeAt(text.length - 1))) return strip(text.slice(0, -1));
  return text;
}

/** Address and zone; no address at all where what follows `%` is no zone. */
function splitZone(text: string): readonly [string | null, string | null] {
  const at = text.indexOf('%');
  if (at < 0) return [text, null];
  const zone = text.slice(at + 1);
  return /^[A-Za-z0-9.:-]+$/.test(zone) ? [text.slice(0, at), zone] : [null, null];
}

/** The eight groups of an address of RFC 4291 section 2.2; null where it is none. */
function ipv6Groups(address: string): readonly number[] | null {
  const halves = address.split('::');
  if (halves.length > 2) return null;
  const [left, right] = [groupsOf(halves[0] as string, halves.length === 1), groupsOf(halves[1] ?? '', true)];
  if (left === null || right === null) return null;
  const missing = 8 - left.length - right.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return null;
  return [...left, ...new Array<number>(missing).fill(0), ...right];
}

/** Groups between colons; where they end the address, the last may be dotted decimal. */
function groupsOf(text: string, endsAddress: boolean): readonly number[] | null {
  if (text === '') return [];
  const groups: number[] = [];
  const pieces = text.split(':');
  for (const [i, piece] of pieces.entries()) {
    const bytes = piece.split('.').map((byte) => (/^(0|[1-9]\d{0,2})$/.test(byte) ? Number(byte) : 256));
    if (/^[0-9a-f]{1,4}$/i.test(piece)) groups.push(Number.parseInt(piece, 16));
    else if (endsAddress && i === pieces.length - 1 && bytes.length === 4 && bytes.every((byte) => byte < 256)) {
      const [a, b, c, d] = bytes as [number, number, number, number];
      groups.push(a * 256 + b, c * 256 + d);
    } else return null;
  }
  return groups;
}

/** The longest run of two or more zero groups, the first of equally long ones, as `::`. */
function shortest(groups: readonly number[]): string {
  const hex = groups.map((group) => group.toString(16));
  for (let length = 8; length >= 2; length -= 1) {
    for (let start = 0; start + length <= 8; start += 1) {
      if (groups.slice(start, start + length).every((group) => group === 0)) {
        return `${hex.slice(0, start).join(':')}::${hex.slice(start + length).join(':')}`;
      }
    }
  }
  return hex.join(':');
}
