/** Events with a hostile string in every field that takes one; what else they need is in order. */
import type { JsonObject, JsonValue } from '../../src/chain/canonical.ts';
import { CATEGORIES, OUTCOMES } from '../../src/chain/category.ts';
import { hostileString } from './hostile-strings.ts';

const ID_CHARS = 'ABCXYZabcxyz0123456789._:~-';
const ACTIONS = [
  'user.login',
  'role.update',
  'api_key.create',
  'data.export',
  'service.stop',
  `a.${'b'.repeat(61)}`,
  'user.lock',
];
const TIMES = [
  '2026-11-22T21:04:05.123+01:00',
  '0001-01-01T00:00:00Z',
  '9999-12-31T23:59:59.999999999Z',
  '1969-12-31T23:59:59.5-00:00',
  '2026-02-28T23:00:00.123456-09:30',
];
const IPS = ['192.0.2.17', '2001:db8::17', 'fe80::1%eth0', '::ffff:192.0.2.1', '010.0.0.1', '10.0.0.1:443'];

export function hostileEvent(random: () => number): JsonObject {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const text = (max: number): string => hostileString(random, max);
  const maybe = (name: string, value: () => JsonValue): JsonObject => (random() < 0.6 ? { [name]: value() } : {});
  const type = (): string => (random() < 0.5 ? pick(['user', 'service_account', 'role', 'team', 'system']) : text(128));
  const value = (depth = 0): JsonValue => {
    const kind = Math.floor(random() * (depth < 3 ? 7 : 4));
    if (kind === 0) return pick([null, true, 0, -1.5, 1e30, Number.MAX_SAFE_INTEGER]);
    if (kind < 4) return text(kind === 3 ? 5000 : 100);
    if (kind === 4) return [value(depth + 1), value(depth + 1)];
    return object(depth + 1);
  };
  const object = (depth = 0): JsonObject =>
    Object.fromEntries(
      Array.from({ length: Math.floor(random() * 4) }, () => [text(60), value(depth)] as const).filter(
        ([name]) => name !== '__proto__',
      ),
    );
  const idLength = pick([1, 36, 39, 40, 41, 128]);
  return {
    id: `i${Array.from({ length: idLength - 1 }, () => pick([...ID_CHARS])).join('')}`,
    category: pick(CATEGORIES),
    action: pick(ACTIONS),
    outcome: pick(OUTCOMES),
    ...maybe('severity', () => Math.floor(random() * 11)),
    occurredAt: pick(TIMES),
    source: {
      service: text(256),
      ...maybe('host', () => text(256)),
      ...maybe('site', () => text(256)),
      ...maybe('zone', () => text(256)),
    },
    ...maybe('actor', () => ({
      type: type(),
      id: text(1024),
      ...maybe('name', () => text(1024)),
      ...maybe('email', () => (random() < 0.5 ? 'a.b@example.com' : text(320))),
      ...maybe('ip', () => (random() < 0.7 ? pick(IPS) : text(128))),
      ...maybe('sessionId', () => text(1024)),
      ...maybe('userAgent', () => text(4096)),
      ...maybe('roles', () => Array.from({ length: Math.floor(random() * 4) }, () => text(256))),
    })),
    ...maybe('target', () => ({ type: type(), id: text(4096), ...maybe('name', () => text(4096)) })),
    ...maybe('reason', () => text(4096)),
    ...maybe('changes', () =>
      random() < 0.3
        ? { diff: [{ op: 'replace', path: `/${text(50).replace(/[~/]/g, '')}`, value: value() }] }
        : { before: random() < 0.2 ? null : value(), after: random() < 0.2 ? null : value() },
    ),
    ...maybe('details', () => object()),
    ...maybe('raw', () =>
      random() < 0.2 ? { base64: Buffer.from(text(3000)).toString('base64') } : random() < 0.05 ? '' : text(9000),
    ),
  };
}
