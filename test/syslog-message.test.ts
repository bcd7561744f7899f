/** Syslog messages and frames, read back by a strict reader of RFC 5424 and RFC 6587. */
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { JsonObject } from '../src/chain/canonical.ts';
import { cefText } from '../src/export/cef.ts';
import { jsonText } from '../src/export/json.ts';
import { ocsfText } from '../src/export/ocsf.ts';
import {
  FrameWriter,
  type Framing,
  messageId,
  structuredData,
  syslogMessage,
  syslogSeverity,
  UDP_MESSAGE_MAX,
} from '../src/export/syslog-message.ts';
import { TooLongError } from '../src/export/too-long-error.ts';
import { corpusEvents, manyOf, TEST_DATA } from './support/corpus.ts';
import { exportedEntry, exportedStream } from './support/exported.ts';
import { hostileEvent } from './support/hostile-events.ts';
import { hostileString, seededRandom } from './support/hostile-strings.ts';
import { readLines, readOctetCounted, readSyslog } from './support/syslog-reader.ts';

const LOGIN: JsonObject = {
  id: 'login-1',
  category: 'user_authentication',
  action: 'user.login',
  outcome: 'success',
  severity: 2,
  occurredAt: '2026-11-22T21:04:05.123456789+01:00',
  source: { service: 'identity' },
  actor: { type: 'user', id: 'u-1' },
};
const OPTIONS = { hostname: 'log.example' };
/** Returns the bytes of a message. */
function messageBytes(...asked: Parameters<typeof syslogMessage>): Uint8Array {
  return Buffer.from(syslogMessage(...asked));
}

const FORMATS = { json: jsonText, cef: cefText, ocsf: ocsfText };

describe('a message', () => {
  it('by hand', () => {
    const exported = exportedEntry(LOGIN, { seq: 17 });
    const { hash } = exported.entry;
    expect(syslogMessage(exported, cefText, OPTIONS)).toBe(
      `<110>1 2026-11-22T20:04:05.310Z log.example sealog - user.login [sealog@32473 tenant="acme" ` +
        `stream="acme/user_authentication" seq="17" hash="${hash}" id="login-1"] ${cefText(exported)}`,
    );
  });

  it('takes facility, process and number from its options', () => {
    const message = messageBytes(exportedEntry(LOGIN), jsonText, {
      hostname: 'a b\nc',
      procId: '42',
      facility: 10,
      enterprise: 12345,
    });
    expect(readSyslog(message)).toMatchObject({
      facility: 10,
      severity: 6,
      hostname: 'abc',
      appName: 'sealog',
      procId: '42',
    });
    expect([...readSyslog(message).data.keys()]).toEqual(['sealog@12345']);
    expect(readSyslog(messageBytes(exportedEntry(LOGIN), jsonText, { hostname: ' ä ' })).hostname).toBe('-');
    expect(
      readSyslog(messageBytes(exportedEntry(LOGIN), jsonText, { hostname: 'h'.repeat(300) })).hostname,
    ).toHaveLength(255);
    expect(() => messageBytes(exportedEntry(LOGIN), jsonText, { hostname: 'h', facility: 24 })).toThrow();
  });

  it('has no byte order mark and ends without a line end', () => {
    for (const write of Object.values(FORMATS)) {
      const { message } = readSyslog(messageBytes(exportedEntry({ ...LOGIN, raw: '\ufeffx\r\n' }), write, OPTIONS));
      expect(message).not.toMatch(/[\u0000-\u001f\u007f\ufeff]/);
    }
  });

  it('says a severity that falls where that of CEF rises, and never emergency', () => {
    expect(Array.from({ length: 11 }, (_, severity) => syslogSeverity(severity))).toEqual([
      6, 6, 6, 5, 4, 4, 4, 3, 3, 2, 1,
    ]);
    const event = { ...LOGIN, category: 'security_event', severity: 9 };
    expect(readSyslog(messageBytes(exportedEntry(event), cefText, OPTIONS))).toMatchObject({
      facility: 13,
      severity: 2,
    });
  });

  it('names the action, which no other action has the name of', () => {
    expect(messageId('a'.repeat(32))).toBe('a'.repeat(32));
    const long = `user.${'a'.repeat(58)}`;
    const digits = createHash('sha256').update(long).digest('hex').slice(0, 8);
    expect(messageId(long)).toBe(`${long.slice(0, 23)}~${digits}`);
    expect(messageId(`${long}b`)).not.toBe(messageId(long));
  });

  it('has structured data that nothing gets out of', () => {
    const random = seededRandom(4);
    for (let i = 0; i < 2000; i++) {
      const value = hostileString(random, 300);
      const header = `<110>1 2026-11-22T20:04:05.310Z h sealog - - `;
      const { data, message } = readSyslog(Buffer.from(`${header}${structuredData('a@1', { x: value, y: '1' })} m`));
      expect(message).toBe('m');
      expect([...data.get('a@1')!.keys()]).toEqual(['x', 'y']);
      if (!/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/.test(value))
        expect(data.get('a@1')!.get('x')).toBe(value);
    }
  });
});

describe('what arrives is what was sent', () => {
  it.skipIf(TEST_DATA === undefined)('of the real events, through both framings', { timeout: 120_000 }, () => {
    const [counting, ending] = [new FrameWriter('octet-counting'), new FrameWriter('lf')];
    let group: { sent: string; frame: Uint8Array; line: Uint8Array }[] = [];
    const check = () => {
      const counted = readOctetCounted(Buffer.concat(group.map(({ frame }) => frame)));
      const lines = readLines(Buffer.concat(group.map(({ line }) => line)));
      for (const read of [counted, lines])
        expect(read.map((message) => readSyslog(message).message)).toEqual(group.map(({ sent }) => sent));
      group = [];
    };
    let index = 0;
    for (const exported of exportedStream(corpusEvents())) {
      const write = Object.values(FORMATS)[index++ % 3]!;
      const message = syslogMessage(exported, write, OPTIONS);
      group.push({ sent: write(exported), frame: counting.frame(message), line: ending.frame(message) });
      if (group.length === 500) check();
    }
    check();
    expect(index).toBeGreaterThan(manyOf(80_000));
  });

  it('of hostile events, within a maximum or not at all', { timeout: 120_000 }, () => {
    const random = seededRandom(5);
    const counts = { sent: 0, tooLong: 0 };
    for (let i = 0; i < manyOf(6000); i++) {
      const exported = exportedEntry(hostileEvent(random), { seq: i });
      const maxBytes = 480 + Math.floor(random() ** 2 * 20_000);
      const write = Object.values(FORMATS)[i % 3]!;
      let message: Uint8Array;
      try {
        message = messageBytes(exported, write, { ...OPTIONS, maxBytes });
      } catch (error) {
        expect(error).toBeInstanceOf(TooLongError);
        expect(error).toMatchObject({ maxBytes });
        expect((error as TooLongError).neededBytes).toBeGreaterThan(maxBytes);
        counts.tooLong += 1;
        continue;
      }
      counts.sent += 1;
      expect(message.length).toBeLessThanOrEqual(maxBytes);
      const read = readSyslog(message);
      expect(Object.fromEntries(read.data.get('sealog@32473')!)).toEqual({
        tenant: 'acme',
        stream: exported.stream.name,
        seq: String(i),
        hash: exported.entry.hash,
        id: exported.entry.record.id,
      });
      expect(read.timestamp).toBe(exported.entry.record.recordedAt);
      if (write !== cefText) JSON.parse(read.message);
    }
    expect(counts.sent).toBeGreaterThan(manyOf(3000));
    expect(counts.tooLong).toBeGreaterThan(50);
  });
});

describe('a frame', () => {
  const framed = (message: string, framing: Framing): string =>
    Buffer.from(new FrameWriter(framing).frame(message)).toString();

  it('counts bytes, not characters', () => {
    const message = '<110>1 é漢👩';
    expect(framed(message, 'octet-counting')).toBe(`16 ${message}`);
    expect(framed(message, 'datagram')).toBe(message);
    expect(framed(message, 'lf')).toBe(`${message}\n`);
  });

  it('is never ended by what is in it', () => {
    expect(() => framed('a\nb', 'lf')).toThrow('line end');
  });

  it('takes no datagram that UDP does not', () => {
    expect(framed('m'.repeat(UDP_MESSAGE_MAX), 'datagram')).toHaveLength(65_507);
    expect(() => framed('m'.repeat(UDP_MESSAGE_MAX + 1), 'datagram')).toThrow(TooLongError);
  });

  it.each(['octet-counting', 'lf', 'datagram'] as const)(
    'stays as it is while others are written beside it: %s',
    (framing) => {
      const random = seededRandom(7);
      const writer = new FrameWriter(framing);
      const messages = Array.from({ length: 400 }, () => '<110>1 é'.padEnd(Math.floor(random() ** 4 * 30_000), '漢m'));
      const frames = messages.map((message) => writer.frame(message));
      for (const [index, message] of messages.entries())
        expect(Buffer.from(frames[index]!).equals(Buffer.from(framed(message, framing)))).toBe(true);
    },
  );

  it('the readers see what is broken', () => {
    for (const text of [
      '<192>1 2026-11-22T20:04:05.310Z h a - - - m',
      '<13>1 2026-11-22T20:04:05.1234567Z h a - - - m',
      '<13>1 2026-11-22 20:04:05Z h a - - - m',
      '<013>1 - h a - - - m',
      '<13>1 2026-11-22T20:04:05Z h a - - [a b="]"] m',
      '<13>1 2026-11-22T20:04:05Z h a - - [a b="c] m',
      '<13>1 2026-11-22T20:04:05Z h a - - [a][a] m',
      `<13>1 2026-11-22T20:04:05Z h a - ${'m'.repeat(33)} - m`,
    ])
      expect(() => readSyslog(Buffer.from(text)), text).toThrow();
    expect(() => readOctetCounted(Buffer.from('5 abc'))).toThrow();
    expect(() => readOctetCounted(Buffer.from('05 abcde'))).toThrow();
    expect(() => readLines(Buffer.from('abc'))).toThrow();
  });
});
