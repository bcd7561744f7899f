/** The page for operators and the dashboard, held to the program: every fatal line is explained, nothing is explained that nobody says, and each metric exists. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { VARIABLES } from '../src/config.ts';
import { serviceMetrics } from '../src/http/service-metrics.ts';

const REPOSITORY = join(import.meta.dirname, '..');

function textOf(path: string): string {
  return readFileSync(join(REPOSITORY, path), 'utf8');
}

const page = textOf('docs/operations.md');
const metrics = serviceMetrics(new Proxy({}, { get: () => () => [] }) as never).map(({ name }) => name);

/** What the sources say in texts, with … where something is filled in. */
const said = readdirSync(join(REPOSITORY, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.ts'))
  .flatMap((path) => {
    const text = textOf(join('src', path));
    const texts = [...text.matchAll(/`((?:[^`\\]|\\.)*)`|'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"/g)];
    return texts.map(([, a, b, c]) => ({
      path,
      text: (a ?? b ?? c ?? '').replace(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, '…').replaceAll('\\`', '`'),
    }));
  });

/** The patterns in the first column of the table. */
const table = page.slice(page.indexOf('## When it does not start'), page.indexOf('While it runs, `/readyz`'));
const patterns = [...table.matchAll(/^\| (`.*?) \|/gm)].flatMap(([, cell]) =>
  [...cell!.matchAll(/`([^`]+)`/g)].map(([, one]) => one!),
);

function matches(pattern: string, text: string): boolean {
  const parts = pattern
    .split('…')
    .map((part) => part.trim())
    .filter((part) => part !== '');
  let at = 0;
  for (const part of parts) {
    const found = text.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return true;
}

describe('the page of fatal lines', () => {
  test('explains nothing that the program does not say', () => {
    expect(patterns.length).toBeGreaterThan(50);
    for (const pattern of patterns)
      expect(
        said.some(({ text }) => matches(pattern, text)),
        pattern,
      ).toBe(true);
  });

  test('explains every line with which the service does not start, or ends', () => {
    // Where the service is started from: what commands alone say stands with them.
    const isOfStart = (path: string): boolean =>
      /^(cli\/serve|store\/(settings-gate|deployment|connection|embedded\/.*|embedded-postgres|data-dir-lock)|signer\/.*|anchor\/anchors-file|export\/sinks-file)\.ts$/.test(
        path,
      );
    const fatal = new Set<string>();
    for (const path of readdirSync(join(REPOSITORY, 'src'), { recursive: true, encoding: 'utf8' })) {
      if (!isOfStart(path)) continue;
      const text = textOf(join('src', path));
      const sites = [
        ...text.matchAll(/new SettingsError\(\s*\[\s*(?:`((?:[^`\\]|\\.)*)`|'((?:[^'\\\n]|\\.)*)')/g),
        ...text.matchAll(/\.fatal\([^']*'([^']*)'()/g),
        ...(path.includes('settings-gate')
          ? text.matchAll(/refusals\.push\(\s*(?:`((?:[^`\\]|\\.)*)`|'((?:[^'\\\n]|\\.)*)')/g)
          : []),
      ];
      for (const [, a, b] of sites) fatal.add((a ?? b ?? '').replace(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, '…'));
    }
    expect(fatal.size).toBeGreaterThan(50);
    // What has no words of its own has those of its cause.
    const unexplained = [...fatal].filter(
      (line) => /[a-z]{3}/.test(line) && !patterns.some((pattern) => matches(pattern, line)),
    );
    expect(unexplained).toEqual([]);
  });

  test('names settings, metrics and files that are there', () => {
    const settings = [...page.matchAll(/\bSEALOG_[A-Z_]+\b/g)].map(([name]) => name.replace(/_FILE$/, ''));
    const known = new Set([...VARIABLES].map((name) => name.replace(/_FILE$/, '')));
    expect(settings.filter((name) => !known.has(name) && name !== 'SEALOG_TEST_DATA')).toEqual([]);
    for (const [name] of page.matchAll(/\bsealog_[a-z_]+\b/g)) expect(metrics, name).toContain(name);
    for (const [, path] of page.matchAll(/`(deploy\/[\w./-]+)`/g)) expect(() => textOf(path!), path).not.toThrow();
  });
});

describe('the dashboard', () => {
  const { panels, templating } = JSON.parse(textOf('deploy/grafana-dashboard.json'));

  test('asks for metrics that exist, and for all that tell of an alarm', () => {
    const asked = new Set<string>();
    for (const { targets } of panels)
      for (const { expr } of targets) for (const [name] of expr.matchAll(/\bsealog_[a-z_]+\b/g)) asked.add(name);
    expect([...asked].filter((name) => !metrics.includes(name))).toEqual([]);
    expect(asked.size).toBeGreaterThan(20);
    const alarms = page.slice(page.indexOf('Wake somebody for'), page.indexOf('What else there is'));
    for (const [name] of alarms.matchAll(/\bsealog_[a-z_]+\b/g)) expect([...asked], name).toContain(name);
  });

  test('has panels of its own place each, and variables that are declared', () => {
    const places = panels.map(({ gridPos }: { gridPos: { x: number; y: number } }) => `${gridPos.x} ${gridPos.y}`);
    expect(new Set(places).size).toBe(panels.length);
    const names = templating.list.map(({ name }: { name: string }) => name);
    const used = [...JSON.stringify(panels).matchAll(/\$\{?([a-z]+)\}?/g)].map(([, name]) => name);
    expect(used.filter((name) => !names.includes(name))).toEqual([]);
  });
});
