import { createHmac, generateKeyPairSync, sign as signBytes } from 'node:crypto';
import fc from 'fast-check';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { registerAccess } from '../src/auth/access.ts';
import { isRole, PERMISSIONS, permissionsOf, ROLES } from '../src/auth/roles.ts';
import { generateSecret, signToken, type TokenOptions, tokenVerifier } from '../src/auth/tokens.ts';
import { SettingsError } from '../src/errors.ts';
import { callerOf } from '../src/http/caller.ts';
import { closeServer, createServer } from '../src/http/server.ts';
import { listen, talk } from './support/http.ts';

const options: TokenOptions = { secret: generateSecret(), issuer: 'https://id.example.com', audience: 'sealog' };
const silent = { warn: () => undefined, error: () => undefined };
const now = Math.floor(Date.now() / 1000);
const header = { alg: 'HS256', typ: 'JWT' };
const claims = {
  iss: options.issuer,
  aud: options.audience,
  sub: 'svc-mes',
  iat: now,
  exp: now + 600,
  tenant: 'acme',
  roles: ['auditor'],
};

const encode = (value: unknown) =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
const hmac = (input: string, secret: string | Buffer = options.secret, hash = 'sha256') =>
  createHmac(hash, secret).update(input).digest('base64url');

/** A token with whatever in it, rightly signed. */
function token(head: unknown = header, body: unknown = claims): string {
  const input = `${encode(head)}.${encode(body)}`;
  return `${input}.${hmac(input)}`;
}
const withClaims = (changes: object) => token(header, { ...claims, ...changes });
const withHeader = (changes: object) => token({ ...header, ...changes });
const withoutClaim = (name: string) =>
  token(header, Object.fromEntries(Object.entries(claims).filter(([key]) => key !== name)));

let app: FastifyInstance;
let port: number;

beforeAll(async () => {
  app = createServer({ log: silent });
  registerAccess(app, { tokens: tokenVerifier(app, options) });
  app.get('/read', { config: { permission: 'events:read' } }, async (request) => {
    const { permissions, ...caller } = callerOf(request);
    return { ...caller, permissions: [...permissions] };
  });
  app.post('/write', { config: { permission: 'events:write' } }, async () => ({ written: true }));
  app.get('/open', { config: { permission: 'public' } }, async (request) => ({ caller: request.caller }));
  port = await listen(app);
});

afterAll(async () => {
  await closeServer(app, 200);
});

async function read(authorization?: string | null) {
  const response = await fetch(
    `http://127.0.0.1:${port}/read`,
    authorization == null ? {} : { headers: { authorization } },
  );
  return {
    status: response.status,
    headers: response.headers,
    body: (await response.json()) as Record<string, unknown>,
  };
}

async function status(text: string): Promise<number> {
  return (await read(`Bearer ${text}`)).status;
}

const READS = [
  'events:read',
  'events:export',
  'streams:read',
  'proofs:read',
  'verifications:run',
  'verifications:read',
];
const KEEPS = ['streams:read', 'proofs:read', 'verifications:run', 'verifications:read'];

const KEEPING = ['retention:read', 'retention:write', 'holds:read', 'holds:write'];

/** Role → what it may in a tenant, and in the deployment. Written by hand from DESIGN section 7. */
const MAY: Readonly<Record<string, readonly [tenant: readonly string[], deployment: readonly string[]]>> = {
  plant_operator: [[], []],
  shift_supervisor: [[], []],
  process_engineer: [[], []],
  executive_viewer: [[], []],
  plant_manager: [READS, READS],
  it_security_admin: [
    [...READS, 'api-keys:read', 'api-keys:write', 'sinks:read', 'sinks:write', ...KEEPING],
    [...READS, 'rotations:read', 'rotations:write', 'sinks:read', 'sinks:write', ...KEEPING],
  ],
  auditor: [
    [...READS, 'bundles:read', 'api-keys:read', 'sinks:read', 'retention:read', 'holds:read', 'erasures:read'],
    [...READS, 'bundles:read', 'rotations:read', 'sinks:read', 'retention:read', 'holds:read'],
  ],
  privacy_officer: [
    ['events:read', 'streams:read', 'erasures:read', 'erasures:write'],
    ['events:read', 'streams:read'],
  ],
  service: [['events:write'], []],
  operator: [KEEPS, [...KEEPS, 'tenants:read', 'tenants:write', 'rotations:read']],
};

describe('roles', () => {
  const may = (roles: readonly string[], tenant = 'acme', sites?: readonly string[]) =>
    [...permissionsOf(roles, tenant, sites)].sort();

  it('are all there, and may in a tenant and in the deployment what the blueprint says', () => {
    expect(Object.keys(ROLES)).toEqual(Object.keys(MAY));
    for (const [role, [tenant, deployment]] of Object.entries(MAY)) {
      expect({ role, may: may([role], 'acme', ['plant-7']) }).toEqual({ role, may: tenant.toSorted() });
      expect({ role, may: may([role], 'sealog', ['plant-7']) }).toEqual({ role, may: deployment.toSorted() });
      // Without sites only the plant manager loses something: everything.
      const without = role === 'plant_manager' ? [] : tenant.toSorted();
      expect({ role, may: may([role]) }).toEqual({ role, may: without });
    }
  });

  it('give each permission to somebody, and none that no route could ask for', () => {
    const given = Object.values(MAY).flat(2);
    expect([...new Set(given)].sort()).toEqual(Object.keys(PERMISSIONS).sort());
  });

  it('add up; unknown ones give nothing', () => {
    expect(may([])).toEqual([]);
    expect(may(['admin'])).toEqual([]);
    expect(may(['toString'])).toEqual([]);
    expect(may(['__proto__', 'constructor'])).toEqual([]);
    expect(may(['service', 'nonsense', 'privacy_officer', 'service'])).toEqual([
      'erasures:read',
      'erasures:write',
      'events:read',
      'events:write',
      'streams:read',
    ]);
    expect(isRole('auditor')).toBe(true);
    expect(isRole('valueOf')).toBe(false);
  });

  it('of a plant manager give nothing without sites, and do not take from his other roles', () => {
    expect(may(['plant_manager'], 'acme', [])).toEqual(READS.toSorted());
    expect(may(['plant_manager', 'auditor'], 'sealog')).not.toContain('erasures:read');
    expect(may(['plant_manager', 'service'])).toEqual(['events:write']);
  });
});

describe('a route', () => {
  it('without a permission keeps the service from starting', async () => {
    const careless = createServer({ log: silent });
    registerAccess(careless, { tokens: tokenVerifier(careless, options) });
    expect(() => careless.get('/x', async () => ({}))).toThrow('declares no permission');
    expect(() => careless.get('/y', { config: { permission: 'events:raed' as never } }, async () => ({}))).toThrow(
      'no permission',
    );
    await careless.close();

    const nested = createServer({ log: silent });
    registerAccess(nested, { tokens: tokenVerifier(nested, options) });
    nested.register(async (inner) => {
      inner.get('/x', async () => ({}));
    });
    await expect(nested.ready()).rejects.toThrow('declares no permission');
    await nested.close();
  });

  it('that was added too early keeps the service from starting', async () => {
    const early = createServer({ log: silent });
    early.get('/x', { config: { permission: 'events:read' } }, async () => ({}));
    registerAccess(early, { tokens: tokenVerifier(early, options) });
    await expect(early.ready()).rejects.toThrow('before registerAccess');
    await early.close();
  });

  it('that is public needs no token and looks at none', async () => {
    const response = await fetch(`http://127.0.0.1:${port}/open`, { headers: { authorization: 'Bearer nonsense' } });
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({ caller: null });
  });

  it('asks who, before it looks at the body', async () => {
    const refused = await fetch(`http://127.0.0.1:${port}/write`, { method: 'POST', body: 'x'.repeat(2_000_000) });
    expect(refused.status).toBe(401);
    const head = 'POST /write HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\ncontent-type: application/json\r\n\r\n';
    expect((await talk(port, head, { untilMs: 300 })).status).toBe(401);
  });
});

describe('a token', () => {
  it('of signToken says who calls', async () => {
    const signed = await signToken(options, { tenant: 'acme', roles: ['auditor'], subject: 'dev', ttlSeconds: 60 });
    const { status, body } = await read(`Bearer ${signed}`);
    expect(status).toBe(200);
    expect(body).toEqual({
      tenant: 'acme',
      subject: 'dev',
      credential: 'token',
      roles: ['auditor'],
      permissions: expect.arrayContaining(MAY['auditor']![0] as string[]),
    });
    const payload = JSON.parse(Buffer.from(signed.split('.')[1] as string, 'base64url').toString());
    expect(payload.exp - payload.iat).toBe(60);
    expect(payload).toMatchObject({ iss: options.issuer, aud: options.audience });
  });

  it('of somebody else with the same secret is taken too', async () => {
    const { status, body } = await read(`Bearer ${withClaims({ sites: ['plant-7'], jti: 'x', extra: { a: [1] } })}`);
    expect(status).toBe(200);
    expect(body).toMatchObject({ tenant: 'acme', subject: 'svc-mes', sites: ['plant-7'] });
  });

  it.each<[string, string]>([
    ['the audience in a list', withClaims({ aud: ['other', 'sealog'] })],
    ['roles that are unknown', withClaims({ roles: ['nonsense', 'auditor'] })],
    ['a fraction of a second', withClaims({ iat: now - 0.5, exp: now + 60.25 })],
    ['a clock that is 50 s ahead', withClaims({ iat: now + 50, nbf: now + 50 })],
    ['a key id', withHeader({ kid: 'k1' })],
    ['a key id of 128 letters', withHeader({ kid: 'x'.repeat(128) })],
    ['the type of an access token', withHeader({ typ: 'at+jwt' })],
    ['the type of an access token, in full', withHeader({ typ: 'application/at+jwt' })],
    ['no type', token({ alg: 'HS256' })],
    [
      'the same name in different objects',
      token(header, { ...claims, a: { b: 1 }, c: [{ b: 1 }, { b: 2 }], b: ':"{,' }),
    ],
    ['one role as text', withClaims({ roles: 'auditor' })],
    ['no site at all', withClaims({ sites: [] })],
    ['a long tenant', withClaims({ tenant: `a${'-'.repeat(62)}` })],
  ])('may have %s', async (_what, text) => {
    expect(await status(text)).toBe(200);
  });

  it('is for the deployment itself where the operator signs so: what a tenant has is not to be had there', async () => {
    const { status, body } = await read(`Bearer ${withClaims({ tenant: 'sealog', roles: ['operator', 'auditor'] })}`);
    expect(status).toBe(200);
    expect(body).toMatchObject({ tenant: 'sealog' });
    expect(body['permissions']).toContain('tenants:write');
    expect(body['permissions']).not.toContain('api-keys:read');
    const sender = await fetch(`http://127.0.0.1:${port}/write`, {
      method: 'POST',
      headers: { authorization: `Bearer ${withClaims({ tenant: 'sealog', roles: ['service'] })}` },
    });
    expect(sender.status).toBe(403);
  });

  it('whose sites are none is held to none, and not to all', async () => {
    const { status, body } = await read(`Bearer ${withClaims({ sites: [] })}`);
    expect(status).toBe(200);
    expect(body['sites']).toEqual([]);
  });

  it('without the permission is refused: 403, and says nothing more', async () => {
    for (const roles of [
      [],
      ['service'],
      ['nonsense'],
      '__proto__',
      ['plant_manager', 'executive_viewer', 'operator'],
    ]) {
      const { status, headers, body } = await read(`Bearer ${withClaims({ roles })}`);
      expect(status).toBe(403);
      expect(body).toEqual({
        type: 'urn:sealog:problem:forbidden',
        title: 'The credential does not permit this',
        status: 403,
        code: 'forbidden',
      });
      expect(headers.get('www-authenticate')).toBeNull();
    }
  });

  it('that is missing is refused: 401, and names the scheme', async () => {
    const { status, headers, body } = await read();
    expect(status).toBe(401);
    expect(headers.get('www-authenticate')).toBe('Bearer');
    expect(headers.get('content-type')).toBe('application/problem+json');
    expect(body).toEqual({
      type: 'urn:sealog:problem:unauthenticated',
      title: 'A valid credential is required',
      status: 401,
      code: 'unauthenticated',
    });
  });

  const good = token();
  const [head, body, signature] = good.split('.') as [string, string, string];
  it.each<[string, string]>([
    ['no token', 'Bearer'],
    ['an empty token', 'Bearer '],
    ['two blanks', `Bearer  ${good}`],
    ['a tab', `Bearer\t${good}`],
    ['no scheme', good],
    ['another scheme', `Basic ${good}`],
    ['the scheme in lower case', `bearer ${good}`],
    ['something behind it', `Bearer ${good} x`],
    ['two tokens', `Bearer ${good}, Bearer ${good}`],
    ['a comma', `Bearer ${good},`],
    ['a leading comma', `,Bearer ${good}`],
    ['quotes', `Bearer "${good}"`],
  ])('is refused with %s in the header', async (_what, authorization) => {
    expect((await read(authorization)).status).toBe(401);
  });

  it('is refused when the header comes twice, whichever is good', async () => {
    const lines = [`authorization: Bearer ${good}\r\n`, 'authorization: Bearer x\r\n'];
    for (const both of [lines, lines.toReversed(), [lines[0], lines[0]]]) {
      const answer = await talk(port, `GET /read HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${both.join('')}\r\n`);
      expect(answer.status).toBe(401);
    }
  });

  it.each<[string, string]>([
    ['one segment', head],
    ['two segments', `${head}.${body}`],
    ['four segments', `${good}.${signature}`],
    ['five segments (JWE)', `${good}.${head}.${body}`],
    ['no header', `.${body}.${signature}`],
    ['no claims', `${head}..${signature}`],
    ['no signature', `${head}.${body}.`],
    ['padding in the signature', `${good}=`],
    ['padding in the header', `${head}=.${body}.${signature}`],
    ['standard base64', `${head}.${body}.${signature.replaceAll('-', '+').replaceAll('_', '/')}+`],
    ['a blank inside', `${head}.${body} .${signature}`],
    ['an escape', `${head}.${body}.%41${signature}`],
    ['a letter that is none', `${head}.${body}.ä${signature}`],
    ['a last letter that decodes to the same bytes', changeLastLetter(good)],
    ['one letter more', `${good}A`],
    ['one letter less', good.slice(0, -1)],
    ['a signature of other claims', `${head}.${encode({ ...claims, roles: ['service', 'auditor'] })}.${signature}`],
    ['a signature of zeros', `${head}.${body}.${Buffer.alloc(32).toString('base64url')}`],
    ['a short signature', `${head}.${body}.${signature.slice(0, 22)}w`],
    ['another secret', `${head}.${body}.${hmac(`${head}.${body}`, 'x'.repeat(32))}`],
    ['the empty secret', `${head}.${body}.${hmac(`${head}.${body}`, '')}`],
    ['more than 8 KiB', withClaims({ filler: 'x'.repeat(9000) })],
  ])('is refused with %s', async (_what, text) => {
    expect(await status(text)).toBe(401);
  });

  it('with any letter changed is refused', async () => {
    const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ ';
    const at = fc.nat(good.length - 1);
    await fc.assert(
      fc.asyncProperty(at, fc.constantFrom(...letters), async (index, letter) => {
        fc.pre(good[index] !== letter);
        expect(await status(good.slice(0, index) + letter + good.slice(index + 1))).toBe(401);
      }),
      { numRuns: 200 },
    );
  });

  it.each<[string, () => string]>([
    ['alg none', () => `${encode({ alg: 'none' })}.${body}.`],
    ['alg none and a signature', () => withHeader({ alg: 'none' })],
    ['alg None', () => withHeader({ alg: 'None' })],
    ['alg hs256', () => withHeader({ alg: 'hs256' })],
    ['alg HS256 with a blank', () => withHeader({ alg: 'HS256 ' })],
    ['alg HS512, rightly signed', () => signedWith('HS512', 'sha512')],
    ['alg HS384, rightly signed', () => signedWith('HS384', 'sha384')],
    ['alg RS256', () => asymmetric()],
    ['alg a list', () => withHeader({ alg: ['HS256'] })],
    ['alg null', () => withHeader({ alg: null })],
    ['no alg', () => token({ typ: 'JWT' })],
    ['crit', () => withHeader({ crit: ['exp'], exp: 1 })],
    ['an empty crit', () => withHeader({ crit: [] })],
    ['b64', () => withHeader({ b64: false })],
    ['b64 and crit', () => withHeader({ b64: false, crit: ['b64'] })],
    ['zip', () => withHeader({ zip: 'DEF' })],
    ['enc', () => withHeader({ enc: 'A128GCM' })],
    ['jku', () => withHeader({ jku: 'https://evil.example.com/keys' })],
    ['x5u', () => withHeader({ x5u: 'https://evil.example.com/cert' })],
    ['x5c', () => withHeader({ x5c: ['MII'] })],
    ['jwk', () => withHeader({ jwk: { kty: 'oct', k: 'eHh4eHh4eHg' } })],
    ['cty JWT', () => withHeader({ cty: 'JWT' })],
    ['typ JWE', () => withHeader({ typ: 'JWE' })],
    ['typ a number', () => withHeader({ typ: 1 })],
    ['a kid that is no text', () => withHeader({ kid: { $ne: null } })],
    ['a long kid', () => withHeader({ kid: `../../${'x'.repeat(123)}` })],
    ['an empty kid', () => withHeader({ kid: '' })],
    ['alg twice', () => token('{"alg":"none","alg":"HS256"}')],
    ['alg twice, once escaped', () => token('{"alg":"HS256","\\u0061lg":"HS256"}')],
    ['a header that is a list', () => token([header])],
    ['a header that is null', () => token('null')],
    ['a header that is text', () => token('"HS256"')],
    ['a header that is no JSON', () => token('{alg:HS256}')],
    ['a header with something behind it', () => token(`${JSON.stringify(header)}x`)],
    ['a header with a byte order mark', () => token(`\uFEFF${JSON.stringify(header)}`)],
    ['__proto__ in the header', () => token('{"alg":"HS256","__proto__":{"typ":"JWT"}}')],
  ])('is refused with %s', async (_what, make) => {
    expect(await status(make())).toBe(401);
  });

  it.each<[string, string]>([
    ...['sub', 'iss', 'aud', 'exp', 'iat', 'tenant', 'roles'].map((name): [string, string] => [
      `no ${name}`,
      withoutClaim(name),
    ]),
    ['another issuer', withClaims({ iss: 'https://id.example.com.evil.com' })],
    ['an issuer that begins alike', withClaims({ iss: 'https://id.example.co' })],
    ['an issuer in a list', withClaims({ iss: [options.issuer] })],
    ['an issuer that is null', withClaims({ iss: null })],
    ['another audience', withClaims({ aud: 'sealog2' })],
    ['an audience that holds ours', withClaims({ aud: 'xsealogx' })],
    ['other audiences', withClaims({ aud: ['a', 'b'] })],
    ['no audience in the list', withClaims({ aud: [] })],
    ['an audience that is an object', withClaims({ aud: { sealog: 1 } })],
    ['expired', withClaims({ exp: now - 1 })],
    ['expired within the skew', withClaims({ exp: now - 30 })],
    ['expires as text', withClaims({ exp: String(now + 600) })],
    ['expires never', withClaims({ exp: null })],
    ['expires in a list', withClaims({ exp: [now + 600] })],
    ['expires at infinity', token(header, JSON.stringify(claims).replace(/"exp":\d+/, '"exp":1e999'))],
    ['expires before all time', withClaims({ exp: -1e300 })],
    ['expires at true', withClaims({ exp: true })],
    ['issued in the future', withClaims({ iat: now + 3600 })],
    ['issued as text', withClaims({ iat: 'now' })],
    ['issued before 1970', withClaims({ iat: -1 })],
    ['not valid yet', withClaims({ nbf: now + 3600 })],
    ['not before text', withClaims({ nbf: 'x' })],
    ['not before null', withClaims({ nbf: null })],
    ['no subject', withClaims({ sub: '' })],
    ['a subject that is a number', withClaims({ sub: 7 })],
    ['a subject with U+0000', withClaims({ sub: 'a\0' })],
    ['a subject with a line end', withClaims({ sub: 'a\nb' })],
    ['a subject that is half a character', token(header, JSON.stringify(claims).replace('svc-mes', '\\ud800'))],
    ['a long subject', withClaims({ sub: 'x'.repeat(257) })],
    ['an empty tenant', withClaims({ tenant: '' })],
    ['a tenant in upper case', withClaims({ tenant: 'Acme' })],
    ['a tenant with a slash', withClaims({ tenant: 'acme/x' })],
    ['a tenant with a line end', withClaims({ tenant: 'acme\n' })],
    ['a tenant that begins with a dash', withClaims({ tenant: '-acme' })],
    ['a tenant that is too long', withClaims({ tenant: 'a'.repeat(64) })],
    ['a tenant in a list', withClaims({ tenant: ['acme'] })],
    ['a tenant that is null', withClaims({ tenant: null })],
    ['empty roles', withClaims({ roles: '' })],
    ['roles that are null', withClaims({ roles: null })],
    ['too many roles', withClaims({ roles: Array.from({ length: 257 }, (_, i) => `r${i}`) })],
    ['roles as an object', withClaims({ roles: { 0: 'auditor', length: 1 } })],
    ['a role that is no text', withClaims({ roles: ['auditor', 1] })],
    ['roles in lists', withClaims({ roles: [['auditor']] })],
    ['sites as text', withClaims({ sites: 'plant-7' })],
    ['sites that are null', withClaims({ sites: null })],
    ['sites that are an object', withClaims({ sites: { 0: 'plant-7', length: 1 } })],
    ['a site that is empty', withClaims({ sites: [''] })],
    ['a site that is no text', withClaims({ sites: ['plant-7', 8] })],
    ['sites that stand elsewhere', withClaims({ _claim_names: { sites: 'src1' } })],
    ['claims elsewhere that nobody understands', withClaims({ _claim_names: 'sites' })],
    ['an audience beside ours that is no text', withClaims({ aud: ['sealog', 7] })],
    ['a claim twice', token(header, JSON.stringify(claims).replace('{', '{"tenant":"other",'))],
    ['a claim twice, once escaped', token(header, JSON.stringify(claims).replace('{', '{"ten\\u0061nt":"other",'))],
    ['a claim twice inside', token(header, JSON.stringify(claims).replace('{', '{"x":{"a":1,"a":1},'))],
    ['claims in __proto__', token(header, `{"__proto__":${JSON.stringify(claims)}}`)],
    ['claims that are a list', token(header, [claims])],
    ['claims that are null', token(header, 'null')],
    ['claims that are a number', token(header, '1')],
    ['claims that are no JSON', token(header, JSON.stringify(claims).slice(0, -1))],
    ['claims nested deeply', token(header, `{"a":${'['.repeat(2900)}${']'.repeat(2900)}}`)],
  ])('is refused when it has or is: %s', async (_what, text) => {
    expect(await status(text)).toBe(401);
  });

  it('that is no UTF-8 is refused', async () => {
    const bytes = Buffer.from(JSON.stringify({ ...claims, sub: 'a?b' }));
    bytes[bytes.indexOf('?')] = 0xff;
    const input = `${encode(header)}.${bytes.toString('base64url')}`;
    expect(await status(`${input}.${hmac(input)}`)).toBe(401);
  });

  it('made of anything never makes a 500', async () => {
    const segment = fc.oneof(
      fc.base64String(),
      fc.json().map(encode),
      fc.constantFrom(head, body, signature, '', '.', '!'),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(segment, { maxLength: 4 }), async (segments) => {
        const { status } = await read(`Bearer ${segments.join('.')}`);
        expect([200, 401]).toContain(status);
        expect(status === 200).toBe(segments.join('.') === good);
      }),
      { numRuns: 300 },
    );
  });

  it('is checked each time: one that was good a moment ago is not remembered', async () => {
    const soon = withClaims({ exp: Date.now() / 1000 + 0.3 });
    expect(await status(soon)).toBe(200);
    await new Promise((resolve) => setTimeout(resolve, 350));
    expect(await status(soon)).toBe(401);
  });
});

describe('settings', () => {
  it('with other claims are followed', async () => {
    const custom = { ...options, rolesClaim: 'https://acme.example.com/roles', tenantClaim: 'org' };
    const other = createServer({ log: silent });
    registerAccess(other, { tokens: tokenVerifier(other, custom) });
    other.get('/read', { config: { permission: 'events:read' } }, async (request) => ({
      tenant: callerOf(request).tenant,
    }));
    const signed = await signToken(custom, { tenant: 'acme', roles: ['auditor'], subject: 'dev', ttlSeconds: 60 });
    const ask = (text: string) => other.inject({ url: '/read', headers: { authorization: `Bearer ${text}` } });
    expect((await ask(signed)).json()).toEqual({ tenant: 'acme' });
    expect((await ask(good())).statusCode).toBe(401);
    await other.close();
  });

  it.each([
    { ...options, secret: 'x'.repeat(31) },
    { ...options, secret: '' },
    { ...options, issuer: '' },
    { ...options, audience: '' },
  ])('that are unsafe are refused', async (unsafe) => {
    const other = createServer({ log: silent });
    expect(() => registerAccess(other, { tokens: tokenVerifier(other, unsafe) })).toThrow(SettingsError);
    await expect(signToken(unsafe, { tenant: 'a', roles: [], subject: 'x', ttlSeconds: 1 })).rejects.toThrow(
      SettingsError,
    );
    await other.close();
  });

  it('get secrets that are new each time', () => {
    expect(generateSecret()).not.toBe(generateSecret());
    expect(Buffer.from(generateSecret(), 'base64url')).toHaveLength(32);
  });
});

function good(): string {
  return token();
}

/** 32 bytes are 43 letters; the last one has two bits that encode nothing. */
function changeLastLetter(text: string): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  const changed = text.slice(0, -1) + alphabet[alphabet.indexOf(text.at(-1) as string) ^ 1];
  const bytes = (token: string) => Buffer.from(token.split('.')[2] as string, 'base64url');
  expect(bytes(changed)).toEqual(bytes(text));
  return changed;
}

function signedWith(alg: string, hash: string): string {
  const input = `${encode({ ...header, alg })}.${encode(claims)}`;
  return `${input}.${hmac(input, options.secret, hash)}`;
}

function asymmetric(): string {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const input = `${encode({ ...header, alg: 'RS256' })}.${encode(claims)}`;
  return `${input}.${signBytes('sha256', Buffer.from(input), privateKey).toString('base64url')}`;
}
