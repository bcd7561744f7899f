/**
 * Random histories of a log: what is sent in which order to which replica, by which clocks, and what fails meanwhile. A plan
 * is data, so that fast-check can make it smaller; `play` carries it out with the real sequencer over a log in memory.
 */
import fc from 'fast-check';
import { ClockGuard } from '../../src/chain/clock-guard.ts';
import { type EventFields, type PendingEntry, pendingEntry, type StreamRef } from '../../src/chain/entry.ts';
import { addMonths, dropMonthOf } from '../../src/chain/retain-until.ts';
import { type SealedRun, sealRuns, sealWith } from '../../src/chain/sealed-run.ts';
import { type Outcome, type Receipt, Sequencer, type Submission } from '../../src/chain/sequencer.ts';
import { Keyring } from '../../src/keys/keyring.ts';
import type { MonthKeys } from '../../src/keys/month-keys.ts';
import { type Fault, MemoryLog } from './memory-log.ts';
import { type EventSize, Random, randomEvent, randomId } from './random-events.ts';

/** `ours` has an id that the service made; the last two name an earlier event of the stream. */
type IdKind = 'ours' | 'new' | 'repeat' | 'clash';

export interface PlannedEvent {
  readonly stream: number;
  readonly seed: number;
  readonly size: EventSize;
  readonly id: IdKind;
}

interface PlannedSubmission {
  readonly kind: 'open' | 'sealed';
  readonly atomic: boolean;
  readonly replica: number;
  readonly events: readonly PlannedEvent[];
  /** So many tiny events more, in the stream of the first: to cross tiles and blocks. */
  readonly burst: number;
  /** By how many months a sealed submission guesses its drop month wrong. */
  readonly monthsOff: number;
}

interface PlannedStep {
  /** Milliseconds since the step before. */
  readonly later: number;
  /** How far the clocks of service and database are off, in milliseconds. */
  readonly wallOff: number;
  readonly databaseOff: number;
  readonly fault: Fault;
  /** A replica that starts anew here, if any. */
  readonly restarts: number;
  readonly submissions: readonly PlannedSubmission[];
}

export interface Plan {
  readonly start: number;
  /** Of each of the three streams; null: for ever. The second value is what it is from the fourth step on. */
  readonly months: readonly (readonly [number | null, number | null])[];
  readonly steps: readonly PlannedStep[];
}

/** What became of an event that was sent. */
export interface Sent {
  readonly stream: number;
  readonly event: EventFields;
  readonly mayRepeat: boolean;
  /** Which submission it came in. */
  readonly submission: number;
  readonly isAtomic: boolean;
  readonly step: number;
  /** By the true clock. */
  readonly at: number;
  /** `refused`: an error that promises that nothing was stored. */
  readonly outcome: Outcome | 'dropped' | 'refused' | 'unknown';
}

export interface History {
  readonly plan: Plan;
  readonly log: MemoryLog;
  readonly sent: readonly Sent[];
}

const MINUTE = 60_000;
const DAY = 86_400_000;
/** Longer than any plan takes, so that a repeat is always recognised. */
const REPEAT_DAYS = 800;
const TENANTS = ['acme', 'umbrella-0'] as const;
const STREAMS = [
  { id: 7, tenant: 3, name: 'acme/data_access' },
  { id: 8, tenant: 3, name: 'acme/security_event' },
  { id: 12, tenant: 5, name: 'umbrella-0/configuration_change' },
] as const;

/** Instants shortly before a month, a year or a leap day begins or ends. */
const EDGES = [
  '1970-03-01',
  '2023-02-28',
  '2024-02-29',
  '2024-03-01',
  '2024-12-31',
  '2025-01-01',
  '2026-08-31',
  '2099-12-31',
];

export interface PlanSize {
  readonly steps: number;
  readonly submissions: number;
  readonly events: number;
  /** Tiny events at once. */
  readonly burst: number;
}

export function plans({ steps, submissions, events, burst }: PlanSize): fc.Arbitrary<Plan> {
  const event: fc.Arbitrary<PlannedEvent> = fc.record({
    stream: fc.constantFrom(0, 0, 0, 1, 2),
    seed: fc.nat(),
    size: weighted<EventSize>([25, 'tiny'], [50, 'usual'], [1, 'large'], [burst > 0 ? 1 : 0, 'huge']),
    id: weighted<IdKind>([6, 'new'], [3, 'ours'], [2, 'repeat'], [1, 'clash']),
  });
  const submission: fc.Arbitrary<PlannedSubmission> = fc.record({
    kind: fc.constantFrom('open', 'open', 'sealed'),
    atomic: fc.boolean(),
    replica: fc.constantFrom(0, 0, 1),
    events: fc.array(event, { minLength: 1, maxLength: events }),
    burst:
      burst > 0
        ? fc.oneof(
            fc.constant(0),
            fc.constant(0),
            fc.integer({ min: 1, max: burst }),
            fc.constantFrom(0, 255, 256, 1024, 1025),
          )
        : fc.constant(0),
    monthsOff: fc.constantFrom(0, 0, 0, 0, 1, -1),
  });
  const off = fc.oneof(fc.constant(0), fc.integer({ min: -2 * MINUTE, max: 2 * MINUTE }));
  const step: fc.Arbitrary<PlannedStep> = fc.record({
    later: fc.oneof(fc.constantFrom(0, 1, 999, MINUTE), fc.nat({ max: 3 * MINUTE }), fc.nat({ max: 40 * DAY })),
    wallOff: off,
    // One that is too far off is refused.
    databaseOff: fc.oneof(
      { weight: 20, arbitrary: off },
      { weight: 1, arbitrary: fc.constantFrom(-10 * MINUTE, 10 * MINUTE) },
    ),
    fault: weighted<Fault>([16, 'none'], [1, 'refused before'], [1, 'refused after'], [1, 'reply lost']),
    restarts: fc.constantFrom(-1, -1, -1, 0, 1),
    submissions: fc.array(submission, { minLength: 1, maxLength: submissions }),
  });
  const months = fc.constantFrom<readonly [number | null, number | null]>(
    [12, 12],
    [24, 24],
    [36, 24],
    [1, 1],
    [null, null],
    [13, 13],
  );
  return fc.record({
    start: fc
      .tuple(fc.constantFrom(...EDGES), fc.integer({ min: -2 * MINUTE, max: 2 * MINUTE }))
      .map(([day, ms]) => Math.max(Date.parse(day) + ms, 5 * MINUTE)),
    months: fc.tuple(months, months, months),
    steps: fc.array(step, { minLength: 1, maxLength: steps }),
  });
}

/** Carries a plan out. Everything in it ends: what is refused is not sent again. `onStep` is called before each step, when nothing is under way. */
export async function play(plan: Plan, monthKeys: MonthKeys, onStep?: (log: MemoryLog) => void): Promise<History> {
  const log = new MemoryLog(
    TENANTS.map((name, i) => ({ id: [3, 5][i]!, name })),
    STREAMS.map(({ id, tenant, name }) => ({
      ...{ id, tenant, name, epoch: 1, category: name.split('/')[1]!, size: 0 },
      ...{ head: new Uint8Array(32), frontier: new Uint8Array(0), recordedAt: 0, retainUntil: null },
    })),
  );
  const clock = { now: plan.start, wallOff: 0 };
  const replicas = [replica(log, monthKeys, clock), replica(log, monthKeys, clock)];
  const sent: Sent[] = [];
  const context = { log, clock, plan, sent, submissions: 0 };
  for (const [i, step] of plan.steps.entries()) {
    onStep?.(log);
    clock.now += step.later;
    clock.wallOff = step.wallOff;
    log.now = clock.now + step.databaseOff;
    log.fault = step.fault;
    log.step = i;
    log.months = new Map(STREAMS.map(({ id }, stream) => [id, monthsAt(plan, stream, i)]));
    if (step.restarts >= 0) replicas[step.restarts] = replica(log, monthKeys, clock);
    const events = step.submissions.map((submission, n) => eventsOf(submission, (i * 10 + n) * 10_000, i, sent));
    await Promise.all(step.submissions.map((submission, n) => submit(context, i, replicas, submission, events[n]!)));
  }
  for (const { sequencer } of replicas) await sequencer.close();
  return { plan, log, sent };
}

interface Replica {
  readonly sequencer: Sequencer;
  readonly seal: ReturnType<typeof sealWith>;
}

function replica(log: MemoryLog, monthKeys: MonthKeys, clock: { now: number; wallOff: number }): Replica {
  const keyring = new Keyring(monthKeys, log);
  const seal = sealWith((stream, dropMonth) => keyring.keysFor(stream, dropMonth));
  const wallClock = (): number => clock.now + clock.wallOff;
  const quiet = { debug() {}, warn() {}, error() {} };
  const sequencer = new Sequencer({
    store: log,
    seal,
    clock: new ClockGuard({ wall: wallClock, monotonic: () => clock.now }),
    wallClock,
    repeatDays: REPEAT_DAYS,
    queueEntriesMax: 100_000,
    queueBytesMax: 1_000_000_000,
    log: quiet,
  });
  return { sequencer, seal };
}

type EventToSend = Pick<Sent, 'stream' | 'event' | 'mayRepeat'>;

/**
 * The events of a submission. One that is to repeat an event, or its id, takes an earlier step's; a few new ids are shared
 * within a step, so that two submissions that commit together bring the same.
 */
function eventsOf(
  { events, burst, atomic }: PlannedSubmission,
  unique: number,
  step: number,
  before: readonly Sent[],
): EventToSend[] {
  const tiny = (_: unknown, i: number): PlannedEvent => {
    return { ...events[0]!, seed: i, size: 'tiny', id: i % 2 === 0 ? 'new' : 'ours' };
  };
  const own = [...events, ...Array.from({ length: burst }, tiny)].map(({ stream, seed, size, id: kind }, i) => {
    const earlier = before.filter((sent) => sent.stream === stream && sent.mayRepeat && sent.step < step);
    const one = kind === 'repeat' || kind === 'clash' ? earlier[seed % Math.max(1, earlier.length)] : undefined;
    if (one !== undefined && kind === 'repeat') return { stream, event: one.event, mayRepeat: true };
    const isShared = kind === 'new' && i < events.length && seed % 8 === 0;
    const id = isShared ? `shared.${step}.${seed % 3}` : randomId(new Random(seed), unique + i);
    return {
      stream,
      event: randomEvent(isShared ? seed % 2 : seed, size, one?.event.id ?? id),
      mayRepeat: kind !== 'ours',
    };
  });
  // An atomic request whose own ids repeat is refused before it is queued.
  const keys = own.map(({ stream, event }) => `${stream} ${event.id}`);
  return own.filter((_, i) => !atomic || keys.indexOf(keys[i]!) === i);
}

async function submit(
  context: {
    readonly log: MemoryLog;
    readonly clock: { readonly now: number; readonly wallOff: number };
    readonly plan: Plan;
    readonly sent: Sent[];
    submissions: number;
  },
  step: number,
  replicas: readonly Replica[],
  planned: PlannedSubmission,
  events: readonly EventToSend[],
): Promise<void> {
  const { sequencer, seal } = replicas[planned.replica]!;
  const { clock, plan } = context;
  context.submissions += 1;
  const sending = { submission: context.submissions, isAtomic: planned.atomic, step, at: clock.now };
  const refs = STREAMS.map(({ id, tenant, name }, i): StreamRef => {
    // The second replica never learns of a change: what the stream's row says counts.
    const known = monthsAt(plan, i, planned.replica === 1 ? 0 : step);
    return { id, tenantId: tenant, name, retentionMonths: known ?? undefined };
  });
  const entries = events.map(({ stream, event, mayRepeat }) => pendingEntry(refs[stream]!, event, mayRepeat));
  const guess = (stream: StreamRef): number =>
    dropMonthOf(
      stream.retentionMonths === undefined
        ? undefined
        : addMonths(clock.now, stream.retentionMonths + planned.monthsOff),
    );
  const reseal = async (kept: readonly unknown[], dropMonth: number): Promise<SealedRun> => {
    const [run] = await sealRuns(kept as readonly PendingEntry[], () => dropMonth, seal);
    return run!;
  };
  const submission: Submission =
    planned.kind === 'open'
      ? { kind: 'open', atomic: planned.atomic, entries }
      : { kind: 'sealed', atomic: planned.atomic, entries, runs: await sealRuns(entries, guess, seal), reseal };
  const note = (outcomes: readonly Sent['outcome'][]): void => {
    context.sent.push(...events.map((event, i) => ({ ...event, ...sending, outcome: outcomes[i]! })));
  };
  try {
    const outcomes = await sequencer.append(submission);
    note(outcomes.map((outcome) => outcome ?? 'dropped'));
  } catch (error) {
    const isUnknown = (error as { code?: string }).code === 'outcome_unknown';
    note(events.map(() => (isUnknown ? 'unknown' : 'refused')));
    if ((error as { code?: string }).code === undefined) throw error;
  }
}

/** How long a stream is kept at a step; null: for ever. */
export function monthsAt(plan: Plan, stream: number, step: number): number | null {
  return plan.months[stream]![step < 3 ? 0 : 1];
}

/** Whether all that is sent in a step is answered. */
export function isSound({ fault, databaseOff }: PlannedStep): boolean {
  return fault === 'none' && Math.abs(databaseOff) <= 2 * MINUTE;
}

export function receiptsOf(sent: readonly Sent[]): { readonly sent: Sent; readonly receipt: Receipt }[] {
  return sent.flatMap((one) =>
    typeof one.outcome === 'object' && one.outcome.kind === 'appended'
      ? [{ sent: one, receipt: one.outcome.receipt }]
      : [],
  );
}

function weighted<T>(...choices: readonly (readonly [number, T])[]): fc.Arbitrary<T> {
  return fc.oneof(
    ...choices.filter(([weight]) => weight > 0).map(([weight, value]) => ({ weight, arbitrary: fc.constant(value) })),
  );
}
