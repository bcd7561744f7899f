/** What an operator is told when a command fails for a reason of the world's: one line each, no stack. */
import { Problem, SettingsError } from '../errors.ts';
import { serverWords } from '../store/connection.ts';
import { redactor } from './redaction.ts';

/** Returns what to tell the operator, or undefined when it is a bug of ours, whose stack is needed. */
export function reasonsOf(error: unknown): readonly string[] | undefined {
  if (error instanceof SettingsError) return error.problems;
  if (error instanceof Problem) {
    const cause = error.cause === undefined ? undefined : reasonsOf(error.cause)?.[0];
    return [cause === undefined ? error.message : `${error.message} (${cause})`];
  }
  const words = serverWords(error);
  if (words !== undefined) return [`PostgreSQL says: ${words}`];
  // System errors. Those of a connection that was tried at several addresses have no words of their own.
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') {
    return [error.message || error.code];
  }
  return undefined;
}

/** A setting may be what is wrong: what it holds is known by its shape alone. */
const withoutSecrets = redactor([]);

/** Writes the reasons to stderr, or the stack of what has none. */
export function tell(error: unknown): void {
  const reasons = reasonsOf(error) ?? [error instanceof Error ? `${error.stack}` : String(error)];
  for (const reason of reasons) process.stderr.write(`sealog: ${withoutSecrets(reason)}\n`);
}
