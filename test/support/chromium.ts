/** Debian's Chromium without a head, driven over its DevTools protocol: one page at a time, and a list of every request that it makes. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PROGRAMS = ['/usr/bin/chromium', '/usr/bin/chromium-browser'];
const START_MAX_MS = 30_000;
const ANSWER_MAX_MS = 60_000;

/** Undefined where there is none. */
export const CHROMIUM: string | undefined = PROGRAMS.find((path) => existsSync(path));

// biome-ignore lint/suspicious/noExplicitAny: the protocol has a thousand shapes
type Message = any;

export interface Browser {
  open(url: string): Promise<Page>;
  close(): Promise<void>;
}

export interface Page {
  /** URLs of all requests since it was opened, that of the page first. */
  readonly requests: string[];
  /** What the page complained about. */
  readonly complaints: string[];
  /** Evaluates an expression and returns its value, awaited. */
  evaluate<T>(expression: string): Promise<T>;
  setFiles(selector: string, paths: readonly string[]): Promise<void>;
  close(): Promise<void>;
}

export async function startBrowser(): Promise<Browser> {
  const profile = await mkdtemp(join(tmpdir(), 'sealog-test-chromium-'));
  const child = spawn(
    CHROMIUM!,
    [
      '--headless=new',
      '--remote-debugging-port=0',
      `--user-data-dir=${profile}`,
      '--disable-gpu',
      '--disable-dev-shm-usage',
      '--disable-background-networking',
      '--disable-component-update',
      '--no-first-run',
      '--no-default-browser-check',
      // As root, which tests may be, there is no sandbox to be had.
      ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
      'about:blank',
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL');
    await closed;
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  try {
    const url = await new Promise<string>((resolve, reject) => {
      let said = '';
      const timer = setTimeout(() => reject(new Error(`chromium did not start: ${said}`)), START_MAX_MS);
      child.stderr.on('data', (chunk) => {
        said += chunk;
        const match = /DevTools listening on (ws:\S+)/.exec(said);
        if (match === null) return;
        clearTimeout(timer);
        resolve(match[1]!);
      });
      child.once('close', () => reject(new Error(`chromium ended: ${said}`)));
    });
    const connection = await connect(url);
    return {
      open: (address) => openPage(connection, address),
      async close() {
        connection.close();
        await stop();
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

interface Connection {
  call(method: string, params?: object, session?: string): Promise<Message>;
  listen(listener: (message: Message) => void): () => void;
  close(): void;
}

async function connect(url: string): Promise<Connection> {
  const socket = new WebSocket(url);
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve, { once: true });
    socket.addEventListener('error', reject, { once: true });
  });
  let last = 0;
  const waiting = new Map<number, { resolve: (result: Message) => void; reject: (error: Error) => void }>();
  const listeners = new Set<(message: Message) => void>();
  socket.addEventListener('message', ({ data }) => {
    const message = JSON.parse(String(data)) as Message;
    if (message.id === undefined) {
      for (const listener of listeners) listener(message);
      return;
    }
    const { resolve, reject } = waiting.get(message.id)!;
    waiting.delete(message.id);
    if (message.error === undefined) resolve(message.result);
    else reject(new Error(`the browser answers: ${message.error.message}`));
  });
  return {
    call(method, params = {}, sessionId) {
      last += 1;
      const id = last;
      return new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`the browser does not answer ${method}`)), ANSWER_MAX_MS);
        const end =
          <T>(settle: (value: T) => void) =>
          (value: T) => {
            clearTimeout(timer);
            settle(value);
          };
        waiting.set(id, { resolve: end(resolve), reject: end(reject) });
        socket.send(JSON.stringify({ id, method, params, ...(sessionId === undefined ? {} : { sessionId }) }));
      });
    },
    listen(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    close: () => socket.close(),
  };
}

async function openPage(connection: Connection, url: string): Promise<Page> {
  const { targetId } = await connection.call('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await connection.call('Target.attachToTarget', { targetId, flatten: true });
  const requests: string[] = [];
  const complaints: string[] = [];
  let loaded: () => void;
  const isLoaded = new Promise<void>((resolve) => {
    loaded = resolve;
  });
  const unlisten = connection.listen((message) => {
    if (message.sessionId !== sessionId) return;
    const { method, params } = message;
    if (method === 'Network.requestWillBeSent') requests.push(params.request.url);
    if (method === 'Page.loadEventFired') loaded();
    if (method === 'Runtime.exceptionThrown')
      complaints.push(params.exceptionDetails.exception?.description ?? 'exception');
    if (method === 'Log.entryAdded') complaints.push(params.entry.text);
    if (method === 'Runtime.consoleAPICalled') complaints.push(`console.${params.type}`);
  });
  const call = (method: string, params: object = {}) => connection.call(method, params, sessionId);
  for (const domain of ['Network', 'Page', 'Runtime', 'Log', 'DOM']) await call(`${domain}.enable`);
  await call('Page.navigate', { url });
  await isLoaded;
  return {
    requests,
    complaints,
    async evaluate(expression) {
      const { result, exceptionDetails } = await call('Runtime.evaluate', {
        expression,
        awaitPromise: true,
        returnByValue: true,
      });
      if (exceptionDetails !== undefined)
        throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      return result.value;
    },
    async setFiles(selector, paths) {
      // No files is no change to the protocol.
      await call('Runtime.evaluate', { expression: `document.querySelector(${JSON.stringify(selector)}).value = ''` });
      const { root } = await call('DOM.getDocument');
      const { nodeId } = await call('DOM.querySelector', { nodeId: root.nodeId, selector });
      await call('DOM.setFileInputFiles', { nodeId, files: paths });
    },
    async close() {
      unlisten();
      await connection.call('Target.closeTarget', { targetId });
    },
  };
}
