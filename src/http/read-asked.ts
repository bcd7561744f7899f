/** Bodies that ask for something, as openapi.yaml describes them. */
import type { FastifyRequest } from 'fastify';
import { type FieldError, Problem } from '../errors.ts';
import { checkShape } from './api-schema.ts';
import { bodyOf } from './body.ts';

/** Strict JSON; throws a Problem. */
export type ReadJson = (body: Uint8Array) => unknown;

/** Returns a request's body, which has the shape of the schema. `check` finds what no schema says. Throws a Problem that names each field. */
export function readAsked<T>(
  readJson: ReadJson,
  request: FastifyRequest,
  schema: string,
  check: (value: T) => readonly FieldError[] = () => [],
): T {
  const value = readJson(bodyOf(request));
  const wrong = checkShape(schema, value);
  const errors = wrong.length > 0 ? wrong : check(value as T);
  if (errors.length > 0) throw new Problem('invalid_request', { errors: [...errors] });
  return value as T;
}
