/**
 * Events from a seed, with what a format could trip over: names in odd orders, characters of every length, numbers at the
 * edges of double, addresses in many spellings. They are what the service's checks let through, so an `EventFields`.
 */
import type { JsonObject, JsonValue } from '../../src/chain/canonical.ts';
import { OUTCOMES } from '../../src/chain/category.ts';
import type { EventFields } from '../../src/chain/entry.ts';
import { PART_NAMES, type PartName } from '../../src/chain/part.ts';

/** mulberry32: the same seed gives the same numbers everywhere. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** A whole number from 0 to 2^32−1. */
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** A whole number from 0 up to, not including, n. */
  below(n: number): number {
    return this.u32() % n;
  }

  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }

  list<T>(length: number, make: () => T): T[] {
    return Array.from({ length }, make);
  }
}

/** `tiny` events fill tiles, `huge` ones are larger than a block. */
export type EventSize = 'tiny' | 'usual' | 'large' | 'huge';

export function randomEvent(seed: number, size: EventSize, id: string): EventFields {
  const random = new Random(seed);
  if (size === 'tiny') {
    const parts = random.chance(10) ? { target: { id: `t${random.below(9)}` } } : {};
    const occurredAt = random.pick(['2026-01-01T00:00:00Z', '2026-01-01T00:00:01Z']);
    return { id, action: 'a.b', outcome: random.pick(OUTCOMES), occurredAt, source: { service: 's' }, parts };
  }
  return {
    id,
    action: random.pick(['user.login', 'a.b', 'role.update.done', 'x1_.2', `a.${'b'.repeat(61)}`]),
    outcome: random.pick(OUTCOMES),
    severity: random.chance(60) ? random.below(11) : undefined,
    occurredAt: occurredAt(random),
    source: source(random),
    evidence: random.chance(10) ? 'incomplete' : undefined,
    parts: parts(random, size),
  };
}

/** 1 to 128 characters, none of which an id may lack; `unique` makes it one of its own. */
export function randomId(random: Random, unique: number): string {
  const characters = 'ABCZabcz0189._:~-';
  const tail = random.list(random.below(random.chance(5) ? 100 : 12), () => random.pick([...characters])).join('');
  return `${unique}_${tail}`;
}

function occurredAt(random: Random): string {
  const two = (number: number): string => String(number).padStart(2, '0');
  const year = random.pick(['0002', '1600', '1969', '1970', '1999', '2000', '2024', '2026', '2100', '9998']);
  const date = random.chance(20) ? '12-31' : `${two(1 + random.below(12))}-${two(1 + random.below(28))}`;
  const time = `${two(random.below(24))}:${two(random.below(60))}:${two(random.below(60))}`;
  const digits = random.list(random.below(10), () => random.below(10)).join('');
  const offset = `${random.pick(['+', '-'])}${two(random.below(24))}:${two(random.below(60))}`;
  const zone = random.pick(['Z', 'Z', offset, '-00:00', '+00:00', '-23:59']);
  return `${year}-${date}T${time}${digits === '' ? '' : `.${digits}`}${zone}`;
}

function source(random: Random): JsonObject {
  const value: JsonObject = { service: text(random) || 's' };
  for (const name of ['zone', 'host', 'site']) if (random.chance(30)) value[name] = text(random) || name;
  return value;
}

function parts(random: Random, size: EventSize): EventFields['parts'] {
  const values: { [name in PartName]?: JsonValue } = {};
  for (const name of PART_NAMES) {
    if (!random.chance(45)) continue;
    if (name === 'actor') values.actor = random.chance(90) ? person(random) : json(random, 2);
    else if (name === 'target') values.target = random.chance(90) ? thing(random) : json(random, 2);
    else values[name] = json(random, random.below(5));
  }
  if (size !== 'usual') values.details = { blob: randomText(random, size === 'large' ? 8000 : 50_000) };
  return values;
}

function person(random: Random): JsonObject {
  const value: JsonObject = {};
  if (random.chance(80)) value['id'] = random.chance(95) ? text(random) : json(random, 1);
  if (random.chance(50)) value['name'] = text(random);
  if (random.chance(50)) value['email'] = random.chance(95) ? email(random) : random.below(9);
  if (random.chance(50)) value['ip'] = random.chance(95) ? ip(random) : null;
  if (random.chance(20)) value[text(random)] = json(random, 2);
  return value;
}

function thing(random: Random): JsonObject {
  return random.chance(50) ? { id: text(random) } : { id: text(random), name: text(random), type: 'x' };
}

const SPACES = ['', '', '', ' ', '\t', '\u00a0', '\u2003\u3000', '\ufeff', '\u0085', '\u200b', '\r\n', '\u180e'];

export function email(random: Random): string {
  const name = random.pick(['Zoe.Weiss', 'ΣΑΣ', 'ΣΑΣ.', 'İI', 'e\u0301E\u0301', '\u212b', 'ǅ', '\u1e9e', text(random)]);
  return `${random.pick(SPACES)}${name}@${random.pick(['Example.COM', 'ΟΔΟΣ', 'x', ''])}${random.pick(SPACES)}`;
}

/** Addresses, nearly addresses, and other text. */
export function ip(random: Random): string {
  const group = (): string =>
    random.pick(['0', '0', '0', '00', '0000', '1', 'a', 'AbC', '0db8', 'ffff', 'FFFF', '12345', 'g', '']);
  const dotted = random.pick(['192.0.2.7', '1.2.3.4', '255.255.255.255', '256.1.1.1', '1.2.3', '01.2.3.4', '0.0.0.0']);
  const groups = (count: number): string => random.list(count, group).join(':');
  const address = random.pick([
    groups(8),
    `${groups(random.below(5))}::${groups(random.below(5))}`,
    `${groups(6)}:${dotted}`,
    `${groups(random.below(4))}::${groups(random.below(3))}:${dotted}`,
    `${random.pick(['::ffff:', '::FFFF:', '0:0:0:0:0:ffff:', '::', '64:ff9b::', '::ffff:0:', '::fffe:'])}${dotted}`,
    `::ffff:${groups(2)}`,
    dotted,
    text(random),
  ]);
  const zone = random.pick(['', '', '', '', '%eth0', '%1', '%', '%Eth0.1:-', '%a b', '%a%b', '%ä', '%25en0']);
  return `${random.pick(SPACES)}${address}${zone}${random.pick(SPACES)}`;
}

export function json(random: Random, depth: number): JsonValue {
  const kind = random.below(depth > 0 ? 8 : 5);
  if (kind < 2) return text(random);
  if (kind === 2) return number(random);
  if (kind === 3) return random.pick([null, true, false]);
  if (kind === 4) return random.pick<JsonValue>([{}, [], '', 0]);
  if (kind === 5) return random.list(random.below(5), () => json(random, depth - 1));
  const members = random.list(random.below(8), (): [string, JsonValue] => [name(random), json(random, depth - 1)]);
  return Object.fromEntries(members);
}

function name(random: Random): string {
  const odd = [
    '',
    '10',
    '9',
    '1',
    '-1',
    '1.5',
    '\\',
    '"',
    '\\"',
    'a\\',
    '\u0001',
    '\ufb00',
    '😀',
    '\ue000',
    'constructor',
  ];
  return random.chance(50)
    ? random.pick(['id', 'before', 'after', 'limit', 'aa', 'a', 'A'])
    : random.pick([...odd, text(random)]);
}

function number(random: Random): number {
  if (random.chance(30))
    return random.pick([
      0, 1, -1, 0.1, 0.000001, 1e-7, 1e20, 1e21, 123456789012345680000, 5e-324, 1.7976931348623157e308,
    ]);
  if (random.chance(30)) return random.below(2_000_000) - 1_000_000;
  if (random.chance(30)) return (random.below(2_000_000) - 1_000_000) * 10 ** (random.below(50) - 25);
  const bits = new DataView(new ArrayBuffer(8));
  bits.setUint32(0, random.u32());
  bits.setUint32(4, random.u32());
  const double = bits.getFloat64(0);
  return Number.isFinite(double) && double !== 0 ? double : 0.5;
}

function text(random: Random): string {
  if (random.chance(60)) return random.pick(['u-17', 'operator', 'Zoë Weiß', 'plc 7', 'mes-gateway', 'a', '']);
  return randomText(random, random.below(12));
}

/** Any characters but U+0000 and surrogates. */
function randomText(random: Random, length: number): string {
  const character = (): string => {
    const code = random.below(random.pick([0x20, 0x80, 0x800, 0x11_0000]));
    return code === 0 || (code >= 0xd800 && code <= 0xdfff) ? '"' : String.fromCodePoint(code);
  };
  return random.list(length, character).join('');
}
