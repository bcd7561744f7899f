/**
 * The signer's high-water mark: what it signed, in a file that the database's administrator can not reach.
 *
 * A line is written and flushed before the signature that it tells of is released. So a signer that starts again, after
 * whatever crash, knows at least everything that anybody can hold in his hands, and never signs a second root for a size.
 *
 * The file `mark.log` is lines of `<link> <JSON>`, one for what is flushed together, where link = the first 16 hex digits of
 * SHA-256(link before ‖ JSON), the first one before being 16 zeros. The links show damage, and they fence: a second signer on the same
 * folder, on another machine, would append a line that follows from the same one before. Whoever finds, after flushing, that
 * the file is longer than what he wrote has lost: his line is followed by none and passed over, and he releases no signature.
 *
 * A crash can leave a torn last line, which was never flushed and so never released: it is cut off when the file is opened.
 * A line that others follow can not be a torn one: then the file is damaged, and nobody signs until it is restored.
 */
import { type FileHandle, open, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { AnchorPlace } from '../chain/key-statement.ts';
import { sha256Hex } from '../chain/sha256.ts';
import { SettingsError } from '../errors.ts';

/** A size and root that was signed, or is about to be. */
export interface SignedHead {
  readonly size: number;
  /** Hex. */
  readonly root: string;
}

/** What the mark tells; a line of the file is an array of them. */
export type MarkFact =
  | { readonly kind: 'origin'; readonly origin: string }
  /** A server whose streams agreed with the mark. */
  | { readonly kind: 'server'; readonly system: string; readonly timeline: number }
  | { readonly kind: 'generation'; readonly generation: number; readonly from: AnchorPlace }
  | { readonly kind: 'checkpoint'; readonly stream: string; readonly size: number; readonly root: string }
  /** The epoch is closed at this size, nothing of it is signed any more, and `next` goes on. */
  | { readonly kind: 'closed'; readonly stream: string; readonly size: number; readonly next: string }
  /** The epoch is about to be closed for a shorter policy: what is found half done of it, the signer itself has begun. */
  | { readonly kind: 'turning'; readonly stream: string; readonly next: string }
  /** It was closed at this size, its last, which is signed, and `next` has its opening entry. */
  | { readonly kind: 'turned'; readonly stream: string; readonly size: number; readonly next: string }
  /** This epoch has everything that a recovery had to put into it. */
  | { readonly kind: 'opened'; readonly stream: string }
  /** From here on the file is a copy that was restored with its database: what was signed after it was made is not known. */
  | { readonly kind: 'copied' }
  /** A recovery has closed every epoch that was open then. */
  | { readonly kind: 'settled' };

/** Another signer wrote to the folder: it is its now. */
export class MarkLostError extends Error {
  override readonly name = 'MarkLostError';
}

const FILE = 'mark.log';
const NO_LINK = '0'.repeat(16);
/** Heads that are kept of each stream when the file is written anew: recovery looks for the last that a database still has. */
const HISTORY_MAX = 64;
/** Of these the newest, as they are; of older ones every second goes each time there are too many, so that they thin out. */
const HISTORY_NEWEST = 16;
/** From here on the file is written anew; then again when it is twice as long as it was after that. */
const COMPACT_FROM_BYTES = 32 * 1024 * 1024;
/** Of a file that is written anew. */
const FACTS_A_LINE = 10_000;
/** A line is shorter than this: what is torn can not be longer. */
const TORN_BYTES_MAX = 16 * 1024 * 1024;
/** A torn line may have line feeds in it. */
const UNSOUND_MAX = 1000;
/** How far back the line is looked for that a lost line follows from. */
const FORKS_LOOKED_AT = 4096;

export class Mark {
  readonly #folder: string;
  #file: FileHandle;
  #bytes: number;
  #link: string;
  /** From here on the file is written anew. */
  #compactFrom: number;
  #lost = false;
  #origin: string | undefined;
  #server: { readonly system: string; readonly timeline: number } | undefined;
  readonly #generations: { generation: number; from: AnchorPlace }[] = [];
  readonly #heads = new Map<string, SignedHead[]>();
  readonly #closed = new Map<string, { readonly size: number; readonly next: string }>();
  readonly #opened = new Set<string>();
  #copied = false;
  /** Of these, what was signed is known: they were opened since. */
  readonly #openedSince = new Set<string>();
  readonly #turning = new Map<string, string>();
  readonly #turned = new Map<string, { readonly size: number; readonly next: string }>();

  private constructor(folder: string, file: FileHandle, bytes: number, link: string, compactFrom: number) {
    this.#folder = folder;
    this.#file = file;
    this.#bytes = bytes;
    this.#link = link;
    this.#compactFrom = compactFrom;
  }

  /** Opens the mark in a folder, or begins it. The caller MUST hold the folder's lock. Throws a SettingsError where it is damaged. */
  static async open(folder: string, compactFrom: number = COMPACT_FROM_BYTES): Promise<Mark> {
    const path = join(folder, FILE);
    const file = await open(path, 'a+', 0o600);
    try {
      const text = await file.readFile();
      const { facts, bytes, link } = readFacts(text, path);
      if (bytes < text.length) {
        await file.truncate(bytes);
        await file.sync();
      }
      const mark = new Mark(folder, file, bytes, link, compactFrom);
      for (const fact of facts) mark.#take(fact);
      await syncFolder(folder);
      return mark;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get origin(): string | undefined {
    return this.#origin;
  }

  get server(): { readonly system: string; readonly timeline: number } | undefined {
    return this.#server;
  }

  /** Generations in order: from where on each signs. */
  get generations(): readonly { readonly generation: number; readonly from: AnchorPlace }[] {
    return this.#generations;
  }

  /** The streams that were ever signed. */
  streams(): string[] {
    return [...this.#heads.keys()];
  }

  /** Returns what was last signed of a stream. */
  head(stream: string): SignedHead | undefined {
    return this.#heads.get(stream)?.at(-1);
  }

  /** Returns what is remembered to have been signed of a stream, smallest first. */
  history(stream: string): readonly SignedHead[] {
    return this.#heads.get(stream) ?? [];
  }

  /** Returns the size at which a recovery closed an epoch, or undefined. */
  closedAt(stream: string): number | undefined {
    return this.#closed.get(stream)?.size;
  }

  /** Epochs whose closing for a shorter policy was begun and not finished, and the one that is to go on for each. */
  turning(): { stream: string; next: string }[] {
    return [...this.#turning].map(([stream, next]) => ({ stream, next }));
  }

  /** Epochs that were closed for a shorter policy. */
  turned(): { stream: string; size: number; next: string }[] {
    return [...this.#turned].map(([stream, turned]) => ({ stream, ...turned }));
  }

  /** Epochs that recoveries closed, and the one that goes on for each. */
  closings(): [stream: string, next: string][] {
    return [...this.#closed].map(([stream, { next }]) => [stream, next]);
  }

  /** Epochs that were closed, and whose next one does not have everything yet. */
  unfinished(): { stream: string; size: number; next: string }[] {
    return [...this.#closed]
      .filter(([, { next }]) => !this.#opened.has(next))
      .map(([stream, { size, next }]) => ({ stream, size, next }));
  }

  /** Whether more may have been signed of an epoch than the mark knows: it is a copy, and no recovery has closed the epoch yet. */
  isBehind(stream: string): boolean {
    return this.#copied && !this.#openedSince.has(stream);
  }

  /** Whether the mark is a copy, and a recovery is to close what was open. */
  get isCopied(): boolean {
    return this.#copied;
  }

  /** Writes facts and flushes them; when this returns, what they tell of may be released. Throws a MarkLostError when another signer came in between. */
  async append(facts: readonly MarkFact[]): Promise<void> {
    if (this.#lost) throw new MarkLostError('the signer folder is in use by another signer');
    if (facts.length === 0) return;
    const { text, link } = lineOf(this.#link, facts);
    // Whatever goes wrong from here on: how far the file got is not known, and only opening it again tells.
    this.#lost = true;
    await this.#file.appendFile(text);
    await this.#file.datasync();
    this.#bytes += Buffer.byteLength(text);
    this.#link = link;
    await this.#checkAlone();
    for (const fact of facts) this.#take(fact);
    if (this.#bytes > this.#compactFrom) await this.#compact();
    this.#lost = false;
  }

  /** The file is still the one that the folder has, and as long as we made it. */
  async #checkAlone(): Promise<void> {
    const [own, there] = await Promise.all([this.#file.stat(), stat(join(this.#folder, FILE))]);
    if (own.size !== this.#bytes || own.ino !== there.ino || own.dev !== there.dev)
      throw new MarkLostError('another signer wrote to the signer folder at the same time');
  }

  async close(): Promise<void> {
    this.#lost = true;
    await this.#file.close();
  }

  #take(fact: MarkFact): void {
    switch (fact.kind) {
      case 'origin':
        this.#origin = fact.origin;
        break;
      case 'server':
        this.#server = { system: fact.system, timeline: fact.timeline };
        break;
      case 'generation':
        this.#generations.push({ generation: fact.generation, from: fact.from });
        break;
      case 'checkpoint': {
        const heads = this.#heads.get(fact.stream) ?? [];
        heads.push({ size: fact.size, root: fact.root });
        const isKept = (_: SignedHead, i: number) => i % 2 === 0 || i >= heads.length - HISTORY_NEWEST;
        this.#heads.set(fact.stream, heads.length > HISTORY_MAX ? heads.filter(isKept) : heads);
        break;
      }
      case 'closed':
        this.#closed.set(fact.stream, { size: fact.size, next: fact.next });
        // What a recovery makes of it counts.
        this.#turning.delete(fact.stream);
        this.#turned.delete(fact.stream);
        break;
      case 'turning':
        this.#turning.set(fact.stream, fact.next);
        break;
      case 'turned':
        this.#turning.delete(fact.stream);
        this.#turned.set(fact.stream, { size: fact.size, next: fact.next });
        break;
      case 'opened':
        this.#opened.add(fact.stream);
        this.#openedSince.add(fact.stream);
        break;
      case 'copied':
        this.#copied = true;
        this.#openedSince.clear();
        break;
      case 'settled':
        this.#copied = false;
        break;
      default: {
        const never: never = fact;
        throw new SettingsError([`the mark tells of something unknown: ${JSON.stringify(never)}`]);
      }
    }
  }

  /** Writes the file anew without what was forgotten, aside, and puts it in the old one's place. */
  async #compact(): Promise<void> {
    const facts: MarkFact[] = [
      ...(this.#origin === undefined ? [] : [{ kind: 'origin', origin: this.#origin } as const]),
      ...(this.#server === undefined ? [] : [{ kind: 'server', ...this.#server } as const]),
      ...this.#generations.map((one) => ({ kind: 'generation', ...one }) as const),
      ...[...this.#heads].flatMap(([stream, heads]) =>
        heads.map((head) => ({ kind: 'checkpoint', stream, ...head }) as const),
      ),
      ...[...this.#closed].map(([stream, closed]) => ({ kind: 'closed', stream, ...closed }) as const),
      ...[...this.#opened].map((stream) => ({ kind: 'opened', stream }) as const),
      ...(this.#copied ? [{ kind: 'copied' } as const] : []),
      ...(this.#copied ? [...this.#openedSince].map((stream) => ({ kind: 'opened', stream }) as const) : []),
      ...this.turning().map((turning) => ({ kind: 'turning', ...turning }) as const),
      ...this.turned().map((turned) => ({ kind: 'turned', ...turned }) as const),
    ];
    const path = join(this.#folder, FILE);
    const file = await open(`${path}.new`, 'w+', 0o600);
    let link = NO_LINK;
    let bytes = 0;
    try {
      for (let at = 0; at < facts.length; at += FACTS_A_LINE) {
        const line = lineOf(link, facts.slice(at, at + FACTS_A_LINE));
        await file.appendFile(line.text);
        link = line.link;
        bytes += Buffer.byteLength(line.text);
      }
      await file.sync();
      await this.#checkAlone();
      await rename(`${path}.new`, path);
      await syncFolder(this.#folder);
    } catch (error) {
      await file.close();
      throw error;
    }
    await this.#file.close();
    this.#file = file;
    this.#bytes = bytes;
    this.#link = link;
    this.#compactFrom = Math.max(this.#compactFrom, 2 * bytes);
  }
}

/** Reads the mark without opening it for writing, also while a signer runs: for verification. Returns the last head of each open epoch. */
export async function readMark(folder: string): Promise<ReadonlyMap<string, SignedHead>> {
  const path = join(folder, FILE);
  const file = await open(path, 'r');
  try {
    const { facts } = readFacts(await file.readFile(), path);
    const heads = new Map<string, SignedHead>();
    for (const fact of facts) {
      if (fact.kind === 'checkpoint') heads.set(fact.stream, { size: fact.size, root: fact.root });
      if (fact.kind === 'closed') heads.delete(fact.stream);
    }
    return heads;
  } finally {
    await file.close();
  }
}

function linkOf(before: string, json: string): string {
  return sha256Hex(`${before}${json}`).slice(0, 16);
}

function lineOf(before: string, facts: readonly MarkFact[]): { text: string; link: string } {
  const json = JSON.stringify(facts);
  const link = linkOf(before, json);
  return { text: `${link} ${json}\n`, link };
}

/** Returns what the lines that follow from each other tell, how many bytes they end at, and the last link. */
function readFacts(text: Buffer, path: string): { facts: MarkFact[]; bytes: number; link: string } {
  const damaged = new SettingsError([`${path} is damaged: restore it from a copy, and never begin a new one`]);
  const facts: MarkFact[] = [];
  const links = [NO_LINK];
  /** Links that a line after an unsound one would follow from, if that one had been sound. */
  const doubtful = new Set<string>();
  let sound = 0;
  for (let at = 0; at < text.length; ) {
    const end = text.indexOf(0x0a, at);
    if (end < 0) break;
    const line = text.toString('utf8', at, end);
    at = end + 1;
    const [link, json] = [line.slice(0, 16), line.slice(17)];
    const follows = (before: string): boolean => line[16] === ' ' && linkOf(before, json) === link;
    if (follows(links.at(-1)!)) {
      // What lost, or was torn, is behind us: the winner's lines go on.
      facts.push(...(JSON.parse(json) as MarkFact[]));
      links.push(link);
      sound = at;
    } else if (links.slice(-FORKS_LOOKED_AT).some(follows)) {
      sound = at;
    } else {
      if ([...doubtful].some(follows) || doubtful.size > 2 * UNSOUND_MAX) throw damaged;
      doubtful.add(linkOf(links.at(-1)!, json));
      // Also where the line feed before it is what was damaged.
      for (const [stated] of line.matchAll(/[0-9a-f]{16}(?= )/g)) doubtful.add(stated);
    }
  }
  if (text.length - sound > TORN_BYTES_MAX) throw damaged;
  return { facts, bytes: sound, link: links.at(-1)! };
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder);
  await handle.sync().finally(() => handle.close());
}
