/**
 * Real receivers of syslog: Debian's rsyslog and syslog-ng as `.ci/syslog-peers` unpacked them, each with all the doors that senders use,
 * and a file for each door in which tests read what arrived.
 *
 *     const receiver = await startReceiver('rsyslog', { tls });
 *     … tcp://127.0.0.1:${receiver.ports.octets} …
 *     await receiver.received('octets');
 *     await receiver.stop();
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const PEERS = process.env['SEALOG_TEST_PEERS'] ?? '/opt/sealog-peers';
const DAEMONS = { rsyslog: join(PEERS, 'usr/sbin/rsyslogd'), 'syslog-ng': join(PEERS, 'usr/sbin/syslog-ng') };

/** Why tests with receivers can not run here; undefined where they can. In CI they always run. */
export const withoutReceivers: string | undefined =
  process.env['CI'] === undefined && Object.values(DAEMONS).some((path) => !existsSync(path))
    ? `${PEERS} has no rsyslog and syslog-ng: .ci/syslog-peers ${PEERS}`
    : undefined;

export type ReceiverKind = 'rsyslog' | 'syslog-ng';
export const RECEIVERS: readonly ReceiverKind[] = ['rsyslog', 'syslog-ng'];

/** How a message comes in. `mutual` is TLS with a client certificate, `lf` TCP with a line a message; the other three streams count octets. */
export const DOORS = ['udp', 'octets', 'lf', 'tls', 'mutual'] as const;
export type Door = (typeof DOORS)[number];

export interface ReceiverTls {
  /** PEM files: the receiver's own chain and key, and the authority of clients. */
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

export interface ReceiverOptions {
  /** Without it, the doors of TLS are not there. */
  readonly tls?: ReceiverTls;
  /** rsyslog's maxMessageSize, syslog-ng's log-msg-size; null leaves the receiver's own default. */
  readonly maxBytes?: number | null;
  /** rsyslog's TLS: GnuTLS or OpenSSL. */
  readonly driver?: 'gtls' | 'ossl';
}

/** A message as the receiver read it. */
export interface ReceivedMessage {
  readonly priority: number;
  /** RFC 3339, the receiver's spelling. */
  readonly time: string;
  readonly hostname: string;
  readonly appName: string;
  readonly procId: string;
  readonly msgId: string;
  readonly structuredData: string;
  readonly text: string;
}

export interface Receiver {
  readonly kind: ReceiverKind;
  readonly ports: Readonly<Record<Door, number>>;
  readonly pid: number;
  /** All that arrived at a door since `forget`, once there are `count` of them, or `waitMs` have passed. */
  received(door: Door, count?: number, waitMs?: number): Promise<ReceivedMessage[]>;
  /** All that is in the file of a door since `forget`, lines that were torn by a kill too. */
  text(door: Door): string;
  /** Counts from here on. */
  forget(door: Door): void;
  /** Likewise, and returns the whole lines that are in the file until here. */
  take(door: Door): string;
  /** What the receiver says about itself. */
  complaints(): string;
  signal(signal: 'SIGSTOP' | 'SIGCONT' | 'SIGHUP'): void;
  /** Ends it, as an operator or the machine would. */
  end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void>;
  /** Starts it again on the same ports and files. */
  again(): Promise<void>;
  /** Ends it, and removes its files. */
  stop(): Promise<void>;
}

const START_MAX_MS = 40_000;
const MESSAGE_BYTES = 128 * 1024;
/** Columns of a line in a door's file. */
const COLUMNS = 8;

export async function startReceiver(kind: ReceiverKind, options: ReceiverOptions = {}): Promise<Receiver> {
  const folder = await mkdtemp(join(tmpdir(), `sealog-test-${kind}-`));
  const ports = await freePorts();
  const doors = DOORS.filter((door) => options.tls !== undefined || (door !== 'tls' && door !== 'mutual'));
  const configuration = (kind === 'rsyslog' ? rsyslogConfiguration : syslogNgConfiguration)(
    folder,
    ports,
    doors,
    options,
  );
  await writeFile(join(folder, 'conf'), configuration);
  let child: ChildProcess;
  let closed: Promise<unknown>;

  async function start(): Promise<void> {
    const output = openSync(join(folder, 'output'), 'a');
    child = spawn(DAEMONS[kind], argumentsOf(kind, folder), {
      cwd: folder,
      env: { LD_LIBRARY_PATH: libraries(), PATH: process.env['PATH'] },
      stdio: ['ignore', output, output],
    });
    closed = once(child, 'close');
    closed.catch(() => {});
    const deadline = Date.now() + START_MAX_MS;
    while (!doors.every((door) => isListening(ports[door], door === 'udp'))) {
      if (child.exitCode !== null || Date.now() > deadline) {
        child.kill('SIGKILL');
        const missing = doors.filter((door) => !isListening(ports[door], door === 'udp'));
        throw new Error(`${kind} does not start (${child.exitCode}, without ${missing}):\n${complaints()}`);
      }
      await sleep(20);
    }
  }

  async function end(signal: NodeJS.Signals): Promise<void> {
    child.kill(signal);
    // What was stopped takes no other signal before it goes on.
    if (signal !== 'SIGKILL') child.kill('SIGCONT');
    await closed;
  }

  const complaints = (): string =>
    ['output', 'internal']
      .map((name) => join(folder, name))
      .filter(existsSync)
      .map((path) => readFileSync(path, 'utf8'))
      .join('');

  const arrivals = new Map(doors.map((door) => [door, new Arrivals(join(folder, door))]));

  try {
    await start();
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
  return {
    kind,
    ports,
    get pid() {
      return child.pid!;
    },
    async received(door, count = 0, waitMs = 20_000) {
      const deadline = Date.now() + waitMs;
      const arrived = arrivals.get(door)!;
      while (arrived.count() < count && Date.now() < deadline) await sleep(50);
      return arrived.lines().map(readLine);
    },
    text: (door) => arrivals.get(door)!.text(),
    forget: (door) => void arrivals.get(door)!.take(),
    take: (door) => arrivals.get(door)!.take(),
    complaints,
    signal: (signal) => void child.kill(signal),
    end,
    again: start,
    async stop() {
      if (child.exitCode === null && child.signalCode === null) await end('SIGKILL');
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** The lines that come to a file; each byte is read once. */
export class Arrivals {
  readonly #path: string;
  #read = 0;
  #chunks: Buffer[] = [];
  #count = 0;

  constructor(path: string) {
    this.#path = path;
  }

  count(): number {
    if (!existsSync(this.#path)) return 0;
    const file = openSync(this.#path, 'r');
    try {
      for (;;) {
        const chunk = Buffer.alloc(1024 * 1024);
        const bytes = readSync(file, chunk, 0, chunk.length, this.#read);
        if (bytes === 0) return this.#count;
        this.#read += bytes;
        this.#chunks.push(chunk.subarray(0, bytes));
        for (let at = chunk.indexOf(LF); at >= 0 && at < bytes; at = chunk.indexOf(LF, at + 1)) this.#count += 1;
      }
    } finally {
      closeSync(file);
    }
  }

  text(): string {
    this.count();
    return Buffer.concat(this.#chunks).toString();
  }

  lines(): string[] {
    // Behind the last end of a line may be one in the making.
    return this.text().split('\n').slice(0, -1);
  }

  /** The whole lines until now, which are then forgotten. */
  take(): string {
    this.count();
    const all = Buffer.concat(this.#chunks);
    const end = all.lastIndexOf(LF) + 1;
    this.#chunks = [all.subarray(end)];
    this.#count = 0;
    return all.subarray(0, end).toString();
  }
}

const LF = 0x0a;

function readLine(line: string): ReceivedMessage {
  const columns = line.split('\t');
  if (columns.length !== COLUMNS) throw new Error(`a receiver wrote ${JSON.stringify(line.slice(0, 500))}`);
  const [priority, time, hostname, appName, procId, msgId, structuredData, text] = columns;
  return {
    priority: Number(priority),
    time: time!,
    hostname: hostname!,
    appName: appName!,
    procId: procId!,
    msgId: msgId!,
    structuredData: structuredData!,
    text: text!,
  };
}

function argumentsOf(kind: ReceiverKind, folder: string): string[] {
  const at = (name: string): string => join(folder, name);
  if (kind === 'rsyslog') return ['-n', '-i', at('pid'), '-f', at('conf'), '-M', moduleFolder('rsyslog')];
  const files = ['-f', at('conf'), '-R', at('persist'), '-c', at('control'), '-p', at('pid')];
  return ['-F', '--no-caps', `--module-path=${moduleFolder('syslog-ng')}`, ...files];
}

/** Fields are parted by tabs, which a message of ours never has. */
function rsyslogConfiguration(
  folder: string,
  ports: Receiver['ports'],
  doors: readonly Door[],
  { tls, maxBytes = MESSAGE_BYTES, driver = 'gtls' }: ReceiverOptions,
): string {
  const input = (door: Door): string => {
    const where = `port="${ports[door]}" address="127.0.0.1" ruleset="${door}"`;
    if (door === 'udp') return `input(type="imudp" ${where})`;
    if (door === 'octets' || door === 'lf') return `input(type="imtcp" ${where})`;
    const mode = door === 'mutual' ? 'x509/certvalid' : 'anon';
    const files = `streamDriver.CAFile="${tls!.ca}" streamDriver.CertFile="${tls!.cert}" streamDriver.KeyFile="${tls!.key}"`;
    return `input(type="imtcp" ${where} streamDriver.name="${driver}" streamDriver.mode="1" streamDriver.authMode="${mode}" ${files})`;
  };
  const fields = [
    '%pri%',
    '%timereported:::date-rfc3339%',
    '%hostname%',
    '%app-name%',
    '%procid%',
    '%msgid%',
    '%structured-data%',
    '%msg%',
  ];
  return `${[
    `global(workDirectory="${folder}"${maxBytes === null ? '' : ` maxMessageSize="${maxBytes}"`})`,
    'module(load="imudp")',
    'module(load="imtcp" maxSessions="500")',
    `template(name="fields" type="string" string="${fields.join('\\t')}\\n")`,
    // What comes from nowhere else is rsyslog's own.
    `action(type="omfile" file="${join(folder, 'internal')}")`,
    ...doors.flatMap((door) => [
      `ruleset(name="${door}") { action(type="omfile" file="${join(folder, door)}" template="fields") }`,
      input(door),
    ]),
  ].join('\n')}\n`;
}

function syslogNgConfiguration(
  folder: string,
  ports: Receiver['ports'],
  doors: readonly Door[],
  { tls, maxBytes = MESSAGE_BYTES }: ReceiverOptions,
): string {
  const source = (door: Door): string => {
    const where = `ip(127.0.0.1) port(${ports[door]})`;
    if (door === 'udp') return `syslog(${where} transport("udp"));`;
    if (door === 'octets') return `syslog(${where} transport("tcp") max-connections(500));`;
    if (door === 'lf') return `network(${where} transport("tcp") flags(syslog-protocol) max-connections(500));`;
    const verify = door === 'mutual' ? 'required-trusted' : 'optional-untrusted';
    const files = `cert-file("${tls!.cert}") key-file("${tls!.key}") ca-file("${tls!.ca}")`;
    return `syslog(${where} transport("tls") max-connections(500) tls(${files} peer-verify(${verify})));`;
  };
  // biome-ignore lint/suspicious/noTemplateCurlyInString: these are syslog-ng's
  const fields = '${PRI}\\t${ISODATE}\\t${HOST}\\t${PROGRAM}\\t${PID}\\t${MSGID}\\t${SDATA}\\t${MSG}\\n';
  const size = maxBytes === null ? '' : `log-msg-size(${maxBytes});`;
  return `${[
    '@version: 3.38',
    `options { keep-hostname(yes); keep-timestamp(yes); use-dns(no); ts-format(iso); frac-digits(3); time-zone("+00:00"); stats-freq(0); ${size} };`,
    `source own { internal(); };`,
    `destination own { file("${join(folder, 'internal')}"); };`,
    'log { source(own); destination(own); };',
    ...doors.flatMap((door) => [
      `source ${door} { ${source(door)} };`,
      `destination ${door} { file("${join(folder, door)}" template("${fields}")); };`,
      `log { source(${door}); destination(${door}); };`,
    ]),
  ].join('\n')}\n`;
}

function libraries(): string {
  const folders = ['usr/lib', 'lib'].flatMap((path) =>
    existsSync(join(PEERS, path))
      ? readdirSync(join(PEERS, path))
          .filter((name) => name.endsWith('-linux-gnu'))
          .map((name) => join(PEERS, path, name))
      : [],
  );
  return [...folders, join(PEERS, 'usr/lib/syslog-ng')].join(':');
}

function moduleFolder(kind: ReceiverKind): string {
  const base = join(PEERS, 'usr/lib');
  const machine = readdirSync(base).find((name) => name.endsWith('-linux-gnu'))!;
  if (kind === 'rsyslog') return join(base, machine, 'rsyslog');
  const release = readdirSync(join(base, 'syslog-ng')).find((name) => /^\d+\.\d+$/.test(name))!;
  return join(base, 'syslog-ng', release);
}

/** Says whether somebody on this machine listens there, without touching him. */
export function isListening(port: number, udp = false): boolean {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  return readFileSync(udp ? '/proc/net/udp' : '/proc/net/tcp', 'utf8')
    .split('\n')
    .some((line) => {
      const [, local = '', , state] = line.trim().split(/\s+/);
      return local.endsWith(wanted) && (udp || state === '0A');
    });
}

async function freePorts(): Promise<Record<Door, number>> {
  const udp = createSocket('udp4').bind(0, '127.0.0.1');
  await once(udp, 'listening');
  const servers = await Promise.all(
    DOORS.slice(1).map(async (door) => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      return { door, server, port: (server.address() as { port: number }).port };
    }),
  );
  const ports = { udp: udp.address().port, ...Object.fromEntries(servers.map(({ door, port }) => [door, port])) };
  await Promise.all([once(udp.close(), 'close'), ...servers.map(({ server }) => once(server.close(), 'close'))]);
  return ports as Record<Door, number>;
}
