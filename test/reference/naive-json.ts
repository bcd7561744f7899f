/**
 * Canonical JSON, written from docs/format.md section 2 alone: slow, plain, and sharing no code with `src/`. See
 * naive-log.ts for why.
 */

export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

/** The canonical text of a value. Throws for what has none: a lone surrogate, a number that is not finite. */
export function canonicalText(value: Json): string {
  if (value === null) return 'null';
  if (value === true) return 'true';
  if (value === false) return 'false';
  if (typeof value === 'number') return numberText(value);
  if (typeof value === 'string') return stringText(value);
  if (isList(value)) return `[${value.map(canonicalText).join(',')}]`;
  const members = Object.entries(value).sort(([a], [b]) => compareUtf16(a, b));
  return `{${members.map(([name, item]) => `${stringText(name)}:${canonicalText(item)}`).join(',')}}`;
}

/** JCS(v): the canonical text in UTF-8. */
export function jcs(value: Json): Buffer {
  return Buffer.from(canonicalText(value), 'utf8');
}

/** The value of stored canonical JSON. Throws where the bytes are not the canonical text of what they hold. */
export function readCanonical(bytes: Uint8Array): Json {
  const value = parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  if (!jcs(value).equals(bytes)) throw new Error('not canonical');
  return value;
}

/**
 * The value of a text, read leniently: what matters is only that a canonical text is read right. Not by JSON.parse, which
 * reads some names with escapes wrongly (nodejs/node#63785); it is good enough for one string.
 */
function parse(text: string): Json {
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[[\]{}:,]|[^"[\]{}:,]+/gs) ?? [];
  let at = 0;
  const value = (): Json => {
    const token = tokens[at++] ?? '';
    if (token === '[') return list();
    if (token === '{') return object();
    if (token.startsWith('"')) return JSON.parse(token) as string;
    if (token === 'null') return null;
    if (token === 'true' || token === 'false') return token === 'true';
    if (!/^[-0-9]/.test(token)) throw new Error('no JSON');
    return Number(token);
  };
  const list = (): Json => {
    const items: Json[] = [];
    if (tokens[at] !== ']') items.push(value());
    while (items.length > 0 && tokens[at] === ',') {
      at += 1;
      items.push(value());
    }
    at += 1;
    return items;
  };
  const object = (): Json => {
    const members: [string, Json][] = [];
    const member = (): void => {
      const name = JSON.parse(tokens[at] ?? '') as string;
      at += 2;
      members.push([name, value()]);
    };
    if (tokens[at] !== '}') member();
    while (members.length > 0 && tokens[at] === ',') {
      at += 1;
      member();
    }
    at += 1;
    return Object.fromEntries(members);
  };
  return value();
}

export function isList(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}

/** A JSON object, so neither null nor a list. */
export function isObject(value: Json | undefined): value is { readonly [name: string]: Json } {
  return typeof value === 'object' && value !== null && !isList(value);
}

function stringText(text: string): string {
  let out = '"';
  for (const character of text) {
    const code = character.codePointAt(0) as number;
    if (code >= 0xd800 && code <= 0xdfff) throw new Error('a lone surrogate');
    if (character === '"' || character === '\\') out += `\\${character}`;
    else if (code === 0x08) out += '\\b';
    else if (code === 0x09) out += '\\t';
    else if (code === 0x0a) out += '\\n';
    else if (code === 0x0c) out += '\\f';
    else if (code === 0x0d) out += '\\r';
    else if (code < 0x20) out += `\\u00${code.toString(16).padStart(2, '0')}`;
    else out += character;
  }
  return `${out}"`;
}

/** The four layouts of a number; the shortest digits that read back are what toExponential gives without argument. */
function numberText(number: number): string {
  if (!Number.isFinite(number)) throw new Error('no number of JSON');
  if (number === 0) return '0';
  if (number < 0) return `-${numberText(-number)}`;
  const [mantissa, exponent] = number.toExponential().split('e') as [string, string];
  const digits = mantissa.replace('.', '');
  const k = digits.length;
  const n = Number(exponent) + 1;
  if (k <= n && n <= 21) return digits + '0'.repeat(n - k);
  if (0 < n && n <= 21) return `${digits.slice(0, n)}.${digits.slice(n)}`;
  if (-6 < n && n <= 0) return `0.${'0'.repeat(-n)}${digits}`;
  const point = k > 1 ? '.' : '';
  return `${digits.slice(0, 1)}${point}${digits.slice(1)}e${n - 1 < 0 ? '-' : '+'}${Math.abs(n - 1)}`;
}

/** By UTF-16 code units, unsigned, a prefix first. */
function compareUtf16(a: string, b: string): number {
  for (let i = 0; i < Math.min(a.length, b.length); i += 1) {
    const difference = a.charCodeAt(i) - b.charCodeAt(i);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}
