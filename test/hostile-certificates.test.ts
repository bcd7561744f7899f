/** Certificates that somebody made up, who writes the database and hopes that verification never ends. */
import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { toHex, utf8 } from '../src/chain/bytes.ts';
import { appendLeaf, encodeFrontier, frontierRoot, leafHash, popCount } from '../src/chain/merkle.ts';
import { decodePruningCertificate, encodePruningCertificate } from '../src/chain/pruning-certificate.ts';
import { encodeRecord } from '../src/chain/record.ts';
import { dropMonthOf, formatInstant } from '../src/chain/retain-until.ts';
import type { Certificates } from '../src/verify/certificates.ts';
import { verifyStream } from '../src/verify/verify-stream.ts';
import { memorySource } from './reference/memory-log.ts';

const STREAM = 'acme/data_access';
/** More than anybody stores. */
const SIZE = 2 ** 45;

function certificate() {
  const retainUntil = Date.UTC(2025, 0, 1);
  const path = Array.from({ length: popCount(SIZE - 1) }, () => randomBytes(32));
  const record = {
    ...{ stream: STREAM, seq: SIZE - 1, previous: toHex(randomBytes(32)), id: 'e-1', action: 'thing.done' },
    outcome: 'success' as const,
    ...{ occurredAt: '2024-01-01T00:00:00Z', recordedAt: '2024-01-01T00:00:00.000Z' },
    ...{ retainUntil: formatInstant(retainUntil), source: { service: 'mes' }, parts: toHex(randomBytes(32)) },
  } as const;
  const lastRecord = encodeRecord(record);
  const frontier = appendLeaf(SIZE - 1, path.toReversed(), leafHash(utf8(lastRecord)));
  const details = encodePruningCertificate({
    ...{
      run: 'run',
      stream: STREAM,
      dropMonth: dropMonthOf(retainUntil),
      first: 0,
      end: SIZE,
      lastRecord,
      path,
      held: [],
    },
    ...{ root: frontierRoot(SIZE, frontier), months: 12, opening: undefined },
  });
  return decodePruningCertificate(details);
}

test('one that speaks of more entries than anybody could store is told from what is there at once', async () => {
  const pruning = certificate();
  const entry = {
    stream: 'acme/log_administration',
    seq: 0,
    id: 'c',
    recordedAt: Date.UTC(2026, 0, 1),
    isSigned: true,
  };
  const certificates: Certificates = {
    prunedOf: () => [{ ...pruning, entry, isAbandoned: false }],
    erasureOf: () => undefined,
  };
  const stream = {
    ...{ id: 1, tenant: 1, category: 'data_access', epoch: 1, name: STREAM, size: SIZE, head: pruning.lastHash },
    ...{ frontier: encodeFrontier(pruning.frontier), recordedAt: pruning.recordedAt, retainUntil: pruning.retainUntil },
  };
  const nothing = { blocks: [], ids: [], tiles: [], edges: [], dataKeys: [] };
  const rows = { tenants: [{ id: 1, name: 'acme' }], streams: [stream], ...nothing };
  const source = memorySource(rows, 1, () => Promise.reject(new Error('no key is needed')));
  const { findings } = await verifyStream(source, { certificates: async () => certificates });
  expect(findings.map(({ kind, seq }) => [kind, seq])).toContainEqual(['tile', 0]);
});
