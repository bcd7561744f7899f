/**
 * A connection to PostgreSQL that ends when it is to, whatever became of the way to the server, and that is not made in a rush.
 *
 * - After a time-out it is destroyed: nobody knows what it will still say, and whoever got it next would wait behind that. The driver does so for
 *   pipelines, so all of ours are; a pool would only where it is told of the failure, which kysely does not.
 * - Who ends it says good-bye and waits for a second. On a way that is gone the socket would stay until the system gives up: a quarter of an hour.
 * - A commit whose wait for the synchronous standby was cancelled is no success: the standby may not have it. The server calls it one, and gives
 *   notice; here it is an answer that was lost, so that nobody has to think of it.
 * - Where connecting failed, the next attempt comes after a pause that grows (`Reconnects`).
 */
import pg from 'pg';

export interface BoundedConfig extends pg.PoolConfig {
  /** Without: whoever connects waits by himself between two attempts. */
  readonly reconnects?: Reconnects;
}

/** For sessions of ours: the server finds out within half a minute that we are gone without a word, and lets go of locks and lease. */
export const PEER_SETTINGS = {
  tcp_keepalives_idle: '10',
  tcp_keepalives_interval: '5',
  tcp_keepalives_count: '3',
  tcp_user_timeout: '10000',
} as const;
/** And we find out of a server. */
export const PEER_OPTIONS = { keepAlive: true, keepAliveInitialDelayMillis: 10_000 } as const;

const GOODBYE_MAX_MS = 1000;
const PAUSE_MIN_MS = 50;
/** Shorter than connecting may take, and than anybody waits for the first receipt behind an outage. */
const PAUSE_MAX_MS = 1000;

/**
 * When to connect again after a failure: half of the pause is fixed, the other is chance, so that replicas do not come together. One for all connections
 * of a process to a server.
 */
export class Reconnects {
  #failures = 0;

  /** Milliseconds to wait before connecting; 0 unless the last attempt failed. */
  pauseMs(): number {
    if (this.#failures === 0) return 0;
    const whole = Math.min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** Math.min(this.#failures, 10));
    return whole * (0.5 + Math.random() / 2);
  }

  note(isConnected: boolean): void {
    this.#failures = isConnected ? 0 : this.#failures + 1;
  }
}

/** Statements that `send` begins go over in one piece: one call of the system here, and the server wakes up for all of them once. */
export function inOnePiece<T>(client: pg.ClientBase, send: () => T): T {
  const { stream } = (client as pg.Client).connection;
  stream.cork();
  try {
    return send();
  } finally {
    stream.uncork();
  }
}

type Told = (error: Error | null) => void;

export class BoundedClient extends pg.Client {
  readonly #reconnects: Reconnects | undefined;
  #isEnded = false;

  constructor(config: BoundedConfig = {}) {
    // A pool hides the password from whoever lists its options.
    super({ ...config, password: config.password, ...PEER_OPTIONS, pipeline: true });
    this.#reconnects = config.reconnects;
    // While nobody else listens, a connection that is cut must fail its query, not the process.
    this.on('error', () => {});
    this.on('notice', ({ routine, message }) => {
      // Words can be of any language, names of routines can not.
      if (routine !== 'SyncRepWaitForLSN') return;
      const { connection } = this;
      connection.emit('error', new Error(`the commit is not where it has to be: ${message}`));
      connection.stream.destroy();
    });
  }

  override connect(): Promise<pg.Client>;
  override connect(callback: Told): void;
  override connect(callback?: Told): Promise<pg.Client> | undefined {
    if (callback === undefined)
      return new Promise((resolve, reject) => this.connect((error) => (error ? reject(error) : resolve(this))));
    const attempt = (): void => {
      if (this.#isEnded) {
        callback(new Error('the connection was ended before it was made'));
        return;
      }
      super.connect((error: Error | null) => {
        this.#reconnects?.note(!error);
        callback(error);
      });
    };
    const pause = this.#reconnects?.pauseMs() ?? 0;
    if (pause === 0) attempt();
    else setTimeout(attempt, pause);
    return undefined;
  }

  override end(): Promise<void>;
  override end(callback: Told): void;
  override end(callback: Told = () => {}): Promise<void> {
    this.#isEnded = true;
    const cut = setTimeout(() => this.connection.stream.destroy(), GOODBYE_MAX_MS);
    return super.end().finally(() => {
      clearTimeout(cut);
      callback(null);
    });
  }
}
