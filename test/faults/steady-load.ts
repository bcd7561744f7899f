/** Events at a steady rate, whatever happens to the service: each is sent again with its id until there is a receipt, which is noted. */
import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Placed } from './arrivals.ts';
import { post } from './post.ts';

export interface SteadyLoadOptions {
  /** Where the service is now. */
  readonly url: () => string;
  /** Of each tenant. */
  readonly tokens: readonly string[];
  readonly categories: readonly string[];
  /** Events a second, of all tenants. */
  readonly rate: number;
}

export interface SteadyLoad {
  readonly receipts: readonly Placed[];
  /** Milliseconds to the answer, of events that were answered at once, by the `phase` in which they were sent. */
  readonly latencies: ReadonlyMap<string, readonly number[]>;
  /** Events that had to be sent again: no answer came, or one that says so. */
  readonly repeated: number;
  phase: string;
  /** Resolves when everything that was sent has its receipt. */
  stop(): Promise<void>;
  /** Ends at once, whatever has no receipt yet. */
  drop(): void;
}

const RETRY_MS = 100;
const ANSWER_MAX_MS = 10_000;
const TICK_MS = 5;

export function startSteadyLoad({ url, tokens, categories, rate }: SteadyLoadOptions): SteadyLoad {
  const agent = new Agent({ keepAlive: true });
  const receipts: Placed[] = [];
  const latencies = new Map<string, number[]>();
  const underWay = new Set<Promise<void>>();
  let stopped = false;
  let dropped = false;
  let sent = 0;
  const load = { receipts, latencies, repeated: 0, phase: '', stop, drop };

  async function deliver(number: number): Promise<void> {
    const { phase } = load;
    const token = tokens[number % tokens.length]!;
    const category = categories[Math.floor(number / tokens.length) % categories.length]!;
    const id = `f-${number}`;
    const body = JSON.stringify({
      id,
      category,
      action: 'thing.act',
      outcome: 'success',
      ...(category === 'security_event' ? { severity: 5 } : {}),
      occurredAt: '2026-01-01T00:00:00Z',
      source: { service: 'mes' },
      actor: { type: 'user', id: `u-${number % 50}` },
      details: { text: 'x'.repeat(number % 400) },
    });
    const began = performance.now();
    for (let tries = 1; !dropped; tries += 1) {
      const answer = await post(agent, `${url()}/v1/events`, token, body, ANSWER_MAX_MS).catch(() => undefined);
      if (answer !== undefined && (answer.status === 200 || answer.status === 201)) {
        const { stream, seq, hash } = JSON.parse(answer.text) as Omit<Placed, 'id'>;
        receipts.push({ id, stream, seq, hash });
        if (tries > 1) return;
        const list = latencies.get(phase) ?? [];
        latencies.set(phase, list);
        list.push(performance.now() - began);
        return;
      }
      // Anything else is a mistake of the load, or of the service.
      if (answer !== undefined && answer.status !== 503 && answer.status !== 504)
        throw new Error(`${answer.status}: ${answer.text}`);
      if (tries === 1) load.repeated += 1;
      await sleep(RETRY_MS);
    }
  }

  async function run(): Promise<void> {
    const began = performance.now();
    while (!stopped) {
      for (; sent < ((performance.now() - began) * rate) / 1000; sent += 1) {
        const one = deliver(sent);
        underWay.add(one);
        // A failure stays, for `stop`.
        one.then(() => underWay.delete(one)).catch(() => {});
      }
      await sleep(TICK_MS);
    }
  }

  const running = run();
  async function stop(): Promise<void> {
    stopped = true;
    await running;
    await Promise.all(underWay);
    agent.destroy();
  }
  function drop(): void {
    stopped = true;
    dropped = true;
    agent.destroy();
  }
  return load;
}
