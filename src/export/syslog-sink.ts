/** A syslog receiver as a destination: what it is configured by, and its transport. */
import { isIPv6 } from 'node:net';
import type { FieldError } from '../errors.ts';
import {
  integer,
  type Member,
  type MembersOf,
  oneOf,
  optional,
  type ReadMembers,
  readMembers,
  type Shape,
  secretNames,
  TLS_MEMBERS,
  text,
  tlsErrors,
  withDefault,
} from './config-members.ts';
import { ENTRY_FORMATS } from './entry-format.ts';
import type { SyslogTarget } from './syslog-connection.ts';
import { UDP_MESSAGE_MAX } from './syslog-message.ts';
import { SYSLOG_MAX_BYTES_RANGE, type SyslogTransportOptions, syslogTransport } from './syslog-transport.ts';
import type { Transport } from './transport.ts';

/** What it takes from the service: whose log it is, and where calls may go. */
export type SyslogSinkDeps = Pick<SyslogTransportOptions, 'lookup' | 'allows' | 'procId' | 'timing'> & {
  /** HOSTNAME where the sink does not name another. */
  readonly hostname: string;
};

/** A configuration that was read and can be used. */
export interface SyslogSink {
  open(deps: SyslogSinkDeps): Transport;
}

const SYSLOG_MEMBERS = {
  url: target(),
  format: withDefault(oneOf(...ENTRY_FORMATS), 'json'),
  framing: optional(oneOf('octet-counting', 'lf')),
  confirm: optional(oneOf('close', 'close-notify', 'write')),
  facility: optional(integer(0, 23)),
  enterprise: optional(integer(1, 4_294_967_295)),
  hostname: optional(text(/^[\x21-\x7e]{1,255}$/, '1 to 255 characters of printable ASCII without blanks')),
  maxBytes: optional(integer(SYSLOG_MAX_BYTES_RANGE.least, SYSLOG_MAX_BYTES_RANGE.most)),
  tlsServerName: optional(text(/^[A-Za-z0-9]([A-Za-z0-9.:_-]{0,252})$/, 'a name or an address')),
  ...TLS_MEMBERS,
} as const satisfies Shape;

/** The names of all members, and of those that are stored sealed and never given back. */
export const SYSLOG_SINK_MEMBERS = { members: Object.keys(SYSLOG_MEMBERS), secrets: secretNames(SYSLOG_MEMBERS) };

/** Reads the members of a syslog sink, open and secret ones together. Tells all mistakes at once. */
export function readSyslogSink(given: unknown): ReadMembers<SyslogSink> {
  const read = readMembers(SYSLOG_MEMBERS, given);
  if ('errors' in read) return read;
  const errors = errorsOf(read.config);
  if (errors.length > 0) return { errors };
  const { url, tlsServerName, tlsCa, tlsCert, tlsKey, ...options } = read.config;
  const tls = { serverName: tlsServerName, caPem: tlsCa, certPem: tlsCert, keyPem: tlsKey };
  return {
    config: {
      open: (deps) =>
        syslogTransport({ ...deps, ...options, target: url, tls, hostname: options.hostname ?? deps.hostname }),
    },
  };
}

/** What would be given and do nothing is refused: somebody believes that it does. */
function errorsOf(config: MembersOf<typeof SYSLOG_MEMBERS>): FieldError[] {
  const { url, framing, confirm, maxBytes = 0 } = config;
  const errors: FieldError[] = [];
  if (url.protocol !== 'tls') {
    for (const field of ['tlsServerName', 'tlsCa', 'tlsCert', 'tlsKey'] as const) {
      if (config[field] !== undefined) errors.push({ field, message: 'is only for tls://' });
    }
    if (confirm === 'close-notify') errors.push({ field: 'confirm', message: 'can be close-notify only with tls://' });
  }
  if (url.protocol === 'udp') {
    if (framing !== undefined) errors.push({ field: 'framing', message: 'is not for udp://, which has datagrams' });
    if (confirm !== undefined) errors.push({ field: 'confirm', message: 'is not for udp://, which confirms nothing' });
    if (maxBytes > UDP_MESSAGE_MAX)
      errors.push({ field: 'maxBytes', message: `must be at most ${UDP_MESSAGE_MAX}: UDP takes no more` });
  }
  return [...errors, ...tlsErrors(config)];
}

/**
 * Not by `URL`, which takes much more for these schemes. A host of digits and dots that is no address is a name, which the system may still
 * read as one (127.1): it is looked up, and what that finds is checked.
 */
function target(): Member<SyslogTarget> {
  const pattern =
    /^(udp|tcp|tls):\/\/(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?)):([1-9][0-9]{0,4})$/;
  return {
    isSecret: false,
    read(value) {
      if (value === undefined) return { problem: 'is missing' };
      const [, protocol, address, name, digits] = (typeof value === 'string' && pattern.exec(value)) || [];
      const host = address ?? name;
      const port = Number(digits);
      const isWrong = host === undefined || port > 65_535 || (address !== undefined && !isIPv6(address));
      if (isWrong) return { problem: 'must be udp://host:port, tcp://host:port or tls://host:port' };
      return { value: { protocol: protocol as SyslogTarget['protocol'], host, port } };
    },
  };
}
