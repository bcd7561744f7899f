/**
 * `sealog verify`: checks every stored byte of every stream, and what was signed and anchored of them, as far as this machine knows it; or,
 * without any of that, an evidence bundle.
 *
 * Exit 0 intact, 1 tampered, 2 not everything could be checked or shown: also where nothing could be, for whatever reason. That must never
 * look like a finding, nor like none.
 */
import { parseArgs } from 'node:util';
import type { BundleVerdict } from '../verify/bundle/bundle-report.ts';
import type { LogVerdict } from '../verify/verify-log.ts';
import { tell } from './failure.ts';
import { orUsage, UsageError } from './usage.ts';

export const EXIT: Readonly<Record<LogVerdict | BundleVerdict, number>> = {
  intact: 0,
  tampered: 1,
  incomplete: 2,
  not_provable: 2,
};

export async function verifyCommand(args: string[]): Promise<number> {
  const { values, positionals } = orUsage(() =>
    parseArgs({
      args,
      allowPositionals: true,
      options: {
        database: { type: 'boolean' },
        stream: { type: 'string' },
        key: { type: 'string' },
        checkpoint: { type: 'string', multiple: true, default: [] },
        tsa: { type: 'string', multiple: true, default: [] },
        witness: { type: 'string', multiple: true, default: [] },
        json: { type: 'boolean', default: false },
      },
    }),
  );
  const [bundle, ...more] = positionals;
  if (more.length > 0 || (bundle === undefined) === (values.database !== true))
    throw new UsageError('say what to verify: the file of one bundle, or --database');
  if (bundle !== undefined && values.stream !== undefined) throw new UsageError('--stream is for --database');
  try {
    const { key, checkpoint: checkpoints, tsa: authorities, witness: witnesses } = values;
    const trust = { key, checkpoints, authorities, witnesses, json: values.json };
    // What checks a bundle is loaded without anything that knows of databases.
    const { verdict, text } =
      bundle === undefined
        ? await (await import('./verify-database.ts')).verifyDatabase({ stream: values.stream, ...trust })
        : await (await import('./verify-bundle.ts')).verifyBundleFile({ bundle, ...trust });
    process.stdout.write(text);
    return EXIT[verdict];
  } catch (error) {
    if (error instanceof UsageError) throw error;
    process.stderr.write(`sealog: the ${bundle === undefined ? 'log' : 'bundle'} could not be checked\n`);
    tell(error);
    return EXIT.incomplete;
  }
}
