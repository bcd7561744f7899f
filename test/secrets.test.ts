/**
 * No secret in the log, and nothing of the inside in an answer: canaries go through every failing path, and must not come out.
 *
 * The redactor is tried with what libraries could write, the log with the errors they do throw, the running service with what strangers send.
 */
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:net';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { commandLog, secretsOf } from '../src/cli/log.ts';
import { lineRedactor, redactor } from '../src/cli/redaction.ts';
import { type Config, readConfig } from '../src/config.ts';
import { checkShape, declaredOperations } from '../src/http/api-schema.ts';
import { createDatabase } from './support/postgres.ts';
import { serve } from './support/served.ts';
import { startService, type TestService } from './support/service.ts';

const CANARY = 'c4n4ry-Yg7LxQ2v';
const JWT = `eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIke0NBTkFSWX0ifQ.${CANARY}`;
const API_KEY = `sealog_0123456789abcdef_${CANARY}${'A'.repeat(28)}`;
const { privateKey } = generateKeyPairSync('ed25519', {
  privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  publicKeyEncoding: { type: 'spki', format: 'pem' },
});
const PEM_BODY = privateKey.split('\n')[1]!;

describe('the redactor', () => {
  const secrets = ['p@ss"w\\ord-known', 'short'];
  const clean = lineRedactor(secrets);
  const cleanText = redactor(secrets);

  test.each<[string, unknown]>([
    ['a known secret', { msg: 'it is p@ss"w\\ord-known, he said' }],
    ['a known secret in a URL', { msg: `x://u:${encodeURIComponent('p@ss"w\\ord-known')}@h` }],
    ['a bearer token', { msg: `got Bearer ${CANARY} from him` }],
    ['a JSON Web Token', { err: { message: `malformed: ${JWT}` } }],
    ['the beginning of one', { msg: `eyJhbGciOiJIUzI1NiJ9.${CANARY}` }],
    ['an API key', { msg: `no such key ${API_KEY}`, key: API_KEY }],
    ['a header', { headers: { authorization: `Digest ${CANARY}` } }],
    ['headers as a list', { headers: ['x'], cookie: [`a=${CANARY}`, 'b'] }],
    ['headers as text', { msg: `POST / HTTP/1.1\r\nAuthorization: Negotiate ${CANARY}\r\nhost: x` }],
    ['a cookie', { msg: `Cookie: session=${CANARY}; other=${CANARY}` }],
    ['another case', { 'Proxy-Authorization': CANARY, SET_COOKIE: CANARY, 'x-api-key': CANARY, apiKey: CANARY }],
    ['deep down', { a: [{ b: { config: { user: { password: CANARY } } } }] }],
    ['configuration', { jwtSecret: CANARY, SEALOG_JWT_SECRET: CANARY, accessToken: CANARY, client_secret: CANARY }],
    ['the password of a URL', { msg: `connect postgresql://sealog:${CANARY}@db.example/sealog failed` }],
    ['one with odd letters', { msg: `postgresql://sealog:a@b/:${CANARY}@db.example/sealog` }],
    ['a query', { msg: `GET https://idp.example/keys?x=1&client_secret=${CANARY}&y=2 and ?token=${CANARY}` }],
    ['a connection string', { msg: `host=db password='${CANARY}' user=x` }],
    ['JSON in a text', { msg: `got {"user":"x","password":"${CANARY}","n":1}` }],
    ['a private key', { msg: privateKey.replace(PEM_BODY, CANARY) }],
    ['a private key that is cut off', { msg: `-----BEGIN EC PRIVATE KEY-----\n${CANARY}` }],
  ])('takes out %s, and leaves JSON', (_what, line) => {
    const text = clean(`${JSON.stringify(line)}\n`);
    expect(text).not.toContain(CANARY);
    expect(text).not.toContain('ord-known');
    expect(() => JSON.parse(text)).not.toThrow();
    expect(text).toContain('[redacted]');
    // What is no line of the log has the shapes alone to go by.
    for (const value of Object.values(line as object)) {
      if (typeof value === 'string' && 'msg' in (line as object)) expect(cleanText(value)).not.toContain(CANARY);
    }
  });

  test.each<[unknown]>([
    [{ level: 30, time: 1, stream: 'acme/data_access', size: 7, entries: 3, ms: 4, msg: 'appended batch' }],
    [{ level: 40, setting: 'no data checksums: a bit that flips on disk is found by verification alone', msg: 'x' }],
    [
      {
        err: { type: 'Error', message: 'connect ECONNREFUSED 127.0.0.1:5432', stack: 'Error: x\n    at f (a.ts:1:2)' },
      },
    ],
    [{ from: 'https://idp.example:8443', keys: 2, key: 'k1', msg: 'the keys of the identity provider are new' }],
    [{ anchor: 'tsa-1', url: 'https://tsa.example/stamp?x=1', metric: 'sealog_signer_last_round_timestamp_seconds' }],
    [{ tokens: 7, seeds: 2, short: 'a short word' }],
  ])('leaves ordinary lines as they are', (line) => {
    expect(clean(JSON.stringify(line))).toBe(`${JSON.stringify(line)}\n`);
  });

  test('leaves JSON whatever a line holds', () => {
    const piece = fc.constantFrom(
      ...['Bearer ', JWT, '"', '\\', '\\"', 'password', '":"', "password='", '://', ':', '@', '?token=', '&'],
      ...['authorization: ', '\n', 'é', '\u2028', '[', ']', '{"secret":"', '-----BEGIN PRIVATE KEY-----', ' ', 'x'],
    );
    const text = fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join(''));
    const line = fc.record({
      msg: text,
      password: text,
      list: fc.array(text, { maxLength: 3 }),
      cookie: fc.array(text),
    });
    fc.assert(
      fc.property(line, (value) => {
        const cleaned = JSON.parse(clean(JSON.stringify(value)));
        expect(Object.keys(cleaned)).toEqual(Object.keys(value));
        expect(cleaned.password).toBe('[redacted]');
      }),
      { numRuns: 500 },
    );
  });

  test('takes no long time for a long line', () => {
    for (const text of [
      'a'.repeat(1e5),
      'x://'.repeat(3e4),
      ':'.repeat(1e5),
      'password '.repeat(1e4),
      '"\\'.repeat(5e4),
    ]) {
      const begin = performance.now();
      clean(JSON.stringify({ text }));
      expect(performance.now() - begin).toBeLessThan(1500);
    }
  });
});

describe('the log of a command', () => {
  const config: Config = readConfig({
    DATABASE_URL: `postgresql://sealog:${encodeURIComponent(`${CANARY}@/?`)}@db.example/sealog`,
    SEALOG_MASTER_KEY: 'file:/etc/sealog/months',
    SEALOG_JWT_SECRET: `jwt-${CANARY}-${'s'.repeat(32)}`,
    SEALOG_LOG_LEVEL: 'trace',
  });

  function written(write: (log: ReturnType<typeof commandLog>) => void): string {
    let text = '';
    write(
      commandLog(config, (line) => {
        text += line;
      }),
    );
    for (const line of text.trim().split('\n')) JSON.parse(line);
    return text;
  }

  test('knows the secrets of the configuration, in their spellings', () => {
    const secrets = secretsOf(config);
    expect(secrets).toContain(`${CANARY}@/?`);
    expect(secrets).toContain(config.jwt.secret);
    const text = written((log) => {
      for (const secret of secrets) log.warn({ odd: secret, list: [secret] }, `it says ${secret}`);
      log.info(config, 'configuration');
    });
    expect(text).not.toContain(CANARY);
  });

  test('tells of an error what happened and where, and nothing of what it was about', () => {
    const row = Object.assign(new pg.DatabaseError('duplicate key value', 1, 'error'), {
      code: '23505',
      detail: `Key (id)=(${CANARY}) already exists.`,
      where: `COPY x, line 1: "${CANARY}"`,
      constraint: 'entry_id_pkey',
      parameters: [CANARY],
      query: `SELECT '${CANARY}'`,
      config: { headers: { authorization: CANARY } },
    });
    const error = new Error(`failed for ${JWT}`, { cause: new AggregateError([row, new Error(API_KEY)], 'several') });
    const text = written((log) => {
      log.error({ err: error }, 'request failed');
      log.error(row);
      log.error({ err: { statusCode: 418, body: CANARY } }, 'strange');
    });
    expect(text).not.toContain(CANARY);
    const [line, direct, strange] = text
      .trim()
      .split('\n')
      .map((one) => JSON.parse(one));
    expect(line.err.stack).toContain('secrets.test.ts');
    expect(line.err.cause.errors[0]).toMatchObject({ code: '23505', constraint: 'entry_id_pkey' });
    expect(line.err.cause.errors[1].message).toBe('sealog_0123456789abcdef_[redacted]');
    expect(direct.err).toMatchObject({ code: '23505', message: 'duplicate key value' });
    expect(strange.err).toBe('object');
  });

  test('follows causes that go in a circle to an end', () => {
    const error = new Error('circle');
    error.cause = error;
    expect(written((log) => log.error({ err: error }, 'x')).length).toBeLessThan(20_000);
  });
});

describe('the process', () => {
  test.each<[string, Record<string, string>]>([
    ['a password that is wrong', { DATABASE_URL: '' }],
    ['a database that is not there', { DATABASE_URL: `postgresql://sealog:${CANARY}@127.0.0.1:1/sealog` }],
    ['an address that can not be read', { DATABASE_URL: `postgresql://sealog:${CANARY}@[::1/sealog` }],
    ['another kind of address', { DATABASE_URL: `mysql://sealog:${CANARY}@127.0.0.1/sealog` }],
    ['a secret that is too short', { SEALOG_JWT_SECRET: CANARY }],
    ['an origin that is a URL', { SEALOG_ORIGIN: `https://x:${CANARY}@log.example` }],
  ])('does not start with %s, and does not repeat it', async (_what, settings) => {
    let given = settings;
    if (settings['DATABASE_URL'] === '') {
      const other = await createDatabase();
      onTestFinished(() => other.drop());
      const url = other.appUrl.replace(/(:\/\/[^:]*):[^@]*@/, `$1:${CANARY}@`);
      given = { DATABASE_URL: url };
    }
    const served = await serve({ ...given, SEALOG_LOG_LEVEL: 'trace' });
    expect(await served.exited).toBe(1);
    expect(served.err()).toMatch(/^sealog: /m);
    expect(served.err() + served.out()).not.toContain(CANARY);
  });

  test('says nothing of what strangers send, and of what it reads from others', async () => {
    // An identity provider that is not there, at an address with a secret in it.
    const idp = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => idp.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => void idp.close());
    const address = idp.address();
    const idpPort = typeof address === 'object' && address !== null ? address.port : 0;
    const served = await serve({
      SEALOG_JWT_SECRET: undefined,
      SEALOG_JWT_JWKS_URL: `http://127.0.0.1:${idpPort}/keys-${CANARY}?client_secret=${CANARY}`,
      SEALOG_JWT_ISSUER: 'https://idp.example',
      SEALOG_JWT_AUDIENCE: 'sealog',
      SEALOG_ALLOW_ADDRESSES: '127.0.0.0/8',
      SEALOG_LOG_LEVEL: 'trace',
    });
    const url = await served.listening();
    const credentials = [
      ...[`Bearer ${JWT}`, `Bearer ${CANARY}`, `Bearer ${API_KEY}`, `Bearer sealog_${CANARY}`, `Basic ${CANARY}`],
      ...[CANARY, `Bearer ${'x'.repeat(9000)}${CANARY}`, `bearer ${JWT}`, `Bearer ${JWT} ${JWT}`],
    ];
    for (const authorization of credentials) {
      for (const path of ['/v1/events', `/v1/events/${CANARY}`, `/v1/events?actor=${CANARY}`, `/${CANARY}`]) {
        const headers = { authorization, cookie: `session=${CANARY}`, 'x-api-key': CANARY };
        const answer = await fetch(url + path, { headers });
        expect([401, 404, 503]).toContain(answer.status);
        expect(await answer.text()).not.toContain(CANARY);
      }
    }
    // And the database goes away beneath it all.
    await served.database.drop();
    for (const authorization of credentials)
      await fetch(`${url}/v1/events`, { headers: { authorization } }).then((answer) => answer.text());
    await fetch(`${url}/readyz`).then((answer) => answer.text());
    served.child.kill('SIGTERM');
    await served.exited;
    expect(served.lines().length).toBeGreaterThan(5);
    expect(served.err()).toMatch(/identity provider/);
    expect(served.err() + served.out()).not.toContain(CANARY);
    expect(served.err() + served.out()).not.toContain('eyJhbGci');
  });
});

describe('answers', () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
  });
  afterAll(() => service.stop());

  /** What only the inside knows: stacks, files, SQL, packages, versions. */
  const INSIDE =
    /\n\s+at |node_modules|\.[jt]s\b|file:|\/src\/|\b(?:SELECT|INSERT|UPDATE)\b|\brelation\b|\bconstraint\b|\bpg_|[Pp]ostgres|[Ff]astify|FST_|\bE(?:NO|ACC|CONN|PERM|ADDR)[A-Z]+\b|\b\d+\.\d+\.\d+\b|Error\b/;

  test('of every route to what is wrong are problems that say nothing of the inside', async () => {
    const tokens = [null, 'x.y.z', await service.token('auditor'), await service.token('service')];
    const odd = ['%00', "'%3B--", '..%2f..%2fetc', 'x'.repeat(300), '%F0%9F%92%A9', '0'];
    let refused = 0;
    for (const { method, path } of declaredOperations()) {
      for (const [i, token] of tokens.entries()) {
        for (const [j, value] of odd.entries()) {
          // Every credential with every second value: all of it takes long.
          if ((i + j) % 2 === 1) continue;
          const target = `${path.replaceAll(/:\w+|\*/g, value)}?limit=${value}&cursor=${value}&from=${value}`;
          const answer = await fetch(service.url + target, {
            method,
            headers: {
              ...(token === null ? {} : { authorization: `Bearer ${token}` }),
              ...(method === 'GET' ? {} : { 'content-type': 'application/json' }),
            },
            ...(method === 'GET' ? {} : { body: ['{', '{"a":1}', '[]', '"\\u0000"'][j % 4]! }),
          });
          const text = await answer.text();
          const { headers, status } = answer;
          expect(headers.get('server') ?? headers.get('x-powered-by')).toBeNull();
          expect(headers.get('x-frame-options')).toBe('DENY');
          if (status < 400) continue;
          refused += 1;
          expect(status, `${method} ${target}`).not.toBe(500);
          expect(headers.get('content-type')).toBe('application/problem+json');
          expect(headers.get('cache-control')).toBe('no-store');
          expect(checkShape('Problem', JSON.parse(text))).toEqual([]);
          expect(text).not.toMatch(INSIDE);
          expect([...headers].join()).not.toMatch(/fastify|node|express|\d+\.\d+\.\d+/i);
        }
      }
    }
    expect(refused).toBeGreaterThan(100);
  });
});
