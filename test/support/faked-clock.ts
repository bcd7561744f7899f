/** The wall clock of single processes, which runs ahead or behind by what a file says: Debian's libfaketime, as `.ci/clock-peer` unpacked it. */
import { globSync } from 'node:fs';
import { chmod, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PEERS = process.env['SEALOG_TEST_PEERS'] ?? '/opt/sealog-peers';
const [LIBRARY] = globSync(join(PEERS, 'usr/lib/*-linux-gnu/faketime/libfaketimeMT.so.1'));

/** Why clocks can not be faked here; undefined where they can. In CI they always are. */
export const withoutFakedClocks: string | undefined =
  process.env['CI'] === undefined && LIBRARY === undefined
    ? `${PEERS} has no libfaketime: .ci/clock-peer ${PEERS}`
    : undefined;

export interface FakedClock {
  /** For the processes whose clock it is. */
  readonly environment: Readonly<Record<string, string>>;
  /** Steps to so many milliseconds ahead of the true time; monotonic clocks go on. */
  step(aheadMs: number): Promise<void>;
  remove(): Promise<void>;
}

/** Makes a clock that is right. */
export async function makeFakedClock(): Promise<FakedClock> {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-clock-'));
  await chmod(folder, 0o755);
  const file = join(folder, 'ahead');
  // The library ends a process that reads a file half written.
  const step = async (aheadMs: number): Promise<void> => {
    await writeFile(`${file}.new`, `${aheadMs < 0 ? '-' : '+'}${Math.abs(aheadMs) / 1000}\n`);
    await rename(`${file}.new`, file);
  };
  await step(0);
  return {
    environment: {
      LD_PRELOAD: LIBRARY!,
      FAKETIME_TIMESTAMP_FILE: file,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
      NO_FAKE_STAT: '1',
    },
    step,
    remove: () => rm(folder, { recursive: true, force: true }),
  };
}
