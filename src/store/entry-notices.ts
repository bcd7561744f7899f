/** Word from the replicas that there are new entries: it says neither which nor how many, and whoever misses it looks by himself. */
import pg from 'pg';

const CHANNEL = 'sealog_entries';
const CONNECT_MAX_MS = 2000;
const AGAIN_MS = 2000;

/** Tells everybody who listens. */
export async function noticeEntries(writer: pg.Pool): Promise<void> {
  await writer.query(`SELECT pg_catalog.pg_notify('${CHANNEL}', '')`);
}

/** Calls `wake` at each notice, until it is closed; a connection that is lost is made anew. */
export function listenForEntries(connection: pg.ClientConfig, wake: () => void): { close(): void } {
  let client: pg.Client | undefined;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;
  const listen = async (): Promise<void> => {
    const made = new pg.Client({
      ...connection,
      application_name: 'sealog_listener',
      keepAlive: true,
      connectionTimeoutMillis: CONNECT_MAX_MS,
    });
    client = made;
    const again = (): void => {
      made.removeAllListeners();
      made.on('error', () => {});
      made.end().catch(() => {});
      if (closed || client !== made) return;
      client = undefined;
      timer = setTimeout(() => void listen(), AGAIN_MS);
      timer.unref();
    };
    made.on('error', again);
    made.on('end', again);
    made.on('notification', wake);
    try {
      await made.connect();
      await made.query(`LISTEN ${CHANNEL}`);
      wake();
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
