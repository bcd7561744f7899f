/** The verifier as a page: the file that is committed, opened from disk in Debian's Chromium, says what the library says, and asks nobody. */
import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as nodeBytes from '../src/chain/bytes.ts';
import { ed25519Signer, ed25519Verifier } from '../src/chain/ed25519.ts';
import * as nodeSha256 from '../src/chain/sha256.ts';
import { EvidenceError } from '../src/errors.ts';
import { verifyBundle } from '../src/verify/bundle/verify-bundle.ts';
import * as pageBytes from '../tools/browser/bytes.ts';
import { ed25519Verifier as pageVerifier } from '../tools/browser/ed25519.ts';
import * as pageSha256 from '../tools/browser/sha256.ts';
import { buildVerifier, PAGE } from '../tools/build-verifier.ts';
import { type BundleCase, damagedBundles, goodBundles, STREAM, usualBundle } from './support/bundles.ts';
import { type Browser, CHROMIUM, type Page, startBrowser } from './support/chromium.ts';
import { type Authority, startAuthority, withoutOpenssl } from './support/time-stamp-authority.ts';

const HARD = process.env.SEALOG_TEST_HARD !== undefined;

describe('the page', () => {
  test('that is committed is what the sources make', async () => {
    const [built, again] = [await buildVerifier(), await buildVerifier()];
    expect(built === again).toBe(true);
    expect((await readFile(PAGE, 'utf8')) === built, 'npm run verifier').toBe(true);
  });

  test('is one file that names nothing outside, under a policy that allows nothing', async () => {
    const page = await readFile(PAGE, 'utf8');
    const head = page.slice(0, page.indexOf('<script>'));
    expect(head).toMatch(
      /default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+'; base-uri 'none'; form-action 'none'/,
    );
    expect(head).not.toMatch(/https?:|<link|src=|url\(/);
    expect(page.match(/<script/g)).toHaveLength(1);
    expect(page).not.toMatch(/\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts)\s*\(/);
    expect(page).not.toMatch(/\beval\s*\(|new Function\b|innerHTML|document\.write/);
  });
});

describe('what stands for Node in a page', () => {
  const outcome = <T>(work: () => T): unknown => {
    try {
      const value = work();
      return value instanceof Uint8Array ? [...value] : value;
    } catch (error) {
      return error instanceof EvidenceError ? `refused: ${error.message}` : error;
    }
  };

  test('reads and writes bytes alike', () => {
    const bytes = fc.uint8Array({ maxLength: 100 });
    fc.assert(
      fc.property(bytes, bytes, (a, b) => {
        for (const own of [nodeBytes, pageBytes] as const) {
          expect([...own.fromBase64(own.toBase64(a))]).toEqual([...a]);
          expect([...own.fromHex(own.toHex(a))]).toEqual([...a]);
        }
        expect(pageBytes.toBase64(a)).toBe(nodeBytes.toBase64(a));
        expect(pageBytes.toHex(a)).toBe(nodeBytes.toHex(a));
        expect([...pageBytes.concatBytes(a, b)]).toEqual([...nodeBytes.concatBytes(a, b)]);
        expect([...pageBytes.lengthPrefixed(a)]).toEqual([...nodeBytes.lengthPrefixed(a)]);
        expect(Math.sign(pageBytes.compareBytes(a, b))).toBe(Math.sign(nodeBytes.compareBytes(a, b)));
        expect(pageBytes.equalBytes(a, b)).toBe(nodeBytes.equalBytes(a, b));
        expect(outcome(() => pageBytes.fromUtf8(a))).toEqual(outcome(() => nodeBytes.fromUtf8(a)));
        expect([...pageSha256.sha256(a)]).toEqual([...nodeSha256.sha256(a)]);
        expect(pageSha256.sha256Hex(a)).toBe(nodeSha256.sha256Hex(a));
      }),
    );
  });

  test('refuses the same texts', () => {
    const near = fc.array(
      fc.constantFrom('A', 'a', '9', 'g', '+', '/', '-', '_', '=', ' ', '\n', 'é', 'AA==', 'AAA='),
      { maxLength: 9 },
    );
    fc.assert(
      fc.property(near, (pieces) => {
        const text = pieces.join('');
        expect(outcome(() => pageBytes.fromBase64(text))).toEqual(outcome(() => nodeBytes.fromBase64(text)));
        expect(outcome(() => pageBytes.fromHex(text))).toEqual(outcome(() => nodeBytes.fromHex(text)));
      }),
      { numRuns: 2000 },
    );
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect([...pageBytes.utf8(text)]).toEqual([...nodeBytes.utf8(text)]);
      }),
    );
  });

  test('takes the same signatures', () => {
    const { publicKey, sign } = ed25519Signer(nodeSha256.sha256('seed'));
    const [inNode, inPage] = [ed25519Verifier(publicKey), pageVerifier(publicKey)];
    const message = nodeBytes.utf8('message');
    const good = new Uint8Array(sign(message));
    expect([inNode(message, good), inPage(message, good)]).toEqual([true, true]);
    for (let bit = 0; bit < 512; bit += HARD ? 1 : 5) {
      const bad = good.slice();
      bad[bit >> 3]! ^= 1 << (bit & 7);
      expect([inNode(message, bad), inPage(message, bad)]).toEqual([false, false]);
    }
    // s + L: the same point, which RFC 8032 section 5.1.7 refuses.
    const order = 2n ** 252n + 27742317777372353535851937790883648493n;
    const s = good.subarray(32).reduceRight((sum, byte) => sum * 256n + BigInt(byte), 0n) + order;
    const malleable = good.slice();
    for (let i = 0; i < 32; i++) malleable[32 + i] = Number((s >> BigInt(8 * i)) & 255n);
    for (const wrong of [malleable, good.subarray(1), new Uint8Array(64), new Uint8Array(0)])
      expect([inNode(message, wrong), inPage(message, wrong)]).toEqual([false, false]);
  });
});

describe.skipIf(CHROMIUM === undefined && process.env.CI === undefined)('in Chromium (package chromium)', () => {
  let folder: string;
  let browser: Browser;
  let page: Page;
  let authority: Authority | undefined;
  let cases: BundleCase[];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sealog-test-browser-'));
    authority = withoutOpenssl === undefined ? await startAuthority() : undefined;
    cases = [...(await goodBundles(authority)), ...(await damagedBundles(authority))];
    browser = await startBrowser();
    page = await browser.open(pathToFileURL(PAGE).href);
  }, 60_000);

  afterAll(async () => {
    await browser?.close();
    await authority?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  /** As a person does it: files into the inputs, the keys typed in, the button, and what is then to be read. */
  async function look({
    name,
    bytes,
    trust,
  }: Pick<BundleCase, 'name' | 'bytes' | 'trust'>): Promise<{ verdict: string; lines: string[]; kind: string }> {
    await writeFile(join(folder, `${name}.tar`), bytes);
    const checkpoints = await write(trust.checkpoints.map((note, i) => [`${name}.${i}.note`, note]));
    const pem = (der: Uint8Array) =>
      `-----BEGIN CERTIFICATE-----\n${Buffer.from(der).toString('base64')}\n-----END CERTIFICATE-----\n`;
    const authorities = await write(trust.authorities.map((der, i) => [`${name}.${i}.pem`, pem(der)]));
    await page.setFiles('#bundle', [join(folder, `${name}.tar`)]);
    await page.setFiles('#checkpoints', checkpoints);
    await page.setFiles('#authorities', authorities);
    await page.evaluate(`document.getElementById('key').value = ${JSON.stringify(trust.key)};
      document.getElementById('witnesses').value = ${JSON.stringify(trust.witnesses.join('\n'))};
      document.getElementById('check').click()`);
    return page.evaluate(`(async () => {
      while (document.getElementById('check').disabled || document.getElementById('output').className === 'working')
        await new Promise((resolve) => setTimeout(resolve, 10));
      return {
        kind: document.getElementById('output').className,
        verdict: document.getElementById('verdict').textContent,
        lines: [...document.querySelectorAll('#lines li')].map((item) => item.textContent),
      };
    })()`);
  }

  async function write(files: readonly (readonly [string, string])[]): Promise<string[]> {
    const paths = files.map(([name]) => join(folder, name));
    for (const [i, [, text]] of files.entries()) await writeFile(paths[i]!, text);
    return paths;
  }

  test('shows the verdict, and which entries are anchored', async () => {
    const { log, bytes, trust } = usualBundle();
    const shown = await look({ name: 'usual', bytes, trust: { ...trust, checkpoints: [log.checkpoint(STREAM)] } });
    expect(shown).toMatchObject({ kind: 'intact', verdict: 'intact' });
    expect(shown.lines).toContain('anchored: seq 7 to 9: witness-1 (witness, 2026-01-01T00:03:20.000Z)');
    expect(shown.lines).toContain('agrees with your checkpoint of 16 entries');
    const alone = await look({ name: 'usual', bytes, trust: { ...trust, witnesses: [] } });
    expect(alone).toMatchObject({ kind: 'not_provable', verdict: 'not provable' });
    expect(alone.lines).toContain('not anchored: seq 2 to 9: not proven by anybody outside');
  });

  test('shows what is wrong, in the words of the library', async () => {
    const wrong = cases.filter(({ name }) =>
      /value-changed|outcome-changed|blind-changed|rewritten-and|time-stamp-cut|cut-by-1$/.test(name),
    );
    expect(wrong.length).toBeGreaterThanOrEqual(5);
    for (const one of wrong) {
      const shown = await look(one);
      const { findings } = await verifyBundle(one.bytes, one.trust);
      expect(shown).toMatchObject({ kind: 'tampered', verdict: 'tampered' });
      expect(shown.lines.filter((line) => line.startsWith('WRONG')).length).toBe(findings.length);
    }
  });

  test('says what is missing when it is called without a key or a file', async () => {
    const { bytes, trust } = usualBundle();
    const shown = await look({ name: 'usual', bytes, trust: { ...trust, key: 'none' } });
    expect(shown).toMatchObject({ kind: 'mistake', verdict: 'could not be checked' });
  });

  test('takes a bundle that is dropped on it', async () => {
    const { bytes, trust } = usualBundle();
    await page.evaluate(`(() => {
      const files = new DataTransfer();
      const bytes = Uint8Array.from(atob(${JSON.stringify(Buffer.from(bytes).toString('base64'))}), (letter) => letter.charCodeAt(0));
      files.items.add(new File([bytes], 'dropped.tar'));
      document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true }));
      document.getElementById('key').value = ${JSON.stringify(trust.key)};
      document.getElementById('witnesses').value = ${JSON.stringify(trust.witnesses[0])};
      document.getElementById('check').click();
    })()`);
    await expect
      .poll(() => page.evaluate(`document.getElementById('verdict').textContent`), { timeout: 10_000 })
      .toBe('intact');
    expect(await page.evaluate(`document.getElementById('chosen').textContent`)).toBe('Chosen: dropped.tar');
  });

  test('finds in every bundle, good or damaged, exactly what the library finds', async () => {
    for (const { name, bytes, trust } of cases) {
      const authorities = trust.authorities.map((der) => Buffer.from(der).toString('base64'));
      const report = await page.evaluate(`(() => {
        const read = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
        const trust = ${JSON.stringify({ ...trust, authorities })};
        return sealogVerify(read(${JSON.stringify(Buffer.from(bytes).toString('base64'))}), { ...trust, authorities: trust.authorities.map(read) });
      })()`);
      expect({ name, report }).toEqual({ name, report: await verifyBundle(bytes, trust) });
    }
  }, 300_000);

  test('asked nobody, and complained of nothing', async () => {
    expect(page.complaints).toEqual([]);
    expect(page.requests.filter((url) => !url.startsWith('data:') && url !== pathToFileURL(PAGE).href)).toEqual([]);
    // And could not: the policy of the page refuses what a script would try.
    await page.evaluate(`fetch('http://127.0.0.1:9/').catch(() => 'refused')`);
    expect(page.complaints.some((text) => /Content Security Policy/.test(text))).toBe(true);
  });

  test('is the Chromium of the machine', () => {
    expect(execFileSync(CHROMIUM!, ['--version']).toString()).toMatch(/^Chromium \d+/);
  });
});
