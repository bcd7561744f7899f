/** Connections to PostgreSQL end when they are to, whatever became of the way to the server, and are not made in a rush. */
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { describe, expect, it, type TestContext } from 'vitest';
import { BoundedClient, Reconnects } from '../src/store/bounded-client.ts';
import { type Database, openDatabase } from '../src/store/database.ts';
import { type BreakableWire, startBreakableWire } from './faults/breakable-wire.ts';
import { createDatabase, type TestDatabase } from './support/postgres.ts';

/** The client's limit for an answer of the database (src/store/database.ts). */
const ANSWER_MAX_MS = 5000;
const log = { warn: () => undefined };

type Finally = TestContext['onTestFinished'];

async function behindWire(onTestFinished: Finally): Promise<{ database: TestDatabase; wire: BreakableWire }> {
  const database = await createDatabase('migrated');
  onTestFinished(() => database.drop());
  const { host, port } = database.appConfig;
  const wire = await startBreakableWire(host.startsWith('/') ? `${host}/.s.PGSQL.${port}` : port);
  onTestFinished(() => wire.close());
  return { wire, database: { ...database, appConfig: { ...database.appConfig, host: '127.0.0.1', port: wire.port } } };
}

function opened(connection: TestDatabase['appConfig'], onTestFinished: Finally): Database {
  const made = openDatabase({ connection, readersMax: 2, log });
  onTestFinished(() => made.close());
  return made;
}

describe.concurrent('a connection on a way that is gone', () => {
  it('is thrown away after a time-out, also where nobody tells its pool', async ({ onTestFinished }) => {
    const { wire, database } = await behindWire(onTestFinished);
    const { verifier, connections } = opened(database.appConfig, onTestFinished);
    const ask = () => sql`SELECT 1`.execute(verifier);
    await ask();
    await wire.turn('dead');
    const began = performance.now();
    await expect(ask()).rejects.toThrow('timeout');
    expect(performance.now() - began).toBeLessThan(ANSWER_MAX_MS + 1000);
    await wire.turn('pass');
    // Its end is an event; who is quicker gets one more error.
    await sleep(50);
    const again = performance.now();
    await ask();
    expect(performance.now() - again).toBeLessThan(1000);
    expect(connections().find(({ role }) => role === 'verifier')).toEqual({
      ...{ role: 'verifier', open: 1, idle: 1, waiting: 0 },
    });
  });

  it('ends within a second or two', async ({ onTestFinished }) => {
    const { wire, database } = await behindWire(onTestFinished);
    const client = new BoundedClient(database.appConfig);
    await client.connect();
    await wire.turn('dead');
    const began = performance.now();
    await client.end();
    expect(performance.now() - began).toBeLessThan(2500);
  });

  it('is not made any more once it was ended', async ({ onTestFinished }) => {
    const { wire, database } = await behindWire(onTestFinished);
    const reconnects = new Reconnects();
    for (let n = 0; n < 4; n += 1) reconnects.note(false);
    const client = new BoundedClient({ ...database.appConfig, reconnects });
    const connecting = client.connect();
    await client.end();
    await expect(connecting).rejects.toThrow('ended');
    expect(wire.connections).toBe(0);
  });
});

it('a server that takes nobody is asked some times a second, however many ask for it, and not at regular times', async ({
  onTestFinished,
}) => {
  const at: number[] = [];
  const server = createServer((socket: Socket) => {
    at.push(performance.now());
    socket.on('error', () => {});
    socket.destroy();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const { port } = server.address() as { port: number };
  const { writer } = opened(
    { host: '127.0.0.1', port, user: 'x', password: 'x', database: 'x' } as never,
    onTestFinished,
  );
  const end = performance.now() + 3000;
  const asking = Array.from({ length: 32 }, async () => {
    while (performance.now() < end) {
      await expect(writer.query('SELECT 1')).rejects.toThrow();
      await sleep(1);
    }
  });
  await Promise.all(asking);
  // Four connections may be in the making at once.
  const late = at.filter((time) => time > end - 2000);
  expect(late.length).toBeGreaterThan(2);
  expect(late.length).toBeLessThanOrEqual(24);
  const pauses = late.slice(1).map((time, n) => time - late[n]!);
  expect(Math.max(...pauses) - Math.min(...pauses)).toBeGreaterThan(20);
});
