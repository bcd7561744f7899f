/** The erasure ledger: what is in it is there after any crash, and what was damaged is not passed over. */
import { appendFile, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type LedgerLine, noteErasure, readErasureLedger } from '../src/signer/erasure-ledger.ts';

let folder: string;
let file: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sealog-ledger-'));
  file = join(folder, 'erasures.log');
});
afterEach(() => rm(folder, { recursive: true }));

function line(n: number): LedgerLine {
  const entries = [{ stream: 'acme/data_access', seq: n, parts: ['actor', 'raw'] as const }];
  return { tenant: 'acme', certificate: `erasure.x.${n}`, erasure: 'x', entries };
}

describe('the ledger', () => {
  it('has nothing where there is none, then what was noted, each once', async () => {
    expect(await readErasureLedger(folder)).toEqual([]);
    for (const n of [1, 2, 1, 3, 2]) await noteErasure(folder, line(n));
    expect(await readErasureLedger(folder)).toEqual([line(1), line(2), line(3)]);
  });

  it('is cut at each byte of its last line, by a crash: the line is noted again', async () => {
    await noteErasure(folder, line(1));
    const { length } = await readFile(file);
    await noteErasure(folder, line(2));
    const whole = await readFile(file);
    for (let end = length; end < whole.length; end++) {
      await writeFile(file, whole);
      await truncate(file, end);
      expect(await readErasureLedger(folder)).toEqual([line(1)]);
      await noteErasure(folder, line(2));
      expect(await readFile(file)).toEqual(whole);
    }
  });

  it('is cut where a page of its last line was not written', async () => {
    await noteErasure(folder, line(1));
    const { length } = await readFile(file);
    await noteErasure(folder, line(2));
    const whole = await readFile(file);
    await writeFile(file, Buffer.from(whole).fill(0, length + 20, length + 40));
    expect(await readErasureLedger(folder)).toEqual([line(1)]);
    await noteErasure(folder, line(2));
    expect(await readFile(file)).toEqual(whole);
  });

  it('is refused where a line is another, is gone, or stands elsewhere', async () => {
    for (const n of [1, 2, 3]) await noteErasure(folder, line(n));
    const [one, two, three] = (await readFile(file, 'utf8')).trimEnd().split('\n');
    for (const damaged of [
      [one!.replace('"seq":1', '"seq":9'), two, three],
      [two, three],
      [one, three, two],
      [two, one, three],
      [`${one} `, two, three],
      ['', one, two, three],
      [one, two, three!.replace('"seq":3', '"seq":9')],
    ]) {
      await writeFile(file, `${damaged.join('\n')}\n`);
      await expect(readErasureLedger(folder), damaged[0]).rejects.toThrow('is damaged at line');
      await expect(noteErasure(folder, line(4))).rejects.toThrow('is damaged');
    }
  });

  it('takes no line that is sound and says what no certificate may', async () => {
    await noteErasure(folder, line(1));
    const bad = { ...line(2), entries: [{ stream: 'acme/log_administration', seq: 0, parts: ['details'] as const }] };
    await noteErasure(folder, bad);
    await appendFile(file, '');
    await expect(readErasureLedger(folder)).rejects.toThrow('is damaged at line 2');
  });
});
