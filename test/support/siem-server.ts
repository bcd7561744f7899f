/**
 * A real HTTP or HTTPS server that plays the APIs of SIEMs, as shared/reference/siem-wire-facts.md tells of them (the sections are named below), and fails
 * in the ways that they and what stands before them do. What it is sent it reads with readers of its own.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer, type ServerOptions } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { gunzipSync } from 'node:zlib';

export interface Received {
  readonly method: string;
  /** Path and query. */
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  /** Inflated, where it was compressed. */
  readonly text: string;
  readonly bytesSent: number;
}

export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

/** What the server does with a request that goes well. */
export type Play = (request: Received) => Answer;

/** What it does with one instead of playing. The socket is the response's. */
export type Fault = (response: ServerResponse, request: Received, play: () => Answer) => void;

export interface SiemServer {
  readonly port: number;
  /** `http://127.0.0.1:<port>`, or of TLS `https://siem.example:<port>`. */
  readonly url: string;
  readonly requests: Received[];
  /** For the next requests, one each; then it plays. */
  readonly faults: Fault[];
  readonly connections: () => number;
  stop(): Promise<void>;
}

export async function startSiem(play: Play, tls?: ServerOptions): Promise<SiemServer> {
  const requests: Received[] = [];
  const faults: Fault[] = [];
  const sockets = new Set<Socket>();
  let connections = 0;
  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    read(request).then(
      (received) => {
        requests.push(received);
        const fault = faults.shift() ?? ((one: ServerResponse) => give(one, play(received)));
        fault(response, received, () => play(received));
      },
      () => request.socket.destroy(),
    );
  };
  const server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener);
  // It is the client that decides how long a connection is kept, unless a test says otherwise.
  server.keepAliveTimeout = 60_000;
  server.on(tls === undefined ? 'connection' : 'secureConnection', (socket: Socket) => {
    sockets.add(socket);
    connections += 1;
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    port,
    url: tls === undefined ? `http://127.0.0.1:${port}` : `https://siem.example:${port}`,
    requests,
    faults,
    connections: () => connections,
    async stop() {
      if (!server.listening) return;
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

async function read(request: IncomingMessage): Promise<Received> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const sent = Buffer.concat(chunks);
  const encoding = request.headers['content-encoding'];
  assert(encoding === undefined || encoding === 'gzip');
  const text = (encoding === 'gzip' ? gunzipSync(sent) : sent).toString('utf8');
  return {
    method: request.method!,
    url: request.url!,
    headers: request.headers,
    text,
    bytesSent: sent.length,
  };
}

function give(response: ServerResponse, { status, headers = {}, body }: Answer): void {
  const text = body === undefined ? '' : typeof body === 'string' ? body : JSON.stringify(body);
  response.writeHead(status, {
    ...(typeof body === 'object' ? { 'content-type': 'application/json' } : {}),
    ...headers,
  });
  response.end(text);
}

// ---- Faults ----

export function answers(status: number, headers: Readonly<Record<string, string>> = {}, body?: unknown): Fault {
  return (response) => give(response, { status, headers, body });
}

/** Takes what came, and never answers. */
export const hangs: Fault = () => {};

/** Takes what came, and cuts the connection. */
export const cuts: Fault = (response, _, play) => {
  play();
  response.socket!.destroy();
};

/** Takes what came, begins its answer, and cuts the connection. */
export const answersHalf: Fault = (response, _, play) => {
  const { status } = play();
  // An answer without a body is whole with its header.
  if (status === 204) return void response.socket!.write('HTTP/1.1 204 No Con', () => response.socket!.destroy());
  response.writeHead(status, { 'content-length': '1000', 'content-type': 'application/json' });
  response.write('{"code":0,"items":[', () => response.socket!.destroy());
};

/** Answers a byte now and then. */
export const drips: Fault = (response) => {
  response.writeHead(200);
  const timer = setInterval(() => response.write(' '), 10);
  response.on('close', () => clearInterval(timer));
};

export const answersHuge: Fault = (response) => {
  response.writeHead(200);
  response.end(Buffer.alloc(8_000_000, ' '));
};

/** As any page of a network that wants a login first. */
export const answersHtml = answers(200, { 'content-type': 'text/html' }, '<html>Please log in</html>');

// ---- Generic (facts 3.1, 3.8) ----

/** Takes whatever is sent, but for bodies that one of these texts is in. */
export function webhook(poison: ReadonlySet<string> = new Set(), status = 400): Play {
  return ({ text }) =>
    [...poison].some((one) => text.includes(one)) ? { status, body: `hidden ${text}` } : { status: 200 };
}

/** Returns the ids in a body of JSON, however it is framed. */
export function idsIn(text: string): string[] {
  const values = text.startsWith('[') ? (JSON.parse(text) as unknown[]) : concatenated(text);
  return values.map((value) => (value as { id: string }).id);
}

/** Reads JSON texts that stand one behind the other. */
export function concatenated(text: string): unknown[] {
  const values: unknown[] = [];
  let depth = 0;
  let begin = -1;
  let isString = false;
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (isString) {
      if (char === '\\') i += 1;
      else if (char === '"') isString = false;
    } else if (char === '"') isString = true;
    else if (char === '{' || char === '[') {
      if (depth === 0) begin = i;
      depth += 1;
    } else if (char === '}' || char === ']') {
      depth -= 1;
      if (depth === 0) values.push(JSON.parse(text.slice(begin, i + 1)));
    } else if (depth === 0) assert(/\s/.test(char!), `${char} between two texts`);
  }
  assert(depth === 0 && !isString, 'the last text is not whole');
  return values;
}

// ---- Splunk HEC (facts 3.2 and data/hec_reply_codes.csv) ----

export interface HecEvent {
  readonly time: number;
  readonly host: string;
  readonly source: string;
  readonly sourcetype: string;
  readonly index?: string;
  readonly event: Record<string, unknown> | string;
  readonly fields: Readonly<Record<string, string>>;
}

export class Hec {
  readonly token: string;
  readonly indexed: string[] = [];
  readonly poison = new Set<string>();
  /** From where `invalid-event-number` counts; undefined = it is not said. */
  countsFrom: 0 | 1 | undefined = 0;
  /** Whether events before a broken one are indexed. */
  keepsBefore = false;
  acknowledges = false;
  /** Questions until something is acknowledged. */
  questions = 2;
  readonly neverAcknowledged = new Set<number>();
  readonly #acks = new Map<string, { next: number; readonly asked: Map<number, number> }>();

  constructor(token: string) {
    this.token = token;
  }

  readonly play: Play = ({ method, url, headers, text }) => {
    if (headers.authorization === undefined) return hecReply(401, 2, 'Token is required');
    if (!headers.authorization.startsWith('Splunk ')) return hecReply(401, 3, 'Invalid authorization');
    if (headers.authorization !== `Splunk ${this.token}`) return hecReply(403, 4, 'Invalid token');
    assert.equal(method, 'POST');
    if (url.startsWith('/services/collector/ack')) return this.#acknowledge(url, text);
    assert.equal(url, '/services/collector/event');
    const channel = headers['x-splunk-request-channel'];
    if (this.acknowledges && typeof channel !== 'string') return hecReply(400, 10, 'Data channel is missing');
    const events = concatenated(text) as HecEvent[];
    const ids = events.map(({ fields }) => fields['sealog_id']!);
    const broken = ids.findIndex((id) => this.poison.has(id));
    if (broken >= 0) {
      if (this.keepsBefore) this.indexed.push(...ids.slice(0, broken));
      const number = this.countsFrom === undefined ? {} : { 'invalid-event-number': broken + this.countsFrom };
      return { status: 400, body: { text: 'Invalid data format', code: 6, ...number } };
    }
    this.indexed.push(...ids);
    if (!this.acknowledges) return hecReply(200, 0, 'Success');
    const acks = this.#acks.get(String(channel)) ?? { next: 0, asked: new Map() };
    this.#acks.set(String(channel), acks);
    acks.asked.set(acks.next, 0);
    return { status: 200, body: { text: 'Success', code: 0, ackId: acks.next++ } };
  };

  #acknowledge(url: string, text: string): Answer {
    const acks = this.#acks.get(new URL(url, 'http://x').searchParams.get('channel') ?? '');
    if (acks === undefined) return hecReply(400, 11, 'Invalid data channel');
    const wanted = (JSON.parse(text) as { acks: number[] }).acks;
    const states = wanted.map((id) => {
      const asked = (acks.asked.get(id) ?? -1) + 1;
      acks.asked.set(id, asked);
      return [String(id), asked >= this.questions && !this.neverAcknowledged.has(id)] as const;
    });
    return { status: 200, body: { acks: Object.fromEntries(states) } };
  }
}

export function hecReply(status: number, code: number, text: string): Answer {
  return { status, body: { text, code } };
}

// ---- Elastic (facts 3.4) ----

export class Elastic {
  readonly documents = new Map<string, Record<string, unknown>>();
  /** Ids of events, as they came. */
  readonly seen: string[][] = [];
  /** Statuses instead of the right ones, by the event's id; each once, unless it is 400. */
  readonly statuses = new Map<string, number>();
  readonly #authorization: string;

  constructor(authorization: string) {
    this.#authorization = authorization;
  }

  readonly play: Play = ({ method, url, headers, text }) => {
    if (headers.authorization !== this.#authorization)
      return { status: 401, body: { error: { type: 'security_exception', reason: 'hidden' }, status: 401 } };
    assert.equal(method, 'POST');
    assert.match(url, /^\/[a-z0-9._-]+\/_bulk\?/);
    assert.equal(headers['content-type'], 'application/x-ndjson');
    if (!text.endsWith('\n'))
      return { status: 400, body: { error: { type: 'illegal_argument_exception' }, status: 400 } };
    const lines = text.slice(0, -1).split('\n');
    assert.equal(lines.length % 2, 0);
    const items: object[] = [];
    const ids: string[] = [];
    for (let i = 0; i < lines.length; i += 2) {
      const { create } = JSON.parse(lines[i]!) as { create: { _id: string } };
      const document = JSON.parse(lines[i + 1]!) as { '@timestamp': string; event: { id: string } };
      assert(create._id.length <= 512 && !Number.isNaN(Date.parse(document['@timestamp'])));
      ids.push(document.event.id);
      items.push({ create: this.#create(create._id, document) });
    }
    this.seen.push(ids);
    return { status: 200, body: { errors: items.length > 0, items } };
  };

  #create(id: string, document: { event: { id: string } }): object {
    const scripted = this.statuses.get(document.event.id);
    if (scripted !== undefined) {
      if (scripted !== 400) this.statuses.delete(document.event.id);
      const type = scripted === 400 ? 'document_parsing_exception' : 'es_rejected_execution_exception';
      return { _id: id, status: scripted, error: { type, reason: `hidden ${document.event.id}` } };
    }
    if (this.documents.has(id))
      return { _id: id, status: 409, error: { type: 'version_conflict_engine_exception', reason: 'hidden' } };
    this.documents.set(id, document);
    return { _id: id, status: 201 };
  }
}

// ---- Microsoft Sentinel (facts 3.3) ----

export interface SentinelOptions {
  readonly tenantId: string;
  readonly clientId: string;
  readonly clientSecret: string;
  readonly ruleId: string;
  readonly streamName: string;
}

export class Sentinel {
  readonly rows: Record<string, unknown>[] = [];
  /** Seconds, as the answer says. */
  expiresIn: number | string = 3599;
  tokens = 0;
  readonly #options: SentinelOptions;
  readonly #valid = new Set<string>();

  constructor(options: SentinelOptions) {
    this.#options = options;
  }

  /** Takes all tokens back, as when a secret was changed. */
  revoke(): void {
    this.#valid.clear();
  }

  readonly play: Play = ({ method, url, headers, text, bytesSent }) => {
    const { tenantId, clientId, clientSecret, ruleId, streamName } = this.#options;
    assert.equal(method, 'POST');
    if (url === `/${tenantId}/oauth2/v2.0/token`) {
      assert.equal(headers['content-type'], 'application/x-www-form-urlencoded');
      const form = new URLSearchParams(text);
      assert.deepEqual([...form.keys()].sort(), ['client_id', 'client_secret', 'grant_type', 'scope']);
      assert.equal(form.get('scope'), 'https://monitor.azure.com/.default');
      if (form.get('client_id') !== clientId || form.get('client_secret') !== clientSecret) {
        const error = { error: 'invalid_client', error_description: 'hidden', error_codes: [7000215] };
        return { status: 401, body: error };
      }
      this.tokens += 1;
      const token = `hidden.token-${this.tokens}`;
      this.#valid.add(token);
      return { status: 200, body: { token_type: 'Bearer', expires_in: this.expiresIn, access_token: token } };
    }
    assert.equal(url, `/dataCollectionRules/${ruleId}/streams/${streamName}?api-version=2023-01-01`);
    if (!this.#valid.has(headers.authorization?.replace(/^Bearer /, '') ?? ''))
      return { status: 401, body: { error: { code: 'InvalidToken', message: 'hidden' } } };
    if (Math.max(bytesSent, Buffer.byteLength(text)) > 1_048_576)
      return { status: 413, body: { error: { code: 'ContentLengthLimitExceeded', message: 'hidden' } } };
    this.rows.push(...(JSON.parse(text) as Record<string, unknown>[]));
    return { status: 204 };
  };
}

// ---- Sumo Logic (facts 3.5) and Datadog (facts 3.6) ----

export class Sumo {
  readonly lines: string[] = [];
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  readonly play: Play = ({ url, text }) => {
    if (url !== this.path) return { status: 401, body: 'hidden' };
    assert(Buffer.byteLength(text) <= 1_000_000 && text.endsWith('\n'));
    this.lines.push(...text.slice(0, -1).split('\n'));
    return { status: 200 };
  };
}

export class Datadog {
  readonly logs: Record<string, unknown>[] = [];
  readonly apiKey: string;

  constructor(apiKey: string) {
    this.apiKey = apiKey;
  }

  readonly play: Play = ({ url, headers, text }) => {
    assert.equal(url, '/api/v2/logs');
    if (headers['dd-api-key'] !== this.apiKey) return { status: 403, body: { errors: ['hidden'] } };
    const logs = JSON.parse(text) as Record<string, unknown>[];
    if (Buffer.byteLength(text) > 5_000_000 || logs.length > 1000) return { status: 413, body: { errors: ['hidden'] } };
    for (const log of logs) assert(Buffer.byteLength(JSON.stringify(log)) <= 1_000_000, 'it would be cut');
    this.logs.push(...logs);
    return { status: 202, body: {} };
  };
}

// ---- OTLP (facts 3.7) ----

export interface OtlpRecord {
  readonly timeUnixNano: string;
  readonly observedTimeUnixNano: string;
  readonly severityNumber: number;
  readonly body: { readonly stringValue: string };
  readonly attributes: readonly { readonly key: string; readonly value: Readonly<Record<string, string>> }[];
}

export class Otlp {
  readonly records: OtlpRecord[] = [];
  readonly rejected = new Set<string>();

  readonly play: Play = ({ url, headers, text }) => {
    assert.equal(url, '/v1/logs');
    assert.equal(headers['content-type'], 'application/json');
    const { resourceLogs } = JSON.parse(text) as {
      resourceLogs: { scopeLogs: { logRecords: OtlpRecord[] }[] }[];
    };
    const records = resourceLogs.flatMap(({ scopeLogs }) => scopeLogs.flatMap(({ logRecords }) => logRecords));
    for (const { timeUnixNano, observedTimeUnixNano } of records)
      for (const time of [timeUnixNano, observedTimeUnixNano])
        assert(/^\d+$/.test(time) && BigInt(time) < 2n ** 64n, 'a fixed64');
    const good = records.filter((record) => !this.rejected.has(otlpAttribute(record, 'sealog.id')!));
    this.records.push(...good);
    const count = records.length - good.length;
    if (count === 0) return { status: 200, body: {} };
    return { status: 200, body: { partialSuccess: { rejectedLogRecords: String(count), errorMessage: 'hidden' } } };
  };
}

export function otlpAttribute({ attributes }: OtlpRecord, name: string): string | undefined {
  const value = attributes.find(({ key }) => key === name)?.value;
  return value?.['stringValue'] ?? value?.['intValue'];
}
