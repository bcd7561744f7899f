/** The log of a command: a JSON object a line on stderr, without secrets, and without what events hold. */
import { type Logger, pino } from 'pino';
import type { Config } from '../config.ts';
import { lineRedactor } from './redaction.ts';

/** Members of errors that say where, and hold nothing of a row, a query or a request; PostgreSQL's `detail` and `where` do. */
const FACTS = ['code', 'errno', 'syscall', 'path', 'severity', 'schema', 'table', 'constraint', 'routine'] as const;
const CAUSES_MAX = 5;

/** `write` is for tests. */
export function commandLog(config: Config, write?: (line: string) => void): Logger {
  return pino(
    {
      level: config.logLevel,
      base: null,
      serializers: { err: errorFacts },
      hooks: { streamWrite: lineRedactor(secretsOf(config)) },
    },
    write === undefined ? pino.destination({ dest: 2, sync: true }) : { write },
  );
}

/** The secrets that the configuration holds. */
export function secretsOf({ databaseUrl, ownDatabaseUrls, jwt }: Config): string[] {
  const urls = [databaseUrl, ...Object.values(ownDatabaseUrls)];
  return [jwt.secret, ...urls.flatMap(passwordsOf)].filter((secret) => secret !== undefined);
}

function passwordsOf(url: string | undefined): (string | undefined)[] {
  // In its two spellings; also of a URL that no library reads.
  const encoded = /^[^:]+:\/\/[^:/?#]*:(.*)@[^@]*$/s.exec(url ?? '')?.[1];
  const [, parameter] = /[?&]password=([^&#]*)/.exec(url ?? '') ?? [];
  return [encoded, parameter].flatMap((text) => [text, decoded(text)]);
}

function decoded(text: string | undefined): string | undefined {
  try {
    return text === undefined ? undefined : decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

function errorFacts(error: unknown, depth = 0): unknown {
  if (!(error instanceof Error)) return typeof error === 'string' ? error : typeof error;
  const known = error as Error & Partial<Record<(typeof FACTS)[number], unknown>>;
  const facts = FACTS.filter((name) => ['string', 'number'].includes(typeof known[name]));
  const errors = error instanceof AggregateError ? error.errors.slice(0, CAUSES_MAX) : [];
  const isDeep = depth >= CAUSES_MAX;
  return {
    type: error.name,
    message: error.message,
    ...Object.fromEntries(facts.map((name) => [name, known[name]])),
    stack: error.stack,
    ...(error.cause === undefined || isDeep ? {} : { cause: errorFacts(error.cause, depth + 1) }),
    ...(errors.length === 0 || isDeep ? {} : { errors: errors.map((one) => errorFacts(one, depth + 1)) }),
  };
}
