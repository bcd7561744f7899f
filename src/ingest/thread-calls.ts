/**
 * Calls between two threads, both ways, over one message port. What is thrown on one side is thrown on the other: a Problem as the
 * Problem it is, a KeyUnavailableError or EvidenceError as such, anything else as an Error with its message.
 */
import type { MessagePort, Transferable, Worker } from 'node:worker_threads';
import { EvidenceError, type FieldError, KeyUnavailableError, Problem, type ProblemCode } from '../errors.ts';

export type Handlers = Readonly<Record<string, (argument: never) => Promise<unknown>>>;

type Message =
  | { readonly call: string; readonly id: number; readonly argument: unknown }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly failure: Failure };

type Failure =
  | {
      readonly kind: 'problem';
      readonly code: ProblemCode;
      readonly detail: string | undefined;
      readonly errors: readonly FieldError[];
      readonly retryAfter: number | undefined;
    }
  | { readonly kind: 'key' | 'evidence' | 'other'; readonly message: string; readonly stack: string | undefined };

interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

export class ThreadCalls {
  readonly #port: Pick<MessagePort | Worker, 'postMessage' | 'on'>;
  readonly #handlers: Handlers;
  readonly #pending = new Map<number, Pending>();
  #next = 0;

  constructor(port: Pick<MessagePort | Worker, 'postMessage' | 'on'>, handlers: Handlers) {
    this.#port = port;
    this.#handlers = handlers;
    port.on('message', (message: Message) => void this.#receive(message));
  }

  /** Calls a handler of the other side. Buffers in `transfer` move there and are gone here. */
  call<T>(name: string, argument: unknown, transfer: readonly Transferable[] = []): Promise<T> {
    const id = this.#next++;
    return new Promise<T>((resolve, reject) => {
      this.#pending.set(id, { resolve: resolve as Pending['resolve'], reject });
      this.#port.postMessage({ call: name, id, argument }, transfer);
    });
  }

  /** Fails every call that has no answer: the other side is gone. */
  fail(error: Error): void {
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }

  async #receive(message: Message): Promise<void> {
    if ('call' in message) {
      try {
        const result = await this.#handlers[message.call]!(message.argument as never);
        this.#port.postMessage({ id: message.id, result });
      } catch (error) {
        this.#port.postMessage({ id: message.id, failure: failureOf(error) });
      }
      return;
    }
    const pending = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if ('failure' in message) pending?.reject(errorOf(message.failure));
    else pending?.resolve(message.result);
  }
}

function failureOf(error: unknown): Failure {
  if (error instanceof Problem) {
    const { code, detail, errors, retryAfter } = error;
    return { kind: 'problem', code, detail, errors, retryAfter };
  }
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  if (error instanceof KeyUnavailableError) return { kind: 'key', message, stack };
  return { kind: error instanceof EvidenceError ? 'evidence' : 'other', message, stack };
}

function errorOf(failure: Failure): Error {
  if (failure.kind === 'problem') {
    return new Problem(failure.code, {
      errors: failure.errors,
      ...(failure.detail === undefined ? {} : { detail: failure.detail }),
      ...(failure.retryAfter === undefined ? {} : { retryAfter: failure.retryAfter }),
    });
  }
  const { message, stack } = failure;
  const error =
    failure.kind === 'key'
      ? new KeyUnavailableError(message)
      : failure.kind === 'evidence'
        ? new EvidenceError(message)
        : new Error(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}
