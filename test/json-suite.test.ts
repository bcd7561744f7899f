/** JSONTestSuite (nst/JSONTestSuite, MIT) under the rules of DESIGN section 3, which win over what a suite calls valid. */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { canonicalText, decodeCanonical, type JsonValue } from '../src/chain/canonical.ts';
import { EvidenceError, Problem } from '../src/errors.ts';
import { readJson, readJsonArray, splitLines } from '../src/ingest/json-reader.ts';

const data = process.env.SEALOG_TEST_DATA;

/** What the suite calls valid and Sealog refuses, with the rule. */
const REFUSED_THOUGH_VALID: Record<string, RegExp> = {
  'y_number_minus_zero.json': /minus zero/, // -0
  'y_number_negative_zero.json': /minus zero/, // -0
  'y_object_duplicated_key.json': /member of this name already/, // duplicate keys
  'y_object_duplicated_key_and_value.json': /member of this name already/, // duplicate keys
  'y_object_escaped_null_in_key.json': /U\+0000/,
  'y_string_null_escape.json': /U\+0000/,
};

/** What parsers make different things of: refused by the rule, or taken with the canonical text given. */
const TRANSFORMED: Record<string, RegExp | string> = {
  'number_-9223372036854775808.json': /2\^53/,
  'number_-9223372036854775809.json': /2\^53/,
  'number_1.0.json': '[1]',
  'number_1.000000000000000005.json': /exactly as written/,
  'number_1000000000000000.json': '[1000000000000000]',
  'number_10000000000000000999.json': /2\^53/,
  'number_1e-999.json': /exactly as written/,
  'number_1e6.json': '[1000000]',
  'number_9223372036854775807.json': /2\^53/,
  'number_9223372036854775808.json': /2\^53/,
  // Not normalised (RFC 8785 section 3.1): two names, whatever they look like; e + U+0301 sorts before U+00E9.
  'object_key_nfc_nfd.json': '{"e\u0301":"NFD","\u00e9":"NFC"}',
  'object_key_nfd_nfc.json': '{"e\u0301":"NFD","\u00e9":"NFC"}',
  'object_same_key_different_values.json': /member of this name already/,
  'object_same_key_same_value.json': /member of this name already/,
  'object_same_key_unclear_values.json': /member of this name already/,
  'string_1_escaped_invalid_codepoint.json': /surrogate/,
  'string_1_invalid_codepoint.json': /UTF-8/,
  'string_2_escaped_invalid_codepoints.json': /surrogate/,
  'string_2_invalid_codepoints.json': /UTF-8/,
  'string_3_escaped_invalid_codepoints.json': /surrogate/,
  'string_3_invalid_codepoints.json': /UTF-8/,
  'string_with_escaped_NULL.json': /U\+0000/,
};

describe.skipIf(data === undefined)('JSONTestSuite (needs SEALOG_TEST_DATA)', () => {
  const suite = join(data ?? '', 'hostile/jsontestsuite');
  const list = (folder: string, start = '') =>
    data === undefined ? [] : readdirSync(join(suite, folder)).filter((name) => name.startsWith(start));
  const load = (folder: string, name: string) => readFileSync(join(suite, folder, name));

  test('is all there', () => {
    expect(list('test_parsing', 'y_')).toHaveLength(95);
    expect(list('test_parsing', 'n_')).toHaveLength(188);
    expect(list('test_parsing', 'i_')).toHaveLength(35);
    expect(list('test_transform').toSorted()).toEqual(Object.keys(TRANSFORMED).toSorted());
    for (const name of Object.keys(REFUSED_THOUGH_VALID)) expect(list('test_parsing', 'y_')).toContain(name);
  });

  test.each(list('test_parsing', 'y_'))('%s', (name) => {
    const bytes = load('test_parsing', name);
    const rule = REFUSED_THOUGH_VALID[name];
    if (rule !== undefined) {
      expect(messageOf(bytes)).toMatch(rule);
      return;
    }
    const value = readJson(bytes);
    expect(value).toEqual(JSON.parse(bytes.toString()));
    expect(decodeCanonical(Buffer.from(canonicalText(value)))).toEqual(value);
  });

  test.each(list('test_parsing', 'n_'))('%s', (name) => {
    expect(messageOf(load('test_parsing', name))).toEqual(expect.any(String));
  });

  test.each(list('test_parsing', 'i_'))('%s, refused unless it can be given back byte for byte', (name) => {
    const bytes = load('test_parsing', name);
    let value: JsonValue;
    try {
      value = readJson(bytes);
    } catch (error) {
      expectProblem(error);
      return;
    }
    expect(canonicalText(value)).toBe(bytes.toString());
  });

  // Each of the 35 is a number that is no double, text that is no Unicode, a byte order mark, or 500 levels deep.
  test('none of the i_ files can be', () => {
    for (const name of list('test_parsing', 'i_')) expect(messageOf(load('test_parsing', name)), name).toBeDefined();
    const deep = load('test_parsing', 'i_structure_500_nested_arrays.json');
    expect(canonicalText(readJson(deep, { depthMax: 500 }))).toBe(deep.toString());
  });

  test.each(Object.entries(TRANSFORMED))('%s', (name, expected) => {
    const bytes = load('test_transform', name);
    if (typeof expected === 'string') expect(canonicalText(readJson(bytes))).toBe(expected);
    else expect(messageOf(bytes)).toMatch(expected);
  });

  test.each([
    ...list('test_parsing').map((name) => ['test_parsing', name] as const),
    ...list('test_transform').map((name) => ['test_transform', name] as const),
  ])('%s/%s as a batch, as lines and as stored bytes: read, or refused in the proper way', (folder, name) => {
    const bytes = load(folder, name);
    const ways = [
      () => [...readJsonArray(bytes, { itemsMax: 1000 })],
      () => [...readJsonArray(Buffer.concat([Buffer.from('[1,'), bytes, Buffer.from(']')]), { itemsMax: 1000 })],
      () => splitLines(bytes).map((line) => readJson(line)),
    ];
    for (const way of ways) {
      try {
        way();
      } catch (error) {
        expectProblem(error);
      }
    }
    try {
      decodeCanonical(bytes);
    } catch (error) {
      expect(error).toBeInstanceOf(EvidenceError);
    }
  });
});

/** The message with which bytes are refused; undefined if they are not. */
function messageOf(bytes: Uint8Array): string | undefined {
  try {
    readJson(bytes);
    return undefined;
  } catch (error) {
    expectProblem(error);
    return (error as Problem).errors[0]?.message;
  }
}

function expectProblem(error: unknown): void {
  expect(error).toBeInstanceOf(Problem);
  const { status, errors } = error as Problem;
  expect(status).toBe(400);
  expect(errors).toEqual([{ field: expect.any(String), message: expect.any(String), position: expect.any(Number) }]);
}
