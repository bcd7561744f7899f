/**
 * Audit events of a manufacturing analytics platform, generated from a seed: for tests, and for the benchmark where no real events are at hand.
 *
 * The same seed gives the same events on every machine. They have the shape of `POST /v1/events`, satisfy their category's evidence rule, and are as long and
 * as repetitive as real ones: per category, the lengths follow those of some 80,000 real audit events (SIZES), and 128 KiB of them shrink about as much under
 * zstd. Whoever measures storage with events that are too alike measures nothing.
 */

export type GeneratedCategory =
  | 'user_authentication'
  | 'data_access'
  | 'configuration_change'
  | 'data_modification'
  | 'security_event'
  | 'system_operation';

type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };
type JsonObject = { [name: string]: Json };

/** An event as a client sends it (DESIGN section 3). */
export interface EventInput {
  id?: string;
  category: GeneratedCategory;
  action: string;
  outcome: 'success' | 'failure' | 'unknown';
  severity?: number;
  occurredAt: string;
  source: { service: string; host?: string; site?: string; zone?: string };
  actor: {
    type: string;
    id: string;
    name?: string;
    email?: string;
    ip?: string;
    sessionId?: string;
    userAgent?: string;
    roles?: string[];
  };
  target?: { type: string; id: string; name?: string };
  reason?: string;
  changes?: { before: Json; after: Json };
  details?: JsonObject;
  raw?: string;
}

export interface GenerateOptions {
  /** Any integer. */
  readonly seed: number;
  readonly count: number;
  /** Only these; without it all six, as often as among real events. */
  readonly categories?: readonly GeneratedCategory[];
  /** Without ids the service makes them. Default: with. */
  readonly ids?: boolean;
}

/** Quantiles of the length in bytes of real events as JSON: shares of the events, and per category the length that this share does not exceed. */
const SHARES = [0, 0.1, 0.5, 0.9, 0.99, 1] as const;
export const SIZES: Readonly<Record<GeneratedCategory, readonly number[]>> = {
  user_authentication: [356, 535, 673, 2175, 9684, 15_171],
  data_access: [461, 656, 891, 2715, 4321, 7276],
  configuration_change: [604, 876, 1689, 3439, 11_576, 43_432],
  data_modification: [512, 1047, 2626, 6593, 14_687, 39_050],
  security_event: [477, 582, 1648, 3554, 7948, 11_517],
  system_operation: [350, 530, 919, 1922, 5125, 38_291],
};

/** Of 1,000 real events. */
const WEIGHTS: Readonly<Record<GeneratedCategory, number>> = {
  user_authentication: 184,
  data_access: 219,
  configuration_change: 173,
  data_modification: 169,
  security_event: 27,
  system_operation: 228,
};

/** Returns `count` events in the order of their time; deterministic. */
export function generateEvents({ seed, count, categories, ids = true }: GenerateOptions): EventInput[] {
  const random = new Random(seed);
  const plant = makePlant(random);
  const among = categories ?? (Object.keys(WEIGHTS) as GeneratedCategory[]);
  const events: EventInput[] = [];
  let clock = Date.UTC(2026, 0, 5, 5);
  for (let index = 0; index < count; index++) {
    clock += Math.floor(random.skewed(4000));
    const category = random.weighted(among, WEIGHTS);
    const id = `${random.pick(plant.prefixes)}-${seed.toString(36)}-${String(index).padStart(6, '0')}`;
    const scene = makeScene(plant, random, clock);
    const event = BUILDERS[category](scene, sizeAt(category, random.next()));
    events.push(ids ? { id, ...event } : event);
  }
  return events;
}

/** The length below which `share` of the category's events lie; between the known quantiles the logarithm is interpolated. */
function sizeAt(category: GeneratedCategory, share: number): number {
  const sizes = SIZES[category];
  const upper = Math.max(
    1,
    SHARES.findIndex((known) => known >= share),
  );
  const within = (share - SHARES[upper - 1]!) / (SHARES[upper]! - SHARES[upper - 1]!);
  const low = Math.log(sizes[upper - 1]!);
  return Math.exp(low + within * (Math.log(sizes[upper]!) - low));
}

/** Who, where and when of one event. */
interface Scene {
  readonly random: Random;
  readonly plant: Plant;
  readonly person: Person;
  readonly site: string;
  readonly host: string;
  readonly ip: string;
  readonly time: string;
}

interface Person {
  readonly id: string;
  readonly name: string;
  readonly email: string;
  readonly roles: string[];
  readonly ip: string;
  readonly agent: string;
}

/** What the events of one seed have in common: the people, places and things that come back again and again. */
interface Plant {
  readonly prefixes: readonly string[];
  readonly people: readonly Person[];
  readonly sites: readonly string[];
  readonly hosts: readonly string[];
  readonly services: readonly string[];
  readonly tags: readonly string[];
  readonly dashboards: readonly { id: string; name: string }[];
  readonly tables: readonly { name: string; columns: readonly string[] }[];
  readonly settings: readonly string[];
  readonly loggers: readonly string[];
  readonly phrases: readonly string[];
}

function makePlant(random: Random): Plant {
  const sites = times(9, (n) => `plant-${n + 1}`);
  const word = () => random.pick(WORDS);
  const tags = times(
    400,
    () => `${random.pick(AREAS)}.${random.pick(MACHINES)}${random.int(1, 24)}.${random.pick(SIGNALS)}`,
  );
  return {
    prefixes: ['mes', 'hist', 'ana', 'gw', 'idp', 'etl', 'ops'],
    sites,
    people: times(320, () => makePerson(random)),
    hosts: times(
      70,
      () => `${random.pick(['srv', 'edge', 'scada', 'hmi', 'db'])}-${random.pick(sites)}-${random.int(1, 40)}`,
    ),
    services: [
      'mes-gateway',
      'historian',
      'analytics-api',
      'report-server',
      'identity',
      'etl-runner',
      'quality-db',
      'scheduler',
    ],
    tags,
    dashboards: times(160, () => ({ id: random.uuid(), name: sentence(random, 2, 5) })),
    tables: times(45, () => ({
      name: `${random.pick(AREAS)}_${word()}_${random.pick(SIGNALS)}`,
      columns: times(random.int(6, 30), () => `${word()}_${random.pick(SIGNALS)}`),
    })),
    settings: times(220, () => `${random.pick(AREAS)}.${word()}.${word()}_${word()}`),
    loggers: times(60, () => `com.plant.${word()}.${word()}.${capital(word())}${capital(word())}`),
    phrases: times(180, () => sentence(random, 4, 12)),
  };
}

function makePerson(random: Random): Person {
  const first = random.pick(FIRST_NAMES);
  const last = random.pick(LAST_NAMES);
  const id = `u-${random.hex(8)}`;
  return {
    id,
    name: `${first} ${last}`,
    email: `${first}.${last}@${random.pick(['acme', 'acme-plants', 'contractor'])}.example`.toLowerCase(),
    roles: times(random.int(1, 3), () => random.pick(ROLES)),
    ip: `10.${random.int(10, 40)}.${random.int(0, 255)}.${random.int(1, 254)}`,
    agent: `Mozilla/5.0 (${random.pick(SYSTEMS)}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/${random.int(118, 143)}.0.${random.int(0, 6999)}.${random.int(1, 220)} Safari/537.36`,
  };
}

function makeScene(plant: Plant, random: Random, clock: number): Scene {
  const person = random.favourite(plant.people);
  return {
    random,
    plant,
    person,
    site: random.favourite(plant.sites),
    host: random.favourite(plant.hosts),
    ip: random.chance(0.8)
      ? person.ip
      : `${random.int(11, 223)}.${random.int(0, 255)}.${random.int(0, 255)}.${random.int(1, 254)}`,
    time: localTime(clock, random.pick([0, 0, 60, 60, 120, -300])),
  };
}

/** RFC 3339 with milliseconds and that offset in minutes. */
function localTime(clock: number, offset: number): string {
  const local = new Date(clock + offset * 60_000).toISOString().slice(0, -1);
  if (offset === 0) return `${local}Z`;
  const minutes = Math.abs(offset);
  const pad = (n: number) => String(n).padStart(2, '0');
  return `${local}${offset < 0 ? '-' : '+'}${pad(Math.floor(minutes / 60))}:${pad(minutes % 60)}`;
}

type Builder = (scene: Scene, size: number) => EventInput;

const BUILDERS: Readonly<Record<GeneratedCategory, Builder>> = {
  user_authentication: buildAuthentication,
  data_access: buildAccess,
  configuration_change: buildConfigurationChange,
  data_modification: buildModification,
  security_event: buildSecurityEvent,
  system_operation: buildOperation,
};

function buildAuthentication(scene: Scene, size: number): EventInput {
  const { random, person, plant, ip, host, time } = scene;
  const action = random.pick(['auth.login', 'auth.login', 'auth.logout', 'session.expire', 'mfa.challenge']);
  const failed = action === 'auth.login' && random.chance(0.2);
  const port = random.int(1024, 65_535);
  const fields: JsonObject = { method: random.pick(['password', 'sso', 'certificate', 'webauthn']), port };
  const event: EventInput = {
    category: 'user_authentication',
    action,
    outcome: failed ? 'failure' : 'success',
    occurredAt: time,
    source: sourceOf(scene, 'identity'),
    actor: actorOf(scene),
    details: fields,
    raw: `${syslogTime(time)} ${host} idp[${400 + host.length}]: ${failed ? 'Failed' : 'Accepted'} ${fields.method} for ${person.id} from ${ip} port ${port}`,
  };
  return grow(event, size, fields, () => {
    const name = random.favourite(plant.settings);
    return [capital(name.split('.').at(-1)!), random.chance(0.85) ? random.favourite(plant.phrases) : random.value()];
  });
}

function buildAccess(scene: Scene, size: number): EventInput {
  const { random, plant, person, ip, time } = scene;
  const dashboard = random.favourite(plant.dashboards);
  const table = random.favourite(plant.tables);
  const action = random.pick(['dashboard.view', 'report.generate', 'data.export', 'api.query', 'data_source.connect']);
  const path = `/${action.replace('.', '/')}/${dashboard.id}${size > 700 ? `?from=${random.int(1_700_000_000, 1_790_000_000)}&site=${scene.site}` : ''}`;
  const status = random.chance(0.95) ? 200 : random.pick([304, 403, 404, 500]);
  const bytes = Math.floor(random.skewed(400_000));
  const columns = times(random.int(1, 4), () => random.pick(table.columns)).join(', ');
  const fields: JsonObject = { method: 'GET', path, status, bytes };
  const query = `SELECT ${columns} FROM ${table.name} WHERE ${random.pick(table.columns)} > ${random.int(0, 100_000)}`;
  if (size > 700) fields.userAgent = person.agent;
  if (size > 900) fields.query = query;
  const agent = size > 550 ? person.agent : '-';
  const event: EventInput = {
    category: 'data_access',
    action,
    outcome: status < 400 ? 'success' : 'failure',
    occurredAt: time,
    source: sourceOf(scene, 'analytics-api'),
    actor: { type: 'user', id: person.id, ip },
    target:
      size > 700
        ? { type: 'dashboard', id: dashboard.id, name: dashboard.name }
        : { type: 'dashboard', id: dashboard.id },
    details: fields,
    raw: `${ip} - ${person.id} [${time}] "GET ${path} HTTP/1.1" ${status} ${bytes} "-" "${agent}"`,
  };
  return grow(event, size, fields, (n) => [
    `filter${n}`,
    `${random.favourite(plant.tags)} ${random.pick(['=', '>', '<', 'in'])} ${random.value()}`,
  ]);
}

function buildConfigurationChange(scene: Scene, size: number): EventInput {
  const { random, plant, time } = scene;
  const action = random.pick([
    'role.create',
    'role.update',
    'permission.update',
    'system_setting.update',
    'data_source.update',
  ]);
  const before: JsonObject = {};
  const event: EventInput = {
    category: 'configuration_change',
    action,
    outcome: 'success',
    occurredAt: time,
    source: sourceOf(scene, random.favourite(plant.services)),
    actor: actorOf(scene),
    target: { type: action.split('.')[0]!, id: random.favourite(plant.settings) },
    reason: `CR-${random.int(1000, 9999)} ${random.favourite(plant.phrases)}`,
    changes: { before, after: before },
    details: { commit: random.hex(40), path: `config/${scene.site}/${random.pick(WORDS)}.yaml` },
  };
  return growChange(event, size, before, random, () => [
    random.favourite(plant.settings),
    random.pick<() => Json>([
      () => random.value(),
      () => random.chance(0.5),
      () => times(random.int(2, 8), () => random.pick(plant.people).email.split('@')[0]!),
      () => times(random.int(1, 5), () => random.pick(ROLES)),
    ])(),
  ]);
}

function buildModification(scene: Scene, size: number): EventInput {
  const { random, plant, time } = scene;
  const action = random.pick(['data.upload', 'data.delete', 'data.transform', 'calculated_field.update']);
  const table = random.favourite(plant.tables);
  const before: JsonObject = { key: random.int(1, 9_999_999), batch: random.hex(10) };
  const event: EventInput = {
    category: 'data_modification',
    action,
    outcome: 'success',
    occurredAt: time,
    source: sourceOf(scene, 'quality-db'),
    actor: actorOf(scene),
    target: { type: 'record', id: `${table.name}/${before.key}` },
    changes: { before, after: before },
    details: { transaction: random.hex(16), statement: `UPDATE ${table.name} SET … WHERE key = ${before.key}` },
  };
  return growChange(event, size, before, random, (n) => [
    n < table.columns.length ? table.columns[n]! : `${random.favourite(table.columns)}_${n}`,
    random.pick<() => Json>([
      () => random.value(),
      () => (random.chance(0.4) ? random.favourite(plant.phrases) : sentence(random, 4, 14)),
      () => times(random.int(2, 8), () => random.int(0, 9999) / 100),
    ])(),
  ]);
}

function buildSecurityEvent(scene: Scene, size: number): EventInput {
  const { random, plant, person, ip, host, time } = scene;
  const action = random.pick(['mfa.fail', 'privilege.escalate', 'api_key.create', 'ip.suspicious']);
  const severity = random.pick([5, 5, 7, 7, 9]);
  const rule = random.int(100, 160);
  const phrase = plant.phrases[rule]!;
  const fields: JsonObject = { rule: `R-${rule}`, message: phrase, score: random.int(1, 100) };
  const event: EventInput = {
    category: 'security_event',
    action,
    outcome: action === 'mfa.fail' ? 'failure' : random.pick(['success', 'unknown']),
    severity,
    occurredAt: time,
    source: sourceOf(scene, 'identity'),
    actor: actorOf(scene),
    target: { type: 'account', id: random.favourite(plant.people).id },
    details: fields,
    raw: `CEF:0|Plant|Guard|4.2|R-${rule}|${phrase}|${severity}|src=${ip} suser=${person.id} dhost=${host} act=${action}`,
  };
  return grow(event, size, fields, (n) => [
    `evidence${n}`,
    random.chance(0.8)
      ? random.favourite(plant.phrases)
      : { host: random.favourite(plant.hosts), value: random.value() },
  ]);
}

function buildOperation(scene: Scene, size: number): EventInput {
  const { random, plant, host, time } = scene;
  const action = random.pick([
    'service.restart',
    'backup.run',
    'version.upgrade',
    'certificate.expire',
    'resource.alert',
  ]);
  const service = random.favourite(plant.services);
  const logger = random.favourite(plant.loggers);
  const message = `${random.favourite(plant.phrases)} (${random.favourite(plant.tags)} = ${random.value()})`;
  const fields: JsonObject = {
    thread: `worker-${random.int(1, 32)}`,
    level: random.pick(['INFO', 'WARN', 'ERROR']),
    logger,
    message,
  };
  const event: EventInput = {
    category: 'system_operation',
    action,
    outcome: random.chance(0.9) ? 'success' : 'unknown',
    occurredAt: time,
    source: sourceOf(scene, service),
    actor: { type: 'system', id: service },
    target: { type: 'host', id: host },
    details: fields,
    raw: `${time} ${fields.thread} ${fields.level} ${logger} - ${message}`,
  };
  return grow(event, size, fields, () => [
    'at',
    `${random.favourite(plant.loggers)}.${random.pick(WORDS)}(line ${random.int(10, 1200)}) ${random.chance(0.4) ? random.value() : ''}`,
  ]);
}

/** Adds `piece` after `piece` to `fields` and, as most sources do, to the raw line, until the event is about `size` bytes long. */
function grow(
  event: EventInput,
  size: number,
  fields: JsonObject,
  piece: (n: number) => readonly [string, Json],
): EventInput {
  let length = JSON.stringify(event).length;
  const lines = [event.raw ?? ''];
  for (let n = 0; ; n++) {
    const [name, value] = piece(n);
    const unique = name in fields ? `${name}${n}` : name;
    const text = `${unique}=${typeof value === 'string' ? value : JSON.stringify(value)}`;
    const added = unique.length + JSON.stringify(value).length + JSON.stringify(text).length + 3;
    if (length + added > size) break;
    fields[unique] = value;
    lines.push(text);
    length += added;
  }
  event.raw = lines.join('\n');
  return event;
}

/** The same for a change: the pieces make up what was there before; a few of them differ afterwards, and the raw text is their diff. */
function growChange(
  event: EventInput,
  size: number,
  before: JsonObject,
  random: Random,
  piece: (n: number) => readonly [string, Json],
): EventInput {
  const after: JsonObject = { ...before };
  const diff = [`@@ ${event.target?.id} @@`];
  let length = JSON.stringify(event).length + 40;
  for (let n = 0; ; n++) {
    const [name, value] = piece(n);
    const changed = n === 0 || random.chance(0.12);
    const next = changed ? piece(n)[1] : value;
    const lines = changed
      ? [`-${name}: ${JSON.stringify(value)}`, `+${name}: ${JSON.stringify(next)}`]
      : [` ${name}: ${JSON.stringify(value)}`];
    const shown = changed || random.chance(0.4) ? lines : [];
    const added =
      2 * (name.length + 4) +
      JSON.stringify(value).length +
      JSON.stringify(next).length +
      JSON.stringify(shown.join('\n')).length;
    if (length + added > size && n > 0) break;
    length += added;
    before[name] = value;
    after[name] = next;
    diff.push(...shown);
  }
  const created = event.action.endsWith('.create') || event.action.endsWith('.upload');
  event.changes = { before: created ? null : before, after: event.action.endsWith('.delete') ? null : after };
  event.raw = diff.join('\n');
  return event;
}

function sourceOf({ random, site, host }: Scene, service: string): EventInput['source'] {
  return random.chance(0.5) ? { service, host, site } : { service, host, site, zone: `L${random.int(2, 4)}` };
}

function actorOf({ random, person, ip }: Scene): EventInput['actor'] {
  const actor: EventInput['actor'] = { type: 'user', id: person.id, name: person.name };
  if (random.chance(0.4))
    Object.assign(actor, { email: person.email, ip, sessionId: random.hex(8), roles: person.roles });
  return actor;
}

function syslogTime(time: string): string {
  return `${['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'][Number(time.slice(5, 7)) - 1]} ${time.slice(8, 10)} ${time.slice(11, 19)}`;
}

function sentence(random: Random, least: number, most: number): string {
  return capital(times(random.int(least, most), () => random.pick(WORDS)).join(' '));
}

function capital(word: string): string {
  return word.slice(0, 1).toUpperCase() + word.slice(1);
}

function times<T>(count: number, make: (n: number) => T): T[] {
  return Array.from({ length: count }, (_, n) => make(n));
}

/** A small generator of random numbers: a 32-bit counter in steps of the golden ratio, mixed with the finaliser of MurmurHash3. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let x = this.#state;
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return ((x ^ (x >>> 16)) >>> 0) / 2 ** 32;
  }

  /** Between the two, both included. */
  int(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  chance(share: number): boolean {
    return this.next() < share;
  }

  /** Below `most`, small ones far more often. */
  skewed(most: number): number {
    return most * this.next() ** 3;
  }

  pick<T>(items: readonly T[]): T {
    return items[Math.floor(this.next() * items.length)]!;
  }

  /** One of them, the first ones far more often: a few people do most of the work. */
  favourite<T>(items: readonly T[]): T {
    return items[Math.floor(this.skewed(items.length))]!;
  }

  /** One of them, with a chance in proportion to its weight. */
  weighted<K extends string>(items: readonly K[], weights: Readonly<Record<K, number>>): K {
    let ticket = this.next() * items.reduce((sum, item) => sum + weights[item], 0);
    for (const item of items) {
      ticket -= weights[item];
      if (ticket < 0) return item;
    }
    return items.at(-1)!;
  }

  hex(digits: number): string {
    let text = '';
    while (text.length < digits)
      text += Math.floor(this.next() * 2 ** 32)
        .toString(16)
        .padStart(8, '0');
    return text.slice(0, digits);
  }

  uuid(): string {
    const hex = this.hex(32);
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20)}`;
  }

  /** A value such as logs hold: a number, an address, an identifier, a word. */
  value(): string {
    switch (this.int(0, 5)) {
      case 0:
        return String(this.int(0, 100_000));
      case 1:
        return `0x${this.hex(8)}`;
      case 2:
        return (this.next() * 100).toFixed(2);
      case 3:
        return `10.${this.int(0, 255)}.${this.int(0, 255)}.${this.int(1, 254)}`;
      case 4:
        return this.uuid();
      default:
        return this.pick(WORDS);
    }
  }
}

const FIRST_NAMES =
  'Ada Anna Bao Carlos Chen Dana Elif Emre Fatima Felix Grace Hana Ines Ivan Jamal Jana Kai Lena Luca Maria Mei Nils Noor Olga Omar Paul Priya Rosa Sam Sofia Tariq Uma Vera Wei Yara Zoe'.split(
    ' ',
  );
const LAST_NAMES =
  'Ahmed Bauer Becker Costa Diaz Evans Fischer Garcia Hansen Ito Jensen Kaya Keller Kim Kowalski Larsen Lopez Meyer Moreau Müller Nguyen Novak Okafor Patel Petrov Rossi Sato Schmidt Silva Singh Tanaka Weber Wong Yilmaz Zhang'.split(
    ' ',
  );
const ROLES =
  'plant_operator shift_supervisor process_engineer plant_manager quality_lead maintenance it_security_admin auditor executive_viewer data_steward line_planner contractor'.split(
    ' ',
  );
const SYSTEMS = [
  'Windows NT 10.0; Win64; x64',
  'X11; Linux x86_64',
  'Macintosh; Intel Mac OS X 10_15_7',
  'X11; CrOS x86_64 14541.0.0',
];
const AREAS = 'assembly press paint weld mould pack mixing casting furnace filling cutting finishing'.split(' ');
const MACHINES = 'robot conveyor press oven pump mixer lathe mill valve boiler chiller reactor'.split(' ');
const SIGNALS =
  'temperature pressure speed torque level flow current voltage count cycle_time vibration humidity weight ph yield state'.split(
    ' ',
  );
const WORDS = (
  'access account action adapter after agent alarm allowed analysis approved archive area assigned audit available average backup batch before below between buffer build cache calibration ' +
  'cancelled capacity certificate change channel check client closed cluster column command commit complete component condition config connected connection consumer control correction counter ' +
  'created current cycle data database default delay deleted delivered device disabled download driver duration during edge enabled engine entry equipment error estimate event exceeded expected ' +
  'expired export failed feature field file filter finished firmware folder forecast format found gateway global group handler header health heartbeat history hour import index ingest input ' +
  'inspection installed interface interval invalid inventory issued item job joined key label latency launch layer lease left level limit line list listener load local locked lost lower machine ' +
  'maintenance manual mapping master material maximum member memory merge message metric migration minimum missing mode model module monitor moved network node normal notice number object offline ' +
  'online operation operator order outside output owner package page panel parameter partition pending percent period permission phase pipeline plan point policy pool position pressure previous ' +
  'primary priority process product profile project protocol quality query queue quota rate reached reading reason received recipe record recovered reduced refresh region rejected released remote ' +
  'removed repair replaced report request required reset resource response restart restored result retry review revision rollback route sample scale schedule schema scope sensor sequence service ' +
  'session shift signal skipped slot source stable stage standard started state station status step stopped storage stream supplier supply switch sync system table target task template tenant test ' +
  'threshold time timeout token tolerance tool total trace transfer trend trigger unit unknown update upper usage user validation value vendor version view volume waiting warning window worker written zone'
).split(' ');
