/** Month keys in Vault, AWS KMS and Azure Key Vault, against servers that play the documented protocols; and in SoftHSM. */
import { execFile } from 'node:child_process';
import { constants, publicEncrypt, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { concatBytes, lengthPrefixed, utf8 } from '../src/chain/bytes.ts';
import { type KeyProblem, KeyUnavailableError, SettingsError } from '../src/errors.ts';
import { signedHeaders } from '../src/keys/aws-signature.ts';
import { parseMasterKey } from '../src/keys/master-key.ts';
import type { MonthKeys } from '../src/keys/month-keys.ts';
import { openMonthKeys } from '../src/keys/open-month-keys.ts';
import type { KeyServer } from './support/key-server.ts';
import { startKeyVault } from './support/key-vault-server.ts';
import { startKms } from './support/kms-server.ts';
import { startVault } from './support/vault-server.ts';

const CONTEXT = { stream: 'acme/data_access', dropMonth: 202703 };
const TIMING = { callMs: 300, againMs: 5, restMs: 0 };
const LOOPBACK = ['127.0.0.0/8'];

interface Service {
  readonly server: KeyServer;
  readonly text: string;
  secret: string;
  /** Another secret counts from now on. */
  turnSecret(): string;
  /** Names of the keys that are there, as ours name them; without what marks a destroyed month. */
  names(): string[];
  /** A key goes without anybody saying so. */
  lose(): void;
  /** Requests that end a key. */
  readonly ending: RegExp;
}

const SERVICES: Readonly<Record<string, () => Promise<Service>>> = {
  async vault() {
    const server = await startVault();
    return {
      server,
      text: `vault:${server.url}?role=${server.roleId}&namespace=plants/eu`,
      secret: server.secretId,
      turnSecret: () => {
        server.tokens.clear();
        server.secretId = 'secret-id-of-the-next-quarter';
        return server.secretId;
      },
      names: () => [...server.keys.keys()].filter((name) => !name.endsWith('-destroyed')).sort(),
      lose: () => server.keys.delete('sealog-202703'),
      ending: /^DELETE /,
    };
  },
  async awskms() {
    const server = await startKms();
    const credentials = () =>
      JSON.stringify({ Version: 1, AccessKeyId: server.accessKeyId, SecretAccessKey: server.secretAccessKey });
    return {
      server,
      text: `awskms:${server.region}?endpoint=${server.url}`,
      secret: credentials(),
      turnSecret: () => {
        server.secretAccessKey = 'the-secret-access-key-of-the-next-quarter';
        return credentials();
      },
      names: () =>
        [...server.aliases]
          .filter(([alias, id]) => !alias.includes('destroyed') && server.keys.get(id)!.state === 'Enabled')
          .map(([alias]) => alias.replace('alias/sealog/', 'sealog-'))
          .sort(),
      lose: () => server.aliases.delete('alias/sealog/202703'),
      ending: /^ScheduleKeyDeletion$/,
    };
  },
  async azurekv() {
    const server = await startKeyVault();
    server.deletingFor = 2;
    return {
      server,
      text: `azurekv:${server.url}?tenant=tenant-1&client=client-1&authority=${server.url}&scope=https://vault.azure.net`,
      secret: server.clientSecret,
      turnSecret: () => {
        server.tokens.clear();
        server.clientSecret = 'client-secret-of-the-next-quarter';
        return server.clientSecret;
      },
      names: () => [...server.keys.keys()].filter((name) => !name.endsWith('-destroyed')).sort(),
      lose: () => server.keys.delete('sealog-202703'),
      ending: /^DELETE \/keys/,
    };
  },
};

/** Opens month keys as the service does, from the text of the setting; `said` has all that they ever said to a log. */
async function openAs(
  text: string,
  secret: string,
  timing = TIMING as Partial<typeof TIMING>,
): Promise<{ keys: MonthKeys; secretFile: string; said: string[] }> {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-key-secret-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const secretFile = join(folder, 'secret');
  await writeFile(secretFile, `${secret}\n`, { mode: 0o600 });
  const parsed = parseMasterKey(text, secretFile);
  if ('problems' in parsed) throw new Error(parsed.problems.join('; '));
  const said: string[] = [];
  const note = (facts: object, message: string) => void said.push(JSON.stringify(facts) + message);
  const keys = await openMonthKeys(parsed.masterKey, {
    ...{ allowAddresses: LOOPBACK, log: { debug: note, warn: note }, timing },
  });
  onTestFinished(() => keys.close());
  return { keys, secretFile, said };
}

async function errorOf(work: Promise<unknown>): Promise<KeyUnavailableError> {
  const error = await work.then(
    () => expect.fail('it was done'),
    (cause: unknown) => cause,
  );
  if (!(error instanceof KeyUnavailableError)) throw error;
  return error;
}

async function problemOf(work: Promise<unknown>): Promise<KeyProblem | undefined> {
  return (await errorOf(work)).problem;
}

describe.each(Object.entries(SERVICES))('%s', (_kind, startService) => {
  async function start() {
    const service = await startService();
    onTestFinished(() => service.server.stop());
    const opened = await openAs(service.text, service.secret);
    return { ...service, ...opened };
  }

  test('wraps under a key for each month and generation, and opens what it wrapped for that stream and month alone', async () => {
    const { keys, names } = await start();
    const dataKey = randomBytes(32);
    const first = await keys.wrap(dataKey, CONTEXT);
    const second = await keys.wrap(dataKey, CONTEXT, { generation: 2 });
    const ever = { ...CONTEXT, dropMonth: 0 };
    const forEver = await keys.wrap(dataKey, ever);
    expect([first, second, forEver].map(({ monthKey }) => monthKey)).toEqual(['202703', '202703.2', 'for-ever']);
    expect(names()).toEqual(['sealog-202703', 'sealog-202703-2', 'sealog-for-ever']);
    for (const { monthKey, wrapped } of [first, second])
      expect(Buffer.from(await keys.unwrap(monthKey, wrapped, CONTEXT))).toEqual(dataKey);
    expect(Buffer.from(await keys.unwrap('for-ever', forEver.wrapped, ever))).toEqual(dataKey);
    expect(Buffer.from(first.wrapped).includes(dataKey)).toBe(false);

    for (const other of [{ stream: 'acme/data_acces' }, { dropMonth: 202704 }, { dropMonth: 0 }])
      expect(await problemOf(keys.unwrap('202703', first.wrapped, { ...CONTEXT, ...other }))).toBe('wrong');
    expect(await problemOf(keys.unwrap('202703', second.wrapped, CONTEXT))).toBe('wrong');
    expect(await problemOf(keys.unwrap('202703', forEver.wrapped, CONTEXT))).toBe('wrong');
    const { length } = first.wrapped;
    for (const at of [0, 3, 9, Math.floor(length / 2), length - 10, length - 1]) {
      const bent = Buffer.from(first.wrapped);
      bent[at]! ^= 4;
      expect([at, await problemOf(keys.unwrap('202703', bent, CONTEXT))]).toEqual([at, 'wrong']);
    }
    for (const cut of [first.wrapped.subarray(0, -1), first.wrapped.subarray(0, 20), Buffer.alloc(0)])
      expect(await problemOf(keys.unwrap('202703', cut, CONTEXT))).toBe('wrong');
    expect(await problemOf(keys.unwrap('202703.3', first.wrapped, CONTEXT))).toBe('missing');
    expect(await problemOf(keys.unwrap('../202703', first.wrapped, CONTEXT))).toBe('wrong');
  });

  test('a destroyed month opens nothing any more, and has no key again', async () => {
    const { keys, names, text, secret } = await start();
    const dataKey = randomBytes(32);
    const forms = [await keys.wrap(dataKey, CONTEXT), await keys.wrap(dataKey, CONTEXT, { generation: 12 })];
    const next = { ...CONTEXT, dropMonth: 202704 };
    const other = await keys.wrap(dataKey, next);
    await keys.wrap(dataKey, { ...CONTEXT, dropMonth: 0 });
    await keys.destroy('202703');
    await keys.destroy('202703.12');
    expect(names()).toEqual(['sealog-202704', 'sealog-for-ever']);
    for (const each of [keys, (await openAs(text, secret)).keys]) {
      for (const { monthKey, wrapped } of forms)
        expect(await problemOf(each.unwrap(monthKey, wrapped, CONTEXT))).toBe('destroyed');
      for (const options of [{}, { generation: 2 }, { isKnown: true }])
        expect(await problemOf(each.wrap(dataKey, CONTEXT, options))).toBe('destroyed');
      expect(Buffer.from(await each.unwrap('202704', other.wrapped, next))).toEqual(dataKey);
    }
    expect(names()).toEqual(['sealog-202704', 'sealog-for-ever']);
    await expect(keys.destroy('for-ever')).rejects.toThrow('comes to its end');
  });

  test('destroying that is cut between its steps refuses new keys at once, and is finished by the next call', async () => {
    const { keys, server, ending, names } = await start();
    const { wrapped } = await keys.wrap(randomBytes(32), CONTEXT);
    server.fault = () => (ending.test(server.requests.at(-1)!) ? { status: 500 } : undefined);
    expect(await problemOf(keys.destroy('202703'))).toBe('unreachable');
    server.fault = undefined;
    expect(names()).toEqual(['sealog-202703']);
    expect(await problemOf(keys.wrap(randomBytes(32), CONTEXT))).toBe('destroyed');
    await keys.destroy('202703');
    expect(names()).toEqual([]);
    expect(await problemOf(keys.unwrap('202703', wrapped, CONTEXT))).toBe('destroyed');
  });

  test('a generation is retired alone; a key that is lost is not made anew', async () => {
    const { keys, names, lose } = await start();
    const dataKey = randomBytes(32);
    const first = await keys.wrap(dataKey, CONTEXT);
    const second = await keys.wrap(dataKey, CONTEXT, { generation: 2 });
    await keys.retire('202703.2');
    await keys.retire('202703.2');
    expect(['missing', 'destroyed']).toContain(await problemOf(keys.unwrap('202703.2', second.wrapped, CONTEXT)));
    expect(Buffer.from(await keys.unwrap('202703', first.wrapped, CONTEXT))).toEqual(dataKey);
    lose();
    expect(await problemOf(keys.wrap(dataKey, CONTEXT, { isKnown: true }))).toBe('missing');
    expect(await problemOf(keys.unwrap('202703', first.wrapped, CONTEXT))).toBe('missing');
    expect(names()).toEqual([]);
  });

  test('many who need the same new key at once wrap under one that opens for all', async () => {
    const { keys, names } = await start();
    const dataKey = randomBytes(32);
    const forms = await Promise.all(Array.from({ length: 6 }, () => keys.wrap(dataKey, CONTEXT)));
    for (const { monthKey, wrapped } of forms)
      expect(Buffer.from(await keys.unwrap(monthKey, wrapped, CONTEXT))).toEqual(dataKey);
    expect(names()).toEqual(['sealog-202703']);
  });

  test('whatever keeps the service from answering is told in its time, and tells no secret', async () => {
    const { keys, server, secret, said, secretFile } = await start();
    const dataKey = randomBytes(32);
    const { wrapped } = await keys.wrap(dataKey, CONTEXT);
    const secrets = [...secret.matchAll(/[\w~+/=-]{12,}/g)].map(([word]) => word);
    const messages: string[] = [];
    const fails = async (): Promise<void> => {
      const begin = performance.now();
      for (const work of [() => keys.unwrap('202703', wrapped, CONTEXT), () => keys.wrap(dataKey, CONTEXT)]) {
        const error = await errorOf(work());
        expect(error.problem).toBe('unreachable');
        for (let one: unknown = error; one instanceof Error; one = one.cause)
          messages.push(one.message, String(one.stack));
      }
      expect(performance.now() - begin).toBeLessThan(4 * TIMING.callMs + 200);
    };
    for (const fault of [
      () => ({ status: 500, body: { errors: [secret] } }),
      () => ({ status: 429 }),
      () => ({ status: 418, body: { __type: `x#${secret}`, error: { code: secret } } }),
      () => ({ status: 200, body: {} }),
      () => ({ status: 200, body: [secret] }),
      () => ({ status: 200, body: { data: null, auth: null, key: 7, value: 7, KeyMetadata: 7 } }),
      () => ({ status: 302 }),
    ]) {
      server.fault = fault;
      await fails();
    }
    server.fault = () => 'hang' as const;
    await fails();
    server.fault = undefined;
    await server.stop();
    await fails();
    await server.again();
    await writeFile(secretFile, 'a-false-secret', { mode: 0o600 });
    // Until the service asks for it again, what it gave before may hold.
    await keys.unwrap('202703', wrapped, CONTEXT).catch((error: KeyUnavailableError) => messages.push(error.message));
    await rm(secretFile);
    await keys.unwrap('202703', wrapped, CONTEXT).catch((error: KeyUnavailableError) => messages.push(error.message));
    for (const text of [...messages, ...said])
      for (const word of [...secrets, 'a-false-secret', dataKey.toString('base64')]) expect(text).not.toContain(word);
    await writeFile(secretFile, secret, { mode: 0o600 });
    expect(Buffer.from(await keys.unwrap('202703', wrapped, CONTEXT))).toEqual(dataKey);
  });

  test('a secret that was turned is read from its file, without a new start', async () => {
    const { keys, turnSecret, secretFile } = await start();
    const dataKey = randomBytes(32);
    const { wrapped } = await keys.wrap(dataKey, CONTEXT);
    const next = turnSecret();
    expect(await problemOf(keys.unwrap('202703', wrapped, CONTEXT))).toBe('unreachable');
    await writeFile(secretFile, next, { mode: 0o600 });
    expect(Buffer.from(await keys.unwrap('202703', wrapped, CONTEXT))).toEqual(dataKey);
  });

  test('an address that is not public is called where the operator allows it, and else not', async () => {
    const { text, secret, server } = await start();
    const { secretFile } = await openAs(text, secret);
    const { masterKey } = parseMasterKey(text, secretFile) as Extract<
      ReturnType<typeof parseMasterKey>,
      { masterKey: unknown }
    >;
    const log = { debug: () => {}, warn: () => {} };
    const keys = await openMonthKeys(masterKey, { allowAddresses: [], log });
    onTestFinished(() => keys.close());
    const before = server.requests.length;
    expect((await errorOf(keys.wrap(randomBytes(32), CONTEXT))).message).toContain('SEALOG_ALLOW_ADDRESSES');
    expect(server.requests.length).toBe(before);
    await writeFile(secretFile, secret, { mode: 0o644 });
    await rm(secretFile);
    for (const [content, mode] of [
      [secret, 0o644],
      ['', 0o600],
      ['x'.repeat(70_000), 0o600],
    ] as const) {
      await writeFile(secretFile, content, { mode });
      const error = await openMonthKeys(masterKey, { allowAddresses: [], log }).catch((cause: unknown) => cause);
      expect(error).toBeInstanceOf(SettingsError);
      expect((error as Error).message).not.toContain(secret);
      await rm(secretFile);
    }
    await expect(openMonthKeys(masterKey, { allowAddresses: [], log })).rejects.toThrow(SettingsError);
  });
});

describe('Vault', () => {
  test('a token that ended is replaced, and one from the file is used as it is', async () => {
    const server = await startVault();
    onTestFinished(() => server.stop());
    const { keys } = await openAs(`vault:${server.url}?role=role-1&namespace=plants/eu`, server.secretId);
    const { wrapped } = await keys.wrap(randomBytes(32), CONTEXT);
    server.tokens.clear();
    await keys.unwrap('202703', wrapped, CONTEXT);
    expect(server.requests.filter((name) => name.includes('approle'))).toHaveLength(2);
    server.tokens.add('hvs.of-the-operator');
    const own = await openAs(`vault:${server.url}/transit?namespace=plants/eu&prefix=sealog`, 'hvs.of-the-operator');
    await own.keys.unwrap('202703', wrapped, CONTEXT);
    server.tokens.delete('hvs.of-the-operator');
    expect(await problemOf(own.keys.unwrap('202703', wrapped, CONTEXT))).toBe('unreachable');
    const bad = await openAs(`vault:${server.url}?namespace=plants/eu`, 'two\nlines');
    expect(await problemOf(bad.keys.unwrap('202703', wrapped, CONTEXT))).toBe('unreachable');
  });

  test('a key that can be exported is not used: it could not be destroyed', async () => {
    const server = await startVault();
    onTestFinished(() => server.stop());
    const { keys } = await openAs(`vault:${server.url}?role=role-1&namespace=plants/eu`, server.secretId);
    for (const made of [
      { type: 'aes256-gcm96', exportable: true },
      { type: 'rsa-4096', exportable: false },
    ]) {
      server.keys.set('sealog-202703', { key: randomBytes(32), isDeletable: false, ...made });
      expect((await errorOf(keys.wrap(randomBytes(32), CONTEXT))).message).toContain('can be exported');
    }
    await keys.destroy('202703');
    expect([...server.keys.keys()]).toEqual(['sealog-202703-destroyed']);
  });
});

describe('AWS KMS', () => {
  test('requests are signed as the examples of Signature Version 4 are', () => {
    const credentials = {
      accessKeyId: 'AKIDEXAMPLE',
      secretAccessKey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY',
      sessionToken: undefined,
    };
    const now = Date.parse('2015-08-30T12:36:00Z');
    for (const [method, path, signature] of [
      ['GET', '/', '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31'],
      ['POST', '/', '5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b'],
      ['GET', '/?Param2=value2&Param1=value1', 'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500'],
    ] as const) {
      const url = new URL(path, 'https://example.amazonaws.com');
      const request = {
        method,
        url,
        headers: {},
        body: new Uint8Array(0),
        region: 'us-east-1',
        service: 'service',
        now,
      };
      expect(signedHeaders(credentials, request)['authorization']).toBe(
        'AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, ' +
          `SignedHeaders=host;x-amz-date, Signature=${signature}`,
      );
    }
  });

  test('says until when a deletion can be cancelled, and stays destroyed when the key and its alias are gone', async () => {
    const server = await startKms();
    onTestFinished(() => server.stop());
    server.pageSize = 2;
    server.sessionToken = 'session-token';
    const secret = JSON.stringify({
      ...{ AccessKeyId: server.accessKeyId, SecretAccessKey: server.secretAccessKey, SessionToken: 'session-token' },
    });
    const { keys } = await openAs(`awskms:eu-central-1?endpoint=${server.url}&days=9`, secret);
    const dataKey = randomBytes(32);
    const { wrapped } = await keys.wrap(dataKey, CONTEXT);
    for (const generation of [2, 3, 4, 20]) await keys.wrap(dataKey, CONTEXT, { generation });
    const { recoverableUntil } = await keys.destroy('202703');
    expect((Date.parse(recoverableUntil!) - Date.now()) / 86_400_000).toBeCloseTo(9, 1);
    expect([...server.keys.values()].filter(({ state }) => state === 'PendingDeletion')).toHaveLength(5);
    expect((await keys.destroy('202703')).recoverableUntil).toBe(recoverableUntil);
    server.deletePending();
    expect(await problemOf(keys.unwrap('202703', wrapped, CONTEXT))).toBe('destroyed');
    expect(await problemOf(keys.wrap(dataKey, CONTEXT))).toBe('destroyed');
    expect(await keys.destroy('202703')).toEqual({});
    for (const month of ['202704', '202712', '202801']) await keys.destroy(month);
    expect([...server.aliases.keys()].filter((alias) => /destroyed-/.test(alias))).toEqual([
      ...['alias/sealog/destroyed-2024', 'alias/sealog/destroyed-2028'],
    ]);
  });

  test('waits until a key that was made is found, and leaves none behind that it lost the race with', async () => {
    const server = await startKms();
    onTestFinished(() => server.stop());
    server.hiddenFor = 3;
    const secret = JSON.stringify({ AccessKeyId: server.accessKeyId, SecretAccessKey: server.secretAccessKey });
    const { keys } = await openAs(`awskms:eu-central-1?endpoint=${server.url}`, secret);
    const forms = await Promise.all([1, 2, 3].map(() => keys.wrap(randomBytes(32), CONTEXT)));
    for (const { wrapped } of forms) await keys.unwrap('202703', wrapped, CONTEXT);
    expect([...server.keys.values()].filter(({ state }) => state === 'Enabled')).toHaveLength(1);
    server.keys.get(server.aliases.get('alias/sealog/202703')!)!.state = 'Disabled';
    expect(await problemOf(keys.unwrap('202703', forms[0]!.wrapped, CONTEXT))).toBe('unreachable');
  });
});

describe('Azure Key Vault', () => {
  let server: Awaited<ReturnType<typeof startKeyVault>>;
  let text: string;

  beforeAll(async () => {
    server = await startKeyVault();
    text = `azurekv:${server.url}?tenant=tenant-1&client=client-1&authority=${server.url}&scope=https://vault.azure.net`;
    return () => server.stop();
  });

  test('a data key that somebody else wrapped, with the public key that everybody may have, is refused', async () => {
    const { keys } = await openAs(text, server.clientSecret);
    const { wrapped } = await keys.wrap(randomBytes(32), CONTEXT);
    const { publicKey, version } = server.keys.get('sealog-202703')!.at(-1)!;
    const padding = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' };
    const his = publicEncrypt({ key: publicKey, ...padding }, Buffer.alloc(32, 7));
    const signature = Buffer.from(wrapped).subarray(-256);
    const forged = concatBytes(...[utf8(version), his, signature].map(lengthPrefixed));
    expect(forged.length).toBe(wrapped.length);
    expect(await problemOf(keys.unwrap('202703', forged, CONTEXT))).toBe('wrong');
    await keys.unwrap('202703', wrapped, CONTEXT);
  });

  test('with purge protection says until when a key could be brought back; its name is not used again', async () => {
    const { keys } = await openAs(text, server.clientSecret);
    const context = { ...CONTEXT, dropMonth: 202705 };
    const { wrapped } = await keys.wrap(randomBytes(32), context);
    server.hasPurgeProtection = true;
    expect(await keys.destroy('202705')).toEqual({ recoverableUntil: '2030-03-17T17:46:40.000Z' });
    expect(await problemOf(keys.unwrap('202705', wrapped, context))).toBe('destroyed');
    expect(await problemOf(keys.wrap(randomBytes(32), context))).toBe('destroyed');
    server.hasPurgeProtection = false;
  });

  test('purges what was deleted and not purged: by whoever is called again', async () => {
    const { keys } = await openAs(text, server.clientSecret);
    const context = { ...CONTEXT, dropMonth: 202704 };
    for (const generation of [1, 2]) await keys.wrap(randomBytes(32), context, { generation });
    server.fault = ({ method, url }) =>
      method === 'DELETE' && url.pathname.startsWith('/deletedkeys') ? { status: 503, body: {} } : undefined;
    await errorOf(keys.destroy('202704'));
    server.fault = undefined;
    const left = () => [...server.deleted.keys()].filter((name) => name.includes('202704'));
    expect(left()).toEqual(['sealog-202704']);
    await keys.destroy('202704');
    expect(left()).toEqual([]);
  });

  test('lists its keys page by page, and follows no link to somebody else with its token', async () => {
    const { keys } = await openAs(text, server.clientSecret);
    server.pageSize = 1;
    const context = { ...CONTEXT, dropMonth: 202706 };
    for (const generation of [1, 2]) await keys.wrap(randomBytes(32), context, { generation });
    await keys.destroy('202706');
    expect([...server.keys.keys()].filter((name) => name.includes('202706'))).toEqual(['sealog-202706-destroyed']);
    let asked = 0;
    server.fault = ({ url }) => {
      if (url.pathname !== '/keys') return undefined;
      asked += 1;
      return { status: 200, body: { value: [], nextLink: `${server.url}.evil.example/keys` } };
    };
    expect((await errorOf(keys.destroy('202707'))).message).toContain('list its keys itself');
    expect(asked).toBe(1);
    server.fault = undefined;
    server.pageSize = 25;
  });

  test('a key that is disabled may be there later', async () => {
    const { keys } = await openAs(text, server.clientSecret);
    const context = { ...CONTEXT, dropMonth: 202708 };
    const { wrapped } = await keys.wrap(randomBytes(32), context);
    server.keys.get('sealog-202708')![0]!.enabled = false;
    expect(await problemOf(keys.unwrap('202708', wrapped, context))).toBe('unreachable');
  });
});

/** SoftHSM, and the package that .ci/hsm-peer compiles. */
const SOFTHSM = '/usr/lib/softhsm/libsofthsm2.so';
const BINDING = join(process.env['SEALOG_TEST_PEERS'] ?? '/opt/sealog-peers', 'pkcs11/node_modules/pkcs11js');
const hasHsm = existsSync(SOFTHSM) && existsSync(BINDING);

// Where tests must run all, that it is missing is a failure.
describe.skipIf(!hasHsm && process.env['CI'] === undefined)('an HSM by PKCS#11', () => {
  const PIN = 'pin-of-the-operator';
  let text: string;

  beforeAll(async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sealog-softhsm-'));
    await writeFile(join(folder, 'softhsm2.conf'), `directories.tokendir = ${folder}\nlog.level = ERROR\n`);
    // The library reads it when it is loaded into this process.
    process.env['SOFTHSM2_CONF'] = join(folder, 'softhsm2.conf');
    const init = ['--init-token', '--free', '--label', 'plant 7', '--pin', PIN, '--so-pin', 'so-pin-of-the-vendor'];
    await promisify(execFile)('softhsm2-util', init);
    text = `pkcs11:token=plant%207?module-path=${SOFTHSM}&binding=${BINDING}`;
    return async () => {
      delete process.env['SOFTHSM2_CONF'];
      await rm(folder, { recursive: true, force: true });
    };
  });

  // First: whoever in this process logs in after somebody who did is not asked for a PIN.
  test('a PIN that was refused is not tried again: tokens lock themselves', async () => {
    const { keys, secretFile } = await openAs(text, 'a-false-pin', { callMs: 10_000 });
    const ask = async (of = keys) => (await errorOf(of.wrap(randomBytes(32), CONTEXT))).message;
    // As at a start: several months at once.
    const messages = await Promise.all([ask(), ask(), ask(), ask()]);
    messages.push(await ask(), await ask((await openAs(text, 'a-false-pin', { callMs: 10_000 })).keys));
    expect(messages.filter((message) => message.includes('CKR_PIN_INCORRECT'))).toHaveLength(1);
    expect(messages.filter((message) => message.includes('not tried again'))).toHaveLength(5);
    expect(messages.join()).not.toContain('a-false-pin');
    await writeFile(secretFile, PIN, { mode: 0o600 });
    await keys.wrap(randomBytes(32), { ...CONTEXT, dropMonth: 202709 });
  });

  test('wraps, opens for its stream and month alone, retires and destroys', async () => {
    const { keys } = await openAs(text, PIN, { callMs: 10_000 });
    const dataKey = randomBytes(32);
    const first = await keys.wrap(dataKey, CONTEXT);
    const second = await keys.wrap(dataKey, CONTEXT, { generation: 2 });
    for (const { monthKey, wrapped } of [first, second])
      expect(Buffer.from(await keys.unwrap(monthKey, wrapped, CONTEXT))).toEqual(dataKey);
    for (const other of [{ stream: 'acme/data_acces' }, { dropMonth: 202704 }])
      expect(await problemOf(keys.unwrap('202703', first.wrapped, { ...CONTEXT, ...other }))).toBe('wrong');
    expect(await problemOf(keys.unwrap('202703', second.wrapped, CONTEXT))).toBe('wrong');
    for (const at of [0, 20, 40, 75]) {
      const bent = Buffer.from(first.wrapped);
      bent[at]! ^= 1;
      expect(await problemOf(keys.unwrap('202703', bent, CONTEXT))).toBe('wrong');
    }
    expect(await problemOf(keys.unwrap('202703', first.wrapped.subarray(1), CONTEXT))).toBe('wrong');
    expect(await problemOf(keys.unwrap('202703.3', first.wrapped, CONTEXT))).toBe('missing');
    await keys.retire('202703');
    expect(await problemOf(keys.unwrap('202703', first.wrapped, CONTEXT))).toBe('missing');
    expect(await problemOf(keys.wrap(dataKey, CONTEXT, { isKnown: true }))).toBe('missing');
    const other = await openAs(text, PIN, { callMs: 10_000 });
    expect(Buffer.from(await other.keys.unwrap('202703.2', second.wrapped, CONTEXT))).toEqual(dataKey);
    await keys.destroy('202703');
    await keys.destroy('202703');
    for (const each of [keys, other.keys]) {
      expect(await problemOf(each.unwrap('202703.2', second.wrapped, CONTEXT))).toBe('destroyed');
      expect(await problemOf(each.wrap(dataKey, CONTEXT))).toBe('destroyed');
    }
  });

  test('many who need the same new key at once wrap what opens for all', async () => {
    const many = await Promise.all([1, 2, 3].map(() => openAs(text, PIN, { callMs: 10_000 })));
    const dataKey = randomBytes(32);
    const context = { ...CONTEXT, dropMonth: 202705 };
    const forms = await Promise.all(many.map(({ keys }) => keys.wrap(dataKey, context)));
    for (const { wrapped } of forms)
      expect(Buffer.from(await many[0]!.keys.unwrap('202705', wrapped, context))).toEqual(dataKey);
  });

  test('a token or a binding that is not there is told, and no PIN', async () => {
    for (const bad of [text.replace('plant%207', 'plant%208'), text.replace(BINDING, '/nowhere')]) {
      const { keys } = await openAs(bad, PIN, { callMs: 5000 });
      const error = await errorOf(keys.wrap(randomBytes(32), { ...CONTEXT, dropMonth: 202706 }));
      expect([error.problem, error.message.includes(PIN)]).toEqual(['unreachable', false]);
    }
  });
});

test('an HSM that hangs is told from one that answers, and asked no more than it could ever catch up with', async () => {
  const binding = await mkdtemp(join(tmpdir(), 'sealog-pkcs11-'));
  onTestFinished(() => rm(binding, { recursive: true, force: true }));
  const hang = 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)';
  await writeFile(join(binding, 'index.js'), `exports.PKCS11 = class { load() { ${hang}; } };`);
  const { keys } = await openAs(`pkcs11:token=plant?module-path=/nowhere.so&binding=${binding}`, 'a-pin', {
    callMs: 200,
  });
  const ask = async () => (await errorOf(keys.unwrap('202703', Buffer.alloc(76), CONTEXT))).message;
  expect(await Promise.all(Array.from({ length: 100 }, ask))).toEqual(
    Array(100).fill(expect.stringContaining('in time')),
  );
  expect(await ask()).toContain('not answered for long');
});

describe('SEALOG_MASTER_KEY', () => {
  const SECRET = '/run/secrets/key-service';

  test('is read into what it says, with the rest as each service has it', () => {
    expect(parseMasterKey('vault:https://vault.example:8200', SECRET)).toEqual({
      masterKey: {
        ...{ kind: 'vault', address: 'https://vault.example:8200', mount: 'transit', namespace: undefined },
        ...{ appRole: undefined, prefix: 'sealog', secretFile: SECRET, caFile: undefined },
      },
    });
    expect(
      parseMasterKey('vault:https://v.example/plants/transit?role=r-1&approle=ci&prefix=log&ca=/ca.pem', SECRET),
    ).toMatchObject({
      masterKey: { mount: 'plants/transit', appRole: { mount: 'ci', roleId: 'r-1' }, prefix: 'log', caFile: '/ca.pem' },
    });
    expect(parseMasterKey('awskms:eu-central-1', SECRET)).toMatchObject({
      masterKey: { region: 'eu-central-1', endpoint: 'https://kms.eu-central-1.amazonaws.com/', windowDays: 7 },
    });
    expect(parseMasterKey('awskms:cn-north-1?days=30', SECRET)).toMatchObject({
      masterKey: { endpoint: 'https://kms.cn-north-1.amazonaws.com.cn/', windowDays: 30 },
    });
    expect(
      parseMasterKey('azurekv:https://plants.vault.azure.net?tenant=t.example&client=c-1&kty=RSA-HSM', SECRET),
    ).toMatchObject({
      masterKey: {
        ...{ vault: 'https://plants.vault.azure.net', scope: 'https://vault.azure.net/.default', keyType: 'RSA-HSM' },
        ...{ authority: 'https://login.microsoftonline.com', tenant: 't.example', clientId: 'c-1' },
      },
    });
  });

  test.each([
    ['nothing:x', 'must begin with'],
    ['pkcs11:token=x', 'must have module-path'],
    ['pkcs11:token=x?module-path=lib.so', 'module-path'],
    ['pkcs11:object=x?module-path=/lib.so', 'must name a token'],
    ['pkcs11:token=x;object=y?module-path=/lib.so', 'must name a token'],
    ['pkcs11:token=%?module-path=/lib.so', 'no label'],
    ['pkcs11:token=x?module-path=/lib.so&pin-value=secret-word', 'does not know: "pin-value"'],
    ['vault:', 'must begin with'],
    ['vault:vault.example', 'begins with https://'],
    ['vault:http://vault.example', 'http:// is for a loopback'],
    ['vault:http://localhost', 'http:// is for a loopback'],
    ['vault:https://user:secret-word@vault.example', 'without credentials'],
    ['vault:https://vault.example#secret-word', 'without credentials and fragment'],
    ['vault:https://vault.example?token=secret-word', 'parameters that it does not know: "token"'],
    ['vault:https://vault.example?role=a&role=b', 'role more than once'],
    ['vault:https://vault.example?role=', 'role more than once, or in a form'],
    ['vault:https://vault.example?approle=ci', 'nothing without role'],
    ['vault:https://vault.example/tran%2fsit', 'a path'],
    ['vault:https://vault.example?prefix=../x', 'prefix'],
    ['vault:https://vault.example?ROLE=x', 'does not know: "ROLE"'],
    ['awskms:', 'must begin with'],
    ['awskms:Frankfurt', 'a region'],
    ['awskms:eu-central-1?days=6', 'days from 7 to 30'],
    ['awskms:eu-central-1?days=31', 'days from 7 to 30'],
    ['awskms:eu-central-1?endpoint=https://kms.example/x', 'endpoint with a path'],
    ['awskms:eu-central-1?secret=secret-word', 'does not know: "secret"'],
    ['azurekv:https://plants.vault.azure.net', 'must have tenant=…'],
    ['azurekv:https://plants.vault.azure.net?tenant=t', 'must have client=…'],
    ['azurekv:https://plants.example?tenant=t&client=c', 'scope'],
    ['azurekv:https://plants.vault.azure.net/keys?tenant=t&client=c', 'a path'],
    ['azurekv:https://plants.vault.azure.net?tenant=t&client=c&kty=EC', 'kty'],
    ['azurekv:https://plants.vault.azure.net?tenant=a/b&client=c', 'tenant'],
  ])('%s is refused', (text, problem) => {
    const parsed = parseMasterKey(text, SECRET);
    if (!('problems' in parsed)) return expect.fail('it was read');
    expect(parsed.problems.join('; ')).toContain(problem);
    expect(parsed.problems.join('; ')).not.toContain('secret-word');
  });

  test('a service needs the file with its secret, and a folder has none', () => {
    expect(parseMasterKey('vault:https://vault.example', undefined)).toMatchObject({
      problems: ['needs SEALOG_MASTER_KEY_SECRET_FILE, a file with its secret'],
    });
    expect(parseMasterKey('file:keys', SECRET)).toHaveProperty('problems');
  });
});
