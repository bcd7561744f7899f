/** Holds what arrived at a receiver to what the log gave receipts for: the promise of an export, as a function. */

/** An entry by its id and its place, as a receipt has it and as a receiver read it. */
export interface Placed {
  readonly id: string;
  readonly stream: string;
  readonly seq: number;
  readonly hash: string;
}

export interface ArrivalReport {
  /** Empty where the promise was kept; each begins with the kind of the breach. */
  readonly problems: readonly string[];
  /** First arrivals, and those that came again. */
  readonly firsts: number;
  readonly repeats: number;
}

/**
 * Checks that each receipt's entry arrived, that nothing else did, that whatever came again came as it was, and that the first arrivals of
 * each stream are in the order of the log, without a gap. Receipts may come in any order, and must be of whole streams; arrivals come in
 * the order in which the receiver noted them.
 */
export function checkArrivals(receipts: readonly Placed[], arrivals: readonly Placed[]): ArrivalReport {
  const problems: string[] = [];
  const streams = new Map<string, Map<number, Placed>>();
  const ids = new Set<string>();
  for (const receipt of receipts) {
    const { id, stream, seq } = receipt;
    const places = streams.get(stream) ?? new Map<number, Placed>();
    streams.set(stream, places);
    if (places.has(seq) || ids.has(`${stream} ${id}`)) problems.push(`receipts: two for ${stream} ${seq} or ${id}`);
    places.set(seq, receipt);
    ids.add(`${stream} ${id}`);
  }
  for (const [stream, places] of streams)
    if (Math.max(...places.keys()) !== places.size - 1) problems.push(`receipts: those of ${stream} have a gap`);

  const arrived = new Map([...streams.keys()].map((stream) => [stream, new Set<number>()]));
  const next = new Map<string, number>();
  let repeats = 0;
  for (const { id, stream, seq, hash } of arrivals) {
    const receipt = streams.get(stream)?.get(seq);
    if (receipt === undefined) {
      problems.push(`forged: ${stream} ${seq} ${id} was never accepted`);
      continue;
    }
    if (receipt.id !== id || receipt.hash !== hash) {
      problems.push(`changed: ${stream} ${seq} is ${receipt.id} ${receipt.hash}, and came as ${id} ${hash}`);
      continue;
    }
    const seen = arrived.get(stream)!;
    if (seen.has(seq)) {
      repeats += 1;
      continue;
    }
    seen.add(seq);
    const due = next.get(stream) ?? 0;
    if (seq !== due) problems.push(`order: ${stream} ${seq} came first when ${due} was due`);
    next.set(stream, Math.max(due, seq + 1));
  }
  for (const [stream, places] of streams) {
    const missing = [...places.keys()].filter((seq) => !arrived.get(stream)!.has(seq)).sort((a, b) => a - b);
    if (missing.length > 0) problems.push(`missing: ${missing.length} of ${stream}, the first is ${missing[0]}`);
  }
  const firsts = [...arrived.values()].reduce((sum, { size }) => sum + size, 0);
  return { problems, firsts, repeats };
}
