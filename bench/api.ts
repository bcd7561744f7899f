/** The service's API as the bench asks it beside the load. */
import { Agent, request } from 'node:http';
import type { Address } from './http-load.ts';

export interface Timed {
  readonly status: number;
  readonly text: string;
  /** From the request to the end of the answer. */
  readonly ms: number;
}

const agent = new Agent({ keepAlive: true });

/** Sends one request over a connection that is kept. */
export function send(
  { host, port }: Address,
  token: string,
  method: 'GET' | 'POST' | 'PUT' | 'DELETE',
  path: string,
  body?: string,
  type = 'application/json',
): Promise<Timed> {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const headers = {
      authorization: `Bearer ${token}`,
      ...(body === undefined ? {} : { 'content-type': type, 'content-length': Buffer.byteLength(body) }),
    };
    const asking = request({ agent, host, port, method, path, headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', reject);
      response.once('end', () => {
        const ms = performance.now() - began;
        resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString(), ms });
      });
    });
    asking.once('error', reject);
    asking.end(body);
  });
}

/** Asks and reads the answer. Throws where it is not one of success. */
export async function ask<T>(
  address: Address,
  token: string,
  method: 'GET' | 'POST' | 'PUT' | 'DELETE',
  path: string,
  body?: object,
): Promise<T> {
  const { status, text } = await send(address, token, method, path, body && JSON.stringify(body));
  if (status < 200 || status > 299) throw new Error(`${method} ${path} was answered ${status}: ${text.slice(0, 500)}`);
  return JSON.parse(text === '' ? '{}' : text) as T;
}
