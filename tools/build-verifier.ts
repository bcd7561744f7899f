/**
 * Builds `docs/verifiers/verify.html`: the verifier of evidence bundles as one file that a browser opens from disk.
 *
 * It is the same code that `sealog verify` runs. Only what needs Node has a stand-in in `tools/browser`. Script and style stand in the page
 * and are named by their hashes in its policy, which allows nothing else: no request can leave the page.
 *
 *     npm run verifier
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { rolldown } from 'rolldown';

const REPOSITORY = join(import.meta.dirname, '..');
const BROWSER = join(REPOSITORY, 'tools/browser');
export const PAGE = join(REPOSITORY, 'docs/verifiers/verify.html');

/** What needs Node, and what stands for it in a page. */
const STAND_INS: ReadonlyMap<string, string> = new Map([
  ['src/chain/bytes.ts', 'bytes.ts'],
  ['src/chain/sha256.ts', 'sha256.ts'],
  ['src/chain/ed25519.ts', 'ed25519.ts'],
]);

/** Returns the page. The same sources and packages give the same bytes. */
export async function buildVerifier(): Promise<string> {
  const script = (await bundleScript()).replaceAll('</script', '<\\/script').replaceAll('<!--', '<\\!--');
  const style = await readFile(join(BROWSER, 'page.css'), 'utf8');
  const template = await readFile(join(BROWSER, 'page.html'), 'utf8');
  const parts: readonly (readonly [mark: string, text: string])[] = [
    ['/* script */', script],
    ['/* style */', style],
    ['script-hash', hashOf(script)],
    ['style-hash', hashOf(style)],
  ];
  return parts.reduceRight((page, [mark, text]) => {
    const [before, after, ...more] = page.split(mark);
    assert(after !== undefined && more.length === 0, `${mark} stands once in the template`);
    return before + text + after;
  }, template);
}

async function bundleScript(): Promise<string> {
  const bundle = await rolldown({
    input: join(BROWSER, 'page.ts'),
    cwd: REPOSITORY,
    platform: 'browser',
    tsconfig: false,
    onLog(level, log) {
      if (level === 'warn') throw new Error(`the verifier can not be built: ${log.message}`);
    },
    plugins: [
      {
        name: 'stand-ins',
        async resolveId(source, importer, options) {
          if (source === 'node:assert/strict') return join(BROWSER, 'assert.ts');
          if (source.startsWith('node:')) throw new Error(`${importer} needs ${source}, which no page has`);
          const resolved = await this.resolve(source, importer, { ...options, skipSelf: true });
          const own = resolved?.id.startsWith(`${REPOSITORY}/`) ? resolved.id.slice(REPOSITORY.length + 1) : '';
          const standIn = STAND_INS.get(own);
          return standIn === undefined ? resolved : join(BROWSER, standIn);
        },
      },
    ],
  });
  try {
    const { output } = await bundle.generate({ format: 'iife', minify: true, sourcemap: false });
    const [chunk, ...more] = output;
    if (more.length > 0) throw new Error('the verifier is more than one file');
    return chunk.code;
  } finally {
    await bundle.close();
  }
}

function hashOf(text: string): string {
  return `sha256-${createHash('sha256').update(text).digest('base64')}`;
}

if (import.meta.main) await writeFile(PAGE, await buildVerifier());
