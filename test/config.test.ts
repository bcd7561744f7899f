/** The configuration: what is read, what is refused, and that docs/configuration.md says the same. */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readConfig, readDatabaseUrl, VARIABLES } from '../src/config.ts';
import { SettingsError } from '../src/errors.ts';

const SECRET = 's'.repeat(32);
const WITH_DATABASE = {
  DATABASE_URL: 'postgresql://sealog:secret-word@db.example/sealog',
  SEALOG_MASTER_KEY: 'file:/etc/sealog/months',
  SEALOG_JWT_SECRET: SECRET,
};

/** Returns the problems that the environment has. */
function problems(environment: Record<string, string>): readonly string[] {
  try {
    readConfig(environment);
    return [];
  } catch (error) {
    expect(error).toBeInstanceOf(SettingsError);
    return (error as SettingsError).problems;
  }
}

test('a sites claim that is named must be there, unless it is said what its absence means', () => {
  const allSites = (environment: Record<string, string>) => readConfig(environment).jwt.allSites;
  expect(allSites({})).toBe('absent');
  for (const name of ['plants', 'sites']) expect(allSites({ SEALOG_JWT_SITES_CLAIM: name })).toBeUndefined();
  expect(allSites({ SEALOG_JWT_SITES_CLAIM: 'plants', SEALOG_JWT_ALL_SITES: 'absent' })).toBe('absent');
  expect(allSites({ SEALOG_JWT_ALL_SITES: '*' })).toBe('*');
  expect(() => readConfig({ SEALOG_JWT_ALL_SITES: 'x'.repeat(257) })).toThrow('SEALOG_JWT_ALL_SITES must be');
});

describe('an empty environment', () => {
  test('is the embedded mode, on this machine alone', () => {
    const config = readConfig({});
    expect(config).toMatchObject({
      databaseUrl: undefined,
      dataDir: resolve('data'),
      monthKeysDir: resolve('data/keys/months'),
      host: '127.0.0.1',
      port: 8080,
      origin: undefined,
      makeTenants: true,
      repeatDays: 30,
      logLevel: 'info',
    });
    expect(config.jwt.secret).toBeUndefined();
  });

  test('is what empty values are, too', () => {
    expect(readConfig(Object.fromEntries(VARIABLES.map((name) => [name, ''])))).toEqual(readConfig({}));
    expect(readDatabaseUrl({ DATABASE_URL: '' })).toBeUndefined();
  });

  test('may hold what is not ours', () => {
    expect(problems({ PATH: '/bin', SEALOGS: 'x', PGHOST: 'y', SEALOG_TEST_DATA: '/z' })).toEqual([]);
  });
});

test('keys are in the data folder unless they are named', () => {
  expect(readConfig({ SEALOG_DATA_DIR: '/srv/log' }).monthKeysDir).toBe('/srv/log/keys/months');
  expect(readConfig({ SEALOG_DATA_DIR: '/srv/log', SEALOG_MASTER_KEY: 'file:keys' }).monthKeysDir).toBe(
    resolve('keys'),
  );
});

test('addresses that may be called are a list, and the file of anchors is found from the working folder', () => {
  expect(readConfig({})).toMatchObject({ allowAddresses: [], anchorsFile: undefined });
  const config = readConfig({
    SEALOG_ALLOW_ADDRESSES: '127.0.0.0/8, fd00:1::/64,10.1.2.3/32',
    SEALOG_ANCHORS_FILE: 'anchors.json',
  });
  expect(config.allowAddresses).toEqual(['127.0.0.0/8', 'fd00:1::/64', '10.1.2.3/32']);
  expect(config.anchorsFile).toBe(resolve('anchors.json'));
});

test('TLS, certificates of clients, proxies and the port of metrics are off unless they are asked for', () => {
  expect(readConfig({})).toMatchObject({ tls: undefined, trustProxy: [], metrics: undefined });
  const tls = { SEALOG_TLS_CERT: 'cert.pem', SEALOG_TLS_KEY: '/etc/key.pem' };
  expect(readConfig(tls).tls).toEqual({ cert: resolve('cert.pem'), key: '/etc/key.pem', clients: undefined });
  const clients = { SEALOG_TLS_CLIENT_CA: '/etc/ca.pem', SEALOG_TLS_CLIENTS_FILE: 'clients.json' };
  expect(readConfig({ ...tls, ...clients }).tls?.clients).toEqual({ ca: '/etc/ca.pem', file: resolve('clients.json') });
  expect(readConfig({ SEALOG_TRUST_PROXY: '10.1.0.0/16, fd00::/8' }).trustProxy).toEqual(['10.1.0.0/16', 'fd00::/8']);
  expect(readConfig({ SEALOG_METRICS_PORT: '9464' }).metrics).toEqual({ host: '127.0.0.1', port: 9464 });
  const apart = { SEALOG_METRICS_PORT: '8080', SEALOG_METRICS_HOST: '10.0.0.1', SEALOG_HOST: '10.0.0.2' };
  expect(readConfig(apart).metrics).toEqual({ host: '10.0.0.1', port: 8080 });
  expect(readConfig({ SEALOG_METRICS_PORT: '0', SEALOG_PORT: '0' }).metrics?.port).toBe(0);
});

test('with DATABASE_URL nothing is made up: keys and secret are required', () => {
  expect(problems(WITH_DATABASE)).toEqual([]);
  expect(problems({ DATABASE_URL: WITH_DATABASE.DATABASE_URL })).toEqual([
    expect.stringMatching(/^SEALOG_MASTER_KEY must be set with DATABASE_URL/),
    expect.stringMatching(/^SEALOG_JWT_SECRET must be set with DATABASE_URL/),
  ]);
});

describe('tokens of an identity provider', () => {
  const { SEALOG_JWT_SECRET: _, ...others } = WITH_DATABASE;
  const WITH_PROVIDER = {
    ...others,
    SEALOG_JWT_JWKS_URL: 'https://login.example.com/keys',
    SEALOG_JWT_ISSUER: 'https://login.example.com/',
    SEALOG_JWT_AUDIENCE: 'api://sealog',
  };

  test('are an alternative to a secret, not an addition', () => {
    expect(problems(WITH_PROVIDER)).toEqual([]);
    expect(readConfig(WITH_PROVIDER).jwt).toMatchObject({
      secret: undefined,
      jwksUrl: 'https://login.example.com/keys',
      tenantMap: undefined,
      rolesMap: undefined,
    });
    expect(problems({ ...WITH_PROVIDER, SEALOG_JWT_SECRET: SECRET })).toEqual([
      expect.stringMatching(/SEALOG_JWT_SECRET and SEALOG_JWT_JWKS_URL must not both be set/),
    ]);
    const { DATABASE_URL: __, ...embedded } = WITH_PROVIDER;
    expect(problems(embedded)).toEqual([]);
  });

  test('need their issuer and audience named, and all that is wrong with them is told together', () => {
    const found = problems({
      ...others,
      SEALOG_JWT_JWKS_URL: 'http://login.example.com/keys',
      SEALOG_JWT_SITES_CLAIM: '/roles',
      SEALOG_JWT_ROLES_MAP: '{"x":"admin"}',
      SEALOG_JWT_TENANT_MAP: '{"x":"ACME"}',
    });
    expect(found).toEqual([
      expect.stringMatching(/^SEALOG_JWT_JWKS_URL must begin with https:/),
      expect.stringMatching(/^SEALOG_JWT_ISSUER must be set/),
      expect.stringMatching(/^SEALOG_JWT_AUDIENCE must be set/),
      expect.stringMatching(/SEALOG_JWT_SITES_CLAIM must be two claims/),
      expect.stringMatching(/^SEALOG_JWT_TENANT_MAP: "ACME"/),
      expect.stringMatching(/^SEALOG_JWT_ROLES_MAP: there is no role "admin"/),
    ]);
  });

  test('are translated by maps', () => {
    const { jwt } = readConfig({
      ...WITH_PROVIDER,
      SEALOG_JWT_TENANT_MAP: '{"6babcaad-604b-40ac-a9d7-9fd97c0b779f":"acme","__proto__":"sealog"}',
      SEALOG_JWT_ROLES_MAP: '{"Plant Managers":"plant_manager","IT":"it_security_admin"}',
    });
    expect([...(jwt.tenantMap ?? [])]).toEqual([
      ['6babcaad-604b-40ac-a9d7-9fd97c0b779f', 'acme'],
      ['__proto__', 'sealog'],
    ]);
    expect(jwt.rolesMap?.get('IT')).toBe('it_security_admin');
  });

  test.each([
    'x',
    '[]',
    '{}',
    'null',
    '{"a":1}',
    '{"a":["b"]}',
    '{"":"acme"}',
    '{"a":"acme","a":"umbrella"}',
    '{"a":"b"',
  ])('are not translated by %s', (value) => {
    expect(problems({ ...WITH_PROVIDER, SEALOG_JWT_TENANT_MAP: value })).toEqual([
      expect.stringMatching(/^SEALOG_JWT_TENANT_MAP must be a JSON object/),
    ]);
  });
});

test.each<[string, string, string, Record<string, string>?]>([
  ['DATABASE_URL', 'mysql://x', 'must begin with postgres:// or postgresql://'],
  ['SEALOG_PORT', '65536', 'must be an integer from 0 to 65535'],
  ['SEALOG_PORT', '80 ', 'must be an integer'],
  ['SEALOG_PORT', '0x50', 'must be an integer'],
  ['SEALOG_PORT', '1e3', 'must be an integer'],
  ['SEALOG_PORT', '-1', 'must be an integer'],
  ['SEALOG_ORIGIN', 'Audit.example.com', 'must be a name'],
  ['SEALOG_ORIGIN', 'audit.example.com/', 'must be a name'],
  ['SEALOG_ORIGIN', 'audit example', 'must be a name'],
  ['SEALOG_ORIGIN', 'audit+example', 'must be a name'],
  ['SEALOG_MASTER_KEY', '/etc/keys', 'must begin with file:'],
  ['SEALOG_MASTER_KEY', 'file:', 'must begin with file:'],
  ['SEALOG_MASTER_KEY', 'vault:https://vault.example', 'needs SEALOG_MASTER_KEY_SECRET_FILE'],
  [
    'SEALOG_MASTER_KEY_SECRET_FILE',
    '/run/secret',
    'SEALOG_MASTER_KEY is a folder, which needs no SEALOG_MASTER_KEY_SECRET_FILE',
  ],
  ['SEALOG_KEY_CACHE_HOURS', '0', 'must be an integer from 1 to 168'],
  ['SEALOG_KEY_ROTATION_DAYS', '-1', 'must be an integer from 0'],
  ['SEALOG_JWT_SECRET', 's'.repeat(31), 'must have at least 32 bytes'],
  ['SEALOG_TENANTS', 'maybe', 'must be one of open, closed'],
  ['SEALOG_LOG_LEVEL', 'loud', 'must be one of trace,'],
  ['SEALOG_EVENT_BYTES_MAX', '1023', 'must be an integer from 1024'],
  ['SEALOG_REPEAT_DAYS', '29', 'must be an integer from 30 to 366'],
  [
    'SEALOG_EVENT_BYTES_MAX',
    '2000000',
    'must not be more than SEALOG_BATCH_BYTES_MAX',
    { SEALOG_BATCH_BYTES_MAX: '1000000' },
  ],
  ['SEALOG_BODY_BUDGET_BYTES', '40000000', 'must be at least three times SEALOG_BATCH_BYTES_MAX'],
  ['SEALOG_JWT_ROLES_CLAIM', 'tenant', 'must be two claims'],
  ['SEALOG_JWT_ROLES_CLAIM', '/a~b', "must be a claim's name"],
  ['SEALOG_ALLOW_ADDRESSES', '10.0.0.1', '"10.0.0.1" is no CIDR'],
  ['SEALOG_ALLOW_ADDRESSES', '10.0.0.0/8,', '"" is no CIDR'],
  ['SEALOG_ALLOW_ADDRESSES', 'db.example/8', 'is no CIDR'],
  ['SEALOG_ALLOW_ADDRESSES', '10.1.2.3/8', 'has bits set behind its prefix'],
  ['SEALOG_TRUST_PROXY', '*', '"*" is no CIDR'],
  ['SEALOG_TRUST_PROXY', 'true', '"true" is no CIDR'],
  ['SEALOG_TRUST_PROXY', '1', '"1" is no CIDR'],
  ['SEALOG_TRUST_PROXY', 'loopback', '"loopback" is no CIDR'],
  ['SEALOG_TRUST_PROXY', '10.0.0.1', '"10.0.0.1" is no CIDR'],
  ['SEALOG_TRUST_PROXY', '10.0.0.0/8,0.0.0.0/0', '"0.0.0.0/0" would believe everybody'],
  ['SEALOG_TRUST_PROXY', '::/0', '"::/0" would believe everybody'],
  ['SEALOG_TLS_CERT', 'cert.pem', 'SEALOG_TLS_KEY must be set'],
  ['SEALOG_TLS_KEY', 'key.pem', 'SEALOG_TLS_CERT must be set'],
  [
    'SEALOG_TLS_CLIENT_CA',
    'ca.pem',
    'SEALOG_TLS_CLIENTS_FILE must be set',
    { SEALOG_TLS_CERT: 'c', SEALOG_TLS_KEY: 'k' },
  ],
  [
    'SEALOG_TLS_CLIENTS_FILE',
    'c.json',
    'SEALOG_TLS_CLIENT_CA must be set',
    { SEALOG_TLS_CERT: 'c', SEALOG_TLS_KEY: 'k' },
  ],
  ['SEALOG_TLS_CLIENT_CA', 'ca.pem', 'needs SEALOG_TLS_CERT and SEALOG_TLS_KEY', { SEALOG_TLS_CLIENTS_FILE: 'c.json' }],
  ['SEALOG_METRICS_PORT', '65536', 'must be an integer'],
  ['SEALOG_METRICS_PORT', '8080', 'must be another port than SEALOG_PORT'],
  ['SEALOG_METRICS_HOST', '10.0.0.1', 'needs SEALOG_METRICS_PORT'],
  ['SEALOG_JWKS_URL', 'https://x', 'is not a setting of Sealog'],
])('%s = %s is refused', (name, value, reason, more = {}) => {
  const found = problems({ ...WITH_DATABASE, ...more, [name]: value });
  expect(found).toEqual([expect.stringContaining(reason)]);
  expect(found[0]).toContain(name);
});

test('all problems come together, and none repeats a secret', () => {
  const found = problems({
    DATABASE_URL: 'http://sealog:secret-word@db',
    SEALOG_JWT_SECRET: 'too-short',
    SEALOG_PORT: 'x',
    SEALOG_HOTS: '0.0.0.0',
    SEALOG_TENANTS: 'x',
  });
  expect(found).toHaveLength(6);
  expect(found.join(' ')).not.toMatch(/secret-word|too-short/);
});

describe('docs/configuration.md', () => {
  const text = readFileSync(join(import.meta.dirname, '../docs/configuration.md'), 'utf8');
  const rows = [...text.matchAll(/^\| `([A-Z_]+)` \| (.*?) \| (.+) \|$/gm)].map(([, name, byDefault, meaning]) => ({
    name: name!,
    byDefault: byDefault!,
    meaning: meaning!,
  }));

  test('has a row for each variable, in the order of the code', () => {
    expect(rows.map((row) => row.name)).toEqual([...VARIABLES]);
  });

  test('states the defaults', () => {
    const { limits, jwt, ...config } = readConfig({});
    const values: Record<string, unknown> = {
      SEALOG_HOST: config.host,
      SEALOG_PORT: config.port,
      SEALOG_JWT_ISSUER: jwt.issuer,
      SEALOG_JWT_AUDIENCE: jwt.audience,
      SEALOG_JWT_ROLES_CLAIM: jwt.rolesClaim,
      SEALOG_JWT_TENANT_CLAIM: jwt.tenantClaim,
      SEALOG_JWT_SITES_CLAIM: jwt.sitesClaim,
      SEALOG_QUOTA_EVENTS_PER_SECOND: config.quota.eventsPerSecond,
      SEALOG_QUOTA_BYTES_PER_SECOND: config.quota.bytesPerSecond,
      SEALOG_QUOTA_READS_PER_SECOND: config.quota.readsPerSecond,
      SEALOG_EVENT_BYTES_MAX: limits.eventBytesMax,
      SEALOG_BATCH_BYTES_MAX: limits.batchBytesMax,
      SEALOG_BATCH_EVENTS_MAX: limits.batchEventsMax,
      SEALOG_QUEUE_ENTRIES_MAX: limits.queueEntriesMax,
      SEALOG_QUEUE_BYTES_MAX: limits.queueBytesMax,
      SEALOG_BODY_BUDGET_BYTES: limits.bodyBudgetBytes,
      SEALOG_READERS_MAX: limits.readersMax,
      SEALOG_REPEAT_DAYS: config.repeatDays,
      SEALOG_LOG_LEVEL: config.logLevel,
    };
    for (const [name, value] of Object.entries(values))
      expect({ name, byDefault: rows.find((row) => row.name === name)?.byDefault }).toEqual({
        name,
        byDefault: `\`${value}\``,
      });
  });
});
