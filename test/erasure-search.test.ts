/** Searches for persons, by whoever asks for more of them than anybody can look through. */
import { expect, test } from 'vitest';
import { utf8 } from '../src/chain/bytes.ts';
import { canonicalText } from '../src/chain/canonical.ts';
import type { Entry } from '../src/chain/open-block.ts';
import { ErasureSearch, type SearchDeps, type Wanted } from '../src/retention/erasure-search.ts';
import { PersonFinder } from '../src/retention/person.ts';

const OPENED = { dataKey: new Uint8Array(32), tagKey: new Uint8Array(32) };

test.each([
  ['as it stands', 'login of Zoë Weiß, refused'],
  ['percent-encoded', 'GET /users?name=Zo%C3%AB%20Wei%c3%9f&page=2'],
  ['with a plus for the space', 'GET /users?name=Zo%C3%AB+Wei%C3%9F'],
  ['escaped, in JSON', '{"user":"Zo\\u00eb Wei\\u00DF"}'],
  ['in another normal form', 'login of Zoe\u0308 Weiß'],
  ['as an address', 'GET /reset?to=zoe%40example.com HTTP/1.1'],
])('a person is found %s', (_, raw) => {
  const finder = new PersonFinder({ name: 'Zoë Weiß', email: 'zoe@example.com' });
  const part = (text: string) => ({ name: 'raw', salt: new Uint8Array(16), value: utf8(canonicalText(text)) }) as const;
  const partsIn = (text: string) => finder.partsIn({ parts: [part(text)] } as unknown as Entry, true);
  expect(partsIn(raw)).toEqual(['raw']);
  expect(partsIn(raw.replaceAll(/Wei|zoe/g, 'X$&'))).toEqual([]);
});

/** A search whose ends are noted; what it asks the database for is answered in turn, and from then on as the last time. */
function searching(add: SearchDeps['add'] = async () => true) {
  const ended: string[] = [];
  const search = new ErasureSearch({
    keys: { keysById: async () => OPENED },
    refusalsOf: async () => new Map(),
    add,
    end: async ({ id }, state) => void ended.push(`${id} ${state}`),
    log: { warn: () => {} },
  });
  const wanted = (id: string, tenantId: number, ...answers: (() => unknown)[]): Wanted => ({
    ...{ id, tenantId, person: { id: 'u-17' }, parts: undefined, isFull: true },
    ask: async () => (answers.length > 1 ? answers.shift()! : answers[0]!)() as never,
  });
  return { search, ended, wanted };
}

test('of one tenant are bounded, and keep those of another from nothing', async () => {
  const { search, ended, wanted } = searching();
  const gate = Promise.withResolvers<never[]>();
  for (let n = 0; n < 20; n++) {
    expect(search.hasRoom(1)).toBe(true);
    search.start(wanted(`a${n}`, 1, () => gate.promise));
  }
  expect([search.hasRoom(1), search.hasRoom(2)]).toEqual([false, true]);
  search.start(wanted('b', 2, () => []));
  await expect.poll(() => ended).toEqual(['b found']);
  gate.resolve([]);
  await expect.poll(() => ended.length).toBe(21);
  expect([ended.slice(1, 3), search.hasRoom(1)]).toEqual([['a0 found', 'a1 found'], true]);
  await search.close();
});

test('end when nobody decides on what they find any more', async () => {
  let looks = 0;
  const { search, ended, wanted } = searching(async () => ++looks < 3);
  const stream = { id: 1, name: 'acme/data_access', category: 'data_access' };
  const scan = { blocks: [], looked: 32, lastFirstSeq: 0 };
  const months = [{ streamId: 1, dropMonth: 202701, keyId: '1' }];
  search.start(
    wanted(
      'a',
      1,
      () => [stream],
      () => months,
      () => scan,
    ),
  );
  await expect.poll(() => ended).toEqual(['a failed']);
  expect(looks).toBe(3);
  await search.close();
});
