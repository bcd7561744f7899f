/** The signer's mark: what a crash, damage or a second signer leave of it. */
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { Mark, type MarkFact, MarkLostError, readMark } from '../src/signer/mark.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'sealog-test-mark-'));
  onTestFinished(() => rm(path, { recursive: true, force: true }));
  return path;
}

function head(size: number, stream = 'acme/data_access'): MarkFact {
  return { kind: 'checkpoint', stream, size, root: size.toString(16).padStart(64, '0') };
}

/** A mark of five flushes, of which the third has two heads. */
async function written(path: string): Promise<Buffer> {
  const mark = await Mark.open(path);
  await mark.append([{ kind: 'origin', origin: 'log.example' }]);
  await mark.append([head(1)]);
  await mark.append([head(2), head(7, 'acme/security_event')]);
  await mark.append([head(3)]);
  await mark.append([head(5)]);
  await mark.close();
  return readFile(join(path, 'mark.log'));
}

describe('a mark', () => {
  test('tells what was marked when it is opened again', async () => {
    const path = await folder();
    await written(path);
    const mark = await Mark.open(path);
    expect(mark.origin).toBe('log.example');
    expect(mark.head('acme/data_access')?.size).toBe(5);
    expect(mark.history('acme/data_access').map(({ size }) => size)).toEqual([1, 2, 3, 5]);
    expect(mark.head('acme/security_event')?.size).toBe(7);
    expect(mark.head('acme/other')).toBeUndefined();
    await mark.close();
    expect((await readMark(path)).get('acme/data_access')?.size).toBe(5);
  });

  test('knows which epochs are closed, and which are not finished', async () => {
    const path = await folder();
    const mark = await Mark.open(path);
    await mark.append([head(5), { kind: 'closed', stream: 'acme/data_access', size: 4, next: 'acme/data_access/e2' }]);
    expect(mark.closedAt('acme/data_access')).toBe(4);
    expect(mark.unfinished()).toEqual([{ stream: 'acme/data_access', size: 4, next: 'acme/data_access/e2' }]);
    await mark.append([{ kind: 'opened', stream: 'acme/data_access/e2' }]);
    expect(mark.unfinished()).toEqual([]);
    await mark.close();
    expect((await readMark(path)).size).toBe(0);
  });

  test('that is a copy is behind in every epoch until a recovery has settled it, also when it is written anew', async () => {
    const path = await folder();
    // Written anew at each line.
    let mark = await Mark.open(path, 1);
    await mark.append([head(5), { kind: 'opened', stream: 'acme/old/e2' }]);
    expect(mark.isBehind('acme/data_access')).toBe(false);
    await mark.append([{ kind: 'copied' }]);
    await mark.append([{ kind: 'opened', stream: 'acme/data_access/e2' }]);
    const look = (): boolean[] =>
      [mark.isCopied].concat(
        ['acme/data_access', 'acme/old/e2', 'acme/data_access/e2'].map((one) => mark.isBehind(one)),
      );
    expect(look()).toEqual([true, true, true, false]);
    await mark.close();
    mark = await Mark.open(path);
    expect(look()).toEqual([true, true, true, false]);
    await mark.append([{ kind: 'settled' }]);
    expect(look()).toEqual([false, false, false, false]);
    await mark.append([{ kind: 'copied' }]);
    expect(look()).toEqual([true, true, true, true]);
    await mark.close();
  });

  test('loses at most the last flush to a crash at any byte of it, and nothing of the others', async () => {
    const path = await folder();
    const file = join(path, 'mark.log');
    const whole = await written(path);
    const lastLine = whole.lastIndexOf('\n', whole.length - 2) + 1;
    for (let cut = lastLine; cut <= whole.length; cut++) {
      await writeFile(file, whole);
      await truncate(file, cut);
      const mark = await Mark.open(path);
      expect(mark.head('acme/data_access')?.size).toBe(cut === whole.length ? 5 : 3);
      await mark.append([head(9)]);
      await mark.close();
      expect((await readMark(path)).get('acme/data_access')?.size).toBe(9);
    }
  });

  test('goes on behind a torn tail of zeros or noise', async () => {
    const path = await folder();
    const file = join(path, 'mark.log');
    const whole = await written(path);
    for (const tail of [Buffer.alloc(4096), Buffer.from('0123456789abcdef [{"kind":"check\n\n\nnoise\n')]) {
      await writeFile(file, Buffer.concat([whole, tail]));
      const mark = await Mark.open(path);
      expect(mark.head('acme/data_access')?.size).toBe(5);
      await mark.append([head(6)]);
      await mark.close();
      expect((await readMark(path)).get('acme/data_access')?.size).toBe(6);
    }
  });

  test('is refused when any byte before the last line was changed, and never tells less in silence', async () => {
    const path = await folder();
    const file = join(path, 'mark.log');
    const whole = await written(path);
    const lastLine = whole.lastIndexOf('\n', whole.length - 2) + 1;
    const untold: number[] = [];
    for (let at = 0; at < lastLine - 1; at++) {
      for (const bit of HARD ? [0, 3, 6] : [at % 7]) {
        const damaged = Buffer.from(whole);
        damaged[at]! ^= 1 << bit;
        await writeFile(file, damaged);
        const opened = await Mark.open(path).catch((error: Error) => error.message);
        if (typeof opened === 'string') {
          expect(opened).toContain('is damaged');
          continue;
        }
        // A line that a changed byte cut in two, or joined: only the last lines can look like a torn one.
        untold.push(at);
        await opened.close();
      }
    }
    expect(untold).toEqual([]);
  });

  test('is lost to the signer that another one overtook, who then signs alone', async () => {
    const path = await folder();
    await written(path);
    const [one, other] = [await Mark.open(path), await Mark.open(path)];
    await one.append([head(6)]);
    await expect(other.append([head(8)])).rejects.toThrow(MarkLostError);
    await expect(other.append([head(9)])).rejects.toThrow(MarkLostError);
    // What the other wrote is behind what the first one knows: it finds out, too.
    await expect(one.append([head(7)])).rejects.toThrow(MarkLostError);
    const again = await Mark.open(path);
    // It was flushed, and its signature never released: more than what anybody holds, as it must be.
    expect(again.head('acme/data_access')?.size).toBe(7);
    await again.append([head(10)]);
    expect((await readMark(path)).get('acme/data_access')?.size).toBe(10);
    await Promise.all([one.close(), other.close(), again.close()]);
  });

  test('keeps what counts when its file is written anew, and goes on in it', async () => {
    const path = await folder();
    const mark = await Mark.open(path, 100_000);
    await mark.append([
      { kind: 'origin', origin: 'log.example' },
      { kind: 'generation', generation: 1, from: { epoch: 1, size: 0 } },
    ]);
    let written = 0;
    for (let n = 1; n <= 2000; n++) {
      const facts = [head(n), head(n, 'acme/security_event')];
      await mark.append(facts);
      written += JSON.stringify(facts).length;
    }
    const size = (await readFile(join(path, 'mark.log'))).length;
    expect(written).toBeGreaterThan(400_000);
    expect(size).toBeLessThan(150_000);
    expect((await readMark(path)).get('acme/data_access')?.size).toBe(2000);
    await mark.close();
    const again = await Mark.open(path);
    expect(again.head('acme/security_event')?.size).toBe(2000);
    expect(again.origin).toBe('log.example');
    expect(again.generations).toHaveLength(1);
    await again.append([head(2001)]);
    await again.close();
  }, 30_000);

  test('is lost to a signer whose file was written anew by another', async () => {
    const path = await folder();
    const [one, other] = [await Mark.open(path), await Mark.open(path, 1)];
    await other.append([head(1)]);
    await expect(one.append([head(2)])).rejects.toThrow(MarkLostError);
    await other.append([head(3)]);
    expect((await readMark(path)).get('acme/data_access')?.size).toBe(3);
    await Promise.all([one.close(), other.close()]);
  });
});
