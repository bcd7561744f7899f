/**
 * Answers that say what went wrong: RFC 9457 `application/problem+json`.
 *
 * Nothing of the inside gets out: no stack, SQL, file path or version. What is no `Problem` and no refusal of the web
 * framework becomes 500 `internal`, and only our own log gets to know more.
 */

import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { FastifyReply } from 'fastify';
import { Problem, type ProblemCode } from '../errors.ts';
import type { Problem as ProblemBody } from './api-types.ts';

export const PROBLEM_TYPE = 'application/problem+json';

/** A refused body that is still on its way is read and dropped for so long, so that its sender gets to read the answer. */
const LINGER_MS = 1000;
/** And at most so much of it: twice the largest batch. */
const LINGER_BYTES_MAX = 32 * 1024 * 1024;

/** Returns the members of the answer; also what a batch's refused item consists of. */
export function problemFields(problem: Problem): ProblemBody {
  const { code, title, status, detail, errors } = problem;
  return {
    type: `urn:sealog:problem:${code}`,
    title,
    status,
    code,
    ...(detail === undefined ? {} : { detail }),
    ...(errors.length === 0 ? {} : { errors }),
  };
}

/** Returns the problem that an error is to the caller. */
export function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  const { code, statusCode } = (error ?? {}) as { code?: unknown; statusCode?: unknown };
  if (typeof code !== 'string' || !code.startsWith('FST_')) return new Problem('internal', { cause: error });
  return new Problem(frameworkProblem(code, statusCode), { cause: error });
}

/** Sends a problem. */
export function sendProblem(reply: FastifyReply, problem: Problem): void {
  const body = turnIntoProblem(reply, problem);
  dropRestOfBody(reply);
  reply.send(body);
}

/** Makes an answer that was not sent yet that of a problem, and returns its body; the one place where headers of refusals are set. */
export function turnIntoProblem(reply: FastifyReply, problem: Problem): Buffer {
  reply.code(problem.status).header('content-type', PROBLEM_TYPE);
  setProtectingHeaders(reply);
  if (problem.retryAfter !== undefined) reply.header('retry-after', String(problem.retryAfter));
  // RFC 9110 section 11.6.1: a 401 names the scheme. It does not tell why (RFC 6750 section 3.1 allows that).
  if (problem.code === 'unauthenticated') reply.header('www-authenticate', 'Bearer');
  // RFC 9110 section 12.5.3: what may be sent instead.
  if (problem.code === 'unsupported_media_type') reply.header('accept-encoding', 'gzip');
  // As bytes, because Fastify adds a charset to JSON text, which this media type has not.
  return Buffer.from(JSON.stringify(problemFields(problem)));
}

/**
 * On every answer. No cache keeps it; no browser takes it for something else, shows it inside another page, runs or loads anything for it,
 * tells others where it was, or gives it to another site's page. (There are no `access-control-…` headers, ever: CORS is closed.)
 */
const PROTECTING_HEADERS = {
  'cache-control': 'no-store',
  'x-content-type-options': 'nosniff',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
} as const;
/** Over TLS also: for a year no browser comes without (RFC 6797, which forbids it without TLS). */
const PROTECTING_HEADERS_OF_TLS = {
  ...PROTECTING_HEADERS,
  'strict-transport-security': 'max-age=31536000',
} as const;

export function setProtectingHeaders(reply: FastifyReply): void {
  reply.headers(protectingHeaders(reply.request.raw.socket));
}

function protectingHeaders(socket: Socket): Readonly<Record<string, string>> {
  return (socket as Partial<TLSSocket>).encrypted === true ? PROTECTING_HEADERS_OF_TLS : PROTECTING_HEADERS;
}

/** Answers what is no HTTP request, or came too slowly, on the bare socket, and closes it. */
export function sendProblemOnSocket(socket: Socket, problem: Problem): void {
  // Another request of this connection may have its answer under way, or still be worked on; this answer must not be
  // taken for that one's. Then closing says all: its sender repeats it with the same id.
  const response = (socket as { _httpMessage?: ServerResponse | null })._httpMessage;
  const answersThis = response == null || (!response.headersSent && !response.req.complete);
  if (!socket.writable || !answersThis) {
    socket.destroy();
    return;
  }
  const body = JSON.stringify(problemFields(problem));
  const head = [
    `HTTP/1.1 ${problem.status} ${problem.code}`,
    `content-type: ${PROBLEM_TYPE}`,
    `content-length: ${Buffer.byteLength(body)}`,
    ...Object.entries(protectingHeaders(socket)).map(([name, value]) => `${name}: ${value}`),
    'connection: close',
  ];
  // A reader who does not take even this is not waited for.
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once('close', () => clearTimeout(timer));
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
}

function frameworkProblem(code: string, statusCode: unknown): ProblemCode {
  switch (code) {
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
    case 'FST_ERR_CTP_EMPTY_TYPE':
      return 'unsupported_media_type';
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return 'too_large';
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return 'not_found';
    default:
      return typeof statusCode === 'number' && statusCode < 500 ? 'invalid_request' : 'internal';
  }
}

/**
 * Closing at once would answer bytes that still arrive with a reset, which can overtake the answer. So the rest is read
 * and dropped for a moment; a sender who goes on is cut, one who ends in time keeps his connection.
 */
function dropRestOfBody(reply: FastifyReply): void {
  const request = reply.request.raw;
  const { 'content-length': length, 'transfer-encoding': coding } = request.headers;
  const hasBody = (length !== undefined && length !== '0') || coding !== undefined;
  // (`complete` is undefined on the requests of Fastify's inject, which have no socket.)
  if (!hasBody || request.complete !== false) return;
  // Fastify sets it after a refused body, and Node would then close at once.
  if (reply.hasHeader('connection')) reply.removeHeader('connection');

  const { socket } = request;
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  let dropped = 0;
  request.on('data', (chunk: Buffer) => {
    dropped += chunk.length;
    if (dropped > LINGER_BYTES_MAX) socket.destroy();
  });
  request.on('error', () => {});
  request.once('close', () => clearTimeout(timer));
  request.resume();
}
