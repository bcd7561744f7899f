/** Every cell of routes × roles, against a file that was written by hand and that the code does not read: test/access-matrix.txt. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Permission, permissionsOf, ROLES, type Role } from '../src/auth/roles.ts';
import { signToken } from '../src/auth/tokens.ts';
import { withRolesTable } from '../tools/roles-table.ts';
import { startService, type TestService } from './support/service.ts';

interface Row {
  readonly method: string;
  /** As Fastify writes it, with an example in place of `*`, and a query where one is needed. */
  readonly path: string;
  readonly answer: number;
  /** Column → whether it is let in. */
  readonly cells: ReadonlyMap<string, boolean>;
}

/** Section → its rows. */
function readMatrix(): Map<string, Row[]> {
  const sections = new Map<string, Row[]>();
  let rows: Row[] = [];
  let columns: string[] = [];
  for (const line of readFileSync(new URL('./access-matrix.txt', import.meta.url), 'utf8').split('\n')) {
    if (line.startsWith('#') || line.trim() === '') continue;
    if (line.startsWith('in ')) {
      rows = [];
      sections.set(line.trim(), rows);
      continue;
    }
    const [method, path, answer, ...cells] = line.trim().split(/\s+/) as [string, string, string, ...string[]];
    if (method === 'method') {
      columns = cells;
      continue;
    }
    expect(cells, line).toHaveLength(columns.length);
    for (const cell of cells) expect(['+', '.'], line).toContain(cell);
    rows.push({
      ...{ method, path, answer: Number(answer) },
      cells: new Map(columns.map((column, index) => [column, cells[index] === '+'])),
    });
  }
  return sections;
}

const MATRIX = readMatrix();
const TENANT_OF: Readonly<Record<string, string>> = { 'in a tenant': 'acme', 'in the deployment': 'sealog' };
const UUID = '0b0f5f6e-3f0a-4b0e-9d5e-2f6a1c3d4e5f';
const STRANGER = 'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE';

let service: TestService;
/** Of each section, column → the text of its credential. */
const credentials = new Map<string, Map<string, string | null>>();

beforeAll(async () => {
  service = await startService();
  const { tokens } = service;
  const sign = (tenant: string, roles: readonly string[], sites?: readonly string[]) =>
    signToken(tokens, {
      tenant,
      roles,
      subject: `matrix-${roles[0]}`,
      ttlSeconds: 3600,
      ...(sites === undefined ? {} : { sites }),
    });
  for (const [section, rows] of MATRIX) {
    const tenant = TENANT_OF[section]!;
    const named = new Map<string, string | null>([
      ['none', null],
      ['bad', STRANGER],
      ['xx', await sign(tenant, ['administrator'])],
      ['pm', await sign(tenant, ['plant_manager'], ['plant-7'])],
      ['pm0', await sign(tenant, ['plant_manager'])],
      ['au1', await sign(tenant, ['auditor'], ['plant-7'])],
    ]);
    for (const column of rows[0]!.cells.keys()) {
      if (column in ROLES) named.set(column, await sign(tenant, [column]));
    }
    credentials.set(section, named);
  }
  const admin = { token: await sign('acme', ['it_security_admin']) };
  for (const [column, scope] of Object.entries({ key: {}, key1: { sites: ['plant-7'] } })) {
    const { status, body } = await service.post('/v1/api-keys', { name: column, ...scope }, admin);
    expect(status, JSON.stringify(body)).toBe(201);
    credentials.get('in a tenant')!.set(column, body.key);
  }
});

afterAll(() => service.stop());

/** Returns the path with something in place of its parameters that is nowhere. */
function address(path: string, tenant: string): string {
  return path
    .replace(':tenant', tenant)
    .replace(':category', tenant === 'sealog' ? 'data_modification' : 'system_operation')
    .replace(':epoch', 'e2')
    .replace(':name', 'nobody')
    .replace(':id', path.startsWith('/v1/api-keys') ? '0123456789abcdef' : UUID);
}

/** A body that gets as far as a row without harm. */
function bodyOf(path: string): string {
  if (path === '/v1/verifications') return '[]';
  return /\/(approve|close|reopen)$/.test(path) ? '{"reason":"a matrix"}' : '{}';
}

async function ask(method: string, path: string, credential: string | null): Promise<number> {
  const body = method === 'GET' || method === 'HEAD' ? undefined : bodyOf(path);
  const response = await fetch(`${service.url}${path}`, {
    method,
    headers: {
      ...(credential === null ? {} : { authorization: `Bearer ${credential}` }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body }),
  });
  await response.arrayBuffer();
  return response.status;
}

describe.each([...MATRIX])('%s', (section, rows) => {
  const tenant = TENANT_OF[section]!;

  test.each(rows)('$method $path', async ({ method, path, answer, cells }) => {
    const got: Record<string, number> = {};
    const wanted: Record<string, number> = {};
    for (const [column, isIn] of cells) {
      wanted[column] = isIn ? answer : column === 'none' || column === 'bad' ? 401 : 403;
      got[column] = await ask(method, address(path, tenant), credentials.get(section)!.get(column)!);
    }
    expect(got).toEqual(wanted);
  });

  test('has every route, and nothing that is no route', () => {
    const inFile = new Set(
      rows.map(({ method, path }) => `${method} ${path.split('?')[0]!.replace(/\/tile\/.*/, '/tile/*')}`),
    );
    const added = new Set(service.app.server.registeredRoutes.map(({ method, path }) => `${method} ${path}`));
    expect([...inFile].sort()).toEqual([...added].sort());
  });

  test('has every role', () => {
    const columns = new Set(rows[0]!.cells.keys());
    const missing = Object.keys(ROLES).filter((role) => role !== 'plant_manager' && !columns.has(role));
    expect(missing).toEqual([]);
    expect(columns).toContain('pm');
  });
});

test('every other method of every address is refused, whoever asks', async () => {
  const routes = service.app.server.registeredRoutes;
  const paths = new Set(routes.map(({ path }) => path));
  for (const path of paths) {
    const known = new Set(routes.filter((route) => route.path === path).map(({ method }) => method));
    for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND']) {
      const url = address(path.replace('*', '0/000'), 'acme');
      // What is a parameter for one route is the name of another.
      if (known.has(method) || service.app.server.findRoute({ method: method as 'GET', url }) !== null) continue;
      for (const credential of [null, credentials.get('in a tenant')!.get('auditor')!]) {
        const status = await ask(method, url, credential);
        expect([404, 405], `${method} ${path}`).toContain(status);
      }
    }
  }
});

test('several roles may what each of them may, and no more', () => {
  const roles = Object.keys(ROLES) as Role[];
  for (const tenant of ['acme', 'sealog']) {
    for (const sites of [undefined, ['plant-7']]) {
      for (const one of roles)
        for (const other of roles) {
          const both = permissionsOf([one, other], tenant, sites);
          const apart = new Set<Permission>([
            ...permissionsOf([one], tenant, sites),
            ...permissionsOf([other], tenant, sites),
          ]);
          expect([...both].sort()).toEqual([...apart].sort());
        }
    }
  }
});

test('docs/access.md shows the roles as they are (npm run roles)', () => {
  const page = readFileSync(new URL('../docs/access.md', import.meta.url), 'utf8');
  expect(page).toBe(withRolesTable(page));
});
