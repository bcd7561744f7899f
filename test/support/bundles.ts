/**
 * Evidence bundles, good and damaged, with what a verifier must say to them. Both verifiers are held to the same ones: `writeBundleCases`
 * writes them as files into a folder.
 *
 *     <name>.tar           the bundle
 *     <name>.json          {"key", "checkpoints", "authorities" (base64 of DER), "witnesses", "verdict", "kinds"}
 *
 * `kinds` must be among the kinds of findings. There may be others that follow from them.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fromUtf8, toBase64, utf8 } from '../../src/chain/bytes.ts';
import { canonicalBytes, decodeCanonical, type JsonObject, type JsonValue } from '../../src/chain/canonical.ts';
import { encodeKeyStatement, type KeyStatement } from '../../src/chain/key-statement.ts';
import { type NoteSigner, signNote } from '../../src/chain/note.ts';
import { sha256 } from '../../src/chain/sha256.ts';
import { readTar } from '../../src/chain/tar.ts';
import type { BundleFindingKind, BundleVerdict } from '../../src/verify/bundle/bundle-report.ts';
import type { BundleTrust } from '../../src/verify/bundle/verify-bundle.ts';
import { readCertificates } from '../../src/verify/time-stamp.ts';
import { fieldToken } from './field-token.ts';
import { BEGIN, manifestOf, PaperLog, packTar, tokenEvidence, witnessEvidence } from './paper-log.ts';
import type { Authority } from './time-stamp-authority.ts';

export interface BundleCase {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly trust: BundleTrust;
  readonly verdict: BundleVerdict;
  readonly kinds: readonly BundleFindingKind[];
}

export type BundleFiles = Map<string, Uint8Array>;

export const STREAM = 'acme/configuration_change';
const SECOND = 1000;

export function trusting(log: PaperLog, more: Partial<BundleTrust> = {}): BundleTrust {
  return { key: log.key(), checkpoints: [], authorities: [], witnesses: [log.witness().vkey], ...more };
}

/** The bundle that most damage is done to: a range within a stream, with neighbours, two anchors by a witness, a checkpoint of before. */
export function usualBundle(): { log: PaperLog; bytes: Uint8Array; trust: BundleTrust } {
  const log = usualLog();
  const bytes = log.bundle({
    from: BEGIN + 3 * SECOND,
    to: BEGIN + 9 * SECOND,
    since: [4],
    anchors: [
      { tick: 0, size: 1, evidence: cosigned(log, 90) },
      { tick: 1, evidence: cosigned(log, 200) },
    ],
  });
  return { log, bytes, trust: trusting(log) };
}

function usualLog(): PaperLog {
  const log = new PaperLog();
  log.append(STREAM, 7);
  log.append('acme/data_access', 2);
  log.tick([STREAM, 'acme/data_access'], 3);
  log.append(STREAM, 6);
  log.tick([STREAM]);
  log.append(STREAM, 3);
  log.tick(['acme/data_access']);
  return log;
}

function cosigned(log: PaperLog, second: number, name?: string): (text: string) => JsonValue[] {
  return witnessEvidence(log.witness(), BEGIN / 1000 + second, name);
}

/** Sound bundles of many shapes. With an authority also such with time stamps. */
export async function goodBundles(authority?: Authority): Promise<BundleCase[]> {
  const cases: BundleCase[] = [];
  const add = (name: string, bytes: Uint8Array, trust: BundleTrust, verdict: BundleVerdict = 'intact'): void => {
    cases.push({ name: `good-${name}`, bytes, trust, verdict, kinds: [] });
  };
  const log = usualLog();
  const anchors = [{ tick: 1, evidence: cosigned(log, 200) }];
  const trust = trusting(log);
  const at = (second: number): number => BEGIN + second * SECOND;
  add('whole-not-all-anchored', log.bundle({ anchors }), trust, 'not_provable');
  add('whole-pinned', log.bundle({ anchors }), trusting(log, { checkpoints: [log.checkpoint(STREAM)] }));
  add('pinned-without-anchors', log.bundle({}), trusting(log, { checkpoints: [log.checkpoint(STREAM)] }));
  add('nothing-trusted', log.bundle({ to: at(9), anchors }), trusting(log, { witnesses: [] }), 'not_provable');
  add('beginning', log.bundle({ to: at(9), anchors }), trust);
  add('one-entry', log.bundle({ from: at(5), to: at(6), anchors }), trust);
  add('between-two-entries', log.bundle({ from: at(5) + 1, to: at(6), anchors }), trust);
  add('no-time-at-all', log.bundle({ from: at(5), to: at(5), anchors }), trust);
  add('before-the-first', log.bundle({ to: at(0), anchors }), trust);
  add('behind-the-last', log.bundle({ from: at(1000) }), trusting(log, { checkpoints: [log.checkpoint(STREAM)] }));
  add('wider-than-asked', log.bundle({ from: at(5), to: at(6), anchors, widen: 3 }), trust);
  add('withheld', log.bundle({ to: at(9), anchors, withhold: ['actor', 'reason', 'target'] }), trust);
  add(
    'all-withheld',
    log.bundle({ to: at(9), anchors, withhold: ['actor', 'changes', 'details', 'raw', 'reason', 'target'] }),
    trust,
  );
  const everySize = Array.from({ length: 17 }, (_, size) => size);
  add('since-every-size', log.bundle({ to: at(9), since: everySize, anchors }), trust);
  const kept = [1, 4, 8, 9, 15].map((size) => log.checkpoint(STREAM, size));
  add(
    'several-kept',
    log.bundle({ from: at(6), to: at(9), since: [1, 4, 15], anchors }),
    trusting(log, { checkpoints: kept }),
  );
  add(
    'kept-and-not-shown',
    log.bundle({ from: at(6), to: at(9), anchors }),
    trusting(log, { checkpoints: [log.checkpoint(STREAM, 4)] }),
    'incomplete',
  );
  add(
    'kept-of-another-stream',
    log.bundle({ to: at(9), anchors }),
    trusting(log, { checkpoints: [log.checkpoint('acme/data_access')] }),
    'incomplete',
  );
  add('two-anchors', usualBundle().bytes, trust);
  const two = (text: string): JsonValue[] => [
    ...cosigned(log, 100, 'a')(text),
    ...witnessEvidence(log.witness('other.example'), 1767225700, 'b')(text),
  ];
  add('two-witnesses', log.bundle({ to: at(9), anchors: [{ tick: 1, evidence: two }] }), trust);
  const longLine = `— strange.example ${toBase64(new Uint8Array(2500).fill(7))}`;
  const strangeToo = (text: string): JsonValue[] => [
    { kind: 'witness', name: 'a key of another type', line: longLine },
    ...cosigned(log, 200)(text),
  ];
  add('witness-of-another-type', log.bundle({ to: at(9), anchors: [{ tick: 1, evidence: strangeToo }] }), trust);
  const countersigned = log.files({ to: at(9), anchors });
  countersigned.set('0/checkpoint', utf8(`${log.checkpoint(STREAM)}${longLine}\n`));
  add('signed-by-strangers-too', repack(countersigned), trust);
  add('as-much-evidence-as-may-be', muchEvidence(1000).bytes, muchEvidence(1000).trust);
  add('anchor-without-evidence', log.bundle({ to: at(9), anchors: [{ tick: 1 }] }), trust, 'not_provable');
  add(
    'anchor-stream-given',
    log.bundle({ to: at(9), anchors: [{ tick: 1 }] }),
    trusting(log, { checkpoints: [log.checkpoint('sealog/anchor')] }),
  );
  add(
    'anchor-stream-given-of-another-size',
    log.bundle({ to: at(9), anchors: [{ tick: 1 }] }),
    trusting(log, { checkpoints: [log.checkpoint('sealog/anchor', 2)] }),
    'not_provable',
  );
  const alone = trusting(log, { key: log.signer(`${log.origin}/${STREAM}`).vkey });
  add('stream-key-alone', log.bundle({ to: at(9), anchors }), alone, 'not_provable');
  add('stream-key-alone-pinned', log.bundle({ to: at(9), anchors }), {
    ...alone,
    checkpoints: [log.checkpoint(STREAM)],
  });

  for (const size of [1, 2, 3, 31, 32, 33, 257]) {
    const other = new PaperLog(`size ${size}`);
    other.append(STREAM, size, size > 100 ? { parts: () => ({ reason: 'x' }) } : {});
    other.tick([STREAM], size % 4);
    const whole = [{ tick: 0, evidence: cosigned(other, 300) }];
    add(`size-${size}`, other.bundle({ anchors: whole }), trusting(other));
    add(`size-${size}-last`, other.bundle({ from: at(size - 1), anchors: whole }), trusting(other));
  }
  const same = new PaperLog('same time');
  same.append(STREAM, 9, { stepMs: 0 });
  same.tick([STREAM], 0);
  add(
    'all-in-one-millisecond',
    same.bundle({ from: at(0), to: at(0) + 1, anchors: [{ tick: 0, evidence: cosigned(same, 300) }] }),
    trusting(same),
  );
  const bare = new PaperLog('no parts');
  bare.append(STREAM, 3, { parts: () => ({}) });
  bare.tick([STREAM], 7);
  add('without-parts', bare.bundle({ anchors: [{ tick: 0, evidence: cosigned(bare, 300) }] }), trusting(bare));

  const epochs = epochsLog();
  const both = [{ tick: 0, evidence: cosigned(epochs, 300) }];
  add('two-epochs', epochs.bundle({ anchors: both }), trusting(epochs));
  const second = new PaperLog('second epoch');
  second.append(`${STREAM}/e2`, 4);
  second.tick([`${STREAM}/e2`]);
  add(
    'second-epoch-alone',
    second.bundle({ anchors: [{ tick: 0, evidence: cosigned(second, 300) }] }),
    trusting(second),
    'incomplete',
  );

  const ofFirst = { key: epochs.signer(`${epochs.origin}/${STREAM}`).vkey };
  add('two-epochs-and-the-key-of-one', epochs.bundle({}), trusting(epochs, ofFirst), 'incomplete');
  add(
    'kept-of-an-epoch-whose-key-is-not-known',
    secondlessBundle(),
    trusting(epochs, { ...ofFirst, checkpoints: [epochs.checkpoint(STREAM), epochs.checkpoint(`${STREAM}/e2`)] }),
    'incomplete',
  );

  const rotated = rotatedLog();
  const old = [{ tick: 0, size: 1, generation: 1, evidence: cosigned(rotated, 100) }];
  const retired = { sizes: { [STREAM]: 6 }, generation: 1 };
  const generations = [rotated.key(1), rotated.key(2), rotated.key(3)];
  for (const [i, key] of generations.entries())
    add(`rotated-key-${i + 1}`, rotated.bundle({ to: at(5), anchors: old }), trusting(rotated, { key }));
  // Nothing in a bundle can show that there is nothing newer: give the newest key.
  const silent = rotated.files({ to: at(5), anchors: old, generation: 2 });
  restate(silent, (all) => all.filter((note) => !note.includes('\nsealog/key/v1\n3\n')));
  add('replaced-and-not-said', repack(silent), trusting(rotated, { key: rotated.key(2) }));
  add(
    'signed-by-a-retired-key',
    rotated.bundle({ ...retired, anchors: [{ tick: 0, evidence: cosigned(rotated, 300) }] }),
    trusting(rotated),
  );

  if (authority !== undefined) {
    const authorities = readCertificates(authority.caPem);
    const token = await authority.stamp(sha256(log.text('sealog/anchor', 3)));
    const stamped = [{ tick: 1, evidence: tokenEvidence(token) }];
    add('time-stamp', log.bundle({ to: at(9), anchors: stamped }), trusting(log, { authorities, witnesses: [] }));
    add('time-stamp-not-trusted', log.bundle({ to: at(9), anchors: stamped }), trust, 'not_provable');
    const besides = tokenEvidence(token, authorities, [await authority.list('root')]);
    add(
      'time-stamp-with-lists',
      log.bundle({ to: at(9), anchors: [{ tick: 1, evidence: besides }] }),
      trusting(log, { authorities }),
    );
    if (authority.issuer === 'between') {
      const field = tokenEvidence(await fieldToken(authority, sha256(log.text('sealog/anchor', 3))));
      const bundle = log.bundle({ to: at(9), anchors: [{ tick: 1, evidence: field }] });
      add('time-stamp-as-in-the-field', bundle, trusting(log, { authorities, witnesses: [] }));
    }
    const mixed = (text: string): JsonValue[] => [...tokenEvidence(token)(), ...cosigned(log, 250)(text)];
    add(
      'time-stamp-and-witness',
      log.bundle({ to: at(9), anchors: [{ tick: 1, evidence: mixed }] }),
      trusting(log, { authorities }),
    );
  }
  return cases;
}

/** So many items of evidence, of which one is trusted. */
function muchEvidence(items: number): { bytes: Uint8Array; trust: BundleTrust } {
  const log = new PaperLog('much');
  log.append(STREAM, 3);
  log.tick([STREAM]);
  for (let i = 0; i < 60; i++) log.tick([]);
  let left = items - 1;
  const anchors = Array.from({ length: Math.ceil(items / 20) }, (_, i) => ({
    tick: 0,
    size: i + 1,
    evidence: (text: string): JsonValue[] => {
      const line = `— stranger ${toBase64(new Uint8Array(76))}`;
      const others = Array.from({ length: Math.min(left, i === 0 ? 19 : 20) }, (_, at) => `w-${at}`);
      left -= others.length;
      const items = others.map((name) => ({ kind: 'witness', line, name }));
      return i === 0 ? [...items, ...cosigned(log, 9000)(text)] : items;
    },
  }));
  return { bytes: log.bundle({ anchors }), trust: trusting(log) };
}

/** Of a stream of two epochs, the first alone. */
function secondlessBundle(): Uint8Array {
  const files = epochsLog().files({});
  for (const name of [...files.keys()]) if (name.startsWith('1/')) files.delete(name);
  files.set('summary.txt', utf8(fromUtf8(files.get('summary.txt')!).replace(/Stream .*\/e2: .*\n/, '')));
  return repack(files);
}

function restate(files: BundleFiles, edit: (all: string[]) => string[]): void {
  files.set('keys.json', canonicalBytes(edit(decodeCanonical(files.get('keys.json')!) as string[])));
}

function epochsLog(): PaperLog {
  const log = new PaperLog('epochs');
  log.append(STREAM, 5);
  log.append(`${STREAM}/e2`, 4);
  log.tick([STREAM, `${STREAM}/e2`]);
  return log;
}

/** Three generations; the first signed a tick, which stands before the second began. */
function rotatedLog(): PaperLog {
  const log = new PaperLog('rotated');
  log.append(STREAM, 6);
  log.tick([STREAM]);
  log.rotate();
  log.append(STREAM, 3);
  log.tick([STREAM]);
  log.rotate();
  log.append(STREAM, 2);
  log.tick([STREAM]);
  return log;
}

/** What somebody could do to a bundle who can make everything consistent again but signatures and what is kept elsewhere. */
export async function damagedBundles(authority?: Authority): Promise<BundleCase[]> {
  const { log, bytes, trust } = usualBundle();
  const cases: BundleCase[] = [];
  const add = (
    name: string,
    damaged: Uint8Array,
    kinds: readonly BundleFindingKind[],
    trusted: BundleTrust = trust,
  ): void => {
    cases.push({ name: `damaged-${name}`, bytes: damaged, trust: trusted, verdict: 'tampered', kinds });
  };
  const change = (
    name: string,
    kinds: readonly BundleFindingKind[],
    edit: (files: BundleFiles) => void,
    again = true,
  ): void => {
    const files = unpack(bytes);
    edit(files);
    add(name, again ? repack(files) : packTar(files), kinds);
  };
  const json = (file: string, edit: (value: JsonObject) => void) => (files: BundleFiles) => {
    const value = decodeCanonical(files.get(file)!) as JsonObject;
    edit(value);
    files.set(file, canonicalBytes(value));
  };
  const list = (file: string, edit: (value: JsonObject[]) => void) =>
    json(file, edit as unknown as (value: JsonObject) => void);

  // The file.
  add('nothing', new Uint8Array(0), ['bundle']);
  add('zeros', new Uint8Array(1024), ['bundle']);
  add('no-tar', utf8('{"bundle":1}'), ['bundle']);
  for (const cut of [1, 511, 512, 1024, 1025, bytes.length - 512])
    add(`cut-by-${cut}`, bytes.subarray(0, bytes.length - cut), ['bundle']);
  add('cut-at-the-start', bytes.subarray(512), ['bundle']);
  add('zero-behind', concat(bytes, new Uint8Array(1)), ['bundle']);
  add('zero-block-behind', concat(bytes, new Uint8Array(512)), ['bundle']);
  add('twice', concat(bytes, bytes), ['bundle']);
  add(
    'bytes-in-padding',
    changed(bytes, (all) => all.set([1], all.length - 1025)),
    ['bundle'],
  );
  add(
    'space-for-zero-in-size',
    changed(bytes, (all) => all.set(utf8(' '), 124)),
    ['bundle'],
  );
  add(
    'owner-name',
    changed(bytes, (all) => all.set(utf8('root'), 265)),
    ['bundle'],
  );

  // Files that are others than they must be, in a manifest that says so.
  const names = [...unpack(bytes).keys()];
  for (const [i, name] of names.entries()) {
    const short = name.replaceAll('/', '-');
    change(`without-${short}`, ['bundle'], (files) => files.delete(name), name !== 'manifest.json');
    change(`renamed-${short}`, ['bundle'], (files) => renameFile(files, name, `${name}x`), name !== 'manifest.json');
    const next = names[i + 1];
    if (next !== undefined)
      change(`swapped-${short}`, ['bundle'], (files) => swapFiles(files, name, next), name !== 'manifest.json');
    if (name !== 'manifest.json') {
      change(`empty-${short}`, [], (files) => files.set(name, new Uint8Array(0)));
      change(`line-feed-${short}`, [], (files) => files.set(name, concat(files.get(name)!, utf8('\n'))));
      change(
        `not-listed-right-${short}`,
        ['bundle'],
        (files) => files.set(name, concat(files.get(name)!, utf8(' '))),
        false,
      );
    }
  }
  change('more-files', ['bundle'], (files) => files.set('readme', utf8('read me')));
  add('a-file-twice', packTar([...unpack(bytes), [names[1]!, unpack(bytes).get(names[1]!)!]]), ['bundle']);
  change('a-folder-more', ['bundle'], (files) => {
    for (const [name, content] of [...files]) if (name.startsWith('0/')) files.set(`1${name.slice(1)}`, content);
  });

  // The question and the summary.
  const manifest = (edit: (value: JsonObject) => void) => json('manifest.json', edit);
  const question = (edit: (value: JsonObject) => void) => manifest((value) => edit(value['question'] as JsonObject));
  change(
    'another-origin',
    ['key'],
    manifest((value) => Object.assign(value, { origin: 'other.example' })),
    false,
  );
  change(
    'another-tenant',
    ['bundle'],
    question((value) => Object.assign(value, { tenant: 'globex' })),
    false,
  );
  change(
    'another-category',
    ['bundle'],
    question((value) => Object.assign(value, { category: 'data_access' })),
    false,
  );
  change(
    'an-earlier-from',
    ['bundle'],
    question((value) => Object.assign(value, { from: '2026-01-01T00:00:01.000Z' })),
    false,
  );
  change(
    'no-from',
    ['bundle', 'gap'],
    question((value) => delete value['from']),
    false,
  );
  change(
    'no-to',
    ['bundle', 'gap'],
    question((value) => delete value['to']),
    false,
  );
  change(
    'from-behind-to',
    ['bundle'],
    question((value) => Object.assign(value, { from: '2027-01-01T00:00:01.000Z' })),
    false,
  );
  change(
    'bundle-2',
    ['bundle'],
    manifest((value) => Object.assign(value, { bundle: 2 })),
    false,
  );
  change(
    'more-members',
    ['bundle'],
    manifest((value) => Object.assign(value, { more: true })),
    false,
  );
  change('summary-of-more', ['bundle'], (files) =>
    files.set('summary.txt', utf8(fromUtf8(files.get('summary.txt')!).replace('6 entries', '7 entries'))),
  );

  // Keys.
  const stranger = new PaperLog('stranger');
  add('of-another-key', bytes, ['key'], { ...trust, key: stranger.key() });
  add('of-another-stream-key', bytes, ['signature'], {
    ...trust,
    key: stranger.signer(`${log.origin}/${STREAM}`).vkey,
  });
  add('of-another-log-key', bytes, ['key'], { ...trust, key: new PaperLog('paper', 'other.example').key() });
  const strange = strangeLog(stranger);
  add('signed-by-somebody-else', strange.bundle({ to: BEGIN + 3 * SECOND }), ['key', 'signature'], trust);
  change(
    'without-the-key-of-the-stream',
    ['signature'],
    list('keys.json', (value) => value.splice(1, 1)),
  );
  change(
    'without-the-deployment-key',
    ['key'],
    list('keys.json', (value) => value.splice(0, 1)),
  );
  change(
    'keys-in-another-order',
    ['bundle'],
    list('keys.json', (value) => value.reverse()),
  );
  change(
    'a-key-twice',
    ['bundle'],
    list('keys.json', (value) => value.push(value.at(-1)!)),
  );

  // Records, made consistent as far as that can be done without the key.
  const records = (edit: (all: Uint8Array[]) => void) => (files: BundleFiles) => {
    const all = recordsIn(files.get('0/entries')!);
    edit(all);
    files.set(
      '0/entries',
      concat(...all.map((record) => concat(Uint8Array.of(record.length >> 8, record.length), record))),
    );
  };
  const spell = (from: string, to: string) => (all: Uint8Array[]) => {
    all[3] = utf8(fromUtf8(all[3]!).replace(from, to));
  };
  change('an-outcome-changed', ['link', 'checkpoint'], records(spell('"success"', '"failure"')));
  change('an-action-changed', ['link', 'checkpoint'], records(spell('role.update', 'role.delete')));
  change(
    'a-time-put-back',
    ['link', 'checkpoint', 'stamp'],
    records(spell('"recordedAt":"2026-01-01T00:00:05', '"recordedAt":"2026-01-01T00:00:03')),
  );
  change('a-place-changed', ['record', 'link', 'checkpoint'], records(spell('"seq":5', '"seq":6')));
  change(
    'a-stream-changed',
    ['record', 'link', 'checkpoint'],
    records(spell('acme/configuration', 'acme/xonfiguration')),
  );
  change('a-record-not-canonical', ['record', 'link', 'checkpoint'], records(spell('{"action"', '{ "action"')));
  change('a-record-no-json', ['record', 'link', 'checkpoint'], records(spell('{"action"', '"action"')));
  change(
    'two-records-swapped',
    ['record', 'link', 'checkpoint'],
    records((all) => all.splice(2, 2, all[3]!, all[2]!)),
  );
  change(
    'a-record-missing',
    ['bundle'],
    records((all) => all.splice(3, 1)),
  );
  change(
    'a-record-twice',
    ['bundle'],
    records((all) => all.splice(3, 0, all[3]!)),
  );
  change('the-last-record-cut', ['bundle'], (files) => files.set('0/entries', files.get('0/entries')!.subarray(0, -1)));
  const dropLast = (files: BundleFiles): void => {
    records((all) => all.pop())(files);
    lines((all) => all.pop())(files);
    json('0/range.json', (value) => Object.assign(value, { end: (value['end'] as number) - 1 }))(files);
  };
  change('the-last-entry-left-out', ['bundle'], dropLast);
  const narrower = log.files({
    from: BEGIN + 3 * SECOND,
    to: BEGIN + 7 * SECOND,
    anchors: [{ tick: 1, evidence: cosigned(log, 200) }],
  });
  add('a-shorter-range-for-the-same-question', repack(withQuestionOf(bytes, narrower)), ['gap', 'bundle']);
  const later = log.files({
    from: BEGIN + 5 * SECOND,
    to: BEGIN + 9 * SECOND,
    anchors: [{ tick: 1, evidence: cosigned(log, 200) }],
  });
  add('a-later-range-for-the-same-question', repack(withQuestionOf(bytes, later)), ['gap', 'bundle']);

  // Openings.
  function lines(edit: (all: string[]) => void): (files: BundleFiles) => void {
    return (files) => {
      const all = fromUtf8(files.get('0/openings.ndjson')!).split('\n').slice(0, -1);
      edit(all);
      files.set('0/openings.ndjson', utf8(all.map((line) => `${line}\n`).join('')));
    };
  }
  const part = (edit: (parts: JsonObject) => void) =>
    lines((all) => {
      const value = decodeCanonical(utf8(all[2]!)) as JsonObject;
      edit(value['parts'] as JsonObject);
      all[2] = fromUtf8(canonicalBytes(value));
    });
  const actor = (parts: JsonObject): JsonObject => parts['actor'] as JsonObject;
  change(
    'a-value-changed',
    ['part'],
    part((parts) => Object.assign(actor(parts)['value'] as JsonObject, { name: 'Zoe Weiss' })),
  );
  change(
    'a-salt-changed',
    ['part'],
    part((parts) => Object.assign(actor(parts), { salt: '00'.repeat(16) })),
  );
  change(
    'a-part-missing',
    ['part'],
    part((parts) => delete parts['actor']),
  );
  change(
    'a-part-more',
    ['part'],
    part((parts) => Object.assign(parts, { raw: actor(parts) })),
  );
  change(
    'a-part-of-no-name',
    ['bundle'],
    part((parts) => Object.assign(parts, { author: actor(parts) })),
  );
  change(
    'a-part-under-another-name',
    ['part'],
    part((parts) => {
      Object.assign(parts, { details: actor(parts) });
      delete parts['actor'];
    }),
  );
  change(
    'two-parts-swapped',
    ['part'],
    part((parts) => Object.assign(parts, { actor: parts['target'], target: actor(parts) })),
  );
  change(
    'a-commitment-changed',
    ['part'],
    part((parts) => Object.assign(parts, { actor: { commitment: '00'.repeat(32), state: 'withheld' } })),
  );
  change(
    'a-state-unknown',
    ['bundle'],
    part((parts) => Object.assign(parts, { actor: { commitment: '00'.repeat(32), state: 'lost' } })),
  );
  change(
    'openings-swapped',
    ['bundle'],
    lines((all) => all.splice(2, 2, all[3]!, all[2]!)),
  );
  change(
    'an-opening-missing',
    ['bundle'],
    lines((all) => all.splice(2, 1)),
  );
  change(
    'an-opening-twice',
    ['bundle'],
    lines((all) => all.splice(2, 0, all[2]!)),
  );
  change(
    'an-opening-not-canonical',
    ['bundle'],
    lines((all) => all.splice(2, 1, ` ${all[2]}`)),
  );
  const erased = log.bundle({
    to: BEGIN + 9 * SECOND,
    erased: ['reason'],
    anchors: [{ tick: 1, evidence: cosigned(log, 200) }],
  });
  add('erased-without-a-certificate', erased, ['erasure']);

  // The tree, checkpoints, paths.
  change(
    'a-hash-at-the-left',
    ['checkpoint'],
    json('0/range.json', (value) => flipHash(value['left'] as JsonValue[], 0)),
  );
  change(
    'a-hash-at-the-right',
    ['checkpoint'],
    json('0/range.json', (value) => flipHash(value['right'] as JsonValue[], 0)),
  );
  change(
    'a-hash-less-at-the-right',
    ['bundle'],
    json('0/range.json', (value) => (value['right'] as JsonValue[]).pop()),
  );
  const note = (text: string) => (files: BundleFiles) => void files.set('0/checkpoint', utf8(text));
  change('a-checkpoint-of-another-stream', ['bundle'], note(log.checkpoint('acme/data_access')));
  change('an-older-checkpoint', ['bundle', 'anchor'], note(log.checkpoint(STREAM, 15)));
  change('a-checkpoint-without-signature', ['bundle'], note(log.text(STREAM, 16)));
  change('a-checkpoint-with-another-size', ['signature'], note(log.checkpoint(STREAM).replace('\n16\n', '\n17\n')));
  change(
    'a-checkpoint-signed-by-another-stream',
    ['signature'],
    note(signedBy(log, log.text(STREAM, 16), 'acme/data_access')),
  );
  change('a-checkpoint-signed-by-the-deployment', ['signature'], note(signedBy(log, log.text(STREAM, 16), '')));
  change(
    'a-consistency-root-changed',
    ['anchor'],
    list('0/consistency.json', (value) => flipMember(value[0]!, 'root')),
  );
  change(
    'a-consistency-path-changed',
    ['anchor'],
    list('0/consistency.json', (value) => flipHash(value[0]!['path'] as JsonValue[], 0)),
  );
  change(
    'consistency-out-of-order',
    ['bundle'],
    list('0/consistency.json', (value) => value.reverse()),
  );
  change(
    'consistency-missing',
    ['anchor'],
    list('0/consistency.json', (value) => value.splice(1)),
  );
  change(
    'consistency-from-nothing',
    ['anchor'],
    list('0/consistency.json', (value) =>
      value.unshift({ from: 0, path: [], root: 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' }),
    ),
  );

  // Anchors.
  const anchor = (edit: (value: JsonObject) => void) => list('0/anchors.json', (value) => edit(value[0]!));
  const member = (value: JsonObject, name: string): JsonObject => value[name] as JsonObject;
  change(
    'a-blind-changed',
    ['anchor'],
    anchor((value) => flipMember(member(value, 'leaf'), 'blind')),
  );
  change(
    'a-leaf-size-changed',
    ['anchor'],
    anchor((value) => Object.assign(member(value, 'leaf'), { size: 4 })),
  );
  change(
    'a-leaf-step-changed',
    ['anchor'],
    anchor((value) => flipMember((member(value, 'leaf')['path'] as JsonObject[])[0]!)),
  );
  change(
    'a-leaf-step-on-the-other-side',
    ['anchor'],
    anchor((value) => {
      const steps = member(value, 'leaf')['path'] as JsonObject[];
      const [[side, hash]] = Object.entries(steps[0]!) as [[string, JsonValue]];
      steps[0] = { [side === 'left' ? 'right' : 'left']: hash };
    }),
  );
  change(
    'a-tick-path-longer',
    ['anchor'],
    anchor((value) => (member(value, 'tick')['path'] as JsonValue[]).push('00'.repeat(32))),
  );
  change(
    'a-tick-seq-changed',
    ['anchor'],
    anchor((value) => Object.assign(member(value, 'tick'), { seq: 1 })),
  );
  change(
    'a-tick-changed',
    ['anchor'],
    anchor((value) => {
      const tick = member(value, 'tick');
      tick['record'] = (tick['record'] as string).replace('"success"', '"unknown"');
    }),
  );
  change(
    'an-anchor-checkpoint-changed',
    ['anchor'],
    anchor((value) => Object.assign(value, { checkpoint: log.checkpoint('sealog/anchor', 2) })),
  );
  change(
    'an-anchor-checkpoint-of-the-stream',
    ['anchor'],
    anchor((value) => Object.assign(value, { checkpoint: log.checkpoint(STREAM, 1) })),
  );
  change(
    'an-anchor-checkpoint-signed-by-another',
    ['signature'],
    anchor((value) => Object.assign(value, { checkpoint: signedBy(log, log.text('sealog/anchor', 1), STREAM) })),
  );
  change(
    'anchors-out-of-order',
    ['bundle'],
    list('0/anchors.json', (value) => value.reverse()),
  );
  change(
    'an-anchor-twice',
    ['bundle'],
    list('0/anchors.json', (value) => value.push(value[1]!)),
  );
  change(
    'an-anchor-missing',
    ['bundle'],
    list('0/anchors.json', (value) => value.pop()),
  );
  change(
    'a-cosignature-of-another-time',
    ['anchor'],
    anchor((value) => {
      const [evidence] = value['evidence'] as JsonObject[];
      const [dash, name, base64] = (evidence!['line'] as string).split(' ');
      const signature = Buffer.from(base64!, 'base64');
      signature[11]! ^= 1;
      evidence!['line'] = `${dash} ${name} ${signature.toString('base64')}`;
    }),
  );
  change(
    'a-cosignature-of-another-checkpoint',
    ['anchor'],
    anchor((value) => Object.assign(value, { evidence: cosigned(log, 90)(log.text('sealog/anchor', 2)) })),
  );
  change(
    'evidence-of-no-kind',
    ['bundle'],
    anchor((value) => Object.assign((value['evidence'] as JsonObject[])[0]!, { kind: 'folder' })),
  );

  // Checkpoints that the verifier kept.
  const keeping = (...checkpoints: string[]): BundleTrust => ({ ...trust, checkpoints });
  add(
    'of-a-stream-that-was-larger',
    log.bundle({ sizes: { [STREAM]: 12 } }),
    ['truncated'],
    keeping(log.checkpoint(STREAM)),
  );
  const forged = forgedLog();
  const forgery = { from: BEGIN + 3 * SECOND, to: BEGIN + 9 * SECOND };
  add('rewritten-and-signed-again', forged.bundle(forgery), ['inconsistent'], keeping(log.checkpoint(STREAM, 16)));
  add(
    'rewritten-against-an-older-one',
    forged.bundle({ ...forgery, since: [6] }),
    ['inconsistent'],
    keeping(log.checkpoint(STREAM, 6)),
  );
  add(
    'rewritten-against-one-in-the-range',
    forged.bundle(forgery),
    ['inconsistent'],
    keeping(log.checkpoint(STREAM, 7)),
  );
  add('a-kept-checkpoint-nobody-signed', bytes, ['signature'], keeping(log.text(STREAM, 16)));
  add('a-kept-checkpoint-of-a-stranger', bytes, ['signature'], keeping(stranger.checkpoint(STREAM, 3)));
  add('a-kept-checkpoint-cut', bytes, ['signature'], keeping(log.checkpoint(STREAM).slice(0, -2)));
  const epochs = epochsLog();
  const keptOfSecond = { checkpoints: [epochs.checkpoint(`${STREAM}/e2`)] };
  add('an-epoch-that-is-gone', secondlessBundle(), ['truncated'], trusting(epochs, keptOfSecond));
  const twoRoots = new PaperLog('paper');
  for (let i = 0; i < 3; i++) twoRoots.tick([], i + 1);
  add('an-anchor-stream-with-two-roots', bytes, ['inconsistent'], keeping(twoRoots.checkpoint('sealog/anchor', 1)));

  // Keys that sign no more.
  const rotated = rotatedLog();
  const rotatedTrust = trusting(rotated);
  const at6 = { sizes: { [STREAM]: 6 }, generation: 1 };
  const oldAnchor = { tick: 0, size: 1, generation: 1 };
  add('signed-by-a-retired-key-without-an-anchor', rotated.bundle(at6), ['key'], rotatedTrust);
  add(
    'signed-by-a-retired-key-and-stamped-later',
    rotated.bundle({ ...at6, anchors: [{ ...oldAnchor, evidence: cosigned(rotated, 9000) }] }),
    ['key'],
    rotatedTrust,
  );
  add(
    'signed-by-a-retired-key-too-late',
    rotated.bundle({ sizes: { [STREAM]: 9 }, generation: 1, anchors: [{ tick: 1 }] }),
    ['key'],
    rotatedTrust,
  );
  add(
    'an-anchor-signed-by-a-retired-key',
    rotated.bundle({ anchors: [{ tick: 1, size: 2, generation: 1 }] }),
    ['key'],
    rotatedTrust,
  );
  // What a statement says can be said anew by whoever has the retired seed; its own time and predecessor he would like to choose.
  const thief = new PaperLog('thief');
  const stated = (generation: number, over: Partial<KeyStatement>, signers: NoteSigner[]): string => {
    const own = rotated.signer(rotated.origin, generation).vkey;
    const previous = generation === 1 ? undefined : rotated.key(generation - 1);
    const from = { epoch: 1, size: generation - 1 };
    return signNote(
      encodeKeyStatement({ origin: rotated.origin, generation, from, vkey: own, previous, ...over }),
      signers,
    );
  };
  const [first, second, third] = [1, 2, 3].map((generation) => rotated.signer(rotated.origin, generation)) as [
    NoteSigner,
    NoteSigner,
    NoteSigner,
  ];
  const own = thief.signer(rotated.origin, 1);
  const restated = (
    name: string,
    kinds: readonly BundleFindingKind[],
    edit: (all: string[]) => string[],
    key = rotated.key(),
  ): void => {
    const files = rotated.files({ generation: 3 });
    restate(files, edit);
    add(name, repack(files), kinds, { ...rotatedTrust, key });
  };
  const afterwards = { epoch: 1, size: 9 };
  restated('a-generation-left-out', ['key'], (all) => all.filter((_, i) => i !== 1));
  restated('a-generation-stated-anew-for-a-later-time', ['key'], (all) =>
    all.with(1, stated(2, { from: afterwards }, [first, second])),
  );
  restated('a-generation-stated-anew-with-another-predecessor', ['key'], (all) =>
    all
      .with(0, stated(1, { vkey: own.vkey }, [own]))
      .with(1, stated(2, { from: afterwards, previous: own.vkey }, [own, second])),
  );
  restated('a-generation-before-the-one-it-replaced', ['key'], (all) =>
    all.with(2, stated(3, { from: { epoch: 1, size: 0 } }, [second, third])),
  );
  restated('a-first-generation-that-begins-late', ['key'], (all) =>
    all.with(0, stated(1, { from: { epoch: 1, size: 1 } }, [first])),
  );
  for (const generation of [1, 2, 3])
    restated(
      `a-generation-its-predecessor-did-not-sign-${generation}`,
      ['signature'],
      (all) => all.with(1, stated(2, {}, [second])),
      rotated.key(generation),
    );
  restated('a-successor-named-by-nobody', ['signature'], (all) => all.with(2, stated(3, {}, [own, third])));
  restated('a-stream-key-of-another-time', ['signature'], (all) => {
    const at = all.findIndex((note) => note.includes(`\n${rotated.origin}/${STREAM}+`));
    const { vkey } = rotated.signer(`${rotated.origin}/${STREAM}`, 1);
    return all.with(at, stated(1, { vkey }, [own]));
  });

  const much = muchEvidence(1001);
  add('more-evidence-than-may-be', much.bytes, ['bundle'], much.trust);

  if (authority !== undefined) {
    const authorities = readCertificates(authority.caPem);
    const stamp = (text: string): Promise<Buffer> => authority.stamp(sha256(text));
    const withToken = (token: Uint8Array): Uint8Array =>
      log.bundle({ to: BEGIN + 9 * SECOND, anchors: [{ tick: 1, evidence: tokenEvidence(token) }] });
    const trusted = trusting(log, { authorities, witnesses: [] });
    const token = await stamp(log.text('sealog/anchor', 3));
    add('a-time-stamp-of-something-else', withToken(await stamp(log.text('sealog/anchor', 2))), ['anchor'], trusted);
    add(
      'a-time-stamp-of-something-else-not-trusted',
      withToken(await stamp(log.text('sealog/anchor', 2))),
      ['anchor'],
      trust,
    );
    add('a-time-stamp-cut', withToken(token.subarray(0, -1)), ['anchor'], trusted);
    add('a-time-stamp-extended', withToken(Buffer.concat([token, Buffer.alloc(1)])), ['anchor'], trusted);
    const signature = changed(token, (all) => all.set([all.at(-1)! ^ 1], all.length - 1));
    add('a-time-stamp-signed-wrongly', withToken(signature), ['anchor'], trusted);
    add('no-time-stamp', withToken(utf8('time stamp')), ['anchor'], trusted);
  }
  return cases;
}

/** Writes cases into a folder, for another verifier. */
export async function writeBundleCases(folder: string, cases: readonly BundleCase[]): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const { name, bytes, trust, verdict, kinds } of cases) {
    await writeFile(join(folder, `${name}.tar`), bytes);
    const authorities = trust.authorities.map(toBase64);
    await writeFile(
      join(folder, `${name}.json`),
      `${JSON.stringify({ ...trust, authorities, verdict, kinds }, null, 1)}\n`,
    );
  }
}

// ---- Files ----

export function unpack(bytes: Uint8Array): BundleFiles {
  return new Map(readTar(bytes, 10_000).map(({ name, bytes: content }) => [name, content]));
}

/** Makes the manifest say what the files are. */
export function repack(files: BundleFiles): Uint8Array {
  const { origin, question } = decodeCanonical(files.get('manifest.json')!) as JsonObject;
  const others = new Map([...files].filter(([name]) => name !== 'manifest.json'));
  return packTar([['manifest.json', manifestOf(origin as string, question!, others)], ...others]);
}

function withQuestionOf(bytes: Uint8Array, files: BundleFiles): BundleFiles {
  const others = [...files].filter(([name]) => name !== 'manifest.json');
  return new Map([['manifest.json', unpack(bytes).get('manifest.json')!], ...others]);
}

function renameFile(files: BundleFiles, name: string, to: string): void {
  const all = [...files];
  files.clear();
  for (const [one, content] of all) files.set(one === name ? to : one, content);
}

/** Swaps two files with their names: only the order is another. */
function swapFiles(files: BundleFiles, a: string, b: string): void {
  const all = [...files];
  const [i, j] = [a, b].map((name) => all.findIndex(([one]) => one === name)) as [number, number];
  [all[i], all[j]] = [all[j]!, all[i]!];
  files.clear();
  for (const [name, content] of all) files.set(name, content);
}

function recordsIn(bundle: Uint8Array): Uint8Array[] {
  const records: Uint8Array[] = [];
  for (let at = 0; at < bundle.length; ) {
    const length = bundle[at]! * 256 + bundle[at + 1]!;
    records.push(bundle.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return records;
}

export function changed(bytes: Uint8Array, edit: (copy: Uint8Array) => void): Uint8Array {
  const copy = new Uint8Array(bytes);
  edit(copy);
  return copy;
}

function concat(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

function flipHash(hashes: JsonValue[], index: number): void {
  hashes[index] = flippedHex(hashes[index] as string);
}

function flipMember(value: JsonObject, name = Object.keys(value)[0]!): void {
  value[name] = flippedHex(value[name] as string);
}

function flippedHex(hex: string): string {
  return (hex.startsWith('0') ? '1' : '0') + hex.slice(1);
}

// ---- Logs ----

function strangeLog(log: PaperLog): PaperLog {
  log.append(STREAM, 5);
  log.tick([STREAM]);
  return log;
}

/** Entry 5 is another from the beginning, and all was signed with the true keys: only who kept something can tell. */
function forgedLog(): PaperLog {
  const log = new PaperLog();
  log.append(STREAM, 5);
  log.append(STREAM, 1, { parts: () => ({ reason: 'never happened' }) });
  log.append(STREAM, 10);
  log.tick([STREAM]);
  return log;
}

function signedBy(log: PaperLog, text: string, stream: string): string {
  const name = text.split('\n')[0]!;
  const key = log.signer(stream === '' ? log.origin : `${log.origin}/${stream}`);
  // The line bears the name that it must have, and the key id of a key that is known by another name.
  return `${text}\n— ${name} ${toBase64(concat(Buffer.from(key.keyId, 'hex'), key.sign(utf8(text))))}\n`;
}
