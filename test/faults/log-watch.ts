/** Somebody outside who keeps the deployment's key and each signed checkpoint of a stream that he is shown: what was true once must stay true. */
import { setTimeout as sleep } from 'node:timers/promises';

export interface LogWatch {
  /** `tenant/category`. */
  readonly stream: string;
  /** Each other one, in the order in which they came. */
  readonly notes: readonly string[];
  /** The deployment's verifier key (C2SP signed-note) as it was first told. */
  readonly key: string;
  /** Waits for a checkpoint of this size or a larger one. */
  covers(size: number): Promise<void>;
  stop(): Promise<void>;
}

const EVERY_MS = 250;
const ANSWER_MAX_MS = 2000;
const COVERED_MAX_MS = 20_000;

export function watchLog(stream: string, token: string, url: () => string): LogWatch {
  const notes: string[] = [];
  const seen = new Set<string>();
  let stopped = false;
  let key = '';
  async function ask(path: string): Promise<string> {
    const response = await fetch(`${url()}/v1/${path}`, {
      headers: { authorization: `Bearer ${token}` },
      signal: AbortSignal.timeout(ANSWER_MAX_MS),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${response.status}: ${text}`);
    return text;
  }
  async function look(): Promise<void> {
    if (key === '') {
      const { items } = JSON.parse(await ask('keys')) as { items: { origin: string; vkey: string }[] };
      // Those of streams have a path behind its name.
      key = items.find(({ origin }) => !origin.includes('/'))?.vkey ?? '';
    }
    const note = await ask(`logs/${stream}/checkpoint`);
    if (seen.has(note)) return;
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
    get key() {
      return key;
    },
    async covers(size) {
      for (const end = performance.now() + COVERED_MAX_MS; ; await sleep(EVERY_MS)) {
        // The second line of a checkpoint (C2SP tlog-checkpoint).
        if (Number(notes.at(-1)?.split('\n')[1]) >= size) return;
        if (performance.now() > end) throw new Error(`no checkpoint of ${stream} at ${size} or behind it`);
      }
    },
    async stop() {
      stopped = true;
      await running;
    },
  };
}
