/** A witness as C2SP tlog-witness v1.0.0 wants it, over HTTP, and some that are not. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fromBase64, fromUtf8, toBase64, toHex } from '../../src/chain/bytes.ts';
import { decodeCheckpoint, type ReadCheckpoint } from '../../src/chain/checkpoint.ts';
import { type Cosigner, cosigner } from '../../src/chain/cosignature.ts';
import { checkConsistency, EMPTY_ROOT } from '../../src/chain/merkle.ts';
import { noteVerifier, openNote, parseVkey } from '../../src/chain/note.ts';
import { sha256 } from '../../src/chain/sha256.ts';
import { EvidenceError } from '../../src/errors.ts';

/**
 * What the witness does when it would cosign:
 * - `honest`: what it should.
 * - `wrong_signature`, `other_key`, `other_checkpoint`: cosigns, but so that the line is not good.
 * - `other_lines_too`: puts lines of other keys around its own.
 * - `no_lines`, `garbage`, `no_newline`: 200 with another body.
 * And in place of anything else:
 * - `hang`: never answers. `oversized`: answers without end. `cut`: half an answer.
 * - `lying_conflict`: 409 with another size each time. `stubborn_conflict`: 409 with what it was asked from.
 * - `untyped_conflict`: 409 without the content type. A number: this status.
 */
export type Behaviour =
  | 'honest'
  | 'wrong_signature'
  | 'other_key'
  | 'other_checkpoint'
  | 'other_lines_too'
  | 'no_lines'
  | 'garbage'
  | 'no_newline'
  | 'hang'
  | 'oversized'
  | 'cut'
  | 'lying_conflict'
  | 'stubborn_conflict'
  | 'untyped_conflict'
  | number;

export interface TestWitness {
  /** The submission prefix. */
  readonly url: string;
  readonly vkey: string;
  behaviour: Behaviour;
  /** Seconds that its clock is ahead. */
  clockAheadS: number;
  /** Once it has persisted a checkpoint, the answer is lost this many times. */
  loseAnswers: number;
  /** What was asked, as `old size → size`, and the status that was answered. */
  readonly calls: { old: number; size: number; hashes: number; status: number }[];
  /** The largest size that it cosigned of a log; 0 = none. */
  sizeOf(origin: string): number;
  /** Makes it know a log by this key. */
  know(vkey: string): void;
  close(): Promise<void>;
}

interface State {
  readonly size: number;
  readonly root: Uint8Array;
}

interface Answer {
  readonly status: number;
  readonly body?: string;
  readonly type?: string;
}

/** Starts a witness that knows the logs of these vkeys, each by its key's name as origin. */
export async function startWitness({
  name = 'witness.example/w1',
  logs = [],
}: {
  name?: string;
  logs?: readonly string[];
} = {}): Promise<TestWitness> {
  const signer = cosigner(name, sha256(`witness ${name}`));
  const known = new Map<string, string[]>();
  const states = new Map<string, State>();
  const server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');

  const self: TestWitness = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/some/prefix`,
    vkey: signer.vkey,
    behaviour: 'honest',
    clockAheadS: 0,
    loseAnswers: 0,
    calls: [],
    sizeOf: (origin) => states.get(origin)?.size ?? 0,
    know(vkey) {
      const origin = parseVkey(vkey).name;
      known.set(origin, [...(known.get(origin) ?? []), vkey]);
    },
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
  for (const vkey of logs) self.know(vkey);
  return self;

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    if (request.method !== 'POST' || request.url !== '/some/prefix/add-checkpoint')
      return void response.writeHead(404).end();
    const submission = parse(Buffer.concat(chunks));
    const { status, body = '', type = 'text/plain' } = submission === undefined ? { status: 400 } : answer(submission);
    self.calls.push({
      old: submission?.old ?? -1,
      size: submission?.checkpoint.size ?? -1,
      hashes: submission?.path.length ?? -1,
      status,
    });
    if (status === 200 && self.loseAnswers > 0) {
      self.loseAnswers -= 1;
      response.destroy();
      return;
    }
    switch (self.behaviour) {
      case 'hang':
        return;
      case 'oversized':
        response.writeHead(200);
        while (!response.destroyed) {
          response.write('x'.repeat(10_000));
          await new Promise((resolve) => setImmediate(resolve));
        }
        return;
      case 'cut':
        response.writeHead(200, { 'content-length': '1000' }).write('— wit');
        setTimeout(() => response.destroy(), 20);
        return;
      default:
        response.writeHead(status, { 'content-type': type }).end(body);
    }
  }

  /** Checks, persists and cosigns in one go: nothing comes between. */
  function answer({ old, path, note, checkpoint }: Submission): Answer {
    const { behaviour } = self;
    if (typeof behaviour === 'number') return { status: behaviour, body: 'no' };
    if (behaviour === 'lying_conflict') return conflict(old === 0 ? 1 : old - 1);
    if (behaviour === 'stubborn_conflict') return conflict(old);
    if (behaviour === 'untyped_conflict') return { ...conflict(0), type: 'text/plain' };

    const vkeys = known.get(checkpoint.origin);
    if (vkeys === undefined) return { status: 404 };
    try {
      openNote(
        note,
        vkeys.map((vkey) => noteVerifier(parseVkey(vkey))),
      );
    } catch {
      return { status: 403 };
    }
    if (old > checkpoint.size) return { status: 400 };
    const state = states.get(checkpoint.origin) ?? { size: 0, root: EMPTY_ROOT };
    if (old !== state.size) return conflict(state.size);
    if (old === checkpoint.size && toHex(state.root) !== toHex(checkpoint.root)) return conflict(state.size);
    try {
      checkConsistency(old, checkpoint.size, state.root, checkpoint.root, path);
    } catch {
      return { status: 422 };
    }
    states.set(checkpoint.origin, { size: checkpoint.size, root: checkpoint.root });
    return { status: 200, body: lines(signer, note.slice(0, note.lastIndexOf('\n\n') + 1)) };
  }

  function lines(own: Cosigner, text: string): string {
    const time = Math.floor(Date.now() / 1000) + self.clockAheadS;
    const other = cosigner('witness.example/other', sha256('other'));
    const good = `${own.cosign(text, time)}\n`;
    switch (self.behaviour) {
      case 'wrong_signature': {
        const base64 = good.trim().split(' ')[2]!;
        const bytes = new Uint8Array(fromBase64(base64));
        bytes[bytes.length - 1]! ^= 1;
        return good.replace(base64, toBase64(bytes));
      }
      case 'other_key':
        return `${other.cosign(text, time)}\n`;
      case 'other_checkpoint':
        return `${own.cosign(text.replace(/\n\d+\n/, '\n999\n'), time)}\n`;
      case 'other_lines_too':
        return `${other.cosign(text, time)}\n${good}${other.cosign(text, time + 1)}\n`;
      case 'no_lines':
        return '';
      case 'garbage':
        return '<html>hello</html>\n';
      case 'no_newline':
        return good.trim();
      default:
        return good;
    }
  }
}

function conflict(size: number): Answer {
  return { status: 409, body: `${size}\n`, type: 'text/x.tlog.size' };
}

interface Submission {
  readonly old: number;
  readonly path: readonly Uint8Array[];
  readonly note: string;
  readonly checkpoint: ReadCheckpoint;
}

/** Reads a request's body strictly, or returns undefined: 400. */
function parse(bytes: Uint8Array): Submission | undefined {
  try {
    const text = fromUtf8(bytes);
    const [head = ''] = text.split('\n\n', 1);
    const note = text.slice(head.length + 2);
    const [first = '', ...hashes] = head.split('\n');
    const [, old] = /^old (0|[1-9][0-9]*)$/.exec(first) ?? [];
    if (old === undefined || hashes.length > 63) return undefined;
    const path = hashes.map(fromBase64);
    if (path.some((hash) => hash.length !== 32)) return undefined;
    const checkpoint = decodeCheckpoint(note.slice(0, note.lastIndexOf('\n\n') + 1));
    return { old: Number(old), path, note, checkpoint };
  } catch (error) {
    if (error instanceof EvidenceError) return undefined;
    throw error;
  }
}
