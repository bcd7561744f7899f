/** The file of anchors: what is read, and that everything wrong is told at once, by its place. */
import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readAnchorsFile } from '../src/anchor/anchors-file.ts';
import { cosigner } from '../src/chain/cosignature.ts';
import { noteSigner } from '../src/chain/note.ts';
import { sha256 } from '../src/chain/sha256.ts';
import { SettingsError } from '../src/errors.ts';

const VKEY = cosigner('witness.example/w1', sha256('w1')).vkey;
const TSA = { name: 'tsa-1', type: 'rfc3161', url: 'https://tsa.example/stamp?x=y', trust: 'ca.pem' };
const WORM = { name: 'worm', type: 'folder', path: '/mnt/worm' };
const WITNESS = { name: 'witness-1', type: 'witness', url: 'https://witness.example/prefix', vkey: VKEY };

let folder: string;
let pem: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'sealog-anchors-'));
  const args = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=ca'];
  pem = execFileSync('openssl', [...args, '-keyout', '/dev/null'], { stdio: ['ignore', 'pipe', 'ignore'] }).toString();
  writeFileSync(join(folder, 'ca.pem'), pem);
  writeFileSync(join(folder, 'two.pem'), `# our own\n${pem}\n${pem}`);
  writeFileSync(join(folder, 'empty.pem'), '');
  writeFileSync(join(folder, 'broken.pem'), pem.replace(/\n[A-Za-z0-9+/]{10}/, '\nAAAAAAAAAA'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const der = () => new X509Certificate(pem).raw;

function read(content: unknown) {
  const file = join(folder, 'anchors.json');
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  return readAnchorsFile(file);
}

async function problems(content: unknown): Promise<readonly string[]> {
  const error = await read(content).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(SettingsError);
  const all = (error as SettingsError).problems;
  expect(all.filter((one) => !one.startsWith('SEALOG_ANCHORS_FILE'))).toEqual([]);
  return all.map((one) => one.replace('SEALOG_ANCHORS_FILE: ', ''));
}

test('anchors of all kinds are read, with their defaults', async () => {
  expect(await read({ anchors: [TSA, WORM, { ...WITNESS, url: `${WITNESS.url}//` }] })).toEqual([
    { ...omit(TSA, 'trust'), everySeconds: 600, trusted: [der()], policy: undefined, tlsCaPem: undefined },
    { ...WORM, everySeconds: 60 },
    { ...WITNESS, everySeconds: 60, tlsCaPem: undefined },
  ]);
  expect(await read({ anchors: [] })).toEqual([]);
});

test('everything that may be said is read', async () => {
  const all = [
    { ...TSA, trust: join(folder, 'two.pem'), everySeconds: 86_400, policy: '1.2.3', tlsCa: 'ca.pem' },
    { ...WORM, everySeconds: 60 },
    { ...WITNESS, everySeconds: 3600, tlsCa: './ca.pem' },
  ];
  expect(await read({ anchors: all })).toMatchObject([
    { everySeconds: 86_400, policy: '1.2.3', tlsCaPem: pem, trusted: [der(), der()] },
    { everySeconds: 60 },
    { everySeconds: 3600, tlsCaPem: pem },
  ]);
});

test.each<[string, unknown, string]>([
  ['no JSON', 'anchors:', 'must hold JSON'],
  ['a comment', '{"anchors": []} // none', 'must hold JSON'],
  ['an array', [], 'must be {"anchors": […]}'],
  ['null', null, 'must be {"anchors": […]}'],
  ['nothing in it', {}, 'must be {"anchors": […]}'],
  ['anchors that are no array', { anchors: {} }, 'must be {"anchors": […]}'],
  ['another member', { anchors: [], anchor: [] }, '"anchor" is not a field'],
  ['two of one name', '{"anchors":[],"anchors":[]}', 'two members of one name'],
  [
    'two of one name deep inside',
    `{"anchors":[{"name":"worm","type":"folder","path":"/a","path":"/b"}]}`,
    'two members',
  ],
  [
    'an escaped second name',
    `{"anchors":[{"name":"worm","type":"folder","path":"/a","p\\u0061th":"/b"}]}`,
    'two members',
  ],
  ['17 anchors', { anchors: Array.from({ length: 17 }, (_, i) => ({ ...WORM, name: `w${i}` })) }, 'at most 16'],
  ['an anchor that is none', { anchors: ['worm'] }, 'anchors[0] must be an object'],
  ['an anchor that is null', { anchors: [null] }, 'anchors[0] must be an object'],
  ['two of one name', { anchors: [WORM, WORM] }, 'anchors[1].name is that of anchors[0]'],
  ['one witness twice', { anchors: [WITNESS, { ...WITNESS, name: 'x' }] }, 'anchors[1].vkey is that of anchors[0]'],
])('a file with %s is refused', async (_, content, problem) => {
  const found = await problems(content);
  expect(found).toHaveLength(1);
  expect(found[0]).toContain(problem);
});

test.each<[object, string]>([
  [omit(TSA, 'name'), 'name is required'],
  [{ ...TSA, name: '' }, 'name must be 1 to 63'],
  [{ ...TSA, name: 'TSA' }, 'name must be 1 to 63'],
  [{ ...TSA, name: '-x' }, 'name must be 1 to 63'],
  [{ ...TSA, name: 'x\n' }, 'name must be 1 to 63'],
  [{ ...TSA, name: 'x'.repeat(64) }, 'name must be 1 to 63'],
  [{ ...TSA, name: 7 }, 'name must be text'],
  [omit(TSA, 'type'), 'type must be rfc3161, folder or witness'],
  [{ ...TSA, type: 'tsa' }, 'type must be rfc3161, folder or witness'],
  [{ ...TSA, everySeconds: 0 }, 'everySeconds must be an integer from 1 to 86400'],
  [{ ...TSA, everySeconds: 86_401 }, 'everySeconds must be'],
  [{ ...TSA, everySeconds: 60.5 }, 'everySeconds must be'],
  [{ ...TSA, everySeconds: '60' }, 'everySeconds must be'],
  [{ ...TSA, everySeconds: null }, 'everySeconds must be'],
  [omit(TSA, 'url'), 'url is required'],
  [{ ...TSA, url: 'tsa.example' }, 'url must be a URL'],
  [{ ...TSA, url: 'ftp://tsa.example' }, 'url must be a URL'],
  [{ ...TSA, url: 'https://user:hidden-word@tsa.example' }, 'url must not hold credentials'],
  [omit(TSA, 'trust'), 'trust is required'],
  [{ ...TSA, trust: '' }, 'trust must be a path'],
  [{ ...TSA, trust: 'missing.pem' }, 'trust names a file that can not be read: ENOENT'],
  [{ ...TSA, trust: '.' }, 'trust names a file that can not be read: EISDIR'],
  [{ ...TSA, trust: 'empty.pem' }, 'trust names a file without a certificate'],
  [{ ...TSA, trust: 'broken.pem' }, 'trust holds a broken certificate'],
  [{ ...TSA, tlsCa: 'empty.pem' }, 'tlsCa names a file without a certificate'],
  [{ ...TSA, policy: '' }, 'policy must be an object identifier'],
  [{ ...TSA, policy: '1.02.3' }, 'policy must be an object identifier'],
  [{ ...TSA, policy: 'any' }, 'policy must be an object identifier'],
  [{ ...TSA, vkey: VKEY }, 'has the field "vkey", which an anchor of type rfc3161 has not'],
  [omit(WORM, 'path'), 'path is required'],
  [{ ...WORM, path: 'worm' }, 'path must be an absolute path'],
  [{ ...WORM, path: '/mnt\0' }, 'path must be an absolute path'],
  [{ ...WORM, url: 'https://x' }, 'has the field "url", which an anchor of type folder has not'],
  [omit(WITNESS, 'vkey'), 'vkey is required'],
  [{ ...WITNESS, vkey: 'x' }, 'vkey must be the vkey of a witness'],
  [
    { ...WITNESS, vkey: noteSigner('log.example', sha256('x')).vkey },
    'vkey must be the vkey of a witness: the key log.example has the type 1',
  ],
  [{ ...WITNESS, url: 'https://x/?a' }, 'url must not have a query'],
  [{ ...WITNESS, url: 'https://x/#a' }, 'url must not have a query'],
  [JSON.parse('{"name":"w","type":"folder","path":"/a","__proto__":{}}') as object, 'has the field "__proto__"'],
])('the anchor %j is refused by its field', async (anchor, problem) => {
  const found = await problems({
    anchors: [WORM, { ...anchor, ...('name' in anchor && anchor.name === 'worm' ? { name: 'w2' } : {}) }],
  });
  expect(found).toHaveLength(1);
  expect(found[0]).toContain('anchors[1]');
  expect(found[0]).toContain(problem);
  expect(found[0]).not.toContain('hidden-word');
});

test('all problems come together', async () => {
  const found = await problems({
    extra: 1,
    anchors: [
      { type: 'folder' },
      { ...TSA, everySeconds: 0, trust: 'missing.pem', x: 1 },
      7,
      { ...WITNESS, name: 'tsa-1' },
    ],
  });
  expect(found).toHaveLength(8);
});

test('a file that is not there, or no file, is told', async () => {
  for (const [path, code] of [
    [join(folder, 'missing.json'), 'ENOENT'],
    [folder, 'EISDIR'],
  ] as const) {
    await expect(readAnchorsFile(path)).rejects.toThrow(`SEALOG_ANCHORS_FILE can not be read: ${code}`);
  }
  await expect(read(' '.repeat(1024 * 1024 + 1))).rejects.toThrow('larger than');
});

function omit(anchor: object, field: string): object {
  return Object.fromEntries(Object.entries(anchor).filter(([name]) => name !== field));
}
