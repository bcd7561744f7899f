import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { canonicalText, type JsonObject, type JsonValue } from '../src/chain/canonical.ts';
import { type FieldError, Problem } from '../src/errors.ts';
import { fieldPath, readItem, readJson, readJsonArray, splitLines } from '../src/ingest/json-reader.ts';

const data = process.env.SEALOG_TEST_DATA;

describe('what is taken comes back in canonical form', () => {
  test.each([
    ['{}', '{}'],
    [' [ ] ', '[]'],
    ['\t{ "b" :\r\n[ 1 , true,false ,null ] , "a":"x" }\n', '{"a":"x","b":[1,true,false,null]}'],
    ['"\\u0041\\/\\"\\\\\\b\\f\\n\\r\\t\\u001F"', '"A/\\"\\\\\\b\\f\\n\\r\\t\\u001f"'],
    ['"\\ud83d\\uDE00 😀 \\u20ac € \u007f\u0080\uffff\ufeff"', '"😀 😀 € € \u007f\u0080\uffff\ufeff"'],
    ['{"10":1,"9":2,"a":3,"":4}', '{"":4,"10":1,"9":2,"a":3}'],
    ['{"constructor":1,"toString":{"hasOwnProperty":[]}}', '{"constructor":1,"toString":{"hasOwnProperty":[]}}'],
    ['{"a":{"a":{"a":1}},"b":{"a":1}}', '{"a":{"a":{"a":1}},"b":{"a":1}}'],
    ['{"\\\\":1,"\\"":2,"\\n":3}', '{"\\n":3,"\\"":2,"\\\\":1}'],
    ['["\\\\","\\\\\\"","\\\\\\\\"]', '["\\\\","\\\\\\"","\\\\\\\\"]'],
    ['"nul is spelled \\\\u0000 and half a pair \\\\ud800"', '"nul is spelled \\\\u0000 and half a pair \\\\ud800"'],
  ])('%s', (text, canonical) => {
    expect(canonicalText(read(text))).toBe(canonical);
    expect(canonicalOf(text)).toBe(canonical);
  });

  test('as the bytes that came in, where these are canonical', () => {
    const bytes = Buffer.from('{"z":{"a":["é\\n",1.5,{}],"b":null},"a": {"a":[ ]}}');
    const { members } = readItem(bytes);
    expect(members!.get('z')!.bytes.buffer).toBe(bytes.buffer);
    expect(members!.get('z')!.bytes.byteOffset).toBe(bytes.byteOffset + 5);
    expect(members!.get('a')!.text).toBe('{"a":[]}');
  });

  test('in canonical order, with nothing inherited', () => {
    const value = (read('{"m":{"b":1,"a":{"d":2,"c":3}}}') as JsonObject)['m'] as JsonObject;
    expect(JSON.stringify(value)).toBe('{"a":{"c":3,"d":2},"b":1}');
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
  });

  test('from any part of any buffer', () => {
    const padded = Buffer.from('xx{"a":"é"}yy');
    expect(readJson(padded.subarray(2, -2))).toEqual({ a: 'é' });
    expect(readJson(new Uint8Array(padded).subarray(2, -2))).toEqual({ a: 'é' });
  });
});

describe('a number is taken when its canonical text has its decimal value', () => {
  test.each([
    ['0', '0'],
    ['-1', '-1'],
    ['123456789012345', '123456789012345'],
    ['9007199254740991', '9007199254740991'],
    ['-9007199254740991', '-9007199254740991'],
    ['1E22', '1e+22'],
    ['1.10', '1.1'],
    ['1e2', '100'],
    ['0.0', '0'],
    ['0e5', '0'],
    ['0.000E-99999999999999999999', '0'],
    ['100000000000000000000.0', '100000000000000000000'],
    ['9007199254740992.0', '9007199254740992'],
    ['900719925474099.2e1', '9007199254740992'],
    ['0.1', '0.1'],
    ['-12.5e-1', '-1.25'],
    ['5e-324', '5e-324'],
    ['1.7976931348623157E308', '1.7976931348623157e+308'],
    [`0.${'0'.repeat(5000)}25e5001`, '2.5'],
    [`25${'0'.repeat(5000)}.${'0'.repeat(5000)}e-5001`, '2.5'],
  ])('%s', (text, canonical) => {
    expect(canonicalText(read(text))).toBe(canonical);
    expect(canonicalText(read(`[${text},0]`))).toBe(`[${canonical},0]`);
  });

  test.each([
    '-0',
    '-0.0',
    '-0e1',
    '-0.000e-5',
    '9007199254740992',
    '9007199254740993',
    '-9007199254740992',
    '100000000000000000000',
    '9007199254740993.0',
    '9007199254740993e0',
    '0.1000000000000000055511151231257827',
    '333333333.33333329',
    '1.000000000000000005',
    '1e400',
    '-1e400',
    '1e309',
    '1.7976931348623159e308',
    '1e-999',
    '-1e-999',
    '2e-324',
    '4.9e-324',
    '1e99999999999999999999',
    '1e-99999999999999999999',
    `1${'0'.repeat(400)}`,
    `0.${'3'.repeat(400)}`,
  ])('%s is refused', (number) => {
    for (const text of [number, ` ${number}`, `${number} `]) {
      expect(refusal(text)).toMatchObject({ field: '', position: text.search(/\S/) });
    }
    expect(refusal(`{"a":[0,${number}]}`)).toMatchObject({ field: 'a[1]', position: 8 });
  });
});

describe('a refusal names field and position', () => {
  test.each<[text: string, field: string, position: number, message?: RegExp]>([
    // RFC 8259: the position is the first byte that can not go on.
    ['', '', 0, /the text ends/],
    ['  ', '', 2, /the text ends/],
    ['{', '', 1, /member name.*the text ends/],
    ['[', '[0]', 1, /value.*the text ends/],
    ['nul', '', 3, /literal null.*the text ends/],
    ['{"a":tru}', 'a', 8, /literal true/],
    ['[false,nil]', '[1]', 8, /literal null/],
    ['[True]', '[0]', 1, /a value/],
    ['[1,]', '[1]', 3, /a value/],
    ['[,1]', '[0]', 1, /a value/],
    ['[1 2]', '', 3, /comma or the end of the array/],
    ['[1}', '', 2, /comma or the end of the array/],
    ['{"a":1]', '', 6, /comma or the end of the object/],
    ['{"a":{"b":1 "c":2}}', 'a', 12, /comma or the end of the object/],
    ['{"a":1,}', '', 7, /member name/],
    ['{"a":[{"b":1,}]}', 'a[0]', 13, /member name/],
    ["{'a':1}", '', 1, /member name/],
    ['{"a" 1}', 'a', 5, /colon/],
    ['{"a":}', 'a', 5, /a value/],
    ['{"a":1}{', '', 7, /end of the text/],
    ['{"a":1} // x', '', 8, /end of the text/],
    ['[]]', '', 2, /end of the text/],
    ['1 2', '', 2, /end of the text/],
    ['[01]', '[0]', 1, /start with a zero/],
    ['[-01]', '[0]', 2, /start with a zero/],
    ['[-]', '[0]', 2, /a digit/],
    ['[+1]', '[0]', 1, /a value/],
    ['[.5]', '[0]', 1, /a value/],
    ['[1.]', '[0]', 3, /a digit/],
    ['[1.e1]', '[0]', 3, /a digit/],
    ['[1e]', '[0]', 3, /a digit/],
    ['[1e+', '[0]', 4, /a digit.*the text ends/],
    ['[1x]', '', 2, /comma/],
    ['[NaN]', '[0]', 1, /a value/],
    ['["a', '[0]', 3, /ends within a string/],
    ['["a\\', '[0]', 4, /ends within a string/],
    ['["a\\"', '[0]', 5, /ends within a string/],
    ['["a\\u12', '[0]', 7, /ends within a string/],
    ['["a\tb"]', '[0]', 3, /control character/],
    ['["\\n\nb"]', '[0]', 4, /control character/],
    ['{"a\u0000":1}', '', 3, /control character/],
    ['["\\x"]', '[0]', 3, /no such escape/],
    ['["\\u00g0"]', '[0]', 6, /hexadecimal/],
    ['["\\u 041"]', '[0]', 4, /hexadecimal/],
    ['{"\\a":1}', '', 3, /no such escape/],
    ['[1,\u00a02]', '[1]', 3, /a value/],
    ['\u000b1', '', 0, /a value/],

    // DESIGN section 3: the position is where the thing starts.
    ['{"a":1,"b":2,"a":3}', 'a', 13, /already/],
    ['{"x":{"a":1,"\\u0061":1}}', 'x.a', 12, /already/],
    ['{"a":null,"a":1}', 'a', 10, /already/],
    ['{"constructor":1,"constructor":1}', 'constructor', 17, /already/],
    ['{"1":1,"0":1,"\\u0031":1}', '1', 13, /already/],
    ['{"d":{"__proto__":1}}', 'd.__proto__', 6, /not taken/],
    ['{"_\\u005fproto_\\u005f":{}}', '__proto__', 1, /not taken/],
    ['{"a":["x\\u0000"]}', 'a[0]', 8, /U\+0000/],
    ['{"a":{"\\u0000":1}}', 'a', 7, /U\+0000/],
    ['["\\ud800"]', '[0]', 2, /surrogate/],
    ['["x\\ud800\\n"]', '[0]', 3, /surrogate/],
    ['["\\ud800\\ud800\\udc00"]', '[0]', 2, /surrogate/],
    ['["\\ud800\\udc00\\udc00"]', '[0]', 14, /surrogate/],
    ['["\\udc00\\ud800"]', '[0]', 2, /surrogate/],
    ['["\\udc00\\udc00"]', '[0]', 2, /surrogate/],
    ['{"a":{"b":1,"\\udfff":1}}', 'a', 13, /surrogate/],
    ['[-0]', '[0]', 1, /minus zero/],
    ['{"n":9007199254740992}', 'n', 5, /2\^53/],
    ['{"n":{"m":[0,1e400]}}', 'n.m[1]', 13, /beyond/],
    ['{"n":0.1000000000000000055}', 'n', 5, /exactly/],

    // Positions are bytes, not characters; fields are paths that can be read.
    ['{"é":"€😀","b":-0}', 'b', 20, /minus zero/],
    ['{"é":"€😀","b":x}', 'b', 20, /a value/],
    ['{"changes":{"after":{"items":[0,1,2,{"name":"\\ud800"}]}}}', 'changes.after.items[3].name', 45],
    ['{"a b":{"é":{"user-agent":{"":[-0]}}}}', '["a b"]["é"].user-agent[""][0]', 32],
    ['[[],[[1],[2,[3,x]]]]', '[1][1][1][1]', 15],
    [`{"${'n'.repeat(70)}":-0}`, `["${'n'.repeat(64)}…"]`, 74],
  ])('%j', (text, field, position, message = /./) => {
    const error = refusal(text);
    expect(error).toMatchObject({ field, position });
    expect(error.message).toMatch(message);
  });

  test.each([
    ['22ff22', '', 1],
    ['5b2261c0af225d', '[0]', 3],
    ['7b2261223a5b2231222c22c3a9eda080225d7d', 'a[1]', 13], // {"a":["1","é then U+D800 in UTF-8
    ['22f490808022', '', 1],
    ['5b225c6e61efbf225d', '[0]', 5], // U+FFFD cut short: what a decoder would put in its place begins alike
    ['22e282', '', 1],
    ['5b312cff', '[1]', 3],
    ['7b7dff', '', 2],
    ['7b22ff223a317d', '', 2],
    ['7b2261ff', '', 3],
    ['fffe5b00', '', 0],
  ])('bytes %s, not UTF-8', (hex, field, position) => {
    expect(refusal(Buffer.from(hex, 'hex'))).toMatchObject({
      field,
      position,
      message: expect.stringContaining('UTF-8'),
    });
  });

  test('what is wrong before the first byte that is not UTF-8 comes first', () => {
    expect(refusal(Buffer.from('[-0,"\xff"]', 'latin1'))).toMatchObject({ field: '[0]', position: 1 });
    expect(refusal(Buffer.from('[nil,"\xff"]', 'latin1'))).toMatchObject({ field: '[0]', position: 2 });
  });

  test('a byte order mark', () => {
    expect(refusal('\ufeff{}')).toMatchObject({ field: '', position: 0, message: expect.stringContaining('mark') });
    expect(refusal('{}\ufeff')).toMatchObject({ field: '', position: 2 });
  });

  test('with the code of the API, and without quoting what was sent', () => {
    const problem = problemOf(() => read('{"password":"hunter2\\x"}'));
    expect(problem).toMatchObject({ code: 'invalid_json', status: 400 });
    expect(problem.errors).toHaveLength(1);
    expect(problem.message + problem.errors[0]?.message).not.toContain('hunter2');
  });
});

describe('depth', () => {
  const nested = (levels: number) => '['.repeat(levels) + ']'.repeat(levels);

  test('32 levels pass, the root being 1; the 33rd is refused where it opens', () => {
    expect(JSON.stringify(read(nested(32)))).toBe(nested(32));
    expect(refusal(nested(33))).toMatchObject({ field: '[0]'.repeat(32), position: 32 });
    expect(JSON.stringify(read(`${'{"a":'.repeat(32)}1${'}'.repeat(32)}`))).toContain('{"a":1}');
    expect(refusal(`${'{"a":'.repeat(32)}{}${'}'.repeat(32)}`)).toMatchObject({
      field: Array(32).fill('a').join('.'),
      position: 160,
    });
  });

  test('another limit may be given; scalars have no depth', () => {
    expect(readJson(Buffer.from(nested(500)), { depthMax: 500 })).toEqual(JSON.parse(nested(500)));
    expect(refusal('[[]]', 1)).toMatchObject({ field: '[0]', position: 1 });
    expect(read('[1]')).toEqual([1]);
  });

  test('siblings do not add up', () => {
    const text = `[${Array(1000).fill(nested(31)).join()}]`;
    expect(JSON.stringify(read(text))).toBe(text);
  });
});

describe('readJsonArray', () => {
  const readArray = (text: string | Buffer, itemsMax = 10) =>
    Array.from(readJsonArray(Buffer.from(text), { itemsMax }), ({ value, bytes }) => ({ value, bytes }));

  test('gives each item with the length of its own text', () => {
    expect(readArray(' [ {"a":"é€😀"} ,1, "x" ,\n[ ]\t]\n')).toEqual([
      { value: { a: 'é€😀' }, bytes: 17 },
      { value: 1, bytes: 1 },
      { value: 'x', bytes: 3 },
      { value: [], bytes: 3 },
    ]);
    expect(readArray('[{"a": 1},{}]').map((item) => item.bytes)).toEqual([8, 2]);
    expect(readArray('[]')).toEqual([]);
    expect(readArray(' [ ] ')).toEqual([]);
  });

  test('equals reading each item alone, whatever the items are', () => {
    fc.assert(
      fc.property(fc.array(anyJson(), { maxLength: 6 }), fc.integer(), (values, seed) => {
        const random = numbersFrom(seed);
        const texts = values.map((value) => spell(value, random));
        const pad = () => pick([' ', '\n', '', '\t'], random);
        const body = `${pad()}[${texts.map((text) => pad() + text + pad()).join()}]${pad()}`;
        expect(readArray(body)).toEqual(
          texts.map((text) => ({ value: read(text), bytes: Buffer.byteLength(text.trim()) })),
        );
      }),
    );
  });

  test.each<[text: string, field: string, position: number]>([
    ['[{"a":1},{"a":[0,-0]}]', '[1].a[1]', 17],
    ['[1,2', '', 4],
    ['[1 2]', '', 3],
    ['[1,]', '[1]', 3],
    ['[', '[0]', 1],
    ['["é",{"a":1,"a":2}]', '[1].a', 13],
    ['[1]x', '', 3],
    ['["\ud83d\ude00"', '', 7],
    ['', '', 0],
    ['{"a":1', '', 6],
    ['nope', '', 1],
  ])('refuses all of %s', (text, field, position) => {
    const problem = problemOf(() => readArray(text));
    expect(problem.code).toBe('invalid_json');
    expect(problem.errors).toEqual([{ field, message: expect.any(String), position }]);
  });

  test('names the item that is not UTF-8', () => {
    const problem = problemOf(() => readArray(Buffer.from('[1,{"a":["\xff"]}]', 'latin1')));
    expect(problem.errors[0]).toMatchObject({ field: '[1].a[0]', position: 10 });
  });

  test('counts depth from the item', () => {
    const item = '['.repeat(32) + ']'.repeat(32);
    expect(readArray(`[${item},${item}]`)).toHaveLength(2);
    expect(problemOf(() => readArray(`[0,[${item}]]`)).errors[0]).toMatchObject({
      field: `[1]${'[0]'.repeat(32)}`,
      position: 35,
    });
  });

  test('takes as many items as it may, and stops at the next', () => {
    expect(readArray('[1,2,3]', 3)).toHaveLength(3);
    expect(problemOf(() => readArray('[1,2, 3]', 2))).toMatchObject({
      code: 'invalid_batch',
      errors: [{ position: 6 }],
    });
    expect(readArray('[]', 0)).toEqual([]);
  });

  test.each(['{}', ' 1', 'null', '"[1]"', '{"items":[]}'])('%s is JSON but no batch', (text) => {
    expect(problemOf(() => readArray(text))).toMatchObject({ code: 'invalid_batch', errors: [{ field: '' }] });
  });
});

describe('splitLines', () => {
  const split = (text: string, linesMax?: number) =>
    splitLines(Buffer.from(text), linesMax === undefined ? {} : { linesMax }).map((line) =>
      Buffer.from(line).toString(),
    );

  test.each([
    ['', []],
    ['\n', []],
    ['\r\n\r\n \n\t\n', []],
    ['a', ['a']],
    ['a\n', ['a']],
    ['a\nb', ['a', 'b']],
    ['a\r\nb\r\n', ['a', 'b']],
    ['\n\na\n\n \r\nb\n\n', ['a', 'b']],
    [' a \n\tb', [' a ', '\tb']],
    ['a\rb\n', ['a\rb']],
    ['é\n€', ['é', '€']],
    ['a\u2028b\u0085c', ['a\u2028b\u0085c']],
  ])('%j', (text, lines) => {
    expect(split(text)).toEqual(lines);
  });

  test('keeps positions: a line is given from its first byte', () => {
    const [line] = splitLines(Buffer.from('\n  [-0]\n'));
    expect(problemOf(() => readJson(line as Uint8Array)).errors[0]).toMatchObject({ field: '[0]', position: 3 });
  });

  test('bounds the number of lines that are not blank', () => {
    expect(split('1\n\n2\n', 2)).toEqual(['1', '2']);
    expect(problemOf(() => split('1\n\n2\n3', 2))).toMatchObject({ code: 'invalid_batch', errors: [{ position: 5 }] });
    expect(split('1\n'.repeat(10_000))).toHaveLength(10_000);
    expect(problemOf(() => split('1\n'.repeat(10_001))).code).toBe('invalid_batch');
  });
});

test('fieldPath quotes what is not a plain word', () => {
  expect(fieldPath([])).toBe('');
  expect(fieldPath([3, 'actor', 'x-y', 'a.b', 0, '"', ''])).toBe(String.raw`[3].actor.x-y["a.b"][0]["\""][""]`);
  expect(fieldPath([`${'n'.repeat(63)}😀`]).isWellFormed()).toBe(true);
});

describe('properties', () => {
  test('any value, however it is spelled, comes back in its canonical form', () => {
    fc.assert(
      fc.property(anyJson(), fc.integer(), (value, seed) => {
        const text = spell(value, numbersFrom(seed));
        expect(canonicalText(read(text))).toBe(canonicalText(value));
        expect(canonicalOf(text)).toBe(canonicalText(value));
      }),
      { numRuns: 2000 },
    );
  });

  test('accepts and refuses what a naive reader does, and names the first place that is wrong', () => {
    let accepted = 0;
    fc.assert(
      fc.property(anyJson(), fc.integer(), fc.integer({ min: 0, max: 3 }), (value, seed, mutations) => {
        const random = numbersFrom(seed);
        let bytes: Buffer = Buffer.from(spell(value, random));
        for (let count = 0; count < mutations; count++) bytes = mutate(bytes, random);
        const expected = naivelyAccepts(bytes);
        let got: JsonValue | undefined;
        let problem: Problem | undefined;
        try {
          got = readJson(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(Problem);
          problem = error as Problem;
        }
        expect(problem === undefined, bytes.toString()).toBe(expected);
        if (problem === undefined) {
          accepted++;
          // Where no escape can bring out the fault of V8's JSON.parse (see src/chain/canonical.ts).
          if (!bytes.includes('\\')) expect(got).toEqual(JSON.parse(bytes.toString()));
          return;
        }
        expect(problem).toMatchObject({ status: 400, code: 'invalid_json', errors: [{ field: expect.any(String) }] });
        const position = problem.errors[0]?.position as number;
        expect(position).toBeGreaterThanOrEqual(0);
        expect(position).toBeLessThanOrEqual(bytes.length);
        // Nothing before that place is wrong: cut there, the text is complete, or is refused for ending.
        const before = bytes.subarray(0, position);
        if (position > 0 && !naivelyAccepts(before)) expect(refusal(before).position).toBe(position);
      }),
      { numRuns: 4000 },
    );
    // Else the property says little.
    expect(accepted).toBeGreaterThan(400);
  });

  test('any bytes at all give a value or a Problem 400', () => {
    const pieces = fc.oneof(
      fc.constantFrom(...'[]{}:,"\\', '-', '0', '.', 'e', '\\u', 'd800', 'dc00', '0000', 'null', ' ', '\n', '1', 'a'),
      fc.uint8Array({ maxLength: 3 }),
    );
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 20 }), (parts) => {
        const bytes = Buffer.concat(parts.map((part) => Buffer.from(part as string)));
        for (const readIt of [() => readJson(bytes), () => [...readJsonArray(bytes, { itemsMax: 3 })]]) {
          try {
            readIt();
          } catch (error) {
            expect(error).toBeInstanceOf(Problem);
            expect((error as Problem).status).toBe(400);
          }
        }
        expect(naivelyAccepts(bytes)).toBe(accepts(bytes));
      }),
      { numRuns: 4000 },
    );
  });
});

describe('time is linear: 2 MB of what would take a quadratic reader minutes', () => {
  const size = 2_000_000;
  const many = (unit: string) => unit.repeat(Math.ceil(size / unit.length));
  const numbered = (member: (index: number) => string) => Array.from({ length: 100_000 }, (_, i) => member(i)).join();
  test.each<[name: string, text: () => string, isTaken: boolean]>([
    ['a number of digits', () => many('7'), false],
    ['a fraction of digits', () => `0.${many('7')}`, false],
    ['zeros before and after', () => `1${many('0')}.${many('0')}`, false],
    ['zeros that an exponent takes back', () => `0.${many('0')}1e${size + 1}`, true],
    ['an exponent of digits', () => `1e${many('9')}`, false],
    ['zero with an exponent of digits', () => `0e${many('9')}`, true],
    ['opening brackets', () => many('['), false],
    ['opening objects', () => many('{"a":'), false],
    ['white space', () => `${many(' \n\t\r')}1${many(' \n\t\r')}`, true],
    ['an unterminated string', () => `"${many('a')}`, false],
    ['escaped quotes', () => `"${many('\\"')}"`, true],
    ['escaped quotes without an end', () => `"${many('\\"')}`, false],
    ['backslashes', () => `"${many('\\\\')}"`, true],
    ['backslashes without an end', () => `"${many('\\\\')}`, false],
    ['strings of backslashes', () => `[${many('"\\\\",')}1]`, true],
    ['a wrong escape at the very end', () => `"${many('\\n')}\\x"`, false],
    ['a control character at the very end', () => `"${many('a')}\n"`, false],
    ['half a pair at the very end', () => `"${many('\\ud83d\\ude00')}\\ud83d"`, false],
    ['line feeds between strings', () => `[\n${many('"a",\n')}"a"\n]`, true],
    ['small containers', () => `[${many('[{}],')}1]`, true],
    ['small numbers', () => `[${many('0,')}0]`, true],
    ['escapes in strings of their own', () => `[${many('"\\n",')}1]`, true],
    ['members', () => `{${numbered((i) => `"key${i}":${i}`)}}`, true],
    ['members like indices', () => `{${numbered((i) => `"${i * 37}":0`)}}`, true],
    ['members, the last one twice', () => `{${numbered((i) => `"key${i}":0`)},"key99999":1}`, false],
    ['text beyond Latin-1', () => `[${many('"€",')}"\u{1f600}"]`, true],
    ['two bytes that are not UTF-8', () => `"${many('é')}"`, true],
  ])('%s', (_name, text, isTaken) => {
    const bytes = Buffer.from(text());
    expect(accepts(bytes)).toBe(isTaken);
    const invalid = Buffer.concat([bytes, Buffer.from([0xff])]);
    expect(accepts(invalid)).toBe(false);
  });

  test('lines that are blank', () => {
    expect(splitLines(Buffer.alloc(16_000_000, '\n'))).toEqual([]);
  });
});

describe.skipIf(data === undefined)('real events (needs SEALOG_TEST_DATA)', () => {
  test('one in twenty of them is taken, and comes back equal', () => {
    const folder = join(data ?? '', 'corpus');
    let events = 0;
    for (const name of readdirSync(folder).filter((file) => file.endsWith('.ndjson.gz'))) {
      const lines = splitLines(gunzipSync(readFileSync(join(folder, name))), { linesMax: 100_000 });
      for (const line of lines.filter((_, index) => index % 20 === 0)) {
        const value = readJson(line);
        // No name in them has an escape, so JSON.parse can be relied on.
        expect(value).toEqual(JSON.parse(Buffer.from(line).toString()));
        events++;
      }
    }
    expect(events).toBeGreaterThan(4000);
  });
});

/** What is read as a member of an event: its canonical form, which the reader makes itself. */
function canonicalOf(text: string): string {
  const member = readItem(Buffer.from(`{"é":0,"m":${text} }`)).members!.get('m')!;
  expect(Buffer.from(member.bytes).toString()).toBe(member.text);
  return member.text;
}

function read(text: string): JsonValue {
  return readJson(Buffer.from(text));
}

function accepts(bytes: Buffer): boolean {
  try {
    readJson(bytes);
    return true;
  } catch (error) {
    if (error instanceof Problem) return false;
    throw error;
  }
}

function problemOf(action: () => unknown): Problem {
  try {
    action();
  } catch (error) {
    if (error instanceof Problem) return error;
    throw error;
  }
  return expect.unreachable('this should have been refused');
}

/** The one error of a refused text. */
function refusal(text: string | Uint8Array, depthMax?: number): FieldError {
  const problem = problemOf(() => readJson(Buffer.from(text as string), depthMax === undefined ? {} : { depthMax }));
  expect(problem.code).toBe('invalid_json');
  expect(problem.errors).toHaveLength(1);
  return problem.errors[0] as FieldError;
}

/**
 * DESIGN's rules in another way than the reader's: JSON.parse for the grammar, then a list of all tokens, in which
 * numbers are compared as exact fractions, and names per object in sets.
 */
function naivelyAccepts(bytes: Buffer): boolean {
  const text = bytes.toString();
  if (!Buffer.from(text).equals(bytes)) return false;
  try {
    JSON.parse(text);
  } catch {
    return false;
  }
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s"{}[\]:,]+/g) ?? [];
  const open: Set<string>[] = [];
  for (const [index, token] of tokens.entries()) {
    if (token === '{' || token === '[') {
      open.push(new Set());
      if (open.length > 32) return false;
    } else if (token === '}' || token === ']') {
      open.pop();
    } else if (token.startsWith('"')) {
      const string = JSON.parse(token) as string;
      if (/\p{Surrogate}|\0/u.test(string)) return false;
      if (tokens[index + 1] === ':') {
        const names = open.at(-1) as Set<string>;
        if (string === '__proto__' || names.has(string)) return false;
        names.add(string);
      }
    } else if (/^[-\d]/.test(token) && !naivelyAcceptsNumber(token)) {
      return false;
    }
  }
  return true;
}

function naivelyAcceptsNumber(token: string): boolean {
  if (/^-[0.]+(e.*)?$/i.test(token)) return false;
  if (/^-?\d+$/.test(token)) {
    const integer = BigInt(token);
    return integer <= 9007199254740991n && integer >= -9007199254740991n;
  }
  const canonical = JSON.stringify(JSON.parse(token));
  if (canonical === 'null') return false;
  if (/^[0.]+(e.*)?$/i.test(token)) return true;
  if (Math.abs(Number(/e(.*)$/i.exec(token)?.[1] ?? 0)) > 2000) return false;
  const [a, b] = [fractionOf(token), fractionOf(canonical)];
  return a.over * b.under === b.over * a.under;
}

function fractionOf(token: string): { over: bigint; under: bigint } {
  const [mantissa = '', exponent = '0'] = token.toLowerCase().split('e');
  const [whole = '', fraction = ''] = mantissa.split('.');
  const power = Number(exponent) - fraction.length;
  return {
    over: BigInt(whole + fraction) * (power > 0 ? 10n ** BigInt(power) : 1n),
    under: power < 0 ? 10n ** BigInt(-power) : 1n,
  };
}

/** Values that Sealog takes, with names and characters that have gone wrong somewhere. */
function anyJson(): fc.Arbitrary<JsonValue> {
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 8 }).map((string) => string.replaceAll('\0', '')),
    fc.constantFrom('', 'a', 'b', 'proto', 'constructor', 'toJSON', '1', '10', '9', '01', '-1', '4294967295'),
    fc.constantFrom('\\ud800', '\\u0000', '\ufeff', '\u2028', '\ufb33', '\u{1f600}', '\uffff', '"', '\\', '/', '\n'),
  );
  const number = fc.oneof(
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.integer(),
    fc.maxSafeInteger(),
    fc.integer({ min: -9999, max: 9999 }).map((integer) => integer / 100),
    fc.constantFrom(2 ** 53, 1e21, 1e22, 5e-324, 1e-7, 0.1, 123456789012345680000),
  );
  return fc.letrec<{ value: JsonValue }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 4, depthSize: 'small' },
      text,
      number.map((value) => (value === 0 ? 0 : value)),
      fc.constantFrom(null, true, false),
      fc.array(tie('value'), { maxLength: 5 }),
      fc
        .array(fc.tuple(text, tie('value')), { maxLength: 6 })
        .map((members) => Object.fromEntries(members) as JsonObject),
    ),
  })).value;
}

/** Writes a value as some client might: members in any order, white space, needless escapes, numbers in other words. */
function spell(value: JsonValue, random: () => number): string {
  const pad = () => (random() < 0.8 ? '' : pick([' ', '\n', '\t', '\r\n', '  '], random));
  if (typeof value === 'string') return spellString(value, random);
  if (typeof value === 'number') return pad() + spellNumber(value, random) + pad();
  if (value === null || typeof value === 'boolean') return pad() + String(value) + pad();
  if (Array.isArray(value)) {
    return `${pad()}[${pad()}${value.map((item) => spell(item, random)).join(`${pad()},`)}]${pad()}`;
  }
  const members = Object.entries(value).map(([name, member]) => ({ name, member, place: random() }));
  members.sort((a, b) => a.place - b.place);
  const texts = members.map(
    ({ name, member }) => `${pad()}${spellString(name, random)}${pad()}:${spell(member, random)}`,
  );
  return `${pad()}{${texts.join()}${pad()}}${pad()}`;
}

function spellString(string: string, random: () => number): string {
  const escapeAll = random() < 0.2;
  let text = '';
  for (let index = 0; index < string.length; index++) {
    const unit = string.charCodeAt(index);
    const character = string.charAt(index);
    const isHalf = unit >= 0xd800 && unit <= 0xdfff;
    if (escapeAll || (!isHalf && random() < 0.1)) {
      const hex = unit.toString(16).padStart(4, '0');
      text += `\\u${random() < 0.5 ? hex.toUpperCase() : hex}`;
    } else if (character === '/' && random() < 0.5) text += '\\/';
    else if (isHalf) text += character;
    else text += JSON.stringify(character).slice(1, -1);
  }
  return `"${text}"`;
}

/** The same decimal value in other words; an integer beyond ±(2^53−1) never as a bare literal, which is refused. */
function spellNumber(value: number, random: () => number): string {
  const canonical = JSON.stringify(value);
  const isBare = /^-?\d+$/.test(canonical);
  if (random() < 0.5 && (!isBare || Number.isSafeInteger(value))) return canonical;
  const [mantissa = '', exponent = '0'] = canonical.split('e');
  const [whole = '', fraction = ''] = mantissa.split('.');
  const e = pick(['e', 'E'], random);
  const zeros = '0'.repeat(Math.floor(random() * 4));
  switch (Math.floor(random() * 3)) {
    case 0:
      return `${whole}.${fraction}0${zeros}${e}${pick(['', '+'], random)}${exponent}`
        .replace('+-', '-')
        .replace('++', '+');
    case 1: {
      // All digits before the point: 12.5e3 as 125e2.
      const digits = `${whole}${fraction}`.replace(/^(-?)0+(?=\d)/, '$1');
      const more = digits === '0' ? '' : zeros;
      return `${digits}${more}${e}${Number(exponent) - fraction.length - more.length}`;
    }
    default: {
      // All digits after it: 12.5e3 as 0.00125e7.
      const digits = `${whole}${fraction}`.replace('-', '');
      const sign = whole.startsWith('-') ? '-' : '';
      const shift = whole.replace('-', '').length + zeros.length;
      return `${sign}0.${zeros}${digits}${e}${Number(exponent) + shift}`;
    }
  }
}

/** Damages a text a little, in ways that parsers have got wrong. */
function mutate(bytes: Buffer, random: () => number): Buffer {
  const at = Math.floor(random() * (bytes.length + 1));
  const to = Math.min(bytes.length, at + Math.floor(random() * 6));
  const middle = pick<() => Buffer>(
    [
      () => Buffer.alloc(0),
      () => Buffer.concat([bytes.subarray(at, to), bytes.subarray(at, to)]),
      () => Buffer.concat([bytes.subarray(at, to), Buffer.from(pick([...NASTY], random))]),
      () => Buffer.concat([Buffer.from(pick([...NASTY], random)), bytes.subarray(at, to)]),
      () => Buffer.from([Math.floor(random() * 256)]),
    ],
    random,
  )();
  return Buffer.concat([bytes.subarray(0, at), middle, bytes.subarray(to)]);
}

const NASTY = [
  ...[
    '"',
    '\\',
    ',',
    ':',
    '[',
    ']',
    '{',
    '}',
    '0',
    '9',
    '-',
    '+',
    '.',
    'e1',
    'E-400',
    'e400',
    '00',
    '-0',
    '.0',
    ' ',
    '\n',
  ],
  ...[
    '\u0000',
    '\u001f',
    '\u00a0',
    '\ufeff',
    '\u2028',
    '\\u0000',
    '\\ud800',
    '\\udc00',
    '\\u0061',
    '\\x',
    'null',
    'tru',
  ],
  ...['"a":1,', '"a":1,"\\u0061":2', '{"__proto__":1}', '9007199254740993', '1e400', '//', 'NaN', '[[[[[[[[[[[[[[[['],
] as const;

function pick<T>(from: readonly T[], random: () => number): T {
  return from[Math.floor(random() * from.length)] as T;
}

/** A small generator of numbers in [0, 1), the same for the same seed: a linear congruence, of which the upper bits are used. */
function numbersFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) / 2 ** 24;
  };
}
