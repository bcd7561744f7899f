/** What a pruning needs is not there yet; `soon` where it comes by itself. */
export class NotYet extends Error {
  override readonly name = 'NotYet';
  readonly progress: 'soon' | 'later';

  constructor(message: string, progress: 'soon' | 'later') {
    super(message);
    this.progress = progress;
  }
}
