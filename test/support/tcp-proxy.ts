/**
 * A wire to PostgreSQL that can break: between the service and the server of the run, message by message.
 *
 * It reads what the client sends as messages of PostgreSQL's protocol (chapter "Message Formats"), so that a break can be put
 * before, or behind, one certain statement.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';

/**
 * What becomes of a statement, and of the wire behind it:
 * - `pass`: nothing.
 * - `cut`: it does not arrive; both ends see the connection end.
 * - `cut_answer`: it arrives; when the server answers it, both ends see the connection end instead.
 * - `swallow`: it does not arrive, nor does anything after it, either way; nobody is told.
 * - `swallow_answer`: it arrives; nothing comes back, and nothing after it arrives; nobody is told.
 */
export type Fate = 'pass' | 'cut' | 'cut_answer' | 'swallow' | 'swallow_answer';

/**
 * Says what becomes of a statement: the text of a simple query, or the name of a prepared statement that is executed. `before` is the one before it
 * on the same connection, `message` the whole of it, with the parameters of a prepared one.
 */
export type Rule = (statement: string, before: string | undefined, message: Buffer) => Fate;

export interface TcpProxy {
  readonly port: number;
  /** Applies to every connection, also to those that are open. */
  rule: Rule;
  /** What passed, or was to pass, in order. */
  readonly statements: string[];
  /** Of each answer that was cut, what the server said: `COMMIT`, say, or `ERROR`. */
  readonly cutAnswers: string[];
  readonly connections: number;
  /** Ends every connection, and refuses new ones until `listen`. */
  down(): Promise<void>;
  /** Takes connections (again), on the same port. */
  up(): Promise<void>;
  /** Ends everything. */
  close(): Promise<void>;
}

export const passAll: Rule = () => 'pass';

/** Returns a rule that lets everything pass but the first statement that begins so. */
export function onceAt(beginning: string, fate: Fate): Rule {
  let used = false;
  return (statement) => {
    if (used || !statement.startsWith(beginning)) return 'pass';
    used = true;
    return fate;
  };
}

/** Starts a proxy on 127.0.0.1 to where `target` points: a TCP address, or the folder of a Unix socket. */
export async function startProxy(target: { readonly host: string; readonly port: number }): Promise<TcpProxy> {
  const wires = new Set<Wire>();
  const statements: string[] = [];
  const cutAnswers: string[] = [];
  let server: Server | undefined;
  let port = 0;

  const proxy = {
    rule: passAll,
    statements,
    cutAnswers,
    get port() {
      return port;
    },
    get connections() {
      return wires.size;
    },
    async up() {
      if (server !== undefined) return;
      server = createServer((client) => {
        const heard = {
          rule: (statement: string, before: string | undefined, message: Buffer) => {
            statements.push(statement);
            return proxy.rule(statement, before, message);
          },
          cutAnswer: (said: string) => void cutAnswers.push(said),
        };
        const wire = new Wire(client, openTarget(target), heard);
        wires.add(wire);
        client.once('close', () => wires.delete(wire));
      });
      server.listen(port, '127.0.0.1');
      await once(server, 'listening');
      port = (server.address() as { port: number }).port;
    },
    async down() {
      const closing = server;
      server = undefined;
      for (const wire of wires) wire.cut();
      if (closing === undefined) return;
      closing.close();
      await once(closing, 'close');
    },
    close: () => proxy.down(),
  };
  await proxy.up();
  return proxy;
}

function openTarget({ host, port }: { readonly host: string; readonly port: number }): Socket {
  return host.startsWith('/') ? connect(`${host}/.s.PGSQL.${port}`) : connect(port, host);
}

const TYPE_BYTES = 1;
const LENGTH_BYTES = 4;
const QUERY = 0x51; // Q
const BIND = 0x42; // B
const SYNC = 0x53; // S
const READY_FOR_QUERY = 0x5a; // Z
const COMMAND_COMPLETE = 0x43; // C
const ERROR_RESPONSE = 0x45; // E

interface Hearer {
  readonly rule: Rule;
  readonly cutAnswer: (said: string) => void;
}

class Wire {
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #hearer: Hearer;
  #received: Buffer = Buffer.alloc(0);
  #answered: Buffer = Buffer.alloc(0);
  /** The first message of a connection has no type. */
  #started = false;
  #before: string | undefined;
  /** Queries and Syncs, to each of which the server says once that it is ready again; so it does behind the start. */
  #asked = 1;
  #ready = 0;
  /** What the server says from its so-manieth readiness on does not arrive. */
  #cutAfter = Infinity;
  #silent = false;

  constructor(client: Socket, server: Socket, hearer: Hearer) {
    this.#client = client;
    this.#server = server;
    this.#hearer = hearer;
    client.setNoDelay(true);
    client.on('data', (chunk: Buffer) => this.#fromClient(chunk));
    server.on('data', (chunk: Buffer) => this.#fromServer(chunk));
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      one.on('error', () => {});
      // A silent wire tells nobody that the other end is gone, but for a client that goes himself.
      one.on('close', () => {
        if (!this.#silent || one === client) other.destroy();
      });
    }
  }

  cut(): void {
    this.#client.destroy();
    this.#server.destroy();
  }

  /** Statements travel together, and so do their answers: those before the one that is cut still arrive. */
  #fromServer(chunk: Buffer): void {
    if (this.#silent) return;
    const all = this.#answered.length === 0 ? chunk : Buffer.concat([this.#answered, chunk]);
    let read = 0;
    let passed = 0;
    for (let next = lengthAt(all, read); next !== undefined; next = lengthAt(all, read)) {
      const type = all[read]!;
      if (this.#ready < this.#cutAfter) {
        passed = read + next;
      } else if (type === COMMAND_COMPLETE || type === ERROR_RESPONSE) {
        this.#client.write(all.subarray(0, passed), () => this.cut());
        this.#hearer.cutAnswer(type === ERROR_RESPONSE ? 'ERROR' : textAt(all, read + TYPE_BYTES + LENGTH_BYTES));
        this.#silent = true;
        return;
      }
      if (type === READY_FOR_QUERY) this.#ready += 1;
      read += next;
    }
    this.#client.write(all.subarray(0, passed));
    this.#answered = all.subarray(read);
  }

  #fromClient(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    for (;;) {
      if (this.#silent) return;
      const type = this.#started ? TYPE_BYTES : 0;
      if (this.#received.length < type + LENGTH_BYTES) return;
      const length = type + this.#received.readUInt32BE(type);
      if (this.#received.length < length) return;
      const message = this.#received.subarray(0, length);
      this.#received = this.#received.subarray(length);
      const statement = this.#started ? statementOf(message) : undefined;
      if (this.#started && (message[0] === QUERY || message[0] === SYNC)) this.#asked += 1;
      this.#started = true;
      const fate = statement === undefined ? 'pass' : this.#hearer.rule(statement, this.#before, message);
      this.#before = statement ?? this.#before;
      this.#deliver(message, fate);
    }
  }

  #deliver(message: Buffer, fate: Fate): void {
    switch (fate) {
      case 'pass':
        this.#server.write(message);
        return;
      case 'cut':
        this.cut();
        return;
      case 'cut_answer':
        // A Query is counted by now; the Sync behind a Bind is not.
        this.#cutAfter = Math.min(this.#cutAfter, this.#asked - (message[0] === QUERY ? 1 : 0));
        this.#server.write(message);
        return;
      case 'swallow':
        this.#silent = true;
        return;
      case 'swallow_answer':
        this.#server.write(message);
        this.#silent = true;
        return;
      default: {
        const never: never = fate;
        throw new Error(`unknown fate ${never}`);
      }
    }
  }
}

/** Returns the length of the whole message that begins at `from`, or undefined while it is not there. */
function lengthAt(bytes: Buffer, from: number): number | undefined {
  if (bytes.length < from + TYPE_BYTES + LENGTH_BYTES) return undefined;
  const length = TYPE_BYTES + bytes.readUInt32BE(from + TYPE_BYTES);
  return bytes.length < from + length ? undefined : length;
}

function statementOf(message: Buffer): string | undefined {
  const body = message.subarray(TYPE_BYTES + LENGTH_BYTES);
  if (message[0] === QUERY) return textAt(body, 0);
  // Portal, then statement.
  if (message[0] === BIND) return textAt(body, body.indexOf(0) + 1);
  return undefined;
}

function textAt(bytes: Buffer, start: number): string {
  return bytes.toString('utf8', start, bytes.indexOf(0, start));
}
