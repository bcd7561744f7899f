/** The write-once folder: nothing is overwritten, nothing is half there, and two checkpoints of one size are noticed. */
import { type Dirent, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { chmod, link, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, onTestFinished, test } from 'vitest';
import { AnchorError } from '../src/anchor/anchor-error.ts';
import { newestCheckpoint, type WriteOnceFolderOptions, writeOnceFolder } from '../src/anchor/write-once-folder.ts';
import { toHex } from '../src/chain/bytes.ts';
import { encodeCheckpoint } from '../src/chain/checkpoint.ts';
import { cosigner } from '../src/chain/cosignature.ts';
import { noteSigner, noteVerifier, openNote, parseVkey, signNote } from '../src/chain/note.ts';
import { sha256 } from '../src/chain/sha256.ts';
import { EvidenceError } from '../src/errors.ts';

const ORIGIN = 'audit.example.com:8443/sealog/anchor';
const SIGNER = noteSigner(ORIGIN, sha256('seed'));

function checkpoint(size: number, root = sha256(`root of ${size}`), origin = ORIGIN): string {
  return encodeCheckpoint({ origin, size, root });
}

const note = (size: number, root?: Uint8Array) => signNote(checkpoint(size, root), [SIGNER]);

function temporaryFolder(): string {
  const path = mkdtempSync(join(tmpdir(), 'sealog-worm-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

function filesIn(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry: Dirent) => entry.isFile())
    .map((entry) => relative(path, join(entry.parentPath, entry.name)))
    .sort();
}

async function failure(work: Promise<unknown>): Promise<AnchorError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(AnchorError);
  return error as AnchorError;
}

const refusesLinks = (code: string) => async (_existing: string, _name: string) =>
  Promise.reject(Object.assign(new Error('no'), { code }));

/** Mounts with and without hard links. */
const MOUNTS: [string, WriteOnceFolderOptions][] = [
  ['with hard links', {}],
  ['without hard links', { link: refusesLinks('EPERM') }],
];

describe.each(MOUNTS)('a folder %s', (_, options) => {
  test('holds each checkpoint under its size, whole, read-only, and nothing else', async () => {
    const path = temporaryFolder();
    const folder = writeOnceFolder(path, options);
    for (const size of [1, 99_999, 100_000, 2 ** 53 - 1]) {
      expect(Buffer.from(await folder.publish(note(size))).toString()).toBe(note(size));
    }
    const top = 'audit.example.com=8443+sealog+anchor';
    expect(filesIn(path)).toEqual([
      `${top}/00000000000/0000000000000001.checkpoint`,
      `${top}/00000000000/0000000000099999.checkpoint`,
      `${top}/00000000001/0000000000100000.checkpoint`,
      `${top}/90071992547/9007199254740991.checkpoint`,
    ]);
    for (const file of filesIn(path)) expect(statSync(join(path, file)).mode & 0o777).toBe(0o444);
    expect(readFileSync(join(path, `${top}/00000000001/0000000000100000.checkpoint`), 'utf8')).toBe(note(100_000));
  });

  test('takes the same again, from whomever, and changes nothing', async () => {
    const path = temporaryFolder();
    await writeOnceFolder(path, options).publish(note(7));
    const file = join(path, filesIn(path)[0]!);
    const before = statSync(file);
    await writeOnceFolder(path, options).publish(note(7));
    expect(statSync(file)).toMatchObject({ ino: before.ino, mtimeMs: before.mtimeMs, size: before.size });
    expect(filesIn(path)).toHaveLength(1);
  });

  test('raises an alarm at another checkpoint of the same size, and keeps the first', async () => {
    const path = temporaryFolder();
    const folder = writeOnceFolder(path, options);
    await folder.publish(note(7));
    const error = await failure(folder.publish(note(7, sha256('other'))));
    expect(error).toMatchObject({ alarm: true, message: expect.stringContaining('two checkpoints of one size') });
    expect(error.message).toContain('0000000000000007.checkpoint');
    expect(readFileSync(join(path, filesIn(path)[0]!), 'utf8')).toBe(note(7));
    // The next size is another matter.
    await folder.publish(note(8));
  });

  test('is written by many at once, who all write the same', async () => {
    const path = temporaryFolder();
    const folders = Array.from({ length: 8 }, () => writeOnceFolder(path, options));
    for (let size = 1; size <= 5; size++) await Promise.all(folders.map((folder) => folder.publish(note(size))));
    expect(filesIn(path)).toHaveLength(5);
    for (const [i, file] of filesIn(path).entries()) expect(readFileSync(join(path, file), 'utf8')).toBe(note(i + 1));
  });

  test('has one winner where many write two things', async () => {
    const path = temporaryFolder();
    const notes = Array.from({ length: 10 }, (_, i) => note(5, sha256(`root ${i % 2}`)));
    const outcomes = await Promise.allSettled(notes.map((one) => writeOnceFolder(path, options).publish(one)));
    const there = readFileSync(join(path, filesIn(path)[0]!), 'utf8');
    expect(filesIn(path)).toHaveLength(1);
    expect(outcomes.map(({ status }) => status === 'fulfilled')).toEqual(notes.map((one) => one === there));
  });

  test('completes a file that a crash cut, wherever it was cut', async () => {
    const path = temporaryFolder();
    const folder = writeOnceFolder(path, { ...options, patienceMs: 0 });
    const whole = note(7);
    await folder.publish(whole);
    const file = join(path, filesIn(path)[0]!);
    for (let length = 0; length < Buffer.byteLength(whole); length += 7) {
      // What is complete may not be written, but by root.
      await chmod(file, 0o644);
      writeFileSync(file, Buffer.from(whole).subarray(0, length));
      await folder.publish(whole);
      expect(readFileSync(file, 'utf8')).toBe(whole);
    }
  });

  test('does not complete what somebody is still writing', async () => {
    const path = temporaryFolder();
    const folder = writeOnceFolder(path, { ...options, patienceMs: 2000 });
    await folder.publish(note(7));
    const file = join(path, filesIn(path)[0]!);
    await chmod(file, 0o644);
    const other = Buffer.from(note(7, sha256('other')));
    writeFileSync(file, '');
    const late = failure(folder.publish(note(7)));
    for (const end of [10, 20, other.length]) {
      await delay(1000);
      writeFileSync(file, other.subarray(0, end));
    }
    expect((await late).alarm).toBe(true);
    expect(readFileSync(file).equals(other)).toBe(true);
  });

  test.each([
    ['a flipped bit', (bytes: Buffer) => bytes.map((byte, i) => (i === 50 ? byte ^ 1 : byte))],
    [
      'a flipped bit in the signature',
      (bytes: Buffer) => bytes.map((byte, i) => (i === bytes.length - 20 ? byte ^ 1 : byte)),
    ],
    ['more at its end', (bytes: Buffer) => Buffer.concat([bytes, Buffer.from('x')])],
    ['another beginning', (bytes: Buffer) => Buffer.concat([Buffer.from('x'), bytes])],
    ['no text at all', () => Buffer.from([0xff, 0xfe])],
    ['two million bytes', () => Buffer.alloc(2_000_000, 'x')],
  ])('raises an alarm at a file with %s', async (_, damage) => {
    const path = temporaryFolder();
    const folder = writeOnceFolder(path, options);
    await folder.publish(note(7));
    const file = join(path, filesIn(path)[0]!);
    await chmod(file, 0o644);
    const damaged = damage(readFileSync(file));
    writeFileSync(file, damaged);
    expect((await failure(folder.publish(note(7)))).alarm).toBe(true);
    expect(readFileSync(file).equals(damaged)).toBe(true);
  });
});

test('other signatures under the same text are the same checkpoint, if they are ours', async () => {
  const path = temporaryFolder();
  const verifier = noteVerifier(parseVkey(SIGNER.vkey));
  const opens = (one: string): boolean => {
    try {
      openNote(one, [verifier]);
      return true;
    } catch {
      return false;
    }
  };
  const witnessed = `${note(7)}${cosigner('witness.example', sha256('w')).cosign(checkpoint(7), 1)}\n`;
  await writeOnceFolder(path).publish(witnessed);
  expect((await failure(writeOnceFolder(path).publish(note(7)))).alarm).toBe(true);
  expect(Buffer.from(await writeOnceFolder(path, { opens }).publish(note(7))).toString()).toBe(witnessed);
  const stranger = signNote(checkpoint(8), [noteSigner(ORIGIN, sha256('stranger'))]);
  await writeOnceFolder(path).publish(stranger);
  expect((await failure(writeOnceFolder(path, { opens }).publish(note(8)))).alarm).toBe(true);
});

test.each(['EPERM', 'EACCES', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EINVAL', 'EXDEV'])(
  'a mount that answers a link with %s is asked once, and left clean',
  async (code) => {
    const path = temporaryFolder();
    let asked = 0;
    const folder = writeOnceFolder(path, {
      link: (...names) => {
        asked += 1;
        return refusesLinks(code)(...names);
      },
    });
    for (const size of [1, 2, 3]) await folder.publish(note(size));
    expect(asked).toBe(1);
    expect(filesIn(path)).toHaveLength(3);
  },
);

test('a link that fails for another reason is a failure that leaves nothing', async () => {
  const path = temporaryFolder();
  const error = await failure(writeOnceFolder(path, { link: refusesLinks('ENOSPC') }).publish(note(1)));
  expect(error).toMatchObject({ alarm: false, message: expect.stringContaining('ENOSPC') });
  expect(filesIn(path)).toEqual([]);
  await writeOnceFolder(path, { link }).publish(note(1));
});

test('a mount that is missing is not made up for', async () => {
  const path = join(temporaryFolder(), 'missing');
  expect((await failure(writeOnceFolder(path).publish(note(1)))).message).toContain('is it mounted?');
  expect((await failure(newestCheckpoint(path, ORIGIN))).message).toContain('ENOENT');
});

test('a file in the place of a folder is told', async () => {
  const path = temporaryFolder();
  writeFileSync(join(path, 'audit.example.com=8443+sealog+anchor'), '');
  expect((await failure(writeOnceFolder(path).publish(note(1)))).message).toContain('ENOTDIR');
});

test.each(['../../etc/passwd', '..', '.', '/etc', 'A', 'a b', 'a+b', 'a=b', 'a\\b', '-a'])(
  'the origin %j names no folder',
  async (origin) => {
    const path = temporaryFolder();
    const text = encodeCheckpoint({ origin, size: 1, root: sha256('x') });
    await expect(writeOnceFolder(path).publish(`${text}\n— x AAAAAAA=\n`)).rejects.toThrow(EvidenceError);
    await expect(newestCheckpoint(path, origin)).rejects.toThrow(EvidenceError);
    expect(filesIn(path)).toEqual([]);
  },
);

test('what is no checkpoint is not published', async () => {
  const path = temporaryFolder();
  for (const text of ['', 'x', 'x\n\n', note(1).replace('\n1\n', '\n01\n')]) {
    await expect(writeOnceFolder(path).publish(text)).rejects.toThrow(EvidenceError);
  }
  expect(filesIn(path)).toEqual([]);
});

describe('the newest checkpoint', () => {
  async function published(...sizes: number[]): Promise<string> {
    const path = temporaryFolder();
    for (const size of sizes) await writeOnceFolder(path).publish(note(size));
    return path;
  }
  const place = (path: string, size: number) =>
    join(
      path,
      'audit.example.com=8443+sealog+anchor',
      `${Math.floor(size / 100_000)}`.padStart(11, '0'),
      `${size}`.padStart(16, '0'),
    );

  test('is that of the largest size, in whatever order they came', async () => {
    const path = await published(7, 250_000, 99_999, 100_001);
    const { newest, damaged } = await newestCheckpoint(path, ORIGIN);
    expect(newest).toMatchObject({ size: 250_000, note: note(250_000) });
    expect(toHex(newest!.root)).toBe(toHex(sha256('root of 250000')));
    expect(damaged).toEqual([]);
  });

  test('of an empty folder, or of another origin, is none', async () => {
    expect(await newestCheckpoint(temporaryFolder(), ORIGIN)).toEqual({ newest: undefined, damaged: [] });
    const path = await published(7);
    expect((await newestCheckpoint(path, `${ORIGIN}/e2`)).newest).toBeUndefined();
  });

  test('passes over other files, and names those that should be checkpoints and are not', async () => {
    const path = await published(7, 8, 9);
    const folder = dirname(place(path, 9));
    for (const name of ['.abc.new', 'readme.txt', '9.checkpoint', '0000000000000099.checkpoint.bak'])
      writeFileSync(join(folder, name), note(99));
    await mkdir(join(path, 'lost+found'));
    expect(await newestCheckpoint(path, ORIGIN)).toMatchObject({ newest: { size: 9 }, damaged: [] });

    writeFileSync(`${place(path, 10)}.checkpoint`, note(11)); // another size
    writeFileSync(`${place(path, 11)}.checkpoint`, note(11).slice(0, -10)); // cut
    writeFileSync(`${place(path, 12)}.checkpoint`, '');
    writeFileSync(`${place(path, 13)}.checkpoint`, signNote(checkpoint(13, sha256('x'), 'other'), [SIGNER]));
    const { newest, damaged } = await newestCheckpoint(path, ORIGIN);
    expect(newest?.size).toBe(9);
    expect(damaged).toEqual([13, 12, 11, 10].map((n) => `00000000000/00000000000000${n}.checkpoint`));
  });

  test('is not searched for without end', async () => {
    const path = await published(7);
    for (let size = 1000; size < 1100; size++) writeFileSync(`${place(path, size)}.checkpoint`, '');
    expect((await failure(newestCheckpoint(path, ORIGIN))).alarm).toBe(true);
  });
});
