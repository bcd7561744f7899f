/** `GET /metrics`: read as Prometheus reads it, and without a name of anybody. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { LabelledCounter, metricsText } from '../src/http/metrics.ts';
import { countSinks } from '../src/store/sinks.ts';
import { startService, type TestService } from './support/service.ts';

interface Family {
  readonly help: string;
  readonly type: string;
  readonly samples: { readonly labels: string; readonly value: number }[];
}

/** Text format 0.0.4, strictly: each family once, HELP then TYPE then its samples. */
function parse(text: string): Map<string, Family> {
  expect(text.endsWith('\n')).toBe(true);
  const families = new Map<string, Family>();
  let name = '';
  let help: string | undefined;
  for (const line of text.slice(0, -1).split('\n')) {
    const helps = /^# HELP ([a-z][a-z0-9_]*) (.+)$/.exec(line);
    const types = /^# TYPE ([a-z][a-z0-9_]*) (gauge|counter)$/.exec(line);
    const sample =
      /^([a-z][a-z0-9_]*)(\{(?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+\})? (-?\d+(?:\.\d+)?(?:e[+-]\d+)?|NaN|[+-]Inf)$/.exec(
        line,
      );
    if (helps !== null) {
      name = helps[1]!;
      help = helps[2]!;
      expect(families.has(name), name).toBe(false);
    } else if (types !== null) {
      expect(types[1]).toBe(name);
      families.set(name, { help: help!, type: types[2]!, samples: [] });
    } else {
      expect(sample, line).not.toBeNull();
      expect(sample![1]).toBe(name);
      families.get(name)!.samples.push({ labels: sample![2] ?? '', value: Number(sample![3]) });
    }
  }
  return families;
}

let service: TestService;
beforeAll(async () => {
  service = await startService({ verification: { scrubber: {} } });
});
afterAll(() => service.stop());

test('needs no token, and says what the service counts', async () => {
  const event = {
    id: 'secret-id',
    category: 'system_operation',
    action: 'service.restart',
    outcome: 'success',
    occurredAt: '2026-01-01T10:00:00Z',
    source: { service: 'test' },
  };
  const token = await service.token('service', 'umbrella');
  expect((await service.post('/v1/events?wait=checkpoint', event, { token })).status).toBe(201);
  const { status, headers, text } = await metrics();
  expect(status).toBe(200);
  expect(headers['content-type']).toBe('text/plain; version=0.0.4; charset=utf-8');
  const families = parse(text);
  const value = (name: string): number | undefined => families.get(name)?.samples[0]?.value;
  expect(value('sealog_signer_leading')).toBe(1);
  expect(value('sealog_signer_refused')).toBe(0);
  expect(value('sealog_signer_generation')).toBe(1);
  expect(value('sealog_checkpoints_signed_total')).toBeGreaterThanOrEqual(1);
  expect(value('sealog_signer_last_round_timestamp_seconds')).toBeGreaterThan(Date.now() / 1000 - 60);
  expect(value('sealog_queue_entries')).toBe(0);
  expect(value('sealog_scrub_streams_tampered')).toBe(0);
  for (const name of [
    'sealog_anchor_ticks_total',
    'sealog_verification_runs_total',
    'sealog_verification_entries_total',
  ])
    expect(families.get(name)?.type, name).toBe('counter');
  for (const name of families.keys()) expect(name).toMatch(/^sealog_/);
});

test('names no tenant, no stream and no event', async () => {
  const { text } = await metrics();
  expect(text).not.toMatch(/umbrella|secret-id|system_operation/);
});

test('counts the sinks of many tenants in little time: anybody may ask', async () => {
  const { adminPool } = service;
  await adminPool.query(`INSERT INTO sealog.tenant (name) SELECT 'many-' || i FROM generate_series(1, 3000) AS i`);
  await adminPool.query(
    `INSERT INTO sealog.stream (tenant, category, epoch, name, size)
     SELECT t.id, c, 1, t.name || '/' || c, 100 FROM sealog.tenant AS t,
       unnest(ARRAY['data_access', 'security_event', 'system_operation', 'user_authentication', 'log_administration']) AS c
     WHERE t.name LIKE 'many-%'`,
  );
  await adminPool.query(
    `INSERT INTO sealog.sink (tenant, name, config, created_by)
     SELECT t.id, 'siem', '{"filter":{"categories":["security_event"]},"anchor":true}', 'nobody' FROM sealog.tenant AS t WHERE t.name LIKE 'many-%'`,
  );
  await adminPool.query('ANALYZE sealog.sink, sealog.stream, sealog.sink_cursor');
  // Past the database's limit for a statement nothing is known.
  const { byState, lagEntries } = await countSinks(service.app.database.writer);
  expect([byState.running, lagEntries]).toEqual([3000, 300_000]);
});

test('takes nothing but GET', async () => {
  expect((await service.post('/metrics', {}, { token: null })).status).toBe(405);
});

test('a value that can not be had now does not keep the others back; labels are escaped', async () => {
  const counter = new LabelledCounter('anchor', ['plain']);
  counter.add('a "b"\\\n', 2);
  const text = await metricsText([
    { name: 'sealog_a', type: 'gauge', help: 'A.', read: () => Promise.reject(new Error('away')) },
    { name: 'sealog_b', type: 'counter', help: 'B\\\nb.', read: () => counter.samples() },
    { name: 'sealog_c', type: 'gauge', help: 'C.', read: () => undefined },
    { name: 'sealog_d', type: 'gauge', help: 'D.', read: () => Number.POSITIVE_INFINITY },
  ]);
  expect([...parse(text).keys()]).toEqual(['sealog_b', 'sealog_d']);
  expect(text).toContain('sealog_b{anchor="plain"} 0\nsealog_b{anchor="a \\"b\\"\\\\\\n"} 2\n');
});

/** The text is no JSON. */
async function metrics() {
  const answer = await fetch(`${service.url}/metrics`);
  return { status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text() };
}
