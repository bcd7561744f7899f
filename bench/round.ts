/** One measured round: some connections, one request in flight on each, for a time or until the events are used up. */

/**
 * `seconds` are measured after `warmup` seconds that are not. Without `seconds` the round ends when everything was sent once or, with
 * `events`, when so many were, rounded up to a whole request, from the first again where there are fewer.
 */
export interface RoundPlan {
  readonly connections: number;
  readonly warmup: number;
  readonly seconds?: number;
  readonly events?: number;
}

/** Latencies in milliseconds, over the requests answered in the measured time. */
export interface RoundResult {
  readonly events: number;
  readonly seconds: number;
  readonly p50: number;
  readonly p99: number;
  /** All that was acknowledged, also in the warm-up and after the end. */
  readonly acknowledged: number;
}

/**
 * Runs the round. `send` sends the next request on that connection and gives the number of events it brought once it is answered,
 * or 0 without sending when none is left. The first failure ends the round.
 */
export async function runRound(plan: RoundPlan, send: (connection: number) => Promise<number>): Promise<RoundResult> {
  const begin = performance.now();
  const opens = begin + plan.warmup * 1000;
  const closes = plan.seconds === undefined ? Number.POSITIVE_INFINITY : opens + plan.seconds * 1000;
  const latencies: number[] = [];
  let events = 0;
  let acknowledged = 0;
  let answered = begin;
  let failed = false;

  async function work(connection: number): Promise<void> {
    for (let sent = performance.now(); sent < closes && !failed; sent = answered) {
      const brought = await send(connection);
      if (brought === 0) return;
      answered = performance.now();
      acknowledged += brought;
      if (answered < opens || answered > closes) continue;
      events += brought;
      latencies.push(answered - sent);
    }
  }

  const workers = Array.from({ length: plan.connections }, (_, connection) =>
    work(connection).catch((error: unknown) => {
      failed = true;
      throw error;
    }),
  );
  await Promise.all(workers);
  latencies.sort((a, b) => a - b);
  return {
    events,
    seconds: plan.seconds ?? (answered - opens) / 1000,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    acknowledged,
  };
}

/** The value below which that share of the sorted values lies. */
export function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.floor(share * (sorted.length - 1))] ?? Number.NaN;
}
