/**
 * The client of a witness (C2SP tlog-witness v1.0.0, Ed25519 cosignatures): shows it that the log only grew, and gets
 * its word for it.
 *
 *     POST <prefix>/add-checkpoint        old <size>
 *                                         <consistency path from there, a hash a line, base64>
 *                                         <an empty line>
 *                                         <the checkpoint's signed note>
 *
 * The witness answers 200 with signature lines over this very checkpoint; or 409 with the size that it knows, and then
 * it is asked again from there. What it knows is taken from its own answers alone: it may have answered a call whose
 * answer never arrived.
 *
 * **Time.** A cosignature says when the witness saw the checkpoint, which later counts as evidence that the checkpoint
 * existed then. So a time more than 5 minutes away from our own clock, either way, is refused: a past one would prove
 * too much, a future one nothing, and both show that one of two clocks is wrong.
 */
import assert from 'node:assert/strict';
import { fromUtf8, toBase64, utf8 } from '../chain/bytes.ts';
import { checkCosignature, isLineOf, parseCosignerVkey } from '../chain/cosignature.ts';
import { parseSignatureLine } from '../chain/note.ts';
import { EvidenceError } from '../errors.ts';
import type { OutgoingAnswer, Post } from '../http/outgoing.ts';
import { AnchorError } from './anchor-error.ts';

export interface WitnessDeps {
  /** The submission prefix, without a slash at its end. */
  readonly url: string;
  readonly vkey: string;
  readonly tlsCaPem: string | undefined;
  readonly post: Post;
  /** Returns the consistency path of the anchor stream, lowest hash first. */
  readonly consistencyPath: (from: number, to: number) => Promise<readonly Uint8Array[]>;
  /** Milliseconds since 1970. */
  readonly wallClock: () => number;
}

export interface CosignRequest {
  /** The signed note of the anchor stream's checkpoint, its text and its size. */
  readonly note: string;
  readonly text: string;
  readonly size: number;
  /** What the witness probably knows: 0 where nobody knows. */
  readonly knownSize: number;
  readonly signal: AbortSignal;
}

export interface WitnessAnswer {
  /** The signature line, without its newline. */
  readonly line: string;
  /** Seconds since 1970. */
  readonly time: number;
}

export interface Witness {
  /** Throws an AnchorError in words for the operator, or an OutgoingError. */
  cosign(request: CosignRequest): Promise<WitnessAnswer>;
}

/** A first call, one from the size that the witness told, and one more where another of our replicas came between. */
const CALLS_MAX = 3;
const TIMEOUT_MS = 10_000;
/** Signature lines of some hundred keys. */
const ANSWER_BYTES_MAX = 64 * 1024;
const LINES_MAX = 100;
/** C2SP: a client MUST NOT send more. */
const PATH_LENGTH_MAX = 63;
const CLOCKS_APART_MAX_S = 300;

/** Returns the client of a witness. */
export function witness(deps: WitnessDeps): Witness {
  return {
    async cosign(request) {
      let from = Math.min(request.knownSize, request.size);
      for (let call = 1; call <= CALLS_MAX; call++) {
        const answer = await submit(deps, request, from);
        if (answer.status === 200) return cosignatureIn(answer, request, deps);
        if (answer.status !== 409) throw refusal(answer.status);
        from = sizeIn(answer, request.size, from);
      }
      throw new AnchorError(
        `the witness named another size ${CALLS_MAX} times: it contradicts itself, or another client feeds it`,
      );
    },
  };
}

async function submit(deps: WitnessDeps, request: CosignRequest, from: number): Promise<OutgoingAnswer> {
  const path = await deps.consistencyPath(from, request.size);
  assert(path.length <= PATH_LENGTH_MAX && (from > 0 || path.length === 0), 'this is no consistency path');
  const hashes = path.map((hash) => `${toBase64(hash)}\n`).join('');
  return deps.post(`${deps.url}/add-checkpoint`, {
    headers: { 'content-type': 'text/plain; charset=utf-8' },
    body: utf8(`old ${from}\n${hashes}\n${request.note}`),
    timeoutMs: TIMEOUT_MS,
    answerBytesMax: ANSWER_BYTES_MAX,
    signal: request.signal,
    ...(deps.tlsCaPem === undefined ? {} : { caPem: deps.tlsCaPem }),
  });
}

/** Returns the witness's own cosignature. Lines of keys that are not its own are passed over, as C2SP says. */
function cosignatureIn(
  { body }: OutgoingAnswer,
  { text }: CosignRequest,
  { vkey, wallClock }: WitnessDeps,
): WitnessAnswer {
  const key = parseCosignerVkey(vkey);
  try {
    const lines = fromUtf8(body).split('\n');
    if (lines.pop() !== '' || lines.length === 0 || lines.length > LINES_MAX)
      throw new EvidenceError('the answer is not 1 to 100 signature lines');
    const line = lines.find((one) => isLineOf(key, parseSignatureLine(one)));
    if (line === undefined)
      throw new EvidenceError(`none of its lines is by ${key.name}+${key.keyId}, the key in the file of anchors`);
    const { time } = checkCosignature(line, text, vkey);
    const apart = time - wallClock() / 1000;
    if (Math.abs(apart) > CLOCKS_APART_MAX_S) {
      const how = `${Math.round(Math.abs(apart))} s ${apart < 0 ? 'behind' : 'ahead of'}`;
      throw new EvidenceError(`its clock is ${how} ours: one of the two is wrong`);
    }
    return { line, time };
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    throw new AnchorError(`the witness's answer is not taken: ${error.message}`, { cause: error });
  }
}

/** Returns the size that the witness knows, from which to ask it again. */
function sizeIn({ headers, body }: OutgoingAnswer, size: number, asked: number): number {
  const text = Buffer.from(body).toString('latin1');
  const [type = ''] = (headers['content-type'] ?? '').split(';');
  if (type.trim().toLowerCase() !== 'text/x.tlog.size' || !/^(0|[1-9][0-9]{0,15})\n$/.test(text))
    throw new AnchorError(
      'the witness answered 409 without the size that it knows: is the URL that of a tlog-witness?',
    );
  const known = Number(text);
  if (known > size) {
    throw new AnchorError(
      `the witness has cosigned size ${known} of the anchor stream, whose newest checkpoint here is of size ${size}: ` +
        'the log was put back, or another service uses its name and key',
      { alarm: true },
    );
  }
  if (known === asked && known === size) {
    throw new AnchorError(
      `two checkpoints of one size: the witness has cosigned another root for size ${size} of the anchor stream`,
      { alarm: true },
    );
  }
  if (known === asked)
    throw new AnchorError(`the witness wants to be asked from size ${known}, which it was: it contradicts itself`);
  return known;
}

function refusal(status: number): AnchorError {
  switch (status) {
    case 404:
      return new AnchorError(
        'the witness does not know this log (404): register the origin of the anchor stream and its vkey with it, ' +
          'and see that the URL in the file of anchors is its submission prefix',
      );
    case 403:
      return new AnchorError(
        "the witness takes no signature by this log's key (403): register the anchor stream's present vkey with it",
      );
    case 400:
      return new AnchorError('the witness does not understand the request (400): is the URL that of a tlog-witness?');
    case 422:
      return new AnchorError(
        'the witness finds that the anchor stream is not what it cosigned before (422): the log was changed, or another ' +
          'service uses its name and key',
        { alarm: true },
      );
    default:
      if (status === 429 || status >= 500) return new AnchorError(`the witness can not answer now (${status})`);
      if (status >= 300 && status < 400)
        return new AnchorError(`the witness has another address (${status}): put that one into the file of anchors`);
      return new AnchorError(`the witness answered ${status}, which no tlog-witness does`);
  }
}
