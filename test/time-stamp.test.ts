/**
 * Time stamps against a real `openssl ts` authority, and against what a false one could make: everything that is not a
 * sound token for this hash, by a trusted authority that was in order at its time, is refused.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { AnchorError } from '../src/anchor/anchor-error.ts';
import {
  encodeTimeStampRequest,
  type TimeStampAuthorityDeps,
  timeStampAuthority,
} from '../src/anchor/time-stamp-authority.ts';
import { EvidenceError } from '../src/errors.ts';
import { outgoing } from '../src/http/outgoing.ts';
import { checkDer } from '../src/verify/der.ts';
import {
  checkTimeStamp,
  decodeTimeStampReply,
  type GoodTimeStamp,
  RevokedError,
  readCertificates,
  TIME_STAMP_BYTES_MAX,
  type TimeStampCheck,
  TimeStampRefusal,
  type TimeStampVerdict,
  tokenNonce,
} from '../src/verify/time-stamp.ts';
import { fieldToken, spellOut } from './support/field-token.ts';
import {
  type Authority,
  type AuthorityOptions,
  CA,
  type CertificateRequest,
  der,
  encodeTstInfo,
  flipped,
  NO_KEY_IDS,
  POLICY,
  STAMPER,
  startAuthority,
  withoutOpenssl,
} from './support/time-stamp-authority.ts';

const imprint = createHash('sha256').update('log.example/sealog/anchor\n7\n…\n').digest();
const DAY_MS = 86_400_000;
const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;

/** With an intermediate CA, so that tokens are all there is. */
let authority: Authority;
let token: Buffer;

describe.skipIf(withoutOpenssl !== undefined)(`time stamps${withoutOpenssl ? ` (${withoutOpenssl})` : ''}`, () => {
  beforeAll(async () => {
    authority = await startAuthority({ intermediate: true });
    token = await authority.stamp(imprint);
  });
  afterAll(() => authority?.stop());
  afterEach(() => {
    authority.behaviour = 'good';
  });

  describe('a good token', () => {
    const kinds: readonly [string, AuthorityOptions][] = [
      ['of a P-256 key', {}],
      ['of a P-384 key, with SHA-384', { key: 'p384', digest: 'sha384' }],
      ['of an RSA key', { key: 'rsa2048' }],
      ['of an RSA key, with SHA-512', { key: 'rsa2048', digest: 'sha512', certificateId: 'sha512' }],
      ['with the old ESSCertID', { certificateId: 'sha1' }],
      ['of an authority under another one', { intermediate: true }],
    ];
    test.each(kinds)('%s is taken, here and by openssl', async (_, options) => {
      const tsa = await start(options);
      const before = Math.floor(Date.now() / 1000) * 1000;
      const made = await tsa.stamp(imprint);
      const verdict = await check({ token: made, trusted: readCertificates(tsa.caPem) });
      expect(verdict).toMatchObject({
        kind: 'good',
        authority: 'O=Sealog Test, CN=tsa',
        policy: POLICY,
        revocationChecked: false,
      });
      const { time, certificateEnds, chain } = verdict as GoodTimeStamp;
      expect(time).toBeGreaterThanOrEqual(before);
      expect(time).toBeLessThanOrEqual(Date.now());
      expect(Math.round((certificateEnds - time) / DAY_MS)).toBe(365);
      expect(chain).toHaveLength(options.intermediate === true ? 3 : 2);
      expect(Buffer.from(chain.at(-1)!)).toEqual(await tsa.certificate('root'));

      await writeFile(join(tsa.folder, 'token.der'), made);
      const digest = ['-digest', imprint.toString('hex')];
      const said = await tsa.openssl(
        'ts',
        '-verify',
        ...digest,
        '-token_in',
        '-in',
        'token.der',
        '-CAfile',
        'root.pem',
      );
      expect(said.toString()).toContain('Verification: OK');
    });

    test('made by openssl cms is taken too: the forgeries below are variations of it', async () => {
      const tsa = await start({ valid: [-3000, 3000] });
      const made = await tsa.forge({ content: encodeTstInfo({ imprint, time: '20261122210405.1239Z' }) });
      expect(await check({ token: made, trusted: readCertificates(tsa.caPem) })).toMatchObject({
        kind: 'good',
        time: Date.parse('2026-11-22T21:04:05.123Z'),
      });
    });

    test('ends at the first certificate that is trusted, be it not a root', async () => {
      const between = await authority.certificate('between');
      expect(await check({ trusted: [between] })).toMatchObject({ kind: 'good' });
      const own = await authority.certificate('tsa');
      expect(((await check({ trusted: [own] })) as GoodTimeStamp).chain).toHaveLength(1);
    });

    test('is untrusted under other roots or none, even of the same name', async () => {
      const other = await start({ intermediate: true });
      for (const trusted of [[], readCertificates(other.caPem)]) {
        const verdict = await check({ trusted });
        expect(verdict).toEqual({
          kind: 'untrusted',
          detail: 'its chain ends at O=Sealog Test, CN=between, and leads to no certificate that is trusted',
        });
      }
    });

    test('is taken without its certificates, where they stand beside it', async () => {
      const query = encodeTimeStampRequest({ imprint, nonce: Buffer.from('51'.repeat(8), 'hex'), policy: undefined });
      // certReq FALSE is the default: the last three bytes are not there.
      const bare = Buffer.concat([Buffer.from([0x30, query[1]! - 3]), query.subarray(2, -3)]);
      const made = Buffer.from(decodeTimeStampReply(await authority.reply(bare)));
      expect(made.length).toBeLessThan(token.length - 800);
      const certificates = [await authority.certificate('tsa'), await authority.certificate('between')];
      expect(await check({ token: made, certificates })).toMatchObject({ kind: 'good' });
      await refused(check({ token: made }), "the authority's certificate is not there");
    });

    test('has the nonce that was asked for', async () => {
      const nonce = Buffer.from('7fffffffffffff80', 'hex');
      const reply = await authority.reply(Buffer.from(encodeTimeStampRequest({ imprint, nonce, policy: POLICY })));
      expect(tokenNonce(decodeTimeStampReply(reply))).toBe(0x7fffffffffffff80n);
      const without = await authority.forge({ content: encodeTstInfo({ imprint }) });
      expect(tokenNonce(without)).toBeUndefined();
    });

    test('may be as authorities in the field make them: sets in no order, more signed attributes, defaults spelled out', async () => {
      const tsa = await start({ intermediate: true });
      const made = await fieldToken(tsa, imprint);
      const trusted = readCertificates(tsa.caPem);
      expect(await check({ token: made, trusted })).toMatchObject({
        kind: 'good',
        authority: 'O=Sealog Test, CN=field',
      });
      for (const damaged of each(made))
        if (HARD || randomBytes(1)[0]! < 110)
          expect(await judged(check({ token: damaged.bytes, trusted })), damaged.name).not.toBe('good');
      // An authority above that does the same.
      await tsa.issue({ name: 'between', by: 'root', extensions: CA });
      await spellOut(tsa, 'between', 'root');
      await tsa.issue({ name: 'tsa' });
      const another = await tsa.forge({ content: tst({}), args: ['-certfile', 'between.pem'] });
      expect(await check({ token: another, trusted })).toMatchObject({ kind: 'good' });
    });

    test('has one sound way up that is enough, whatever else is beside it', async () => {
      const tsa = await start({ intermediate: true });
      const made = await tsa.stamp(imprint);
      const trusted = readCertificates(tsa.caPem);
      const sound = await tsa.certificate('between');
      // The same key and name again, by the same root: one that had expired, and one that was revoked.
      const again = async (name: string, ...dates: readonly string[]) => {
        await writeFile(join(tsa.folder, `${name}.ext`), `${CA.join('\n')}\n`);
        const files = ['-in', 'between.csr', '-out', `${name}.pem`, '-extfile', `${name}.ext`];
        await tsa.openssl('ca', '-batch', '-notext', '-config', 'root.cnf', ...files, ...dates);
        return tsa.certificate(name);
      };
      const past = (days: number) => asn1(Date.now() - days * DAY_MS);
      const expired = await again('expired', '-startdate', past(100), '-enddate', past(1));
      const revoked = await again('revoked', '-startdate', past(1), '-enddate', past(-9));
      await tsa.revoke('revoked', { by: 'root', reason: 'keyCompromise' });
      const crls = [await tsa.list('root')];
      const bare = await tsa.forge({ content: tst({}), args: ['-nocerts'] });
      const own = await tsa.certificate('tsa');
      const beside = (...certificates: Buffer[]) =>
        judged(check({ token: bare, trusted, certificates: [own, ...certificates], crls }));
      expect(await beside(expired, revoked, sound)).toBe('good');
      expect(await beside(expired, revoked)).toBe('revoked');
      expect(await judged(check({ token: bare, trusted, certificates: [own, expired] }))).toBe('refused');
      expect(await judged(check({ token: made, trusted, crls }))).toBe('good');
      expect(await beside()).toBe('untrusted');
    });

    test('bears signatures of RSASSA-PSS in its chain', async () => {
      const tsa = await start({});
      const pss = ['-sigopt', 'rsa_padding_mode:pss', '-sigopt', 'rsa_pss_saltlen:32'];
      await tsa.openssl(
        ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'pss.key', '-out', 'pss.pem', '-days', '30'],
        ...['-subj', '/CN=PSS', ...pss, '-addext', 'keyUsage=critical,keyCertSign'],
      );
      await tsa.openssl('req', '-new', '-key', 'tsa.key', '-out', 'tsa.csr', '-subj', '/CN=Stamper');
      await writeFile(join(tsa.folder, 'pss.ext'), `${STAMPER.join('\n')}\n`);
      const sign = (...salt: readonly string[]) =>
        tsa.openssl(
          ...['x509', '-req', '-in', 'tsa.csr', '-CA', 'pss.pem', '-CAkey', 'pss.key', '-out', 'tsa.pem'],
          ...['-days', '20', '-extfile', 'pss.ext', '-set_serial', '77', ...salt],
        );
      await sign(...pss);
      const trusted = [await tsa.certificate('pss')];
      const time = asn1(Date.now() + 5000);
      const made = await tsa.forge({ content: encodeTstInfo({ imprint, time }) });
      expect(await check({ token: made, trusted })).toMatchObject({ kind: 'good' });
      await sign('-sigopt', 'rsa_padding_mode:pss', '-sigopt', 'rsa_pss_saltlen:20');
      const weak = await tsa.forge({ content: encodeTstInfo({ imprint, time }) });
      expect(await check({ token: weak, trusted })).toMatchObject({ kind: 'untrusted' });
    });
  });

  describe('a token is refused', () => {
    const forged: readonly [string, Parameters<Authority['forge']>[0], string][] = [
      ['of another hash function', { content: tst({ hash: '608648016503040203' }) }, 'another hash than SHA-256'],
      ['of SHA-1', { content: tst({ hash: '2b0e03021a' }) }, 'another hash than SHA-256'],
      ['of another version', { content: tst({ version: 2 }) }, 'another version'],
      ['whose time is local', { content: tst({ time: '20261122210405' }) }, 'a time is not as it must be'],
      ['whose time has an offset', { content: tst({ time: '20261122210405+0100' }) }, 'a time is not as it must be'],
      ['whose time has no seconds', { content: tst({ time: '202611222104Z' }) }, 'a time is not as it must be'],
      [
        'whose time has a needless zero',
        { content: tst({ time: '20261122210405.10Z' }) },
        'a time is not as it must be',
      ],
      ['whose day does not exist', { content: tst({ time: '20270230000000Z' }) }, 'a time is no time'],
      ['from before its certificate', { content: tst({ time: '20250101000000Z' }) }, 'was not valid yet'],
      ['from after its certificate', { content: tst({ time: '20990101000000Z' }) }, 'had expired'],
      [
        'with a critical extension',
        { content: tst({ more: [der(0xa1, der(0x30, Buffer.from('06022a03', 'hex'), TRUE, der(0x04)))] }) },
        'critical extension',
      ],
      ['with a field that is unknown', { content: tst({ more: [der(0x85)] }) }, 'can not be checked'],
      [
        'with a field behind the last one',
        { content: tst({ nonce: Buffer.from([9]), more: [der(0xa1, NOT_CRITICAL), TRUE, TRUE] }) },
        'unknown or in another order',
      ],
      [
        'whose fields are in another order',
        { content: tst({ nonce: Buffer.from([9]), more: [TRUE] }) },
        'can not be checked',
      ],
      ['whose TSTInfo has bytes behind it', { content: Buffer.concat([tst({}), TRUE]) }, 'not DER'],
      ['whose TSTInfo is not DER', { content: Buffer.from('3080020101', 'hex') }, 'not DER'],
      ['whose TSTInfo is something else', { content: der(0x30, TRUE, TRUE) }, 'can not be checked'],
      [
        'whose content is of another type',
        { content: tst({}), contentType: '1.2.840.113549.1.9.16.1.2' },
        'not a TSTInfo',
      ],
      ['that does not bind its certificate', { content: tst({}), cades: false }, 'does not bind'],
      ['without signed attributes', { content: tst({}), cades: false, args: ['-noattr'] }, 'no signed attributes'],
      ['with a SHA-1 signature', { content: tst({}), digest: 'sha1' }, 'too weak or unknown'],
      ['with two signatures', { content: tst({}), by: ['tsa', 'tsa-2'] }, 'not one signature'],
    ];
    test.each(forged)('%s', async (_, request, why) => {
      await authority.issue({ name: 'tsa-2', args: [] });
      await refused(check({ token: await authority.forge({ args: ['-certfile', 'between.pem'], ...request }) }), why);
    });

    test('but not in vain: such a token, in order, is taken; also where it names its certificate by key', async () => {
      for (const args of [[], ['-keyid']]) {
        const good = await authority.forge({ content: tst({}), args: ['-certfile', 'between.pem', ...args] });
        expect(await check({ token: good })).toMatchObject({ kind: 'good' });
      }
    });

    test('of something else', async () => {
      await refused(check({ imprint: createHash('sha256').update('else').digest() }), 'of something else');
    });

    test('whose signature binds another certificate of the same key', async () => {
      await authority.openssl('req', '-new', '-key', 'tsa.key', '-out', 'twin.csr', '-subj', '/O=Sealog Test/CN=tsa');
      await writeFile(join(authority.folder, 'twin.ext'), `${STAMPER.join('\n')}\n`);
      // Of the same name and serial number.
      const serial = `0x${(await authority.openssl('x509', '-in', 'tsa.pem', '-noout', '-serial')).toString().trim().slice(7)}`;
      await authority.openssl(
        ...['x509', '-req', '-in', 'twin.csr', '-CA', 'between.pem', '-CAkey', 'between.key', '-set_serial', serial],
        ...['-days', '400', '-extfile', 'twin.ext', '-out', 'twin.pem'],
      );
      const bare = await authority.forge({ content: tst({}), args: ['-nocerts'] });
      const beside = (name: string) => Promise.all([authority.certificate(name), authority.certificate('between')]);
      expect(await check({ token: bare, certificates: await beside('tsa') })).toMatchObject({ kind: 'good' });
      await refused(check({ token: bare, certificates: await beside('twin') }), 'binds another certificate');
    });

    test('of which anything was cut off or added', async () => {
      const step = HARD ? 1 : 17;
      for (let length = 0; length < token.length; length += step)
        await refused(check({ token: token.subarray(0, length) }));
      for (const more of [Buffer.from([0]), Buffer.from([5, 0]), token]) {
        await refused(check({ token: Buffer.concat([token, more]) }), 'bytes follow its end');
      }
      await refused(check({ token: Buffer.alloc(TIME_STAMP_BYTES_MAX + 1) }), 'too large');
    });

    test('with attributes that are not signed, or more in a list than is known', async () => {
      // The SignerInfo is the last element; each list around it grows by what is added at the end of the file.
      const unsigned = der(0xa1, der(0x30, Buffer.from('06022a03', 'hex'), der(0x31, TRUE)));
      await refused(check({ token: grown(token, 5, unsigned) }), 'attributes that are not signed');
      for (let depth = 1; depth <= 5; depth++) await refused(check({ token: grown(token, depth, TRUE) }));
      await refused(check({ token: grown(token, 3, der(0xa1, unsigned)) }));
    });

    test('whose encoding is not DER', async () => {
      // The outermost length in one byte more than it needs.
      const long = Buffer.concat([Buffer.from('308300', 'hex'), token.subarray(2, 4), token.subarray(4)]);
      await refused(check({ token: long }), 'not the shortest');
      await refused(
        check({ token: Buffer.concat([Buffer.from('3080', 'hex'), token.subarray(4), Buffer.alloc(2)]) }),
        'not definite',
      );
    });

    const strangers: readonly [string, Partial<CertificateRequest>, string][] = [
      ['without a use', { extensions: without('extendedKeyUsage') }, 'not one for time stamps alone'],
      [
        'whose use is not critical',
        { extensions: [...without('extendedKeyUsage'), 'extendedKeyUsage=timeStamping'] },
        'not one for time stamps alone',
      ],
      [
        'with another use besides',
        { extensions: [...without('extendedKeyUsage'), 'extendedKeyUsage=critical,timeStamping,codeSigning'] },
        'not one for time stamps alone',
      ],
      [
        'with any use',
        { extensions: [...without('extendedKeyUsage'), 'extendedKeyUsage=critical,anyExtendedKeyUsage'] },
        'not one for time stamps alone',
      ],
      [
        'that signs certificates',
        { extensions: [...without('keyUsage'), 'keyUsage=critical,digitalSignature,keyCertSign'] },
        'other uses than signatures',
      ],
      [
        'with a critical extension that is unknown',
        { extensions: [...STAMPER, '1.2.3.4=critical,DER:0500'] },
        'not understood: 1.2.3.4',
      ],
      [
        'with name constraints',
        { extensions: [...STAMPER, 'nameConstraints=critical,permitted;DNS:example.com'] },
        'not understood: 2.5.29.30',
      ],
      ['that had expired', { valid: [-100, -1] }, 'had expired'],
      ['that was not valid yet', { valid: [1, 100] }, 'was not valid yet'],
      ['of a short RSA key', { key: 'rsa1024' }, 'has 1024 bits'],
    ];
    test.each(strangers)('by a certificate %s', async (_, request, why) => {
      await authority.issue({ name: 'stranger', ...request });
      const made = await authority.forge({ content: tst({}), by: 'stranger', args: ['-certfile', 'between.pem'] });
      await refused(check({ token: made }), why);
    });

    test('no more than others are, by a certificate whose signature is too weak to lead on', async () => {
      await authority.issue({ name: 'stranger', args: ['-md', 'sha1'] });
      const made = await authority.forge({ content: tst({}), by: 'stranger', args: ['-certfile', 'between.pem'] });
      expect(await check({ token: made })).toMatchObject({ kind: 'untrusted' });
    });

    const authorities: readonly [string, Partial<CertificateRequest>, string][] = [
      ['that is none', { extensions: without('basicConstraints', CA) }, 'not one of an authority'],
      [
        'that says it is none',
        { extensions: ['basicConstraints=critical,CA:FALSE', ...without('basicConstraints', CA)] },
        'not one of an authority',
      ],
      [
        'that may not sign certificates',
        { extensions: [...without('keyUsage', CA), 'keyUsage=critical,cRLSign'] },
        'may not sign certificates',
      ],
      ['for other uses', { extensions: [...CA, 'extendedKeyUsage=codeSigning'] }, 'is not for time stamps'],
      ['with an unknown critical extension', { extensions: [...CA, '1.2.3.4=critical,DER:0500'] }, 'not understood'],
      ['that had expired', { valid: [-100, -1] }, 'had expired'],
    ];
    test.each(authorities)('by a certificate under one %s', async (_, request, why) => {
      const tsa = await start({ intermediate: true });
      await tsa.issue({ name: 'between', by: 'root', extensions: CA, ...request });
      await tsa.issue({ name: 'tsa', by: 'between' });
      const made = await tsa.forge({ content: tst({}), args: ['-certfile', 'between.pem'] });
      await refused(check({ token: made, trusted: readCertificates(tsa.caPem) }), why);
    });

    test('by a chain that is longer than an authority in it allows', async () => {
      const tsa = await start({ intermediate: true });
      const short = [...without('basicConstraints', CA), 'basicConstraints=critical,CA:TRUE,pathlen:0'];
      await tsa.issue({ name: 'between', by: 'root', extensions: short });
      await tsa.issue({ name: 'tsa' });
      const one = await tsa.forge({ content: tst({}), args: ['-certfile', 'between.pem'] });
      const trusted = readCertificates(tsa.caPem);
      expect(await check({ token: one, trusted })).toMatchObject({ kind: 'good' });

      await tsa.issue({ name: 'lower', by: 'between', extensions: CA });
      const args = ['-cert', 'lower.pem', '-keyfile', 'lower.key'];
      await tsa.issue({ name: 'deep', by: 'between', args });
      const two = await tsa.forge({ content: tst({}), by: 'deep', args: ['-certfile', 'lower.pem'] });
      const certificates = [await tsa.certificate('between')];
      await refused(check({ token: two, trusted, certificates }), 'more authorities below it than it allows');
    });

    test('no more than others are, by a chain in which a certificate is signed by another key of the same name', async () => {
      const tsa = await start({ intermediate: true });
      const made = await tsa.stamp(imprint);
      // Without key ids nothing tells the two apart but the signature.
      await tsa.issue({ name: 'tsa', extensions: [...without('KeyIdentifier'), ...NO_KEY_IDS] });
      await tsa.issue({ name: 'between', by: 'root', extensions: [...without('KeyIdentifier', CA), ...NO_KEY_IDS] });
      const forgedToken = await tsa.forge({ content: tst({}), args: ['-certfile', 'between.pem'] });
      const trusted = readCertificates(tsa.caPem);
      expect(await check({ token: forgedToken, trusted })).toMatchObject({ kind: 'untrusted' });
      expect(await check({ token: made, trusted })).toMatchObject({ kind: 'good' });
    });
  });

  describe('damage', () => {
    test('of any bit is refused', async () => {
      const tsa = await start({});
      const made = await tsa.stamp(imprint);
      const trusted = readCertificates(tsa.caPem);
      // All bits with SEALOG_TEST_HARD; else one of every second byte, others in each run.
      const taken: string[] = [];
      for (let place = HARD ? 0 : randomBytes(1)[0]! & 1; place < made.length; place += HARD ? 1 : 2) {
        for (const bit of HARD ? [0, 1, 2, 3, 4, 5, 6, 7] : [randomBytes(1)[0]! & 7]) {
          const verdict = await judged(check({ token: flipped(made, place, bit), trusted }));
          if (verdict === 'good') taken.push(`${place}.${bit}`);
        }
      }
      expect(taken).toEqual([]);
    }, 300_000);

    test('of any bit of a token with an intermediate certificate is refused', async () => {
      const taken: string[] = [];
      for (const damaged of each(token)) {
        if ((await judged(check({ token: damaged.bytes }))) === 'good') taken.push(damaged.name);
      }
      expect(taken).toEqual([]);
    }, 300_000);

    test('of any bit of a token with an RSA signature is refused', async () => {
      const tsa = await start({ key: 'rsa2048' });
      const made = await tsa.stamp(imprint);
      const trusted = readCertificates(tsa.caPem);
      const taken: string[] = [];
      for (const damaged of each(made)) {
        if ((await judged(check({ token: damaged.bytes, trusted }))) === 'good') taken.push(damaged.name);
      }
      expect(taken).toEqual([]);
    }, 300_000);

    test('of any bit of a certificate or a revocation list beside the token is refused, or leaves it without', async () => {
      const bare = await authority.forge({ content: tst({}), args: ['-nocerts'] });
      const [tsa, between] = [await authority.certificate('tsa'), await authority.certificate('between')];
      const crl = await authority.list('root');
      const taken: string[] = [];
      for (const damaged of each(tsa)) {
        const verdict = await judged(check({ token: bare, certificates: [damaged.bytes, between] }));
        if (verdict === 'good') taken.push(`tsa ${damaged.name}`);
      }
      for (const damaged of each(between)) {
        const verdict = await judged(check({ token: bare, certificates: [tsa, damaged.bytes] }));
        if (verdict === 'good') taken.push(`between ${damaged.name}`);
      }
      expect(taken).toEqual([]);

      // A list of another issuer, or key, is passed over: it answers for nobody.
      const lists = [await authority.list('between')];
      expect(await check({ crls: [...lists, crl] })).toMatchObject({ kind: 'good', revocationChecked: true });
      for (const damaged of each(crl)) {
        const verdict = await verdictOf(check({ crls: [...lists, damaged.bytes] }));
        if (verdict?.kind === 'good' && verdict.revocationChecked) taken.push(`crl ${damaged.name}`);
      }
      expect(taken).toEqual([]);
    }, 300_000);

    test('of random bytes throws nothing but our own errors, in time that grows with the length alone', async () => {
      const size = TIME_STAMP_BYTES_MAX - 16;
      const nested = (tag: number, inner: Buffer, depth: number): Buffer =>
        depth === 0 ? inner : nested(tag, der(tag, inner), depth - 1);
      const many = (element: Buffer) => Buffer.concat(Array(Math.floor(size / element.length)).fill(element));
      const content = (inner: Buffer) => der(0x30, Buffer.from('06092a864886f70d010702', 'hex'), der(0xa0, inner));
      const hostile: readonly [string, Buffer][] = [
        ['zeros', Buffer.alloc(size)],
        ['nested to the end', Buffer.alloc(size, Buffer.from('3080', 'hex'))],
        ['nested lists', nested(0x30, Buffer.alloc(0), 2000)],
        ['nested as deep as may be', nested(0x30, many(der(0x05)), 28)],
        ['many empty lists', der(0x30, many(der(0x30)))],
        ['many numbers', content(der(0x30, many(TRUE)))],
        ['a huge number', content(der(0x30, der(0x02, Buffer.alloc(size - 64, 0x55))))],
        [
          'a huge identifier',
          content(der(0x30, der(0x02, Buffer.from([3])), der(0x31, der(0x06, Buffer.alloc(size - 64, 0x55))))),
        ],
        [
          'many hash functions',
          content(der(0x30, der(0x02, Buffer.from([3])), der(0x31, many(der(0x30, Buffer.from('06022a03', 'hex')))))),
        ],
        ['a huge string in strings', content(nested(0x24, der(0x04, Buffer.alloc(size - 200)), 10))],
      ];
      for (const [name, bytes] of hostile) {
        const begin = performance.now();
        await refused(check({ token: bytes }));
        // Beside a good token they are as if they were not there.
        expect(await check({ crls: [bytes], certificates: [bytes] })).toMatchObject({ kind: 'good', lists: 0 });
        expect(() => decodeTimeStampReply(bytes)).toThrow(EvidenceError);
        expect(performance.now() - begin, name).toBeLessThan(10_000);
      }
      for (let round = 0; round < 100; round++) {
        const damaged = Buffer.from(token);
        const [place, length] = [randomBytes(2).readUInt16LE() % token.length, (randomBytes(1)[0]! % 20) + 1];
        randomBytes(length).copy(damaged, place);
        if (!damaged.equals(token)) expect(await judged(check({ token: damaged }))).not.toBe('good');
      }
    }, 120_000);

    test('of a chain that branches without end stops', async () => {
      const tsa = await start({ intermediate: true });
      // Certificates of one name and no key ids, each of which could have signed each other.
      const subject = '/CN=Everybody';
      const plain = [...without('KeyIdentifier', CA), ...NO_KEY_IDS];
      await tsa.issue({ name: 'between', by: 'root', subject, extensions: plain });
      const certificates: Buffer[] = [];
      for (let count = 0; count < 12; count++) {
        await tsa.issue({ name: 'copy', by: 'between', subject, extensions: plain });
        certificates.push(await tsa.certificate('copy'));
      }
      await tsa.issue({ name: 'tsa', extensions: [...without('KeyIdentifier'), ...NO_KEY_IDS] });
      const made = await tsa.forge({ content: tst({}) });
      const begin = performance.now();
      const trusted = readCertificates(tsa.caPem);
      expect(await check({ token: made, trusted, certificates })).toMatchObject({ kind: 'untrusted' });
      expect(performance.now() - begin).toBeLessThan(10_000);
    });
  });

  describe('revocation', () => {
    const cases: readonly [reason: string | undefined, then: 'good' | 'revoked'][] = [
      ['unspecified', 'good'],
      ['superseded', 'good'],
      ['affiliationChanged', 'good'],
      ['cessationOfOperation', 'good'],
      ['keyCompromise', 'revoked'],
      ['CACompromise', 'revoked'],
      ['certificateHold', 'revoked'],
      [undefined, 'revoked'],
    ];
    test.each(cases)('with the reason %s: an earlier stamp is %s, a later one revoked', async (reason, then) => {
      const tsa = await start({});
      const trusted = readCertificates(tsa.caPem);
      const at = (time: number) => tsa.forge({ content: tst({ time: asn1(time) }) });
      const before = await at(Date.now() - DAY_MS / 2);
      const after = await at(Date.now() + DAY_MS);
      const clean = await tsa.list();
      await tsa.revoke('tsa', reason === undefined ? {} : { reason });
      const crls = [await tsa.list()];
      expect(await judged(check({ token: before, trusted, crls: [clean] }))).toBe('good');
      expect(await judged(check({ token: before, trusted, crls }))).toBe(then);
      expect(await judged(check({ token: before, trusted, crls: [clean, ...crls] }))).toBe(then);
      expect(await judged(check({ token: after, trusted, crls }))).toBe('revoked');
    });

    test('of an authority above counts too', async () => {
      const tsa = await start({ intermediate: true });
      const made = await tsa.stamp(imprint);
      const trusted = readCertificates(tsa.caPem);
      expect(await judged(check({ token: made, trusted, crls: [await tsa.list('root')] }))).toBe('good');
      await tsa.revoke('between', { by: 'root', reason: 'keyCompromise' });
      expect(await judged(check({ token: made, trusted, crls: [await tsa.list('root')] }))).toBe('revoked');
      // Whoever trusts the one below does not ask the one above.
      const crls = [await tsa.list('root')];
      expect(await judged(check({ token: made, trusted: [await tsa.certificate('between')], crls }))).toBe('good');
    });

    test('of an earlier invalidity date reaches back to it', async () => {
      const tsa = await start({});
      const trusted = readCertificates(tsa.caPem);
      const made = await tsa.forge({ content: encodeTstInfo({ imprint, time: asn1(Date.now() - DAY_MS / 2) }) });
      await tsa.revoke('tsa', { reason: 'superseded' });
      expect(await judged(check({ token: made, trusted, crls: [await tsa.list()] }))).toBe('good');
      const index = join(tsa.folder, 'root.db', 'index.txt');
      const since = asn1(Date.now() - 0.75 * DAY_MS);
      // `CAkeyTime` is the one way of `openssl ca` to an invalidity date; its reason is keyCompromise.
      const text = readFileSync(index, 'utf8').replace(/superseded/, `keyTime,${since}`);
      await writeFile(index, text);
      expect(await judged(check({ token: made, trusted, crls: [await tsa.list()] }))).toBe('revoked');
    });

    test('is said to be checked only where lists reach to the time of the stamp, for every certificate', async () => {
      const tsa = await start({ intermediate: true });
      const trusted = readCertificates(tsa.caPem);
      const made = await tsa.stamp(imprint);
      const verdict = async (...crls: Buffer[]) =>
        ((await check({ token: made, trusted, crls })) as GoodTimeStamp).revocationChecked;
      const [root, between] = [await tsa.list('root'), await tsa.list('between')];
      expect(await verdict()).toBe(false);
      expect(await verdict(root)).toBe(false);
      expect(await verdict(between)).toBe(false);
      expect(await verdict(between, root)).toBe(true);
      const dates = ['-crl_lastupdate', asn1(Date.now() - 9 * DAY_MS), '-crl_nextupdate', asn1(Date.now() - DAY_MS)];
      expect(await verdict(between, await tsa.list('root', ...dates))).toBe(false);
    });

    test('by a list that is not understood, another authority’s, or false is no answer', async () => {
      const tsa = await start({});
      const trusted = readCertificates(tsa.caPem);
      const made = await tsa.stamp(imprint);
      const crls = async () => ({ token: made, trusted, crls: [await tsa.list()] });
      const config = join(tsa.folder, 'root.cnf');
      const sound = readFileSync(config, 'utf8');
      await tsa.revoke('tsa', { reason: 'keyCompromise' });

      const point = 'issuingDistributionPoint = critical,@point';
      for (const line of [
        '2.5.29.27 = critical,DER:020101',
        '1.2.3.4 = critical,DER:0500',
        `${point}\n[point]\nindirectCRL = TRUE`,
      ]) {
        await writeFile(config, `${sound}${line}\n`);
        expect(await judged(check(await crls())), line).toBe('good');
      }
      await writeFile(config, `${sound}${point}\n[point]\nonlyuser = TRUE\n`);
      expect(await judged(check(await crls()))).toBe('revoked');
      await writeFile(config, sound);

      const other = await start({});
      expect(await judged(check({ token: made, trusted, crls: [await other.list()] }))).toBe('good');
      // The same name, no key ids, another key.
      const nameless = readFileSync(join(other.folder, 'root.cnf'), 'utf8').replace(/authorityKeyIdentifier.*/, '');
      await writeFile(join(other.folder, 'root.cnf'), `${nameless}1.2.3.4 = DER:0500\n`);
      expect(await check({ token: made, trusted, crls: [await other.list()] })).toMatchObject({
        kind: 'good',
        lists: 0,
      });
    });

    test('lists of thousands are read in time', async () => {
      const tsa = await start({});
      const trusted = readCertificates(tsa.caPem);
      const made = await tsa.stamp(imprint);
      const line = (serial: number) =>
        `R\t270101000000Z\t261101000000Z,superseded\t${(0x1000_0000 + serial).toString(16)}\tunknown\t/CN=x\n`;
      await writeFile(
        join(tsa.folder, 'root.db', 'index.txt'),
        Array.from({ length: 5000 }, (_, i) => line(i)).join(''),
      );
      const crl = await tsa.list();
      expect(crl.length).toBeGreaterThan(150_000);
      const begin = performance.now();
      expect(await check({ token: made, trusted, crls: [crl] })).toMatchObject({ revocationChecked: true });
      expect(performance.now() - begin).toBeLessThan(10_000);
    });
  });

  describe('an answer', () => {
    test('without a token says why', async () => {
      authority.behaviour = 'refuse';
      const { body } = await calls.post(authority.url, {
        body: encodeTimeStampRequest({ imprint, nonce: Buffer.from([0x50]), policy: undefined }),
        timeoutMs: 5000,
        answerBytesMax: 10_000,
      });
      expect(() => decodeTimeStampReply(body)).toThrow(TimeStampRefusal);
      expect(() => decodeTimeStampReply(body)).toThrow(
        'the authority answers: rejected; "Message digest algorithm is not supported."; ' +
          'the hash function is unknown or not supported',
      );
    });

    test('is refused where it is no answer', () => {
      const status = (code: number, ...more: Buffer[]) => der(0x30, der(0x02, Buffer.from([code])), ...more);
      const wrong: readonly Buffer[] = [
        Buffer.alloc(0),
        Buffer.from('<html>'),
        der(0x30),
        der(0x30, status(0)),
        der(0x30, status(0), token, token),
        der(0x30, der(0x30, der(0x02, Buffer.from([0x80]))), token),
        Buffer.concat([der(0x30, status(0), token), Buffer.from([0])]),
        token,
      ];
      for (const bytes of wrong) expect(() => decodeTimeStampReply(bytes)).toThrow(EvidenceError);
      expect(Buffer.from(decodeTimeStampReply(der(0x30, status(1), token)))).toEqual(token);
      const failure = der(0x03, Buffer.from([7, 0, 0, 0, 0x00]));
      expect(() => decodeTimeStampReply(der(0x30, status(2, failure)))).toThrow('the authority answers: rejected');
      const evil = der(0x30, der(0x0c, Buffer.from('a\n\u202eb')));
      expect(() => decodeTimeStampReply(der(0x30, status(3, evil)))).toThrow('waiting; "a\\u{a}\\u{202e}b"');
      expect(() => decodeTimeStampReply(der(0x30, status(99)))).toThrow('status 99');
    });
  });

  describe('the client', () => {
    test('asks for a stamp and keeps what a verifier will need', async () => {
      const stamp = await client().stamp(request());
      expect(await check({ token: stamp.token, certificates: stamp.certificates, crls: stamp.crls })).toMatchObject({
        kind: 'good',
        time: stamp.time,
        certificateEnds: stamp.certificateEnds,
        revocationChecked: true,
      });
      expect(stamp).toMatchObject({ authority: 'O=Sealog Test, CN=tsa', warnings: [] });
      expect(stamp.certificates).toHaveLength(3);
      expect(stamp.crls).toHaveLength(2);
      const { headers, body } = authority.queries.at(-1)!;
      expect(headers).toMatchObject({ 'content-type': 'application/timestamp-query' });
      await writeFile(join(authority.folder, 'query.tsq'), body);
      const text = (await authority.openssl('ts', '-query', '-in', 'query.tsq', '-text')).toString();
      expect(text).toMatch(/Version: 1\nHash Algorithm: sha256\n/);
      expect(text).toMatch(
        /Policy OID: unspecified\nNonce: 0x[4-7][0-9A-F]{15}\nCertificate required: yes\nExtensions:\n/,
      );
    });

    test('asks for a policy, and takes no other', async () => {
      expect(await client({ policy: POLICY }).stamp(request())).toMatchObject({ warnings: [] });
      await failing(client({ policy: '1.3.6.1.4.1.99999.1.4294967295' }), 'the policy is not supported');
      for (const policy of ['', '1', '3.1', '1.40', '1.2.', '1..2', 'x', `1.2${'.4294967295'.repeat(30)}`]) {
        await failing(client({ policy }), 'the policy');
      }
    });

    test('takes a new nonce each time', async () => {
      await Promise.all([client().stamp(request()), client().stamp(request())]);
      const [one, two] = authority.queries.slice(-2).map(({ body }) => body.subarray(-11, -3).toString('hex'));
      expect(one).not.toBe(two);
    });

    test.each([
      ['refuse', 'Message digest algorithm is not supported'],
      ['other_nonce', 'another nonce'],
      ['replay', 'another nonce'],
      ['other_imprint', 'of something else'],
      ['wrong_type', 'not application/timestamp-reply'],
      ['error_500', 'HTTP status 500'],
      ['garbage', 'the answer is no time stamp: not DER'],
    ] as const)('takes nothing from an authority that does: %s', async (behaviour, why) => {
      await client().stamp(request());
      authority.behaviour = behaviour;
      await failing(client(), why);
    });

    test('does not wait without end, and takes no endless answer', async () => {
      const hurried: TimeStampAuthorityDeps['post'] = (url, one) => calls.post(url, { ...one, timeoutMs: 300 });
      authority.behaviour = 'hang';
      await expect(client({ post: hurried }).stamp(request())).rejects.toMatchObject({ name: 'OutgoingError' });
      authority.behaviour = 'oversize';
      await expect(client().stamp(request())).rejects.toMatchObject({ name: 'OutgoingError' });
    });

    test('takes nothing from an authority that is not trusted', async () => {
      const other = await start({});
      await failing(client({ trusted: readCertificates(other.caPem) }), 'the "trust" file of this anchor');
    });

    test('takes nothing from an authority whose certificate has expired', async () => {
      const tsa = await start({ valid: [-100, -1] });
      await failing(
        client({ url: tsa.url, trusted: readCertificates(tsa.caPem) }),
        'had expired at the time of the stamp',
      );
    });

    test('takes no stamp of a clock that is wrong', async () => {
      for (const [wrong, why] of [
        [-310_000, 'ahead of ours'],
        [310_000, 'behind ours'],
      ] as const) {
        await failing(client({ wallClock: () => Date.now() + wrong }), why);
      }
    });

    test('takes nothing from an authority whose certificate is revoked', async () => {
      const tsa = await start({});
      await tsa.revoke('tsa', { reason: 'superseded' });
      await failing(client({ url: tsa.url, trusted: readCertificates(tsa.caPem) }), 'had been revoked');
      expect(tsa.listsFetched).toEqual(['root']);
    });

    test('does without revocation lists that can not be had', async () => {
      const { get } = calls;
      const answers: readonly [TimeStampAuthorityDeps['get'], number][] = [
        [undefined, 0],
        [() => Promise.reject(new Error('no way there')), 2],
        [async (url, one) => ({ ...(await get(url, one)), status: 404 }), 2],
        [async (url, one) => ({ ...(await get(url, one)), body: Buffer.from('<html>') }), 2],
        [async (url, one) => ({ ...(await get(url, one)), body: Buffer.alloc(0) }), 2],
        [async (url, one) => (url.includes('root') ? Promise.reject(new Error('no way')) : get(url, one)), 1],
      ];
      for (const [wrong, warnings] of answers) {
        const stamp = await client({ get: wrong }).stamp(request());
        expect(stamp.warnings).toHaveLength(warnings);
        expect(stamp.crls).toHaveLength(wrong === undefined ? 0 : 2 - warnings);
      }
    });

    test('ends when it is told to', async () => {
      authority.behaviour = 'hang';
      const stop = new AbortController();
      const stamp = client().stamp({ imprint, signal: stop.signal });
      setTimeout(() => stop.abort(), 100);
      await expect(stamp).rejects.toThrow();
    });
  });

  describe('certificates in PEM', () => {
    test('are read, with text between them', async () => {
      const two = `root:\n${authority.caPem}\nand again\n${authority.caPem.replaceAll('\n', '\r\n')}`;
      const [one, other, ...more] = readCertificates(two);
      expect(one).toEqual(other);
      expect(more).toEqual([]);
      expect(Buffer.from(one!)).toEqual(await authority.certificate('root'));
    });

    test('are refused where they are none', () => {
      const pem = authority.caPem;
      const body = pem.split('\n')[2]!;
      const wrong = [
        '',
        'CA',
        pem.replaceAll('CERTIFICATE', 'PRIVATE KEY'),
        `${pem}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n`,
        pem.replace('-----END CERTIFICATE-----', ''),
        pem.replace(body, ''),
        pem.replace(body, '*'),
        pem.repeat(65),
        'x'.repeat(1024 * 1024 + 1),
        `-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n`,
        `-----BEGIN CERTIFICATE-----\n${pem}`,
      ];
      for (const text of wrong) expect(() => readCertificates(text), text.slice(0, 80)).toThrow(EvidenceError);
    });
  });
});

describe('DER', () => {
  const sound = [
    '0500',
    '0101ff',
    '02017f',
    '02020080',
    '0201ff',
    '0202ff7f',
    '030100',
    '03020780',
    '06022a03',
    '3000',
    '30020500',
    'a0020500',
    '80017f',
  ];
  test.each(sound)('%s is', (hex) => {
    expect(() => checkDer(Buffer.from(hex, 'hex'))).not.toThrow();
  });

  const damaged: readonly [string, string][] = [
    ['', 'cut off'],
    ['05', 'cut off'],
    ['0501', 'cut off'],
    ['050000', 'bytes follow'],
    ['050100', 'NULL'],
    ['010101', 'BOOLEAN'],
    ['01020000', 'BOOLEAN'],
    ['0200', 'INTEGER'],
    ['02020001', 'INTEGER'],
    ['0202ff80', 'INTEGER'],
    ['0a020001', 'INTEGER'],
    ['0300', 'BIT STRING'],
    ['030101', 'BIT STRING'],
    ['03020800', 'BIT STRING'],
    ['03020101', 'BIT STRING'],
    ['0600', 'IDENTIFIER'],
    ['06012a80', 'bytes follow'],
    ['06022a80', 'IDENTIFIER'],
    ['06032a8001', 'IDENTIFIER'],
    [`0641${'01'.repeat(65)}`, 'IDENTIFIER'],
    ['0000', 'end mark'],
    ['2400', 'in pieces'],
    ['1000', 'in one'],
    ['3080', 'not definite'],
    ['30800000', 'not definite'],
    ['048100', 'not the shortest'],
    ['0482007f', 'not the shortest'],
    ['04850000000001', 'cut off'],
    ['04ff', 'cut off'],
    ['1f2000', 'tag'],
    ['30030500', 'cut off'],
    ['30030403ff', 'cut off'],
    ['3003040201ff', 'cut off'],
    ['300405000500ff', 'bytes follow'],
  ];
  test.each(damaged)('%s is not', (hex, why) => {
    expect(() => checkDer(Buffer.from(hex, 'hex'))).toThrow(EvidenceError);
    expect(() => checkDer(Buffer.from(hex, 'hex'))).toThrow(why);
  });
});

const TRUE = der(0x01, Buffer.from([0xff]));
/** Extensions with one that may be passed over. */
const NOT_CRITICAL = der(0x30, Buffer.from('06022a03', 'hex'), der(0x04));
const calls = outgoing({ allowAddresses: ['127.0.0.1/32'], log: { debug: () => {}, warn: () => {} } });

function tst(fields: Partial<Parameters<typeof encodeTstInfo>[0]>): Buffer {
  return encodeTstInfo({ imprint, ...fields });
}

function without(name: string, list: readonly string[] = STAMPER): string[] {
  return list.filter((one) => !one.includes(name));
}

function asn1(time: number): string {
  return `${new Date(time).toISOString().replace(/[-:T]|\.\d+/g, '')}`;
}

async function start(options: AuthorityOptions): Promise<Authority> {
  const tsa = await startAuthority(options);
  onTestFinished(() => tsa.stop());
  return tsa;
}

function check(changed: Partial<TimeStampCheck> = {}): Promise<TimeStampVerdict> {
  const trusted = changed.trusted ?? readCertificates(authority.caPem);
  return checkTimeStamp({ token, imprint, certificates: [], crls: [], ...changed, trusted });
}

async function refused(verdict: Promise<TimeStampVerdict>, why = ''): Promise<void> {
  const error = await verdict.then(
    (one) => one,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(EvidenceError);
  expect((error as Error).message).toContain(why);
}

async function verdictOf(verdict: Promise<TimeStampVerdict>): Promise<TimeStampVerdict | undefined> {
  try {
    return await verdict;
  } catch (error) {
    expect(error).toBeInstanceOf(EvidenceError);
    return undefined;
  }
}

async function judged(verdict: Promise<TimeStampVerdict>): Promise<string> {
  try {
    return (await verdict).kind;
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    return error instanceof RevokedError ? 'revoked' : 'refused';
  }
}

/** One turned bit of every thirty-first byte, others in each run; all bits of all with SEALOG_TEST_HARD. */
function* each(bytes: Buffer): Iterable<{ name: string; bytes: Buffer }> {
  for (let place = HARD ? 0 : randomBytes(1)[0]! % 31; place < bytes.length; place += HARD ? 1 : 31) {
    for (const bit of HARD ? [0, 1, 2, 3, 4, 5, 6, 7] : [randomBytes(1)[0]! & 7]) {
      yield { name: `${place}.${bit}`, bytes: flipped(bytes, place, bit) };
    }
  }
}

/** Adds an element at the end of the last list that is so deep in the last lists. */
function grown(bytes: Buffer, depth: number, more: Buffer): Buffer {
  if (depth === 0) return Buffer.concat([bytes, more]);
  const parts: Buffer[] = [];
  const { start, tag } = header(bytes, 0);
  for (let at = start; at < bytes.length; ) {
    const { end } = header(bytes, at);
    parts.push(bytes.subarray(at, end));
    at = end;
  }
  const last = parts.pop() ?? Buffer.alloc(0);
  if (depth === 1) return der(tag, ...parts, last, more);
  return der(tag, ...parts, grown(last, depth - 1, more));
}

function header(bytes: Buffer, at: number): { tag: number; start: number; end: number } {
  const first = bytes[at + 1]!;
  const count = first < 0x80 ? 0 : first & 0x7f;
  const length = count === 0 ? first : bytes.readUIntBE(at + 2, count);
  return { tag: bytes[at]!, start: at + 2 + count, end: at + 2 + count + length };
}

function client(changed: Partial<TimeStampAuthorityDeps> = {}) {
  return timeStampAuthority({
    url: authority.url,
    trusted: readCertificates(authority.caPem),
    policy: undefined,
    tlsCaPem: undefined,
    post: calls.post,
    get: calls.get,
    wallClock: Date.now,
    ...changed,
  });
}

function request() {
  return { imprint, signal: AbortSignal.timeout(20_000) };
}

async function failing(one: ReturnType<typeof client>, why: string): Promise<void> {
  const error = await one.stamp(request()).then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(AnchorError);
  expect((error as Error).message).toContain(why);
}
