/** The page around the verifier: takes files and keys, shows what was found. Nothing of it leaves the page; its policy forbids it too. */
import { EvidenceError } from '../../src/errors.ts';
import type { BundleReport } from '../../src/verify/bundle/bundle-report.ts';
import { reportLines, VERDICT_NAMES, VERDICT_WORDS } from '../../src/verify/bundle/report-text.ts';
import { type BundleTrust, verifyBundle } from '../../src/verify/bundle/verify-bundle.ts';
import { readCertificates } from '../../src/verify/time-stamp.ts';

// ---- As much of the DOM as is used: the rest of the project has no types of it. ----

interface PageFile {
  readonly name: string;
  arrayBuffer(): Promise<ArrayBuffer>;
  text(): Promise<string>;
}

interface PageEvent {
  readonly dataTransfer?: { readonly files: ArrayLike<PageFile> } | null;
  preventDefault(): void;
}

interface PageElement {
  value: string;
  textContent: string;
  hidden: boolean;
  disabled: boolean;
  className: string;
  files: ArrayLike<PageFile> | null;
  focus(): void;
  append(...children: PageElement[]): void;
  replaceChildren(...children: PageElement[]): void;
  addEventListener(type: string, listener: (event: PageEvent) => void): void;
}

declare const document: {
  readonly body: PageElement;
  getElementById(id: string): PageElement | null;
  createElement(name: string): PageElement;
};

const at = (id: string): PageElement => document.getElementById(id)!;
const [bundleInput, drop, chosen, form, output, verdict, words, lines] = [
  'bundle',
  'drop',
  'chosen',
  'form',
  'output',
  'verdict',
  'words',
  'lines',
].map(at) as [PageElement, PageElement, PageElement, PageElement, PageElement, PageElement, PageElement, PageElement];

let dropped: PageFile | undefined;

for (const type of ['dragenter', 'dragover']) {
  document.body.addEventListener(type, (event) => {
    event.preventDefault();
    drop.className = 'over';
  });
}
document.body.addEventListener('dragleave', () => {
  drop.className = '';
});
document.body.addEventListener('drop', (event) => {
  event.preventDefault();
  drop.className = '';
  const file = event.dataTransfer?.files[0];
  if (file === undefined) return;
  dropped = file;
  bundleInput.value = '';
  chosen.textContent = `Chosen: ${file.name}`;
});
bundleInput.addEventListener('change', () => {
  dropped = undefined;
  const name = bundleInput.files?.[0]?.name;
  chosen.textContent = name === undefined ? '' : `Chosen: ${name}`;
});

form.addEventListener('submit', (event) => {
  event.preventDefault();
  void check();
});

async function check(): Promise<void> {
  at('check').disabled = true;
  output.hidden = false;
  show('working', 'Checking …', 'Large bundles take a while.', []);
  // Let that be seen: what follows keeps the page busy.
  await new Promise((resolve) => setTimeout(resolve, 50));
  try {
    const file = dropped ?? bundleInput.files?.[0];
    if (file === undefined) throw new EvidenceError('Choose the file of a bundle.');
    const report = await verifyBundle(new Uint8Array(await file.arrayBuffer()), await trustOf());
    const all = reportLines(report);
    show(report.verdict, VERDICT_NAMES[report.verdict], VERDICT_WORDS[report.verdict], all.slice(0, -1));
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    show('mistake', 'could not be checked', message, []);
  } finally {
    at('check').disabled = false;
    verdict.focus();
  }
}

async function trustOf(): Promise<BundleTrust> {
  const authorities: Uint8Array[] = [];
  for (const file of filesOf('authorities')) authorities.push(...readCertificates(await file.text()));
  return {
    key: at('key').value.trim(),
    checkpoints: await Promise.all(filesOf('checkpoints').map((file) => file.text())),
    authorities,
    witnesses: at('witnesses')
      .value.split('\n')
      .map((line) => line.trim())
      .filter((line) => line !== ''),
  };
}

function filesOf(id: string): PageFile[] {
  return Array.from(at(id).files ?? []);
}

/** As text: nothing of a bundle becomes part of the page's structure. */
function show(kind: string, heading: string, sentence: string, all: readonly string[]): void {
  output.className = kind;
  verdict.textContent = heading;
  words.textContent = sentence;
  lines.replaceChildren(
    ...all.map((line) => {
      const item = document.createElement('li');
      item.textContent = line.trim();
      if (line.startsWith('WRONG')) item.className = 'wrong';
      return item;
    }),
  );
}

/** For whoever drives the page: the verifier itself, with bytes where the page has files. */
declare global {
  var sealogVerify: (bundle: Uint8Array, trust: BundleTrust) => Promise<BundleReport>;
}
globalThis.sealogVerify = verifyBundle;
