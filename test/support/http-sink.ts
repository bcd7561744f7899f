/** Sinks over HTTP for tests: read from a configuration as the service reads it, with names that lead to this machine. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { JsonObject } from '../../src/chain/canonical.ts';
import type { ExportedEntry } from '../../src/export/exported-entry.ts';
import type { HttpTiming } from '../../src/export/http-calls.ts';
import { type PresetName, readHttpSink } from '../../src/export/http-sinks.ts';
import { type Fate, type Transport, TransportError } from '../../src/export/transport.ts';
import { type OutgoingOptions, outgoing } from '../../src/http/outgoing.ts';
import { selfSigned } from './certificates.ts';
import { type EntryMessage, entryMessage, exportedEntry } from './exported.ts';
import { type Play, type SiemServer, startSiem } from './siem-server.ts';

export const NEVER = new AbortController().signal;

export interface SinkOptions extends Partial<OutgoingOptions> {
  readonly timing?: Partial<HttpTiming>;
  readonly wallClock?: () => number;
  readonly warnings?: string[];
}

export function openSink(
  preset: PresetName | undefined,
  members: Readonly<Record<string, unknown>>,
  { timing, wallClock, warnings = [], ...more }: SinkOptions = {},
): Transport {
  const read = readHttpSink(preset, members);
  assert('config' in read, JSON.stringify(read));
  const calls = outgoing({
    allowAddresses: ['127.0.0.0/8'],
    log: { debug: () => {}, warn: () => {} },
    resolve: async () => [{ address: '127.0.0.1' }],
    ...more,
  });
  const log = { warn: (_: object, message: string) => void warnings.push(message) };
  const transport = read.config.open({ outgoing: calls, log, timing, wallClock });
  onTestFinished(() => {
    transport.close();
    calls.close();
  });
  return transport;
}

/** Stops with the test. */
export async function siem(play: Play, tls?: Tls): Promise<SiemServer> {
  const server = await startSiem(play, tls === undefined ? undefined : { key: tls.key, cert: tls.cert });
  onTestFinished(() => server.stop());
  return server;
}

export interface Tls {
  readonly key: string;
  readonly cert: string;
}

/** A certificate for siem.example that vouches for itself. */
export async function siemCertificate(): Promise<Tls> {
  const folder = mkdtempSync(join(tmpdir(), 'sealog-siem-'));
  try {
    const files = await selfSigned(folder, 'siem', 'DNS:siem.example');
    return { key: readFileSync(files.key, 'utf8'), cert: readFileSync(files.cert, 'utf8') };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Returns entries with these ids, of one stream. */
export function entries(ids: readonly string[], more: JsonObject = {}): ExportedEntry[] {
  return ids.map((id, seq) =>
    exportedEntry(
      {
        id,
        category: 'data_access',
        action: 'recipe.read',
        outcome: 'success',
        occurredAt: '2026-11-22T21:04:05.123+01:00',
        source: { service: 'mes', host: 'mes-1' },
        actor: { type: 'user', id: 'u-4711', name: 'M. Kern', ip: '192.0.2.17' },
        target: { type: 'recipe', id: `r-${id}` },
        ...more,
      },
      { seq },
    ),
  );
}

/** `e0`, `e1` and so on. */
export function names(count: number): string[] {
  return Array.from({ length: count }, (_, i) => `e${i}`);
}

export function batch(transport: Transport, exported: readonly ExportedEntry[]): EntryMessage[] {
  return exported.map((one) => entryMessage(one, transport.encode(one)));
}

/** Returns the ids of the entries by what became of them. */
export function byFate(
  messages: readonly EntryMessage[],
  fates: readonly Fate[],
): Readonly<Record<Fate['kind'], string[]>> {
  assert.equal(fates.length, messages.length);
  const ids: Record<Fate['kind'], string[]> = { delivered: [], again: [], refused: [] };
  for (const [index, { kind }] of fates.entries()) ids[kind].push(messages[index]!.exported.entry.record.id);
  return ids;
}

export async function failure(work: Promise<unknown>): Promise<TransportError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert(error instanceof TransportError, String(error));
  return error;
}

/** Delivers as a sink does, until nothing must go again; returns the ids that were refused. Not more often than is good for a test. */
export async function deliverAll(transport: Transport, messages: readonly EntryMessage[]): Promise<string[]> {
  let left = messages;
  const refused: string[] = [];
  for (let attempt = 0; left.length > 0; attempt++) {
    assert(attempt < 10, 'it does not end');
    const fates = await transport.deliver(left, NEVER).catch((error: unknown) => {
      assert(error instanceof TransportError, String(error));
      return left.map((): Fate => ({ kind: 'again', reason: error.message }));
    });
    refused.push(...byFate(left, fates).refused);
    left = left.filter((_, index) => fates[index]!.kind === 'again');
  }
  return refused;
}
