/**
 * What is to be done, and when: a plan that whoever wants to recount it can read without knowing anything of Sealog.
 *
 * All of it is fixed before the first event is sent. Times are simulated ones, in order; between two of them the clock stands ahead of the
 * real one by the same time, so what a deed stores is stamped within seconds of the deed's time.
 */

export const CATEGORIES = {
  user_authentication: 12,
  data_access: 12,
  configuration_change: 24,
  data_modification: 24,
  security_event: 36,
  system_operation: 12,
} as const;

export type Category = keyof typeof CATEGORIES;

/** What a hold covers: entries of one tenant that were recorded in this time, and are of all of these. */
export interface HoldScope {
  readonly category?: Category;
  readonly actor?: string;
  readonly from: string;
  readonly to: string;
}

export type Deed = { readonly at: string } & (
  | {
      readonly do: 'write';
      readonly tenant: string;
      readonly category: Category;
      readonly count: number;
      /** Event i is of the actor i, modulo their number. */
      readonly actors: readonly string[];
      /** false: the category's evidence is missing. */
      readonly complete: boolean;
    }
  | {
      readonly do: 'policy';
      readonly tenant: string;
      readonly category: Category;
      readonly months: number;
      readonly evidence: 'refuse' | 'flag';
    }
  | { readonly do: 'erase'; readonly tenant: string; readonly actor: string }
  | ({ readonly do: 'hold'; readonly hold: string; readonly tenant: string } & HoldScope)
  | { readonly do: 'release'; readonly hold: string; readonly tenant: string }
  /** A clock that stands wrong for a moment, while somebody writes and somebody prunes. */
  | {
      readonly do: 'jump';
      readonly ms: number;
      readonly clock: 'service' | 'database' | 'both';
      readonly tenant: string;
    }
  | { readonly do: 'prune' }
  | { readonly do: 'bundle'; readonly tenant: string; readonly category: Category; readonly from: string }
  /** Everything is verified, and counted. */
  | { readonly do: 'count' }
);

export interface Plan {
  readonly months: number;
  readonly tenants: readonly string[];
  /** Months for which a category is kept where no policy says otherwise. */
  readonly defaults: { readonly [category: string]: number };
  /** Months below which no policy may go, where that is not the default. */
  readonly floors: { readonly [category: string]: number };
  /** Whether a witness states times. Without one, pruning comes this much later. */
  readonly outside: boolean;
  readonly lateDays: number;
  readonly deeds: readonly Deed[];
}

/** What a plan is made of. */
export interface Shape {
  readonly months: number;
  readonly tenants: readonly string[];
  readonly categories: readonly Category[];
  readonly floors: { readonly [category: string]: number };
  readonly outside: boolean;
  /** How many events a batch has, at most. */
  readonly batchMax: number;
  /** Deeds besides writing, pruning and counting: month (0 = first), day, hour, and what. */
  readonly besides: readonly [month: number, day: number, hour: number, deed: BareDeed][];
}

// Over each member of the union.
type Bare<T> = T extends unknown ? Omit<T, 'at'> : never;
export type BareDeed = Bare<Deed>;

/** The first month. The first February of a leap year comes in its second year. */
const FIRST_YEAR = 2027;
const LATE_DAYS = 3;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** The instant of a day (1 = first) of a month of the plan, UTC. */
export function instantOf(month: number, day: number, hour = 0): number {
  return Date.UTC(FIRST_YEAR, month, day, hour);
}

export function text(instant: number): string {
  return new Date(instant).toISOString();
}

/** Returns the plan: in each month writing three times, pruning, bundles of before and after that, and what is given besides. */
export function makePlan({ months, tenants, categories, floors, outside, batchMax, besides }: Shape): Plan {
  const deeds: Deed[] = [];
  const add = (instant: number, deed: BareDeed): void => void deeds.push({ at: text(instant), ...deed } as Deed);
  const lateDays = outside ? 0 : LATE_DAYS;
  let n = 0;
  for (let month = 0; month < months; month++) {
    // The first hour, some day, and the last hour: what is recorded at a month's edge goes with that month, not with the next.
    const end = instantOf(month + 1, 1) - HOUR_MS;
    for (const at of [instantOf(month, 1), instantOf(month, 9 + (month % 15), 11), end])
      for (const tenant of tenants)
        for (const category of categories) {
          // No month is like another, and some have nothing at all.
          n += 1;
          const count = (n * 7 + month * 3) % (batchMax + 1);
          if (count === 0) continue;
          const actors = Array.from({ length: 4 }, (_, i) => `u-${(month + i) % 9}`);
          add(at, { do: 'write', tenant, category, count, actors, complete: n % 11 !== 0 });
        }
    const from = text(instantOf(month - 1, 1));
    const own = tenants.map((tenant, i) => ({ tenant, category: categories[(month + i) % categories.length]! }));
    for (const one of own) add(end + HOUR_MS / 2, { do: 'bundle', ...one, from });
    const pruned = instantOf(month + 1, 1 + lateDays, 2);
    add(pruned, { do: 'prune' });
    add(pruned, { do: 'count' });
    for (const one of own) add(pruned, { do: 'bundle', ...one, from: text(instantOf(month, 1)) });
  }
  for (const [month, day, hour, deed] of besides) {
    add(instantOf(month, day, hour), deed);
    // No state between two deeds is passed over.
    if (deed.do !== 'write') add(instantOf(month, day, hour) + HOUR_MS / 4, { do: 'count' });
  }
  deeds.sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
  return { months, tenants, defaults: CATEGORIES, floors, outside, lateDays, deeds };
}

const [ACME, GLOBEX, INITECH] = ['acme', 'globex', 'initech'] as const;

/** Forty months of six categories and three tenants. */
export function fortyMonths(months = 40): Plan {
  const policy = (
    tenant: string,
    category: Category,
    kept: number,
    evidence: 'refuse' | 'flag' = 'refuse',
  ): BareDeed => ({
    ...({ do: 'policy', tenant, category, months: kept, evidence } as const),
  });
  const erase = (tenant: string, actor: string): BareDeed => ({ do: 'erase', tenant, actor });
  const jump = (ms: number, clock: 'service' | 'database' | 'both'): BareDeed => ({
    do: 'jump',
    ms,
    clock,
    tenant: ACME,
  });
  const hold = (name: string, tenant: string, from: number, to: number, what: Partial<HoldScope>): BareDeed => ({
    ...({ do: 'hold', hold: name, tenant, from: text(instantOf(from, 5)), to: text(instantOf(to, 5)) } as const),
    ...what,
  });
  const release = (name: string, tenant: string): BareDeed => ({ do: 'release', hold: name, tenant });
  const besides: Shape['besides'] = [
    [1, 5, 3, policy(GLOBEX, 'data_modification', 24, 'flag')],
    [2, 20, 3, hold('a category', ACME, 0, 4, { category: 'data_access' })],
    [4, 20, 3, hold('a person', GLOBEX, 0, 14, { actor: 'u-3' })],
    [3, 12, 3, policy(ACME, 'data_access', 18)],
    [5, 27, 3, erase(ACME, 'u-5')],
    [6, 27, 3, jump(HOUR_MS, 'service')],
    [7, 27, 3, jump(-HOUR_MS, 'database')],
    [8, 26, 3, policy(GLOBEX, 'user_authentication', 6)],
    [9, 27, 3, jump(396 * DAY_MS, 'both')],
    [11, 27, 3, jump(36525 * DAY_MS, 'both')],
    [12, 20, 3, hold('both', INITECH, 3, 30, { category: 'security_event', actor: 'u-1' })],
    [13, 28, 3, erase(INITECH, 'u-2')],
    [14, 26, 3, policy(ACME, 'data_access', 12)],
    [15, 27, 3, jump(396 * DAY_MS, 'database')],
    [16, 27, 3, policy(GLOBEX, 'data_modification', 24, 'refuse')],
    // Of whom some is held.
    [17, 27, 3, erase(GLOBEX, 'u-3')],
    [17, 28, 3, release('a category', ACME)],
    [18, 27, 3, policy(INITECH, 'configuration_change', 12)],
    [19, 27, 3, jump(36525 * DAY_MS, 'database')],
    [20, 27, 3, policy(INITECH, 'security_event', 48)],
    [24, 27, 3, policy(GLOBEX, 'user_authentication', 3)],
    [26, 27, 3, erase(GLOBEX, 'u-7')],
    [29, 27, 3, policy(GLOBEX, 'user_authentication', 12)],
    [28, 20, 3, release('a person', GLOBEX)],
    [30, 27, 3, jump(-HOUR_MS, 'both')],
    [33, 27, 3, erase(ACME, 'u-0')],
  ];
  return makePlan({
    ...{ months, tenants: [ACME, GLOBEX, INITECH], categories: Object.keys(CATEGORIES) as Category[] },
    floors: { user_authentication: 3, configuration_change: 12 },
    ...{ outside: true, batchMax: 7, besides: besides.filter(([month]) => month < months) },
  });
}

/** A few months, kept for one or two: everything that the long one has, in seconds. */
export function fewMonths(): Plan {
  const policy = (tenant: string, category: Category, kept: number): BareDeed => ({
    ...({ do: 'policy', tenant, category, months: kept, evidence: 'refuse' } as const),
  });
  const first = instantOf(0, 1) - DAY_MS;
  const login = { category: 'user_authentication' } as const;
  const shape: Shape = {
    ...{ months: 3, tenants: [ACME, GLOBEX], categories: ['data_access', 'user_authentication'] },
    floors: { data_access: 1, user_authentication: 1 },
    ...{ outside: false, batchMax: 5 },
    besides: [
      [
        0,
        25,
        3,
        { do: 'hold', hold: 'a person', tenant: ACME, actor: 'u-1', from: text(first), to: text(instantOf(1, 5)) },
      ],
      [
        0,
        25,
        5,
        { do: 'hold', hold: 'a category', tenant: GLOBEX, ...login, from: text(first), to: text(instantOf(0, 28)) },
      ],
      [2, 20, 3, { do: 'release', hold: 'a person', tenant: ACME }],
      [1, 26, 3, { do: 'erase', tenant: ACME, actor: 'u-2' }],
      [1, 27, 3, { do: 'jump', ms: 396 * DAY_MS, clock: 'both', tenant: ACME }],
      [1, 28, 3, policy(GLOBEX, 'user_authentication', 2)],
      [2, 26, 3, policy(ACME, 'data_access', 1)],
    ],
  };
  const plan = makePlan(shape);
  const at = text(first);
  // Before there is anything: no epoch is turned.
  const policies: Deed[] = plan.tenants.flatMap((tenant) =>
    shape.categories.map(
      (category) =>
        ({ at, ...policy(tenant, category, category === 'data_access' && tenant === ACME ? 2 : 1) }) as Deed,
    ),
  );
  return { ...plan, deeds: [...policies, ...plan.deeds] };
}
