/**
 * `GET /metrics`: what the service counts and measures, as Prometheus reads it (text format 0.0.4).
 *
 * Needs no token, so nothing in it names a tenant, a stream or a person; labels are words of our own, or of the operator's configuration.
 */
import assert from 'node:assert/strict';
import type { FastifyInstance } from 'fastify';
import { shared } from './shared-answer.ts';

export interface Metric {
  readonly name: string;
  readonly type: 'gauge' | 'counter';
  /** One line. */
  readonly help: string;
  /** Looked at when somebody asks; undefined = not known now. */
  readonly read: () => MetricValue | Promise<MetricValue>;
}

export type MetricValue = number | readonly MetricSample[] | undefined;

export interface MetricSample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** A number for each value of one label, which only goes up. */
export class LabelledCounter {
  readonly #label: string;
  readonly #counts = new Map<string, number>();

  constructor(label: string, values: readonly string[] = []) {
    this.#label = label;
    for (const value of values) this.#counts.set(value, 0);
  }

  add(value: string, by = 1): void {
    this.#counts.set(value, (this.#counts.get(value) ?? 0) + by);
  }

  samples(): MetricSample[] {
    return [...this.#counts].map(([value, count]) => ({ labels: { [this.#label]: value }, value: count }));
  }
}

const TYPE = 'text/plain; version=0.0.4; charset=utf-8';

export function metricsRoutes(metrics: readonly Metric[]) {
  for (const { name } of metrics) assert(/^sealog_[a-z][a-z0-9_]*$/.test(name), `${name} is no name of a metric`);
  const text = shared(() => metricsText(metrics));
  return async function routes(app: FastifyInstance): Promise<void> {
    app.get('/metrics', { config: { permission: 'public' } }, async (_request, reply) => {
      return reply.type(TYPE).send(await text());
    });
  };
}

/** What can not be read now is left out, and does not keep the rest back. */
export async function metricsText(metrics: readonly Metric[]): Promise<string> {
  const parts = await Promise.all(
    metrics.map(async ({ name, type, help, read }) => {
      const value = await Promise.resolve()
        .then(read)
        .catch(() => undefined);
      const samples = typeof value === 'number' ? [{ labels: {}, value }] : (value ?? []);
      if (samples.length === 0) return '';
      const lines = samples.map((sample) => `${name}${labelText(sample.labels)} ${numberText(sample.value)}\n`);
      return `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${type}\n${lines.join('')}`;
    }),
  );
  return parts.join('');
}

function labelText(labels: MetricSample['labels']): string {
  const pairs = Object.entries(labels).map(([name, value]) => {
    const escaped = value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
    return `${name}="${escaped}"`;
  });
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function numberText(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? '+Inf' : '-Inf';
  return String(value);
}
