/** A way to an HTTP service on which answers get lost: the service has answered, and its client sees the connection end instead. */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

export interface AnswerThief {
  /** Without a slash at the end. */
  readonly url: string;
  /** Of a hundred answers that are a success, so many are lost; 0 at first. */
  share: number;
  /** How many were lost. */
  readonly lost: number;
  close(): Promise<void>;
}

/** One request at a time goes over a connection, so an answer is what comes between two of them. Of some that get lost the first half arrives. */
export async function startAnswerThief(target: () => string): Promise<AnswerThief> {
  const open = new Set<Socket>();
  const server = createServer({ noDelay: true }, (client) => {
    const { hostname, port } = new URL(target());
    const service = connect({ host: hostname, port: Number(port), noDelay: true });
    let isAnswered = true;
    for (const [one, other] of [
      [client, service],
      [service, client],
    ] as const) {
      open.add(one);
      one.on('error', () => {});
      one.once('close', () => {
        open.delete(one);
        other.destroy();
      });
    }
    client.on('data', (chunk) => {
      isAnswered = false;
      service.write(chunk);
    });
    service.on('data', (chunk) => {
      const begins = !isAnswered;
      isAnswered = true;
      if (!begins || Math.random() * 100 >= thief.share || !chunk.toString('latin1', 0, 10).endsWith(' 2')) {
        client.write(chunk);
        return;
      }
      thief.lost += 1;
      service.destroy();
      if (Math.random() < 0.5) client.destroy();
      else client.write(chunk.subarray(0, chunk.length / 2), () => client.destroy());
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const thief = {
    url: `http://127.0.0.1:${port}`,
    share: 0,
    lost: 0,
    async close() {
      server.close();
      for (const one of open) one.destroy();
      await once(server, 'close');
    },
  };
  return thief;
}
