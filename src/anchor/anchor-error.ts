/** Why an anchor could not be had. The message is for the operator: what is wrong, and what he can do about it. */
export class AnchorError extends Error {
  override readonly name = 'AnchorError';
  /**
   * Whether this is not trouble on the way but a sign that the log is not what it was: two checkpoints of one size, or
   * an outside party that has seen more of the log than there is.
   */
  readonly alarm: boolean;

  constructor(message: string, { alarm = false, cause }: { alarm?: boolean; cause?: unknown } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.alarm = alarm;
  }
}
