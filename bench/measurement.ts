/** What the suite is made of: measurements, each of some rows, and what they are given to work with. */
import type { Options } from './options.ts';
import type { Row } from './report.ts';
import type { Workbench } from './workbench.ts';

export interface Measurement {
  /** Its rows. It is taken when one of them is wanted. */
  readonly names: readonly string[];
  /** Those that a run without options gives. */
  readonly byDefault?: readonly string[];
  /** Has a service of its own: the shared one is stopped before, so that nothing else works on the machine. */
  readonly isAlone?: boolean;
  run(stage: Stage): Promise<void>;
}

export interface Stage {
  readonly options: Options;
  /** The service that measurements share, with all that earlier ones left in it; started when first asked for. */
  shared(): Promise<Workbench>;
  /**
   * A service of the measurement's own, on an empty folder, stopped after it. In a smoke run it is the shared one, because a start takes longer
   * than all that is asked there.
   */
  own(): Promise<Workbench>;
  /** A folder of its own, empty, gone at the end. */
  folder(name: string): Promise<string>;
  isWanted(name: string): boolean;
  /** Those that are wanted are printed at once: of a run that is cut short something is left. */
  report(...rows: readonly Row[]): void;
}
