/**
 * Syslog over UDP (RFC 5426), which promises nothing: a datagram may be dropped by our system, by any on the way, and by the receiver's,
 * and nobody says so. What can be noticed is: that nobody listens there, where that machine says so (ICMP), within a while after a batch.
 * What can be avoided is to send faster than a receiver's buffer takes, which is about 50 datagrams of 2 KB by Linux's default.
 */
import { createSocket, type Socket } from 'node:dgram';
import { isIP, isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkBefore, inWords, type SyslogWay, whereOf } from './syslog-connection.ts';
import { TransportError } from './transport.ts';

/** What goes out at once, and the pause behind it: 10,000 datagrams, or 8 MB, a second at most. */
const BURST_DATAGRAMS = 20;
const BURST_BYTES = 16 * 1024;
const PAUSE_MS = 2;

/**
 * Sends each message as a datagram. Returns for each whether it left: one that is longer than the path takes does not. Rejects with a
 * TransportError where the receiver's machine refused any of them: then nothing is known of the others.
 */
export async function sendDatagrams(
  way: SyslogWay,
  messages: Iterable<Uint8Array>,
  signal: AbortSignal,
): Promise<readonly boolean[]> {
  checkBefore(way, signal);
  const { target, timing } = way;
  const where = whereOf(target);
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => {});
  const stop = (): void => failed.reject(new TransportError('stopped', `${where}: the delivery was stopped`));
  signal.addEventListener('abort', stop, { once: true });
  const late = new TransportError('timeout', `${where}: the name was not found within ${timing.connectMs} ms`);
  const timer = setTimeout(() => failed.reject(late), timing.connectMs);
  let socket: Socket | undefined;
  try {
    const address = await Promise.race([addressOf(way), failed.promise]);
    clearTimeout(timer);
    socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
    // Of a connected socket, ICMP's refusals are errors.
    socket.on('error', (error) => failed.reject(inWords(error, where)));
    await Promise.race([connected(socket, target.port, address), failed.promise]);

    const fates: boolean[] = [];
    let datagrams = 0;
    let bytes = 0;
    for (const message of messages) {
      if (datagrams === BURST_DATAGRAMS || bytes >= BURST_BYTES) {
        await Promise.race([sleep(PAUSE_MS), failed.promise]);
        datagrams = bytes = 0;
      }
      // The callback comes when the system has taken it: what it has no room for waits, and is not dropped here.
      fates.push(await Promise.race([send(socket, message), failed.promise]));
      datagrams += 1;
      bytes += message.length;
    }
    await Promise.race([sleep(timing.quietMs), failed.promise]);
    return fates;
  } catch (error) {
    throw inWords(error as Error, where);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
    socket?.close();
  }
}

/** Of several addresses the first: nothing tells which of them answers. */
function addressOf({ target, lookup }: SyslogWay): Promise<string> {
  if (isIP(target.host) !== 0) return Promise.resolve(target.host);
  return new Promise((resolve, reject) => {
    lookup(target.host, { all: false }, (error, address) => (error ? reject(error) : resolve(String(address))));
  });
}

function connected(socket: Socket, port: number, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.connect(port, address, (error?: Error | null) => (error ? reject(error) : resolve()));
  });
}

function send(socket: Socket, message: Uint8Array): Promise<boolean> {
  return new Promise((resolve, reject) => {
    socket.send(message, (error) => {
      if (error === null) resolve(true);
      else if ((error as NodeJS.ErrnoException).code === 'EMSGSIZE') resolve(false);
      else reject(error);
    });
  });
}
