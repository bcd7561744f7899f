/** What a test of a sink sends: in the form of an entry, so that it goes the way of one, and saying that it is none. */
import { randomUUID } from 'node:crypto';
import { toHex, utf8 } from '../chain/bytes.ts';
import { canonicalText } from '../chain/canonical.ts';
import { OWN_TENANT } from '../chain/category.ts';
import { leafHash } from '../chain/merkle.ts';
import { type Part, type PartName, partsHashHex, SALT_BYTES } from '../chain/part.ts';
import { encodeRecord, NO_PREVIOUS, type Rec } from '../chain/record.ts';
import type { ExportedEntry } from './exported-entry.ts';

/** No log has a stream of this name. */
const STREAM = `${OWN_TENANT}/test`;

/** Returns an entry of no log. `nowMs` in milliseconds since 1970. */
export function testEntry(nowMs: number): ExportedEntry {
  const now = new Date(nowMs).toISOString();
  const parts: Part[] = [
    part('actor', { type: 'system', id: 'sealog' }),
    part('reason', 'A test of this sink: no entry of the log'),
  ];
  const record: Rec = {
    stream: STREAM,
    id: `test-${randomUUID()}`,
    action: 'sink.test',
    outcome: 'success',
    severity: 0,
    occurredAt: now,
    source: { service: 'sealog' },
    parts: partsHashHex(parts),
    seq: 0,
    previous: NO_PREVIOUS,
    recordedAt: now,
  };
  const bytes = utf8(encodeRecord(record));
  return {
    entry: { record, bytes, hash: toHex(leafHash(bytes)), parts },
    stream: { name: STREAM, category: 'log_administration', tenant: OWN_TENANT },
  };
}

function part(name: PartName, value: Parameters<typeof canonicalText>[0]): Part {
  return { name, salt: new Uint8Array(SALT_BYTES), value: utf8(canonicalText(value)) };
}
