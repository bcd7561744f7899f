/**
 * A queue that many owners share and none can fill with his own: owners take turns, and each owner's items keep their order.
 *
 * In a turn an owner may give items worth `quantum`. An item may be worth more than is left of a turn: it is given all the same, and the
 * next turns of its owner pay for it ("surplus round robin": deficit round robin of Shreedhar and Varghese, SIGCOMM 1995, with the
 * deficit paid afterwards, so that what an item is worth need not fit the quantum). Over time each owner that has something waiting gets the same,
 * whether he brings it in large items or small ones. An owner with nothing waiting neither saves up nor owes.
 *
 * Taking an item costs the same however many owners wait, but for turns that only pay: worth of the largest item ÷ quantum of each owner at most.
 */
interface Lane<Item> {
  readonly items: { readonly item: Item; readonly worth: number }[];
  /** Of the first item that is still there. */
  head: number;
  credit: number;
}

/** Taken items at the front of a lane are let go when there are so many, and more of them than of what waits. */
const TAKEN_MAX = 1024;

export class FairQueue<Item> {
  readonly #quantum: number;
  /** In the order of turns: the first owner's turn it is. */
  readonly #lanes = new Map<number | string, Lane<Item>>();
  #length = 0;

  constructor(quantum: number) {
    this.#quantum = quantum;
  }

  get length(): number {
    return this.#length;
  }

  push(owner: number | string, item: Item, worth: number): void {
    let lane = this.#lanes.get(owner);
    if (lane === undefined) {
      lane = { items: [], head: 0, credit: this.#quantum };
      this.#lanes.set(owner, lane);
    }
    lane.items.push({ item, worth });
    this.#length += 1;
  }

  /** Returns what `shift` would take, and leaves it: whoever finds it too large for now finds it first the next time. */
  peek(): Item | undefined {
    return this.#next()?.[1].item;
  }

  shift(): Item | undefined {
    const next = this.#next();
    if (next === undefined) return undefined;
    const [owner, { item, worth }] = next;
    const lane = this.#lanes.get(owner)!;
    lane.credit -= worth;
    lane.head += 1;
    this.#length -= 1;
    if (lane.head === lane.items.length) {
      this.#lanes.delete(owner);
    } else if (lane.head > TAKEN_MAX && lane.head > lane.items.length / 2) {
      lane.items.splice(0, lane.head);
      lane.head = 0;
    }
    return item;
  }

  #next(): [owner: number | string, first: { readonly item: Item; readonly worth: number }] | undefined {
    for (const [owner, lane] of this.#lanes) {
      // Nobody else waits for what he would pay.
      if (this.#lanes.size === 1) lane.credit = this.#quantum;
      if (lane.credit > 0) return [owner, lane.items[lane.head]!];
      // His turn is over; it is the next one's. (A map visits what was taken out and put in again while it is walked.)
      lane.credit += this.#quantum;
      this.#lanes.delete(owner);
      this.#lanes.set(owner, lane);
    }
    return undefined;
  }
}
