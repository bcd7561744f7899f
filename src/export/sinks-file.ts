/**
 * The file of sinks that the operator configures (`SEALOG_SINKS_FILE`, docs/configuration.md), for plants where nobody calls an API:
 *
 *     [{ "tenant": "acme", "name": "soc", "type": "webhook", "preset": "splunk-hec", "url": "https://splunk.plant:8088",
 *        "token": { "file": "splunk-token" }, "tlsCa": { "file": "plant-ca.pem" } }]
 *
 * Each is a sink as the API takes it, and its tenant. What is secret stands in a file of its own, and any other text may; paths are relative to this file.
 * Everything that is wrong is told together, and the service does not start. Each replica reads the file at its start and makes the sinks of the file what the file
 * says, one replica at a time; where all have the same file, the second finds nothing to do. How far a sink is, and whether it is paused, stays.
 */
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import { canonicalText, type JsonObject } from '../chain/canonical.ts';
import { TENANT_PATTERN } from '../chain/category.ts';
import { EvidenceError, KeyUnavailableError, Problem, SettingsError } from '../errors.ts';
import { isJsonObject, type JsonMembers } from '../http/json-object.ts';
import type { AsTenant } from '../store/database.ts';
import { listSinks, type NewSinkRow, type SeenSink, type SinkRow, type SinkSecret } from '../store/sinks.ts';
import { type NewSink, readNewSink, secretMembersOf } from './sink.ts';
import { placesFrom, sourcesOf } from './sink-places.ts';
import { addedBy, SINKS_MAX, type SinkDeps, toldOf } from './sink-routes.ts';
import { openSinkSecret } from './sink-secret.ts';

export interface FileSink {
  readonly tenant: string;
  readonly sink: NewSink;
}

/** As the operator's file shows itself in the tables. */
const CREATED_BY = 'SEALOG_SINKS_FILE';
const FILE_BYTES_MAX = 1024 * 1024;
const ITEMS_MAX = 1000;
/** Of a file that is named in it: certificates, or a key. */
const TEXT_BYTES_MAX = 128 * 1024;
/** More than anybody reads. */
const PROBLEMS_MAX = 50;

/** Reads the file, and the files that it names. Throws a SettingsError with every problem. */
export async function readSinksFile(path: string): Promise<FileSink[]> {
  const problems: string[] = [];
  const sinks: FileSink[] = [];
  for (const [i, item] of (await itemsOf(path, problems)).entries()) {
    const complain: Complain = (field, what) => problems.push(`[${i}]${field === '' ? '' : `.${field}`} ${what}`);
    if (!isJsonObject(item)) {
      complain('', 'must be an object');
      continue;
    }
    const { tenant, ...given } = item;
    if (typeof tenant !== 'string' || !TENANT_PATTERN.test(tenant)) complain('tenant', 'must be the name of a tenant');
    const before = problems.length;
    const members = await withFiles(given, dirname(path), complain);
    const read = readNewSink(members, {});
    // What a file does not hold is told already.
    if ('errors' in read && problems.length === before)
      for (const { field, message } of read.errors) complain(field, message);
    if ('errors' in read || typeof tenant !== 'string') continue;
    if (sinks.some((one) => one.tenant === tenant && one.sink.name === read.config.name))
      complain('name', 'is that of another sink of the tenant');
    sinks.push({ tenant, sink: read.config });
  }
  if (problems.length === 0) return sinks;
  throw new SettingsError(problems.slice(0, PROBLEMS_MAX).map((problem) => `SEALOG_SINKS_FILE: ${problem}`));
}

type SealedSinkRow = SinkRow & { readonly secret: SinkSecret; readonly tenantId: number };

export interface SinksFileDeps extends Pick<SinkDeps, 'keys' | 'seal'> {
  /** Makes the tenant where it may; undefined where it was not opened. */
  readonly tenant: (name: string) => Promise<{ readonly id: number; readonly ask: AsTenant } | undefined>;
  /** Of the deployment, for the anchor stream. */
  readonly ofDeployment: () => Promise<AsTenant | undefined>;
  readonly store: Pick<SinkDeps['store'], 'create' | 'change' | 'remove'> & {
    readonly fromFile: () => Promise<readonly (SealedSinkRow & { readonly tenant: string })[]>;
  };
  /** Appends an entry to the tenant's log; resolves when it is durable. */
  readonly tell: (
    tenant: string,
    event: {
      readonly action: string;
      readonly target: JsonObject;
      readonly changes: JsonObject;
      readonly details: JsonObject;
    },
  ) => Promise<void>;
  readonly log: Record<'info' | 'error', (facts: object, message: string) => void>;
}

/** Makes, changes and deletes sinks until those of the file are what it says. At most one replica at a time. Throws a SettingsError where it can not be. */
export async function keepSinksOfFile(wanted: readonly FileSink[], deps: SinksFileDeps): Promise<void> {
  const { store, log } = deps;
  const existing = await store.fromFile();
  const tell = (
    tenant: string,
    id: string,
    what: string,
    name: string,
    before: JsonObject | null,
    after: JsonObject | null,
  ) =>
    deps.tell(tenant, {
      action: `sink.${what}`,
      target: { type: 'sink', id },
      changes: { before, after },
      details: { name, by: CREATED_BY },
    });

  for (const sink of existing) {
    if (wanted.some((one) => one.tenant === sink.tenant && one.sink.name === sink.name)) continue;
    await tell(sink.tenant, sink.id, 'deleted', sink.name, toldOf(sink), null);
    await store.remove(sink);
    log.info({ tenant: sink.tenant, sink: sink.name }, 'a sink is not in the file any more');
  }
  for (const { tenant, sink } of wanted) {
    const owner = await deps.tenant(tenant);
    if (owner === undefined)
      throw new SettingsError([`SEALOG_SINKS_FILE: the tenant ${tenant} has not been opened, and has a sink`]);
    const known = existing.find((one) => one.tenant === tenant && one.name === sink.name);
    if (known === undefined) {
      // A tenant's administrators must not keep the whole service from starting.
      const theirs = await owner.ask((database) => listSinks(database, undefined, undefined, SINKS_MAX));
      const isTaken = theirs.some(({ name }) => name === sink.name);
      if (isTaken || theirs.length >= SINKS_MAX) {
        const reason = isTaken ? 'the tenant has a sink of this name' : `the tenant has ${SINKS_MAX} sinks already`;
        log.error({ tenant, sink: sink.name, reason }, 'a sink of the file is not there');
        continue;
      }
    }
    try {
      if (known === undefined) await make(owner, tenant, sink);
      else await change(known, tenant, sink);
    } catch (cause) {
      throw cause instanceof Problem && cause.status < 500 ? refusal(tenant, sink.name, cause) : cause;
    }
  }

  async function make(owner: { readonly id: number; readonly ask: AsTenant }, tenant: string, sink: NewSink) {
    const { name, config, from, secret } = sink;
    const id = randomUUID();
    await tell(tenant, id, 'created', name, null, toldOf(sink));
    const begin: NewSinkRow['begin'] =
      from === 'now' ? from : await placesFrom(await sourcesOf(owner.ask, deps.ofDeployment, config), from, 'from');
    const row = {
      ...{ id, tenantId: owner.id, name, config, fromFile: true, createdBy: CREATED_BY, begin },
      secret: secret === undefined ? undefined : await deps.seal(tenant, id, secret),
    };
    if ((await store.create(row, SINKS_MAX)) === undefined)
      throw new SettingsError([`SEALOG_SINKS_FILE: the tenant ${tenant} has ${SINKS_MAX} sinks already`]);
    log.info({ tenant, sink: name }, 'a sink of the file was made');
  }

  async function change(known: SealedSinkRow, tenant: string, sink: NewSink) {
    const { name, config, secret } = sink;
    const isSame =
      canonicalText(known.config as JsonObject) === canonicalText(config) &&
      (await secretText(known)) === canonicalText(secret ?? null);
    if (isSame) return;
    await tell(tenant, known.id, 'changed', name, toldOf(known), toldOf(sink));
    const seen: SeenSink = known;
    const content = {
      name,
      config,
      secret: secret === undefined ? undefined : await deps.seal(tenant, known.id, secret),
    };
    if ((await store.change(seen, content, addedBy(known.config, config))) === undefined)
      throw new SettingsError([`SEALOG_SINKS_FILE: the sink ${name} of ${tenant} was changed by somebody else`]);
    log.info({ tenant, sink: name }, 'a sink of the file was changed');
  }

  /** A secret that does not open any more is replaced. */
  async function secretText({ id, secret }: SealedSinkRow): Promise<string | undefined> {
    try {
      return canonicalText((await openSinkSecret(deps.keys, id, secret)) ?? null);
    } catch (error) {
      if (error instanceof EvidenceError || error instanceof KeyUnavailableError) return undefined;
      throw error;
    }
  }
}

/** What the API would have told who asked for it: a name that is taken, a seq that is not there yet. */
function refusal(tenant: string, name: string, { detail, title, errors }: Problem): SettingsError {
  const words = [detail ?? title, ...errors.map(({ field, message }) => `${field} ${message}`)].join('; ');
  return new SettingsError([`SEALOG_SINKS_FILE: the sink ${name} of ${tenant}: ${words}`]);
}

type Complain = (field: string, what: string) => void;

async function itemsOf(path: string, problems: string[]): Promise<unknown[]> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new SettingsError([`SEALOG_SINKS_FILE can not be read: ${(error as NodeJS.ErrnoException).code}`]);
  }
  if (bytes.length > FILE_BYTES_MAX)
    throw new SettingsError([`SEALOG_SINKS_FILE is larger than ${FILE_BYTES_MAX} bytes`]);
  const text = bytes.toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new SettingsError(['SEALOG_SINKS_FILE must hold JSON']);
  }
  // JSON.parse takes the last of two members of one name. JSON is YAML, whose reader says so.
  if (parseDocument(text, { uniqueKeys: true }).errors.some(({ code }) => code === 'DUPLICATE_KEY'))
    problems.push('has an object with two members of one name');
  if (!Array.isArray(value)) throw new SettingsError(['SEALOG_SINKS_FILE must be an array: [{ "tenant": …, … }]']);
  if (value.length > ITEMS_MAX) problems.push(`may have at most ${ITEMS_MAX} items`);
  return value.slice(0, ITEMS_MAX);
}

/** Returns the members with what their files hold. */
async function withFiles(given: JsonMembers, folder: string, complain: Complain): Promise<JsonMembers> {
  const secrets = secretMembersOf(given) ?? [];
  const read = async (value: unknown, field: string, isSecret: boolean): Promise<unknown> => {
    if (typeof value === 'string') {
      if (isSecret) complain(field, 'must be {"file": path}: a secret does not stand here');
      return value;
    }
    if (Array.isArray(value)) return Promise.all(value.map((one, index) => read(one, `${field}[${index}]`, isSecret)));
    if (!isJsonObject(value)) return value;
    const { file, ...others } = value;
    if (typeof file === 'string' && Object.keys(others).length === 0) return textOf(file, folder, field, complain);
    if (!isSecret) return value;
    const members = Object.entries(value).map(
      async ([name, one]) => [name, await read(one, `${field}.${name.slice(0, 64)}`, true)] as const,
    );
    return Object.fromEntries(await Promise.all(members));
  };
  const members = Object.entries(given).map(
    async ([name, value]) => [name, await read(value, name.slice(0, 64), secrets.includes(name))] as const,
  );
  return Object.fromEntries(await Promise.all(members));
}

/** A line end at the end is the editor's. */
async function textOf(file: string, folder: string, field: string, complain: Complain): Promise<string> {
  try {
    const bytes = await readFile(resolve(folder, file));
    if (bytes.length <= TEXT_BYTES_MAX) return bytes.toString('utf8').replace(/\r?\n$/, '');
    complain(field, `names a file that is larger than ${TEXT_BYTES_MAX} bytes`);
  } catch (error) {
    complain(field, `names a file that can not be read: ${(error as NodeJS.ErrnoException).code}`);
  }
  return '';
}
