/**
 * A real time-stamp authority: certificates made with `openssl ca`, tokens with `openssl ts`, behind an HTTP server on
 * 127.0.0.1. And a false one: tokens with whatever content and certificate, signed with `openssl cms`.
 *
 *     const authority = await startAuthority();
 *     … { url: authority.url, trust: authority.caPem } …
 *     authority.behaviour = 'refuse';
 *     await authority.stop();
 */
import { execFile, spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

/**
 * What the server does with a request. `other_nonce` and `other_imprint` let openssl answer a changed request; `replay`
 * gives the first good answer again.
 */
export type Behaviour =
  | 'good'
  | 'refuse'
  | 'other_nonce'
  | 'other_imprint'
  | 'replay'
  | 'wrong_type'
  | 'error_500'
  | 'hang'
  | 'garbage'
  | 'oversize';

export interface AuthorityOptions {
  /** Of the authority's own key; its CA has P-256. */
  readonly key?: KeyKind;
  /** Another CA stands between the root and the authority. */
  readonly intermediate?: boolean;
  /** Hash of the signature and of ESSCertIDv2. */
  readonly digest?: 'sha256' | 'sha384' | 'sha512' | 'sha1';
  /** `sha1` is the old ESSCertID. */
  readonly certificateId?: 'sha1' | 'sha256' | 'sha512';
  /** Days from now on in which the authority's certificate is valid. */
  readonly valid?: readonly [from: number, until: number];
}

export type KeyKind = 'p256' | 'p384' | 'rsa1024' | 'rsa2048';

export interface Authority {
  /** For queries. Revocation lists are at `<origin>/<name of the CA>.crl`. */
  readonly url: string;
  /** The root's certificate. */
  readonly caPem: string;
  readonly folder: string;
  behaviour: Behaviour;
  /** Headers and bodies of the queries that came. */
  readonly queries: { readonly headers: IncomingHttpHeaders; readonly body: Buffer }[];
  /** How often each list was fetched. */
  readonly listsFetched: string[];
  /** The CA that signs the authority's certificate: `root` or `between`. */
  readonly issuer: string;
  /** Returns what `openssl ts` answers to a query. */
  reply(query: Buffer): Promise<Buffer>;
  /** Returns a token for a hash, asked for with a nonce and the certificate. */
  stamp(imprint: Uint8Array): Promise<Buffer>;
  /** Makes a key and a certificate `<name>.pem` in the folder. */
  issue(request: CertificateRequest): Promise<void>;
  /** Signs any content as a TSTInfo with `openssl cms`. */
  forge(request: ForgeRequest): Promise<Buffer>;
  revoke(name: string, options?: { reason?: string; by?: string }): Promise<void>;
  /** Returns a new revocation list (DER) of a CA. */
  list(ca?: string, ...options: readonly string[]): Promise<Buffer>;
  /** Returns a certificate of the folder in DER. */
  certificate(name: string): Promise<Buffer>;
  openssl(...args: readonly string[]): Promise<Buffer>;
  stop(): Promise<void>;
}

export interface CertificateRequest {
  readonly name: string;
  readonly by?: string;
  readonly key?: KeyKind;
  readonly subject?: string;
  /** Lines of X.509 extensions in openssl's words. */
  readonly extensions?: readonly string[];
  readonly valid?: readonly [from: number, until: number];
  /** More of `openssl ca`. */
  readonly args?: readonly string[];
}

export interface ForgeRequest {
  /** The signed content, such as one of `encodeTstInfo`. */
  readonly content: Buffer;
  /** Name of the certificate that signs; several make several SignerInfos. */
  readonly by?: string | readonly string[];
  readonly contentType?: string;
  readonly digest?: string;
  /** More of `openssl cms -sign`; `-cades` is there unless `cades` is false. */
  readonly args?: readonly string[];
  readonly cades?: boolean;
}

const run = promisify(execFile);
const DAY_MS = 86_400_000;
const OID_TST_INFO = '1.2.840.113549.1.9.16.1.4';
export const POLICY = '1.3.6.1.4.1.99999.1.2';

/** Extensions of an authority's certificate. */
export const STAMPER: readonly string[] = [
  'basicConstraints=CA:FALSE',
  'keyUsage=critical,digitalSignature',
  'extendedKeyUsage=critical,timeStamping',
  'subjectKeyIdentifier=hash',
  'authorityKeyIdentifier=keyid',
];
/** And of an authority above it. */
export const CA: readonly string[] = [
  'basicConstraints=critical,CA:TRUE',
  'keyUsage=critical,keyCertSign,cRLSign',
  'subjectKeyIdentifier=hash',
  'authorityKeyIdentifier=keyid',
];

/** openssl adds ids of keys unless it is told not to. */
export const NO_KEY_IDS: readonly string[] = ['subjectKeyIdentifier=none', 'authorityKeyIdentifier=none'];

/** Why tests with an authority can not run here; undefined where they can. In CI they always run. */
export const withoutOpenssl: string | undefined =
  process.env['CI'] === undefined && spawnSync('openssl', ['version']).status !== 0
    ? 'openssl is not installed'
    : undefined;

export async function startAuthority(options: AuthorityOptions = {}): Promise<Authority> {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-tsa-'));
  const openssl = async (...args: readonly string[]): Promise<Buffer> =>
    (await run('openssl', [...args], { cwd: folder, encoding: 'buffer', timeout: 20_000 })).stdout;

  const server = createServer((request, response) => {
    serve(request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const origin = `http://127.0.0.1:${address.port}`;
  const issuer = options.intermediate === true ? 'between' : 'root';
  let first: Buffer | undefined;

  const authority: Authority = {
    url: `${origin}/tsa`,
    caPem: '',
    folder,
    behaviour: 'good',
    queries: [],
    listsFetched: [],
    issuer,
    openssl,
    reply: (query) => replyWith('ts.cnf', query),
    async stamp(imprint) {
      const query = await openssl('ts', '-query', '-digest', Buffer.from(imprint).toString('hex'), '-sha256', '-cert');
      return tokenOf(await authority.reply(query));
    },
    async issue({ name, by = issuer, key = 'p256', subject = `/O=Sealog Test/CN=${name}`, extensions, valid, args }) {
      await newRequest(name, key, subject);
      const [from, until] = valid ?? [-1, 365];
      const point = `crlDistributionPoints=URI:${origin}/${by}.crl`;
      await writeFile(join(folder, `${name}.ext`), `${(extensions ?? [...STAMPER, point]).join('\n')}\n`);
      const dates = ['-startdate', asn1Time(from), '-enddate', asn1Time(until)];
      const files = ['-in', `${name}.csr`, '-out', `${name}.pem`, '-extfile', `${name}.ext`];
      await openssl('ca', '-batch', '-notext', '-config', `${by}.cnf`, ...files, ...dates, ...(args ?? []));
    },
    async forge({ content, by = 'tsa', contentType = OID_TST_INFO, digest = 'sha256', args = [], cades = true }) {
      await writeFile(join(folder, 'content'), content);
      const signers = [by].flat().flatMap((name) => ['-signer', `${name}.pem`, '-inkey', `${name}.key`]);
      const what = ['-econtent_type', contentType, '-nodetach', '-binary', '-md', digest, ...(cades ? ['-cades'] : [])];
      return openssl('cms', '-sign', '-in', 'content', '-outform', 'DER', ...what, ...signers, ...args);
    },
    async revoke(name, { reason, by = issuer } = {}) {
      const why = reason === undefined ? [] : ['-crl_reason', reason];
      await openssl('ca', '-config', `${by}.cnf`, '-revoke', `${name}.pem`, ...why);
    },
    async list(ca = issuer, ...more) {
      await openssl('ca', '-config', `${ca}.cnf`, '-gencrl', '-out', `${ca}.crl`, ...more);
      return openssl('crl', '-in', `${ca}.crl`, '-outform', 'DER');
    },
    certificate: (name) => openssl('x509', '-in', `${name}.pem`, '-outform', 'DER'),
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await rm(folder, { recursive: true, force: true });
    },
  };

  async function newRequest(name: string, key: KeyKind, subject: string): Promise<void> {
    const kind = key.startsWith('rsa')
      ? ['-newkey', `rsa:${key.slice(3)}`]
      : ['-newkey', 'ec', '-pkeyopt', `ec_paramgen_curve:P-${key.slice(1)}`];
    await openssl('req', '-new', '-nodes', ...kind, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', subject);
  }

  async function newCa(name: string): Promise<void> {
    await mkdir(join(folder, `${name}.db`));
    await writeFile(join(folder, `${name}.db`, 'index.txt'), '');
    await writeFile(join(folder, `${name}.db`, 'crlnumber'), '1000\n');
    await writeFile(join(folder, `${name}.cnf`), caConfig(name));
  }

  let calls = 0;
  let last: Promise<unknown> = Promise.resolve();
  /** One after the other: openssl counts serial numbers in a file. */
  function replyWith(config: string, query: Buffer): Promise<Buffer> {
    const file = `query-${calls++}.tsq`;
    const made = last.then(async () => {
      await writeFile(join(folder, file), query);
      return openssl('ts', '-reply', '-config', config, '-queryfile', file);
    });
    last = made.catch(() => {});
    return made;
  }

  async function tokenOf(reply: Buffer): Promise<Buffer> {
    const file = `reply-${calls++}.tsr`;
    await writeFile(join(folder, file), reply);
    return openssl('ts', '-reply', '-in', file, '-token_out');
  }

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const list = /^\/(root|between)\.crl$/.exec(request.url ?? '')?.[1];
    if (list !== undefined) {
      authority.listsFetched.push(list);
      response.setHeader('content-type', 'application/pkix-crl').end(await authority.list(list));
      return;
    }
    const body = Buffer.concat(await request.toArray());
    authority.queries.push({ headers: request.headers, body });
    const answer = (type: string, bytes: Buffer) => response.setHeader('content-type', type).end(bytes);
    const granted = (bytes: Buffer) => answer('application/timestamp-reply', bytes);
    switch (authority.behaviour) {
      case 'good':
        first ??= await authority.reply(body);
        granted(authority.queries.length === 1 ? first : await authority.reply(body));
        return;
      case 'replay':
        granted(first ?? Buffer.alloc(0));
        return;
      case 'refuse':
        granted(await replyWith('refuse.cnf', body));
        return;
      case 'other_nonce':
        // The nonce is the INTEGER of 8 bytes before the 3 bytes of certReq.
        granted(await authority.reply(flipped(body, body.length - 4)));
        return;
      case 'other_imprint':
        granted(await authority.reply(flipped(body, body.indexOf(Buffer.from([0x04, 0x20])) + 2)));
        return;
      case 'wrong_type':
        answer('text/html', await authority.reply(body));
        return;
      case 'error_500':
        response.statusCode = 500;
        granted(await authority.reply(body));
        return;
      case 'hang':
        return;
      case 'garbage':
        granted(Buffer.from('<html>welcome</html>'));
        return;
      case 'oversize':
        granted(Buffer.alloc(4 * 1024 * 1024, 0x30));
        return;
    }
  }

  await newCa('root');
  await newRequest('root', 'p256', '/O=Sealog Test/CN=Root');
  await writeFile(join(folder, 'root.ext'), `${CA.filter((one) => !one.startsWith('authority')).join('\n')}\n`);
  const dates = ['-startdate', asn1Time(-3650), '-enddate', asn1Time(3650)];
  const files = ['-in', 'root.csr', '-keyfile', 'root.key', '-out', 'root.pem', '-extfile', 'root.ext'];
  await openssl('ca', '-batch', '-notext', '-selfsign', '-config', 'root.cnf', ...files, ...dates);
  if (issuer === 'between') {
    await newCa('between');
    const point = `crlDistributionPoints=URI:${origin}/root.crl`;
    await authority.issue({ name: 'between', by: 'root', extensions: [...CA, point] });
  }
  await authority.issue({ name: 'tsa', key: options.key ?? 'p256', ...(options.valid && { valid: options.valid }) });
  await writeFile(join(folder, 'ts.cnf'), stampConfig(options, 'sha256'));
  await writeFile(join(folder, 'refuse.cnf'), stampConfig(options, 'sha512'));
  const caPem = await readFile(join(folder, 'root.pem'), 'utf8');
  return Object.assign(authority, { caPem });
}

function caConfig(name: string): string {
  return `[ca]
default_ca = this
[this]
database = ${name}.db/index.txt
serial = ${name}.db/serial
crlnumber = ${name}.db/crlnumber
new_certs_dir = ${name}.db
certificate = ${name}.pem
private_key = ${name}.key
default_md = sha256
default_crl_days = 30
rand_serial = yes
policy = any
unique_subject = no
crl_extensions = crl
[any]
O = optional
CN = supplied
[crl]
authorityKeyIdentifier = keyid
`;
}

function stampConfig({ digest = 'sha256', certificateId = 'sha256', intermediate }: AuthorityOptions, takes: string) {
  return `[tsa]
default_tsa = this
[this]
serial = ts.serial
crypto_device = builtin
signer_cert = tsa.pem
signer_key = tsa.key
${intermediate === true ? 'certs = between.pem' : ''}
signer_digest = ${digest}
default_policy = ${POLICY}
digests = ${takes}
accuracy = secs:1, millisecs:500
clock_precision_digits = 0
ordering = yes
tsa_name = yes
ess_cert_id_chain = no
ess_cert_id_alg = ${certificateId}
`;
}

/** YYYYMMDDHHMMSSZ, so many days from now. */
function asn1Time(days: number): string {
  return `${new Date(Date.now() + days * DAY_MS).toISOString().replace(/[-:T]|\.\d+/g, '')}`;
}

/** Returns a copy with one bit turned. */
export function flipped(bytes: Uint8Array, place: number, bit = 0): Buffer {
  const copy = Buffer.from(bytes);
  copy[place] = copy[place]! ^ (1 << bit);
  return copy;
}

// --- TSTInfo, with whatever is wrong in it ---

export interface TstInfo {
  readonly imprint: Uint8Array;
  readonly version?: number;
  /** DER of the algorithm's object identifier, in hex. */
  readonly hash?: string;
  /** GeneralizedTime. */
  readonly time?: string;
  readonly nonce?: Buffer;
  /** More elements at the end, in DER. */
  readonly more?: readonly Buffer[];
}

/** Returns one element of DER. */
export function der(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(contents);
  const length = content.length.toString(16);
  const bytes = Buffer.from(length.length % 2 === 0 ? length : `0${length}`, 'hex');
  const header = content.length < 0x80 ? [content.length] : [0x80 | bytes.length, ...bytes];
  return Buffer.concat([Buffer.from([tag, ...header]), content]);
}

export function encodeTstInfo({ imprint, version = 1, hash, time, nonce, more = [] }: TstInfo): Buffer {
  const algorithm = der(0x06, Buffer.from(hash ?? '608648016503040201', 'hex'));
  return der(
    0x30,
    der(0x02, Buffer.from([version])),
    der(0x06, Buffer.from('2a030405', 'hex')),
    der(0x30, der(0x30, algorithm, der(0x05)), der(0x04, imprint)),
    der(0x02, Buffer.from([7])),
    der(0x18, Buffer.from(time ?? asn1Time(0))),
    ...(nonce === undefined ? [] : [der(0x02, nonce)]),
    ...more,
  );
}
