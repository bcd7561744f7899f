/**
 * Word from the replicas that there are new entries: it says of which tenants, so that a busy one does not make the sinks of all others look, and neither
 * which nor how many. Whoever misses it looks by himself.
 */
import type pg from 'pg';
import { BoundedClient, PEER_SETTINGS } from './bounded-client.ts';

const CHANNEL = 'sealog_entries';
const CONNECT_MAX_MS = 2000;
const ANSWER_MAX_MS = 5000;
/** By half more or less, so that replicas do not come together. */
const AGAIN_MS = 2000;
/** PostgreSQL takes less than 8000 bytes. */
const PAYLOAD_MAX = 7900;

/** Tells everybody who listens of new entries of these tenants. */
export async function noticeEntries(writer: pg.Pool, tenantIds: readonly number[]): Promise<void> {
  const named = tenantIds.join(',');
  await writer.query(`SELECT pg_catalog.pg_notify('${CHANNEL}', $1)`, [named.length > PAYLOAD_MAX ? '' : named]);
}

/** Calls `wake` at each notice with its tenants (undefined = any), until it is closed; a connection that is lost is made anew. */
export function listenForEntries(
  connection: pg.ClientConfig,
  wake: (tenantIds: ReadonlySet<number> | undefined) => void,
): { close(): void } {
  let client: BoundedClient | undefined;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;
  const listen = async (): Promise<void> => {
    const made = new BoundedClient({
      ...connection,
      application_name: 'sealog_listener',
      connectionTimeoutMillis: CONNECT_MAX_MS,
      query_timeout: ANSWER_MAX_MS,
      options: Object.entries(PEER_SETTINGS)
        .map(([name, value]) => `-c ${name}=${value}`)
        .join(' '),
    });
    client = made;
    const again = (): void => {
      made.removeAllListeners();
      made.on('error', () => {});
      made.end().catch(() => {});
      if (closed || client !== made) return;
      client = undefined;
      timer = setTimeout(() => void listen(), AGAIN_MS * (0.5 + Math.random()));
      timer.unref();
    };
    made.on('error', again);
    made.on('end', again);
    made.on('notification', ({ payload = '' }) => wake(tenantsIn(payload)));
    try {
      await made.connect();
      await made.query(`LISTEN ${CHANNEL}`);
      wake(undefined);
    } catch {
      again();
    }
  };
  void listen();
  return {
    close() {
      closed = true;
      clearTimeout(timer);
      const open = client;
      client = undefined;
      open?.removeAllListeners();
      open?.on('error', () => {});
      open?.end().catch(() => {});
    },
  };
}

function tenantsIn(payload: string): ReadonlySet<number> | undefined {
  return /^\d+(?:,\d+)*$/.test(payload) ? new Set(payload.split(',').map(Number)) : undefined;
}
