/** An entry whose least form is longer than its destination takes: nothing that a retry could mend. */
export class TooLongError extends Error {
  override readonly name = 'TooLongError';
  /** Bytes that the least form takes, and bytes that there are. */
  readonly neededBytes: number;
  readonly maxBytes: number;

  constructor(neededBytes: number, maxBytes: number) {
    super(`the entry takes ${neededBytes} bytes with everything left out that can be, and ${maxBytes} is the maximum`);
    this.neededBytes = neededBytes;
    this.maxBytes = maxBytes;
  }
}
