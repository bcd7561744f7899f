/**
 * Recounts a simulation: reads the plan of what was done (standard input) and prints what must be there after it, from the policies alone.
 *
 * It shares nothing with the service nor with the simulation, and knows of Sealog what docs/retention.md promises:
 * - an entry is kept for the months of its category's policy when it was recorded, at least as long as the entry before it of the same
 *   epoch; a shorter policy begins an epoch;
 * - it goes when the month after that begins, at the next pruning, unless a hold covers it; one of a person also covers what was erased, since
 *   nobody can tell any more whose it was;
 * - an erasure closes what is there of a person, but what is held.
 */
import { readFileSync } from 'node:fs';

interface Entry {
  readonly recorded: number;
  readonly until: number;
  readonly actor: string;
  isGone: boolean;
  isErased: boolean;
  /** Its month has gone, and it stayed. */
  isHeld: boolean;
}

interface Log {
  months: number;
  evidence: string;
  last: number;
  stored: number;
  pruned: number;
  readonly entries: Entry[];
}

interface Hold {
  readonly tenant: string;
  readonly category?: string;
  readonly actor?: string;
  readonly from: number;
  readonly to: number;
}

const plan = JSON.parse(readFileSync(0, 'utf8'));
const logs = new Map<string, Log>();
const holds = new Map<string, Hold>();
const counts: unknown[] = [];

for (const deed of plan.deeds) {
  const at = Date.parse(deed.at);
  switch (deed.do) {
    case 'write': {
      const log = logOf(deed.tenant, deed.category);
      const needsEvidence = deed.category !== 'system_operation';
      if (!deed.complete && needsEvidence && log.evidence === 'refuse') break;
      for (let i = 0; i < deed.count; i++) {
        const until = Math.max(log.last, monthsLater(at, log.months));
        log.last = until;
        log.stored += 1;
        // Without its evidence an event says of nobody what he did.
        const actor = deed.complete || deed.category === 'system_operation' ? deed.actors[i % deed.actors.length] : '';
        log.entries.push({ recorded: at, until, actor, isGone: false, isErased: false, isHeld: false });
      }
      break;
    }
    case 'policy': {
      const log = logOf(deed.tenant, deed.category);
      if (deed.months < log.months) log.last = 0;
      log.months = deed.months;
      log.evidence = deed.evidence;
      break;
    }
    case 'hold':
      holds.set(deed.hold, { ...deed, from: Date.parse(deed.from), to: Date.parse(deed.to) });
      break;
    case 'release':
      holds.delete(deed.hold);
      break;
    case 'erase':
      for (const [name, log] of logs)
        for (const entry of log.entries)
          if (name.startsWith(`${deed.tenant}/`) && entry.actor === deed.actor && !entry.isGone && !isHeld(name, entry))
            entry.isErased = true;
      break;
    case 'prune':
      for (const [name, log] of logs)
        for (const entry of log.entries) {
          if (entry.isGone || goesFrom(entry.until) > at) continue;
          entry.isHeld = isHeld(name, entry);
          entry.isGone = !entry.isHeld;
          if (entry.isGone) log.pruned += 1;
        }
      break;
    case 'count':
      for (const tenant of plan.tenants)
        for (const category of Object.keys(plan.defaults)) counts.push(countOf(deed.at, tenant, category));
      break;
  }
}
process.stdout.write(`${JSON.stringify(counts)}\n`);

function logOf(tenant: string, category: string): Log {
  const name = `${tenant}/${category}`;
  const known = logs.get(name);
  if (known !== undefined) return known;
  const made: Log = {
    ...{ months: plan.defaults[category], evidence: 'refuse', last: 0, stored: 0, pruned: 0 },
    entries: [],
  };
  logs.set(name, made);
  return made;
}

function countOf(at: string, tenant: string, category: string): unknown {
  const { stored, pruned, entries } = logOf(tenant, category);
  const there = entries.filter((entry) => !entry.isGone);
  const months: Record<string, number> = {};
  for (const { recorded } of there) {
    const month = new Date(recorded).toISOString().slice(0, 7);
    months[month] = (months[month] ?? 0) + 1;
  }
  const held = there.filter((entry) => entry.isHeld).length;
  const erased = there.filter((entry) => entry.isErased).length;
  return { at, tenant, category, stored, pruned, held, erased, months };
}

function isHeld(name: string, entry: Entry): boolean {
  return [...holds.values()].some(
    (hold) =>
      name === `${hold.tenant}/${hold.category ?? name.slice(hold.tenant.length + 1)}` &&
      (hold.actor === undefined || hold.actor === entry.actor || entry.isErased) &&
      entry.recorded >= hold.from &&
      entry.recorded < hold.to,
  );
}

/** The same day and time so many months later; the month's last day where it has no such day. */
function monthsLater(from: number, months: number): number {
  const date = new Date(from);
  const first = Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + months, 1);
  const days = new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + months + 1, 0)).getUTCDate();
  return first + (Math.min(date.getUTCDate(), days) - 1) * 86_400_000 + (from % 86_400_000);
}

/** The first instant of the month after, and a few days where nobody outside states times. */
function goesFrom(until: number): number {
  const date = new Date(until);
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 1 + plan.lateDays);
}
