/**
 * Reading in turns: transactions of readers wait for a connection by tenant, so that one who asks for very much keeps nobody else waiting
 * behind all of it. As many run at a time as there are connections, so that none waits a second time.
 */
import { FairQueue } from '../chain/fair-queue.ts';
import { Problem } from '../errors.ts';

interface Waiting {
  /** Nobody waits for it any more. */
  isOver: boolean;
  readonly start: () => void;
}

export class ReaderTurns {
  readonly #waitMaxMs: number;
  readonly #waiting = new FairQueue<Waiting>(1);
  /** Above 0 nobody waits. */
  #free: number;

  constructor(connections: number, waitMaxMs: number) {
    this.#free = connections;
    this.#waitMaxMs = waitMaxMs;
  }

  /** Runs `work` when it is the tenant's turn. Throws a Problem `busy` where that is not within the time. */
  async run<T>(tenantId: number, work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else await this.#turn(tenantId);
    try {
      return await work();
    } finally {
      this.#pass();
    }
  }

  #turn(tenantId: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        waiting.isOver = true;
        reject(new Problem('busy', { detail: 'too many wait for the database' }));
      }, this.#waitMaxMs);
      const start = (): void => {
        clearTimeout(timer);
        resolve();
      };
      const waiting: Waiting = { isOver: false, start };
      this.#waiting.push(tenantId, waiting, 1);
    });
  }

  /** Hands a connection on. */
  #pass(): void {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      if (next.isOver) continue;
      next.start();
      return;
    }
    this.#free += 1;
  }
}
