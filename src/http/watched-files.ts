/**
 * Files of the operator that are read again while the service runs: certificates, keys, lists.
 *
 * Every few seconds their contents are read, not their dates: a date can stay what it was, and the whole is a few kilobytes. New
 * contents take the place of the old ones all together, or not at all: what can not be used is told once in the log, `refused` says so until
 * it is mended, and what was there stays in use. Since two files can not be replaced at once, what does not fit is looked at twice before it is
 * told.
 */
import { constants, type FileHandle, open } from 'node:fs/promises';
import { SettingsError } from '../errors.ts';

export interface WatchedFile {
  /** The setting that names the file. */
  readonly setting: string;
  readonly path: string;
  /** Holds a private key: refused where everybody on the machine may read it. */
  readonly isSecret?: true;
}

export interface WatchOptions<T> {
  /** What the files are, for the log. */
  readonly what: string;
  readonly files: readonly WatchedFile[];
  /** Makes the value of the files' bytes, which come in their order. Throws a SettingsError with every problem. */
  readonly load: (contents: readonly Buffer[]) => T;
  readonly log: { info(facts: object, message: string): void; error(facts: object, message: string): void };
  readonly everyMs?: number | undefined;
}

const EVERY_MS = 2000;
/** More than any of them needs. */
const FILE_BYTES_MAX = 1024 * 1024;

export class WatchedFiles<T> {
  readonly #options: WatchOptions<T>;
  readonly #listeners: ((value: T) => void)[] = [];
  readonly #timer: NodeJS.Timeout;
  #value: T;
  #used: Contents;
  #refused: Contents | undefined;
  #isTold = false;
  #looking: Promise<void> | undefined;

  /** Reads the files. Throws a SettingsError where they can not be used. */
  static async open<T>(options: WatchOptions<T>): Promise<WatchedFiles<T>> {
    const contents = await contentsOf(options.files);
    return new WatchedFiles(options, contents, made(options, contents));
  }

  private constructor(options: WatchOptions<T>, contents: Contents, value: T) {
    this.#options = options;
    this.#used = contents;
    this.#value = value;
    this.#timer = setInterval(() => void this.look(), options.everyMs ?? EVERY_MS).unref();
  }

  /** What the newest contents that could be used are. */
  get value(): T {
    return this.#value;
  }

  /** Whether the files now hold what can not be used. */
  get refused(): boolean {
    return this.#refused !== undefined;
  }

  /** Calls the listener with each later value. It MUST NOT throw. */
  onChange(listener: (value: T) => void): void {
    this.#listeners.push(listener);
  }

  /** Looks at the files now. One look at a time: a file system that hangs gets no second. */
  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    const { what, files, log } = this.#options;
    const contents = await contentsOf(files);
    if (isSame(contents, this.#used)) {
      this.#refused = undefined;
      return;
    }
    const isSecondLook = this.#refused !== undefined && isSame(contents, this.#refused);
    if (isSecondLook && this.#isTold) return;
    try {
      this.#value = made(this.#options, contents);
    } catch (error) {
      if (!(error instanceof SettingsError)) throw error;
      this.#refused = contents;
      this.#isTold = isSecondLook;
      if (isSecondLook) log.error({ problems: error.problems }, `${what} can not be used: what was there before stays`);
      return;
    }
    this.#used = contents;
    this.#refused = undefined;
    log.info({ files: files.map(({ path }) => path) }, `${what} read again`);
    for (const listener of this.#listeners) listener(this.#value);
  }
}

/** What the files hold, or why one can not be read. */
type Contents = readonly (Buffer | string)[];

function contentsOf(files: readonly WatchedFile[]): Promise<Contents> {
  return Promise.all(files.map(contentOf));
}

async function contentOf({ setting, path, isSecret }: WatchedFile): Promise<Buffer | string> {
  let file: FileHandle | undefined;
  try {
    // Without waiting for somebody who writes, where it is a pipe.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const about = await file.stat();
    if (!about.isFile()) return `${setting} names no file`;
    if (about.size > FILE_BYTES_MAX) return `${setting} is larger than ${FILE_BYTES_MAX} bytes`;
    // The group may: that is how a service that is not root gets its key.
    if (isSecret && (about.mode & 0o007) !== 0)
      return `${setting} names a file that everybody on this machine may use: take that away (chmod o= FILE)`;
    return await file.readFile();
  } catch (error) {
    return `${setting} can not be read: ${(error as NodeJS.ErrnoException).code}`;
  } finally {
    await file?.close();
  }
}

function isSame(a: Contents, b: Contents): boolean {
  return a.every((content, i) => {
    const other = b[i];
    return typeof content === 'string' || typeof other === 'string' ? content === other : content.equals(other!);
  });
}

function made<T>({ load }: WatchOptions<T>, contents: Contents): T {
  const problems = contents.filter((content) => typeof content === 'string');
  if (problems.length > 0) throw new SettingsError(problems);
  return load(contents as readonly Buffer[]);
}
