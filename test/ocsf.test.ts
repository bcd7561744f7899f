/** OCSF: real, generated and hostile events against the compiled classes of 1.8.0, and which class an event gets. */
import { describe, expect, it } from 'vitest';
import type { JsonObject } from '../src/chain/canonical.ts';
import { entryText } from '../src/chain/entry-view.ts';
import { OCSF_CLASSES, ocsfText } from '../src/export/ocsf.ts';
import { TooLongError } from '../src/export/too-long-error.ts';
import { corpusEvents, manyOf, TEST_DATA } from './support/corpus.ts';
import { generateEvents } from './support/events.ts';
import { type EntryOptions, exportedEntry, exportedStream } from './support/exported.ts';
import { hostileEvent } from './support/hostile-events.ts';
import { seededRandom } from './support/hostile-strings.ts';
import { ocsfProblems, readOcsfSchema } from './support/ocsf-validator.ts';

const LOGIN: JsonObject = {
  id: 'login-1',
  category: 'user_authentication',
  action: 'user.login',
  outcome: 'failure',
  occurredAt: '2026-11-22T21:04:05.123+01:00',
  source: { service: 'identity', host: 'idp-2', site: 'plant-7', zone: 'L3' },
  actor: {
    type: 'user',
    id: 'u-4711',
    name: 'M. Kern',
    email: 'm.kern@example.com',
    ip: '192.0.2.17',
    sessionId: 's-1',
    userAgent: 'curl',
  },
  details: { method: 'password' },
  raw: 'a line\n',
};

function ocsf(event: JsonObject, options?: EntryOptions): JsonObject & { unmapped: JsonObject; metadata: JsonObject } {
  return JSON.parse(ocsfText(exportedEntry(event, options)));
}

/** An event of a category with an action and a target. */
function acted(category: string, action: string, target?: JsonObject, more: JsonObject = {}): JsonObject {
  const { raw: _raw, ...event } = LOGIN;
  return { ...event, category, action, ...(target === undefined ? {} : { target }), ...more };
}

if (TEST_DATA === undefined)
  process.stderr.write(
    'ocsf.test.ts leaves out what is valid: SEALOG_TEST_DATA names no folder with the compiled classes\n',
  );

describe.skipIf(TEST_DATA === undefined)('every event is valid', () => {
  const schema = TEST_DATA === undefined ? undefined : readOcsfSchema(TEST_DATA);

  it('of the real ones, and nothing of it is lost', { timeout: 120_000 }, () => {
    const classes = new Map<number, number>();
    let count = 0;
    for (const exported of exportedStream(corpusEvents())) {
      const text = ocsfText(exported);
      const event = JSON.parse(text);
      const problems = ocsfProblems(schema!, event);
      expect(problems, text.slice(0, 1000)).toEqual([]);
      const whole = event.raw_data === undefined ? event.unmapped : { ...event.unmapped, raw: event.raw_data };
      // The same members, `raw` at another place.
      expect(sorted(whole)).toBe(sorted(JSON.parse(entryText(exported.entry, exported.stream.category))));
      classes.set(event.class_uid, (classes.get(event.class_uid) ?? 0) + 1);
      count += 1;
    }
    expect(count).toBeGreaterThan(manyOf(80_000));
    expect([...classes.keys()].sort()).toEqual([2004, 3001, 3002, 3004, 3006, 6002, 6003]);
  });

  it('of generated ones, of each category, with parts erased and without what their category demands', () => {
    const erasable = ['actor', 'changes', 'details', 'raw', 'reason', 'target'] as const;
    for (const [index, event] of generateEvents({ seed: 5, count: 3000 }).entries()) {
      const erased = erasable.filter((_, bit) => (index >> bit) & 1);
      const exported = exportedEntry(event as unknown as JsonObject, {
        erased,
        ...(index % 3 === 0 ? { evidence: 'incomplete' } : {}),
      });
      expect(ocsfProblems(schema!, JSON.parse(ocsfText(exported)))).toEqual([]);
    }
    for (const category of [
      'user_authentication',
      'data_access',
      'configuration_change',
      'security_event',
      'log_administration',
      'anchor',
    ])
      expect(
        ocsfProblems(
          schema!,
          ocsf({
            id: 'x',
            category,
            action: 'a.b',
            outcome: 'unknown',
            occurredAt: '0001-01-01T00:00:00Z',
            source: { service: 's' },
          }),
        ),
      ).toEqual([]);
  });

  it('of hostile ones, whole and shortened', { timeout: 120_000 }, () => {
    const random = seededRandom(20_261_122);
    let shortened = 0;
    for (let i = 0; i < manyOf(10_000); i++) {
      const exported = exportedEntry(hostileEvent(random));
      const text = ocsfText(exported);
      expect(text).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/);
      expect(ocsfProblems(schema!, JSON.parse(text)), text.slice(0, 1000)).toEqual([]);
      try {
        const short = ocsfText(exported, 2500);
        expect(Buffer.byteLength(short)).toBeLessThanOrEqual(2500);
        expect(ocsfProblems(schema!, JSON.parse(short))).toEqual([]);
        if (short !== text) shortened += 1;
      } catch (error) {
        expect(error).toBeInstanceOf(TooLongError);
      }
    }
    expect(shortened).toBeGreaterThan(manyOf(2000));
  });

  it.each([
    ['an unknown member', { nonsense: 1 }],
    ['a wrong type', { time: 'now' }],
    ['an activity that the class has not', { activity_id: 7000 }],
    ['a caption of another number', { severity: 'Fatal' }],
    ['a missing member', { user: undefined }],
    ['an object without what it needs', { user: { type: 'user' } }],
    ['an object with a member it has not', { user: { uid: 'u', nonsense: 1 } }],
    ['no service and no destination', { service: undefined, dst_endpoint: undefined }],
    ['an address that is none', { src_endpoint: { ip: 'here' } }],
    ['a member of a profile that is not named', { device: { type_id: 0, name: 'x' } }],
    ['another category', { category_uid: 6 }],
  ])('and the validator sees %s', (_name, change) => {
    expect(ocsfProblems(schema!, ocsf(LOGIN))).toEqual([]);
    expect(ocsfProblems(schema!, JSON.parse(JSON.stringify({ ...ocsf(LOGIN), ...change }))).length).toBeGreaterThan(0);
  });
});

describe('an event', () => {
  it('stands in its members', () => {
    const event = ocsf(LOGIN, { seq: 17, previous: 'ab'.repeat(32) });
    const { hash } = event.unmapped['log'] as { hash: string };
    expect(event).toMatchObject({
      class_uid: 3002,
      category_uid: 3,
      activity_id: 1,
      activity_name: 'Logon',
      type_uid: 300201,
      time: Date.UTC(2026, 10, 22, 20, 4, 5, 123),
      timezone_offset: 60,
      severity_id: 3,
      status: 'Failure',
      status_id: 2,
      message: 'User login',
      user: { uid: 'u-4711', name: 'M. Kern', type: 'user', email_addr: 'm.kern@example.com' },
      service: { name: 'identity' },
      src_endpoint: { ip: '192.0.2.17' },
      dst_endpoint: { svc_name: 'identity', hostname: 'idp-2', zone: 'L3' },
      session: { uid: 's-1' },
      http_request: { user_agent: 'curl' },
      raw_data: 'a line\n',
      metadata: {
        version: '1.8.0',
        product: { name: 'Sealog', vendor_name: 'Sealog', version: '1' },
        uid: hash,
        original_event_uid: 'login-1',
        sequence: 17,
        tenant_uid: 'acme',
        log_name: 'acme/user_authentication',
        event_code: 'user.login',
        original_time: '2026-11-22T21:04:05.123+01:00',
        logged_time: Date.UTC(2026, 10, 22, 20, 4, 5, 310),
        labels: ['severity:default'],
      },
    });
    const { raw: _raw, ...sent } = LOGIN;
    const { log, ...unmapped } = event.unmapped;
    expect(unmapped).toEqual(sent);
    expect(log).toMatchObject({ seq: 17, previous: 'ab'.repeat(32) });
  });

  it('says what was erased, and does not invent it', () => {
    const event = ocsf(LOGIN, { erased: ['actor', 'raw'] });
    expect(event).toMatchObject({
      user: { name: '(erased)' },
      metadata: { labels: ['severity:default', 'erased:actor,raw'] },
    });
    expect(event['actor']).toBeUndefined();
    expect(event['raw_data']).toBeUndefined();
    expect(event['src_endpoint']).toBeUndefined();
    expect(event.unmapped['log']).toMatchObject({ erased: ['actor', 'raw'] });
    const { actor: _actor, ...nobody } = LOGIN;
    expect(ocsf(nobody, { evidence: 'incomplete' })).toMatchObject({
      user: { name: '(not given)' },
      metadata: { labels: ['severity:default', 'evidence:incomplete'] },
    });
  });

  it('says what was left out, the largest first and the actor last', () => {
    const exported = exportedEntry({ ...LOGIN, raw: 'x'.repeat(5000), details: { y: 'y'.repeat(3000) } });
    const whole = ocsfText(exported);
    expect(ocsfText(exported, Buffer.byteLength(whole))).toBe(whole);
    const omitted = (max: number) => JSON.parse(ocsfText(exported, max)).unmapped.log.omitted;
    expect(omitted(Buffer.byteLength(whole) - 1)).toEqual(['raw']);
    expect(omitted(4000)).toEqual(['details', 'raw']);
    const least = JSON.parse(ocsfText(exported, 1750));
    expect(least).toMatchObject({
      user: { name: '(omitted)' },
      metadata: { is_truncated: true, labels: ['severity:default', 'omitted:actor,details,raw'] },
      unmapped: { log: { omitted: ['actor', 'details', 'raw'] } },
    });
    expect(() => ocsfText(exported, 1000)).toThrow(TooLongError);
  });

  it('without an address, a host name or an e-mail address that is one has a name instead, or nothing', () => {
    const event = ocsf({
      ...LOGIN,
      source: { service: 'x', host: 'not a host' },
      actor: { type: 'user', id: 'u', ip: 'fe80::1%eth0', email: 'nobody' },
    });
    expect(event).toMatchObject({ src_endpoint: { name: 'fe80::1%eth0' }, dst_endpoint: { name: 'not a host' } });
    expect(event['user']).toEqual({ uid: 'u', type: 'user' });
    expect(ocsf({ ...LOGIN, actor: { type: 'user', id: 'u', ip: '::ffff:192.0.2.1' } })).toMatchObject({
      src_endpoint: { ip: '::ffff:192.0.2.1' },
    });
  });

  it('tells the offset of its time, and that it is not known', () => {
    const offset = (occurredAt: string) => ocsf({ ...LOGIN, occurredAt })['timezone_offset'];
    expect(offset('2026-01-01T00:00:00Z')).toBe(0);
    expect(offset('2026-01-01T00:00:00.123456789-09:30')).toBe(-570);
    expect(offset('2026-01-01T00:00:00-00:00')).toBeUndefined();
  });

  it('keeps bytes in unmapped, since raw_data is text', () => {
    const event = ocsf({ ...LOGIN, raw: { base64: 'AAEC' } });
    expect(event['raw_data']).toBeUndefined();
    expect(event.unmapped['raw']).toEqual({ base64: 'AAEC' });
  });
});

describe('the class and activity of', () => {
  const account = { type: 'user', id: 'u-2' };
  const team = { type: 'team', id: 't' };
  const role = { type: 'role', id: 'shift_supervisor' };
  const created = { changes: { before: null, after: { a: 1 } } };
  const updated = { changes: { before: { a: 1 }, after: { a: 2 } } };
  const deleted = { changes: { before: { a: 1 }, after: null } };

  it.each<[string, JsonObject, number, number, string]>([
    ['a login', acted('user_authentication', 'user.login'), 3002, 1, 'Logon'],
    ['a sign-in', acted('user_authentication', 'azure.sign_in_activity'), 3002, 1, 'Logon'],
    ['a logout', acted('user_authentication', 'auth.logout'), 3002, 2, 'Logoff'],
    ['an expired session', acted('user_authentication', 'session.expire'), 3002, 2, 'Logoff'],
    ['an MFA challenge', acted('user_authentication', 'mfa.challenge'), 3002, 99, 'mfa.challenge'],
    ['a report', acted('data_access', 'report.generate', { type: 'report', id: 'r' }), 6003, 2, 'Read'],
    [
      'data that came to be',
      acted('data_modification', 'dataset.handle', { type: 'dataset', id: 'd' }, created),
      6003,
      1,
      'Create',
    ],
    [
      'data that changed',
      acted('data_modification', 'dataset.handle', { type: 'dataset', id: 'd' }, updated),
      6003,
      3,
      'Update',
    ],
    [
      'data that went',
      acted('data_modification', 'dataset.handle', { type: 'dataset', id: 'd' }, deleted),
      6003,
      4,
      'Delete',
    ],
    ['an upload whose changes were not given', acted('data_modification', 'file.upload'), 6003, 1, 'Create'],
    ['data of which nothing is known', acted('data_modification', 'dataset.handle'), 6003, 99, 'dataset.handle'],
    ['a role', acted('configuration_change', 'role.update', role, updated), 3004, 3, 'Update'],
    [
      'a permission granted for the first time',
      acted('configuration_change', 'permission.grant', role, created),
      3004,
      1,
      'Create',
    ],
    [
      'a sink switched off',
      acted('configuration_change', 'sink.disable', { type: 'sink', id: 's' }, updated),
      3004,
      9,
      'Disable',
    ],
    ['an account switched off', acted('configuration_change', 'user.disable', account, updated), 3001, 5, 'Disable'],
    [
      'a password changed',
      acted('configuration_change', 'user.password.change', account, updated),
      3001,
      3,
      'Password Change',
    ],
    [
      'a password reset',
      acted('configuration_change', 'user.password.reset', account, updated),
      3001,
      4,
      'Password Reset',
    ],
    ['an account renamed', acted('configuration_change', 'user.rename', account, updated), 3004, 3, 'Update'],
    ['a member added', acted('configuration_change', 'team.member.add', team, updated), 3006, 3, 'Add User'],
    ['a member removed', acted('configuration_change', 'team.member.remove', team, updated), 3006, 4, 'Remove User'],
    ['a change of no known kind', acted('configuration_change', 'thing.twist', role), 3004, 99, 'thing.twist'],
    ['an API key', acted('security_event', 'api_key.create', { type: 'api_key', id: 'k' }), 3004, 1, 'Create'],
    [
      'an API key, in the past',
      acted('security_event', 'openai.api_key_created', { type: 'api_key', id: 'k' }),
      3004,
      1,
      'Create',
    ],
    ['a locked account', acted('security_event', 'user.lock', account), 3001, 9, 'Lock'],
    ['a failed second factor', acted('security_event', 'mfa.fail'), 3002, 99, 'mfa.fail'],
    [
      'an alert',
      acted('security_event', 'alert.suspicious_account_added', { type: 'host', id: 'h' }),
      2004,
      1,
      'Create',
    ],
    ['a privilege escalation', acted('security_event', 'privilege.escalate'), 2004, 1, 'Create'],
    [
      'a service restarted',
      acted('system_operation', 'service.restart', { type: 'service', id: 'historian' }),
      6002,
      5,
      'Restart',
    ],
    ['a service stopped', acted('system_operation', 'tableau.service.stopped'), 6002, 4, 'Stop'],
    [
      'a job started, which is no application',
      acted('system_operation', 'job.start', { type: 'job', id: 'j' }),
      6002,
      99,
      'job.start',
    ],
    ['a backup', acted('system_operation', 'backup.complete'), 6002, 99, 'backup.complete'],
    ['a pruning', acted('log_administration', 'retention.prune'), 1008, 2, 'Delete'],
    ['a tick', acted('anchor', 'anchor.tick'), 1008, 99, 'anchor.tick'],
  ])('%s', (_name, event, classUid, activityId, activityName) => {
    expect(ocsf(event)).toMatchObject({
      class_uid: classUid,
      activity_id: activityId,
      activity_name: activityName,
      type_uid: classUid * 100 + activityId,
    });
  });

  it('a finding has no status, who and whence stand in its evidence', () => {
    const finding = ocsf(acted('security_event', 'ip.suspicious', undefined, { severity: 8, reason: 'new country' }));
    expect(finding).toMatchObject({
      class_uid: 2004,
      severity_id: 4,
      finding_info: { uid: 'login-1', title: 'Ip suspicious', types: ['ip.suspicious'], desc: 'new country' },
      evidences: [{ src_endpoint: { ip: '192.0.2.17' }, actor: { user: { uid: 'u-4711' } } }],
      metadata: { profiles: ['host'] },
      device: { type_id: 0, hostname: 'idp-2' },
    });
    expect(finding['status_id']).toBeUndefined();
    expect(finding.metadata['labels']).toBeUndefined();
  });

  it('a program that acts is an application', () => {
    const actor = { type: 'service', id: 'etl', name: 'ETL' };
    expect(ocsf(acted('data_access', 'api.query', role, { actor }))['actor']).toEqual({
      app_uid: 'etl',
      app_name: 'ETL',
    });
  });

  it('CEF severities', () => {
    const ids = Array.from({ length: 11 }, (_, severity) => ocsf({ ...LOGIN, severity })['severity_id']);
    expect(ids).toEqual([1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5]);
  });

  it('each class is used once', () => {
    const uids = Object.values(OCSF_CLASSES).map(({ uid }) => uid);
    expect(new Set(uids).size).toBe(uids.length);
  });
});

/** The text of a JSON value with its members sorted. */
function sorted(value: unknown): string {
  return JSON.stringify(value, (_key, member) =>
    typeof member === 'object' && member !== null && !Array.isArray(member)
      ? Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1)))
      : member,
  );
}
