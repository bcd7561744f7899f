/** What an operator sees at the start: where the service is, and commands that work when pasted, in whatever folder. */
import type { X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Config } from '../config.ts';

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));

/** Where the service listens. */
export interface Place {
  readonly address: string;
  readonly port: number;
  /** With TLS. */
  readonly certificate: X509Certificate | undefined;
  /** Of health and metrics, where they have a port of their own. */
  readonly metrics: { readonly address: string; readonly port: number } | undefined;
}

export function welcome(place: Place, origin: string, config: Config, now = new Date()): string {
  const { certificate, metrics } = place;
  const { address, curl } = reachedAt(place, place.port, config);
  const health =
    metrics === undefined
      ? ''
      : `Health and metrics: ${reachedAt({ ...metrics, certificate }, metrics.port, config).address}\n`;
  const where = `Sealog (${origin}) listens on ${address}\n${health}`;
  // There tokens come from elsewhere, and whoever set it up knows how.
  if (config.databaseUrl !== undefined || config.jwt.jwksUrl !== undefined) return where;

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
  ${curl} '${address}/v1/events' ${authorization('service')} \\
    -H 'content-type: application/json' -d '${JSON.stringify(event)}'

Read it back:
  ${curl} '${address}/v1/events/${id}' ${authorization('auditor')}

Check every stored byte (not_provable, exit 2: nothing wrong was found, and nobody outside vouches for it yet):
  ${run} sealog -- verify --database

`;
}

/** Returns the URL without a slash at its end, and how curl is called so that it works as it is pasted. */
function reachedAt(
  { address, certificate }: Pick<Place, 'address' | 'certificate'>,
  port: number,
  { tls }: Config,
): { readonly address: string; readonly curl: string } {
  // What stands for every address can not be connected to everywhere.
  const local = { '0.0.0.0': '127.0.0.1', '::': '::1' }[address] ?? address;
  const host = local.includes(':') ? `[${local}]` : local;
  if (tls === undefined || certificate === undefined) return { address: `http://${host}:${port}`, curl: 'curl -sS' };
  // The certificate has the name; where it is not the address, curl is told where that is.
  const names = [...(certificate.subjectAltName ?? '').matchAll(/\bDNS:([a-z0-9.-]+)(?=,|$)/gi)];
  const name = certificate.checkIP(local) === undefined ? names[0]?.[1] : undefined;
  const way = name === undefined ? '' : ` --resolve ${name}:${port}:${host}`;
  return { address: `https://${name ?? host}:${port}`, curl: `curl -sS --cacert ${quoted(tls.cert)}${way}` };
}

/** As a shell reads it: a plain word as it is, anything else between quotes. */
export function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
