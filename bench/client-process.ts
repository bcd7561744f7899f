/**
 * A load client in a process of its own, so that it shares no event loop and no heap with what is measured or with the one who reports.
 * The two ends of its conversation: `startClient` for the bench, `answerRequests` for the client. One request at a time.
 */
import { fork } from 'node:child_process';
import { setPriority } from 'node:os';

/** The bench's end. */
export interface Client<Request, Result> {
  readonly pid: number;
  ask(request: Request): Promise<Result>;
  stop(): void;
}

interface Answer {
  result?: unknown;
  error?: string;
}

/**
 * Starts `file` as a client. A failure in the client, or its end, fails the request that waits. A client of low priority (`nice`) gets the
 * processors that nobody else wants.
 */
export function startClient<Request extends object, Result>(file: string, nice = 0): Client<Request, Result> {
  const child = fork(file, { stdio: 'inherit' });
  if (nice !== 0 && child.pid !== undefined) setPriority(child.pid, nice);
  return {
    pid: child.pid ?? 0,
    ask: (request) =>
      new Promise((resolve, reject) => {
        const onMessage = (answer: Answer) => {
          child.off('exit', onExit);
          if (answer.error === undefined) resolve(answer.result as Result);
          else reject(new Error(answer.error));
        };
        const onExit = (code: number | null) => {
          child.off('message', onMessage);
          reject(new Error(`${file} ended with ${code}`));
        };
        child.once('message', onMessage);
        child.once('exit', onExit);
        child.send(request);
      }),
    stop: () => {
      child.kill();
    },
  };
}

/** The client's end: answers each request with what `handle` gives. Ends when the bench has gone. */
export function answerRequests<Request, Result>(handle: (request: Request) => Promise<Result>): void {
  process.on('disconnect', () => process.exit());
  process.on('message', (request: Request) => {
    handle(request).then(
      (result) => process.send?.({ result } satisfies Answer),
      (error: unknown) =>
        process.send?.({ error: error instanceof Error ? error.message : String(error) } satisfies Answer),
    );
  });
}
