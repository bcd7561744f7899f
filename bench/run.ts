/** One run of the suite: takes one measurement after the other, and keeps what they report. */
import { mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { explainBaselines } from './baselines.ts';
import { loadEvents } from './corpus.ts';
import { describeDatabase } from './machine.ts';
import type { Measurement, Stage } from './measurement.ts';
import type { Options } from './options.ts';
import { type Failure, formatTable, type Row } from './report.ts';
import { stopServices } from './service.ts';
import { checkStored, openWorkbench, type Workbench } from './workbench.ts';

const EXPLAINED_EVENTS = 500;
/** A smoke run waits for nobody's minute. Nothing that is measured for its figure runs with it. */
const SMOKE_SETTINGS = { SEALOG_ANCHOR_SECONDS: '1' };

/** What fails is noted, and the others are measured all the same. */
export class Run {
  readonly rows: Row[] = [];
  readonly failures: Failure[] = [];
  readonly #options: Options;
  readonly #folder: string;
  #shared: Promise<Workbench> | undefined;
  #services = 0;
  #isOver = false;

  constructor(options: Options, folder: string) {
    this.#options = options;
    this.#folder = folder;
  }

  async take(measurement: Measurement): Promise<void> {
    const { names, byDefault = [], isAlone = false } = measurement;
    const { only, full } = this.#options;
    const wanted = new Set(only.length > 0 ? names.filter((name) => only.includes(name)) : full ? names : byDefault);
    if (wanted.size === 0 || this.#isOver) return;
    const { smoke } = this.#options;
    if (isAlone && !smoke) await this.closeShared();
    const own: Workbench[] = [];
    const before = this.rows.length;
    const stage: Stage = {
      options: this.#options,
      shared: () => (this.#shared ??= this.#open()),
      own: async () => {
        if (smoke) return stage.shared();
        const bench = await this.#open();
        own.push(bench);
        return bench;
      },
      folder: async (name) => {
        const folder = join(this.#folder, name);
        await mkdir(folder);
        return folder;
      },
      isWanted: (name) => wanted.has(name),
      report: (...rows) => {
        const kept = rows.filter(({ name }) => wanted.has(name));
        const empty = kept.find(({ value, ratio }) => !Number.isFinite(value) || !Number.isFinite(ratio));
        if (empty !== undefined) throw new Error(`no figure came of ${JSON.stringify(empty)}`);
        this.rows.push(...kept);
        if (kept.length > 0) console.log(`\n${formatTable(kept)}`);
      },
    };
    try {
      await measurement.run(stage);
      const missing = [...wanted].filter((name) => !this.rows.slice(before).some((row) => row.name === name));
      if (missing.length > 0) throw new Error(`no row came of ${missing.join(', ')}`);
    } catch (error) {
      await this.#note([...wanted], before, error);
      // What it left behind, and whether the service still lives, is not known: the next gets another.
      await this.#drop();
    }
    for (const bench of own) {
      await bench.close().catch((error: unknown) => console.error(error));
      // Minutes at full load are gigabytes.
      await rm(dirname(bench.dataDir), { recursive: true, force: true });
    }
  }

  /** Stops the service that was shared, having counted what it stored. */
  async closeShared(): Promise<void> {
    if (this.#shared === undefined) return;
    try {
      const bench = await this.#shared;
      await checkStored(bench);
      // Where nothing went to `bench`, the baselines had no part.
      if (bench.acknowledged > 0) {
        const explained = loadEvents({ ...this.#options.events, limit: EXPLAINED_EVENTS });
        for (const { name, plan } of await explainBaselines(bench.baselines, explained))
          console.log(`\nplan of ${name} (rolled back)\n${plan}`);
      }
    } catch (error) {
      await this.#note(['what is stored'], this.rows.length, error);
    }
    await this.#drop();
  }

  print(): void {
    console.log(`\n${formatTable(this.rows)}`);
    for (const { name, reason } of this.failures) console.log(`failed: ${name}: ${reason.split('\n', 1)[0]}`);
    if (this.#options.json) console.log(JSON.stringify({ results: this.rows, failed: this.failures }));
  }

  /** Ends everything, and leaves nothing behind. */
  async close(): Promise<void> {
    this.#isOver = true;
    await this.#drop();
    await stopServices();
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #open(): Promise<Workbench> {
    const folder = join(this.#folder, `service-${++this.#services}`);
    await mkdir(folder);
    const bench = await openWorkbench(folder, this.#options.events, this.#options.smoke ? SMOKE_SETTINGS : {});
    console.log(`PostgreSQL: ${await describeDatabase(bench.database)}`);
    const seconds = (bench.service.readyAfter / 1000).toFixed(1);
    console.log(`service: ready ${seconds} s after its start on an empty data folder`);
    return bench;
  }

  async #drop(): Promise<void> {
    const bench = await this.#shared?.catch(() => undefined);
    this.#shared = undefined;
    await bench?.close().catch((error: unknown) => console.error(error));
  }

  /** What of these was not reported has failed; or all, where it was what came after. */
  async #note(names: readonly string[], rowsBefore: number, error: unknown): Promise<void> {
    const reason = error instanceof Error ? error.message : String(error);
    const reported = new Set(this.rows.slice(rowsBefore).map(({ name }) => name));
    const missing = names.filter((name) => !reported.has(name));
    this.failures.push(...(missing.length > 0 ? missing : names).map((name) => ({ name, reason })));
    console.error(`\n${names.join(', ')} failed: ${error instanceof Error ? error.stack : reason}`);
    const bench = await this.#shared?.catch(() => undefined);
    if (bench !== undefined) console.error(`the service's last output:\n${bench.service.output()}`);
  }
}
