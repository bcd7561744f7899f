/** Month keys in a folder, and opened data keys: what is destroyed stays so, what is lost is not made anew, and how long an outage is survived. */
import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { StreamRef } from '../src/chain/entry.ts';
import type { KeyProblem, KeyUnavailableError } from '../src/errors.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring, type KeyStore, type StoredKey } from '../src/keys/keyring.ts';
import { type MonthKeys, monthKeyName, parseMonthKey, type WrapOptions } from '../src/keys/month-keys.ts';

const CONTEXT = { stream: 'acme/data_access', dropMonth: 202703 };

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-month-keys-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

async function problemOf(work: Promise<unknown>): Promise<KeyProblem | undefined> {
  const error = await work.then(
    () => expect.fail('it was done'),
    (cause: unknown) => cause,
  );
  expect((error as Error).name).toBe('KeyUnavailableError');
  return (error as KeyUnavailableError).problem;
}

test('names of month keys are of one spelling', () => {
  for (const name of ['202703', '1000012', 'for-ever', '202703.2', '202703.10', 'for-ever.999999']) {
    const { month, generation } = parseMonthKey(name)!;
    expect(monthKeyName(month, generation)).toBe(name);
  }
  for (const name of [
    ...['', '202713', '202700', '20273', '202703.', '202703.1', '202703.0', '202703.02', '202703.2.2', '202703-2'],
    ...['202703.1000000', 'for-ever ', 'Held', '../202703', '202703/2', '202703\n', '1', '0', '202703.destroyed'],
  ])
    expect(parseMonthKey(name), name).toBeUndefined();
});

describe('in a folder', () => {
  test('each generation of a month has a key of its own', async () => {
    const folder = await newFolder();
    const keys = fileMonthKeys(folder);
    const dataKey = randomBytes(32);
    const first = await keys.wrap(dataKey, CONTEXT);
    const third = await keys.wrap(dataKey, CONTEXT, { generation: 3 });
    const ever = await keys.wrap(dataKey, { ...CONTEXT, dropMonth: 0 }, { generation: 2 });
    expect([first, third, ever].map(({ monthKey }) => monthKey)).toEqual([...['202703', '202703.3', 'for-ever.2']]);
    expect((await readdir(folder)).sort()).toEqual(['202703.3.key', '202703.key', 'for-ever.2.key']);
    for (const { monthKey, wrapped } of [first, third])
      expect(Buffer.from(await keys.unwrap(monthKey, wrapped, CONTEXT))).toEqual(dataKey);
    expect(await problemOf(keys.unwrap('202703', third.wrapped, CONTEXT))).toBe('wrong');

    await keys.retire('202703');
    await keys.retire('202703');
    expect(await problemOf(keys.unwrap('202703', first.wrapped, CONTEXT))).toBe('missing');
    expect(Buffer.from(await keys.unwrap('202703.3', third.wrapped, CONTEXT))).toEqual(dataKey);
  });

  test('a month is destroyed with all its generations, and for ever', async () => {
    const folder = await newFolder();
    const keys = fileMonthKeys(folder);
    const dataKey = randomBytes(32);
    const forms = [await keys.wrap(dataKey, CONTEXT), await keys.wrap(dataKey, CONTEXT, { generation: 2 })];
    const next = { ...CONTEXT, dropMonth: 202704 };
    const other = await keys.wrap(dataKey, next);
    const kept = await readFile(join(folder, '202703.key'), 'utf8');

    expect(await keys.destroy('202703.2')).toEqual({});
    expect(await keys.destroy('202703')).toEqual({});
    expect((await readdir(folder)).sort()).toEqual(['202703.destroyed', '202704.key']);
    // Another program on the same folder knows it, too.
    for (const each of [keys, fileMonthKeys(folder)]) {
      for (const { monthKey, wrapped } of forms) {
        expect(await problemOf(each.unwrap(monthKey, wrapped, CONTEXT))).toBe('destroyed');
        await expect(each.unwrap(monthKey, wrapped, CONTEXT)).rejects.toThrow(/202703 is destroyed/);
      }
      for (const options of [{}, { generation: 3 }, { isKnown: true }])
        expect(await problemOf(each.wrap(dataKey, CONTEXT, options))).toBe('destroyed');
      expect(Buffer.from(await each.unwrap(other.monthKey, other.wrapped, next))).toEqual(dataKey);
    }
    // A copy that comes back is not used for anything new, and goes with the next call.
    await writeFile(join(folder, '202703.key'), kept);
    expect(await problemOf(keys.wrap(dataKey, CONTEXT))).toBe('destroyed');
    await keys.destroy('202703');
    expect(await problemOf(keys.unwrap('202703', forms[0]!.wrapped, CONTEXT))).toBe('destroyed');
  });

  test('a month that nothing was wrapped for can be destroyed; what is kept can not', async () => {
    const keys = fileMonthKeys(await newFolder());
    await keys.destroy('202703');
    expect(await problemOf(keys.wrap(randomBytes(32), CONTEXT))).toBe('destroyed');
    for (const name of ['for-ever', 'for-ever.2']) await expect(keys.destroy(name)).rejects.toThrow('comes to its end');
    for (const name of ['../202703', '1', '202703.1']) expect(await problemOf(keys.destroy(name))).toBe('wrong');
  });

  test('what a crash left of destroying is finished by the next call', async () => {
    const folder = await newFolder();
    const keys = fileMonthKeys(folder);
    const { wrapped } = await keys.wrap(randomBytes(32), CONTEXT);
    await writeFile(join(folder, '202703.destroyed'), 'destroyed\n');
    expect(await problemOf(keys.wrap(randomBytes(32), CONTEXT))).toBe('destroyed');
    await keys.destroy('202703');
    expect(await readdir(folder)).toEqual(['202703.destroyed']);
    expect(await problemOf(keys.unwrap('202703', wrapped, CONTEXT))).toBe('destroyed');
  });

  test('a key that was used and is lost is not made anew', async () => {
    const folder = await newFolder();
    const keys = fileMonthKeys(folder);
    await keys.wrap(randomBytes(32), CONTEXT);
    await rename(join(folder, '202703.key'), join(folder, 'away'));
    expect(await problemOf(keys.wrap(randomBytes(32), CONTEXT, { isKnown: true }))).toBe('missing');
    expect(await readdir(folder)).toEqual(['away']);
  });

  test('many who make the same key at once wrap under one', async () => {
    const folder = await newFolder();
    const many = Array.from({ length: 20 }, () => fileMonthKeys(folder));
    const dataKey = randomBytes(32);
    const forms = await Promise.all(many.map((keys) => keys.wrap(dataKey, CONTEXT)));
    for (const { wrapped } of forms)
      expect(Buffer.from(await many[0]!.unwrap('202703', wrapped, CONTEXT))).toEqual(dataKey);
  });

  test('what is damaged is wrong, and what can not be read may be there later', async () => {
    const folder = await newFolder();
    const keys = fileMonthKeys(folder);
    const { wrapped } = await keys.wrap(randomBytes(32), CONTEXT);
    for (let at = 0; at < wrapped.length; at++) {
      const bent = Buffer.from(wrapped);
      bent[at]! ^= 1;
      expect(await problemOf(keys.unwrap('202703', bent, CONTEXT))).toBe('wrong');
    }
    for (const cut of [wrapped.subarray(1), wrapped.subarray(0, -1), Buffer.alloc(0)])
      expect(await problemOf(keys.unwrap('202703', cut, CONTEXT))).toBe('wrong');
    for (const other of [{ stream: 'acme/data_acces' }, { dropMonth: 202704 }])
      expect(await problemOf(keys.unwrap('202703', wrapped, { ...CONTEXT, ...other }))).toBe('wrong');
    const path = join(folder, '202703.key');
    const text = await readFile(path, 'utf8');
    for (const damaged of ['', text.trim(), text.toUpperCase(), `${text}\n`, `0${text}`]) {
      await writeFile(path, damaged);
      expect(await problemOf(keys.unwrap('202703', wrapped, CONTEXT))).toBe('wrong');
      expect(await problemOf(keys.wrap(randomBytes(32), CONTEXT))).toBe('wrong');
    }
    // A folder in place of the file: as root, no mode keeps us from reading.
    await rm(path);
    await chmod(folder, 0o700);
    await rename(await newFolder(), path);
    expect(await problemOf(keys.unwrap('202703', wrapped, CONTEXT))).toBe('unreachable');
  });
});

describe('opened keys', () => {
  const stream = { id: 7, name: CONTEXT.stream } as StreamRef;
  const HOUR = 3_600_000;

  /** A keyring over a folder, with a clock that the test sets; `away` takes the folder from where it is. */
  async function opened(cacheMs = 24 * HOUR) {
    const folder = await newFolder();
    const keys = fileMonthKeys(folder);
    const clock = { now: 0 };
    const uses = { wrap: 0, unwrap: 0 };
    let over = 0;
    let isAway = false;
    const counted: MonthKeys = {
      ...keys,
      wrap: (...given) => {
        uses.wrap += 1;
        return keys.wrap(...given);
      },
      unwrap: (...given) => {
        uses.unwrap += 1;
        return keys.unwrap(...given).finally(() => {
          over += 1;
        });
      },
    };
    const rows = new Map<string, StoredKey>();
    const store: KeyStore = {
      findOrStore: async (
        _,
        dropMonth,
        make: (options?: WrapOptions) => Promise<StoredKey | { monthKey: string; wrapped: Uint8Array }>,
      ) => {
        const id = String(dropMonth);
        const row = rows.get(id) ?? { id, ...(await make()) };
        rows.set(id, row);
        return row;
      },
      byId: async (id) => {
        const row = rows.get(id);
        return row && { ...row, stream: CONTEXT.stream, dropMonth: Number(id) };
      },
    };
    return {
      ...{ folder, keys, clock, uses, rows },
      keyring: new Keyring(counted, store, { cacheMs, monotonic: () => clock.now }),
      /** Renewing is not waited for by who asks. */
      settled: () => expect.poll(() => over, { interval: 2 }).toBe(uses.unwrap),
      /** A file where the folder was: nothing in it can be reached, and nothing can be said of it. */
      async away(is: boolean) {
        if (is === isAway) return;
        isAway = is;
        if (is) {
          await rename(folder, `${folder}.away`);
          await writeFile(folder, '');
        } else {
          await rm(folder);
          await rename(`${folder}.away`, folder);
        }
      },
    };
  }

  test('are opened once, for whoever asks and however', async () => {
    const { keyring, uses } = await opened();
    const all = await Promise.all(Array.from({ length: 20 }, () => keyring.keysFor(stream, 202703)));
    expect(new Set(all).size).toBe(1);
    expect(await keyring.keysById('202703')).toBe(all[0]);
    expect(uses).toEqual({ wrap: 1, unwrap: 1 });
  });

  test('work through an outage for the stated time after they were last opened, and no longer', async () => {
    const { keyring, clock, away, uses } = await opened();
    const { dataKey } = await keyring.keysFor(stream, 202703);
    await away(true);
    for (clock.now = 0; clock.now < 24 * HOUR; clock.now += HOUR / 2) {
      expect((await keyring.keysFor(stream, 202703)).dataKey).toBe(dataKey);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    // Who asks does not wait for what is tried in the background, about each hour.
    expect(uses.unwrap).toBeGreaterThan(20);
    expect(uses.unwrap).toBeLessThan(60);
    clock.now = 24 * HOUR;
    for (const ask of [() => keyring.keysFor(stream, 202703), () => keyring.keysById('202703')])
      expect(await problemOf(ask())).toBe('unreachable');
    expect(await problemOf(keyring.keysFor(stream, 202704))).toBe('unreachable');

    await away(false);
    expect(Buffer.from((await keyring.keysFor(stream, 202703)).dataKey)).toEqual(Buffer.from(dataKey));
    await keyring.keysFor(stream, 202704);
  });

  test('in use, are renewed long before their end', async () => {
    const { keyring, clock, away, settled } = await opened();
    await keyring.keysFor(stream, 202703);
    for (clock.now = 0; clock.now <= 23 * HOUR; clock.now += HOUR) {
      await keyring.keysFor(stream, 202703);
      // The look at the store comes before.
      await nextTurn();
      await settled();
    }
    await away(true);
    clock.now = 46 * HOUR;
    await keyring.keysFor(stream, 202703);
    clock.now = 48 * HOUR;
    expect(await problemOf(keyring.keysFor(stream, 202703))).toBe('unreachable');
    await away(false);
  });

  test('end at the next look where their month key was destroyed, and at once for who is told', async () => {
    const { keyring, clock, keys } = await opened();
    await keyring.keysFor(stream, 202703);
    await keys.destroy('202703');
    expect(await keyring.keysById('202703')).toBeDefined();
    clock.now = HOUR;
    await keyring.keysById('202703');
    await expect
      .poll(() => keyring.keysById('202703').catch((error: KeyUnavailableError) => error.problem))
      .toBe('destroyed');

    await keyring.keysFor(stream, 202704);
    await keys.destroy('202704');
    await keyring.forget(202704);
    expect(await problemOf(keyring.keysFor(stream, 202704))).toBe('destroyed');
  });

  test('open by the newest form that opens: a false one added later keeps none from it', async () => {
    const { keyring, rows, keys, clock } = await opened();
    const { dataKey } = await keyring.keysFor(stream, 202703);
    const row = rows.get('202703')!;
    const second = await keys.wrap(dataKey, CONTEXT, { generation: 2 });
    // That a month was destroyed says nothing of others.
    await keys.destroy('202001');
    const forms = [
      { monthKey: '202001.3', wrapped: second.wrapped },
      { monthKey: '../../etc/passwd', wrapped: second.wrapped },
      { monthKey: '202703.9', wrapped: second.wrapped },
      { monthKey: '202703.2', wrapped: row.wrapped },
      second,
    ];
    rows.set('202703', { ...row, rewrapped: forms });
    for (const retired of ['202703.7', '202703']) {
      await keys.retire(retired);
      clock.now += 24 * HOUR;
      expect(Buffer.from((await keyring.keysById('202703')).dataKey)).toEqual(Buffer.from(dataKey));
    }
    rows.set('202703', { ...row, rewrapped: forms.slice(0, 4) });
    clock.now += 24 * HOUR;
    expect(await problemOf(keyring.keysById('202703'))).toBe('wrong');
  });

  test('a failure is forgotten, and so is a key that is not there', async () => {
    const { keyring, away } = await opened();
    expect(await problemOf(keyring.keysById('9'))).toBe('missing');
    await away(true);
    expect(await problemOf(keyring.keysFor(stream, 202703))).toBe('unreachable');
    await away(false);
    await keyring.keysFor(stream, 202703);
  });
});
