/** Signing over a real database: what is signed, what is refused, who may append meanwhile. */
import { afterEach, describe, expect, test } from 'vitest';
import { decodeCheckpoint } from '../src/chain/checkpoint.ts';
import { noteVerifier, openNote, parseVkey } from '../src/chain/note.ts';
import { trustedKeys } from '../src/verify/trusted-keys.ts';
import { startService, type TestService } from './support/service.ts';

const services: TestService[] = [];

function event(id: string) {
  return {
    id,
    category: 'user_authentication',
    action: 'user.login',
    outcome: 'success',
    occurredAt: '2026-01-01T10:00:00Z',
    source: { service: 'test' },
    actor: { type: 'user', id: 'u-1' },
  };
}

afterEach(async () => {
  for (const service of services.splice(0).reverse()) await service.stop();
});

async function start(options: Parameters<typeof startService>[0] = {}): Promise<TestService> {
  const service = await startService(options);
  services.push(service);
  return service;
}

async function send(service: TestService, count: number, prefix = 'e'): Promise<void> {
  const events = Array.from({ length: count }, (_, i) => event(`${prefix}-${i}`));
  const { status, body } = await service.post('/v1/events/batch', events);
  expect(status).toBe(200);
  expect(body.errors).toBe(false);
}

describe('a checkpoint', () => {
  test('covers an event that waits for it, and is signed by a key that the deployment key states', async () => {
    const service = await start();
    await send(service, 300);
    const { status, body } = await service.post('/v1/events?wait=checkpoint', event('waits'));
    expect(status).toBe(201);
    const { rows } = await service.adminPool.query('SELECT name, generation, vkey, note FROM sealog.key_statement');
    const deployment = rows.find((row) => row.name === 'log.example').vkey;
    const { keys, problems } = trustedKeys('log.example', deployment, rows.map((row) => row.note));
    expect(problems).toEqual([]);
    const name = 'log.example/acme/user_authentication';
    const { text } = openNote(body.checkpoint, keys.filter((key) => key.name === name).map((key) => key.verifier));
    expect(decodeCheckpoint(text)).toMatchObject({ origin: name, size: 301 });
    expect(noteVerifier(parseVkey(deployment)).name).toBe('log.example');
    await service.checkLog();
  });
});
