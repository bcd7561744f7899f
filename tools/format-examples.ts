/**
 * Writes the worked examples of `docs/format.md` between their markers: `node tools/format-examples.ts`.
 *
 * One tiny stream of three entries in two blocks, and a few values that it is too small to show. Everything is fixed: salts, ids,
 * times and keys. The bytes come from the project's own code; where that draws randomness (sealing, wrapping), from node:crypto with
 * fixed bytes in place of random ones, and the project's code opens what was made. zstd may write other bytes in another version, so
 * its frames are kept here as they came once, and only opened.
 *
 * `test/format-examples.test.ts` fails when the document is stale, and works all of it out a second time from the document's words.
 */
import assert from 'node:assert/strict';
import { createCipheriv, hkdfSync } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { encodeParts, encodeRecords, packPayload, spansOf, unpackPayload } from '../src/chain/block.ts';
import { concatBytes, fromHex, lengthPrefixed, toHex, u32be, utf8 } from '../src/chain/bytes.ts';
import { canonicalText, type JsonObject } from '../src/chain/canonical.ts';
import { OUTCOMES, type Outcome } from '../src/chain/category.ts';
import { encodeCheckpoint } from '../src/chain/checkpoint.ts';
import { entryIdHash } from '../src/chain/entry.ts';
import {
  appendLeaves,
  checkConsistency,
  checkInclusion,
  consistencyPath,
  encodeFrontier,
  frontierRoot,
  inclusionPath,
  leafHash,
  perfectRoot,
} from '../src/chain/merkle.ts';
import { type ClosedPart, type OpenPart, PART_NAMES, type Part, partCommitment, partsHash } from '../src/chain/part.ts';
import { encodeRecord, NO_PREVIOUS } from '../src/chain/record.ts';
import { addMonths, dropMonthOf, formatInstant } from '../src/chain/retain-until.ts';
import { openSealed } from '../src/chain/seal.ts';
import { sha256Hex } from '../src/chain/sha256.ts';
import { type Mark, marksOf, placedTag, tagKeyOf, tagOf } from '../src/chain/tag.ts';
import { tileRoot } from '../src/chain/tile.ts';
import { readJson } from '../src/ingest/json-reader.ts';
import { retentionMonths } from '../src/retention/policy.ts';

const DOCUMENT = new URL('../docs/format.md', import.meta.url);
const BEGIN = '<!-- examples: begin (tools/format-examples.ts writes this) -->\n';
const END = '<!-- examples: end -->\n';

// What is fixed.

const ORIGIN = 'audit.example.com';
const STREAM = 'acme/configuration_change';
const DATA_KEY = bytesFrom(0x00, 32);
const MONTH_KEY = bytesFrom(0x40, 32);
const WRAP_NONCE = bytesFrom(0x60, 12);

interface ExampleEntry {
  /** The event as a client might send it. */
  readonly sent: string;
  readonly evidence?: 'incomplete';
  /** The database's clock when it was sequenced. */
  readonly clock: string;
}

const ENTRIES: readonly ExampleEntry[] = [
  {
    sent: `{
  "id": "cr-1182.1", "category": "configuration_change", "action": "role.update",
  "outcome": "success", "severity": 4, "occurredAt": "2024-02-29T12:59:58.5+01:00",
  "source": { "site": "plant-7", "service": "mes-gateway" },
  "actor": { "type": "user", "id": "u-17", "name": "Zoë Weiß",
             "email": " Zoe.Weiss@Example.COM", "ip": "::FFFF:192.0.2.7" },
  "target": { "type": "role", "id": "operator" },
  "reason": "CR-1182",
  "changes": { "before": { "limit": 1.50 }, "after": { "limit": 1E20 } }
}`,
    clock: '2024-02-29T12:00:00.000Z',
  },
  {
    sent: `{
  "id": "cr-1182.2", "category": "configuration_change", "action": "setting.update",
  "outcome": "unknown", "occurredAt": "2024-02-29T11:59:59Z",
  "source": { "service": "mes-gateway" }
}`,
    evidence: 'incomplete',
    clock: '2024-02-29T12:00:00.000Z',
  },
  {
    sent: `{
  "id": "Az09._:~-", "category": "configuration_change", "action": "data_source.update",
  "outcome": "failure", "severity": 0, "occurredAt": "2024-02-29T12:00:00.123456789-00:00",
  "source": { "zone": "L3", "service": "mes-gateway", "host": "edge-2" },
  "actor": { "type": "service", "id": "mes-gateway" },
  "target": { "type": "data_source", "id": "plc 7", "name": "\\ufb00" },
  "changes": { "diff": [ { "op": "replace", "path": "/host", "value": "a" } ] },
  "details": { "\\ufb00": 2, "\\ud83d\\ude00": 1, "9": null, "10": 0.0000001,
               "\\u20ac\\"\\\\\\/\\u001f\\u007f": true },
  "raw": { "base64": "AP8=" }
}`,
    clock: '2024-02-29T12:00:00.250Z',
  },
];

/** The blocks that the entries were committed in, with their sealing salts. */
const BLOCKS = [
  { first: 0, entries: 2, sealSalt: bytesFrom(0x80, 32) },
  { first: 2, entries: 1, sealSalt: bytesFrom(0xa0, 32) },
] as const;
const RESEAL_SALT = bytesFrom(0xc0, 32);

/** Frames that zstd 1.5.7 wrote at level 3, by label. Any frame that opens to the payload would do. */
const ZSTD_FRAMES: Readonly<Record<string, string>> = {
  'block2.parts':
    '28b52ffd604300cd0800b6903f3830e5361daa81c1c0c0c040550621d03e48d03e4888d59f2e6dfcb69716dbdf1b24b32dd4' +
    '3cba954e030b48f1f08f0901bf80a681c101fc323a002a002c0003bbcbb2a292827262524232221202f2e1d1c1b1a1918161' +
    'ba28912cc20a906234210a7dd5eb242807facc0888cdd3d13ac338f26129ccee62028f6f4c4edaddf9943bc8c0d7b42d3ba8' +
    'd9ddf08d6da1aebdf39b8eeae34752d45576325e7fcecfb683019a5555df455dd7af93e9e571ce0fc43f78dc64dae257d641' +
    '84dd0d1bc2cbf3fb9b32f4f8ea711eea7c4f9534e11beb3ece739055661f097afc46009bb47a82c182c2f9059af624e76000' +
    '01bf7402f068f14b2d2e011efbeb2a9f14090042539035c01dc17726591c03ba015b044804241e51c4',
  'block2.records':
    '28b52ffd60e200a50a0076584b2b9025690effffffff3f975fffaf90b56d1b2d698e22dfb62429592ab1db1e2f42ba511311' +
    '21c88a4d6e8f4a40003e003e00f3e7864b9076b0a59201a187d0536980538642065348fdbd16c4a6b4619e3f3710bc83c1a1' +
    '8482bf47f9f3ae1b158da1993693396cddf8f765caca7b850400024c33e5a2a9e2e76bdb4ad2c190e3a4528451714a841171' +
    'cc6d5309c656a28a09d20aaec61a827a8f766c44168c0a2df877a6d255d0e640aef2f74e4cae4d47bd1b68266907b22e0416' +
    'b9b5003a54a4939bfe1c2249e1c52e69c7e25da8b4e3866c918b2931848d8e236949c28a134a103ad61ab7b620a2b0c890f5' +
    'f70be97df1f3462c6bc087a50d422acbe4009de0fd7b629b56e667e14bc032137e8eb007ba2ec2603af1f766b9a057462362' +
    '33d3e00aef3fe81da14ada8b661e0d0031af70e18ca13476d306536d0d662a03d883c61816caa56dfe8c2de42dace08d30a3',
  'block0.parts':
    '28b52ffd602900750700a2cd33312073d301000c40c8249000d01158c0c8552da73a57bd75dbbe6354d7d253cefaf83dd12d' +
    '00809120727777375955f59b0cdf3ba3b5d24ed6dea847b1bbbf4462ac4e3ccf7c1bd895861ae5d467457e37b599dde3d7ee' +
    '42f25e6777bfd7e6445b4b77ea2ea3d99fe9654441e7b72657e0052d788d44c6300c633e7fe3c44a747eca3cf512130fec6c' +
    'd3240b4987e3667f6053d0747e36a5d6f754769713b201d15cd1fa8015e5d1c1b1a191817161f18a69422202e2c1a1816141' +
    '2101e1c020534030201000809176773598dd95020a00776cee63538f1038a638292ef39b21ee0c8b2f6103086e44c103',
  'block0.records':
    '28b52ffd608602350d00669e59298027c9032b83199819fef7c1b77265b4464c1481dd4452c21f4ee1ac84b0b2a494146d0b' +
    'e5602efe084e004c005300c8d96b10ad5b5a672bd6584adf7da1ebf6138ad7455963999d61036560ca35e58e11d0ce71f848' +
    '87cfbaad01decfb9b82b6bac311c66cc317dddbeb8c67eeda7580c8f50e6ba954aacdeab90a020fb3e1785ae91dc26d4387f' +
    'f1740d767be0295b8858e50019bb1e30b381d931bfa9f8cf359617252e7e26d35aad8767a97ecc94392669b3925fdd90bfe4' +
    'a9c3203c10f543fddd1a7a6921ff2feb2c24b57f4b2228d2805c0e9a398f5024149751fe8b8b3fc858eb5304050bc6ed628d' +
    'fd83ec024ea0e77288502a0ee013deeb36d13f2b5d636191a3ca4628d6edd748d7d88446f8da87837e62e3623e5d0517a6a5' +
    '031b821277b77fc42030396cc839a9971ab3afe7f4ecdf383ff8cf9eac578c902479ea0d72546b8d254f69bd826dfd6947fe' +
    'b46f93b024412f4928357f8b21833098583fc8fa05170006af09d2cb39c0c074002023c4e67b1d828b0123ccd7b91dad382f' +
    '34973716ca2e8674599fa90310079711ac914bafbe35df11971b859599630529',
};

const CANONICAL: readonly string[] = [
  '1.50',
  '1E20',
  '1e21',
  '-0.5',
  '0e5',
  '0.000001',
  '0.0000001',
  '123456789012345680000.0',
  '5e-324',
  '1.7976931348623157e308',
  '9007199254740991',
  '"\\u0041\\/\\u00e9"',
  '"\\u0008\\u0009\\u000a\\u000c\\u000d\\u001f\\"\\\\"',
  '{ "b": [ ], "a": { }, "B": null }',
  '{ "\\ufb00": 1, "\\ud83d\\ude00": 2, "10": 3, "9": 4, "": 5 }',
];

const REFUSED: readonly (readonly [string, string])[] = [
  ['9007199254740992', 'an integer beyond 2^53−1'],
  ['100000000000000000000', 'the same, though `1E20` passes'],
  ['1e400', 'becomes infinite'],
  ['1e-400', 'becomes 0'],
  ['0.1000000000000000055', 'does not survive: its canonical text is `0.1`'],
  ['333333333.33333329', 'does not survive either, though RFC 8785 rounds it'],
  ['-0', 'minus zero'],
  ['"\\ud83d"', 'a lone surrogate'],
  ['"\\u0000"', 'U+0000'],
  ['{"a":1,"a":1}', 'a name twice'],
  ['{"__proto__":1}', 'this name'],
];

const CALENDAR: readonly (readonly [string, number])[] = [
  ['2024-02-29T12:00:00.000Z', 12],
  ['2024-02-29T12:00:00.000Z', 24],
  ['2024-02-29T12:00:00.000Z', 36],
  ['2024-02-29T12:00:00.000Z', 48],
  ['2023-02-28T23:59:59.999Z', 12],
  ['2024-01-31T00:00:00.000Z', 1],
  ['2024-08-31T00:00:00.000Z', 6],
  ['2024-12-31T23:59:59.999Z', 12],
  ['2025-01-01T00:00:00.000Z', 12],
  ['2024-11-30T08:00:00.000Z', 12],
];

/** Members of actors, as JSON text. */
const ACTORS: readonly string[] = [
  '{"email":" ZOE\\u0308@Example.COM\\t"}',
  '{"email":"\\u03a3\\u0391\\u03a3@example.gr"}',
  '{"ip":"2001:DB8:0:0:1:0:0:1"}',
  '{"ip":"::ffff:c000:0207%eth0"}',
  '{"ip":"64:ff9b::192.0.2.1"}',
  '{"ip":"FE80::1%Eth0"}',
  '{"ip":"1:2:3:4:5:6:7::"}',
  '{"ip":"192.0.2.07"}',
  '{"ip":" Host "}',
];

/** Ids of streams, and first seqs: the ends of stretches, and where places begin anew. */
const PLACES: readonly (readonly [stream: number, firstSeq: number])[] = [
  [1, 8191],
  [1, 8192],
  [2, 0],
  [8, 100_000_000],
  [2_147_483_647, 137_438_953_471],
  [2_147_483_647, 137_438_953_472],
];

// What follows.

/** Returns the text between the markers. */
export function exampleSection(): string {
  const out = new Section();
  canonicalExamples(out);
  const entries = streamExamples(out);
  blockExamples(out, entries);
  rowExamples(out, entries);
  erasureExamples(out, entries);
  treeExamples(out, entries);
  otherExamples(out);
  return out.text();
}

/** Returns the document with its examples written anew. */
export function withExamples(document: string): string {
  const begin = document.indexOf(BEGIN);
  const end = document.indexOf(END);
  assert(begin >= 0 && end > begin, 'the document has both markers');
  return document.slice(0, begin + BEGIN.length) + exampleSection() + document.slice(end);
}

interface Entry {
  readonly seq: number;
  readonly record: string;
  readonly leaf: Uint8Array;
  readonly parts: readonly OpenPart[];
  readonly partsHash: Uint8Array;
  readonly marks: readonly Mark[];
  readonly recordedAt: number;
  readonly retainUntil: number;
  readonly event: JsonObject;
}

function canonicalExamples(out: Section): void {
  out.heading('Canonical JSON');
  out.prose('What may be sent, and the canonical text that is hashed and stored:');
  out.table(
    ['label', 'sent', 'canonical'],
    CANONICAL.map((sent, i) => [`json.${i}`, sent, canonicalText(readJson(utf8(sent)))]),
  );
  out.prose('What is refused:');
  out.table(
    ['sent', 'why'],
    REFUSED.map(([sent, why]) => {
      assert.throws(() => readJson(utf8(sent)));
      return [sent, new Plain(why)];
    }),
  );
}

function streamExamples(out: Section): Entry[] {
  out.heading('The stream: what goes in');
  out.table(
    ['label', 'value', ''],
    [
      ['stream', STREAM, new Plain('the name of the stream')],
      ['data-key', toHex(DATA_KEY), new Plain('of this stream and the drop month 202603')],
    ],
  );
  for (const [seq, entry] of ENTRIES.entries()) {
    out.block(`entry${seq}.sent`, entry.sent, `the event of entry ${seq} as the client sent it`);
  }
  out.prose(
    'Entry 1 lacks the evidence of its category; its tenant has it taken and marked all the same. Entries 0 and 1 were committed ' +
      'together, entry 2 later:',
  );
  out.table(
    ['label', 'the database’s clock'],
    ENTRIES.map((entry, seq) => [`entry${seq}.clock`, entry.clock]),
  );

  out.heading('Parts, records, hashes');
  const entries: Entry[] = [];
  let previous = NO_PREVIOUS;
  for (const [seq, { sent, evidence, clock }] of ENTRIES.entries()) {
    const event = readJson(utf8(sent)) as JsonObject;
    const parts: OpenPart[] = [];
    const commitments: { name: OpenPart['name']; commitment: Uint8Array }[] = [];
    for (const [index, name] of PART_NAMES.entries()) {
      const value = event[name];
      if (value === undefined) continue;
      const part: OpenPart = { name, salt: partSalt(seq, index), value: utf8(canonicalText(value)) };
      const commitment = partCommitment(name, part.salt, part.value);
      const label = `entry${seq}.${name}`;
      const message = concatBytes(
        utf8('sealog/part/v1\0'),
        part.salt,
        lengthPrefixed(utf8(name)),
        lengthPrefixed(part.value),
      );
      assert.equal(toHex(commitment), sha256Hex(message));
      out.block(`${label}.value`, canonicalText(value), `JCS(value) of the part \`${name}\` of entry ${seq}`);
      out.hex(`${label}.message`, message, 'what is hashed');
      out.table(
        ['label', 'hex'],
        [
          [`${label}.salt`, toHex(part.salt)],
          [`${label}.commitment`, toHex(commitment)],
        ],
      );
      parts.push(part);
      commitments.push({ name, commitment });
    }
    const hash = partsHash(commitments);
    const message = concatBytes(
      utf8('sealog/parts/v1\0'),
      ...commitments.flatMap(({ name, commitment }) => [lengthPrefixed(utf8(name)), commitment]),
    );
    assert.equal(toHex(hash), sha256Hex(message));
    out.hex(`entry${seq}.parts.message`, message, `what the parts hash of entry ${seq} is taken over`);

    const recordedAt = Date.parse(clock);
    const retainUntil = addMonths(recordedAt, retentionMonths('configuration_change')!);
    const record = encodeRecord({
      stream: STREAM,
      seq,
      previous,
      id: event['id'] as string,
      action: event['action'] as string,
      outcome: event['outcome'] as Outcome,
      ...(event['severity'] === undefined ? {} : { severity: event['severity'] as number }),
      occurredAt: event['occurredAt'] as string,
      recordedAt: formatInstant(recordedAt),
      retainUntil: formatInstant(retainUntil),
      source: event['source'] as JsonObject,
      ...(evidence === undefined ? {} : { evidence }),
      parts: toHex(hash),
    });
    const leaf = leafHash(utf8(record));
    out.block(`entry${seq}.record`, record, `the record of entry ${seq}, one line`);
    out.table(
      ['label', 'hex', ''],
      [
        [`entry${seq}.parts.hash`, toHex(hash), new Plain('the parts hash, `parts` of the record')],
        [`entry${seq}.hash`, toHex(leaf), new Plain('the hash of the entry: H(0x00 ‖ record)')],
      ],
    );
    previous = toHex(leaf);
    entries.push({
      seq,
      record,
      leaf,
      parts,
      partsHash: hash,
      marks: marksOf({
        action: event['action'] as string,
        source: event['source'] as JsonObject,
        actor: event['actor'],
        target: event['target'],
      }),
      recordedAt,
      retainUntil,
      event,
    });
  }
  return entries;
}

function blockExamples(out: Section, entries: readonly Entry[]): void {
  out.heading('Blocks');
  for (const { first, entries: count, sealSalt } of BLOCKS) {
    const own = entries.slice(first, first + count);
    const label = `block${first}`;
    const which = count === 1 ? `entry ${first}` : `entries ${first} to ${first + count - 1}`;
    const records = encodeRecords(own.map((entry) => utf8(entry.record)));
    out.hex(`${label}.records.payload`, records, `the records payload of the block of ${which}`);
    out.hex(`${label}.records`, packed(`${label}.records`, records), 'behind its codec byte: the column `records`');
    const parts = encodeParts(own.map((entry) => entry.parts));
    out.hex(`${label}.parts.payload`, parts, `the parts payload of the block of ${which}`);
    const packedParts = packed(`${label}.parts`, parts);
    out.hex(`${label}.parts.packed`, packedParts, 'behind its codec byte: what is sealed');
    sealExample(out, label, own, sealSalt, packedParts);
  }
}

function sealExample(
  out: Section,
  label: string,
  own: readonly Entry[],
  salt: Uint8Array,
  payload: Uint8Array,
): Uint8Array {
  const info = utf8('sealog/seal/v1\0');
  const key = new Uint8Array(hkdfSync('sha256', DATA_KEY, salt, info, 32));
  const hashes = own.map((entry) => entry.partsHash);
  const associated = concatBytes(info, lengthPrefixed(utf8(STREAM)), ...hashes);
  const cipher = createCipheriv('aes-256-gcm', key, new Uint8Array(12));
  cipher.setAAD(associated);
  const sealed = concatBytes(salt, cipher.update(payload), cipher.final(), cipher.getAuthTag());
  assert.equal(toHex(openSealed(DATA_KEY, STREAM, hashes, sealed)), toHex(payload));
  out.table(
    ['label', 'hex', ''],
    [
      [`${label}.seal.salt`, toHex(salt), new Plain('random in a real sealing')],
      [`${label}.seal.key`, toHex(key), new Plain('derived from the data key and the salt')],
    ],
  );
  out.hex(`${label}.seal.aad`, associated, 'the associated data');
  out.hex(`${label}.parts`, sealed, 'salt, ciphertext and GCM tag: the column `parts`');
  return sealed;
}

function rowExamples(out: Section, entries: readonly Entry[]): void {
  out.heading('Tags, id hashes and rows');
  const tagKey = tagKeyOf(DATA_KEY);
  out.table(['label', 'hex'], [['tag-key', toHex(tagKey)]]);
  out.prose(
    'The tags of the blocks, in the order of the marks; each stands once, though two entries may have it. Placed for the stream whose `id` is 1:',
  );
  out.table(
    ['label', 'first_seq', 'kind', 'value', 'first 8 bytes', 'tag', 'placed'],
    BLOCKS.flatMap(({ first, entries: count }) => {
      const marks = new Map<string, Mark>();
      for (const entry of entries.slice(first, first + count))
        for (const mark of entry.marks) marks.set(JSON.stringify(mark), mark);
      return [...marks.values()].map((mark, i) => [
        `tag.${first}.${i}`,
        String(first),
        mark.kind,
        mark.value,
        ...tagColumns(mark, tagKey),
        String(placedTag(tagOf(mark, tagKey), 1, first)),
      ]);
    }),
  );
  const message = (mark: Mark, key: Uint8Array) =>
    concatBytes(utf8('sealog/tag/v1\0'), key, lengthPrefixed(utf8(mark.kind)), lengthPrefixed(utf8(mark.value)));
  out.hex(
    'tag.0.0.message',
    message(entries[0]!.marks[0]!, new Uint8Array(0)),
    'what the plain tag 0.0 is the hash of',
  );
  out.hex('tag.0.3.message', message(entries[0]!.marks[3]!, tagKey), 'what the keyed tag 0.3 is the hash of');
  out.prose('The hashed ids, and the rows of `entry_id`:');
  out.table(
    ['label', 'seq', 'id of the event', 'hashed id'],
    entries.map(({ seq, event }) => [
      `id.${seq}`,
      String(seq),
      event['id'] as string,
      entryIdHash(event['id'] as string),
    ]),
  );
  out.table(
    ['label', 'first_seq', 'ids', 'ids_rest'],
    BLOCKS.map(({ first, entries: count }) => {
      const hashes = entries.slice(first, first + count).map(({ event }) => entryIdHash(event['id'] as string));
      const halves = (from: number) =>
        hashes.map((hash) => BigInt.asIntN(64, BigInt(`0x${hash.replaceAll('-', '').slice(from, from + 16)}`)));
      return [`row.ids${first}`, String(first), `{${halves(0).join(',')}}`, `{${halves(16).join(',')}}`];
    }),
  );
  out.prose(
    'The rows of `block` (the columns `records` and `parts` stand above, `tags` are those placed; `tenant`, `stream` and `key_id` are 1):',
  );
  const columns = BLOCKS.map(({ first, entries: count }) => {
    const own = entries.slice(first, first + count);
    const spans = spansOf(
      own.map(({ event }) => ({
        occurredAt: Date.parse(event['occurredAt'] as string),
        severity: event['severity'] as number | undefined,
        outcome: OUTCOMES.indexOf(event['outcome'] as Outcome),
      })),
    );
    return {
      first_seq: first,
      entries: count,
      drop_month: dropMonthOf(own[0]!.retainUntil),
      recorded_from: own[0]!.recordedAt,
      recorded_to: own.at(-1)!.recordedAt,
      occurred_from: spans.occurredFrom,
      occurred_to: spans.occurredTo,
      severity_min: spans.severityMin,
      severity_max: spans.severityMax,
      outcomes: spans.outcomes,
    };
  });
  out.table(
    ['label', ...Object.keys(columns[0]!)],
    columns.map((row) => [`row.block${row.first_seq}`, ...Object.values(row).map(String)]),
  );
  out.prose('The row of `stream` (`category` is `configuration_change`, `epoch` 1):');
  const last = entries.at(-1)!;
  const frontier = encodeFrontier(
    appendLeaves(
      0,
      [],
      entries.map((entry) => entry.leaf),
    ),
  );
  out.table(
    ['label', 'name', 'size', 'recorded_at', 'retain_until'],
    [['row.stream', STREAM, String(entries.length), String(last.recordedAt), String(last.retainUntil)]],
  );
  out.table(['label', 'hex'], [['row.stream.head', toHex(last.leaf)]]);
  out.hex('row.stream.frontier', frontier, 'the column `frontier`');

  out.prose('The row of `data_key` (`drop_month` is 202603, `month_key` is `202603`):');
  const associated = concatBytes(utf8('sealog/data-key/v1\0'), lengthPrefixed(utf8(STREAM)), u32be(202603));
  const cipher = createCipheriv('aes-256-gcm', MONTH_KEY, WRAP_NONCE);
  cipher.setAAD(associated);
  const wrapped = concatBytes(WRAP_NONCE, cipher.update(DATA_KEY), cipher.final(), cipher.getAuthTag());
  out.table(
    ['label', 'hex', ''],
    [
      ['month-key', toHex(MONTH_KEY), new Plain('the file `202603.key` holds this and a line feed')],
      ['wrap.nonce', toHex(WRAP_NONCE), new Plain('random in a real wrapping')],
    ],
  );
  out.hex('wrap.aad', associated, 'the associated data');
  out.hex('wrap.wrapped', wrapped, 'the column `wrapped`');
}

function erasureExamples(out: Section, entries: readonly Entry[]): void {
  out.heading('After an erasure');
  out.prose(
    'The block of entries 0 and 1 once the actor of entry 0 is erased. Record, hash and parts hash stay as they are; the part is closed; ' +
      'the block is sealed anew, with the same data key and associated data and another salt.',
  );
  const [erased, ...others] = entries.slice(0, 2);
  const closed: readonly Part[] = erased!.parts.map((part): OpenPart | ClosedPart =>
    part.name === 'actor' ? { name: part.name, commitment: partCommitment(part.name, part.salt, part.value) } : part,
  );
  const payload = encodeParts([closed, ...others.map((entry) => entry.parts)]);
  out.hex('erased.parts.payload', payload, 'the parts payload');
  const packedParts = packed('erased.parts', payload);
  out.hex('erased.parts.packed', packedParts, 'behind its codec byte');
  sealExample(out, 'erased', entries.slice(0, 2), RESEAL_SALT, packedParts);
}

function treeExamples(out: Section, entries: readonly Entry[]): void {
  out.heading('Trees, proofs and tiles');
  const leaves = entries.map((entry) => entry.leaf);
  const rootOf = (size: number) => frontierRoot(size, appendLeaves(0, [], leaves.slice(0, size)));
  const node = (level: number, index: number) =>
    perfectRoot(leaves.slice(index * 2 ** level, (index + 1) * 2 ** level));
  out.prose('Over the three entries of the stream:');
  out.table(
    ['label', 'hex', ''],
    [0, 1, 2, 3].map((size) => [`tree.root.${size}`, toHex(rootOf(size)), new Plain(`the root at size ${size}`)]),
  );
  out.prose('Inclusion paths in the tree of size 3, lowest first, and consistency paths to it:');
  const path = (hashes: readonly Uint8Array[]) => (hashes.length === 0 ? '(empty)' : hashes.map(toHex).join(' '));
  out.table(
    ['label', 'hashes'],
    [
      ...leaves.map((leaf, seq) => {
        const hashes = inclusionPath(seq, 3, node);
        checkInclusion(seq, 3, leaf, hashes, rootOf(3));
        return [`path.inclusion.${seq}`, path(hashes)];
      }),
      ...[0, 1, 2, 3].map((from) => {
        const hashes = consistencyPath(from, 3, node);
        checkConsistency(from, 3, rootOf(from), rootOf(3), hashes);
        return [`path.consistency.${from}`, path(hashes)];
      }),
    ],
  );
  out.block(
    'checkpoint',
    encodeCheckpoint({ origin: `${ORIGIN}/${STREAM}`, size: 3, root: rootOf(3) }).trimEnd(),
    `the text of a checkpoint of this state, unsigned, of the deployment \`${ORIGIN}\`; its last line ends in a line feed too`,
  );

  out.prose(
    'A stream of three entries fills no tile. So, as a second tree, the 256 records that are one byte each, 0x00 to 0xff in order ' +
      '(real records are JSON):',
  );
  const bytes = Array.from({ length: 256 }, (_, i) => leafHash(Uint8Array.of(i)));
  const frontier = (size: number) => appendLeaves(0, [], bytes.slice(0, size));
  out.table(
    ['label', 'hex', ''],
    [
      ...[1, 2, 4, 5, 6, 7, 8, 255].map((size) => [
        `bytes.root.${size}`,
        toHex(frontierRoot(size, frontier(size))),
        new Plain(`the root at size ${size}`),
      ]),
      ['bytes.tile.hash', sha256Hex(concatBytes(...bytes)), new Plain('SHA-256 of the 8,192 bytes of its tile')],
      [
        'bytes.tile.root',
        toHex(tileRoot(concatBytes(...bytes))),
        new Plain('the column `root` of that tile, and the root at size 256'),
      ],
    ],
  );
  out.hex(
    'bytes.frontier.7',
    encodeFrontier(frontier(7)),
    'the frontier at size 7: over records 0 to 3, 4 and 5, and 6',
  );
}

function otherExamples(out: Section): void {
  out.heading('Calendar');
  out.table(
    ['label', 'recordedAt', 'months', 'retainUntil', 'drop month'],
    CALENDAR.map(([from, months], i) => {
      const until = addMonths(Date.parse(from), months);
      return [`month.${i}`, from, String(months), formatInstant(until), String(dropMonthOf(until))];
    }),
  );
  out.heading('More tags');
  out.prose('What stands in an actor, and its tag with the tag key above:');
  const tagKey = tagKeyOf(DATA_KEY);
  out.table(
    ['label', 'in the actor', 'kind', 'value', 'first 8 bytes', 'tag'],
    ACTORS.map((sent, i) => {
      const marks = marksOf({ action: '', source: {}, actor: readJson(utf8(sent)) });
      const [mark, ...others] = marks.filter(({ kind }) => kind !== 'action');
      assert(mark !== undefined && others.length === 0);
      return [`more.${i}`, sent, mark.kind, mark.value, ...tagColumns(mark, tagKey)];
    }),
  );
  out.prose('The tag 0.0 in other places:');
  const tag = tagOf({ kind: 'action', value: 'role.update' }, tagKey);
  out.table(
    ['label', 'id of the stream', 'first_seq', 'placed, in hex', 'placed'],
    PLACES.map(([stream, firstSeq], i) => {
      const placed = placedTag(tag, stream, firstSeq);
      return [`place.${i}`, String(stream), String(firstSeq), hexOf(placed), String(placed)];
    }),
  );
}

function tagColumns(mark: Mark, tagKey: Uint8Array): [string, string] {
  const tag = tagOf(mark, tagKey);
  return [hexOf(tag), String(tag)];
}

function hexOf(tag: bigint): string {
  return BigInt.asUintN(64, tag).toString(16).padStart(16, '0');
}

/** The payload behind its codec byte, in bytes that do not depend on the version of zstd. */
function packed(label: string, payload: Uint8Array): Uint8Array {
  const frame = ZSTD_FRAMES[label];
  const kept =
    frame === undefined ? concatBytes(Uint8Array.of(0), payload) : concatBytes(Uint8Array.of(1), fromHex(frame));
  const now = packPayload(payload);
  if (toHex(unpackPayload(kept)) !== toHex(payload) || (frame === undefined && now[0] !== 0)) {
    throw new Error(`the frame of ${label} is to be ${toHex(now.subarray(1))}`);
  }
  return kept;
}

function partSalt(seq: number, index: number): Uint8Array {
  return bytesFrom(8 * (6 * seq + index), 16);
}

/** Returns `length` bytes that count up from `first`. */
function bytesFrom(first: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (first + i) & 0xff);
}

/** Text in a table that is no code. */
class Plain {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** Markdown, with each value under a label by which the test finds it. */
class Section {
  readonly #parts: string[] = [];

  heading(text: string): void {
    this.#parts.push(`### ${text}\n`);
  }

  prose(text: string): void {
    this.#parts.push(`${text}\n`);
  }

  /** A value of one or more lines. */
  block(label: string, value: string, what: string): void {
    this.#parts.push(`\`${label}\`: ${what}\n`, `\`\`\`text\n${value}\n\`\`\`\n`);
  }

  /** Bytes, 32 a line. */
  hex(label: string, bytes: Uint8Array, what: string): void {
    const lines = toHex(bytes).match(/.{1,64}/g) ?? [];
    this.block(label, lines.join('\n'), `${what} (${bytes.length} bytes)`);
  }

  table(head: readonly string[], rows: readonly (readonly (string | Plain)[])[]): void {
    const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |\n`;
    const cell = (value: string | Plain) => (value instanceof Plain ? value.text : code(value));
    this.#parts.push(line(head) + line(head.map(() => '---')) + rows.map((row) => line(row.map(cell))).join(''));
  }

  text(): string {
    return `\n${this.#parts.join('\n')}\n`;
  }
}

function code(text: string): string {
  assert(!/[`|\n]|^ | $/.test(text), 'this text can not stand as code in a table');
  return `\`${text}\``;
}

if (import.meta.main) writeFileSync(DOCUMENT, withExamples(readFileSync(DOCUMENT, 'utf8')));
