/**
 * TLS as this service speaks it: its certificate and key (`SEALOG_TLS_CERT`, `SEALOG_TLS_KEY`), and the authorities of client certificates
 * (`SEALOG_TLS_CLIENT_CA`), all read again when they change.
 *
 * - TLS 1.2 with forward secrecy and AEAD alone, and TLS 1.3 (RFC 9325 sections 3.1 and 4.2).
 * - No renegotiation, no compression, and no resumed sessions: who comes back proves again who he is, to the certificate and the
 *   authorities of today. A handshake costs a millisecond; services keep their connections.
 * - A new certificate is for new connections; those that are there keep theirs, and nothing is cut.
 * - New authorities are another matter: who showed a certificate to the old ones shows it again (`mustShowAgain`, `isShownToToday`).
 */
import { constants, createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import type { Server } from 'node:https';
import type { Socket } from 'node:net';
import { createSecureContext, type SecureContextOptions, type TLSSocket } from 'node:tls';
import { SettingsError } from '../errors.ts';
import { isAnswering } from './connection-watch.ts';
import { WatchedFiles } from './watched-files.ts';

export interface TlsFiles {
  readonly cert: string;
  readonly key: string;
  /** Undefined = no client is asked for a certificate. */
  readonly clientCa: string | undefined;
}

interface Log {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export interface TlsOptions {
  readonly files: TlsFiles;
  readonly log: Log;
  readonly wallClock?: () => number;
  /** How often the files are looked at. */
  readonly everyMs?: number | undefined;
  /** After this time who shows a certificate is asked for it anew. */
  readonly showAgainMs?: number | undefined;
}

/** What the files hold. */
interface Loaded {
  readonly context: SecureContextOptions;
  readonly certificate: X509Certificate;
  readonly clientCa: Buffer | undefined;
}

/** Forward secrecy and AEAD; the first three are TLS 1.3. The client's order counts: it knows what its processor is quick at. */
const CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
].join(':');

const SECURE_OPTIONS = constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_COMPRESSION;

/** The authorities between a client's certificate and its root are checked in the handshake alone: so it is repeated this often. */
const SHOW_AGAIN_MS = 3_600_000;
const EXPIRY_WARNING_MS = 14 * 86_400_000;
const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';

/** When a connection showed its certificate, and what authorities it was checked with. */
interface Showing {
  readonly at: number;
  readonly clientCa: Buffer;
}

/** The service's side of TLS, for one or more servers. */
export class ServerTls {
  readonly #files: WatchedFiles<Loaded>;
  readonly #showAgainMs: number;
  readonly #showings = new WeakMap<Socket, Showing>();

  /** Throws a SettingsError where the files can not be used. */
  static async open({ files, log, wallClock = Date.now, everyMs, showAgainMs }: TlsOptions): Promise<ServerTls> {
    const watched = await WatchedFiles.open({
      what: 'the TLS certificate',
      files: [
        { setting: 'SEALOG_TLS_CERT', path: files.cert },
        { setting: 'SEALOG_TLS_KEY', path: files.key, isSecret: true },
        ...(files.clientCa === undefined ? [] : [{ setting: 'SEALOG_TLS_CLIENT_CA', path: files.clientCa }]),
      ],
      load: ([cert, key, clientCa]) => loadTls(cert!, key!, clientCa),
      log,
      everyMs,
    });
    const warn = ({ certificate }: Loaded): void => {
      const { validFrom, validTo, validFromDate, validToDate } = certificate;
      const now = wallClock();
      const facts = { validFrom, validTo };
      if (now < validFromDate.getTime()) log.warn(facts, 'the TLS certificate is not valid yet');
      else if (now > validToDate.getTime()) log.error(facts, 'the TLS certificate has expired');
      else if (now > validToDate.getTime() - EXPIRY_WARNING_MS) log.warn(facts, 'the TLS certificate expires soon');
    };
    warn(watched.value);
    watched.onChange(warn);
    return new ServerTls(watched, showAgainMs ?? SHOW_AGAIN_MS);
  }

  private constructor(files: WatchedFiles<Loaded>, showAgainMs: number) {
    this.#files = files;
    this.#showAgainMs = showAgainMs;
  }

  /** For `https.createServer`, which asks for client certificates where `asks`; what they are worth is not its business. */
  options(asks: boolean): SecureContextOptions & { requestCert: boolean; rejectUnauthorized: false } {
    const { context, clientCa } = this.#files.value;
    return { ...context, requestCert: asks && clientCa !== undefined, rejectUnauthorized: false };
  }

  /** Keeps the server's certificate that of the files. */
  serve(server: Server): void {
    const shown = new Set<TLSSocket>();
    server.on('secureConnection', (socket) => {
      const { clientCa } = this.#files.value;
      if (clientCa === undefined || socket.getPeerX509Certificate() === undefined) return;
      this.#showings.set(socket, { at: performance.now(), clientCa });
      shown.add(socket);
      socket.once('close', () => shown.delete(socket));
    });
    this.#files.onChange(({ context }) => {
      server.setSecureContext(context);
      // Who waits in between two requests comes back by himself; who is in the middle of one is told by its answer.
      for (const socket of shown) if (!this.isShownToToday(socket) && !isAnswering(socket)) socket.destroy();
    });
  }

  /** Says whether the authorities that a connection's certificate was checked with are those of today. */
  isShownToToday(socket: Socket): boolean {
    const showing = this.#showings.get(socket);
    const { clientCa } = this.#files.value;
    if (showing === undefined || clientCa === undefined) return false;
    return showing.clientCa === clientCa || showing.clientCa.equals(clientCa);
  }

  /** Says whether a connection should end with its next answer, so that its certificate is checked anew. */
  mustShowAgain(socket: Socket): boolean {
    const showing = this.#showings.get(socket);
    if (showing === undefined) return false;
    return performance.now() - showing.at > this.#showAgainMs || !this.isShownToToday(socket);
  }

  get certificate(): X509Certificate {
    return this.#files.value.certificate;
  }

  /** For metrics. `expiresAt` in milliseconds since 1970. */
  get status(): { readonly expiresAt: number; readonly refused: boolean } {
    return { expiresAt: this.certificate.validToDate.getTime(), refused: this.#files.refused };
  }

  /** Looks at the files now. */
  look(): Promise<void> {
    return this.#files.look();
  }

  stop(): void {
    this.#files.stop();
  }
}

/** Throws a SettingsError with every problem. */
function loadTls(cert: Buffer, key: Buffer, clientCa: Buffer | undefined): Loaded {
  const problems: string[] = [];
  const [certificate] = certificatesOf(cert, 'SEALOG_TLS_CERT', problems);
  const privateKey = privateKeyOf(key, problems);
  const authorities =
    clientCa === undefined ? [] : certificatesOf(clientCa, 'SEALOG_TLS_CLIENT_CA', problems, 'of an authority');
  // A client's certificate must lead to a root: OpenSSL believes no other.
  for (const authority of authorities) {
    if (!authorities.some((other) => authority.checkIssued(other)))
      problems.push(
        `SEALOG_TLS_CLIENT_CA has ${JSON.stringify(oneLine(authority.subject))} without the certificate that issued it, up to the root`,
      );
  }
  if (certificate !== undefined && privateKey !== undefined && !certificate.checkPrivateKey(privateKey))
    problems.push("SEALOG_TLS_KEY is not the key of SEALOG_TLS_CERT's first certificate");
  // Absent, it may be used for everything (RFC 5280 section 4.2.1.12).
  const uses: readonly string[] | undefined = certificate?.keyUsage;
  if (uses !== undefined && !uses.includes(SERVER_AUTH))
    problems.push("SEALOG_TLS_CERT's first certificate is none of a server: its extended key usage says so");

  const context: SecureContextOptions = {
    cert,
    key,
    ...(clientCa === undefined ? {} : { ca: clientCa }),
    minVersion: 'TLSv1.2',
    ciphers: CIPHERS,
    honorCipherOrder: false,
    secureOptions: SECURE_OPTIONS,
  };
  if (problems.length === 0) {
    try {
      createSecureContext(context);
    } catch (error) {
      problems.push(`SEALOG_TLS_CERT and SEALOG_TLS_KEY can not be used: ${reasonOf(error)}`);
    }
  }
  if (problems.length > 0 || certificate === undefined) throw new SettingsError(problems);
  return { context, certificate, clientCa };
}

function certificatesOf(pem: Buffer, setting: string, problems: string[], of = ''): X509Certificate[] {
  const blocks = pem.toString('latin1').match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0) problems.push(`${setting} holds no certificate${of === '' ? '' : ` ${of}`} in PEM`);
  try {
    return blocks.map((block) => new X509Certificate(block));
  } catch {
    problems.push(`${setting} holds a broken certificate`);
    return [];
  }
}

function privateKeyOf(pem: Buffer, problems: string[]): KeyObject | undefined {
  try {
    return createPrivateKey(pem);
  } catch (error) {
    const isEncrypted = /ENCRYPTED/.test(pem.toString('latin1'));
    const why = isEncrypted ? 'is encrypted, and there is no setting for its password' : 'holds no private key in PEM';
    problems.push(`SEALOG_TLS_KEY ${why}${isEncrypted ? '' : ` (${reasonOf(error)})`}`);
    return undefined;
  }
}

/** OpenSSL's words for it: they hold nothing of the file. */
function reasonOf(error: unknown): string {
  const { reason, code } = error as { reason?: string; code?: string };
  return reason ?? code ?? 'unknown';
}

function oneLine(text: string): string {
  return text.replaceAll('\n', ', ').slice(0, 200);
}
