/**
 * Certificates for TLS, made with openssl: those of a server and of its clients, by an authority with a root (time-stamp-authority.ts, whose
 * CA makes any kind), and one that signs itself.
 */
import { execFile } from 'node:child_process';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Authority, type CertificateRequest, startAuthority } from './time-stamp-authority.ts';

const run = promisify(execFile);

export interface TlsFiles {
  readonly cert: string;
  readonly key: string;
}

/** What a certificate is for. */
export type Purpose = 'server' | 'client' | 'both' | 'none' | 'unsaid';

export interface Request {
  readonly name: string;
  /** In openssl's words, such as `DNS:a.example,URI:spiffe://b`; '' = no subjectAltName. */
  readonly names: string;
  /** More lines of openssl's words, such as the section that `names` points to with `@`. */
  readonly sections?: readonly string[];
  readonly purpose?: Purpose;
  readonly subject?: string;
  /** Days from now. */
  readonly valid?: readonly [from: number, until: number];
  readonly key?: CertificateRequest['key'];
}

export interface TlsAuthority {
  /** The root, in PEM. */
  readonly root: string;
  readonly folder: string;
  /** Makes a certificate with what is between it and the root behind it, and a key that its owner alone may read. */
  issue(request: Request): Promise<TlsFiles>;
  pem(name: string): Promise<string>;
  openssl(...args: readonly string[]): Promise<Buffer>;
  stop(): Promise<void>;
}

const PURPOSES: Readonly<Record<Purpose, readonly string[]>> = {
  server: ['extendedKeyUsage=serverAuth'],
  client: ['extendedKeyUsage=clientAuth'],
  both: ['extendedKeyUsage=serverAuth,clientAuth'],
  none: ['extendedKeyUsage=codeSigning'],
  unsaid: [],
};

/** A root, an authority between, and what it signs. */
export async function startTlsAuthority(): Promise<TlsAuthority> {
  const authority: Authority = await startAuthority({ intermediate: true });
  const { folder } = authority;
  return {
    root: join(folder, 'root.pem'),
    folder,
    async issue({ name, names, sections = [], purpose = 'both', subject, valid, key }) {
      const extensions = ['basicConstraints=CA:FALSE', 'keyUsage=critical,digitalSignature', ...PURPOSES[purpose]];
      if (names !== '') extensions.push(`subjectAltName=${names}`, ...sections);
      await authority.issue({
        name,
        extensions,
        ...(subject === undefined ? {} : { subject }),
        ...(valid === undefined ? {} : { valid }),
        ...(key === undefined ? {} : { key }),
      });
      const files = { cert: join(folder, `${name}.chain.pem`), key: join(folder, `${name}.key`) };
      const own = await readFile(join(folder, `${name}.pem`), 'utf8');
      await writeFile(files.cert, own + (await readFile(join(folder, 'between.pem'), 'utf8')));
      await chmod(files.key, 0o600);
      return files;
    },
    pem: (name) => readFile(join(folder, `${name}.pem`), 'utf8'),
    openssl: authority.openssl,
    stop: () => authority.stop(),
  };
}

/** Makes a certificate for localhost and 127.0.0.1 that vouches for itself. */
export async function selfSigned(
  folder: string,
  name = 'server',
  names = 'DNS:localhost,IP:127.0.0.1',
): Promise<TlsFiles> {
  const files = { cert: join(folder, `${name}.pem`), key: join(folder, `${name}.key`) };
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30'];
  const what = ['-subj', `/CN=${name}`, '-addext', `subjectAltName=${names}`];
  await run('openssl', ['req', '-x509', ...kind, '-keyout', files.key, '-out', files.cert, ...what]);
  await chmod(files.key, 0o600);
  return files;
}
