/**
 * How long the proof of one event takes over HTTP, in a stream of a thousand entries and in one of a million.
 *
 * Each stream is filled through the service with small events, in batches, and is a tenant's of its own. When a checkpoint covers it,
 * ids are drawn at random; one connection asks for the proof, then for the event, one after the other. Every proof is checked, outside of the
 * measured time.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { fromHex } from '../src/chain/bytes.ts';
import { decodeCheckpoint } from '../src/chain/checkpoint.ts';
import { checkInclusion } from '../src/chain/merkle.ts';
import { ask, send, type Timed } from './api.ts';
import type { Address } from './http-load.ts';
import type { Measurement } from './measurement.ts';
import { compare, median, type Row } from './report.ts';
import { quantile } from './round.ts';
import type { Service } from './service.ts';

const PROOFS = ['proof.1k', 'proof.1m'] as const;

const SIZES = { 'proof.1k': 1000, 'proof.1m': 1_000_000 };
const SMOKE_SIZES = { 'proof.1k': 300, 'proof.1m': 3000 };
const BATCH = 10_000;
const FILLERS = 3;
const ASKED = 1500;
const SMOKE_ASKED = 50;
const CHECKPOINT_WAIT_MS = 30_000;
const BUSY_WAIT_MS = 1000;
const BUSY_TRIES = 60;

export const proofs: Measurement = {
  names: PROOFS,
  async run({ options, shared, report }) {
    report(...(await measureProofs((await shared()).service, options.smoke)));
  },
};

interface Latencies {
  /** Milliseconds, in rising order. */
  readonly proofs: readonly number[];
  readonly events: readonly number[];
  readonly bytes: number;
}

/** Measures both, since the baseline of the second is the first. */
async function measureProofs({ address, token }: Service, smoke: boolean): Promise<Row[]> {
  const measured = {} as Record<(typeof PROOFS)[number], Latencies>;
  console.log('\nproofs: milliseconds from request to answer, one connection');
  for (const name of PROOFS) {
    const size = (smoke ? SMOKE_SIZES : SIZES)[name];
    const began = performance.now();
    const tenant = name.replace('.', '-');
    await fill(address, await token('service', tenant), size);
    const auditor = await token('auditor', tenant);
    await untilSigned(address, auditor);
    const filled = (performance.now() - began) / 1000;
    measured[name] = await askForProofs(address, auditor, size, smoke ? SMOKE_ASKED : ASKED);
    const { proofs, events, bytes } = measured[name];
    console.log(
      `  ${name.padEnd(9)} ${size} entries (filled and signed in ${filled.toFixed(1)} s)  proof ${line(proofs)}, ${bytes.toFixed(0)} bytes  event ${line(events)}`,
    );
  }
  const small = median(measured['proof.1k'].proofs);
  return [
    compare('proof.1k', 'ms', small, median(measured['proof.1k'].events)),
    compare('proof.1m', 'ms', median(measured['proof.1m'].proofs), small),
  ];
}

function line(latencies: readonly number[]): string {
  return `p50 ${quantile(latencies, 0.5).toFixed(2)} p99 ${quantile(latencies, 0.99).toFixed(2)}`;
}

async function fill(address: Address, token: string, size: number): Promise<void> {
  let next = 0;
  const post = (lines: readonly string[]) =>
    send(address, token, 'POST', '/v1/events/batch', lines.join('\n'), 'application/x-ndjson');
  const filler = async (): Promise<void> => {
    while (next < size) {
      const first = next;
      next = Math.min(size, first + BATCH);
      const lines = Array.from({ length: next - first }, (_, i) => JSON.stringify(event(first + i)));
      let { status, text } = await post(lines);
      // Batches of that size can fill the queue: what was refused is sent again, as the answer says.
      for (let tries = 0; status === 503 && tries < BUSY_TRIES; tries++) {
        await sleep(BUSY_WAIT_MS);
        ({ status, text } = await post(lines));
      }
      if (status !== 200 || !text.startsWith('{"errors":false'))
        throw new Error(`a batch was answered ${status}: ${text.slice(0, 500)}`);
    }
  };
  await Promise.all(Array.from({ length: FILLERS }, filler));
}

function event(n: number): object {
  return {
    id: idOf(n),
    category: 'system_operation',
    action: 'service.restart',
    outcome: 'success',
    occurredAt: '2026-11-22T21:04:05Z',
    source: { service: 'historian', host: `hist-${n % 7}` },
    details: { attempt: n },
  };
}

function idOf(n: number): string {
  return `proved-${n}`;
}

/** Returns when signed checkpoints cover all that is there of a tenant. The questions leave entries too: they are not waited for. */
export async function untilSigned(address: Address, token: string): Promise<void> {
  const end = performance.now() + CHECKPOINT_WAIT_MS;
  const streams = async () => {
    const { items } = await ask<{ items: StreamItem[] }>(address, token, 'GET', '/v1/streams');
    return items;
  };
  const sizes = new Map((await streams()).map(({ stream, size }) => [stream, size]));
  for (;;) {
    const signed = new Map((await streams()).map(({ stream, checkpoint }) => [stream, checkpoint?.size ?? 0]));
    const unsigned = [...sizes].find(([stream, size]) => (signed.get(stream) ?? 0) < size);
    if (unsigned === undefined) return;
    if (performance.now() > end) throw new Error(`no checkpoint covers the ${unsigned[1]} entries of ${unsigned[0]}`);
    await sleep(50);
  }
}

interface StreamItem {
  readonly stream: string;
  readonly size: number;
  readonly checkpoint: { readonly size: number } | null;
}

async function askForProofs(address: Address, token: string, size: number, count: number): Promise<Latencies> {
  const proofs: number[] = [];
  const events: number[] = [];
  let bytes = 0;
  for (let n = -Math.ceil(count / 10); n < count; n++) {
    const path = `/v1/events/${idOf(Math.floor(Math.random() * size))}`;
    const proof = await send(address, token, 'GET', `${path}/proof`);
    checkProof(proof);
    const plain = await send(address, token, 'GET', path);
    assert.equal(plain.status, 200);
    // The first ones are a warm-up.
    if (n < 0) continue;
    proofs.push(proof.ms);
    events.push(plain.ms);
    bytes += proof.text.length;
  }
  const rising = (a: number, b: number): number => a - b;
  return { proofs: proofs.sort(rising), events: events.sort(rising), bytes: bytes / count };
}

/** Holds a proof to its checkpoint; who signed that is not this bench's matter. */
export function checkProof({ status, text }: Timed): void {
  if (status !== 200) throw new Error(`a proof was answered ${status}: ${text.slice(0, 500)}`);
  const proof = JSON.parse(text) as { seq: number; hash: string; path: string[]; checkpoint: string };
  const { size, root } = decodeCheckpoint(proof.checkpoint.slice(0, proof.checkpoint.lastIndexOf('\n\n') + 1));
  checkInclusion(proof.seq, size, fromHex(proof.hash), proof.path.map(fromHex), root);
}
