/** Disks that fill up: told at 75 % and at 90 %, in the log's own stream, in metrics, and once. */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { type DiskState, DiskWatch } from '../src/store/disk-watch.ts';
import { startService } from './support/service.ts';

const run = promisify(execFile);
const MiB = 1024 * 1024;

/** A disk of 10 MiB; undefined where this user may mount none. */
async function smallDisk(): Promise<string | undefined> {
  const place = await mkdtemp(join(tmpdir(), 'sealog-test-disk-'));
  const mounted = await run('mount', ['-t', 'tmpfs', '-o', 'size=10m,mode=0777', 'tmpfs', place]).then(
    () => true,
    () => false,
  );
  onTestFinished(async () => {
    if (mounted) await run('umount', ['-l', place]);
    await rm(place, { recursive: true, force: true });
  });
  return mounted ? place : undefined;
}

async function until<T>(look: () => Promise<T | undefined>, what: string): Promise<T> {
  for (const end = performance.now() + 10_000; ; ) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not within 10 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('each level is told once, and again only after it was left', async ({ skip }) => {
  const disk = await smallDisk();
  if (disk === undefined) return skip('no disk can be mounted here');
  const file = join(disk, 'fill');
  const told: DiskState[] = [];
  const folders = [
    { disk: 'data', path: disk },
    { disk: 'signer', path: disk },
    { disk: 'keys', path: join(disk, 'gone') },
  ];
  const watch = new DiskWatch({ folders, onFuller: (state) => told.push(state) });
  const fillTo = async (mebibytes: number): Promise<number | undefined> => {
    await writeFile(file, Buffer.alloc(mebibytes * MiB));
    await watch.look();
    return watch.states[0]?.level;
  };
  expect(await fillTo(7)).toBe(0);
  // One disk, whatever is on it; what is not there is passed over.
  expect(watch.states).toEqual([{ disk: 'data', used: 0.7, freeBytes: 3 * MiB, level: 0 }]);
  expect(await fillTo(8)).toBe(75);
  expect(await fillTo(8.4)).toBe(75);
  expect(await fillTo(7.4)).toBe(75);
  expect(await fillTo(9.5)).toBe(90);
  expect(await fillTo(8.9)).toBe(90);
  expect(await fillTo(8.5)).toBe(75);
  expect(await fillTo(9.1)).toBe(90);
  expect(await fillTo(1)).toBe(0);
  expect(await fillTo(10)).toBe(90);
  expect(told.map(({ level }) => level)).toEqual([75, 90, 90, 90]);
});

test('the service tells of it in its own stream, and in its metrics', async ({ skip }) => {
  const disk = await smallDisk();
  if (disk === undefined) return skip('no disk can be mounted here');
  await mkdir(join(disk, 'signer'));
  const service = await startService({
    environment: { SEALOG_SIGNER_DIR: join(disk, 'signer') },
    disks: { lookEveryMs: 20 },
  });
  onTestFinished(() => service.stop());
  const alarm = async (): Promise<number> =>
    Number(
      /^sealog_disk_alarm_percent\{disk="signer"\} (\d+)$/m.exec(
        await (await fetch(`${service.url}/metrics`)).text(),
      )?.[1],
    );
  expect(await alarm()).toBe(0);
  await writeFile(join(disk, 'fill'), Buffer.alloc(9.2 * MiB));
  const token = await service.token('auditor', 'sealog');
  const entry = await until(async () => {
    const { body } = await service.get('/v1/events?category=system_operation&action=disk.filling', { token });
    // On its way there it may have been seen at 75.
    return body.items.find((item: { details: { level: number } }) => item.details.level === 90);
  }, 'an entry about the disk');
  expect(entry).toMatchObject({
    severity: 8,
    outcome: 'failure',
    target: { type: 'disk', id: 'signer' },
    details: { level: 90, usedPercent: 92 },
  });
  expect(await alarm()).toBe(90);
  await service.checkLog();
});
