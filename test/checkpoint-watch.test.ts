/** Who waits for a checkpoint, and how many of one tenant do. */
import { expect, onTestFinished, test } from 'vitest';
import { CheckpointWatch } from '../src/ingest/checkpoint-watch.ts';

const ROOM = 100;

function begin(): { watch: CheckpointWatch; sign: (stream: string, size: number) => void } {
  const signed = new Map<string, number>();
  const watch = new CheckpointWatch({
    find: async (streams) =>
      streams.flatMap((stream) =>
        signed.has(stream) ? [{ stream, size: signed.get(stream)!, note: `${stream} ${signed.get(stream)}` }] : [],
      ),
    everyMs: 10,
    waitMaxMs: 60_000,
    waitersMax: ROOM,
  });
  onTestFinished(() => watch.close());
  return { watch, sign: (stream, size) => signed.set(stream, size) };
}

/** Says how many of these still wait. */
async function waiting(answers: readonly Promise<string | undefined>[]): Promise<number> {
  const open = Symbol('open');
  const states = await Promise.all(answers.map((answer) => Promise.race([answer, Promise.resolve(open)])));
  return states.filter((state) => state === open).length;
}

test('one tenant can not take all places, and whoever comes next still finds some', async () => {
  const { watch, sign } = begin();
  const many = (tenant: string, streams: number) =>
    Array.from({ length: 2 * ROOM }, (_, n) => watch.wait(tenant, `${tenant}/s${n % streams}`, 1));
  // Over however many streams.
  const flood = many('acme', 6);
  expect(await waiting(flood)).toBe((ROOM * 4) / 5);
  // Who finds no place is answered at once, without.
  expect(await flood.at(-1)).toBeUndefined();
  const others = ['initech', 'globex', 'hooli'].map((tenant) => watch.wait(tenant, `${tenant}/s0`, 1));
  expect(await waiting(others)).toBe(3);
  sign('initech/s0', 1);
  expect(await others[0]).toBe('initech/s0 1');

  // What was answered gives its place back.
  for (let n = 0; n < 6; n++) sign(`acme/s${n}`, 1);
  await Promise.all(flood);
  const again = Array.from({ length: 2 * ROOM }, () => watch.wait('acme', 'acme/s0', 2));
  // Two others hold a place each: 78 are no more than four times the 20 that are left.
  expect(await waiting(again)).toBe(78);
  watch.close();
  expect(await Promise.all(again)).toEqual(again.map(() => undefined));
  expect(await Promise.all(others)).toEqual(['initech/s0 1', undefined, undefined]);
});
