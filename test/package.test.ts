/** The archive for machines without a network: what is in it, that it installs and upgrades without npm or a registry, and what it refuses. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, cp, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type Arch, pack, stage } from '../tools/package.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
const REPOSITORY = join(import.meta.dirname, '..');
const run = promisify(execFile);

/** In a network of its own, which has nothing, where this user may make one. */
const alone = await run('unshare', ['-n', 'true']).then(
  () => ['unshare', '-n'],
  () => [],
);

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'sealog-test-package-'));
  onTestFinished(() => rm(path, { recursive: true, force: true }));
  return path;
}

async function install(
  archive: string,
  prefix: string,
  into: string,
): Promise<{ code: number; out: string; err: string }> {
  await mkdir(into, { recursive: true });
  await run('tar', ['-xzf', archive, '-C', into]);
  const [name] = await readdir(into);
  return installFrom(join(into, name!), prefix);
}

async function installFrom(unpacked: string, prefix: string): Promise<{ code: number; out: string; err: string }> {
  const [command, ...args] = [...alone, join(unpacked, 'install'), '--prefix', prefix, '--no-service'];
  // Nothing of npm's, and nothing but the system's own programs.
  const env = { PATH: '/usr/bin:/bin' };
  return run(command!, args, { env }).then(
    ({ stdout, stderr }) => ({ code: 0, out: stdout, err: stderr }),
    ({ code, stdout, stderr }) => ({ code, out: stdout, err: stderr }),
  );
}

async function setVersion(folder: string, version: string): Promise<void> {
  const about = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'));
  await writeFile(join(folder, 'package.json'), JSON.stringify({ ...about, version }));
}

describe('the installer', () => {
  /** Everything but the packages. */
  async function small(place: string): Promise<string> {
    const staged = join(place, 'staged');
    for (const path of ['bin', 'deploy', 'package.json'])
      await cp(join(REPOSITORY, path), join(staged, path), { recursive: true });
    await cp(join(REPOSITORY, 'deploy/install'), join(staged, 'install'));
    await mkdir(join(staged, 'node_modules/.bin'), { recursive: true });
    await symlink(process.execPath, join(staged, 'node_modules/.bin/node'));
    return staged;
  }

  test('puts each version beside the one before, and changes over in one step', async () => {
    const place = await folder();
    const staged = await small(place);
    const prefix = join(place, 'opt');
    const first = await pack(staged, place, 'x64');
    expect(await install(first, prefix, join(place, 'a'))).toMatchObject({ code: 0 });
    expect(await readlink(join(prefix, 'current'))).toBe('releases/0.1.0');
    // The same bytes from the same files.
    const bytes = await readFile(first);
    expect((await readFile(await pack(staged, join(place, 'again'), 'x64'))).equals(bytes)).toBe(true);

    await setVersion(staged, '0.2.0');
    const second = await pack(staged, place, 'x64');
    const upgraded = await install(second, prefix, join(place, 'b'));
    expect(upgraded).toMatchObject({ code: 0, out: expect.stringContaining('version 0.2.0, and was 0.1.0') });
    expect(await readlink(join(prefix, 'current'))).toBe('releases/0.2.0');
    expect((await readdir(join(prefix, 'releases'))).sort()).toEqual(['0.1.0', '0.2.0']);
    // Once more is no harm; a version that is something else is refused.
    expect(await install(second, prefix, join(place, 'c'))).toMatchObject({ code: 0 });
    await appendFile(join(staged, 'bin/sealog'), '# other\n');
    const other = await install(await pack(staged, place, 'x64'), prefix, join(place, 'd'));
    expect(other).toMatchObject({ code: 1, err: expect.stringContaining('is something else') });
  });

  test('refuses files that are not those of the archive, and leaves what is installed as it is', async () => {
    const place = await folder();
    const staged = await small(place);
    const prefix = join(place, 'opt');
    await install(await pack(staged, place, 'x64'), prefix, join(place, 'a'));
    await setVersion(staged, '0.2.0');
    const archive = await pack(staged, place, 'x64');
    for (const [name, damage] of [
      ['changed', (at: string) => appendFile(join(at, 'bin/sealog'), '#\n')],
      ['missing', (at: string) => rm(join(at, 'bin/sealog'))],
      ['unsigned for', (at: string) => rm(join(at, 'SHA256SUMS'))],
      ['of another machine', (at: string) => rm(join(at, 'node_modules'), { recursive: true })],
    ] as const) {
      const into = join(place, name);
      await mkdir(into);
      await run('tar', ['-xzf', archive, '-C', into]);
      const unpacked = join(into, (await readdir(into))[0]!);
      await damage(unpacked);
      expect(await installFrom(unpacked, prefix), name).toMatchObject({
        code: 1,
        err: expect.stringMatching(/^install: /m),
      });
      expect(await readlink(join(prefix, 'current'))).toBe('releases/0.1.0');
      expect(await readdir(join(prefix, 'releases'))).toEqual(['0.1.0']);
    }
  });
});

// A minute and 500 MB; it asks npm's cache, or a registry, for what the lockfile names.
describe.skipIf(!HARD)('the archive', () => {
  test('installs, runs and upgrades where there is no registry, and keeps the log', async () => {
    const place = await folder();
    const staged = join(place, 'staged');
    const arch = process.arch as Arch;
    await stage(staged, { root: REPOSITORY, arch, isOffline: false });
    const first = await pack(staged, place, arch);
    await setVersion(staged, '0.2.0');
    await writeFile(join(staged, 'migrations/9999_upgrade.sql'), '-- Nothing.\nSELECT 1;\n');
    const second = await pack(staged, place, arch);
    await rm(staged, { recursive: true });

    const prefix = join(place, 'opt');
    const sealog = join(prefix, 'current/bin/sealog');
    const env = {
      ...PROGRAM_ENVIRONMENT,
      // Whoever asked a registry would find nobody there.
      ...{ PATH: '/usr/bin:/bin', npm_config_registry: 'http://127.0.0.1:9' },
      ...{ SEALOG_DATA_DIR: join(place, 'data'), SEALOG_LOG_LEVEL: 'error' },
    };
    const event = (id: string) => ({
      ...{ id, category: 'user_authentication', action: 'user.login', outcome: 'success', source: { service: 'test' } },
      ...{ occurredAt: '2026-01-01T10:00:00Z', actor: { type: 'user', id: 'u-1' } },
    });
    /** Starts the installed service, sends events, and stops it. */
    const serveAndSend = async (ids: readonly string[]): Promise<number[]> => {
      const child = spawn(sealog, ['serve'], {
        env: { ...env, SEALOG_PORT: '0' },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const ended = once(child, 'exit');
      let said = '';
      for await (const chunk of child.stdout.setEncoding('utf8')) {
        said += chunk;
        if (/http:\/\/127\.0\.0\.1:\d+/.test(said)) break;
      }
      const url = /http:\/\/127\.0\.0\.1:\d+/.exec(said)![0];
      const token = (await run(sealog, ['token', '--role', 'service', '--tenant', 'acme'], { env })).stdout.trim();
      const statuses: number[] = [];
      for (const id of ids) {
        const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
        statuses.push(
          (await fetch(`${url}/v1/events`, { method: 'POST', headers, body: JSON.stringify(event(id)) })).status,
        );
      }
      child.kill('SIGTERM');
      expect((await ended)[0]).toBe(0);
      return statuses;
    };

    expect(await install(first, prefix, join(place, 'a'))).toMatchObject({ code: 0 });
    const node = await run(join(prefix, 'current/node_modules/.bin/node'), ['--version']);
    expect(node.stdout.trim()).toBe(process.version);
    expect(await serveAndSend(['one', 'two'])).toEqual([201, 201]);
    expect(await install(second, prefix, join(place, 'b'))).toMatchObject({ code: 0 });
    // What was sent before finds its receipt.
    expect(await serveAndSend(['one', 'three'])).toEqual([200, 201]);
    const verified = run(sealog, ['verify', '--database'], { env });
    await expect(verified).rejects.toMatchObject({ code: 2, stdout: expect.stringMatching(/^not_provable: /m) });
    // The version before refuses what the newer one made of the schema.
    await run('ln', ['-sfn', 'releases/0.1.0', join(prefix, 'current')]);
    const back = run(sealog, ['serve'], { env: { ...env, SEALOG_PORT: '0' } });
    await expect(back).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('is newer than this version'),
    });
  }, 300_000);
});
