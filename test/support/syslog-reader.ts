/** A strict reader of RFC 5424 messages and of RFC 6587 frames, written from the grammar and sharing nothing with the writer. */

export interface SyslogMessage {
  readonly facility: number;
  readonly severity: number;
  readonly timestamp: string;
  readonly hostname: string;
  readonly appName: string;
  readonly procId: string;
  readonly msgId: string;
  readonly data: ReadonlyMap<string, ReadonlyMap<string, string>>;
  readonly message: string;
}

const PRINTABLE = '[\\x21-\\x7e]';
const HEADER = new RegExp(
  `^<(0|[1-9][0-9]{0,2})>1 ` +
    `(\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d{1,6})?(?:Z|[+-]\\d\\d:\\d\\d)) ` +
    `(${PRINTABLE}{1,255}) (${PRINTABLE}{1,48}) (${PRINTABLE}{1,128}) (${PRINTABLE}{1,32}) `,
);

/** Reads a message. Throws where RFC 5424 section 6 does not allow it. */
export function readSyslog(bytes: Uint8Array): SyslogMessage {
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  const header = HEADER.exec(text);
  if (header === null) throw new Error(`no header of RFC 5424: ${text.slice(0, 200)}`);
  const priority = Number(header[1]);
  if (priority > 191) throw new Error('a priority over 191');
  const data = new Map<string, Map<string, string>>();
  let at = header[0].length;
  if (text[at] === '-') at += 1;
  else if (text[at] !== '[') throw new Error('no structured data');
  while (text[at] === '[') {
    const id = /^\[([^\s=\]"]{1,32})/.exec(text.slice(at, at + 40));
    if (id === null || data.has(id[1]!)) throw new Error('a bad id of an element');
    at += id[0].length;
    const parameters = new Map<string, string>();
    data.set(id[1]!, parameters);
    while (text[at] === ' ') {
      const name = /^ ([^\s=\]"]{1,32})="/.exec(text.slice(at, at + 40));
      if (name === null) throw new Error('a bad name of a parameter');
      at += name[0].length;
      let value = '';
      for (; text[at] !== '"'; at += 1) {
        if (at >= text.length) throw new Error('a parameter without an end');
        if (text[at] === ']') throw new Error('a bracket that is not escaped');
        if (text[at] === '\\' && '"\\]'.includes(text[at + 1] ?? 'x')) at += 1;
        value += text[at];
      }
      at += 1;
      parameters.set(name[1]!, value);
    }
    if (text[at] !== ']') throw new Error('an element without an end');
    at += 1;
  }
  if (at < text.length && text[at] !== ' ') throw new Error('something between structured data and message');
  return {
    facility: Math.floor(priority / 8),
    severity: priority % 8,
    timestamp: header[2]!,
    hostname: header[3]!,
    appName: header[4]!,
    procId: header[5]!,
    msgId: header[6]!,
    data,
    message: text.slice(at + 1),
  };
}

/** Reads frames that say their length (RFC 6587 section 3.4.1). */
export function readOctetCounted(stream: Uint8Array): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let at = 0; at < stream.length; ) {
    const blank = stream.indexOf(0x20, at);
    const digits = Buffer.from(stream.subarray(at, blank)).toString('latin1');
    if (!/^[1-9][0-9]*$/.test(digits)) throw new Error(`no length: ${digits.slice(0, 20)}`);
    const end = blank + 1 + Number(digits);
    if (end > stream.length) throw new Error('a frame that is cut');
    frames.push(stream.subarray(blank + 1, end));
    at = end;
  }
  return frames;
}

/** Reads frames that end in LF (RFC 6587 section 3.4.2). */
export function readLines(stream: Uint8Array): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let at = 0; at < stream.length; ) {
    const end = stream.indexOf(0x0a, at);
    if (end === -1) throw new Error('a line without an end');
    frames.push(stream.subarray(at, end));
    at = end + 1;
  }
  return frames;
}
