import inspector from 'node:inspector/promises';
import { it } from 'vitest';
import { generateEvents } from './support/events.ts';
import { startService } from './support/service.ts';
it('prof', async () => {
  const s = await startService();
  const tiny = (n: number) => ({ id: `e-${n}`, category: 'system_operation', action: 'a.b', outcome: 'success', occurredAt: '2026-01-01T00:00:00Z', source: { service: 'x' }, actor: { type: 'user', id: `u${n % 5}` }, target: { type: 'thing', id: `t${n % 7}` } });
  for (let i = 0; i < 66000; i += 6000) await s.post('/v1/events/batch', Array.from({ length: 6000 }, (_, k) => tiny(i + k)));
  const real = generateEvents({ seed: 3, count: 8000 });
  for (let i = 0; i < real.length; i += 1000) await s.post('/v1/events/batch', real.slice(i, i + 1000), { token: await s.token('service', 'other') });
  for (let i = 0; i < 2; i++) {
  const session = new inspector.Session(); session.connect();
  await session.post('Profiler.enable'); await session.post('Profiler.start');
  const t = performance.now(); const c = process.cpuUsage();
  await s.verify();
  const cc = process.cpuUsage(c);
  console.log('ms', performance.now() - t, 'cpu', (cc.user + cc.system) / 1000);
  const { profile } = await session.post('Profiler.stop') as any;
  const self = new Map<string, number>(); const dt = profile.timeDeltas; const byId = new Map(profile.nodes.map((n: any) => [n.id, n]));
  profile.samples.forEach((id: number, k: number) => { const n: any = byId.get(id); const key = `${n.callFrame.functionName} ${n.callFrame.url.split('/').slice(-2).join('/')}:${n.callFrame.lineNumber}`; self.set(key, (self.get(key) ?? 0) + dt[k]); });
  console.log([...self].sort((a, b) => b[1] - a[1]).slice(0, 25).map(([k, v]) => `${(v / 1000).toFixed(0)} ${k}`).join('\n'));
  }
  await s.stop();
}, 200000);
