/** Somebody outside who keeps each signed checkpoint of a stream that he is shown: what was true once must stay true. */
import { setTimeout as sleep } from 'node:timers/promises';

export interface LogWatch {
  /** `tenant/category`. */
  readonly stream: string;
  /** Each other one, in the order in which they came. */
  readonly notes: readonly string[];
  stop(): Promise<void>;
}

const EVERY_MS = 250;
const ANSWER_MAX_MS = 2000;

export function watchLog(stream: string, token: string, url: () => string): LogWatch {
  const notes: string[] = [];
  const seen = new Set<string>();
  let stopped = false;
  async function look(): Promise<void> {
    const response = await fetch(`${url()}/v1/logs/${stream}/checkpoint`, {
      headers: { authorization: `Bearer ${token}` },
      signal: AbortSignal.timeout(ANSWER_MAX_MS),
    });
    const note = await response.text();
    if (!response.ok || seen.has(note)) return;
    seen.add(note);
    notes.push(note);
  }
  async function run(): Promise<void> {
    while (!stopped) {
      // Nobody may be there to ask.
      await look().catch(() => {});
      await sleep(EVERY_MS);
    }
  }
  const running = run();
  return {
    stream,
    notes,
    async stop() {
      stopped = true;
      await running;
    },
  };
}
