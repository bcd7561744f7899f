/**
 * Which keys are trusted, from the one that the verifier was given: docs/format.md section 19.
 *
 * Trust goes from a deployment key to the next generation by its signature, and to the one before by its own statement,
 * which names it. A stream's key is trusted by the signature of the deployment key of its generation.
 */
import { type AnchorPlace, comparePlaces, decodeKeyStatement, type KeyStatement } from '../chain/key-statement.ts';
import { type NoteVerifier, noteVerifier, openNote, parseVkey, unopenedText } from '../chain/note.ts';
import { EvidenceError } from '../errors.ts';

/** A key that is trusted, and where in the anchor stream it signs: from `from` up to, not including, `to` (undefined: it signs now). */
export interface TrustedKey {
  readonly name: string;
  readonly vkey: string;
  readonly verifier: NoteVerifier;
  readonly generation: number | undefined;
  readonly from: AnchorPlace | undefined;
  readonly to: AnchorPlace | undefined;
}

export interface TrustedKeys {
  readonly keys: readonly TrustedKey[];
  /** What is wrong with statements that the trusted keys ought to vouch for. */
  readonly problems: readonly { readonly kind: 'key' | 'signature'; readonly detail: string }[];
}

interface Generation {
  readonly note: string;
  readonly says: KeyStatement;
}

/** Returns the keys that follow from `given` (a vkey of the deployment or of one stream) and these statements (texts of notes). Throws an EvidenceError where `given` is no vkey. */
export function trustedKeys(origin: string, given: string, statements: readonly string[]): TrustedKeys {
  const problems: { kind: 'key' | 'signature'; detail: string }[] = [];
  const key = parseVkey(given);
  const generations = new Map<number, Generation>();
  const ofStreams: Generation[] = [];
  for (const note of statements) {
    try {
      const says = decodeKeyStatement(unopenedText(note));
      if (says.origin !== origin) throw new EvidenceError(`a key statement is of ${says.origin}`);
      const name = parseVkey(says.vkey).name;
      if (name !== origin && !name.startsWith(`${origin}/`))
        throw new EvidenceError(`a key statement is of ${name}, which is no stream of this log`);
      if (name !== origin) ofStreams.push({ note, says });
      else if (generations.has(says.generation))
        throw new EvidenceError(`generation ${says.generation} is stated twice`);
      else generations.set(says.generation, { note, says });
    } catch (error) {
      problems.push({ kind: 'key', detail: wordsOf(error) });
    }
  }
  if (key.name !== origin) {
    if (!key.name.startsWith(`${origin}/`))
      problems.push({ kind: 'key', detail: `the given key is of ${key.name}, the log is ${origin}` });
    const alone = {
      name: key.name,
      vkey: given,
      verifier: noteVerifier(key),
      generation: undefined,
      from: undefined,
      to: undefined,
    };
    return { keys: [alone], problems };
  }

  const trusted = trustedGenerations(given, generations, problems);
  const keys: TrustedKey[] = [];
  for (const [generation, { says }] of trusted) {
    const to = trusted.get(generation + 1)?.says.from;
    keys.push({
      name: origin,
      vkey: says.vkey,
      verifier: noteVerifier(parseVkey(says.vkey)),
      generation,
      from: says.from,
      to,
    });
  }
  for (const { note, says } of ofStreams) {
    const parent = trusted.get(says.generation);
    const name = parseVkey(says.vkey).name;
    if (parent === undefined) {
      problems.push({ kind: 'key', detail: `the statement of ${name} is of a generation that is not trusted` });
      continue;
    }
    try {
      openNote(note, [noteVerifier(parseVkey(parent.says.vkey))]);
      const { from, previous } = parent.says;
      if (says.from.epoch !== from.epoch || says.from.size !== from.size || says.previous !== previous)
        throw new EvidenceError(`the statement of ${name} contradicts that of its generation`);
      if (keys.some((one) => one.name === name && one.generation === says.generation))
        throw new EvidenceError(`${name} has two keys of generation ${says.generation}`);
      const to = trusted.get(says.generation + 1)?.says.from;
      keys.push({
        name,
        vkey: says.vkey,
        verifier: noteVerifier(parseVkey(says.vkey)),
        generation: says.generation,
        from,
        to,
      });
    } catch (error) {
      problems.push({ kind: 'signature', detail: wordsOf(error) });
    }
  }
  return { keys, problems };
}

function trustedGenerations(
  given: string,
  generations: ReadonlyMap<number, Generation>,
  problems: { kind: 'key' | 'signature'; detail: string }[],
): Map<number, Generation> {
  const trusted = new Map<number, Generation>();
  const pinned = [...generations.values()].find(({ says }) => says.vkey === given);
  if (pinned === undefined) {
    problems.push({ kind: 'key', detail: 'the given key is not one of this log: its statement is not there' });
    return trusted;
  }
  /** Each statement bears its own signature and that of the generation before, where there is one. */
  const accept = ({ note, says }: Generation): boolean => {
    try {
      for (const vkey of [says.vkey, ...(says.previous === undefined ? [] : [says.previous])])
        openNote(note, [noteVerifier(parseVkey(vkey))]);
    } catch (error) {
      problems.push({ kind: 'signature', detail: wordsOf(error) });
      return false;
    }
    trusted.set(says.generation, { note, says });
    return true;
  };
  const areLinked = (before: Generation, after: Generation): boolean => {
    const { generation, previous, from } = after.says;
    if (previous !== before.says.vkey)
      problems.push({ kind: 'key', detail: `generation ${generation} names another predecessor` });
    // A thief of the older seed could state it anew: for another time, with a predecessor of his own.
    else if (comparePlaces(before.says.from, from) > 0)
      problems.push({ kind: 'key', detail: `generation ${generation} begins before its predecessor` });
    else return true;
    return false;
  };
  if (!accept(pinned)) return trusted;
  for (let last = pinned; ; ) {
    const next = generations.get(last.says.generation + 1);
    if (next === undefined || !areLinked(last, next) || !accept(next)) break;
    last = next;
  }
  for (let first = pinned; ; ) {
    const before = generations.get(first.says.generation - 1);
    if (before === undefined || !areLinked(before, first) || !accept(before)) break;
    first = before;
  }
  if (trusted.size !== generations.size && problems.length === 0)
    problems.push({ kind: 'key', detail: 'some generations are not linked to the given key' });
  return new Map([...trusted].sort(([a], [b]) => a - b));
}

function wordsOf(error: unknown): string {
  if (!(error instanceof EvidenceError)) throw error;
  return error.message;
}
