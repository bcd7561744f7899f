/**
 * COPY over the driver's connection: `COPY … TO STDOUT` as a stream to read, `COPY … FROM STDIN` from one. The driver brings the messages and
 * leaves what becomes of them to whoever submits the statement. Neither side holds more than a few hundred kilobytes: a reader that is slow
 * stops the socket, and so the server.
 */
import { once } from 'node:events';
import { Readable } from 'node:stream';
import type pg from 'pg';

/** What the driver has and its types do not name. */
interface CopyConnection {
  readonly stream: NodeJS.ReadableStream & {
    readonly writableNeedDrain: boolean;
    destroy(error?: Error): void;
  };
  query(text: string): void;
  sendCopyFromChunk(chunk: Uint8Array): void;
  endCopyFrom(): void;
  sendCopyFail(reason: string): void;
}

/** Rows are a message each: they are joined to pieces of this size. */
const PIECE_BYTES = 256 * 1024;

/** Called by the driver as the answer comes in; what a COPY has no use for is passed over. */
abstract class CopyStatement {
  readonly #text: string;
  #settle: { resolve: (rows: number) => void; reject: (error: unknown) => void } | undefined;
  #rows = 0;
  #error: unknown;
  /** Rows that the server counted. Rejects with what the server, or the connection, says. */
  readonly done: Promise<number>;

  constructor(text: string) {
    this.#text = text;
    this.done = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whoever waits for the stream hears of it there.
    this.done.catch(() => {});
  }

  submit(connection: CopyConnection): void {
    connection.query(this.#text);
  }

  handleCommandComplete({ text }: { text: string }): void {
    this.#rows = Number(/^COPY (\d+)$/.exec(text)?.[1] ?? 0);
  }

  /** The connection is no further before this, so a failure counts from here on too. */
  handleReadyForQuery(): void {
    if (this.#error === undefined) this.#settle?.resolve(this.#rows);
    else this.#settle?.reject(this.#error);
  }

  handleError(error: unknown): void {
    this.#error ??= error;
    // Behind an error the driver calls nobody again.
    this.#settle?.reject(this.#error);
  }

  handleRowDescription(): void {}
  handleDataRow(): void {}
  handleEmptyQuery(): void {}
  handlePortalSuspended(): void {}
  handleCopyData(_message: { chunk: Buffer }, _connection: CopyConnection): void {}
  handleCopyInResponse(connection: CopyConnection): void {
    connection.sendCopyFail('nothing was to be sent');
  }
}

class CopyOut extends CopyStatement {
  readonly stream: Readable;
  #connection: CopyConnection | undefined;
  #pieces: Buffer[] = [];
  #bytes = 0;

  #isAnswered = false;

  constructor(text: string) {
    super(text);
    this.stream = new Readable({
      read: () => void this.#connection?.stream.resume(),
      // Where somebody stops reading, what is still to come would be taken for the next statement's answer.
      destroy: (error, callback) => {
        if (!this.#isAnswered) this.#connection?.stream.destroy();
        callback(error);
      },
    });
    // Nobody may ask for more of this one, and the next statement is answered over the same socket.
    const answered = (): void => {
      this.#isAnswered = true;
      this.#connection?.stream.resume();
    };
    this.done.then(
      () => {
        answered();
        this.#flush();
        this.stream.push(null);
      },
      (error) => {
        answered();
        this.stream.destroy(error as Error);
      },
    );
  }

  override submit(connection: CopyConnection): void {
    this.#connection = connection;
    super.submit(connection);
  }

  override handleCopyData({ chunk }: { chunk: Buffer }, connection: CopyConnection): void {
    // A view of a buffer that the driver writes to again.
    this.#pieces.push(Buffer.from(chunk));
    this.#bytes += chunk.length;
    if (this.#bytes >= PIECE_BYTES && !this.#flush()) connection.stream.pause();
  }

  #flush(): boolean {
    if (this.#bytes === 0) return true;
    const piece = Buffer.concat(this.#pieces);
    this.#pieces = [];
    this.#bytes = 0;
    return this.stream.push(piece);
  }
}

class CopyIn extends CopyStatement {
  readonly #source: AsyncIterable<Uint8Array>;
  #failed = false;

  constructor(text: string, source: AsyncIterable<Uint8Array>) {
    super(text);
    this.#source = source;
  }

  override handleCopyInResponse(connection: CopyConnection): void {
    void this.#send(connection);
  }

  override handleError(error: unknown): void {
    this.#failed = true;
    super.handleError(error);
  }

  async #send(connection: CopyConnection): Promise<void> {
    try {
      for await (const chunk of this.#source) {
        if (this.#failed) return;
        connection.sendCopyFromChunk(chunk);
        if (connection.stream.writableNeedDrain)
          await Promise.race([once(connection.stream, 'drain'), this.done.catch(() => {})]);
      }
      if (!this.#failed) connection.endCopyFrom();
    } catch (error) {
      super.handleError(error);
      connection.sendCopyFail('the source of the rows failed');
    }
  }
}

/** Runs `COPY … TO STDOUT`. The stream MUST be read to its end before the connection is used again; destroying it ends the connection. */
export function copyOut(
  client: pg.ClientBase,
  text: string,
): { readonly stream: Readable; readonly rows: Promise<number> } {
  const statement = new CopyOut(text);
  client.query(statement as unknown as pg.Submittable);
  return { stream: statement.stream, rows: statement.done };
}

/** Runs `COPY … FROM STDIN` with all of a source; returns the number of rows. Throws what the server says, or what the source threw. */
export async function copyIn(client: pg.ClientBase, text: string, source: AsyncIterable<Uint8Array>): Promise<number> {
  const statement = new CopyIn(text, source);
  client.query(statement as unknown as pg.Submittable);
  return statement.done;
}
