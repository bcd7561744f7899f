/** Does what a plan says, one deed after the other, and notes whatever is not as it should be. */
import { verifyBundle } from '../src/verify/bundle/verify-bundle.ts';
import { type Category, type Deed, type Plan, text } from './plan.ts';
import { type Answer, type Asker, ORIGIN, type Place, SimulatedService } from './service.ts';
import { type Count, Counter, verifyState, wrongIn } from './state.ts';

export interface Outcome {
  readonly counts: readonly Count[];
  readonly deviations: readonly string[];
  readonly verifications: number;
  readonly bundles: number;
  readonly prunings: number;
  readonly entries: number;
}

type Of<K extends Deed['do']> = Extract<Deed, { do: K }>;

/** Bundles that are verified again after each pruning; the last of all are when everything is over. */
const BUNDLES_AGAIN = 6;
/** Checkpoints that are held against the log at each verification. */
const CHECKPOINTS_KEPT = 60;
/** Also because partitions are made ahead by the hour, and three months of simulated time have none. */
const RESTART_MONTHS = 2;
/** Where nobody outside states times, the service vouches for its clock by looking at it. */
const LOOK_EVERY_MS = 2 * 86_400_000;

export async function simulate(place: Place, plan: Plan, say: (line: string) => void): Promise<Outcome> {
  const at = Date.parse(plan.deeds[0]!.at) - 3_600_000;
  const service = await SimulatedService.open(place, { at, floors: plan.floors, outside: plan.outside });
  try {
    const simulation = new Simulation(service, plan, say);
    await simulation.run();
    return simulation.outcome;
  } finally {
    await service.stop();
  }
}

class Simulation {
  readonly #service: SimulatedService;
  readonly #plan: Plan;
  readonly #say: (line: string) => void;
  readonly #counter: Counter;
  readonly #deviations: string[] = [];
  readonly #counts: Count[] = [];
  /** Receipts, by `tenant/category`. */
  readonly #stored = new Map<string, number>();
  readonly #bundles: { readonly what: string; readonly tar: Uint8Array }[] = [];
  readonly #checkpoints: { readonly name: string; readonly note: string }[] = [];
  readonly #flagged = new Set<string>();
  /** Ids of holds, by their names in the plan. */
  readonly #holds = new Map<string, string>();
  #vkey = '';
  #now = '';
  #verifications = 0;
  #sent = 0;

  constructor(service: SimulatedService, plan: Plan, say: (line: string) => void) {
    this.#service = service;
    this.#counter = new Counter(service);
    this.#plan = plan;
    this.#say = say;
  }

  get outcome(): Outcome {
    return {
      ...{ counts: this.#counts, deviations: this.#deviations, verifications: this.#verifications },
      ...{ bundles: this.#bundles.length, prunings: this.#prunings, entries: this.#sum() },
    };
  }

  #prunings = 0;

  async run(): Promise<void> {
    let month = '';
    const { deeds } = this.#plan;
    for (let next = 0; next < deeds.length; ) {
      const { at } = deeds[next]!;
      this.#now = at;
      await this.#goTo(Date.parse(at));
      if (month !== at.slice(0, 7)) {
        if (month !== '' && Number(at.slice(5, 7)) % RESTART_MONTHS === 1) await this.#service.restart();
        month = at.slice(0, 7);
      }
      // What many send at one instant comes at once.
      const end = deeds.findIndex((deed, i) => i > next && (deed.at !== at || deed.do !== 'write'));
      const together = deeds[next]!.do === 'write' ? deeds.slice(next, end < 0 ? deeds.length : end) : [deeds[next]!];
      await Promise.all(together.map((deed) => this.#try(deed)));
      next += together.length;
      if (together[0]!.do === 'prune')
        this.#say(`${month}: ${this.#sum()} events, ${this.#deviations.length} deviations`);
    }
    await this.#verifyBundles(this.#bundles);
    const { rows } = await this.#service.pool.query(
      `SELECT count(*)::integer AS n FROM sealog.pruning WHERE state = 'done'`,
    );
    this.#prunings = rows[0].n;
  }

  /** Time goes by; the service looks at the clock as often as it would. */
  async #goTo(instant: number): Promise<void> {
    const { clock, app } = this.#service;
    while (!this.#plan.outside && instant - clock.now > LOOK_EVERY_MS) {
      await clock.moveTo(clock.now + LOOK_EVERY_MS);
      await app.pruner.plan();
    }
    await clock.moveTo(instant);
  }

  async #try(deed: Deed): Promise<void> {
    try {
      await this.#do(deed);
    } catch (error) {
      this.#deviate(`${deed.do}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  async #do(deed: Deed): Promise<void> {
    switch (deed.do) {
      case 'write':
        return this.#write(deed);
      case 'policy':
        return this.#setPolicy(deed);
      case 'erase':
        return this.#erase(deed);
      case 'hold':
        return this.#hold(deed);
      case 'release':
        return this.#release(deed);
      case 'jump':
        return this.#jump(deed);
      case 'prune':
        return this.#prune();
      case 'bundle':
        return this.#bundle(deed);
      case 'count':
        return this.#count(deed.at);
      default: {
        const never: never = deed;
        throw new TypeError(`no such deed: ${String(never)}`);
      }
    }
  }

  async #write(deed: Of<'write'>): Promise<void> {
    const events = Array.from({ length: deed.count }, (_, i) => this.#event(deed, i));
    const { body } = await this.#service.must(200, sender(deed.tenant), 'POST', '/v1/events/batch', events);
    const name = `${deed.tenant}/${deed.category}`;
    // Whether these may pass is the recount's to say, too: what is stored is what there are receipts for.
    const receipts = body.items.filter(({ status }: { status: number }) => status === 201);
    const others = body.items.filter(({ status }: { status: number }) => status !== 201);
    this.#stored.set(name, (this.#stored.get(name) ?? 0) + receipts.length);
    const mayBeRefused = !deed.complete && deed.category !== 'system_operation' && !this.#flagged.has(name);
    if (others.length > 0 && !mayBeRefused) this.#deviate(`an event of ${name}: ${JSON.stringify(others[0])}`);
    for (const { recordedAt } of receipts)
      if (Math.abs(Date.parse(recordedAt) - this.#service.clock.now) > 60_000)
        this.#deviate(`an event of ${name} was recorded at ${recordedAt}`);
  }

  async #setPolicy({ tenant, category, months, evidence }: Of<'policy'>): Promise<void> {
    const body = { months, evidence, reason: 'as planned' };
    await this.#service.must(200, admin(tenant), 'PUT', `/v1/retention/${category}`, body);
    if (evidence === 'flag') this.#flagged.add(`${tenant}/${category}`);
    else this.#flagged.delete(`${tenant}/${category}`);
    await this.#service.until(`${category} of ${tenant} is kept for ${months} months`, async () => {
      const answer = await this.#service.must(200, admin(tenant), 'GET', '/v1/retention');
      const known = answer.body.items.find((one: { category: string }) => one.category === category);
      return known.state === 'in_force' && known.monthsNow === months ? true : undefined;
    });
  }

  async #erase({ tenant, actor }: Of<'erase'>): Promise<void> {
    const asked = { person: { id: actor }, reason: 'request 4711' };
    const { body } = await this.#service.must(202, privacy('ann', tenant), 'POST', '/v1/erasures', asked);
    const path = `/v1/erasures/${body.id}`;
    const state = async (name: 'search' | 'state', wanted: string): Promise<Answer['body'] | undefined> => {
      const answer = await this.#service.must(200, privacy('ann', tenant), 'GET', path);
      if (answer.body[name] === 'failed') throw new Error(`the erasure failed: ${answer.body.error}`);
      return answer.body[name] === wanted ? answer.body : undefined;
    };
    await this.#service.until('the person is found', () => state('search', 'found'));
    await this.#service.must(200, privacy('bob', tenant), 'POST', `${path}/approve`, { reason: 'agreed' });
    await this.#service.until('the person is erased', () => state('state', 'done'));
  }

  async #hold({ hold, tenant, category, actor, from, to }: Of<'hold'>): Promise<void> {
    const asked = { from, to, reason: 'case 12', ...(category && { category }), ...(actor && { actor }) };
    const { body } = await this.#service.must(201, admin(tenant), 'POST', '/v1/holds', asked);
    this.#holds.set(hold, body.id);
  }

  async #release({ hold, tenant }: Of<'release'>): Promise<void> {
    const path = `/v1/holds/${this.#holds.get(hold)}/release`;
    await this.#service.must(202, admin(tenant), 'POST', path, { reason: 'settled' });
    const { body } = await this.#service.must(200, secondAdmin(tenant), 'POST', `${path}/approve`, {});
    if (body.state !== 'released') this.#deviate(`the hold ${hold} is ${body.state}`);
  }

  /** While a clock is wrong nothing is stamped and nothing goes; afterwards everything is as it was. */
  async #jump({ ms, clock, tenant }: Of<'jump'>): Promise<void> {
    const service = this.#service;
    const before = (await this.#partitions()).join();
    await service.clock.whileWrong(ms, clock, async () => {
      const event = this.#event({ tenant, category: 'system_operation', actors: ['u-0'], complete: true }, 0);
      const { status } = await service.ask(sender(tenant), 'POST', '/v1/events', event);
      if (status !== 503) this.#deviate(`an event was answered ${status} while the clock of ${clock} was wrong`);
      await service.app.pruner.pass('simulation');
      await service.app.pruner.pass('simulation');
    });
    // Neither more nor less: a month that has not come needs no keys.
    const after = (await this.#partitions()).join();
    if (after !== before) this.#deviate(`months were ${before} before the clock of ${clock} was wrong, then ${after}`);
    await service.must(200, admin(tenant), 'GET', '/v1/retention');
  }

  async #partitions(): Promise<string[]> {
    const { rows } = await this.#service.pool.query(
      `SELECT relname FROM pg_class WHERE relnamespace = 'sealog'::regnamespace AND relkind = 'r'
       AND relname ~ '^block_[0-9]+$' ORDER BY 1`,
    );
    return rows.map(({ relname }) => relname);
  }

  async #prune(): Promise<void> {
    const service = this.#service;
    if (this.#plan.outside) {
      // Something to anchor, so that somebody outside says what time it is.
      await service.must(200, admin(this.#plan.tenants[0]!), 'GET', '/v1/retention');
      await service.until('the witness says what time it is', async () => {
        const { rows } = await service.pool.query('SELECT max(evidence_time) AS at FROM sealog.outside_evidence');
        return Math.abs(Number(rows[0].at) - service.clock.now) < 120_000 ? true : undefined;
      });
    } else {
      const asked = { reason: 'as planned', clock: text(service.clock.now) };
      await service.must(202, admin('sealog'), 'POST', '/v1/retention/runs?dryRun=false', asked);
    }
    await service.until('what expired is pruned', async () =>
      (await service.app.pruner.pass('simulation')) === 'later' ? true : undefined,
    );
    const { rows } = await service.pool.query(
      `SELECT state, waiting FROM sealog.pruning WHERE state NOT IN ('done', 'abandoned')`,
    );
    for (const { state, waiting } of rows) this.#deviate(`a pruning is ${state}: ${waiting}`);
    const { stops } = await service.app.pruner.plan();
    if (stops.length > 0) this.#deviate(`pruning is stopped: ${stops.join('; ')}`);
  }

  async #bundle({ tenant, category, from }: Of<'bundle'>): Promise<void> {
    const service = this.#service;
    await service.untilSigned();
    const path = `/v1/bundle?category=${category}&from=${from}`;
    const { status, bytes } = await service.ask(auditor(tenant), 'GET', path);
    // Of a time without an entry there is none.
    if (status === 404) return;
    if (status !== 200)
      return this.#deviate(`${path} answered ${status}: ${Buffer.from(bytes).toString().slice(0, 300)}`);
    const made = { what: `the bundle of ${tenant}/${category} of ${this.#now}`, tar: bytes };
    this.#bundles.push(made);
    const { rows } = await service.pool.query(
      `SELECT s.name, c.note FROM sealog.checkpoint AS c JOIN sealog.stream AS s ON s.id = c.stream
       WHERE s.name LIKE $1 || '/' || $2 || '%'`,
      [tenant, category],
    );
    for (const { name, note } of rows) this.#checkpoints.push({ name: `${name} of ${this.#now}`, note });
    this.#vkey ||= await this.#deploymentKey();
    await this.#verifyBundles([made]);
  }

  async #count(at: string): Promise<void> {
    await this.#service.untilSigned();
    this.#vkey ||= await this.#deploymentKey();
    const kept = this.#checkpoints;
    const report = await verifyState(this.#service, {
      vkey: this.#vkey,
      checkpoints: [...kept.slice(0, CHECKPOINTS_KEPT / 2), ...kept.slice(-CHECKPOINTS_KEPT / 2)],
    });
    this.#verifications += 1;
    for (const one of wrongIn(report, this.#plan.outside)) this.#deviate(one);
    this.#counts.push(...(await this.#counter.count(at, this.#plan.tenants, this.#stored)));
    // Of before the last pruning, and of long before.
    await this.#verifyBundles([
      ...this.#bundles.slice(-BUNDLES_AGAIN / 2),
      ...this.#bundles.slice(0, BUNDLES_AGAIN / 2),
    ]);
  }

  async #verifyBundles(bundles: readonly { readonly what: string; readonly tar: Uint8Array }[]): Promise<void> {
    const witnesses = this.#service.witness === undefined ? [] : [this.#service.witness.vkey];
    for (const { what, tar } of bundles) {
      const report = await verifyBundle(tar, { key: this.#vkey, checkpoints: [], authorities: [], witnesses });
      for (const finding of report.findings) this.#deviate(`${what}: ${JSON.stringify(finding)}`);
    }
  }

  async #deploymentKey(): Promise<string> {
    const { body } = await this.#service.must(200, auditor(this.#plan.tenants[0]!), 'GET', '/v1/keys');
    return body.items.find(({ origin }: { origin: string }) => origin === ORIGIN).vkey;
  }

  #event(
    {
      category,
      actors,
      complete,
    }: { category: Category; actors: readonly string[]; complete: boolean; tenant: string },
    i: number,
  ): object {
    this.#sent += 1;
    const id = actors[i % actors.length]!;
    const common = {
      ...{ id: `event-${this.#sent}`, category, action: 'thing.done', outcome: 'success' },
      ...{ occurredAt: text(this.#service.clock.now), source: { service: 'mes', site: 'plant-1' } },
    };
    const actor = { type: 'user', id, name: `Person ${id}` };
    const target = { type: 'thing', id: `t-${i % 3}` };
    if (category === 'system_operation') return { ...common, actor };
    if (!complete) return common;
    switch (category) {
      case 'user_authentication':
        return { ...common, actor };
      case 'data_access':
        return { ...common, actor, target, raw: `GET /things/${i}` };
      case 'security_event':
        return { ...common, actor, severity: 5 };
      case 'configuration_change':
      case 'data_modification':
        return { ...common, actor, target, changes: { before: { value: i }, after: { value: i + 1 } } };
      default: {
        const never: never = category;
        throw new TypeError(`no such category: ${String(never)}`);
      }
    }
  }

  #sum(): number {
    return [...this.#stored.values()].reduce((sum, one) => sum + one, 0);
  }

  #deviate(what: string): void {
    const line = `${this.#now}: ${what}`;
    this.#deviations.push(line);
    this.#say(line);
  }
}

const sender = (tenant: string): Asker => ['service', 'mes', tenant];
const admin = (tenant: string): Asker => ['it_security_admin', 'ada', tenant];
const secondAdmin = (tenant: string): Asker => ['it_security_admin', 'bill', tenant];
const auditor = (tenant: string): Asker => ['auditor', 'otto', tenant];
const privacy = (subject: string, tenant: string): Asker => ['privacy_officer', subject, tenant];
