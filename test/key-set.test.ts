/** The identity provider's keys: which are taken, how they are kept while the provider changes, lies or is away, and how seldom it is asked. */
import { execFileSync } from 'node:child_process';
import { generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as tls from 'node:tls';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { KeySetError, parseKeySet } from '../src/auth/json-web-keys.ts';
import { KEY_SET_TIMING, KeySet, type KeySetTiming, keySetUrlProblem } from '../src/auth/key-set.ts';
import { makeKey, type Provider, startProvider } from './support/identity-provider.ts';

const rsa = makeKey('RS256', 'rsa-1');
const pss = makeKey('PS256', 'pss-1');
const ec = makeKey('ES256', 'ec-1');
const ed = makeKey('EdDSA', 'ed-1');
const ALL = [rsa, pss, ec, ed].map((key) => key.jwk);

const SECOND = 1000;
const HOUR = 3_600_000;

const set = (...keys: readonly unknown[]) => Buffer.from(JSON.stringify({ keys }));
const kids = (keys: Iterable<string> | undefined) => (keys === undefined ? undefined : [...keys].sort());

/** A key of a type that Node can make and tokens can not use. */
function jwkOf(type: string, options?: object): Record<string, unknown> {
  const make = generateKeyPairSync as unknown as (type: string, options?: object) => { readonly publicKey: KeyObject };
  return { ...make(type, options).publicKey.export({ format: 'jwk' }), kid: 'k' };
}

describe('a key set', () => {
  test('holds each key for the one algorithm that it is for', () => {
    const { keys, passedOver } = parseKeySet(set(...ALL));
    expect([...keys].map(([kid, { algorithm }]) => [kid, algorithm])).toEqual([
      ['rsa-1', 'RS256'],
      ['pss-1', 'PS256'],
      ['ec-1', 'ES256'],
      ['ed-1', 'EdDSA'],
    ]);
    for (const key of [rsa, pss, ec, ed]) {
      expect(keys.get(key.kid)?.pem).toBe(key.publicKey.export({ type: 'spki', format: 'pem' }));
    }
    expect(passedOver.size).toBe(0);
  });

  test('without alg: an RSA key is for RS256, the others for what their curve allows', () => {
    const bare = [rsa, pss, ec, ed].map(({ jwk: { alg: _, use: __, ...jwk } }) => jwk);
    expect([...parseKeySet(set(...bare)).keys.values()].map(({ algorithm }) => algorithm)).toEqual([
      'RS256',
      'RS256',
      'ES256',
      'EdDSA',
    ]);
  });

  test('may say more than we ask for, as Entra ID and Keycloak do', () => {
    const more = {
      x5t: 'abc',
      'x5t#S256': 'def',
      x5c: ['MII'],
      issuer: 'https://login.example/x',
      key_ops: ['verify'],
    };
    expect(parseKeySet(set({ ...rsa.jwk, ...more })).keys.size).toBe(1);
    expect(parseKeySet(Buffer.from(JSON.stringify({ keys: ALL, more: { a: [1] } }))).keys.size).toBe(4);
  });

  const privateJwk = rsa.privateKey.export({ format: 'jwk' });
  const { n: modulus, e: exponent } = rsa.jwk as { n: string; e: string };
  const { x, y } = ec.jwk as { x: string; y: string };
  const weak = jwkOf('rsa', { modulusLength: 1024 });
  const three = jwkOf('rsa', { modulusLength: 2048, publicExponent: 3 });
  test.each<[string, unknown, string]>([
    ['null', null, 'not a key'],
    ['a text', 'rsa', 'not a key'],
    ['a list', [rsa.jwk], 'not a key'],
    ['no kid', { ...rsa.jwk, kid: undefined }, 'without a name'],
    ['an empty kid', { ...rsa.jwk, kid: '' }, 'without a name'],
    ['a kid that is a number', { ...rsa.jwk, kid: 7 }, 'without a name'],
    ['a kid that is a list', { ...rsa.jwk, kid: ['rsa-1'] }, 'without a name'],
    ['a kid of 129 letters', { ...rsa.jwk, kid: 'x'.repeat(129) }, 'without a name'],
    ['use enc', { ...rsa.jwk, use: 'enc' }, 'not for signatures'],
    ['use null', { ...rsa.jwk, use: null }, 'not for signatures'],
    ['use in a list', { ...rsa.jwk, use: ['sig'] }, 'not for signatures'],
    ['key_ops without verify', { ...rsa.jwk, key_ops: ['encrypt'] }, 'not for signatures'],
    ['key_ops that are none', { ...rsa.jwk, key_ops: [] }, 'not for signatures'],
    ['key_ops that are text', { ...rsa.jwk, key_ops: 'verify' }, 'not for signatures'],
    ['its private half', { ...rsa.jwk, ...privateJwk }, 'holds a private key'],
    ['a private member that is null', { ...rsa.jwk, d: null }, 'holds a private key'],
    ['other primes', { ...rsa.jwk, oth: [] }, 'holds a private key'],
    ['a secret', { kty: 'oct', k: encodeBytes(32), kid: 'k', alg: 'HS256' }, 'holds a private key'],
    ['kty oct without its secret', { kty: 'oct', kid: 'k', alg: 'HS256' }, 'of another type'],
    ['no kty', { ...rsa.jwk, kty: undefined }, 'of another type'],
    ['kty in lower case', { ...rsa.jwk, kty: 'rsa' }, 'of another type'],
    ['P-384', { ...jwkOf('ec', { namedCurve: 'P-384' }), alg: 'ES384' }, 'of another type'],
    ['P-384 that says ES256', { ...jwkOf('ec', { namedCurve: 'P-384' }), alg: 'ES256' }, 'of another type'],
    ['secp256k1', jwkOf('ec', { namedCurve: 'secp256k1' }), 'of another type'],
    ['Ed448', jwkOf('ed448'), 'of another type'],
    ['X25519', { ...jwkOf('x25519'), alg: 'EdDSA' }, 'of another type'],
    ['RSA for HS256', { ...rsa.jwk, alg: 'HS256' }, 'for another algorithm'],
    ['RSA for RS512', { ...rsa.jwk, alg: 'RS512' }, 'for another algorithm'],
    ['RSA for ES256', { ...rsa.jwk, alg: 'ES256' }, 'for another algorithm'],
    ['RSA for none', { ...rsa.jwk, alg: 'none' }, 'for another algorithm'],
    ['RSA for a list', { ...rsa.jwk, alg: ['RS256'] }, 'for another algorithm'],
    ['RSA for decryption', { ...rsa.jwk, use: undefined, alg: 'RSA-OAEP' }, 'for another algorithm'],
    ['P-256 for EdDSA', { ...ec.jwk, alg: 'EdDSA' }, 'for another algorithm'],
    ['Ed25519 for RS256', { ...ed.jwk, alg: 'RS256' }, 'for another algorithm'],
    ['RSA of 1024 bits', weak, 'too weak'],
    ['RSA with the exponent 3', three, 'too weak'],
    ['RSA with the exponent 1', { ...rsa.jwk, e: 'AQ' }, 'too weak'],
    ['RSA with an even exponent', { ...rsa.jwk, e: 'AQAC' }, 'too weak'],
    ['RSA with a huge exponent', { ...rsa.jwk, e: modulus }, 'too weak'],
    ['RSA of 16384 bits', { ...rsa.jwk, n: encodeBytes(2048) }, 'too weak'],
    ['RSA without a modulus', { ...rsa.jwk, n: undefined }, 'broken'],
    ['a modulus that is a number', { ...rsa.jwk, n: 7 }, 'broken'],
    ['a modulus with padding', { ...rsa.jwk, n: `${modulus}=` }, 'broken'],
    ['a modulus in standard base64', { ...rsa.jwk, n: `+/${modulus.slice(2)}` }, 'broken'],
    ['an exponent that is empty', { ...rsa.jwk, e: '' }, 'broken'],
    ['a point that is not on the curve', { ...ec.jwk, x: y, y: x }, 'broken'],
    ['a point with a short coordinate', { ...ec.jwk, x: x.slice(0, 40) }, 'broken'],
    ['an Ed25519 key of 31 bytes', { ...ed.jwk, x: encodeBytes(31) }, 'broken'],
  ])('passes over a key with %s', (_what, jwk, reason) => {
    const { keys, passedOver } = parseKeySet(set(jwk, ed.jwk, jwk));
    expect(kids(keys.keys())).toEqual(['ed-1']);
    expect([...passedOver]).toEqual([[reason, 2]]);
    expect(exponent).toBe('AQAB');
  });

  test.each<[string, Uint8Array]>([
    ['nothing', Buffer.from('')],
    ['a page', Buffer.from('<html>Service unavailable</html>')],
    ['no object', Buffer.from('[]')],
    ['no keys', Buffer.from('{}')],
    ['keys that are an object', Buffer.from('{"keys":{}}')],
    ['a cut answer', set(...ALL).subarray(0, -3)],
    ['something behind it', Buffer.from(`${set(...ALL)}x`)],
    ['a byte order mark', Buffer.from(`\uFEFF${set(...ALL)}`)],
    [
      'bytes that are not UTF-8',
      Buffer.concat([Buffer.from('{"keys":[],"a":"'), Buffer.from([0xff]), Buffer.from('"}')]),
    ],
    ['keys twice', Buffer.from(`{"keys":${JSON.stringify(ALL)},"keys":[]}`)],
    ['keys twice, once escaped', Buffer.from(`{"keys":${JSON.stringify(ALL)},"\\u006beys":[]}`)],
    ['a member of a key twice', Buffer.from(set(rsa.jwk).toString().replace('"kid"', '"kid":"other","kid"'))],
    ['one name for two keys', set(rsa.jwk, { ...ec.jwk, kid: 'rsa-1' })],
    ['the same key twice', set(rsa.jwk, rsa.jwk)],
    ['more than 100 keys', set(...Array.from({ length: 101 }, (_, index) => ({ ...ed.jwk, kid: `k${index}` })))],
    ['deep nesting', Buffer.from(`{"keys":${'['.repeat(100_000)}${']'.repeat(100_000)}}`)],
  ])('is none with %s', (_what, bytes) => {
    expect(() => parseKeySet(bytes)).toThrow(KeySetError);
  });

  test('of anything is read or refused, and never more', () => {
    const jwk = fc.record(
      {
        kty: fc.constantFrom('RSA', 'EC', 'OKP', 'oct', 1),
        crv: fc.constantFrom('P-256', 'Ed25519', 'P-521', null),
        kid: fc.oneof(fc.string(), fc.constant('__proto__')),
        alg: fc.constantFrom('RS256', 'PS256', 'ES256', 'EdDSA', 'HS256', 'none'),
        ...Object.fromEntries(['n', 'e', 'x', 'y'].map((name) => [name, fc.oneof(fc.base64String(), fc.jsonValue())])),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(fc.array(fc.oneof(jwk, fc.jsonValue()), { maxLength: 5 }), (items) => {
        try {
          for (const { pem } of parseKeySet(set(...items)).keys.values()) expect(pem).toContain('PUBLIC KEY');
        } catch (error) {
          expect(error).toBeInstanceOf(KeySetError);
        }
      }),
      { numRuns: 300 },
    );
  });
});

interface Told {
  readonly level: 'debug' | 'info' | 'warn';
  readonly facts: Record<string, unknown>;
  readonly message: string;
}

/** A key set with a clock that stands still until it is moved, and what it told the log. */
function follow(url: string, timing: Partial<KeySetTiming> = {}, allowAddresses = ['127.0.0.0/8', '::1/128']) {
  const clock = { ms: 0 };
  const told: Told[] = [];
  const tell = (level: Told['level']) => (facts: object, message: string) =>
    void told.push({ level, facts: facts as Record<string, unknown>, message });
  const keySet = new KeySet({
    url,
    allowAddresses,
    log: { debug: tell('debug'), info: tell('info'), warn: tell('warn') },
    timing,
    monotonic: () => clock.ms,
  });
  onTestFinished(() => keySet.close());
  const warnings = () => told.filter(({ level }) => level === 'warn');
  return { keySet, clock, told, warnings };
}

async function provider(keys: readonly unknown[], options?: Parameters<typeof startProvider>[1]): Promise<Provider> {
  const started = await startProvider(keys, options);
  onTestFinished(() => started.stop());
  return started;
}

describe('the keys', () => {
  test('are not there before they were fetched, and then are', async () => {
    const { url } = await provider(ALL);
    const { keySet } = follow(url);
    expect(keySet.current()).toBeUndefined();
    expect(keySet.status).toEqual({ ageSeconds: undefined, keys: 0, passedOver: 0, failures: 0 });
    await keySet.start();
    expect(kids(keySet.current()?.keys())).toEqual(['ec-1', 'ed-1', 'pss-1', 'rsa-1']);
    expect(keySet.status).toEqual({ ageSeconds: 0, keys: 4, passedOver: 0, failures: 0 });
  });

  test('stay the same Map while nothing changes, whatever the order, and are another when anything does', async () => {
    const idp = await provider(ALL);
    const { keySet } = follow(idp.url);
    await keySet.refresh();
    const first = keySet.current();
    idp.keys = ALL.toReversed();
    await keySet.refresh();
    expect(keySet.current()).toBe(first);

    idp.keys = ALL.slice(1);
    await keySet.refresh();
    const second = keySet.current();
    expect(second).not.toBe(first);
    expect(second?.has('rsa-1')).toBe(false);

    // The same name for another key.
    idp.keys = [...ALL.slice(1, 3), makeKey('EdDSA', 'ed-1').jwk];
    await keySet.refresh();
    expect(keySet.current()).not.toBe(second);
    expect(keySet.current()?.get('ed-1')?.pem).not.toBe(second?.get('ed-1')?.pem);
  });

  test('that are passed over are told once, with their reasons, and counted', async () => {
    const idp = await provider([...ALL, { ...rsa.jwk, kid: 'x', use: 'enc' }, { ...rsa.jwk, kid: 'y', d: 'AQAB' }]);
    const { keySet, warnings } = follow(idp.url);
    await keySet.refresh();
    await keySet.refresh();
    expect(warnings().map(({ facts }) => facts['keys'])).toEqual([
      { 'not for signatures': 1, 'holds a private key': 1 },
    ]);
    expect(keySet.status).toMatchObject({ keys: 4, passedOver: 2 });
  });

  test('that are all taken away are gone: nobody can say then what is good', async () => {
    const idp = await provider(ALL);
    const { keySet, warnings } = follow(idp.url);
    await keySet.refresh();
    idp.keys = [];
    await keySet.refresh();
    expect(keySet.current()).toBeUndefined();
    expect(warnings()).toHaveLength(1);
  });

  test('are looked at again in the background, soon after a failure', async () => {
    const idp = await provider(ALL);
    const { keySet } = follow(idp.url, { refreshMs: 30, retryMs: 10 });
    await keySet.start();
    await until(() => idp.requests >= 3);
    idp.misbehave = (response) => response.writeHead(500).end();
    await until(() => keySet.status.failures >= 3);
    idp.misbehave = undefined;
    idp.keys = [ed.jwk];
    await until(() => keySet.current()?.size === 1);
    await keySet.close();
    const { requests } = idp;
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(idp.requests).toBe(requests);
  });
});

describe('while the provider is away', () => {
  test('its last keys are used for a day, and then none; once it is back all is well', async () => {
    const idp = await provider(ALL);
    const { keySet, clock, told } = follow(idp.url);
    await keySet.refresh();
    const keys = keySet.current();
    await idp.stop();
    clock.ms = 12 * HOUR;
    await keySet.refresh();
    expect(keySet.current()).toBe(keys);
    expect(keySet.status).toMatchObject({ ageSeconds: 12 * 3600, failures: 1 });
    clock.ms = 24 * HOUR;
    expect(keySet.current()).toBe(keys);
    clock.ms = 24 * HOUR + 1;
    await keySet.refresh();
    expect(keySet.current()).toBeUndefined();
    expect(keySet.status.ageSeconds).toBeGreaterThan(24 * 3600);

    await provider(ALL, { port: idp.port });
    await keySet.refresh();
    expect(keySet.current()).toBe(keys);
    expect(keySet.status).toMatchObject({ ageSeconds: 0, failures: 2 });
    expect(told.at(-1)).toMatchObject({ level: 'info', message: expect.stringContaining('here again') });
  });

  test('there are none if it never was there; that it comes is enough', async () => {
    const gone = await provider(ALL);
    await gone.stop();
    const { keySet, warnings } = follow(gone.url);
    await keySet.start();
    expect(keySet.current()).toBeUndefined();
    expect(warnings()[0]?.facts).toMatchObject({ from: new URL(gone.url).origin, ageSeconds: undefined });
    await provider(ALL, { port: gone.port });
    await keySet.refresh();
    expect(keySet.current()?.size).toBe(4);
  });

  test('that is told at first and now and then, and without the path, which may be secret', async () => {
    const idp = await provider(ALL);
    const { keySet, told, warnings } = follow(`${idp.url}?code=hidden`);
    idp.misbehave = (response) => response.end('hidden garbage');
    for (let round = 0; round < 61; round += 1) await keySet.refresh();
    expect(warnings()).toHaveLength(2);
    expect(JSON.stringify(told)).not.toContain('hidden');
  });

  type Misbehaviour = NonNullable<Provider['misbehave']>;
  test.each<[string, Misbehaviour, string]>([
    ['garbage', (response) => response.end('<html>'), 'no JSON Web Key Set'],
    ['an empty page', (response) => response.end(), 'no JSON Web Key Set'],
    ['an error', (response) => response.writeHead(503).end(JSON.stringify({ keys: ALL })), 'the answer is 503'],
    ['another success', (response) => response.writeHead(203).end(JSON.stringify({ keys: ALL })), 'the answer is 203'],
    [
      'a redirect',
      (response, request) => {
        if (request.url === '/elsewhere') response.end(JSON.stringify({ keys: [ed.jwk] }));
        else response.writeHead(302, { location: '/elsewhere' }).end();
      },
      'the answer is 302',
    ],
    ['too much', (response) => response.end(`{"keys":[],"x":"${'x'.repeat(600_000)}"}`), 'larger than'],
    ['too much without an end', (response) => void endless(response), 'larger than'],
    [
      'a length and then less',
      (response) => void response.writeHead(200, { 'content-length': 99 }).write('{'),
      'within',
    ],
    ['nothing at all', () => {}, 'within'],
    ['a byte now and then', (response) => void drip(response), 'within'],
    ['the end of the connection', (response) => void response.destroy(), 'ended the connection'],
  ])('or answers %s, the last keys stay', async (_what, misbehave, why) => {
    const idp = await provider(ALL);
    const { keySet, warnings } = follow(idp.url, { timeoutMs: 300 });
    await keySet.refresh();
    const keys = keySet.current();
    idp.misbehave = misbehave;
    const begin = performance.now();
    await keySet.refresh();
    expect(performance.now() - begin).toBeLessThan(2000);
    expect(keySet.current()).toBe(keys);
    expect(keySet.status.failures).toBe(1);
    expect(warnings().map(({ facts }) => facts['why'])).toEqual([expect.stringContaining(why)]);
  });
});

describe('an unknown key', () => {
  test('is looked for once, and found after a rotation', async () => {
    const idp = await provider([rsa.jwk]);
    const { keySet } = follow(idp.url);
    await keySet.refresh();
    idp.keys = [rsa.jwk, ed.jwk];
    const looking = keySet.lookFor('ed-1');
    expect(looking).toBeInstanceOf(Promise);
    await looking;
    expect(keySet.current()?.has('ed-1')).toBe(true);
    expect(idp.requests).toBe(2);
  });

  test('of a flood: one fetch for all at once, and then none for 30 s, whatever their names', async () => {
    const idp = await provider(ALL);
    const { keySet, clock } = follow(idp.url);
    await keySet.refresh();
    const flood = (count: number) =>
      Array.from({ length: count }, () => keySet.lookFor(randomBytes(16).toString('hex')));
    const looking = flood(5000);
    expect(looking.every((one) => one instanceof Promise)).toBe(true);
    await Promise.all(looking);
    expect(idp.requests).toBe(2);
    expect(flood(5000).every((one) => one === undefined)).toBe(true);
    clock.ms += 30 * SECOND - 1;
    expect(keySet.lookFor('another')).toBeUndefined();
    clock.ms += 1;
    await Promise.all(flood(5000));
    expect(idp.requests).toBe(3);
  });

  test('that is not there is not asked for again for five minutes; others are', async () => {
    const idp = await provider(ALL);
    const { keySet, clock } = follow(idp.url);
    await keySet.refresh();
    await keySet.lookFor('gone');
    clock.ms += 40 * SECOND;
    expect(keySet.lookFor('gone')).toBeUndefined();
    await keySet.lookFor('other');
    expect(idp.requests).toBe(3);
    clock.ms += 5 * 60 * SECOND;
    await keySet.lookFor('gone');
    expect(idp.requests).toBe(4);
  });

  test('is forgotten as missing when the set changes', async () => {
    const idp = await provider([rsa.jwk]);
    const { keySet, clock } = follow(idp.url);
    await keySet.refresh();
    await keySet.lookFor('ed-1');
    idp.keys = [rsa.jwk, pss.jwk];
    await keySet.refresh();
    clock.ms += 40 * SECOND;
    idp.keys = [rsa.jwk, ed.jwk];
    await keySet.lookFor('ed-1');
    expect(keySet.current()?.has('ed-1')).toBe(true);
  });

  test('whose fetch failed may be asked for again, at the same pace', async () => {
    const idp = await provider([rsa.jwk]);
    const { keySet, clock } = follow(idp.url);
    await keySet.refresh();
    idp.misbehave = (response) => response.writeHead(500).end();
    await keySet.lookFor('ed-1');
    idp.misbehave = undefined;
    idp.keys = [rsa.jwk, ed.jwk];
    expect(keySet.lookFor('ed-1')).toBeUndefined();
    clock.ms += 30 * SECOND;
    await keySet.lookFor('ed-1');
    expect(keySet.current()?.has('ed-1')).toBe(true);
  });

  test('that came during another fetch is not judged by it', async () => {
    const idp = await provider([rsa.jwk]);
    const { keySet } = follow(idp.url);
    await keySet.refresh();
    const answers: (() => void)[] = [];
    idp.misbehave = (response) => void answers.push(() => response.end(JSON.stringify({ keys: [rsa.jwk] })));
    const refreshing = keySet.refresh();
    await until(() => answers.length === 1);
    const looking = keySet.lookFor('ed-1');
    idp.misbehave = undefined;
    idp.keys = [rsa.jwk, ed.jwk];
    answers[0]?.();
    await Promise.all([refreshing, looking]);
    expect(keySet.current()?.has('ed-1')).toBe(false);
    await keySet.lookFor('ed-1');
    expect(keySet.current()?.has('ed-1')).toBe(true);
  });
});

describe('an address', () => {
  test('of a private network needs SEALOG_ALLOW_ADDRESSES, a loopback one too', async () => {
    const { url } = await provider(ALL);
    const { keySet, warnings } = follow(url, {}, []);
    await keySet.refresh();
    expect(keySet.current()).toBeUndefined();
    expect(warnings().map(({ facts, message }) => `${facts['why']} ${message}`)).toContainEqual(
      expect.stringContaining('SEALOG_ALLOW_ADDRESSES'),
    );
  });

  test('may be localhost by name', async () => {
    const { port } = await provider(ALL);
    const { keySet } = follow(`http://localhost:${port}/keys`);
    await keySet.refresh();
    expect(keySet.current()?.size).toBe(4);
  });

  test('over TLS is trusted by its certificate', async () => {
    const folder = await temporaryFolder();
    const args = ['-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-keyout', 'key', '-out', 'cert'];
    execFileSync('openssl', ['req', '-x509', ...key, ...args], { cwd: folder, stdio: 'pipe' });
    const read = (name: string) => execFileSync('cat', [join(folder, name)]).toString();
    const { url } = await provider(ALL, { tls: { key: read('key'), cert: read('cert') } });

    const stranger = follow(url);
    await stranger.keySet.refresh();
    expect(stranger.keySet.current()).toBeUndefined();
    expect(stranger.warnings()[0]?.facts['why']).toContain('DEPTH_ZERO_SELF_SIGNED_CERT');

    const usual = tls.getCACertificates('default');
    tls.setDefaultCACertificates([...usual, read('cert')]);
    onTestFinished(() => tls.setDefaultCACertificates(usual));
    const { keySet } = follow(url);
    await keySet.refresh();
    expect(keySet.current()?.size).toBe(4);
  });

  test.each([
    ['https://login.example.com/keys', undefined],
    ['https://10.1.2.3:8443/keys?x=1', undefined],
    ['http://127.0.0.1:8080/keys', undefined],
    ['http://127.9.9.9/keys', undefined],
    ['http://localhost/keys', undefined],
    ['http://[::1]:80/keys', undefined],
    ['http://2130706433/keys', undefined],
    ['file:///etc/sealog/keys.json', undefined],
    ['http://login.example.com/keys', 'must begin with https://'],
    ['http://localhost.example.com/keys', 'must begin with https://'],
    ['http://127.0.0.1.example.com/keys', 'must begin with https://'],
    ['http://10.1.2.3/keys', 'must begin with https://'],
    ['http://[::ffff:127.0.0.1]/keys', 'must begin with https://'],
    ['https://user:word@login.example.com/keys', 'must not hold credentials'],
    ['file://host/keys.json', 'must name a file'],
    ['file:///', 'must name a file'],
    ['file:///a%2Fb', 'must name a file'],
    ['file:///keys.json?x', 'must name a file'],
    ['ftp://login.example.com/keys', 'must be a URL'],
    ['data:application/json,{}', 'must be a URL'],
    ['login.example.com', 'must be a URL'],
    ['', 'must be a URL'],
  ])('%s: %s', (url, problem) => {
    expect(keySetUrlProblem(url)).toEqual(problem === undefined ? undefined : expect.stringContaining(problem));
  });
});

describe('a file', () => {
  test('is read again when it changes, and its last keys stay while it is away or broken', async () => {
    const path = join(await temporaryFolder(), 'keys.json');
    const { keySet, clock } = follow(pathToFileURL(path).href, { fileRefreshMs: 10, retryMs: 10 });
    await keySet.start();
    expect(keySet.current()).toBeUndefined();
    await writeFile(path, set(...ALL));
    await until(() => keySet.current()?.size === 4);
    await writeFile(path, set(ed.jwk));
    await until(() => keySet.current()?.size === 1);

    const { failures } = keySet.status;
    await writeFile(path, '{"keys":[');
    await until(() => keySet.status.failures > failures);
    await rm(path);
    await until(() => keySet.status.failures > failures + 2);
    expect(keySet.current()?.size).toBe(1);
    clock.ms += 24 * HOUR + 1;
    expect(keySet.current()).toBeUndefined();
  });

  test.each<[string, (path: string) => unknown]>([
    ['a folder', (path) => execFileSync('mkdir', [path])],
    ['a pipe that nobody writes to', (path) => execFileSync('mkfifo', [path])],
    ['a device without an end', (path) => execFileSync('ln', ['-s', '/dev/zero', path])],
    ['too large', (path) => writeFile(path, 'x'.repeat(600_000))],
  ])('that is %s is a failure, and nothing hangs', async (_what, make) => {
    const path = join(await temporaryFolder(), 'keys.json');
    await make(path);
    const { keySet } = follow(pathToFileURL(path).href, { timeoutMs: 500 });
    await keySet.refresh();
    expect(keySet.status.failures).toBe(1);
  });
});

test('the times are those that docs/access.md states', () => {
  expect(KEY_SET_TIMING).toMatchObject({
    firstMs: 2000,
    retryMs: 10_000,
    refreshMs: 300_000,
    unknownMs: 30_000,
    ageMaxMs: 24 * HOUR,
    fileRefreshMs: 10_000,
  });
});

function encodeBytes(length: number): string {
  const bytes = randomBytes(length);
  bytes[0] = 0xff;
  bytes[length - 1] = 0xff;
  return bytes.toString('base64url');
}

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-key-set-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('it did not happen');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

type Response = Parameters<NonNullable<Provider['misbehave']>>[0];

function endless(response: Response): void {
  const write = (): void => {
    if (!response.destroyed && response.write(Buffer.alloc(65_536, 'x'))) setImmediate(write);
  };
  response.on('drain', write);
  write();
}

function drip(response: Response): void {
  const timer = setInterval(() => response.write(' '), 50);
  response.on('close', () => clearInterval(timer));
}
