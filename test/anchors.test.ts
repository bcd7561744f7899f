/** The anchor stream under a real time-stamp authority, a witness and a folder, all at once, and what each being away does to the others. */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { checkCosignature } from '../src/chain/cosignature.ts';
import { sha256 } from '../src/chain/sha256.ts';
import { SigningKeys } from '../src/signer/seeds.ts';
import { checkTimeStamp, readCertificates } from '../src/verify/time-stamp.ts';
import { startService, type TestService } from './support/service.ts';
import { startAuthority, withoutOpenssl } from './support/time-stamp-authority.ts';
import { startWitness } from './support/witness.ts';

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'sealog-test-anchors-'));
  onTestFinished(() => rm(path, { recursive: true, force: true }));
  return path;
}

function event(id: string) {
  return {
    id,
    category: 'system_operation',
    action: 'service.restart',
    outcome: 'success',
    occurredAt: '2026-01-01T10:00:00Z',
    source: { service: 'test' },
  };
}

async function until<T>(look: () => Promise<T | undefined>, what: string): Promise<T> {
  const end = performance.now() + 20_000;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not within 20 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

interface Row {
  id: number;
  anchor: string;
  kind: string;
  size: number;
  note: string;
  evidence: Buffer;
  certificates: Buffer[];
  crls: Buffer[];
  leaves: string;
}

async function evidence(service: TestService, anchor: string): Promise<Row[]> {
  const { rows } = await service.adminPool.query<Row>(
    `SELECT e.id::integer, e.anchor, e.kind, e.size::integer, e.note, e.evidence, e.certificates, e.crls,
            (SELECT count(*) FROM sealog.anchor_leaf AS l WHERE l.evidence = e.id) AS leaves
     FROM sealog.outside_evidence AS e WHERE e.anchor = $1 ORDER BY e.id`,
    [anchor],
  );
  return rows;
}

test.skipIf(withoutOpenssl !== undefined && process.env['CI'] === undefined)(
  'every anchor has what was signed, each tried until it is done, and a later tick has the time stamps',
  async () => {
    const path = await folder();
    const worm = await folder();
    const authority = await startAuthority();
    onTestFinished(() => authority.stop());
    const witness = await startWitness({});
    onTestFinished(() => witness.close());
    authority.behaviour = 'refuse';
    witness.behaviour = 500;
    await writeFile(join(path, 'ca.pem'), authority.caPem);
    await writeFile(
      join(path, 'anchors.json'),
      JSON.stringify({
        anchors: [
          { name: 'tsa', type: 'rfc3161', url: authority.url, trust: 'ca.pem', everySeconds: 1 },
          { name: 'worm', type: 'folder', path: worm, everySeconds: 1 },
          { name: 'witness', type: 'witness', url: witness.url, vkey: witness.vkey, everySeconds: 1 },
        ],
      }),
    );
    const service = await startService({
      environment: {
        SEALOG_ANCHORS_FILE: join(path, 'anchors.json'),
        SEALOG_ANCHOR_SECONDS: '1',
        SEALOG_ALLOW_ADDRESSES: '127.0.0.0/8',
      },
    });
    onTestFinished(() => service.stop());
    const seed = Buffer.from((await readFile(join(service.config.signerDir!, 'seed-0001'), 'utf8')).trim(), 'hex');
    const anchorKey = new SigningKeys(seed).signer('log.example/sealog/anchor').vkey;
    witness.know(anchorKey);

    expect((await service.post('/v1/events', event('one'))).status).toBe(201);
    await until(async () => ((await evidence(service, 'worm')).length > 0 ? true : undefined), 'the folder');
    // The others are away, and nobody waits for them.
    expect(await evidence(service, 'tsa')).toEqual([]);
    expect((await service.post('/v1/events', event('two'))).status).toBe(201);
    expect((await service.get('/readyz')).status).toBe(200);
    authority.behaviour = 'good';
    witness.behaviour = 'honest';

    const [token] = await until(async () => {
      const rows = await evidence(service, 'tsa');
      return rows.length > 0 ? rows : undefined;
    }, 'the authority');
    const textOf = (note: string) => note.slice(0, note.lastIndexOf('\n\n') + 1);
    const checked = await checkTimeStamp({
      token: token!.evidence,
      imprint: sha256(textOf(token!.note)),
      trusted: readCertificates(authority.caPem),
      certificates: token!.certificates,
      crls: token!.crls,
    });
    expect(checked.kind).toBe('good');

    const [line] = await until(async () => {
      const rows = await evidence(service, 'witness');
      return rows.length > 0 ? rows : undefined;
    }, 'the witness');
    expect(checkCosignature(line!.evidence.toString(), textOf(line!.note), witness.vkey).time).toBeGreaterThan(0);
    expect(witness.sizeOf('log.example/sealog/anchor')).toBeGreaterThan(0);

    const files = (await readdir(worm, { recursive: true })).filter((name) => name.endsWith('.checkpoint'));
    expect(files.length).toBeGreaterThan(0);
    expect(await readFile(join(worm, files.sort()[0]!), 'utf8')).toContain('log.example/sealog/anchor\n1\n');

    // Each time stamp is under the next tick, and so under the next stamp.
    await service.post('/v1/events', event('three'));
    await until(
      async () => ((await evidence(service, 'tsa'))[0]?.leaves === '1' ? true : undefined),
      'a leaf of the token',
    );
    await until(async () => ((await evidence(service, 'tsa')).length > 1 ? true : undefined), 'a stamp over the stamp');
    await service.checkLog();
  },
  60_000,
);
