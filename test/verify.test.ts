/** Verification of a log that is in use, its bounds, and `sealog verify` as an operator runs it. */
import { spawn } from 'node:child_process';
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { toHex } from '../src/chain/bytes.ts';
import { EMPTY_ROOT } from '../src/chain/merkle.ts';
import { noteSigner } from '../src/chain/note.ts';
import type { StreamReport } from '../src/verify/verify-stream.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { startService, type TestService } from './support/service.ts';
import { HARD } from './support/short-form.ts';

interface TinyEvent {
  readonly id: string;
  readonly category: string;
  readonly [member: string]: unknown;
}

function tiny(category: string, n: number): TinyEvent {
  return {
    id: `${category}-${n}`,
    category,
    action: `thing.act${n % 3}`,
    outcome: 'success',
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 'mes' },
    actor: { type: 'user', id: `u${n % 5}` },
    target: { type: 'thing', id: `t${n % 7}` },
  };
}

async function fill(service: TestService, category: string, from: number, count: number): Promise<void> {
  const events = Array.from({ length: count }, (_, i) => tiny(category, from + i));
  const { status, body } = await service.post('/v1/events/batch', events);
  expect([status, body.errors]).toEqual([200, false]);
}

/** The adversary: one statement as superuser, without triggers. */
async function tamper(service: TestService, table: string, statement: string): Promise<void> {
  const client = await service.adminPool.connect();
  try {
    await client.query('BEGIN');
    await client.query(`ALTER TABLE sealog.${table} DISABLE TRIGGER ALL`);
    const { rowCount } = await client.query(statement);
    expect(rowCount).toBeGreaterThan(0);
    await client.query(`ALTER TABLE sealog.${table} ENABLE ALWAYS TRIGGER append_only`);
    await client.query('COMMIT');
  } finally {
    client.release();
  }
}

describe('while entries are appended', () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
  });
  afterAll(() => service.stop());

  it('finds nothing wrong, however often it looks', async () => {
    await fill(service, 'data_access', 0, 100);
    let isOver = false;
    const write = async (category: string, batch: number): Promise<number> => {
      let n = 100;
      while (!isOver) {
        await fill(service, category, n, batch);
        n += batch;
      }
      return n;
    };
    const writers = [write('data_access', 37), write('system_operation', 1), write('data_access', 3)];
    const until = performance.now() + (HARD ? 5000 : 2000);
    const sizes: number[] = [];
    let runs = 0;
    for (; performance.now() < until || runs < 10; runs++) {
      const reports = await service.verify();
      expect(reports.filter(({ verdict }) => verdict !== 'intact')).toEqual([]);
      sizes.push(sizeOf(reports, 'acme/data_access'));
    }
    isOver = true;
    await Promise.all(writers);
    expect(sizes).toEqual(sizes.toSorted((a, b) => a - b));
    // It grew while it was looked at, beyond the edge of tiles.
    expect(sizes.at(-1)! - sizes[0]!).toBeGreaterThan(256);
    await service.checkLog();
  });

  function sizeOf(reports: readonly StreamReport[], stream: string): number {
    return reports.find((report) => report.stream === stream)!.size;
  }
});

describe('a larger log', () => {
  const LARGER = HARD ? 24_000 : 12_000;
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
    for (let n = 0; n < LARGER; n += 4000) await fill(service, 'data_access', n, 4000);
  });
  afterAll(() => service.stop());

  it('is verified in short transactions', async () => {
    let isOver = false;
    let longestMs = 0;
    let seen = 0;
    const states = new Set<string>();
    const watch = async (): Promise<void> => {
      while (!isOver) {
        const { rows } = await service.adminPool.query<{ ms: number; state: string }>(
          `SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8 * 1000 AS ms, state FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'sealog_verifier' AND xact_start IS NOT NULL
             -- A session that is just being opened has none.
             AND state IS NOT NULL`,
        );
        for (const { ms, state } of rows) {
          longestMs = Math.max(longestMs, ms);
          states.add(state);
          seen += 1;
        }
        await sleep(2);
      }
    };
    const watching = watch();
    await service.checkLog();
    isOver = true;
    await watching;
    expect(seen).toBeGreaterThan(5);
    expect([...states]).toEqual(['active']);
    expect(longestMs).toBeLessThan(3000);
  });

  it('tells how far it is', async () => {
    const progress: number[] = [];
    await service.verify({ onProgress: (entries) => void progress.push(entries) });
    expect(progress.at(-1)).toBe(LARGER);
    expect(progress).toEqual(progress.toSorted((a, b) => a - b));
  });

  it('that is all wrong is reported up to a number of findings', async () => {
    await tamper(service, 'block', 'UPDATE sealog.block SET tags = ARRAY(SELECT generate_series(1, 20)) || tags');
    try {
      const [whole] = await service.verify({ findingsMax: 100_000 });
      expect(whole!.truncated).toBe(false);
      expect(whole!.findings.length).toBeGreaterThan(100);
      const [report] = await service.verify({ findingsMax: 7 });
      expect(report).toMatchObject({ verdict: 'tampered', truncated: true });
      expect(report!.findings).toHaveLength(7);
      const [exact] = await service.verify({ findingsMax: whole!.findings.length });
      expect(exact).toMatchObject({ truncated: false, findings: whole!.findings });
    } finally {
      await tamper(service, 'block', 'UPDATE sealog.block SET tags = tags[21:]');
    }
    await service.checkLog();
  });
});

describe('a log without entries', () => {
  it('is intact, with and without a stream', async () => {
    const service = await startService();
    try {
      expect(await service.checkLog()).toEqual([]);
      await service.adminPool.query(`INSERT INTO sealog.tenant (name) VALUES ('acme')`);
      await service.adminPool.query(
        `INSERT INTO sealog.stream (tenant, category, epoch, name) SELECT id, 'data_access', 1, 'acme/data_access' FROM sealog.tenant`,
      );
      expect(await service.checkLog()).toEqual([
        {
          ...{ stream: 'acme/data_access', size: 0, root: toHex(EMPTY_ROOT), verdict: 'intact' },
          ...{ findings: [], truncated: false, unchecked: [] },
        },
      ]);
      // The service goes on from it.
      await fill(service, 'data_access', 0, 3);
      expect(await service.checkLog()).toMatchObject([{ size: 3 }]);
    } finally {
      await service.stop();
    }
  });
});

describe('a stream whose row is gone', () => {
  it('is found by what it left behind', async () => {
    const service = await startService();
    try {
      await fill(service, 'data_access', 0, 3);
      await fill(service, 'system_operation', 0, 3);
      await service.adminPool.query('ALTER TABLE sealog.data_key DROP CONSTRAINT data_key_stream_fkey');
      await tamper(service, 'stream', `DELETE FROM sealog.stream WHERE name = 'acme/data_access'`);
      expect(await service.verify()).toMatchObject([
        { stream: 'acme/system_operation', verdict: 'intact' },
        { verdict: 'tampered', findings: [{ kind: 'head' }] },
      ]);
    } finally {
      await service.stop();
    }
  });
});

describe('sealog verify', () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
    await fill(service, 'data_access', 0, 300);
    await fill(service, 'system_operation', 0, 2);
  });
  afterEach(async () => {
    await service.checkLog();
  });
  afterAll(() => service.stop());

  it('--database says 2 where nothing is wrong, and nobody outside vouches for it', async () => {
    const { code, out, err } = await sealog(['verify', '--database']);
    expect([code, err]).toEqual([2, '']);
    expect(out).toMatch(/^acme\/data_access: not_provable, 300 entries$/m);
    expect(out).toMatch(/^not_provable: \d streams, \d+ entries$/m);
    expect(out).toMatch(/^Nothing wrong was found: /m);
  });

  it('--checkpoint: 0 for a stream that a checkpoint covers, which the caller kept', async () => {
    const file = await noteOf('acme/data_access', 300);
    const { code, out, err } = await sealog([
      ...['verify', '--database', '--stream', 'acme/data_access', '--checkpoint', file],
    ]);
    expect([code, err]).toEqual([0, '']);
    expect(out).toMatch(/^acme\/data_access: intact, 300 entries\n {2}pinned: 300 entries by the checkpoint /);
  });

  it('--key: another key than that of the log is a finding, none is taken on first use', async () => {
    const { vkey } = noteSigner('log.example', new Uint8Array(32).fill(3));
    const other = await sealog(['verify', '--database', '--key', vkey]);
    expect(other.code).toBe(1);
    expect(other.out).toMatch(/^log\.example: key at the log: the given key is not one of this log/m);
    const alone = await sealog(['verify', '--database'], { SEALOG_SIGNER_DIR: '' });
    expect(alone.code).toBe(2);
    expect(alone.out).toMatch(/^Its signing keys are those that the database itself states/m);
  });

  it('--json says the same to a program', async () => {
    const { code, out } = await sealog(['verify', '--database', '--json']);
    expect(code).toBe(2);
    const { verdict, origin, key, findings, streams } = JSON.parse(out);
    expect({ verdict, origin, key, findings }).toMatchObject({
      ...{ verdict: 'not_provable', origin: 'log.example', findings: [] },
      key: { trusted: 'signer', vkey: expect.stringMatching(/^log\.example\+/) },
    });
    const own = (reports: readonly { readonly stream: string }[]) =>
      reports.filter(({ stream }) => /^acme/.test(stream));
    const expected = (await service.verify()).map(({ verdict: _, ...report }) => report);
    expect(own(streams)).toMatchObject(own(expected));
  });

  it('--stream checks that one', async () => {
    const { code, out } = await sealog(['verify', '--database', '--json', '--stream', 'acme/system_operation']);
    expect(code).toBe(2);
    expect(JSON.parse(out).streams).toMatchObject([{ stream: 'acme/system_operation', size: 2 }]);
  });

  it('says 1 where something was tampered with, and names it', async () => {
    await tamper(service, 'tile', `UPDATE sealog.tile SET hashes = set_byte(hashes, 320, get_byte(hashes, 320) # 1)`);
    try {
      const text = await sealog(['verify', '--database']);
      expect([text.code, text.err]).toEqual([1, '']);
      expect(text.out).toMatch(/^ {2}tile at 10: /m);
      expect(text.out).toMatch(/^tampered: \d streams/m);
      const json = await sealog(['verify', '--database', '--json']);
      expect(json.code).toBe(1);
      expect(JSON.parse(json.out)).toMatchObject({
        verdict: 'tampered',
        streams: [
          { verdict: 'tampered', findings: [{ stream: 'acme/data_access', seq: 10, kind: 'tile' }] },
          { verdict: 'not_provable' },
          ...Array.from({ length: JSON.parse(json.out).streams.length - 2 }, () => ({ verdict: 'not_provable' })),
        ],
      });
    } finally {
      await tamper(service, 'tile', `UPDATE sealog.tile SET hashes = set_byte(hashes, 320, get_byte(hashes, 320) # 1)`);
    }
  });

  it('says 2 where a month key is not there, and what that leaves unchecked', async () => {
    const keys = service.config.monthKeysDir;
    await rename(keys, `${keys}.away`);
    try {
      const { code, out } = await sealog(['verify', '--database']);
      expect(code).toBe(2);
      expect(out).toMatch(/^ {2}not checked, from 0 on: the parts: the month key \d{6} is not in the key service$/m);
      expect(out).toMatch(/^incomplete: \d streams, \d+ entries$/m);
    } finally {
      await rename(`${keys}.away`, keys);
    }
  });

  it.each([
    ['the database does not answer', { DATABASE_URL: 'postgresql://nobody@127.0.0.1:9/nothing' }],
    ['a setting is wrong', { SEALOG_MASTER_KEY: 'nowhere' }],
    ['a setting is missing', { SEALOG_MASTER_KEY: '' }],
  ])('says 2 where %s', async (_, environment) => {
    const { code, out, err } = await sealog(['verify', '--database'], environment);
    expect([code, out]).toEqual([2, '']);
    expect(err).not.toMatch(/^ +at /m);
    expect(err).not.toBe('');
  });

  it.each([
    ['without --database', ['verify']],
    ['with an option that is none', ['verify', '--database', '--quick']],
    ['with an argument', ['verify', '--database', 'acme']],
    ['for a checkpoint that is no file', ['verify', '--database', '--checkpoint', '/nowhere/at/all']],
    ['for a witness that is none', ['verify', '--database', '--witness', 'w1']],
    ['for a stream that is not there', ['verify', '--database', '--stream', 'acme/data_modification']],
    ['under another name', ['verfy', '--database']],
  ])('says 64 %s', async (_, args) => {
    const { code, out, err } = await sealog(args);
    expect([code, out]).toEqual([64, '']);
    expect(err).toMatch(/^usage: sealog COMMAND$/m);
  });

  /** The stored checkpoint of a stream, once it is of this size, in a file. */
  async function noteOf(stream: string, size: number): Promise<string> {
    for (let i = 0; i < 100; i++) {
      const { rows } = await service.adminPool.query<{ note: string }>(
        'SELECT c.note FROM sealog.checkpoint AS c JOIN sealog.stream AS s ON s.id = c.stream WHERE s.name = $1 AND c.size = $2',
        [stream, size],
      );
      const file = join(service.config.signerDir!, '..', 'kept-checkpoint');
      if (rows[0] !== undefined) return writeFile(file, rows[0].note).then(() => file);
      await sleep(50);
    }
    throw new Error(`${stream} was not signed`);
  }

  function sealog(
    args: readonly string[],
    environment: Readonly<Record<string, string>> = {},
  ): Promise<{ code: number | null; out: string; err: string }> {
    const main = join(import.meta.dirname, '..', 'src', 'cli', 'main.ts');
    const command = spawn(process.execPath, [main, ...args], {
      env: { ...PROGRAM_ENVIRONMENT, ...service.environment, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let [out, err] = ['', ''];
    command.stdout.on('data', (chunk: Buffer) => {
      out += chunk;
    });
    command.stderr.on('data', (chunk: Buffer) => {
      err += chunk;
    });
    return new Promise((resolve, reject) => {
      command.once('error', reject);
      command.once('close', (code) => resolve({ code, out, err }));
    });
  }
});
