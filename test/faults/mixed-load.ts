/**
 * Writers that behave as services do, and as some should not: single events, batches, repeats, another event under a used id, and
 * requests that are wrong. Each sends what it has no answer for again, with the same id, and writes everything down.
 */
import { randomInt, randomUUID } from 'node:crypto';
import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Line, Receipt } from './ledger.ts';
import { type Answer, post } from './post.ts';

export interface MixedLoadOptions {
  /** Of the replicas now; each request goes to one of them. */
  readonly urls: () => readonly string[];
  /** Of each tenant, for a service. */
  readonly tokens: ReadonlyMap<string, string>;
  readonly categories: readonly string[];
  readonly writers: number;
  /** Milliseconds that a writer waits between two pieces of work. */
  readonly pauseMs?: number;
  /** The share of events that go to the first tenant's first category; 0.5 unless said otherwise. */
  readonly hot?: number;
  /** Milliseconds until what had no receipt is sent again; 50 unless said otherwise. */
  readonly retryMs?: number;
  /** Whether some events without an answer are given up; yes unless said otherwise. */
  readonly givesUp?: boolean;
}

export interface MixedLoad {
  readonly lines: readonly Line[];
  /** How many answers of each status; 0: none came. */
  readonly answers: ReadonlyMap<number, number>;
  /** Milliseconds to the slowest answer of each status. */
  readonly slowest: ReadonlyMap<number, number>;
  /** Resolves with the milliseconds until an event that is sent from now on has its receipt. */
  nextReceipt(maxMs: number): Promise<number>;
  /** Sends so many single events to one replica at once, once each. Calls `onFirst` at the first answer, and resolves with the statuses of all. */
  burst(url: string, count: number, onFirst?: () => void): Promise<readonly number[]>;
  /** Begins to count answers and times anew. */
  forget(): void;
  /** Stops sending. What has no answer yet is asked for again where `settle` is true, which must then come. */
  stop(settle: boolean): Promise<void>;
}

const NONE: Answer = { status: 0, text: '' };
const ANSWER_MAX_MS = 15_000;
const RETRY_MS = 50;
const BATCH_MAX = 40;
/** Of a hundred pieces of work. `other` is another event under an id that is used. */
const SHARES = { single: 60, batch: 15, repeat: 10, other: 5, wrong: 10 };
type Kind = keyof typeof SHARES;
/** One of so many writers' events is given up when no answer comes, so that what nobody knows is there too. */
const GIVEN_UP = 20;
const SETTLE_MAX_MS = 150_000;

export function startMixedLoad(options: MixedLoadOptions): MixedLoad {
  const { urls, tokens, categories, writers, pauseMs = 0, hot = 0.5, retryMs = RETRY_MS, givesUp = true } = options;
  const agent = new Agent({ keepAlive: true });
  const tenants = [...tokens.keys()];
  const lines: Line[] = [];
  const answers = new Map<number, number>();
  const slowest = new Map<number, number>();
  const run = randomUUID().slice(0, 8);
  let stopped = false;
  let newest = -1;

  function fresh(tenant: string, category: string, id = `${run}-${lines.length}`): Line {
    const event = {
      id,
      category,
      action: 'thing.act',
      outcome: 'success',
      ...(category === 'security_event' ? { severity: 5 } : {}),
      occurredAt: '2026-01-01T00:00:00.000Z',
      source: { service: 'mes' },
      actor: { type: 'user', id: `u-${randomInt(50)}` },
      details: { nonce: randomUUID(), text: 'x'.repeat(randomInt(400)) },
    };
    const line = { tenant, event, sentAt: performance.now(), receipts: [], isOpen: false, isRefused: false };
    lines.push(line);
    return line;
  }

  function somewhere(): [string, string] {
    if (Math.random() < hot) return [tenants[0]!, categories[0]!];
    return [tenants[randomInt(tenants.length)]!, categories[randomInt(categories.length)]!];
  }

  function isGivenUp(): boolean {
    return givesUp && randomInt(GIVEN_UP) === 0;
  }

  function anyUrl(): string {
    const all = urls();
    return all[randomInt(all.length)]!;
  }

  /** Status 0: no answer came. */
  async function send(tenant: string, path: string, body: string, url = anyUrl()): Promise<Answer> {
    const began = performance.now();
    const answer = await post(agent, `${url}${path}`, tokens.get(tenant)!, body, ANSWER_MAX_MS).catch(() => NONE);
    answers.set(answer.status, (answers.get(answer.status) ?? 0) + 1);
    slowest.set(answer.status, Math.max(slowest.get(answer.status) ?? 0, performance.now() - began));
    return answer;
  }

  /** Notes what an answer says of an event, and returns whether that settles it. */
  function note(line: Line, status: number, receipt: () => Receipt): boolean {
    if (status === 200 || status === 201) {
      const { stream, seq, hash } = receipt();
      line.receipts.push({ stream, seq, hash });
      if (line.acknowledgedAt === undefined) newest = Math.max(newest, line.sentAt);
      line.acknowledgedAt ??= performance.now();
      return true;
    }
    if (status === 0 || status === 504) line.isOpen = true;
    else if (status === 503 || (status >= 400 && status < 500)) line.isRefused = true;
    else throw new Error(`an answer that should not be: ${status}`);
    return status >= 400 && status < 500 && status !== 429;
  }

  async function deliver(line: Line, isPatient: boolean): Promise<void> {
    const body = JSON.stringify(line.event);
    for (const end = performance.now() + SETTLE_MAX_MS; ; await sleep(retryMs)) {
      const { status, text } = await send(line.tenant, '/v1/events', body);
      if (note(line, status, () => JSON.parse(text) as Receipt)) return;
      if (!isPatient && (stopped || isGivenUp())) return;
      if (performance.now() > end)
        throw new Error(`no receipt for ${line.event.id} in ${SETTLE_MAX_MS} ms: ${status} ${text}`);
    }
  }

  async function deliverBatch(tenant: string): Promise<void> {
    const batch = Array.from({ length: 2 + randomInt(BATCH_MAX) }, () => fresh(tenant, somewhere()[1]));
    // What is wrong with one is not the others' fault.
    const wrong = randomInt(4) === 0 ? [{ ...batch[0]!.event, id: `${batch[0]!.event.id}-w`, outcome: 'perhaps' }] : [];
    const body = JSON.stringify([...batch.map(({ event }) => event), ...wrong]);
    for (;;) {
      const { status, text } = await send(tenant, '/v1/events/batch', body);
      if (status !== 200) {
        const isSettled = batch.map((line) => note(line, status, () => fail(`${status} for a batch: ${text}`)))[0];
        if (isSettled || stopped || isGivenUp()) return;
        await sleep(retryMs);
        continue;
      }
      const { items } = JSON.parse(text) as { items: (Receipt & { status: number })[] };
      if (items.length !== batch.length + wrong.length) fail(`a batch has ${items.length} answers`);
      for (const [index, line] of batch.entries()) note(line, items[index]!.status, () => items[index]!);
      if (wrong.length > 0 && items.at(-1)!.status !== 400) fail(`a wrong event got ${items.at(-1)!.status}`);
      return;
    }
  }

  async function work(): Promise<void> {
    const [tenant, category] = somewhere();
    const kind = anyKind();
    if (kind === 'batch') return deliverBatch(tenant);
    if (kind === 'repeat' || kind === 'other') {
      const known = lines[randomInt(Math.max(lines.length, 1))];
      if (known === undefined || known.receipts.length === 0) return;
      const { tenant: owner, event } = known;
      return deliver(kind === 'repeat' ? known : fresh(owner, event['category'] as string, event.id), false);
    }
    const line = fresh(tenant, category);
    if (kind === 'single') return deliver(line, false);
    // As it was sent, it can not be stored; as it is written down, it must not be.
    const answer = await send(tenant, '/v1/events', JSON.stringify({ ...line.event, outcome: 'perhaps' }));
    note(line, answer.status, () => fail('a wrong event got a receipt'));
  }

  async function writer(): Promise<void> {
    while (!stopped) {
      await work();
      if (pauseMs > 0) await sleep(pauseMs * (0.5 + Math.random()));
    }
  }

  const writing = Promise.all(Array.from({ length: writers }, writer));
  // A failure stays, for `stop`.
  writing.catch(() => {
    stopped = true;
  });
  return {
    lines,
    answers,
    slowest,
    async nextReceipt(maxMs) {
      const began = performance.now();
      while (newest < began) {
        if (performance.now() - began > maxMs) throw new Error(`no receipt within ${maxMs} ms`);
        if (stopped) await writing;
        await sleep(5);
      }
      return performance.now() - began;
    },
    burst(url, count, onFirst) {
      const sending = Array.from({ length: count }, async () => {
        const line = fresh(...somewhere());
        const { status, text } = await send(line.tenant, '/v1/events', JSON.stringify(line.event), url);
        note(line, status, () => JSON.parse(text) as Receipt);
        return status;
      });
      Promise.race(sending).then(onFirst, () => {});
      return Promise.all(sending);
    },
    forget() {
      answers.clear();
      slowest.clear();
    },
    async stop(settle) {
      stopped = true;
      await writing;
      if (settle)
        for (const line of lines.filter(({ isOpen, receipts }) => isOpen && receipts.length === 0))
          if (!givesUp || randomInt(2) === 0) await deliver(line, true);
      agent.destroy();
    },
  };
}

function anyKind(): Kind {
  let left = randomInt(100);
  for (const [kind, share] of Object.entries(SHARES)) {
    left -= share;
    if (left < 0) return kind as Kind;
  }
  throw new Error('the shares are less than a hundred');
}

function fail(words: string): never {
  throw new Error(words);
}
