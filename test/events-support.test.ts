import { zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { type EventInput, type GeneratedCategory, generateEvents, SIZES } from './support/events.ts';

/**
 * How many times real events of the category shrink under zstd (level 3) in blocks of 128 KiB, measured on 81,894 of them, their order
 * shuffled within the category. In the order of their sources they shrink twice as much; the generated ones are interleaved like shuffled ones.
 */
const REAL_RATIOS: Readonly<Record<GeneratedCategory, number>> = {
  user_authentication: 8.04,
  data_access: 6.37,
  configuration_change: 5.19,
  data_modification: 5.21,
  security_event: 8.25,
  system_operation: 6.87,
};
const CATEGORIES = Object.keys(SIZES) as GeneratedCategory[];

describe('generated events', () => {
  it('are the same for the same seed, and a longer run begins like a shorter one', () => {
    const events = generateEvents({ seed: 3, count: 300 });
    expect(generateEvents({ seed: 3, count: 300 })).toEqual(events);
    expect(generateEvents({ seed: 3, count: 100 })).toEqual(events.slice(0, 100));
    expect(generateEvents({ seed: 4, count: 300 })).not.toEqual(events);
  });

  it('have ids that no other event of theirs or of another seed has', () => {
    const events = [3, 4, 5].flatMap((seed) => generateEvents({ seed, count: 2000 }));
    expect(new Set(events.map((event) => event.id)).size).toBe(events.length);
    for (const { id } of events) expect(id).toMatch(/^[A-Za-z0-9._:~-]{1,128}$/);
    expect(generateEvents({ seed: 3, count: 10, ids: false }).some((event) => 'id' in event)).toBe(false);
  });

  it('are of the categories that were asked for, all six by default', () => {
    const only = generateEvents({ seed: 3, count: 50, categories: ['security_event'] });
    expect(new Set(only.map((event) => event.category))).toEqual(new Set(['security_event']));
    const all = generateEvents({ seed: 3, count: 500 });
    expect(new Set(all.map((event) => event.category))).toEqual(new Set(CATEGORIES));
  });

  it('come in the order of their time', () => {
    const times = generateEvents({ seed: 3, count: 500 }).map((event) => Date.parse(event.occurredAt));
    expect(times).toEqual([...times].sort((a, b) => a - b));
  });

  it("bring their category's evidence and keep the event's rules", () => {
    for (const event of generateEvents({ seed: 5, count: 3000 })) {
      expect(event.action).toMatch(/^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$/);
      expect(event.occurredAt).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)$/);
      expect(Object.values(event.source).every((text) => text.length <= 256)).toBe(true);
      expect(missingEvidence(event)).toEqual([]);
    }
  });

  it.each(CATEGORIES)('of %s are as long as real ones and shrink about as much', (category) => {
    const lines = generateEvents({ seed: 11, count: 4000, categories: [category] }).map((event) =>
      JSON.stringify(event),
    );
    const lengths = lines.map((line) => Buffer.byteLength(line)).sort((a, b) => a - b);
    const [, , p50, p90, p99, max] = SIZES[category];
    expect(nearness(lengths[2000]!, p50!)).toBeLessThan(0.25);
    expect(nearness(lengths[3600]!, p90!)).toBeLessThan(0.25);
    // So few are that long, and lengths grow so fast there, that their number is the steadier figure: 1 in 100.
    const long = lengths.filter((length) => length > p99!).length;
    expect(long).toBeGreaterThan(15);
    expect(long).toBeLessThan(80);
    expect(lengths.at(-1)).toBeLessThan(max! * 1.05);
    expect(nearness(compressionRatio(lines), REAL_RATIOS[category])).toBeLessThan(0.3);
  });
});

function missingEvidence({ category, severity, target, changes }: EventInput): string[] {
  const missing: string[] = [];
  if (category === 'security_event' && severity === undefined) missing.push('severity');
  if (['data_access', 'configuration_change', 'data_modification'].includes(category) && target === undefined) {
    missing.push('target');
  }
  if (['configuration_change', 'data_modification'].includes(category) && changes === undefined)
    missing.push('changes');
  return missing;
}

function nearness(value: number, wanted: number): number {
  return Math.abs(value / wanted - 1);
}

/** Bytes before and after, of blocks of at most 128 KiB. */
function compressionRatio(lines: readonly string[]): number {
  const blocks: string[][] = [[]];
  let length = 0;
  for (const line of lines) {
    if (length + line.length > 128 * 1024) {
      blocks.push([]);
      length = 0;
    }
    blocks.at(-1)!.push(line);
    length += line.length;
  }
  const texts = blocks.map((block) => Buffer.from(block.join('\n')));
  const before = texts.reduce((sum, text) => sum + text.length, 0);
  return before / texts.reduce((sum, text) => sum + zstdCompressSync(text).length, 0);
}
