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
 * - `cut_answer`: it arrives; when the server answers, both ends see the connection end instead.
 * - `swallow`: it does not arrive, nor does anything after it, either way; nobody is told.
 * - `swallow_answer`: it arrives; nothing comes back, and nothing after it arrives; nobody is told.
 */
export type Fate = 'pass' | 'cut' | 'cut_answer' | 'swallow' | 'swallow_answer';

/** Says what becomes of a statement: the text of a simple query, or the name of a prepared statement that is executed. */
export type Rule = (statement: string) => Fate;

export interface TcpProxy {
  readonly port: number;
  /** Applies to every connection, also to those that are open. */
  rule: Rule;
  /** What passed, or was to pass, in order. */
  readonly statements: string[];
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
  let server: Server | undefined;
  let port = 0;

  const proxy = {
    rule: passAll,
    statements,
    get port() {
      return port;
    },
    get connections() {
      return wires.size;
    },
    async up() {
      if (server !== undefined) return;
      server = createServer((client) => {
        const wire = new Wire(client, openTarget(target), (statement) => {
          statements.push(statement);
          return proxy.rule(statement);
        });
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

class Wire {
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #rule: Rule;
  #received: Buffer = Buffer.alloc(0);
  /** The first message of a connection has no type. */
  #started = false;
  #state: 'open' | 'cut_on_answer' | 'silent' = 'open';

  constructor(client: Socket, server: Socket, rule: Rule) {
    this.#client = client;
    this.#server = server;
    this.#rule = rule;
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
        if (this.#state !== 'silent' || one === client) other.destroy();
      });
    }
  }

  cut(): void {
    this.#client.destroy();
    this.#server.destroy();
  }

  #fromServer(chunk: Buffer): void {
    if (this.#state === 'open') this.#client.write(chunk);
    else if (this.#state === 'cut_on_answer') this.cut();
  }

  #fromClient(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    for (;;) {
      if (this.#state === 'silent') return;
      const type = this.#started ? TYPE_BYTES : 0;
      if (this.#received.length < type + LENGTH_BYTES) return;
      const length = type + this.#received.readUInt32BE(type);
      if (this.#received.length < length) return;
      const message = this.#received.subarray(0, length);
      this.#received = this.#received.subarray(length);
      const statement = this.#started ? statementOf(message) : undefined;
      this.#started = true;
      this.#deliver(message, statement === undefined ? 'pass' : this.#rule(statement));
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
        this.#state = 'cut_on_answer';
        this.#server.write(message);
        return;
      case 'swallow':
        this.#state = 'silent';
        return;
      case 'swallow_answer':
        this.#server.write(message);
        this.#state = 'silent';
        return;
      default: {
        const never: never = fate;
        throw new Error(`unknown fate ${never}`);
      }
    }
  }
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
