/**
 * A webhook's receiver in a process of its own, to be stopped and killed: what it answers 200 for stands in its file, flushed. Run as a process,
 * `webhook-receiver.ts FILE PORT` (0: any) prints its port; what comes with `PUT /status/503` is what it answers from then on, without noting anything.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fdatasyncSync, openSync, writeSync } from 'node:fs';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Arrivals } from '../support/syslog-receivers.ts';
import type { Placed } from './arrivals.ts';

export interface WebhookReceiver {
  readonly port: number;
  /** What was noted since the last call, in that order. */
  take(): Placed[];
  answer(status: number): Promise<void>;
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void;
  kill(): Promise<void>;
  /** Starts it again, on the same port and file. */
  again(): Promise<void>;
}

export async function startWebhookReceiver(file: string): Promise<WebhookReceiver> {
  const notes = new Arrivals(file);
  let child: ChildProcess;
  let port = 0;
  async function start(): Promise<void> {
    child = spawn(process.execPath, [fileURLToPath(import.meta.url), file, String(port)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = await once(child.stdout!, 'data');
    port = Number(String(line));
  }
  await start();
  return {
    port,
    take: () => readNotes(notes.take()),
    async answer(status) {
      await fetch(`http://127.0.0.1:${port}/status/${status}`, { method: 'PUT' });
    },
    signal: (signal) => void child.kill(signal),
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const closed = once(child, 'close');
      child.kill('SIGKILL');
      await closed;
    },
    again: start,
  };
}

/** A line that a kill has torn was not answered for: it comes again. */
function readNotes(text: string): Placed[] {
  return text.split('\n').flatMap((line) => {
    try {
      return line === '' ? [] : [JSON.parse(line) as Placed];
    } catch {
      return [];
    }
  });
}

if (import.meta.main) serve(process.argv[2]!, Number(process.argv[3]));

function serve(file: string, port: number): void {
  const notes = openSync(file, 'a');
  let status = 200;
  const server = createServer(async (request, response) => {
    const wanted = /^\/status\/(\d+)$/.exec(request.url!);
    if (wanted !== null) {
      status = Number(wanted[1]);
      response.end();
      return;
    }
    const body = await bodyOf(request).catch(() => undefined);
    if (body === undefined) return;
    if (status === 200) {
      const lines = (JSON.parse(body) as { id: string; log: Omit<Placed, 'id'> }[]).map(
        ({ id, log: { stream, seq, hash } }) => JSON.stringify({ id, stream, seq, hash } satisfies Placed),
      );
      // What was torn before must not take the first of these with it.
      writeSync(notes, `\n${lines.join('\n')}\n`);
      fdatasyncSync(notes);
    }
    response.writeHead(status).end();
  });
  server.listen(port, '127.0.0.1', () => process.stdout.write(`${(server.address() as AddressInfo).port}\n`));
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}
