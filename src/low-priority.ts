/** Priorities of threads: Linux knows one for each, where others know only that of the process. */
import { getPriority, setPriority } from 'node:os';

/** Steps of nice(2): such a thread gets about a tenth of a processor that others want too, and all of one that nobody wants. */
const STEPS = 10;
const LOWEST = 19;

/**
 * Gives the calling thread a lower priority than the rest of the process. Threads that work for minutes, or for one sender's flood, so leave the processors
 * to whoever waits for a short answer. Does nothing where it would lower the whole process.
 */
export function lowerPriorityOfThread(): void {
  if (process.platform === 'linux') setPriority(Math.min(LOWEST, getPriority() + STEPS));
}
