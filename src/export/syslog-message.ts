/**
 * Syslog messages of RFC 5424 around an exported entry, and their frames.
 *
 *     <PRI>1 TIMESTAMP HOSTNAME sealog PROCID MSGID [sealog@32473 tenant="…" stream="…" seq="…" hash="…" id="…"] payload
 *
 * Seq and hash stand in the structured data too, so that a gap shows to a receiver that does not read the payload. The message has no
 * control characters, no line end and no byte order mark: rsyslog keeps that in front of the text, and neither JSON nor CEF is found then.
 */
import assert from 'node:assert/strict';
import { sha256Hex } from '../chain/sha256.ts';
import { type ExportedEntry, severityOf, type WriteEntry } from './exported-entry.ts';
import { remembered } from './remembered.ts';
import { TooLongError } from './too-long-error.ts';
import { visibleLine } from './unsafe-characters.ts';

export interface SyslogOptions {
  /** Who sends, which is the log and not the source of the event: that one's word is in the payload. Cut to what the header takes. */
  readonly hostname: string;
  readonly procId?: string | undefined;
  /** 0 to 23; 13 is "log audit". */
  readonly facility?: number | undefined;
  /** A private enterprise number. 32473 is the one for documentation, used until somebody has his own. */
  readonly enterprise?: number | undefined;
  /** Of the whole message, without its frame. Receivers must take 480 and should take 2048 (RFC 5424 section 6.1). */
  readonly maxBytes?: number | undefined;
}

/** UDP's own maximum over IPv4: 65,535 less the headers of IP and UDP. */
export const UDP_MESSAGE_MAX = 65_507;

const LOG_AUDIT = 13;
const DOCUMENTATION_ENTERPRISE = 32_473;
const APP_NAME = 'sealog';

/** RFC 5424 section 6: what the header's fields take. */
const HOSTNAME_MAX = 255;
const PROC_ID_MAX = 128;
const MSG_ID_MAX = 32;

/**
 * Returns the message that carries what `write` makes of the entry, as a text, shortened where `maxBytes` asks for it. Throws `TooLongError` where
 * even the least form is longer.
 */
export function syslogMessage(exported: ExportedEntry, write: WriteEntry, options: SyslogOptions): string {
  const header = headerOf(exported, options);
  const maxBytes = options.maxBytes ?? Number.POSITIVE_INFINITY;
  const headerBytes = Buffer.byteLength(header);
  const payload = writePayload();
  assert(!payload.includes('\n'), 'a payload is one line');
  return header + payload;

  function writePayload(): string {
    try {
      return write(exported, maxBytes - headerBytes);
    } catch (error) {
      if (error instanceof TooLongError) throw new TooLongError(headerBytes + error.neededBytes, maxBytes);
      throw error;
    }
  }
}

function headerOf(exported: ExportedEntry, options: SyslogOptions): string {
  const { entry, stream } = exported;
  const { record } = entry;
  const { facility, sender, dataId } = fixedOf(options);
  const data = structuredData(dataId, {
    tenant: stream.tenant,
    stream: stream.name,
    seq: String(record.seq),
    hash: entry.hash,
    id: record.id,
  });
  const priority = facility * 8 + syslogSeverity(severityOf(exported));
  return `<${priority}>1 ${record.recordedAt} ${sender} ${messageId(record.action)} ${data} `;
}

/** What all messages of a sink have in common, worked out once. */
interface Fixed {
  readonly facility: number;
  readonly sender: string;
  readonly dataId: string;
}

const known = new WeakMap<SyslogOptions, Fixed>();

function fixedOf(options: SyslogOptions): Fixed {
  const found = known.get(options);
  if (found !== undefined) return found;
  const { facility = LOG_AUDIT, enterprise = DOCUMENTATION_ENTERPRISE } = options;
  assert(Number.isInteger(facility) && facility >= 0 && facility <= 23, 'a facility is 0 to 23');
  assert(Number.isSafeInteger(enterprise) && enterprise > 0, 'an enterprise number is a positive integer');
  const hostname = headerField(options.hostname, HOSTNAME_MAX);
  const procId = headerField(options.procId ?? '', PROC_ID_MAX);
  const fixed = { facility, sender: `${hostname} ${APP_NAME} ${procId}`, dataId: `sealog@${enterprise}` };
  known.set(options, fixed);
  return fixed;
}

/**
 * Returns the syslog severity (7 debug to 0 emergency: falling) of one of CEF (0 to 10: rising), by the words of both. Emergency is never
 * sent: receivers write it to every terminal.
 */
export function syslogSeverity(severity: number): number {
  if (severity >= 10) return 1;
  if (severity >= 9) return 2;
  if (severity >= 7) return 3;
  if (severity >= 4) return 4;
  return severity >= 3 ? 5 : 6;
}

/** Returns MSGID: the action; of a longer one the beginning, `~`, which no action has, and 8 digits of its SHA-256. */
export const messageId = remembered((action) => {
  if (action.length <= MSG_ID_MAX) return headerField(action, MSG_ID_MAX);
  return `${headerField(action, MSG_ID_MAX - 9)}~${sha256Hex(action).slice(0, 8)}`;
});

/** PRINTUSASCII, `-` for nothing. */
function headerField(text: string, max: number): string {
  const printable = text.replace(/[^\u0021-\u007e]/g, '').slice(0, max);
  return printable === '' ? '-' : printable;
}

/** Returns one element of structured data. `"`, `\` and `]` are what RFC 5424 section 6.3.3 has escaped, and nothing else. */
export function structuredData(id: string, parameters: { readonly [name: string]: string }): string {
  let written = `[${id}`;
  for (const name in parameters) {
    const value = parameters[name]!;
    written += ` ${name}="${/^[\w./:~-]*$/.test(value) ? value : visibleLine(value).replace(/["\\\]]/g, '\\$&')}"`;
  }
  return `${written}]`;
}

export type Framing = 'octet-counting' | 'lf' | 'datagram';

/** Where frames are written, one behind the other: memory for each would be a tenth of all encoding. */
const CHUNK_BYTES = 64 * 1024;
/** `LEN SP` of the longest. */
const LENGTH_BYTES = 16;

/**
 * Writes messages as they go over the wire: `LEN SP MSG` with the length in bytes (RFC 6587 section 3.4.1, RFC 5425), the message and LF (RFC 6587
 * section 3.4.2), or the message alone as a datagram (RFC 5426). Frames share memory with those beside them.
 */
export class FrameWriter {
  readonly #framing: Framing;
  #chunk = Buffer.alloc(0);
  #at = 0;

  constructor(framing: Framing) {
    this.#framing = framing;
  }

  frame(message: string): Uint8Array {
    // No text has more bytes than three times its UTF-16 units.
    const most = LENGTH_BYTES + message.length * 3 + 1;
    if (most > this.#chunk.length - this.#at) {
      this.#chunk = Buffer.allocUnsafeSlow(Math.max(CHUNK_BYTES, most));
      this.#at = 0;
    }
    const chunk = this.#chunk;
    let start = this.#at + LENGTH_BYTES;
    const bytes = chunk.write(message, start);
    let end = start + bytes;
    switch (this.#framing) {
      case 'octet-counting': {
        const length = `${bytes} `;
        start -= length.length;
        chunk.write(length, start, 'latin1');
        break;
      }
      case 'lf':
        assert(!message.includes('\n'), 'a line end inside of a message would end it');
        chunk[end] = LF;
        end += 1;
        break;
      case 'datagram':
        if (bytes > UDP_MESSAGE_MAX) throw new TooLongError(bytes, UDP_MESSAGE_MAX);
        break;
      default: {
        const never: never = this.#framing;
        throw new Error(`no such framing: ${never}`);
      }
    }
    this.#at = end;
    return chunk.subarray(start, end);
  }
}

const LF = 0x0a;
