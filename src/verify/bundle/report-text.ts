/** What a bundle's verification found, in words. What nobody outside vouches for is never called proven. */
import type { BundleKey, BundleReport, BundleStreamReport, BundleVerdict, SeqRange, Voucher } from './bundle-report.ts';

/** One sentence or two for each verdict. */
export const VERDICT_WORDS: Readonly<Record<BundleVerdict, string>> = {
  intact:
    'Nothing was changed, and none of the entries that were asked for is missing, as of the checkpoint. For each of them, what you trust outside the log vouches.',
  tampered: 'Something is wrong with this bundle: it is not what the log signed, or the log is not what it was.',
  incomplete: 'Nothing wrong was found, but not everything could be checked.',
  not_provable:
    'The bundle agrees with itself and with the signing keys. But for some entries nothing that you trust outside the log vouches: who holds the keys could have made them up.',
};

export const VERDICT_NAMES: Readonly<Record<BundleVerdict, string>> = {
  intact: 'intact',
  tampered: 'tampered',
  incomplete: 'incomplete',
  not_provable: 'not provable',
};

/** Returns lines that say what was shown, by whom, and what was not. */
export function reportLines(report: BundleReport): string[] {
  const { origin, question, key, findings, truncated, unchecked, streams, verdict } = report;
  const lines: string[] = [];
  if (question !== undefined) {
    lines.push(`log ${origin}: ${question.category} of ${question.tenant}`);
    lines.push(`recorded from ${question.from ?? 'the beginning'} until before ${question.to ?? 'the end'}`);
  }
  if (key !== undefined) lines.push(...keyLines(key));
  for (const stream of streams) lines.push(...streamLines(stream));
  for (const { stream, seq, kind, detail } of findings) {
    const place = [stream ?? 'bundle', ...(seq === undefined ? [] : [`entry ${seq}`])].join(' ');
    lines.push(`WRONG: ${kind}: ${place}: ${printable(detail)}`);
  }
  if (truncated) lines.push('WRONG: … and more');
  for (const { stream, detail } of unchecked) lines.push(`not checked: ${stream ?? 'bundle'}: ${printable(detail)}`);
  lines.push(`${VERDICT_NAMES[verdict]}: ${VERDICT_WORDS[verdict]}`);
  return lines;
}

/** Whoever left the newer statements out of a bundle would have the verifier take a retired key for the one that signs now. */
function keyLines({ vkey, generation }: BundleKey): string[] {
  const now = generation === null ? 'the key of one stream' : `the key of generation ${generation}`;
  return [
    `${now} is taken for the one that signs now: ${vkey}`,
    '  whether it was replaced since can not be seen here: make sure that the key you gave is the newest',
  ];
}

function streamLines({
  stream,
  size,
  entries,
  asked,
  first,
  end,
  complete,
  anchored,
  unanchored,
  pinned,
}: BundleStreamReport): string[] {
  const range = entries === 0 ? '' : `, ${seqs(asked)}`;
  const lines = [`${stream}: ${entries} entries${range}; its checkpoint covers ${size}`];
  if (complete) {
    const open = end === size ? '; what was recorded after it is not in here' : '';
    lines.push(`  complete as of that checkpoint: no entry that was asked for is missing${open}`);
  } else lines.push('  whether entries are missing was not shown');
  if (end > first) lines.push(`  with neighbours: ${seqs({ from: first, to: end })}`);
  for (const { from, to, by } of anchored)
    lines.push(`  anchored: ${seqs({ from, to })}: ${by.map(voucherText).join(', ')}`);
  const kept = pinned.at(-1)?.size ?? 0;
  for (const { from, to } of unanchored) {
    const rest = kept >= to ? '' : ': not proven by anybody outside';
    lines.push(`  not anchored: ${seqs({ from, to })}${rest}`);
  }
  for (const one of pinned) lines.push(`  agrees with your checkpoint of ${one.size} entries`);
  return lines;
}

function seqs({ from, to }: SeqRange): string {
  return to - from === 1 ? `seq ${from}` : `seq ${from} to ${to - 1}`;
}

function voucherText({ anchor, kind, time }: Voucher): string {
  switch (kind) {
    case 'rfc3161':
      return `${printable(anchor)} (time stamp of ${time})`;
    case 'witness':
      return `${printable(anchor)} (witness${time === undefined ? '' : `, ${time}`})`;
    case 'checkpoint':
      return 'a checkpoint of the anchor stream that you gave';
    default: {
      const never: never = kind;
      return never;
    }
  }
}

/** Names and details can hold what the bundle says: nothing in it moves the cursor or turns the line round. */
function printable(text: string): string {
  const cut = text.length > 300 ? `${text.slice(0, 300)}…` : text;
  return cut.toWellFormed().replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '\u{fffd}');
}
