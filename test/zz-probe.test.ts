import { it, expect } from 'vitest';
import { startService } from './support/service.ts';
import { generateEvents } from './support/events.ts';
const ev = (o: any = {}) => ({ category: 'system_operation', action: 'a.b', outcome: 'success', occurredAt: '2026-01-01T00:00:00Z', source: { service: 's' }, ...o });
it('repeatDays 366', async () => {
  const s = await startService({ repeatDays: 366 });
  const cats = ['user_authentication', 'configuration_change', 'security_event'];
  const g = generateEvents({ seed: 4, count: 400 });
  const by = (c: string) => g.filter((e) => e.category === c);
  const r: any[] = [];
  for (const combo of [[0], [1], [2], [0, 1], [1, 0], [0, 1, 2], [2, 1, 0], [0, 2], [0], [0,1,2]]) {
    const batch = combo.map((c) => by(cats[c]!)[Math.floor(Math.random() * 4)]!).map((e, i) => ({ ...e, id: `x${Math.random()}` }));
    const a = await s.post('/v1/events/batch', batch);
    r.push([combo.join(), a.status, a.body.code, a.body.detail]);
  }
  console.log(JSON.stringify(r));
  await s.stop();
});
it('diff constructor', async () => {
  const s = await startService();
  const a = await s.post('/v1/events', { ...ev({ category: 'configuration_change' }), id: 'c1', actor: { type: 'u', id: 'u' }, target: { type: 't', id: 't' }, changes: { before: {}, after: { toString: 1, constructor: 2 } } });
  console.log(a.status, a.text);
  const b = await s.get('/v1/events/c1');
  console.log(b.status, b.text);
  const n = 60000;
  const deep = (v: any) => ({ ['x'.repeat(60000)]: Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`${i}`, v])) });
  const c = await s.post('/v1/events', { ...ev({ category: 'configuration_change' }), id: 'c2', actor: { type: 'u', id: 'u' }, target: { type: 't', id: 't' }, changes: { before: deep(1), after: deep(2) } });
  console.log(c.status, c.text);
  const t = performance.now();
  const d = await s.get('/v1/events/c2');
  console.log(d.status, d.text.length, d.text.slice(0, 300), performance.now() - t, process.memoryUsage().rss / 1e6);
  await s.stop();
});
