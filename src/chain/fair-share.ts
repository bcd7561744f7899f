/**
 * How much of a room that many share one of them may take, so that whoever comes next still finds some.
 *
 * Nobody may hold more than `FACTOR` times what is still free ("dynamic thresholds" of Choudhury and Hahne, IEEE/ACM Transactions on
 * Networking 1998). Nobody needs to know who else there is: one who is alone can take FACTOR ÷ (FACTOR + 1) of the room, n who all want as much as they
 * can get take FACTOR ÷ (n · FACTOR + 1) each, and something is free at any time. Who held much when others came gets no more until he is down to that.
 */

/** Four: one who is alone can take four fifths; two take four ninths each and leave one ninth. */
const FACTOR = 4;

/** What one may take of a room, when he is alone in it. */
export const SHARE_ALONE = FACTOR / (FACTOR + 1);

/** Says whether one who holds `own` of the `all` that is held may take `more`, in a room of so much. */
export function isWithinShare(own: number, all: number, more: number, room: number): boolean {
  return own + more <= FACTOR * (room - all - more);
}
