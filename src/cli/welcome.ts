/** What an operator sees at the start: where the service is, and commands that work when pasted, in whatever folder. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Config } from '../config.ts';

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));

/** `address` is the service's URL without a slash at the end. */
export function welcome(address: string, origin: string, config: Config, now = new Date()): string {
  const where = `Sealog (${origin}) listens on ${address}\n`;
  // There tokens come from elsewhere, and whoever set it up knows how.
  if (config.databaseUrl !== undefined) return where;

  // The scripts run in the clone, whose folder `data` is then the default.
  const folder = config.dataDir === join(REPOSITORY, 'data') ? '' : `SEALOG_DATA_DIR=${quoted(config.dataDir)} `;
  const run = `${folder}npm run -s --prefix ${quoted(REPOSITORY.replace(/\/$/, ''))}`;
  const authorization = (role: string) => `-H "authorization: Bearer $(${run} token -- --role ${role} --tenant acme)"`;
  const id = `first-${now.toISOString().replace(/[-:]|\.\d+/g, '')}`;
  const event = {
    id,
    category: 'user_authentication',
    action: 'user.login',
    outcome: 'success',
    occurredAt: now.toISOString(),
    source: { service: 'try-out' },
    actor: { type: 'user', id: 'u-1' },
  };
  const note = config.jwt.secret === undefined ? '' : ' (where SEALOG_JWT_SECRET is set as it is here)';
  return `
${where}Its data and keys are in ${config.dataDir}

Send an event${note}:
  curl -sS '${address}/v1/events' ${authorization('service')} \\
    -H 'content-type: application/json' -d '${JSON.stringify(event)}'

Read it back:
  curl -sS '${address}/v1/events/${id}' ${authorization('auditor')}

Check every stored byte (not_provable, exit 2: nothing wrong was found, and nobody outside vouches for it yet):
  ${run} sealog -- verify --database

`;
}

/** As a shell reads it: a plain word as it is, anything else between quotes. */
export function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
