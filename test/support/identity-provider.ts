/** An OpenID provider for tests: real keys, and a real server for their set that can be made to misbehave. */
import { constants, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';

export type Algorithm = 'RS256' | 'PS256' | 'ES256' | 'EdDSA';

export interface SigningKey {
  readonly kid: string;
  readonly algorithm: Algorithm;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  /** As it stands in the set. */
  readonly jwk: Readonly<Record<string, unknown>>;
  /** Signs `<header>.<claims>`; a text is taken as it is, anything else becomes JSON. */
  token(claims: unknown, header?: unknown): string;
}

export interface Provider {
  /** Of the set. */
  readonly url: string;
  readonly port: number;
  /** What the next answers hold. */
  keys: readonly unknown[];
  /** Answers in place of the set. */
  misbehave: ((response: ServerResponse, request: IncomingMessage) => void) | undefined;
  /** Requests that came, ever. */
  readonly requests: number;
  /** Ends the server and its connections: nobody listens there any more. */
  stop(): Promise<void>;
}

export function encode(value: unknown): string {
  return Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
}

export function makeKey(algorithm: Algorithm, kid: string, members: object = {}): SigningKey {
  const { privateKey, publicKey } =
    algorithm === 'ES256'
      ? generateKeyPairSync('ec', { namedCurve: 'P-256' })
      : algorithm === 'EdDSA'
        ? generateKeyPairSync('ed25519')
        : generateKeyPairSync('rsa', { modulusLength: 2048 });
  const jwk = { ...publicKey.export({ format: 'jwk' }), kid, alg: algorithm, use: 'sig', ...members };
  return {
    ...{ kid, algorithm, privateKey, publicKey, jwk },
    token: (claims, header = { alg: algorithm, typ: 'JWT', kid }) => {
      const input = `${encode(header)}.${encode(claims)}`;
      return `${input}.${signature(algorithm, privateKey, input)}`;
    },
  };
}

export function signature(algorithm: Algorithm, key: KeyObject, input: string): string {
  const data = Buffer.from(input);
  const { RSA_PKCS1_PSS_PADDING: padding, RSA_PSS_SALTLEN_DIGEST: saltLength } = constants;
  const bytes = {
    RS256: () => sign('sha256', data, key),
    PS256: () => sign('sha256', data, { key, padding, saltLength }),
    ES256: () => sign('sha256', data, { key, dsaEncoding: 'ieee-p1363' }),
    EdDSA: () => sign(null, data, key),
  }[algorithm]();
  return bytes.toString('base64url');
}

/** Starts a provider on a free port, or on the one that a stopped provider had. */
export async function startProvider(
  keys: readonly unknown[],
  { port = 0, tls }: { port?: number; tls?: { readonly key: string; readonly cert: string } } = {},
): Promise<Provider> {
  const state = { keys, misbehave: undefined as Provider['misbehave'], requests: 0 };
  const answer: RequestListener = (request, response) => {
    state.requests += 1;
    if (state.misbehave !== undefined) return state.misbehave(response, request);
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ keys: state.keys }));
  };
  const server = tls === undefined ? createServer(answer) : createTlsServer(tls, answer);
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  const at = (server.address() as AddressInfo).port;
  return Object.assign(state, {
    url: `${tls === undefined ? 'http' : 'https'}://${tls === undefined ? '127.0.0.1' : 'localhost'}:${at}/keys`,
    port: at,
    stop: async () => {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  });
}
