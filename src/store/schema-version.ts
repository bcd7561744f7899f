/**
 * Which programs may work on which schema, so that replicas can be replaced one by one.
 *
 * A program is of the version of the newest migration that it knows. What the name of a migration ends with says which older programs may go
 * on while it is run and behind it: `0017_labels.beside-0016.sql` changes nothing that a program of 0016 counts on, and none of what that one
 * writes is wrong to a program of 0017. The name says so since it stands in the database, where a program finds it that does not have the file.
 * Without that, no program goes on that does not know the migration.
 */
import assert from 'node:assert/strict';

const NAME = /^(\d{4})_[^.]+(?:\.beside-(\d{4}))?$/;

/** Returns the migrations that a database has and a program does not know: those that it may go on beside, and those that it may not. */
export function newerMigrations(
  done: readonly string[],
  known: readonly string[],
): { beside: readonly string[]; foreign: readonly string[] } {
  const newer = done.filter((name) => !known.includes(name));
  const foreign = foreignTo(known, newer);
  return { beside: newer.filter((name) => !foreign.includes(name)), foreign };
}

/** Returns those of the migrations that a program which knows `known` may not go on beside. */
export function foreignTo(known: readonly string[], migrations: readonly string[]): readonly string[] {
  const version = versionOf(known);
  return migrations.filter((name) => {
    const oldest = NAME.exec(name)?.[2];
    return oldest === undefined || Number(oldest) > version;
  });
}

/** 0: none is known. */
function versionOf(known: readonly string[]): number {
  const newest = known.at(-1);
  if (newest === undefined) return 0;
  const number = NAME.exec(newest)?.[1];
  assert(number !== undefined, `a migration is called ${newest}`);
  return Number(number);
}
