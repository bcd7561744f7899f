/** Rules of this repository that no linter knows: who imports whom, where SQL and the environment are, what documents promise. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { pino } from 'pino';
import { describe, expect, onTestFinished, test } from 'vitest';
import { createApp } from '../src/app.ts';
import { readConfig } from '../src/config.ts';
import { declaredOperations } from '../src/http/api-schema.ts';
import { migrate } from '../src/store/migrate.ts';
import { createDatabase } from './support/postgres.ts';

const REPOSITORY = join(import.meta.dirname, '..');
const NOT_OURS = new Set(['node_modules', '.git', 'data', 'coverage', 'dist', 'secrets', 'package-lock.json']);

/** All files of the repository, relative to it. */
const files = readdirSync(REPOSITORY, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => relative(REPOSITORY, join(entry.parentPath, entry.name)))
  .filter((path) => !NOT_OURS.has(path.split('/')[0]!) && !path.includes('node_modules/') && !path.endsWith('.log'));
const sources = files.filter((path) => path.startsWith('src/') && path.endsWith('.ts'));

function textOf(path: string): string {
  return readFileSync(join(REPOSITORY, path), 'utf8');
}

interface Import {
  readonly from: string;
  /** A path in the repository, or a package. */
  readonly to: string;
  readonly typeOnly: boolean;
}

/** Import and export declarations, and `import()` of a literal. */
function importsOf(path: string): Import[] {
  const text = textOf(path);
  const declared = [...text.matchAll(/^(?:import|export)\s+(type\s+)?(?:[^'";]*?\sfrom\s+)?'([^']+)';/gm)];
  const dynamic = [...text.matchAll(/\bimport\('([^']+)'\)/g)];
  return [
    ...declared.map(([, type, to]) => ({ to: to!, typeOnly: type !== undefined })),
    ...dynamic.map(([, to]) => ({ to: to!, typeOnly: false })),
  ].map(({ to, typeOnly }) => ({
    from: path,
    to: to.startsWith('.') ? relative(REPOSITORY, join(REPOSITORY, dirname(path), to)) : to,
    typeOnly,
  }));
}

const imports = sources.flatMap(importsOf);

/** The first folder below src, or the file itself: `chain`, `app.ts`. */
function station(path: string): string {
  return path.split('/')[1]!;
}

describe('imports', () => {
  /**
   * Whom each station may import, beside itself and errors.ts. The features (ingest, read, retention, export, auth) know nothing of each
   * other; what joins them is in app.ts.
   */
  const MAY: Readonly<Record<string, readonly string[]>> = {
    'errors.ts': [],
    'config.ts': ['auth', 'chain', 'http', 'keys'],
    chain: [],
    verify: ['chain'],
    store: ['chain', 'verify'],
    keys: ['chain', 'http'],
    http: ['chain'],
    auth: ['chain', 'http'],
    access: ['chain', 'http', 'store'],
    ingest: ['chain', 'http'],
    read: ['chain', 'http', 'store'],
    proof: ['chain', 'http', 'store'],
    retention: ['chain', 'http', 'store', 'verify'],
    anchor: ['chain', 'http', 'store', 'verify'],
    verification: ['chain', 'http', 'keys', 'store', 'verify'],
    export: ['chain', 'http', 'keys', 'store'],
    signer: ['chain', 'keys', 'store'],
    backup: ['chain', 'store'],
    'app.ts': [
      'access',
      'anchor',
      'auth',
      'chain',
      'config.ts',
      'export',
      'http',
      'ingest',
      'keys',
      'proof',
      'read',
      'retention',
      'signer',
      'store',
      'verification',
    ],
    cli: [
      'anchor',
      'app.ts',
      'auth',
      'backup',
      'chain',
      'config.ts',
      'ingest',
      'keys',
      'retention',
      'signer',
      'store',
      'verify',
    ],
  };

  test('are found', () => {
    expect(imports.length).toBeGreaterThan(200);
    expect(imports).toContainEqual({ from: 'src/app.ts', to: 'src/store/database.ts', typeOnly: false });
    expect(imports).toContainEqual({ from: 'src/chain/block.ts', to: 'node:zlib', typeOnly: false });
    expect(imports).toContainEqual({ from: 'src/cli/main.ts', to: 'src/cli/serve.ts', typeOnly: false });
    expect(imports.some((one) => one.typeOnly)).toBe(true);
  });

  test('go one way only', () => {
    const wrong = imports.filter(({ from, to }) => {
      if (!to.startsWith('src/')) return to.startsWith('.') || /^(test|bench|simulate)\//.test(to);
      const allowed = ['errors.ts', station(from), ...(MAY[station(from)] ?? [])];
      return !allowed.includes(station(to));
    });
    expect(wrong).toEqual([]);
  });

  test('of the store into the verification library end at what that reads from', () => {
    const reached = imports.filter(({ from, to }) => station(from) === 'store' && station(to) === 'verify');
    expect([...new Set(reached.map(({ to }) => to))].sort()).toEqual([
      'src/verify/log-source.ts',
      'src/verify/log-wide-source.ts',
    ]);
  });

  test('lead to files that are there, and never round in a circle', () => {
    const next = new Map(sources.map((path) => [path, [] as string[]]));
    for (const { from, to, typeOnly } of imports) {
      if (!to.startsWith('src/')) continue;
      expect(existsSync(join(REPOSITORY, to)), `${from} imports ${to}`).toBe(true);
      if (!typeOnly) next.get(from)?.push(to);
    }
    const done = new Set<string>();
    const circles: string[] = [];
    const walk = (path: string, way: readonly string[]): void => {
      if (way.includes(path)) circles.push([...way.slice(way.indexOf(path)), path].join(' → '));
      if (way.includes(path) || done.has(path)) return;
      for (const to of next.get(path) ?? []) walk(to, [...way, path]);
      done.add(path);
    };
    for (const path of sources) walk(path, []);
    expect(circles).toEqual([]);
  });

  test('of packages: what an auditor must trust needs next to none', () => {
    const packages = (folder: string) =>
      new Set(
        imports
          .filter(
            ({ from, to, typeOnly }) =>
              station(from) === folder && !to.startsWith('src/') && !to.startsWith('node:') && !typeOnly,
          )
          .map(({ to }) => to.split('/').slice(0, 2).join('/')),
      );
    expect(['@noble/hashes']).toEqual(expect.arrayContaining([...packages('chain')]));
    // CMS and X.509 are nobody's own work: one file has them.
    expect([...packages('verify')].sort()).toEqual(['asn1js', 'pkijs']);
    const users = imports.filter(({ from, to }) => station(from) === 'verify' && ['asn1js', 'pkijs'].includes(to));
    expect([...new Set(users.map(({ from }) => from))]).toEqual(['src/verify/time-stamp.ts']);
  });
});

describe('sources', () => {
  test('formats and verification have no clock of their own', () => {
    const wrong = sources.filter(
      (path) => /^src\/(chain|verify)\//.test(path) && /\bDate\.now\(\)|new Date\(\)/.test(textOf(path)),
    );
    expect(wrong).toEqual([]);
  });

  test('only the configuration reads the environment; the command hands it over', () => {
    const wrong = sources.flatMap((path) =>
      textOf(path)
        .split('\n')
        .filter((line) => /process\.env\b/.test(line))
        .filter(
          (line) =>
            path !== 'src/config.ts' && !(path.startsWith('src/cli/') && /\bread\w+\(process\.env\)/.test(line)),
        )
        .map((line) => `${path}: ${line.trim()}`),
    );
    expect(wrong).toEqual([]);
  });

  test('SQL is in the store', () => {
    const statement =
      /\b(SELECT\b[^'"]*\bFROM|INSERT INTO|DELETE FROM|UPDATE \w[\w.]* SET|TRUNCATE|ALTER TABLE|CREATE TABLE)\b/;
    const builder = /\bsql`|\.(selectFrom|insertInto|updateTable|deleteFrom)\(|\.query\(/;
    const wrong = sources.filter(
      (path) => !path.startsWith('src/store/') && (statement.test(textOf(path)) || builder.test(textOf(path))),
    );
    expect(wrong).toEqual([]);
    const drivers = imports.filter(
      ({ from, to, typeOnly }) => /^(pg|kysely)($|\/)/.test(to) && !typeOnly && station(from) !== 'store',
    );
    expect(drivers).toEqual([]);
  });

  test('each says what it is: a comment at its head, or one on what it exports', () => {
    const wrong = sources.filter((path) => {
      const text = textOf(path).replace(/^\/\/ biome-ignore.*\n/, '');
      return !text.startsWith('/**') && !/\*\/\nexport /.test(text);
    });
    expect(wrong).toEqual([]);
  });

  test('files are nouns in kebab-case', () => {
    const wrong = files.filter(
      (path) =>
        /\.(ts|sql)$/.test(path) &&
        !/^[a-z0-9-]+(\.[a-z0-9-]+)*\.(ts|sql)$/.test(basename(path).replace(/^\d+_/, '').replaceAll('_', '-')),
    );
    expect(wrong).toEqual([]);
  });
});

describe('the repository', () => {
  test('holds no path of the machine that it lies on', () => {
    const parent = dirname(REPOSITORY);
    const common = ['/', '/tmp', '/home', '/root', '/srv', '/opt', '/usr', '/var', '/app', '/src'];
    const paths = [REPOSITORY, ...(common.includes(parent) ? [] : [`${parent}/`])];
    expect(files.filter((path) => paths.some((one) => textOf(path).includes(one)))).toEqual([]);
  });

  test('pins every package exactly', () => {
    const about = JSON.parse(textOf('package.json')) as Record<string, Record<string, string> | undefined>;
    const versions = ['dependencies', 'optionalDependencies', 'devDependencies'].flatMap((kind) =>
      Object.entries(about[kind] ?? {}),
    );
    expect(versions.length).toBeGreaterThan(10);
    expect(versions.filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version))).toEqual([]);
  });

  test('has no link in its pages that leads nowhere', () => {
    const broken = files
      .filter((path) => path.endsWith('.md'))
      .flatMap((path) =>
        [...textOf(path).matchAll(/\]\(([^)\s]+)\)/g)]
          .map(([, target]) => target!)
          .filter((target) => !/^(https?:|mailto:|#)/.test(target))
          .filter((target) => !existsSync(join(REPOSITORY, dirname(path), target.split('#')[0]!)))
          .map((target) => `${path}: ${target}`),
      );
    expect(broken).toEqual([]);
  });

  test('names in its pages no source, page or command that is not there', () => {
    const pages = files.filter((path) => path.endsWith('.md'));
    const gone = pages.flatMap((path) =>
      [...textOf(path).matchAll(/`((?:src|test|bench|simulate|tools|docs|migrations|bin)\/[\w./-]*\w)`/g)]
        .map(([, named]) => named!)
        .filter((named) => !existsSync(join(REPOSITORY, named)))
        .map((named) => `${path}: ${named}`),
    );
    expect(gone).toEqual([]);
    const { scripts } = JSON.parse(textOf('package.json')) as { scripts: Record<string, string> };
    const commands = pages.flatMap((path) =>
      [...textOf(path).matchAll(/npm run (?:-s )?([\w:-]+)/g)]
        .filter(([, name]) => scripts[name!] === undefined)
        .map(([all]) => `${path}: ${all}`),
    );
    expect(commands).toEqual([]);
  });

  test('tells a newcomer the two commands, each on a line of its own', () => {
    const lines = textOf('README.md').split('\n');
    expect(lines).toContain('npm ci && npm start');
    expect(lines).toContain('npm ci && npm test');
  });
});

describe('the service', () => {
  test('has exactly the routes of openapi.yaml, with their permissions and bodies', async () => {
    const database = await createDatabase();
    const keys = await mkdtemp(join(tmpdir(), 'sealog-test-keys-'));
    onTestFinished(async () => {
      await database.drop();
      await rm(keys, { recursive: true, force: true });
    });
    await migrate(database.adminConfig, database.appRole);
    const config = readConfig({
      DATABASE_URL: database.appUrl,
      SEALOG_ORIGIN: 'log.example',
      SEALOG_MASTER_KEY: `file:${keys}`,
      SEALOG_JWT_SECRET: 's'.repeat(43),
    });
    const app = await createApp({
      config,
      connection: database.appConfig,
      tokens: { ...config.jwt, secret: 's'.repeat(43) },
      log: pino({ level: 'silent' }),
    });
    onTestFinished(() => app.close());
    await app.server.ready();
    const byPath = <T extends { readonly method: string; readonly path: string }>(routes: readonly T[]) =>
      routes
        .map((route) => ({
          ...route,
          bodyTypes: [...((route as { bodyTypes?: readonly string[] }).bodyTypes ?? [])].sort(),
        }))
        .sort((a, b) => `${a.path} ${a.method}`.localeCompare(`${b.path} ${b.method}`));
    const declared = byPath(declaredOperations()).map(({ operationId: _name, ...route }) => route);
    expect(byPath(app.server.registeredRoutes)).toEqual(declared);
  });
});
