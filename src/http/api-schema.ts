/**
 * `openapi.yaml` at work: what it says is what is checked.
 *
 * Events are taken exactly as sent or refused (DESIGN section 3): no coercion, no defaults, nothing removed. An event is
 * checked in two steps. The first stops at the first mistake and is what each valid event costs (about 1 µs for the
 * events of the corpus); only a refused event runs the second, which collects what there is to say about it, at most
 * `MAX_ERRORS` entries. The category picks the schema before either runs, so that nobody reads what the five other
 * categories would have wanted.
 *
 * The words of a refusal come from the schema too: `x-expects` and `x-reason`. They never repeat a value; the name of
 * an unknown field is repeated, shortened.
 */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js';
import { isTimestamp } from '../chain/timestamp.ts';
import { type FieldError, Problem } from '../errors.ts';
import type { PathParameters, Queries } from './api-types.ts';

/** As many as a person reads; the rest shows up when these are mended. */
const MAX_ERRORS = 20;
/**
 * An event with more members than this in the places that the schema looks into (fields, roles, operations of a diff)
 * hears of its first mistake only: a list of 100,000 wrong operations must not become 100,000 error objects.
 */
const MAX_MEMBERS_FOR_ALL_ERRORS = 500;
/** Of an unknown field's name, in characters. */
const SHOWN_NAME_LENGTH = 64;

/** One operation that `openapi.yaml` declares. */
export interface Operation {
  readonly operationId: string;
  readonly method: string;
  /** As Fastify writes it: `/v1/events/:id`; a parameter with `x-slashes` is `*`. */
  readonly path: string;
  /** What `config.permission` of the route must say. */
  readonly permission: string;
  /** The media types that it takes as a body; empty where it takes none. */
  readonly bodyTypes: readonly string[];
}

interface SchemaObject {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly default?: unknown;
  readonly [keyword: string]: unknown;
}

interface ParameterObject {
  readonly name: string;
  readonly in: string;
  readonly required?: boolean;
  readonly 'x-slashes'?: boolean;
  readonly schema: SchemaObject;
}

interface OperationObject {
  readonly operationId: string;
  readonly 'x-permission': string;
  readonly parameters?: readonly ParameterObject[];
  readonly requestBody?: { readonly content: Readonly<Record<string, unknown>> };
}

/** The parts of the document that are read here. */
export interface ApiDocument {
  readonly paths: Readonly<Record<string, Readonly<Record<string, OperationObject>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, SchemaObject>> };
}

interface Parameter {
  readonly name: string;
  readonly type: 'string' | 'integer' | 'boolean';
  readonly required: boolean;
  readonly default: unknown;
  readonly schema: SchemaObject;
}

const NO_ERRORS: readonly FieldError[] = Object.freeze([]);
const SCHEMAS = '#/components/schemas/';

const document = readDocument();
const firstErrorAjv = createAjv(false);
const allErrorsAjv = createAjv(true);
const eventSchemas = categorySchemas();
const clientCategories = [...eventSchemas.keys()];
/** Compiled for the first event of a category. */
const firstErrorValidators = new Map<string, ValidateFunction>();
let incompleteEvent: ValidateFunction | undefined;
const queryParameters = parametersOf('query');
const pathParameters = parametersOf('path');

/** `openapi.yaml` as JSON (`npm run types`): reading YAML takes 0.2 s of processor time, which every start and every command would wait for. */
function readDocument(): ApiDocument {
  return JSON.parse(readFileSync(new URL('api-document.json', import.meta.url), 'utf8')) as ApiDocument;
}

/** Every operation of the document, in its order. A test holds the registered routes to it. */
export function declaredOperations(): Operation[] {
  return eachOperation().map(({ path, method, operation }) => ({
    operationId: operation.operationId,
    method: method.toUpperCase(),
    path: path.replace(/\{([^}]+)\}/g, (_, name) => (takesSlashes(operation, name) ? '*' : `:${name}`)),
    permission: operation['x-permission'],
    bodyTypes: Object.keys(operation.requestBody?.content ?? {}),
  }));
}

/**
 * Says what is wrong with an event as a client sent it (a parsed JSON value): nothing (an empty array), or one entry for
 * each field, at most 20. `field` is relative to the event: `changes.before`, `actor.roles[2]`; empty for the whole.
 */
export function validateEvent(value: unknown): readonly FieldError[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return [{ field: '', message: 'must be a JSON object' }];
  }
  const category = (value as Record<string, unknown>).category;
  const validate = typeof category === 'string' ? validatorOf(category) : undefined;
  if (validate === undefined) return [{ field: 'category', message: categoryMessage(category) }];
  if (validate(value)) return NO_ERRORS;

  const everything = memberCount(value) <= MAX_MEMBERS_FOR_ALL_ERRORS;
  return fieldErrors(everything ? allErrors(eventSchemas.get(category as string) as string, value) : validate.errors);
}

/** Says whether an event that is not valid would be without its category's evidence rule: it lacks evidence, and nothing else is wrong with it. */
export function lacksOnlyEvidence(event: unknown): boolean {
  const { category } = (event ?? {}) as { readonly category?: unknown };
  if (typeof category !== 'string' || !eventSchemas.has(category)) return false;
  incompleteEvent ??= firstErrorAjv.compile({ $ref: `${SCHEMAS}IncompleteEvent` });
  return incompleteEvent(event) === true;
}

/**
 * Says what is wrong with a value under a schema of the document, such as `Receipt`. Answers are not checked while
 * serving; tests hold them to the document with this.
 */
export function checkShape(schemaName: string, value: unknown): readonly FieldError[] {
  assert(schemaName in document.components.schemas, `openapi.yaml has no schema ${schemaName}`);
  return fieldErrors(allErrors(SCHEMAS + schemaName, value));
}

/**
 * Returns the values of a request's query string: integers and booleans converted strictly, defaults filled in.
 * `query` is `request.query`, which is the raw text behind `?` (see server.ts).
 *
 * @throws {Problem} invalid_request naming each parameter that is unknown, repeated, missing or has a wrong value
 */
export function validateQuery<Name extends keyof Queries>(operationId: Name, query: unknown): Queries[Name] {
  assert(typeof query === 'string', 'the query string must come unparsed');
  const parameters = queryParameters.get(operationId);
  assert(parameters !== undefined, `openapi.yaml has no operation ${operationId}`);
  return convert(parameters, parseQuery(query)) as unknown as Queries[Name];
}

/**
 * Returns the parameters in a request's path. Among others this keeps U+0000, which no text in PostgreSQL can hold, away
 * from it.
 *
 * @throws {Problem} invalid_request naming the parameter
 */
export function validatePath<Name extends keyof PathParameters>(
  operationId: Name,
  params: unknown,
): PathParameters[Name] {
  const parameters = pathParameters.get(operationId);
  assert(parameters !== undefined, `openapi.yaml has no operation ${operationId}`);
  const texts = Object.entries(params as Record<string, string>);
  return convert(parameters, texts) as unknown as PathParameters[Name];
}

// Compiling

function validatorOf(category: string): ValidateFunction | undefined {
  const known = firstErrorValidators.get(category);
  if (known !== undefined) return known;
  const $ref = eventSchemas.get(category);
  if ($ref === undefined) return undefined;
  const validate = firstErrorAjv.compile({ $ref });
  firstErrorValidators.set(category, validate);
  return validate;
}

function createAjv(allErrors: boolean): Ajv2020 {
  const ajv = new Ajv2020({
    allErrors,
    strict: true,
    // That the schemas are schemas is a test's work (test/openapi.test.ts), and takes 0.1 s.
    validateSchema: false,
    // A category requires what EventFields declares.
    strictRequired: false,
    allowUnionTypes: true,
    // Errors then carry the schema that failed, where x-expects stands. Costs nothing while nothing fails.
    verbose: true,
    formats: { 'date-time': isTimestamp, base64: isCanonicalBase64 },
    keywords: ['x-expects', 'x-reason', 'discriminator'],
  });
  // Under the very text that refers to them, because the document around them is no JSON Schema.
  for (const [name, schema] of Object.entries(document.components.schemas)) ajv.addSchema(schema, SCHEMAS + name);
  return ajv;
}

/** The schema (a pointer into the document) of each category that clients may send. */
function categorySchemas(): Map<string, string> {
  const { discriminator } = resolve(`${SCHEMAS}Event`) as { discriminator?: { mapping: Record<string, string> } };
  assert(discriminator !== undefined, 'openapi.yaml: Event has no discriminator');
  return new Map(Object.entries(discriminator.mapping));
}

function eachOperation(): { path: string; method: string; operation: OperationObject }[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
}

function takesSlashes({ parameters = [] }: OperationObject, name: string): boolean {
  return parameters.some((parameter) => parameter.name === name && parameter['x-slashes'] === true);
}

function parametersOf(place: 'query' | 'path'): Map<string, Map<string, Parameter>> {
  return new Map(
    eachOperation().map(({ operation }) => {
      const parameters = (operation.parameters ?? []).filter((parameter) => parameter.in === place);
      return [operation.operationId, new Map(parameters.map((parameter) => [parameter.name, read(parameter)]))];
    }),
  );
}

function read({ name, required = false, schema }: ParameterObject): Parameter {
  const { type, default: byDefault } = schema.$ref === undefined ? schema : resolve(schema.$ref);
  assert(type === 'string' || type === 'integer' || type === 'boolean', `the parameter ${name} has an unknown type`);
  return { name, type, required, default: byDefault, schema };
}

function resolve(ref: string): SchemaObject {
  const schema = document.components.schemas[ref.replace(SCHEMAS, '')];
  assert(schema !== undefined, `openapi.yaml refers to ${ref}, which it has not`);
  return schema;
}

/** RFC 4648 section 4 with padding, as its one canonical text: the bits that encode nothing are zero. */
function isCanonicalBase64(text: string): boolean {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return false;
  if (text.endsWith('==')) return /[AQgw]==$/.test(text.slice(-3));
  if (text.endsWith('=')) return /[AEIMQUYcgkosw048]=$/.test(text.slice(-2));
  return true;
}

// Telling what is wrong

function allErrors(ref: string, value: unknown): readonly ErrorObject[] | null | undefined {
  const validate = allErrorsAjv.getSchema(ref);
  assert(validate !== undefined, `openapi.yaml has no ${ref}`);
  return validate(value) ? [] : validate.errors;
}

function fieldErrors(errors: readonly ErrorObject[] | null | undefined): readonly FieldError[] {
  const messages = new Map<string, string>();
  for (const error of errors ?? []) {
    // The wrapper around what an if/then/else found.
    if (error.keyword === 'if') continue;
    const field = fieldPath(error);
    if (!messages.has(field)) messages.set(field, messageOf(error));
    if (messages.size === MAX_ERRORS) break;
  }
  return [...messages].map(([field, message]) => ({ field, message }));
}

/** `/actor/roles/2` → `actor.roles[2]`; for a missing or unknown member the member's own path. */
function fieldPath({ instancePath, params }: ErrorObject): string {
  const names = instancePath.split('/').slice(1);
  const member = params.missingProperty ?? params.additionalProperty ?? params.unevaluatedProperty;
  const path = names.reduce((all, name) => all + segment(name.replaceAll('~1', '/').replaceAll('~0', '~')), '');
  const whole = member === undefined ? path : path + segment(String(member));
  return whole.startsWith('.') ? whole.slice(1) : whole;
}

function segment(name: string): string {
  if (/^\d+$/.test(name)) return `[${name}]`;
  if (/^[A-Za-z_$][\w$]*$/.test(name) && name.length <= SHOWN_NAME_LENGTH) return `.${name}`;
  const shown = name.length <= SHOWN_NAME_LENGTH ? name : `${name.slice(0, SHOWN_NAME_LENGTH)}…`;
  return `[${JSON.stringify(shown.toWellFormed())}]`;
}

function messageOf({ keyword, params, parentSchema, message }: ErrorObject): string {
  const schema = (parentSchema ?? {}) as SchemaObject;
  switch (keyword) {
    case 'required': {
      const reasons = schema['x-reason'] as Record<string, string> | undefined;
      const reason = reasons?.[params.missingProperty as string];
      return reason === undefined ? 'is required' : `is required: ${reason}`;
    }
    case 'additionalProperties':
    case 'unevaluatedProperties':
      return 'is not a field that is known here';
    case 'enum':
      return `must be one of ${(schema.enum ?? []).join(', ')}`;
    default:
      return schema['x-expects'] === undefined ? (message ?? 'is not valid') : `must be ${schema['x-expects']}`;
  }
}

function categoryMessage(category: unknown): string {
  const choice = `one of ${clientCategories.join(', ')}`;
  if (category === undefined) return `is required: ${choice}`;
  if (category === 'log_administration') return `is written by Sealog only; must be ${choice}`;
  return `must be ${choice}`;
}

/** How many members there are in the places that the schema looks into, roughly: enough to bound the work of telling. */
function memberCount(event: object): number {
  const { source, actor, target, changes, raw } = event as Record<string, unknown>;
  let count = Object.keys(event).length;
  for (const part of [source, actor, target, changes, raw]) {
    if (typeof part === 'object' && part !== null) count += Object.keys(part).length;
  }
  const { roles } = (actor ?? {}) as Record<string, unknown>;
  const { diff } = (changes ?? {}) as Record<string, unknown>;
  if (Array.isArray(roles)) count += roles.length;
  if (Array.isArray(diff)) {
    for (const operation of diff) {
      count += typeof operation === 'object' && operation !== null ? Object.keys(operation).length : 1;
      if (count > MAX_MEMBERS_FOR_ALL_ERRORS) break;
    }
  }
  return count;
}

// Parameters

/** Splits a query string as browsers write it (`+` is a space). Throws for text that is no UTF-8 once decoded. */
function parseQuery(query: string): [name: string, value: string][] {
  return query
    .split('&')
    .filter((pair) => pair !== '')
    .map((pair) => {
      const equals = pair.indexOf('=');
      const name = equals < 0 ? pair : pair.slice(0, equals);
      const value = equals < 0 ? '' : pair.slice(equals + 1);
      return [decode(name, name), decode(value, name)];
    });
}

function decode(text: string, name: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw invalidRequest([{ field: shortened(name), message: 'is not percent-encoded UTF-8' }]);
  }
}

function convert(parameters: ReadonlyMap<string, Parameter>, texts: readonly (readonly [string, string])[]) {
  const values: Record<string, unknown> = {};
  const errors: FieldError[] = [];
  for (const [name, text] of texts) {
    const parameter = parameters.get(name);
    if (parameter === undefined) {
      errors.push({ field: shortened(name), message: 'is not a parameter that is known here' });
    } else if (Object.hasOwn(values, name)) {
      errors.push({ field: name, message: 'is given more than once' });
    } else {
      const value = fromText(parameter.type, text);
      values[name] = value;
      if (text.includes('\0')) errors.push({ field: name, message: 'must not hold U+0000' });
      else {
        // Compiled for the first one, and then remembered by Ajv.
        const validate = firstErrorAjv.compile(parameter.schema);
        if (!validate(value)) errors.push({ field: name, message: messageOf(validate.errors![0]!) });
      }
    }
    if (errors.length === MAX_ERRORS) break;
  }
  for (const { name, required, default: byDefault } of parameters.values()) {
    if (Object.hasOwn(values, name)) continue;
    if (byDefault !== undefined) values[name] = byDefault;
    if (required) errors.push({ field: name, message: 'is required' });
  }
  if (errors.length > 0) throw invalidRequest(errors);
  return values;
}

/** One text for each value: no sign, no leading zeros, no "1e2", no "TRUE". What is none stays text, which no schema takes. */
function fromText(type: Parameter['type'], text: string): unknown {
  if (type === 'integer' && /^(?:0|[1-9]\d{0,14})$/.test(text)) return Number(text);
  if (type === 'boolean' && (text === 'true' || text === 'false')) return text === 'true';
  return text;
}

function shortened(name: string): string {
  const shown = name.length <= SHOWN_NAME_LENGTH ? name : `${name.slice(0, SHOWN_NAME_LENGTH)}…`;
  return shown.toWellFormed();
}

function invalidRequest(errors: readonly FieldError[]): Problem {
  return new Problem('invalid_request', { errors });
}
