/**
 * Key statements: which keys sign, from where on, and who says so (docs/format.md section 19).
 *
 * A statement is a signed note of six lines:
 *
 *     <origin of the deployment>
 *     sealog/key/v1
 *     <generation, decimal>
 *     <epoch of the anchor stream> <its size from which on the generation signs>
 *     <vkey of the key that is stated>
 *     <vkey of the deployment key of the generation before, or ->
 *
 * Its second line is no number: it can not be taken for a checkpoint, nor a checkpoint for it.
 */
import assert from 'node:assert/strict';
import { EvidenceError } from '../errors.ts';
import { parseVkey } from './note.ts';

/** A place in the anchor stream: `sealog/anchor` is epoch 1. Places are ordered by epoch, then size. */
export interface AnchorPlace {
  readonly epoch: number;
  readonly size: number;
}

export interface KeyStatement {
  readonly origin: string;
  readonly generation: number;
  /** The first place at which the generation signs. */
  readonly from: AnchorPlace;
  readonly vkey: string;
  /** Undefined for the first generation. */
  readonly previous: string | undefined;
}

export const ANCHOR_STREAM = 'sealog/anchor';
const FORMAT = 'sealog/key/v1';

/** Returns the name of an epoch of the anchor stream. */
export function anchorStreamName(epoch: number): string {
  return epoch === 1 ? ANCHOR_STREAM : `${ANCHOR_STREAM}/e${epoch}`;
}

/** Returns the epoch that a stream name is of the anchor stream, or undefined. */
export function anchorEpoch(stream: string): number | undefined {
  if (stream === ANCHOR_STREAM) return 1;
  const match = /^sealog\/anchor\/e([1-9]\d{0,8})$/.exec(stream);
  const epoch = match === null ? 0 : Number(match[1]);
  return epoch >= 2 ? epoch : undefined;
}

/** Orders places: negative, 0 or positive. */
export function comparePlaces(a: AnchorPlace, b: AnchorPlace): number {
  return a.epoch - b.epoch || a.size - b.size;
}

/** Returns the text of a statement, ready for `signNote`. */
export function encodeKeyStatement({ origin, generation, from, vkey, previous }: KeyStatement): string {
  assert(Number.isSafeInteger(generation) && generation >= 1, 'generations count from 1');
  assert((generation === 1) === (previous === undefined), 'each generation but the first has one before it');
  return `${[origin, FORMAT, generation, `${anchorStreamName(from.epoch)} ${from.size}`, vkey, previous ?? '-'].join('\n')}\n`;
}

/** Reads the text of a statement, undoing `encodeKeyStatement`. Throws an EvidenceError. */
export function decodeKeyStatement(text: string): KeyStatement {
  const lines = text.split('\n');
  const [origin, format, decimal, place, vkey, before] = lines;
  if (lines.length !== 7 || lines[6] !== '' || format !== FORMAT) throw new EvidenceError('not a key statement');
  if (!/^[1-9]\d{0,8}$/.test(decimal!)) throw new EvidenceError('the generation of a key statement is no number');
  const generation = Number(decimal);
  const [stream, size, ...more] = place!.split(' ');
  const epoch = anchorEpoch(stream!);
  if (
    epoch === undefined ||
    more.length > 0 ||
    !/^(0|[1-9]\d{0,15})$/.test(size ?? '') ||
    !Number.isSafeInteger(Number(size))
  )
    throw new EvidenceError('a key statement names no place in the anchor stream');
  parseVkey(vkey!);
  const previous = before === '-' ? undefined : before!;
  if (previous !== undefined && parseVkey(previous).name !== origin)
    throw new EvidenceError('a key statement names a predecessor of another log');
  if ((generation === 1) !== (previous === undefined))
    throw new EvidenceError('each generation but the first has a predecessor');
  if (generation === 1 && (epoch !== 1 || Number(size) !== 0))
    throw new EvidenceError('the first generation begins with the anchor stream');
  return { origin: origin!, generation, from: { epoch, size: Number(size) }, vkey: vkey!, previous };
}
