/** Figures of runs with faults, for whoever reads the output. */

export function say(words: string): void {
  process.stderr.write(`faults: ${words}\n`);
}

/** Returns median, 99th hundredth and longest of times in milliseconds, in seconds. */
export function describeTimes(times: readonly number[]): string {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (share: number): string => (sorted[Math.floor(share * (sorted.length - 1))]! / 1000).toFixed(1);
  return `${at(0.5)} s (99 %: ${at(0.99)} s, longest ${at(1)} s)`;
}
