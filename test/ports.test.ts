/** The ports of the service: what is on which, in the clear and over TLS, what the operator is told, and that all of them close. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, onTestFinished, test } from 'vitest';
import { closeServer } from '../src/http/server.ts';
import { selfSigned } from './support/certificates.ts';
import { listen } from './support/http.ts';
import { type Served, serve } from './support/served.ts';
import { startService } from './support/service.ts';
import { withoutOpenssl } from './support/time-stamp-authority.ts';

const PUBLIC = ['/healthz', '/readyz', '/metrics'];

test('health and metrics are on the main port, and nowhere else', async () => {
  const service = await startService();
  onTestFinished(() => service.stop());
  expect(service.app.metricsServer).toBeUndefined();
  for (const path of PUBLIC) expect((await fetch(service.url + path)).status).toBe(200);
});

test('health and metrics have a port of their own where that is asked for, and nothing else is there', async () => {
  const service = await startService({ environment: { SEALOG_METRICS_PORT: '0' } });
  onTestFinished(() => service.stop());
  const port = await listen(service.app.metricsServer!);
  const token = await service.token('auditor');
  const headers = { authorization: `Bearer ${token}` };
  for (const path of PUBLIC) {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-security-policy')).toBe("default-src 'none'; frame-ancestors 'none'");
    const gone = await fetch(service.url + path);
    expect({ status: gone.status, type: gone.headers.get('content-type') }).toEqual({
      status: 404,
      type: 'application/problem+json',
    });
  }
  for (const path of ['/v1/events', '/v1/streams', '/v1/keys', '/']) {
    expect((await fetch(`http://127.0.0.1:${port}${path}`, { headers })).status).toBe(404);
  }
  expect((await fetch(`http://127.0.0.1:${port}/metrics`, { method: 'POST' })).status).toBe(405);
  expect((await fetch(`${service.url}/v1/streams`, { headers })).status).toBe(200);
  await closeServer(service.app.metricsServer!, 100);
});

test('the log’s own trail has the address that a trusted proxy names, and that of everybody else as it is', async () => {
  const service = await startService({ environment: { SEALOG_TRUST_PROXY: '127.0.0.0/8' } });
  onTestFinished(() => service.stop());
  const distrustful = await startService({ beside: service, environment: { SEALOG_TRUST_PROXY: undefined } });
  onTestFinished(() => distrustful.stop());
  const headers = { 'x-forwarded-for': '198.51.100.66, 203.0.113.9' };
  expect((await service.get('/v1/streams', { headers })).status).toBe(200);
  expect((await distrustful.get('/v1/streams', { headers })).status).toBe(200);
  const { body } = await service.get('/v1/events?category=data_access&order=asc');
  expect(body.items.slice(0, 2).map((item: { actor: { ip: string } }) => item.actor.ip)).toEqual([
    '203.0.113.9',
    '127.0.0.1',
  ]);
});

describe('the process', () => {
  const run = promisify(execFile);

  /** Connections that say nothing, and one whose request does not end. */
  function hold(...ports: readonly number[]): Promise<Socket[]> {
    return Promise.all(
      ports.map(
        (port) =>
          new Promise<Socket>((resolve) => {
            const socket = connect(port, '127.0.0.1', () => resolve(socket));
            socket.on('error', () => {});
            socket.resume();
            onTestFinished(() => void socket.destroy());
          }),
      ),
    );
  }

  async function endsInTime(served: Served): Promise<void> {
    const begin = performance.now();
    served.child.kill('SIGTERM');
    expect(await served.exited).toBe(0);
    expect(performance.now() - begin).toBeLessThan(8000);
  }

  function metricsUrl(served: Served): string {
    return /^Health and metrics: (\S+)$/m.exec(served.out())![1]!;
  }

  test('says where everything is, and closes all of it in time, whoever hangs on it', async () => {
    const served = await serve({ SEALOG_METRICS_PORT: '0', SEALOG_HOST: 'localhost' });
    const main = await served.listening();
    const metrics = metricsUrl(served);
    expect(main).not.toBe(metrics);
    for (const path of PUBLIC) {
      expect((await fetch(metrics + path)).status).toBe(200);
      expect((await fetch(main + path)).status).toBe(404);
    }
    expect(served.lines().filter(({ msg }) => /without TLS/.test(String(msg)))).toEqual([]);
    const [, mainSocket] = await hold(Number(new URL(metrics).port), Number(new URL(main).port));
    mainSocket?.write('POST /v1/events HTTP/1.1\r\nhost: x\r\n');
    await endsInTime(served);
  });

  test('warns of each port that is open to others in the clear', async () => {
    const served = await serve({ SEALOG_METRICS_PORT: '0', SEALOG_METRICS_HOST: '127.0.0.2', SEALOG_HOST: '0.0.0.0' });
    await served.listening();
    expect(served.lines().filter(({ msg }) => /without TLS/.test(String(msg)))).toEqual([
      expect.objectContaining({ level: 40, address: '0.0.0.0' }),
    ]);
    await endsInTime(served);
  });

  test('does not start where a port is taken, and names the setting', async () => {
    const service = await startService();
    onTestFinished(() => service.stop());
    const served = await serve({ SEALOG_METRICS_PORT: String(service.port) });
    expect(await served.exited).toBe(1);
    expect(served.err()).toContain(`port ${service.port} on 127.0.0.1 is in use: set SEALOG_METRICS_PORT to another`);
  });

  test.skipIf(withoutOpenssl !== undefined)('serves TLS on both, and says how to reach it', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sealog-test-ports-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const { cert, key } = await selfSigned(folder, 'audit', 'DNS:audit.example');
    const tls = { SEALOG_TLS_CERT: cert, SEALOG_TLS_KEY: key };
    const served = await serve({ ...tls, SEALOG_METRICS_PORT: '0', SEALOG_HOST: '0.0.0.0' });
    const main = await served.listening();
    const metrics = metricsUrl(served);
    expect(main).toMatch(/^https:\/\/audit\.example:\d+$/);
    expect(served.lines().filter(({ msg }) => /without TLS/.test(String(msg)))).toEqual([]);
    const status = async (url: string): Promise<string> => {
      const way = ['--cacert', cert, '--resolve', `${new URL(url).host}:127.0.0.1`];
      return (await run('curl', ['-sS', '-o', '/dev/null', '-w', '%{http_code}', ...way, url])).stdout;
    };
    expect(await status(`${metrics}/readyz`)).toBe('200');
    expect(await status(`${main}/v1/streams`)).toBe('401');
    await hold(Number(new URL(metrics).port), Number(new URL(main).port));
    await endsInTime(served);
  });

  test('does not start with a certificate that can not be used, and says all of why', async () => {
    const served = await serve({ SEALOG_TLS_CERT: '/nowhere/cert.pem', SEALOG_TLS_KEY: '/nowhere/key.pem' });
    expect(await served.exited).toBe(1);
    expect(served.err().split('\n').slice(0, 2)).toEqual([
      'sealog: SEALOG_TLS_CERT can not be read: ENOENT',
      'sealog: SEALOG_TLS_KEY can not be read: ENOENT',
    ]);
  });
});
