/**
 * `sealog verify`: checks every stored byte of every stream, and what was signed and anchored of them, as far as this machine knows it.
 *
 * Exit 0 intact, 1 tampered, 2 not everything could be checked or shown: also where nothing could be, for whatever reason. That must never
 * look like a finding, nor like none.
 */
import { parseArgs } from 'node:util';
import type { LogVerdict } from '../verify/verify-log.ts';
import { tell } from './failure.ts';
import { orUsage, UsageError } from './usage.ts';
import { verifyDatabase } from './verify-database.ts';

export const EXIT: Readonly<Record<LogVerdict, number>> = { intact: 0, tampered: 1, incomplete: 2, not_provable: 2 };

export async function verifyCommand(args: string[]): Promise<number> {
  const { values } = orUsage(() =>
    parseArgs({
      args,
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
  if (values.database !== true) throw new UsageError('say what to verify: --database');
  try {
    const { key, checkpoint: checkpoints, tsa: authorities, witness: witnesses } = values;
    const { verdict, text } = await verifyDatabase({
      ...{ stream: values.stream, key, checkpoints, authorities, witnesses, json: values.json },
    });
    process.stdout.write(text);
    return EXIT[verdict];
  } catch (error) {
    if (error instanceof UsageError) throw error;
    process.stderr.write('sealog: the log could not be checked\n');
    tell(error);
    return EXIT.incomplete;
  }
}
