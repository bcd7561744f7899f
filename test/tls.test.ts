/** TLS served by the service itself, the certificates it asks its clients for, and both kinds of files changing while it runs. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { chmod, copyFile, mkdir, mkdtemp, readFile, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import type { IncomingHttpHeaders } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import type { FastifyInstance } from 'fastify';
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { namesOf } from '../src/auth/certificates.ts';
import { type CertifiedServices, readClientsFile } from '../src/auth/clients-file.ts';
import { SettingsError } from '../src/errors.ts';
import { closeServer, createServer } from '../src/http/server.ts';
import { ServerTls } from '../src/http/tls.ts';
import { selfSigned, startTlsAuthority, type TlsAuthority, type TlsFiles } from './support/certificates.ts';
import { listen } from './support/http.ts';
import { startService, type TestService } from './support/service.ts';
import { withoutOpenssl } from './support/time-stamp-authority.ts';

const EVENT = {
  category: 'system_operation',
  action: 'service.restart',
  outcome: 'success',
  occurredAt: '2026-01-01T10:00:00Z',
  source: { service: 'mes', site: 'plant-7' },
};

let authority: TlsAuthority;
let stranger: TlsAuthority;
/** Of the server, which is localhost. */
let served: TlsFiles;
let folder: string;

beforeAll(async () => {
  if (withoutOpenssl !== undefined) return;
  folder = await mkdtemp(join(tmpdir(), 'sealog-test-tls-'));
  [authority, stranger] = await Promise.all([startTlsAuthority(), startTlsAuthority()]);
  served = await authority.issue({ name: 'server', names: 'DNS:localhost,IP:127.0.0.1', purpose: 'server' });
});
afterAll(async () => {
  await authority?.stop();
  await stranger?.stop();
  if (folder !== undefined) await rm(folder, { recursive: true, force: true });
});

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

interface Asking {
  readonly path?: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly agent?: Agent;
  /** The client's. */
  readonly shows?: TlsFiles;
}

async function ask(port: number, { path = '/things', body, headers, agent, shows }: Asking = {}): Promise<Answer> {
  const request = httpsRequest({
    ...{ port, host: '127.0.0.1', servername: 'localhost', path, agent: agent ?? false },
    ...{ method: body === undefined ? 'GET' : 'POST', ca: await readFile(authority.root) },
    headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
    ...(shows === undefined ? {} : { cert: await readFile(shows.cert), key: await readFile(shows.key) }),
  });
  request.end(body === undefined ? undefined : JSON.stringify(body));
  const [response] = await once(request, 'response');
  const text = Buffer.concat(await response.toArray()).toString();
  return { status: response.statusCode, headers: response.headers, text };
}

/** Returns the connection, or the error that there is none. */
function handshake(port: number, options: ConnectionOptions = {}): Promise<TLSSocket | NodeJS.ErrnoException> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', servername: 'localhost', rejectUnauthorized: false, ...options });
    socket.once('error', resolve);
    socket.once('secureConnect', () => resolve(socket));
  });
}

async function connected(port: number, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const socket = await handshake(port, options);
  if (socket instanceof Error) throw socket;
  socket.on('error', () => {});
  return socket;
}

/** Sends a request over a connection that stays, and returns the head of the answer. */
async function over(socket: TLSSocket, head = 'GET /things HTTP/1.1\r\nhost: x\r\n\r\n'): Promise<string> {
  const answered = once(socket, 'data');
  socket.write(head);
  const [chunk] = await answered;
  return String(chunk);
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const begin = performance.now();
  while (!(await condition())) {
    expect(performance.now() - begin).toBeLessThan(15_000);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Copies of a pair in a folder of its own, which a test may change. */
async function place(from: TlsFiles): Promise<TlsFiles> {
  const own = await mkdtemp(join(folder, 'pair-'));
  const files = { cert: join(own, 'cert.pem'), key: join(own, 'key.pem') };
  await copyFile(from.cert, files.cert);
  await copyFile(from.key, files.key);
  await chmod(files.key, 0o600);
  return files;
}

describe.skipIf(withoutOpenssl !== undefined)('the shell over TLS', () => {
  let app: FastifyInstance;
  let tls: ServerTls;
  let port: number;
  let lines: [level: string, facts: object, message: string][];
  let letGo: () => void;

  async function start(files: TlsFiles, clientCa?: string): Promise<void> {
    lines = [];
    const log = Object.fromEntries(
      ['info', 'warn', 'error'].map((level) => [
        level,
        (...[facts, message]: unknown[]) => void lines.push([level, facts as object, message as string]),
      ]),
    ) as Record<'info' | 'warn' | 'error', (...line: unknown[]) => void>;
    tls = await ServerTls.open({ files: { ...files, clientCa }, log, everyMs: 20 });
    app = createServer({ log, tls });
    const held = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    const config = { permission: 'public' as const };
    app.get('/things', { config }, async () => ({ things: [] }));
    app.get('/hold', { config }, async () => held.then(() => ({ held: true })));
    app.get('/bug', { config }, async () => {
      throw new Error('a bug');
    });
    port = await listen(app);
  }
  afterEach(async () => {
    letGo();
    tls.stop();
    await closeServer(app, 100);
  });

  it('speaks TLS 1.2 and 1.3 with forward secrecy and AEAD', async () => {
    await start(served);
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      const socket = await connected(port, { minVersion: version, maxVersion: version });
      expect(socket.getProtocol()).toBe(version);
      expect(socket.getCipher().name).toMatch(/^(ECDHE-ECDSA|TLS)[-_].*(GCM|CHACHA20)/);
      expect(socket.alpnProtocol).toBe(false);
      socket.destroy();
    }
  });

  it.each<[string, ConnectionOptions]>([
    ['TLS 1.0', { minVersion: 'TLSv1', maxVersion: 'TLSv1', ciphers: 'ALL:@SECLEVEL=0' }],
    ['TLS 1.1', { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' }],
    ['CBC', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA' }],
    ['keys without forward secrecy', { maxVersion: 'TLSv1.2', ciphers: 'AES128-GCM-SHA256:AES256-GCM-SHA384' }],
    ['no encryption', { maxVersion: 'TLSv1.2', ciphers: 'eNULL:aNULL:@SECLEVEL=0' }],
    ['another protocol than HTTP/1.1', { ALPNProtocols: ['h2', 'smtp'] }],
  ])('refuses %s', async (_what, options) => {
    await start(served);
    expect(await handshake(port, options)).toBeInstanceOf(Error);
    expect((await ask(port)).status).toBe(200);
  });

  it('neither renegotiates nor takes a session again', async () => {
    await start(served);
    const first = await connected(port, { maxVersion: 'TLSv1.2' });
    const ended = new Promise((resolve) => first.once('close', resolve));
    first.renegotiate({}, () => {});
    await ended;

    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      const socket = await connected(port, { maxVersion: version });
      const sessions: Buffer[] = [];
      socket.on('session', (session: Buffer) => sessions.push(session));
      await over(socket);
      const session = sessions[0] ?? socket.getSession();
      socket.destroy();
      const again = await connected(port, { maxVersion: version, session });
      expect(again.isSessionReused(), version).toBe(false);
      expect(await over(again)).toMatch(/^HTTP\/1\.1 200/);
      again.destroy();
    }
  });

  it('says for a year that there is TLS, on every answer, as the clear does not', async () => {
    await start(served);
    for (const path of ['/things', '/nothing', '/bug', '/things/%zz'])
      expect((await ask(port, { path })).headers['strict-transport-security']).toBe('max-age=31536000');
    const socket = await connected(port);
    expect(await over(socket, 'nonsense\r\n\r\n')).toContain('\r\nstrict-transport-security: max-age=31536000\r\n');
  });

  it('asks for no certificate where nobody could check it', async () => {
    await start(served);
    const shows = await authority.issue({ name: 'unasked', names: 'DNS:a.example', purpose: 'client' });
    expect((await ask(port, { shows })).status).toBe(200);
  });

  describe('whose files change', () => {
    it('takes the new pair for new connections and cuts none that are there', async () => {
      const files = await place(served);
      await start(files);
      const old = await connected(port);
      expect(await over(old)).toMatch(/^HTTP\/1\.1 200/);
      const waiting = ask(port, { path: '/hold' });
      await new Promise((resolve) => setTimeout(resolve, 100));

      const next = await authority.issue({ name: 'next', names: 'DNS:localhost', purpose: 'both' });
      const serial = new X509Certificate(await readFile(next.cert)).serialNumber;
      // One after the other, as people and tools do.
      await copyFile(next.cert, files.cert);
      await new Promise((resolve) => setTimeout(resolve, 25));
      await copyFile(next.key, files.key);
      await until(() => tls.certificate.serialNumber === serial);

      const fresh = await connected(port);
      expect(fresh.getPeerCertificate().serialNumber).toBe(serial);
      fresh.destroy();
      expect(await over(old)).toMatch(/^HTTP\/1\.1 200/);
      letGo();
      expect((await waiting).status).toBe(200);
      expect(tls.status).toEqual({ expiresAt: tls.certificate.validToDate.getTime(), refused: false });
      old.destroy();
    });

    it('follows a link to another folder, and files that were renamed into their place', async () => {
      const next = await authority.issue({ name: 'linked', names: 'DNS:localhost' });
      const own = await mkdtemp(join(folder, 'links-'));
      for (const [name, pair] of [
        ['one', served],
        ['two', next],
      ] as const) {
        await mkdir(join(own, name));
        await copyFile(pair.cert, join(own, name, 'tls.crt'));
        await copyFile(pair.key, join(own, name, 'tls.key'));
        await chmod(join(own, name, 'tls.key'), 0o640);
      }
      await symlink('one', join(own, 'current'));
      await start({ cert: join(own, 'current', 'tls.crt'), key: join(own, 'current', 'tls.key') });
      await symlink('two', join(own, 'new'));
      await rename(join(own, 'new'), join(own, 'current'));
      const serial = new X509Certificate(await readFile(next.cert)).serialNumber;
      await until(() => tls.certificate.serialNumber === serial);
      expect(lines.map(([level]) => level)).toEqual(['info']);
    });

    it.each<[string, RegExp, (files: TlsFiles) => Promise<unknown>]>([
      ['does not fit', /is not the key of/, (files) => copyFile(join(authority.folder, 'between.key'), files.key)],
      ['is gone', /SEALOG_TLS_CERT can not be read: ENOENT/, (files) => unlink(files.cert)],
      ['is empty', /SEALOG_TLS_KEY holds no private key/, (files) => writeFile(files.key, '')],
      [
        'is half written',
        /broken certificate|no certificate/,
        async (files) => writeFile(files.cert, (await readFile(files.cert, 'utf8')).slice(0, 300)),
      ],
      [
        'everybody may read',
        /that everybody on this machine may use/,
        async (files) => {
          await copyFile(join(authority.folder, 'between.key'), files.key);
          await chmod(files.key, 0o644);
        },
      ],
    ])('keeps the old pair where the new one %s, and says so once', async (_what, problem, damage) => {
      const files = await place(served);
      await start(files);
      await damage(files);
      await until(() => lines.length > 0);
      await new Promise((resolve) => setTimeout(resolve, 150));
      expect(lines).toHaveLength(1);
      const [level, facts] = lines[0]!;
      expect(level).toBe('error');
      expect((facts as { problems: string[] }).problems.join()).toMatch(problem);
      expect(tls.status.refused).toBe(true);
      expect((await ask(port)).status).toBe(200);

      await copyFile(served.cert, files.cert);
      await copyFile(served.key, files.key);
      await chmod(files.key, 0o600);
      await until(() => !tls.status.refused);
      expect((await ask(port)).status).toBe(200);
    });
  });

  it('warns of a certificate that expires soon, has expired, or is of the future, and serves it', async () => {
    for (const [name, valid, level] of [
      ['soon', [-10, 3], 'warn'],
      ['expired', [-10, -1], 'error'],
      ['future', [1, 100], 'warn'],
    ] as const) {
      const pair = await authority.issue({ name, names: 'DNS:localhost', valid });
      await start(pair);
      expect(lines).toEqual([[level, expect.anything(), expect.stringMatching(/^the TLS certificate/)]]);
      tls.stop();
      await closeServer(app, 100);
    }
    await start(served);
    expect(lines).toEqual([]);
  });

  it('asks anew for a certificate that was shown to other authorities, and for one that was shown long ago', async () => {
    const shows = await authority.issue({ name: 'anew', names: 'DNS:anew.example', purpose: 'client' });
    const client = { cert: await readFile(shows.cert), key: await readFile(shows.key) };
    const ca = join(await mkdtemp(join(folder, 'ca-')), 'ca.pem');
    await copyFile(authority.root, ca);
    await start(served, ca);
    const shown = await connected(port, client);
    const bare = await connected(port);
    expect(await over(shown)).not.toMatch(/connection: close/i);
    expect(await over(bare)).not.toMatch(/connection: close/i);
    const busy = await connected(port, client);
    const answered = over(busy, 'GET /hold HTTP/1.1\r\nhost: x\r\n\r\n');
    await new Promise((resolve) => setTimeout(resolve, 100));

    const closed = once(shown, 'close');
    await writeFile(ca, Buffer.concat([await readFile(ca), await readFile(stranger.root)]));
    await closed;
    letGo();
    expect(await answered).toMatch(/^HTTP\/1\.1 200/);
    expect(await over(busy)).toMatch(/connection: close/i);
    // Who showed nothing has nothing to show anew.
    expect(await over(bare)).not.toMatch(/connection: close/i);

    tls.stop();
    await closeServer(app, 100);
    tls = await ServerTls.open({ files: { ...served, clientCa: ca }, log: console, everyMs: 20, showAgainMs: 200 });
    app = createServer({ log: console, tls });
    app.get('/things', { config: { permission: 'public' } }, async () => ({}));
    port = await listen(app);
    const kept = await connected(port, client);
    expect(await over(kept)).not.toMatch(/connection: close/i);
    await new Promise((resolve) => setTimeout(resolve, 250));
    expect(await over(kept)).toMatch(/connection: close/i);
  });
});

describe.skipIf(withoutOpenssl !== undefined)('files that can not be used are refused at the start', () => {
  const log = { info() {}, warn() {}, error() {} };
  async function problems(files: TlsFiles, clientCa?: string): Promise<readonly string[]> {
    try {
      const tls = await ServerTls.open({ files: { ...files, clientCa }, log });
      tls.stop();
      return [];
    } catch (error) {
      expect(error).toBeInstanceOf(SettingsError);
      return (error as SettingsError).problems;
    }
  }

  it('and those that can are not', async () => {
    expect(await problems(served)).toEqual([]);
    expect(await problems(served, authority.root)).toEqual([]);
    for (const key of ['p384', 'rsa2048'] as const)
      expect(await problems(await authority.issue({ name: key, names: 'DNS:localhost', key }))).toEqual([]);
    const unsaid = await authority.issue({ name: 'unsaid', names: 'DNS:localhost', purpose: 'unsaid' });
    expect(await problems(unsaid)).toEqual([]);
  });

  it.each<[string, (files: TlsFiles) => Promise<unknown>, RegExp]>([
    ['no file', (files) => unlink(files.key), /^SEALOG_TLS_KEY can not be read: ENOENT$/],
    ['a folder', async (files) => unlink(files.cert).then(() => mkdir(files.cert)), /^SEALOG_TLS_CERT names no file$/],
    ['too much', (files) => writeFile(files.cert, 'x'.repeat(2 ** 20 + 1)), /^SEALOG_TLS_CERT is larger than/],
    [
      'DER',
      async (files) => writeFile(files.cert, new X509Certificate(await readFile(files.cert)).raw),
      /holds no certificate in PEM/,
    ],
    [
      'a broken certificate',
      async (files) => {
        const pem = await readFile(files.cert, 'utf8');
        await writeFile(files.cert, pem.replace(/\n(.{20})/, '\nAAAAAAAAAAAAAAAAAAAA'));
      },
      /^SEALOG_TLS_CERT holds a broken certificate$/,
    ],
    [
      'an encrypted key',
      async (files) => {
        const key = createPrivateKey(await readFile(files.key));
        const secret = { type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'canary' } as const;
        await writeFile(files.key, key.export(secret));
      },
      /^SEALOG_TLS_KEY is encrypted, and there is no setting for its password$/,
    ],
    [
      'a certificate for a key',
      (files) => copyFile(files.cert, files.key).then(() => chmod(files.key, 0o600)),
      /^SEALOG_TLS_KEY holds no private key in PEM/,
    ],
    ['a key that everybody may read', (files) => chmod(files.key, 0o604), /chmod o= FILE/],
    ['a key that everybody may write', (files) => chmod(files.key, 0o602), /chmod o= FILE/],
    [
      'another key',
      (files) => copyFile(join(authority.folder, 'between.key'), files.key),
      /^SEALOG_TLS_KEY is not the key of SEALOG_TLS_CERT's first/,
    ],
  ])('%s', async (_what, damage, reason) => {
    const files = await place(served);
    await damage(files);
    expect(await problems(files)).toEqual([expect.stringMatching(reason)]);
  });

  it('a certificate of a client, and a key that is too short', async () => {
    const client = await authority.issue({ name: 'only-client', names: 'DNS:localhost', purpose: 'client' });
    expect(await problems(client)).toEqual([expect.stringMatching(/is none of a server/)]);
    const short = await authority.issue({ name: 'short', names: 'DNS:localhost', key: 'rsa1024' });
    expect(await problems(short)).toEqual([expect.stringMatching(/can not be used: .*too small/i)]);
  });

  it('authorities without their root, and what is none', async () => {
    const between = join(authority.folder, 'between.pem');
    expect(await problems(served, between)).toEqual([expect.stringMatching(/"O=Sealog Test, CN=between" without the/)]);
    expect(await problems(served, served.key)).toEqual([expect.stringMatching(/holds no certificate of an authority/)]);
    const both = join(folder, 'both.pem');
    await writeFile(both, Buffer.concat([await readFile(between), await readFile(authority.root)]));
    expect(await problems(served, both)).toEqual([]);
  });

  it('all that is wrong together', async () => {
    const files = await place(served);
    await writeFile(files.cert, 'x');
    await writeFile(files.key, 'x');
    expect(await problems(files, files.cert)).toHaveLength(3);
  });
});

describe('the list of services with certificates', () => {
  const read = (value: unknown): CertifiedServices =>
    readClientsFile(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)));
  const problems = (value: unknown): readonly string[] => {
    try {
      read(value);
      return [];
    } catch (error) {
      expect(error).toBeInstanceOf(SettingsError);
      return (error as SettingsError).problems.map((problem) => problem.replace(/^SEALOG_TLS_CLIENTS_FILE:? /, ''));
    }
  };
  const item = { name: 'mes.plant7.example', tenant: 'acme' };

  it('is read', () => {
    const services = read([
      { ...item, categories: ['system_operation'], sites: ['plant-7', 'Werk Süd'] },
      { name: 'spiffe://plant7/historian', tenant: 'umbrella' },
      { name: 'gateway', tenant: 'acme' },
    ]);
    expect([...services.keys()]).toEqual(['mes.plant7.example', 'spiffe://plant7/historian', 'gateway']);
    expect(services.get('gateway')).toEqual({
      name: 'gateway',
      tenant: 'acme',
      categories: undefined,
      sites: undefined,
    });
    expect(read([]).size).toBe(0);
  });

  it.each<[string, unknown, readonly (string | RegExp)[]]>([
    ['no JSON', 'x', ['must hold JSON']],
    ['no list', { clients: [] }, [/^must be an array/]],
    ['no object', [item, 'x', null, []], ['[1] must be an object', '[2] must be an object', '[3] must be an object']],
    ['two members of one name', '[{"name":"a","tenant":"b","tenant":"c"}]', [/two members of one name/]],
    ['an unknown field', [{ ...item, role: 'auditor' }], ['[0] has the field "role", which there is not']],
    ['no name', [{ tenant: 'acme' }], [/^\[0\]\.name must be/]],
    ['no tenant', [{ name: 'a' }], [/^\[0\]\.tenant must be/]],
    ['a tenant that can be none', [{ ...item, tenant: 'Acme' }], [/^\[0\]\.tenant must be/]],
    ['the deployment', [{ ...item, tenant: 'sealog' }], [/^\[0\]\.tenant must not be sealog/]],
    ['a wildcard', [{ ...item, name: '*.plant7.example' }], [/^\[0\]\.name must be/]],
    ['capitals', [{ ...item, name: 'MES.plant7.example' }], [/^\[0\]\.name must be/]],
    ['a blank', [{ ...item, name: 'mes plant7' }], [/^\[0\]\.name must be/]],
    ['a name twice', [item, { ...item, tenant: 'umbrella' }], ['[1].name stands twice']],
    ['an unknown category', [{ ...item, categories: ['system'] }], [/^\[0\]\.categories has "system"/]],
    ['the log’s own category', [{ ...item, categories: ['log_administration'] }], [/^\[0\]\.categories has/]],
    ['an empty list', [{ ...item, categories: [], sites: [] }], [/^\[0\]\.categories must/, /^\[0\]\.sites must/]],
    ['one twice', [{ ...item, sites: ['a', 'a'] }], ['[0].sites names one twice']],
    ['a number', [{ ...item, sites: [7] }], ['[0].sites must hold texts alone']],
    ['no list of sites', [{ ...item, sites: 'plant-7' }], [/^\[0\]\.sites must be a list/]],
    ['everything together', [{ name: 7, tenant: 7, x: 1 }], [/field "x"/, /name/, /tenant/]],
  ])('with %s is refused', (_what, value, reasons) => {
    const found = problems(value);
    expect(found).toHaveLength(reasons.length);
    for (const [i, reason] of reasons.entries()) expect(found[i]).toMatch(reason);
  });
});

describe.skipIf(withoutOpenssl !== undefined)('the names of a certificate', () => {
  it.each<[string, string, string | undefined, readonly string[]]>([
    ['DNS', 'DNS:MES.plant7.example,DNS:b.example', undefined, ['mes.plant7.example', 'b.example']],
    ['URI', 'URI:spiffe://Plant7/mes', undefined, ['spiffe://Plant7/mes']],
    ['common-name', '', '/O=Acme/CN=Gateway-7', ['gateway-7']],
    ['unused-common-name', 'email:a@b.example', '/CN=gateway-7', []],
    ['two-common-names', '', '/CN=gateway-7/CN=gateway-8', []],
    ['URI-as-common-name', '', '/CN=spiffe:\\/\\/plant7\\/mes', []],
    ['wildcard', 'DNS:*.plant7.example', undefined, []],
    ['URI-as-DNS', 'DNS:spiffe://plant7/mes', undefined, []],
    ['DNS-as-URI', 'URI:mes.plant7.example', undefined, []],
    ['other-kinds', 'IP:10.0.0.1,RID:1.2.3.4,otherName:1.2.3.4;UTF8:mes.plant7.example', undefined, []],
  ])('%s', async (name, names, subject, expected) => {
    const { cert } = await authority.issue({
      name: `names-${name}`,
      names,
      ...(subject === undefined ? {} : { subject }),
    });
    expect(namesOf(new X509Certificate(await readFile(cert)))).toEqual(expected);
  });

  it.each<[string, readonly string[], readonly string[]]>([
    ['another name’s kind', ['otherName.1=1.2.3.4;UTF8:x, DNS:evil.example', 'DNS.1=a.example'], ['a.example']],
    ['a URI', ['URI.1="http://x/\\\\, DNS:evil.example"', 'DNS.1=a.example'], ['a.example']],
    ['a quoted URI', ['URI.1="http://x/\\", DNS:evil.example"', 'DNS.1=a.example'], ['a.example']],
    ['a directory’s name', ['dirName.1=dn', 'DNS.1=a.example', '[dn]', 'CN=b\\, DNS:evil.example'], ['a.example']],
    ['a DNS name', ['DNS.1="b.example, DNS:evil.example"', 'DNS.2=a.example'], ['a.example']],
    ['a mail address', ['email.1="x@b.example, DNS:evil.example"', 'DNS.1=a.example'], ['a.example']],
  ])('can not be smuggled into %s', async (_what, lines, expected) => {
    const sections = ['[alt]', ...lines];
    const { cert } = await authority.issue({ name: 'smuggled', names: '@alt', sections });
    const certificate = new X509Certificate(await readFile(cert));
    expect(certificate.subjectAltName).toMatch(/evil|unsupported/);
    expect(namesOf(certificate)).toEqual(expected);
  });
});

describe.skipIf(withoutOpenssl !== undefined)('a service with a certificate', () => {
  let service: TestService;
  let clients: string;
  let ca: string;
  const MES = { name: 'mes.plant7.example', tenant: 'acme' };
  const LISTED = [
    MES,
    { name: 'spiffe://plant7/historian', tenant: 'acme' },
    { name: 'gateway-7', tenant: 'umbrella' },
    { name: 'second.plant7.example', tenant: 'umbrella' },
    { name: 'narrow.example', tenant: 'acme', categories: ['system_operation'], sites: ['plant-7'] },
  ];

  beforeAll(async () => {
    const own = await mkdtemp(join(folder, 'service-'));
    clients = join(own, 'clients.json');
    ca = join(own, 'ca.pem');
    await writeFile(clients, JSON.stringify(LISTED));
    await copyFile(authority.root, ca);
    service = await startService({
      environment: {
        SEALOG_TLS_CERT: served.cert,
        SEALOG_TLS_KEY: served.key,
        SEALOG_TLS_CLIENT_CA: ca,
        SEALOG_TLS_CLIENTS_FILE: clients,
      },
    });
  });
  afterAll(() => service?.stop());

  let sent = 0;
  const send = (shows: TlsFiles | undefined, more: Partial<Asking> & { event?: object } = {}): Promise<Answer> => {
    const { event, ...rest } = more;
    sent += 1;
    const body = { ...EVENT, id: `e-${sent}`, ...event };
    return ask(service.port, { path: '/v1/events', body, ...(shows === undefined ? {} : { shows }), ...rest });
  };

  it.each<[string, string, string | undefined, string]>([
    ['dns', 'DNS:other.example,DNS:mes.plant7.example', undefined, 'acme'],
    ['uri', 'URI:spiffe://plant7/historian', undefined, 'acme'],
    ['cn', '', '/CN=gateway-7', 'umbrella'],
  ])('sends events, known by its name: %s', async (name, names, subject, tenant) => {
    const shows = await authority.issue({
      name,
      names,
      purpose: 'client',
      ...(subject === undefined ? {} : { subject }),
    });
    const answer = await send(shows);
    expect(answer.status).toBe(201);
    expect(JSON.parse(answer.text).stream).toBe(`${tenant}/system_operation`);
  });

  it('may do what a service may, and no more', async () => {
    const shows = await authority.issue({ name: 'role', names: 'DNS:mes.plant7.example', purpose: 'client' });
    const answer = await ask(service.port, { path: '/v1/events', shows });
    expect({ status: answer.status, code: JSON.parse(answer.text).code }).toEqual({ status: 403, code: 'forbidden' });
  });

  it('is held to its categories and sites', async () => {
    const shows = await authority.issue({ name: 'narrow', names: 'DNS:narrow.example', purpose: 'client' });
    expect((await send(shows)).status).toBe(201);
    expect((await send(shows, { event: { source: { service: 'mes', site: 'plant-8' } } })).status).toBe(403);
    const login = { category: 'user_authentication', action: 'user.login', actor: { type: 'user', id: 'u' } };
    expect((await send(shows, { event: login })).status).toBe(403);
  });

  it('is not needed: a token does, with a certificate or without, and is what counts', async () => {
    const bearer = await service.token('auditor');
    const headers = { authorization: `Bearer ${bearer}` };
    const shows = await authority.issue({ name: 'token', names: 'DNS:mes.plant7.example', purpose: 'client' });
    const bad = await stranger.issue({ name: 'token', names: 'DNS:mes.plant7.example', purpose: 'client' });
    for (const one of [undefined, shows, bad])
      expect((await ask(service.port, { path: '/v1/streams', headers, ...(one && { shows: one }) })).status).toBe(200);
    // A bad token is not made good by a certificate.
    for (const authorization of ['Bearer x', 'Basic eDp5', 'Bearer '])
      expect((await send(shows, { headers: { authorization } })).status).toBe(401);
    expect((await send(undefined)).status).toBe(401);
  });

  it.each<[string, () => Promise<TlsFiles>]>([
    ['whose name nobody knows', () => authority.issue({ name: 'u1', names: 'DNS:unknown.example' })],
    ['of another authority', () => stranger.issue({ name: 'u2', names: 'DNS:mes.plant7.example' })],
    ['that vouches for itself', () => selfSigned(folder, 'u3', 'DNS:mes.plant7.example')],
    ['that has expired', () => authority.issue({ name: 'u4', names: 'DNS:mes.plant7.example', valid: [-10, -0.001] })],
    ['of the future', () => authority.issue({ name: 'u5', names: 'DNS:mes.plant7.example', valid: [1, 10] })],
    ['of a server', () => authority.issue({ name: 'u6', names: 'DNS:mes.plant7.example', purpose: 'server' })],
    ['for signing programs', () => authority.issue({ name: 'u7', names: 'DNS:mes.plant7.example', purpose: 'none' })],
    [
      'whose common name alone is known, beside other names',
      () => authority.issue({ name: 'u8', names: 'DNS:x.example', subject: '/CN=gateway-7' }),
    ],
    ['with a wildcard', () => authority.issue({ name: 'u9', names: 'DNS:*.plant7.example' })],
    ['whose address is the name', () => authority.issue({ name: 'u10', names: 'email:mes.plant7.example@x.example' })],
    [
      'with the names of two services',
      () => authority.issue({ name: 'u11', names: 'DNS:mes.plant7.example,DNS:second.plant7.example' }),
    ],
    ['without a name', () => authority.issue({ name: 'u12', names: 'IP:10.0.0.1' })],
  ])('is refused as any bad credential is, with a certificate %s', async (_what, issue) => {
    const { status, headers, text } = await send(await issue());
    expect(status).toBe(401);
    expect(headers['www-authenticate']).toBe('Bearer');
    expect(JSON.parse(text)).toEqual({
      type: 'urn:sealog:problem:unauthenticated',
      title: 'A valid credential is required',
      status: 401,
      code: 'unauthenticated',
    });
  });

  it('does not lead to its root without what is between', async () => {
    const { key } = await authority.issue({ name: 'bare', names: 'DNS:mes.plant7.example' });
    expect((await send({ cert: join(authority.folder, 'bare.pem'), key })).status).toBe(401);
  });

  it('is known until it expires, on a connection that stays too', async () => {
    // Six seconds.
    const shows = await authority.issue({ name: 'brief', names: 'DNS:mes.plant7.example', valid: [-1, 6 / 86_400] });
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    onTestFinished(() => agent.destroy());
    const ports = new Set<number | undefined>();
    agent.on('free', (socket: TLSSocket) => ports.add(socket.localPort));
    expect((await send(shows, { agent })).status).toBe(201);
    await until(async () => (await send(shows, { agent })).status === 401);
    expect(ports.size).toBe(1);
    expect(Date.now()).toBeGreaterThanOrEqual(new X509Certificate(await readFile(shows.cert)).validToDate.getTime());
  });

  it('is known while it is listed, on a connection that stays too', async () => {
    const shows = await authority.issue({ name: 'listed', names: 'DNS:mes.plant7.example' });
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    onTestFinished(() => agent.destroy());
    expect((await send(shows, { agent })).status).toBe(201);

    await writeFile(clients, JSON.stringify(LISTED.slice(1)));
    await until(async () => (await send(shows, { agent })).status === 401);
    await writeFile(clients, JSON.stringify([...LISTED.slice(1), { ...MES, tenant: 'umbrella' }]));
    await until(async () => (await send(shows, { agent })).status === 201);
    expect(JSON.parse((await send(shows, { agent })).text).stream).toBe('umbrella/system_operation');

    // What can not be read changes nothing, and shows.
    expect(await metric('sealog_tls_files_refused{files="clients"}')).toBe(0);
    await writeFile(clients, '[{"name":');
    await until(async () => (await metric('sealog_tls_files_refused{files="clients"}')) === 1);
    expect((await send(shows, { agent })).status).toBe(201);
    await writeFile(clients, JSON.stringify(LISTED));
    await until(async () => (await metric('sealog_tls_files_refused{files="clients"}')) === 0);
  });

  it('is known while its authority is, on a connection that stays too', async () => {
    const shows = await authority.issue({ name: 'authority', names: 'DNS:mes.plant7.example' });
    const other = await stranger.issue({ name: 'authority', names: 'DNS:mes.plant7.example' });
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    onTestFinished(() => agent.destroy());
    expect((await send(shows, { agent })).status).toBe(201);
    expect((await send(other)).status).toBe(401);
    await copyFile(stranger.root, ca);
    await until(async () => (await send(other)).status === 201);
    expect((await send(shows, { agent }).catch(() => send(shows, { agent }))).status).toBe(401);
    await copyFile(authority.root, ca);
    await until(async () => (await send(shows)).status === 201);
  });

  it('counts on the metrics when the certificate of the service ends', async () => {
    const ends = new X509Certificate(await readFile(served.cert)).validToDate.getTime() / 1000;
    expect(await metric('sealog_tls_certificate_expires_timestamp_seconds')).toBe(ends);
    expect(await metric('sealog_tls_files_refused{files="certificate"}')).toBe(0);
  });

  async function metric(name: string): Promise<number | undefined> {
    const { text } = await ask(service.port, { path: '/metrics' });
    const line = text.split('\n').find((one) => one.startsWith(`${name} `));
    return line === undefined ? undefined : Number(line.slice(name.length));
  }
});
