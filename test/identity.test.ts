/**
 * Tokens of an identity provider: of the shapes that Entra ID, Okta and Keycloak give them, through rotations and while the provider is away;
 * and what attackers make of them.
 */
import { execFile } from 'node:child_process';
import { constants, createHmac, createSign, generateKeyPairSync, sign as signBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { registerAccess, type Verify } from '../src/auth/access.ts';
import type { ClaimRules } from '../src/auth/claims.ts';
import { KeySet } from '../src/auth/key-set.ts';
import { generateSecret, signToken, tokenVerifier } from '../src/auth/tokens.ts';
import { Problem, SettingsError } from '../src/errors.ts';
import { type Caller, callerOf } from '../src/http/caller.ts';
import { closeServer, createServer } from '../src/http/server.ts';
import { listen } from './support/http.ts';
import { type Algorithm, encode, makeKey, type Provider, startProvider } from './support/identity-provider.ts';
import { startService } from './support/service.ts';

const ISSUER = 'https://id.example.com/';
const AUDIENCE = 'https://audit.example.com';
const HOUR = 3_600_000;
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const seconds = () => Math.floor(Date.now() / 1000);
const now = seconds();

const rsa = makeKey('RS256', 'rsa-1');
const pss = makeKey('PS256', 'pss-1');
const ec = makeKey('ES256', 'ec-1');
const ed = makeKey('EdDSA', 'ed-1');
const KEYS = [rsa, pss, ec, ed];

const claims = {
  iss: ISSUER,
  aud: AUDIENCE,
  sub: 'u-4711',
  iat: now,
  exp: now + 3600,
  tenant: 'acme',
  roles: ['auditor'],
};

interface Identity {
  readonly provider: Provider;
  readonly keySet: KeySet;
  /** Moves the clock of the key set alone. */
  readonly clock: { ms: number };
  readonly verify: Verify<string>;
  readonly port: number;
  /** Asks over HTTP. */
  read(token: string): Promise<{ status: number; retryAfter: string | null; body: Record<string, unknown> }>;
  status(token: string): Promise<number>;
  stop(): Promise<void>;
}

/** A server whose callers are known by the tokens of a provider. */
async function startIdentity(rules: Partial<ClaimRules> = {}, keys: readonly unknown[] = KEYS.map((key) => key.jwk)) {
  const provider = await startProvider(keys);
  const clock = { ms: 0 };
  const keySet = new KeySet({
    ...{ url: provider.url, allowAddresses: ['127.0.0.0/8'], log: silent },
    timing: { timeoutMs: 1000 },
    monotonic: () => clock.ms,
  });
  await keySet.start();
  const app: FastifyInstance = createServer({ log: silent });
  const options = { issuer: ISSUER, audience: AUDIENCE, jwksUrl: provider.url, ...rules };
  const verify = tokenVerifier(app, options, keySet);
  registerAccess(app, { tokens: verify });
  app.get('/read', { config: { permission: 'events:read' } }, async (request) => {
    const { permissions, ...caller } = callerOf(request);
    return { ...caller, permissions: [...permissions] };
  });
  app.get('/open', { config: { permission: 'public' } }, async () => ({ open: true }));
  const port = await listen(app);
  const read: Identity['read'] = async (token) => {
    const answer = await fetch(`http://127.0.0.1:${port}/read`, { headers: { authorization: `Bearer ${token}` } });
    const body = (await answer.json()) as Record<string, unknown>;
    return { status: answer.status, retryAfter: answer.headers.get('retry-after'), body };
  };
  const stop = async (): Promise<void> => {
    await closeServer(app, 200);
    await keySet.close();
    await provider.stop();
  };
  const status = async (token: string): Promise<number> => (await read(token)).status;
  return { provider, keySet, clock, verify, port, read, status, stop } satisfies Identity;
}

async function identity(...args: Parameters<typeof startIdentity>): Promise<Identity> {
  const started = await startIdentity(...args);
  onTestFinished(() => started.stop());
  return started;
}

describe('a token of the shape of', () => {
  test.each<[Algorithm, (typeof KEYS)[number]]>(KEYS.map((key) => [key.algorithm, key]))(
    'any provider that signs with %s says who calls',
    async (_algorithm, key) => {
      const { read } = await identity();
      const { status, body } = await read(key.token(claims));
      expect(status).toBe(200);
      expect(body).toMatchObject({ tenant: 'acme', subject: 'u-4711', credential: 'token', roles: ['auditor'] });
      expect(body).not.toHaveProperty('sites');
    },
  );

  const directory = '6babcaad-604b-40ac-a9d7-9fd97c0b779f';
  const registration = 'ef1da9d4-ff77-4c3e-a005-840c3f830745';

  test('Entra ID, version 1', async () => {
    const { read, status } = await identity(
      {
        issuer: `https://sts.windows.net/${directory}/`,
        audience: `api://${registration}`,
        tenantClaim: 'tid',
        tenantMap: new Map([[directory, 'acme']]),
        rolesMap: new Map([['Sealog.Auditor', 'auditor']]),
      },
      [
        {
          ...rsa.jwk,
          alg: undefined,
          x5t: 'rsa-1',
          x5c: ['MIIC/TCCAeWgAwIBAgIICHb5qy8hKKgwDQYJKoZIhvcNAQELBQAwLTErMCkGA1UE'],
        },
      ],
    );
    const header = { typ: 'JWT', alg: 'RS256', x5t: 'rsa-1', kid: 'rsa-1' };
    const body = {
      aud: `api://${registration}`,
      iss: `https://sts.windows.net/${directory}/`,
      iat: now - 5,
      nbf: now - 5,
      exp: now + 4000,
      acr: '1',
      aio: 'AXQAi/8IAAAAFm+E/QTG+gFnVxLjWdw8K+61AGrSOuMMF6ebaMj7XO3IbmD3fGmrOyD+',
      amr: ['pwd', 'mfa'],
      appid: '6e74172b-be56-4843-9ff4-e66a39bb12e3',
      appidacr: '0',
      family_name: 'Kern',
      ipaddr: '192.0.2.17',
      name: 'M. Kern',
      oid: '690222be-ff1a-4d56-abd1-7e4f7d38e474',
      rh: '0.AX8Ar.',
      roles: ['Sealog.Auditor', 'Other.Admin'],
      scp: 'access_as_user',
      sub: 'HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ',
      tid: directory,
      unique_name: 'm.kern@example.com',
      upn: 'm.kern@example.com',
      uti: 'fqiBqXLPj0eQa82S-IYFAA',
      ver: '1.0',
    };
    const answer = await read(rsa.token(body, header));
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({ tenant: 'acme', subject: body.sub, roles: ['auditor'] });
    // Another directory's token is signed by the same keys.
    const stranger = 'deadbeef-0000-4000-8000-000000000000';
    expect(
      await status(rsa.token({ ...body, iss: `https://sts.windows.net/${stranger}/`, tid: stranger }, header)),
    ).toBe(401);
    expect(await status(rsa.token({ ...body, tid: stranger }, header))).toBe(401);
    // Nobody assigned him a role.
    const { roles: _, ...unassigned } = body;
    expect(await status(rsa.token(unassigned, header))).toBe(401);
    expect(await status(rsa.token({ ...body, roles: ['Other.Admin'] }, header))).toBe(403);
  });

  test('Entra ID, version 2, with sites in groups', async () => {
    const plant = '0f3a6f1c-3d5e-4b47-9d1f-2f6f1f5b3c11';
    const { read, status } = await identity({
      issuer: `https://login.microsoftonline.com/${directory}/v2.0`,
      audience: registration,
      tenantClaim: 'tid',
      tenantMap: new Map([[directory, 'acme']]),
      sitesClaim: 'groups',
      allSites: 'absent',
    });
    const body = {
      aud: registration,
      iss: `https://login.microsoftonline.com/${directory}/v2.0`,
      iat: now - 5,
      nbf: now - 5,
      exp: now + 4000,
      azp: '6e74172b-be56-4843-9ff4-e66a39bb12e3',
      azpacr: '0',
      groups: [plant],
      name: 'M. Kern',
      oid: '690222be-ff1a-4d56-abd1-7e4f7d38e474',
      preferred_username: 'm.kern@example.com',
      rh: '0.ATYA',
      roles: ['plant_manager'],
      scp: 'access_as_user',
      sub: 'HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ',
      tid: directory,
      uti: 'fqiBqXLPj0eQa82S-IYFAA',
      ver: '2.0',
    };
    const answer = await read(rsa.token(body));
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({ tenant: 'acme', roles: ['plant_manager'], sites: [plant] });

    // He is in so many groups that the token does not hold them: that must not look like all sites.
    const { groups: _, ...others } = { ...body, roles: ['auditor'] };
    expect(await status(rsa.token(others))).toBe(200);
    const elsewhere = { src1: { endpoint: 'https://graph.example.com/v1.0/users/x/getMemberObjects' } };
    const overage = { ...others, _claim_names: { groups: 'src1' }, _claim_sources: elsewhere };
    expect(await status(rsa.token(overage))).toBe(401);
    expect(await status(rsa.token({ ...others, hasgroups: true }))).toBe(401);
  });

  test('Okta', async () => {
    const issuer = 'https://example.okta.com/oauth2/aus1a2b3c4d5e6f7g8h9';
    const { read, status } = await identity({
      issuer,
      audience: 'api://sealog',
      tenantClaim: 'organization',
      rolesClaim: 'groups',
      rolesMap: new Map([
        ['Plant Managers', 'plant_manager'],
        ['IT Security', 'it_security_admin'],
      ]),
      sitesClaim: 'plants',
    });
    // Without typ.
    const header = { kid: 'rsa-1', alg: 'RS256' };
    const body = {
      ver: 1,
      jti: 'AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE',
      iss: issuer,
      aud: 'api://sealog',
      iat: now,
      exp: now + 3600,
      cid: '0oaz5d6sikQdT4iWt0g4',
      uid: '00uid4BxXw6I6TV4m0g3',
      scp: ['openid', 'profile'],
      auth_time: now - 60,
      sub: 'm.kern@example.com',
      organization: 'acme',
      groups: ['Everyone', 'Plant Managers'],
      plants: ['plant-7', 'plant-8'],
    };
    const answer = await read(rsa.token(body, header));
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({
      ...{ tenant: 'acme', subject: 'm.kern@example.com' },
      ...{ roles: ['plant_manager'], sites: ['plant-7', 'plant-8'] },
    });
    expect(await status(rsa.token({ ...body, groups: ['Everyone'] }, header))).toBe(403);
    // An ID token of the same server: for the client, not for us.
    expect(await status(rsa.token({ ...body, aud: body.cid }, header))).toBe(401);
  });

  test('Keycloak', async () => {
    const issuer = 'https://sso.example.com/realms/acme';
    const rules = {
      issuer,
      audience: 'sealog',
      tenantClaim: 'organization_name',
      rolesClaim: '/resource_access/sealog/roles',
      sitesClaim: '/plant/sites',
    };
    const { read, status } = await identity(rules);
    const body = {
      exp: now + 300,
      iat: now,
      auth_time: now - 1,
      jti: 'onrtac:6bbd2b7a-8b0c-4b55-8a2b-6f2f4a3c1d2e',
      iss: issuer,
      aud: ['sealog', 'account'],
      sub: '5a1a9b1e-7d3a-4d4e-9a55-0f1f2a3b4c5d',
      typ: 'Bearer',
      azp: 'mes',
      sid: '3f6d7d8e-1c1b-4c0d-8f86-9d4b0a1e2f30',
      acr: '1',
      'allowed-origins': ['https://mes.example.com'],
      realm_access: { roles: ['default-roles-acme', 'offline_access', 'plant_manager'] },
      resource_access: { sealog: { roles: ['auditor'] }, account: { roles: ['manage-account', 'view-profile'] } },
      scope: 'openid profile email',
      email_verified: true,
      preferred_username: 'mkern',
      organization_name: 'acme',
      plant: { sites: ['plant-7'] },
    };
    const answer = await read(rsa.token(body));
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({ tenant: 'acme', subject: body.sub, roles: ['auditor'], sites: ['plant-7'] });

    const realm = await identity({ ...rules, rolesClaim: '/realm_access/roles' });
    expect((await realm.read(rsa.token(body))).body['roles']).toEqual([
      'default-roles-acme',
      'offline_access',
      'plant_manager',
    ]);
    // What stands on the way and is no object is not taken for nothing there.
    for (const plant of ['plant-7', ['plant-7'], null, 7, true])
      expect(await status(rsa.token({ ...body, plant }))).toBe(401);
    expect(await status(rsa.token({ ...body, resource_access: { account: {} } }))).toBe(401);
    expect(await status(rsa.token({ ...body, resource_access: ['sealog'] }))).toBe(401);
  });
});

describe('claims', () => {
  const body = { ...claims, tenant: undefined, roles: undefined };

  test('may be named as URLs, or by pointers with escapes', async () => {
    const { read } = await identity({
      tenantClaim: 'https://example.com/tenant',
      rolesClaim: '/https:~1~1example.com~1roles/a~0b',
    });
    const named = { 'https://example.com/tenant': 'acme', 'https://example.com/roles': { 'a~b': 'auditor' } };
    expect((await read(rsa.token({ ...body, ...named }))).body).toMatchObject({ tenant: 'acme', roles: ['auditor'] });
    // As a provider writes it that escapes slashes.
    const escaped = JSON.stringify({ ...body, ...named }).replaceAll('/', '\\/');
    expect((await read(rsa.token(escaped))).body).toMatchObject({ tenant: 'acme', roles: ['auditor'] });
  });

  test('are their own: nothing is inherited', async () => {
    const { status } = await identity({ tenantClaim: '/constructor/name', rolesClaim: '__proto__' });
    expect(await status(rsa.token(claims))).toBe(401);
    expect(await status(rsa.token(JSON.stringify(claims).replace('{', '{"__proto__":["auditor"],')))).toBe(401);
  });

  test('are found also after names that make V8 misread others', async () => {
    const { read, status } = await identity({ sitesClaim: 'a"b', allSites: 'absent' });
    const poison = { ...claims, '\\': 1 };
    expect(await status(rsa.token(poison))).toBe(200);
    for (let round = 0; round < 5; round += 1) {
      JSON.parse('{"\\\\":1}');
      const { body: caller } = await read(rsa.token({ ...claims, jti: `${round}`, 'a"b': ['plant-7'] }));
      expect(caller['sites']).toEqual(['plant-7']);
    }
  });

  test('of sites, once named, must be there: a misspelled name, or an attribute that nobody set, is not all sites', async () => {
    // As Keycloak, Okta and Entra ID leave a claim out whose value is empty.
    const { read, status } = await identity({ sitesClaim: 'plants' });
    for (const role of ['auditor', 'it_security_admin', 'plant_manager'])
      expect(await status(rsa.token({ ...claims, roles: [role] }))).toBe(401);
    expect(await status(rsa.token({ ...claims, Plants: ['plant-7'] }))).toBe(401);
    expect((await read(rsa.token({ ...claims, plants: ['plant-7'] }))).body['sites']).toEqual(['plant-7']);
    // Without a value for it there is none that means all.
    for (const all of ['*', 'absent', 'undefined'])
      expect((await read(rsa.token({ ...claims, plants: [all] }))).body['sites']).toEqual([all]);
    expect((await read(rsa.token({ ...claims, plants: [] }))).body['sites']).toEqual([]);
  });

  test('of sites may say that they are all, in the words of the operator: alone, and to the letter', async () => {
    const { read, status } = await identity({ sitesClaim: '/plant/sites', allSites: '*' });
    const with_ = (sites: unknown) => rsa.token({ ...claims, plant: { sites } });
    const { status: answer, body: caller } = await read(with_(['*']));
    expect(answer).toBe(200);
    expect(caller).not.toHaveProperty('sites');
    for (const sites of [['*', 'plant-7'], ['*', '*'], ['**'], []])
      expect((await read(with_(sites))).body['sites']).toEqual(sites);
    for (const sites of ['*', null, undefined, { 0: '*', length: 1 }, [['*']]])
      expect(await status(with_(sites))).toBe(401);
    // All sites is more than a plant_manager has.
    expect(await status(rsa.token({ ...claims, roles: ['plant_manager'], plant: { sites: ['*'] } }))).toBe(403);
    const absent = await identity({ sitesClaim: 'plants', allSites: 'absent' });
    expect((await absent.read(rsa.token(claims))).body).not.toHaveProperty('sites');
    expect((await absent.read(rsa.token({ ...claims, plants: ['absent'] }))).body['sites']).toEqual(['absent']);
  });

  test('with a map are what it says, and nothing else', async () => {
    const { read, status } = await identity({
      tenantMap: new Map([
        ['ACME Ltd.', 'acme'],
        ['Operations', 'sealog'],
        ['__proto__', 'umbrella'],
      ]),
      rolesMap: new Map([
        ['Auditors', 'auditor'],
        ['Staff', 'operator'],
        ['constructor', 'service'],
      ]),
    });
    const say = (tenant: unknown, roles: unknown) => rsa.token({ ...claims, tenant, roles });
    expect((await read(say('ACME Ltd.', ['Auditors', 'auditor', 'it_security_admin', 'Auditors']))).body).toMatchObject(
      {
        ...{ tenant: 'acme', roles: ['auditor'] },
      },
    );
    expect((await read(say('__proto__', 'Auditors'))).body).toMatchObject({ tenant: 'umbrella', roles: ['auditor'] });
    for (const tenant of ['acme', 'umbrella', 'acme ltd.', 'toString', 'sealog', ''])
      expect(await status(say(tenant, ['Auditors']))).toBe(401);
    expect(await status(say('ACME Ltd.', ['auditor', 'toString']))).toBe(403);
    // The operator himself says who the deployment is.
    expect((await read(say('Operations', ['Staff', 'Auditors']))).body).toMatchObject({
      ...{ tenant: 'sealog', roles: ['operator', 'auditor'] },
      permissions: expect.arrayContaining(['tenants:write']),
    });
  });

  test('without a map never name the deployment: an organisation chooses its own name', async () => {
    const { status } = await identity();
    expect(await status(rsa.token({ ...claims, tenant: 'sealog', roles: ['operator', 'auditor'] }))).toBe(401);
    const mapped = await identity({ rolesMap: new Map([['auditor', 'auditor']]) });
    expect(await mapped.status(rsa.token({ ...claims, tenant: 'sealog' }))).toBe(401);
  });
});

describe('an attacker', () => {
  let idp: Identity;
  beforeAll(async () => {
    idp = await startIdentity();
  });
  afterAll(() => idp.stop());

  const [head, body, signature] = rsa.token(claims).split('.') as [string, string, string];
  const header = { alg: 'RS256', typ: 'JWT', kid: 'rsa-1' };
  const pem = rsa.publicKey.export({ type: 'spki', format: 'pem' }).toString();
  const pkcs1 = rsa.publicKey.export({ type: 'pkcs1', format: 'pem' }).toString();
  const der = rsa.publicKey.export({ type: 'spki', format: 'der' });
  const stranger = generateKeyPairSync('rsa', { modulusLength: 2048 });

  /** Rightly signed, with whatever in it. */
  const withClaims = (changes: object) => rsa.token({ ...claims, ...changes });
  const withHeader = (changes: object) => rsa.token(claims, { ...header, ...changes });
  const claimsText = (text: string) => rsa.token(text);
  const forged = (head: object, sign: (input: string) => Buffer | string): string => {
    const input = `${encode(head)}.${encode(claims)}`;
    const signature = sign(input);
    return `${input}.${typeof signature === 'string' ? signature : signature.toString('base64url')}`;
  };
  const hmac =
    (key: string | Buffer, hash = 'sha256') =>
    (input: string) =>
      createHmac(hash, key).update(input).digest();
  const alias = (alg: unknown, kid: string, sign: (input: string) => Buffer | string = () => signature) =>
    forged({ alg, typ: 'JWT', kid }, sign);
  const rs256 = (input: string) => signBytes('sha256', Buffer.from(input), rsa.privateKey);
  const es256 = (input: string) => signBytes('sha256', Buffer.from(input), ec.privateKey);

  test('is no match for a good token', async () => {
    for (const key of KEYS) expect(await idp.status(key.token(claims))).toBe(200);
    expect(await idp.status(withClaims({ aud: ['other', AUDIENCE] }))).toBe(200);
    expect(await idp.status(withHeader({ x5t: 'a', 'x5t#S256': 'b', typ: 'at+JWT' }))).toBe(200);
    expect(await idp.status(withHeader({ typ: 'application/at+jwt' }))).toBe(200);
    expect(await idp.status(rsa.token(claims, JSON.stringify(header, null, 2)))).toBe(200);
  });

  test.each<[string, string]>([
    ['none, without a signature', `${encode({ alg: 'none', kid: 'rsa-1' })}.${body}.`],
    ['none, with one', alias('none', 'rsa-1')],
    ['None', alias('None', 'rsa-1')],
    ['NONE', alias('NONE', 'rsa-1')],
    ['rs256 in lower case', alias('rs256', 'rsa-1', rs256)],
    ['RS256 with a blank', alias('RS256 ', 'rsa-1', rs256)],
    ['RS256 in a list', alias(['RS256'], 'rsa-1', rs256)],
    ['no algorithm', alias(undefined, 'rsa-1', rs256)],
    ['HS256 with the public key (PEM)', alias('HS256', 'rsa-1', hmac(pem))],
    ['HS256 with the public key (PEM, trimmed)', alias('HS256', 'rsa-1', hmac(pem.trim()))],
    ['HS256 with the public key (PKCS 1)', alias('HS256', 'rsa-1', hmac(pkcs1))],
    ['HS256 with the public key (DER)', alias('HS256', 'rsa-1', hmac(der))],
    ['HS256 with the key as JSON', alias('HS256', 'rsa-1', hmac(JSON.stringify(rsa.jwk)))],
    ['HS256 with the modulus', alias('HS256', 'rsa-1', hmac(Buffer.from(rsa.jwk['n'] as string, 'base64url')))],
    ['HS256 with nothing', alias('HS256', 'rsa-1', hmac(''))],
    ['HS512 with the public key', alias('HS512', 'rsa-1', hmac(pem, 'sha512'))],
    [
      'RS512, rightly signed',
      alias('RS512', 'rsa-1', (input) => signBytes('sha512', Buffer.from(input), rsa.privateKey)),
    ],
    [
      'RS256 with a key that is for PS256',
      alias('RS256', 'pss-1', (input) => signBytes('sha256', Buffer.from(input), pss.privateKey)),
    ],
    [
      'PS256 with a key that is for RS256',
      alias('PS256', 'rsa-1', (input) =>
        signBytes('sha256', Buffer.from(input), {
          ...{ key: rsa.privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 },
        }),
      ),
    ],
    [
      'PS256 with a salt of another length',
      alias('PS256', 'pss-1', (input) =>
        signBytes('sha256', Buffer.from(input), {
          ...{ key: pss.privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 20 },
        }),
      ),
    ],
    ['ES256 under the name of an Ed25519 key', alias('ES256', 'ed-1', es256)],
    [
      'EdDSA under the name of a P-256 key',
      alias('EdDSA', 'ec-1', (input) => signBytes(null, Buffer.from(input), ed.privateKey)),
    ],
    ['ES256 that says EdDSA', alias('EdDSA', 'ec-1', es256)],
    ['EdDSA that says ES256', alias('ES256', 'ed-1', (input) => signBytes(null, Buffer.from(input), ed.privateKey))],
    [
      'EdDSA that says Ed25519',
      alias('Ed25519', 'ed-1', (input) => signBytes(null, Buffer.from(input), ed.privateKey)),
    ],
    ['ES256 as DER', alias('ES256', 'ec-1', es256)],
    ['ES256 of zeros', alias('ES256', 'ec-1', () => Buffer.alloc(64))],
    ['ES256 of ones', alias('ES256', 'ec-1', () => Buffer.alloc(64, 0xff))],
    ['EdDSA of zeros', alias('EdDSA', 'ed-1', () => Buffer.alloc(64))],
    ['RS256 of zeros', alias('RS256', 'rsa-1', () => Buffer.alloc(256))],
    ['RS256 with a zero before it', alias('RS256', 'rsa-1', (input) => Buffer.concat([Buffer.alloc(1), rs256(input)]))],
    [
      'a key of his own under our name',
      alias('RS256', 'rsa-1', (input) => createSign('sha256').update(input).sign(stranger.privateKey)),
    ],
    ['the key of another token', alias('RS256', 'pss-1', rs256)],
  ])('with the algorithm %s', async (_what, token) => {
    expect(await idp.status(token)).toBe(401);
  });

  test.each<[string, string]>([
    ['no kid', withHeader({ kid: undefined })],
    ['an empty kid', withHeader({ kid: '' })],
    ['a kid that is a path', withHeader({ kid: '../../dev/null' })],
    ['a kid that is a file', withHeader({ kid: 'file:///etc/passwd' })],
    ['a kid that is SQL', withHeader({ kid: "rsa-1' OR '1'='1" })],
    ['a kid that is a command', withHeader({ kid: 'rsa-1|/bin/true' })],
    ['a kid with NUL', withHeader({ kid: 'rsa-1\0' })],
    ['a kid with a blank', withHeader({ kid: 'rsa-1 ' })],
    ['a kid in upper case', withHeader({ kid: 'RSA-1' })],
    ['a kid of 129 letters', withHeader({ kid: 'k'.repeat(129) })],
    ['a kid that is a number', withHeader({ kid: 1 })],
    ['a kid that is a list', withHeader({ kid: ['rsa-1'] })],
    ['a kid that is an object', withHeader({ kid: { $ne: '' } })],
    ['a kid that is null', withHeader({ kid: null })],
    ['a kid that everybody has', withHeader({ kid: '__proto__' })],
    ['another kid that everybody has', withHeader({ kid: 'constructor' })],
    ['half a character as kid', rsa.token(claims, '{"alg":"RS256","kid":"\\ud800"}')],
    ['jku', withHeader({ jku: 'https://evil.example.com/keys' })],
    ['jku that is ours', withHeader({ jku: 'https://id.example.com/keys' })],
    ['x5u', withHeader({ x5u: 'https://evil.example.com/cert' })],
    ['x5c', withHeader({ x5c: ['MIIC'] })],
    ['jwk', withHeader({ jwk: rsa.jwk })],
    [
      'jwk of his own',
      forged({ ...header, jwk: stranger.publicKey.export({ format: 'jwk' }) }, (input) =>
        createSign('sha256').update(input).sign(stranger.privateKey),
      ),
    ],
    ['crit', withHeader({ crit: ['exp'], exp: 1 })],
    ['b64', withHeader({ b64: false })],
    ['b64 and crit', withHeader({ b64: false, crit: ['b64'] })],
    ['zip', withHeader({ zip: 'DEF' })],
    ['enc', withHeader({ enc: 'A256GCM' })],
    ['cty', withHeader({ cty: 'JWT' })],
    ['nonce', withHeader({ nonce: 'x' })],
    ['claims in the header', withHeader({ iss: ISSUER })],
    ['typ of a logout token', withHeader({ typ: 'logout+jwt' })],
    ['typ of a proof of possession', withHeader({ typ: 'dpop+jwt' })],
    ['typ of no token', withHeader({ typ: 'JWS' })],
    ['typ in a list', withHeader({ typ: ['JWT'] })],
    ['alg twice', rsa.token(claims, '{"alg":"none","alg":"RS256","kid":"rsa-1"}')],
    ['kid twice, once escaped', rsa.token(claims, '{"alg":"RS256","kid":"ec-1","\\u006bid":"rsa-1"}')],
  ])('with a header that has %s', async (_what, token) => {
    expect(await idp.status(token)).toBe(401);
  });

  test.each<[string, string]>([
    ...Object.keys(claims).map((name): [string, string] => [`no ${name}`, withClaims({ [name]: undefined })]),
    ['another issuer', withClaims({ iss: 'https://id.example.com' })],
    ['an issuer in a list', withClaims({ iss: [ISSUER] })],
    ['another audience', withClaims({ aud: 'https://audit.example.com/' })],
    ['other audiences', withClaims({ aud: ['a', 'b'] })],
    ['no audience in the list', withClaims({ aud: [] })],
    ['an audience in a list in a list', withClaims({ aud: [[AUDIENCE]] })],
    ['an audience that is an object', withClaims({ aud: { [AUDIENCE]: 1 } })],
    ['expired', withClaims({ exp: now - 1 })],
    ['expires as text', withClaims({ exp: String(now + 3600) })],
    ['expires at infinity', claimsText(JSON.stringify(claims).replace(/"exp":\d+/, '"exp":1e999'))],
    ['issued in the future', withClaims({ iat: now + 600 })],
    ['not valid yet', withClaims({ nbf: now + 600 })],
    ['more than 8 KiB', withClaims({ filler: 'x'.repeat(9000) })],
    ['a subject with a line end', withClaims({ sub: 'a\nb' })],
    ['a subject that is half a character', claimsText(JSON.stringify(claims).replace('u-4711', '\\udc00'))],
    ['a tenant that is half a character', claimsText(JSON.stringify(claims).replace('acme', '\\ud83d'))],
    ['an issuer with half a character', claimsText(JSON.stringify(claims).replace('com/', 'com/\\ud800'))],
    ['a claim twice', claimsText(JSON.stringify(claims).replace('{', '{"tenant":"umbrella",'))],
    ['a claim twice, once escaped', claimsText(JSON.stringify(claims).replace('{', '{"ten\\u0061nt":"umbrella",'))],
    ['a claim twice inside', claimsText(JSON.stringify(claims).replace('{', '{"x":[{"a":1,"a":1}],'))],
    ['claims in a list', rsa.token([claims])],
    ['claims with something behind them', claimsText(`${JSON.stringify(claims)} x`)],
    ['sites that are text', withClaims({ sites: 'plant-7' })],
    ['sites that are null', withClaims({ sites: null })],
  ])('with claims that are or have %s', async (_what, token) => {
    expect(await idp.status(token)).toBe(401);
  });

  test.each<[string, string]>([
    ['a blank before it', ` ${head}.${body}.${signature}`],
    ['a blank inside', `${head}.${body} .${signature}`],
    ['a line end inside', `${head}.${body.slice(0, 9)}%0A${body.slice(9)}.${signature}`],
    ['a tab', `${head}.\t${body}.${signature}`],
    ['padding', `${head}.${body}.${signature}=`],
    ['padding in the header', `${head}==.${body}.${signature}`],
    ['standard base64', `${head}.${body}.${signature.replaceAll('-', '+').replaceAll('_', '/')}/`],
    ['other claims', `${head}.${encode({ ...claims, tenant: 'umbrella' })}.${signature}`],
    ['another header', `${encode({ ...header, x5t: 'a' })}.${body}.${signature}`],
    ['no signature', `${head}.${body}.`],
    ['no signature and no dot', `${head}.${body}`],
    ['four segments', `${head}.${body}.${signature}.${signature}`],
    ['a cut signature', `${head}.${body}.${signature.slice(0, -4)}`],
    ['a longer signature', `${head}.${body}.${signature}AAAA`],
  ])('that alters a good token: %s', async (_what, token) => {
    expect(await idp.status(token)).toBe(401);
  });

  test('that alters the last character, so that the same bytes come out, is refused for each algorithm', async () => {
    for (const key of KEYS) {
      const good = key.token(claims);
      const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
      const altered = good.slice(0, -1) + alphabet[alphabet.indexOf(good.at(-1) as string) ^ 1];
      const bytes = (token: string) => Buffer.from(token.split('.')[2] as string, 'base64url');
      expect(bytes(altered)).toEqual(bytes(good));
      expect(await idp.status(altered)).toBe(401);
    }
  });

  test('that changes a good token in any way has none', async () => {
    const goods = KEYS.map((key) => key.token(claims));
    for (const good of goods) expect((await idp.verify(good)).subject).toBe('u-4711');
    const letter = fc.constantFrom(...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0ä');
    const at = fc.nat(1200);
    type Change = (text: string) => string;
    const textual = fc.oneof<fc.Arbitrary<Change>[]>(
      fc.tuple(at, letter).map(
        ([i, c]) =>
          (text) =>
            text.slice(0, i % text.length) + c + text.slice((i % text.length) + 1),
      ),
      fc.tuple(at, letter).map(
        ([i, c]) =>
          (text) =>
            text.slice(0, i % text.length) + c + text.slice(i % text.length),
      ),
      fc.tuple(at, fc.integer({ min: 1, max: 50 })).map(
        ([i, n]) =>
          (text) =>
            text.slice(0, i % text.length) + text.slice((i % text.length) + n),
      ),
      fc.nat(2).map((i) => (text) => text.split('.').with(i, '').join('.')),
      fc.tuple(fc.nat(2), fc.nat(2), fc.nat(3)).map(
        ([i, j, other]) =>
          (text) =>
            text.split('.').with(i, goods[other]!.split('.')[j]!).join('.'),
      ),
    );
    // What the segments hold, written anew.
    const inner = fc.tuple(fc.nat(1), at, fc.integer({ min: 0, max: 255 })).map(
      ([segment, i, byte]): Change =>
        (text) => {
          const segments = text.split('.');
          const bytes = Buffer.from(segments[segment] ?? '', 'base64url');
          if (bytes.length > 0) bytes[i % bytes.length] = byte;
          return segments.with(segment, bytes.toString('base64url')).join('.');
        },
    );
    const changes = fc.array(fc.oneof(textual, inner), { minLength: 1, maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...goods), changes, async (good, all) => {
        const changed = all.reduce((text, change) => (text.split('.').length === 3 ? change(text) : text), good);
        fc.pre(!goods.includes(changed));
        const outcome = await answer(idp.verify, changed);
        expect(outcome).toBeInstanceOf(Problem);
        expect((outcome as Problem).code).toBe('unauthenticated');
      }),
      { numRuns: 4000 },
    );
  });
});

describe('through a rotation', () => {
  test('a caller who is known is known at once, also while the set is fetched again', async () => {
    const { verify, keySet } = await identity();
    const token = rsa.token(claims);
    const first = verify(token);
    expect(first).not.toBeInstanceOf(Promise);
    const again = verify(token);
    expect(again).toBe(first);
    await keySet.refresh();
    expect(verify(token)).toBe(first);
  });

  test('the first token of a new key waits for one fetch, and is good', async () => {
    const { provider, verify, status } = await identity({}, [rsa.jwk]);
    provider.keys = [rsa.jwk, ed.jwk];
    const waiting = Array.from({ length: 50 }, (_, index) => verify(ed.token({ ...claims, jti: `${index}` })));
    expect(waiting.every((one) => one instanceof Promise)).toBe(true);
    for (const caller of await Promise.all(waiting)) expect(caller.subject).toBe('u-4711');
    expect(provider.requests).toBe(2);
    expect(await status(rsa.token(claims))).toBe(200);
  });

  test('a token whose key is gone is refused at once, though it was good a moment ago', async () => {
    const { provider, keySet, status } = await identity();
    const [old, other] = [rsa.token(claims), ec.token(claims)];
    expect(await status(old)).toBe(200);
    expect(await status(other)).toBe(200);
    provider.keys = [ec.jwk];
    await keySet.refresh();
    expect(await status(old)).toBe(401);
    expect(await status(other)).toBe(200);

    // Also where another key took its name.
    provider.keys = [makeKey('ES256', 'ec-1').jwk];
    await keySet.refresh();
    expect(await status(other)).toBe(401);
  });

  test('a fetch for somebody else that brings the news is enough', async () => {
    const { provider, status } = await identity();
    const old = rsa.token(claims);
    expect(await status(old)).toBe(200);
    const next = makeKey('ES256', 'ec-2');
    provider.keys = [next.jwk];
    expect(await status(next.token(claims))).toBe(200);
    expect(await status(old)).toBe(401);
  });

  test('a flood of unknown keys asks the provider once, and a good token is not held up', async () => {
    const { provider, status } = await identity();
    const flood = Array.from({ length: 300 }, (_, index) =>
      status(rsa.token(claims, { alg: 'RS256', kid: `k${index}` })),
    );
    expect(new Set(await Promise.all(flood))).toEqual(new Set([401]));
    expect(provider.requests).toBeLessThanOrEqual(2);
    provider.misbehave = () => {};
    expect(await status(rsa.token(claims))).toBe(200);
  });
});

describe('while the provider is away', () => {
  test('tokens are checked with its last keys, unknown keys are refused, and after a day nobody can say', async () => {
    const { provider, keySet, clock, status, read, port } = await identity();
    const good = rsa.token(claims);
    expect(await status(good)).toBe(200);
    await provider.stop();
    await keySet.refresh();
    clock.ms = 23 * HOUR;
    expect(await status(good)).toBe(200);
    expect(await status(ed.token(claims))).toBe(200);
    expect(await status(makeKey('EdDSA', 'new').token(claims))).toBe(401);

    clock.ms = 25 * HOUR;
    const answer = await read(good);
    expect(answer).toMatchObject({ status: 503, retryAfter: '10', body: { code: 'not_ready' } });
    // What can not be a token still is none, and what needs none goes on.
    expect(await status('nonsense')).toBe(401);
    expect(await status(rsa.token(claims, { alg: 'none', kid: 'rsa-1' }))).toBe(401);
    expect((await fetch(`http://127.0.0.1:${port}/open`)).status).toBe(200);

    const back = await startProvider([rsa.jwk], { port: provider.port });
    onTestFinished(() => back.stop());
    await keySet.refresh();
    expect(await status(good)).toBe(200);
    expect(await status(ed.token(claims))).toBe(401);
  });
});

describe('the service', () => {
  test('starts while the provider is down, goes on without it, and takes its tokens when it is there', async () => {
    const down = await startProvider([rsa.jwk]);
    await down.stop();
    const service = await startService({
      environment: {
        SEALOG_JWT_SECRET: undefined,
        SEALOG_JWT_JWKS_URL: down.url,
        SEALOG_JWT_ISSUER: ISSUER,
        SEALOG_JWT_AUDIENCE: AUDIENCE,
        SEALOG_JWT_ROLES_MAP: '{"Auditors":"auditor","Machines":"service"}',
        SEALOG_ALLOW_ADDRESSES: '127.0.0.0/8',
      },
    });
    onTestFinished(() => service.stop());
    const token = (roles: string, jti: string) => rsa.token({ ...claims, iat: seconds(), roles, jti });
    const refused = await service.get('/v1/events', { token: token('Auditors', '1') });
    expect(refused).toMatchObject({ status: 503, body: { code: 'not_ready' } });
    expect(refused.headers['retry-after']).toBe('10');
    expect((await service.get('/healthz', { token: null })).status).toBe(200);
    expect((await service.get('/v1/events', { token: null })).status).toBe(401);
    const before = await service.get('/metrics', { token: null }).catch((error: Error) => ({ text: error.message }));
    expect(before.text).toMatch(/sealog_key_set_failures_total [1-9]/);
    expect(before.text).not.toMatch(/sealog_key_set_age_seconds [0-9]/);

    const up = await startProvider([rsa.jwk], { port: down.port });
    onTestFinished(() => up.stop());
    // As long as it never had them it tries again every two seconds.
    await expect
      .poll(async () => (await service.get('/v1/events', { token: token('Auditors', '2') })).status, {
        timeout: 20_000,
      })
      .toBe(200);
    const event = {
      ...{ id: 'e-1', category: 'system_operation', action: 'service.restart', outcome: 'success' },
      ...{ occurredAt: '2026-01-01T10:00:00Z', source: { service: 'test' } },
    };
    expect((await service.post('/v1/events', event, { token: token('Machines', '3') })).status).toBe(201);
    expect((await service.post('/v1/events', event, { token: token('service', '4') })).status).toBe(403);
    const after = await service.get('/metrics', { token: null }).catch((error: Error) => ({ text: error.message }));
    expect(after.text).toMatch(/sealog_key_set_age_seconds [0-9]/);
    expect(after.text).toMatch(/sealog_key_set_keys 1\n/);
  });
});

describe('settings', () => {
  const base = { issuer: ISSUER, audience: AUDIENCE };

  test.each<[string, Partial<ClaimRules>, RegExp]>([
    ['an empty issuer', { issuer: '' }, /SEALOG_JWT_ISSUER is empty/],
    ['an empty audience', { audience: '' }, /SEALOG_JWT_AUDIENCE is empty/],
    ['a pointer with a wrong escape', { rolesClaim: '/a~2b' }, /SEALOG_JWT_ROLES_CLAIM must be a claim's name/],
    ['an empty claim', { tenantClaim: '' }, /SEALOG_JWT_TENANT_CLAIM must be a claim's name/],
    ['one claim for two', { tenantClaim: 'roles' }, /SEALOG_JWT_TENANT_CLAIM and SEALOG_JWT_ROLES_CLAIM must be two/],
    ['one claim for two, as a pointer', { sitesClaim: '/roles' }, /SEALOG_JWT_ROLES_CLAIM and SEALOG_JWT_SITES_CLAIM/],
    ['a claim inside another', { sitesClaim: '/roles/sites' }, /neither inside the other/],
    ['a claim around another', { tenantClaim: '/a/b', sitesClaim: '/a' }, /neither inside the other/],
    ['a role that is none', { rolesMap: new Map([['x', 'admin']]) }, /there is no role "admin"/],
    ['a tenant that is none', { tenantMap: new Map([['x', 'ACME']]) }, /"ACME" can not be a tenant's name/],
  ])('with %s are refused', async (_what, rules, reason) => {
    const app = createServer({ log: silent });
    expect(() => tokenVerifier(app, { ...base, secret: generateSecret(), ...rules })).toThrow(reason);
    await app.close();
  });

  test('without keys are refused, and so is making tokens where a provider does', async () => {
    const app = createServer({ log: silent });
    expect(() => tokenVerifier(app, { ...base, jwksUrl: 'https://id.example.com/keys' })).toThrow(SettingsError);
    await app.close();
    const made = signToken(
      { ...base, jwksUrl: 'https://id.example.com/keys' },
      { tenant: 'acme', roles: ['auditor'], subject: 'dev', ttlSeconds: 60 },
    );
    await expect(made).rejects.toThrow(/come from the identity provider/);
  });

  test('that place and translate claims do so also for tokens of the operator', async () => {
    const options = {
      ...{ ...base, secret: generateSecret(), tenantClaim: '/org/id', rolesClaim: '/org/roles', sitesClaim: 'plants' },
      tenantMap: new Map([['ACME Ltd.', 'acme']]),
      rolesMap: new Map([['Auditors', 'auditor']]),
    };
    const app = createServer({ log: silent });
    onTestFinished(() => app.close());
    const verify = tokenVerifier(app, options);
    await app.ready();
    const wanted = { tenant: 'acme', roles: ['auditor'], sites: ['plant-7'], subject: 'dev', ttlSeconds: 60 };
    const token = await signToken(options, wanted);
    expect(JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString())).toMatchObject({
      ...{ org: { id: 'ACME Ltd.', roles: ['Auditors'] }, plants: ['plant-7'] },
    });
    expect(await verify(token)).toMatchObject({
      tenant: 'acme',
      roles: ['auditor'],
      sites: ['plant-7'],
      subject: 'dev',
    });
    // Whom it holds to no sites, it must say in their words.
    const { sites: _, ...all } = wanted;
    await expect(signToken(options, all)).rejects.toThrow(/a token must name sites/);
    const starred = await signToken({ ...options, allSites: '*' }, all);
    expect(JSON.parse(Buffer.from(starred.split('.')[1] as string, 'base64url').toString()).plants).toEqual(['*']);
    await expect(signToken(options, { ...wanted, tenant: 'umbrella' })).rejects.toThrow(
      /translates nothing to "umbrella"/,
    );
  });
});

describe('sealog token', () => {
  const run = async (args: string[], environment: Record<string, string>) => {
    const folder = await mkdtemp(join(tmpdir(), 'sealog-token-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const main = new URL('../src/cli/main.ts', import.meta.url).pathname;
    const env = { PATH: process.env['PATH'], SEALOG_DATA_DIR: folder, ...environment };
    return promisify(execFile)(process.execPath, [main, 'token', ...args], { env }).then(
      ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
      (error: { code: number; stdout: string; stderr: string }) => error,
    );
  };

  test('makes tokens for sites, and for the deployment', async () => {
    const args = [
      '--role',
      'operator',
      '--role',
      'plant_manager',
      '--tenant',
      'sealog',
      '--site',
      'plant-7',
      '--site',
      'a,b',
    ];
    const { code, stdout } = await run(args, { SEALOG_JWT_SECRET: generateSecret() });
    expect(code).toBe(0);
    expect(JSON.parse(Buffer.from(stdout.split('.')[1] as string, 'base64url').toString())).toMatchObject({
      ...{ tenant: 'sealog', roles: ['operator', 'plant_manager'], sites: ['plant-7', 'a,b'] },
    });
  });

  test('makes none where an identity provider does, and says so', async () => {
    const provider = { SEALOG_JWT_JWKS_URL: 'https://id.example.com/keys', SEALOG_JWT_ISSUER: ISSUER };
    const answer = await run(['--role', 'auditor', '--tenant', 'acme'], { ...provider, SEALOG_JWT_AUDIENCE: 'x' });
    expect(answer).toMatchObject({ code: 1, stdout: '' });
    expect(answer.stderr).toContain('tokens come from the identity provider');
  });
});

/** Returns the caller, or what was thrown. */
async function answer(verify: Verify<string>, token: string): Promise<Caller | unknown> {
  try {
    return await verify(token);
  } catch (error) {
    return error;
  }
}
