/**
 * The user that the server runs as, and programs run as that user.
 *
 * PostgreSQL refuses to run as root, so root steps down: to the owner of the cluster where there is one, else to the first of `sealog`,
 * `postgres` and `nobody` that the machine knows. Anybody else runs the server as himself.
 */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { readFile, stat } from 'node:fs/promises';
import { ifThere } from './files.ts';

/** Undefined stands for the user of this process. */
export interface ServerUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

const STEP_DOWN_TO = ['sealog', 'postgres', 'nobody'];

/**
 * The data folder as the programs are told it: the first descriptor that they inherit. The kernel follows this link without walking the
 * folders above, which the server's user may not be able to enter, as below /root. (`/proc/self/cwd` would do from PostgreSQL 16 on; the
 * programs of 15 leave their working folder and can not find back.)
 */
export const INHERITED_FOLDER = '/proc/self/fd/3';

/** Nothing of our own environment reaches the server: PGPORT, PGOPTIONS or a locale would change it. */
export const SERVER_ENVIRONMENT = { PATH: '/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };

/** Enough for what initdb and `postgres -V` say. */
const OUTPUT_MAX_CHARS = 64 * 1024;

/** Who runs the server of this cluster folder, which may not exist yet. */
export async function serverUser(cluster: string): Promise<ServerUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const users = await readUsers();
  const owner = await ifThere(stat(cluster));
  if (owner !== undefined && owner.uid !== 0) {
    const name = users.find((user) => user.uid === owner.uid)?.name ?? `uid ${owner.uid}`;
    return { name, uid: owner.uid, gid: owner.gid };
  }
  for (const name of STEP_DOWN_TO) {
    const user = users.find((candidate) => candidate.name === name && candidate.uid !== 0);
    if (user !== undefined) return user;
  }
  return { name: 'nobody', uid: 65534, gid: 65534 };
}

async function readUsers(): Promise<ServerUser[]> {
  const text = (await ifThere(readFile('/etc/passwd', 'utf8'))) ?? '';
  return text.split('\n').flatMap((line) => {
    const [name, , uid, gid] = line.split(':');
    return name && uid && gid ? [{ name, uid: Number(uid), gid: Number(gid) }] : [];
  });
}

export interface RunOptions {
  readonly user: ServerUser | undefined;
  /** Open files that the program finds as its descriptors 3, 4 and so on. */
  readonly files?: readonly number[];
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Runs a program to its end as the server's user. `ok` says that it ended with 0; `output` is what it printed, or why it could not be run.
 *
 * @throws the signal's reason when aborted.
 */
export async function runAs(
  command: string,
  args: readonly string[],
  { user, files = [], timeoutMs, signal }: RunOptions,
): Promise<{ ok: boolean; output: string }> {
  signal?.throwIfAborted();
  const result = await new Promise<{ ok: boolean; output: string }>((resolve) => {
    // A session of its own: Ctrl-C is for us, and `stop` below reaches what the program started as well.
    const stdio: StdioOptions = ['ignore', 'pipe', 'pipe', ...files];
    let child: ChildProcess;
    try {
      child = spawn(command, args, { cwd: '/', env: SERVER_ENVIRONMENT, stdio, detached: true, ...identity(user) });
    } catch (error) {
      // As where root may not become another user, in a container without that capability.
      resolve({ ok: false, output: error instanceof Error ? error.message : String(error) });
      return;
    }
    let output = '';
    const take = (chunk: string) => {
      output = (output + chunk).slice(-OUTPUT_MAX_CHARS);
    };
    const stop = () => {
      if (child.pid !== undefined) killGroup(child.pid);
    };
    const timer = setTimeout(stop, timeoutMs);
    signal?.addEventListener('abort', stop, { once: true });
    const finish = (ok: boolean) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
      resolve({ ok, output: output.trim() });
    };
    child.stdout?.setEncoding('utf8').on('data', take);
    child.stderr?.setEncoding('utf8').on('data', take);
    child.once('error', (error) => {
      take(error.message);
      finish(false);
    });
    child.once('close', (code) => finish(code === 0));
  });
  signal?.throwIfAborted();
  return result;
}

/** The options of `spawn` that make it the server's user. */
export function identity(user: ServerUser | undefined): { uid?: number; gid?: number } {
  return user === undefined ? {} : { uid: user.uid, gid: user.gid };
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It ended in the meantime.
  }
}
