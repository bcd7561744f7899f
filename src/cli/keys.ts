/** `sealog keys rotate`: makes the seed of the next generation. The signer, running or started later, takes it into use at its next tick. */
import { parseArgs } from 'node:util';
import { SettingsError } from '../errors.ts';
import { makeSeed, seedCount } from '../signer/seeds.ts';
import { configuration } from './environment.ts';
import { orUsage, UsageError } from './usage.ts';

export async function keysCommand(args: string[]): Promise<number> {
  const { positionals } = orUsage(() => parseArgs({ args, options: {}, allowPositionals: true }));
  if (positionals.length !== 1 || positionals[0] !== 'rotate') throw new UsageError('say what to do with them: rotate');
  const { signerDir } = configuration();
  if (signerDir === undefined)
    throw new SettingsError(['keys needs SEALOG_SIGNER_DIR: the seeds are there and nowhere else']);
  const count = await seedCount(signerDir);
  if (count === 0) throw new SettingsError([`there is no signing seed in ${signerDir}: the signer makes the first`]);
  await makeSeed(signerDir, count + 1);
  process.stdout.write(`generation ${count + 1} is made in ${signerDir}: copy the folder to a safe place\n`);
  return 0;
}
