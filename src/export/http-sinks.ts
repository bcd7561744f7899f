/** Destinations over HTTP by their presets: what each is configured by, and its transport. */
import type { FieldError } from '../errors.ts';
import {
  type MembersOf,
  type ReadMembers,
  readMembers,
  type Shape,
  secretNames,
  type TLS_MEMBERS,
  tlsErrors,
} from './config-members.ts';
import type { HttpSinkDeps } from './http-calls.ts';
import { DATADOG_MEMBERS, datadogTransport } from './presets/datadog.ts';
import { ELASTIC_MEMBERS, elasticErrors, elasticTransport } from './presets/elastic.ts';
import { OTLP_MEMBERS, otlpErrors, otlpTransport } from './presets/otlp.ts';
import { SENTINEL_MEMBERS, sentinelTransport } from './presets/sentinel.ts';
import { SPLUNK_HEC_MEMBERS, splunkHecTransport } from './presets/splunk-hec.ts';
import { SUMO_LOGIC_MEMBERS, sumoLogicTransport } from './presets/sumo-logic.ts';
import type { Transport } from './transport.ts';
import { WEBHOOK_MEMBERS, webhookErrors, webhookTransport } from './webhook-transport.ts';

/** A configuration that was read and can be used. */
export interface HttpSink {
  open(deps: HttpSinkDeps): Transport;
}

interface Kind {
  readonly members: readonly string[];
  readonly secrets: readonly string[];
  read(given: unknown): ReadMembers<HttpSink>;
}

const WEBHOOK = kind(WEBHOOK_MEMBERS, webhookErrors, webhookTransport);

const PRESETS = {
  'splunk-hec': kind(SPLUNK_HEC_MEMBERS, tlsErrors, splunkHecTransport),
  elastic: kind(ELASTIC_MEMBERS, elasticErrors, elasticTransport),
  'sumo-logic': kind(SUMO_LOGIC_MEMBERS, tlsErrors, sumoLogicTransport),
  sentinel: kind(SENTINEL_MEMBERS, tlsErrors, sentinelTransport),
  datadog: kind(DATADOG_MEMBERS, tlsErrors, datadogTransport),
  otlp: kind(OTLP_MEMBERS, otlpErrors, otlpTransport),
} as const satisfies Record<string, Kind>;

export type PresetName = keyof typeof PRESETS;

export const PRESET_NAMES = Object.keys(PRESETS) as readonly PresetName[];

/** Reads the members of a sink over HTTP, open and secret ones together; undefined = a webhook without a preset. Tells all mistakes at once. */
export function readHttpSink(preset: PresetName | undefined, given: unknown): ReadMembers<HttpSink> {
  return kindOf(preset).read(given);
}

/** Returns the names of all members, and of those that are stored sealed and never given back. */
export function httpSinkMembers(preset: PresetName | undefined): Pick<Kind, 'members' | 'secrets'> {
  const { members, secrets } = kindOf(preset);
  return { members, secrets };
}

function kindOf(preset: PresetName | undefined): Kind {
  return preset === undefined ? WEBHOOK : PRESETS[preset];
}

function kind<S extends Shape & typeof TLS_MEMBERS>(
  shape: S,
  errorsOf: (config: MembersOf<S>) => FieldError[],
  transport: (config: MembersOf<S>, deps: HttpSinkDeps) => Transport,
): Kind {
  return {
    members: Object.keys(shape),
    secrets: secretNames(shape),
    read(given) {
      const read = readMembers(shape, given);
      if ('errors' in read) return read;
      const errors = errorsOf(read.config);
      if (errors.length > 0) return { errors };
      return { config: { open: (deps) => transport(read.config, deps) } };
    },
  };
}
