/** The tables in docs/cef.md and docs/ocsf.md, from the code: `node tools/format-tables.ts` writes them, and a test compares them. */
import { readFileSync, writeFileSync } from 'node:fs';
import { parse } from 'yaml';
import type { JsonObject } from '../src/chain/canonical.ts';
import { CATEGORIES, type Category, OUTCOMES } from '../src/chain/category.ts';
import { CEF_FIELDS, cefText } from '../src/export/cef.ts';
import { SEVERITY_DEFAULTS } from '../src/export/exported-entry.ts';
import { ocsfText } from '../src/export/ocsf.ts';
import { decodeCef } from '../test/support/cef-decoder.ts';
import { exportedEntry } from '../test/support/exported.ts';

export const FORMAT_PAGES = ['cef.md', 'ocsf.md'].map((name) => new URL(`../docs/${name}`, import.meta.url));

/** What the log says of itself; the other examples are those of openapi.yaml. */
const OWN_EXAMPLES: readonly JsonObject[] = [
  {
    id: '0199a4c2-d2e0-7c11-9b7e-1c5d3a9f0b42',
    category: 'log_administration',
    action: 'sink.update',
    outcome: 'success',
    occurredAt: '2026-11-22T20:15:00.000Z',
    source: { service: 'sealog' },
    actor: { type: 'user', id: 'u-1002', roles: ['it_security_admin'] },
    target: { type: 'sink', id: 'siem-1' },
    changes: { before: { state: 'running' }, after: { state: 'paused' } },
  },
  {
    id: 'c2ab8f3e2a1a0f4d6b0f0e0ad1a5b6a6d95e0c2a5d0e8a9f1b2c3d4e5f607182',
    category: 'anchor',
    action: 'anchor.tick',
    outcome: 'success',
    occurredAt: '2026-11-22T20:16:00.000Z',
    source: { service: 'sealog' },
  },
];

function examples(): JsonObject[] {
  const api = parse(readFileSync(new URL('../openapi.yaml', import.meta.url), 'utf8')) as {
    readonly components: { readonly schemas: Readonly<Record<string, { readonly examples?: readonly JsonObject[] }>> };
  };
  const all = [...Object.values(api.components.schemas).flatMap((schema) => schema.examples ?? []), ...OWN_EXAMPLES];
  return CATEGORIES.map((category) => all.find((one) => one['category'] === category)!);
}

function exampleEntry(event: JsonObject) {
  const tenant = event['category'] === 'anchor' ? 'sealog' : 'acme';
  return exportedEntry(event, { tenant, seq: 41, previous: '5e'.repeat(32), retainUntil: '2027-11-22T20:04:05.310Z' });
}

/** The tables by the name of their mark in the pages. */
function tables(): ReadonlyMap<string, string> {
  const events = examples();
  return new Map([
    ['cef-fields', cefFields()],
    ['severities', severities()],
    ...events.map((event): [string, string] => [`cef-${event['category']}`, cefExample(event)]),
    ['ocsf-classes', ocsfClasses(events)],
  ]);
}

function cefFields(): string {
  const rows = CEF_FIELDS.map(({ key, label, name, maxBytes, from, form, kept }) => [
    code(key),
    label === undefined ? '' : code(label),
    name === key ? '' : name,
    String(maxBytes),
    code(from),
    form === 'plain' ? '' : form,
    kept === undefined ? '' : 'yes',
  ]);
  return table(['key', 'label', 'full name', 'bytes', 'holds', 'escaped as', 'always kept'], rows);
}

function severities(): string {
  const rows = Object.entries(SEVERITY_DEFAULTS).map(([category, defaults]) => [
    code(category),
    ...OUTCOMES.map((outcome) => String(defaults[outcome])),
  ]);
  return table(['category', ...OUTCOMES], rows);
}

function cefExample(event: JsonObject): string {
  const line = cefText(exampleEntry(event));
  const { eventClass, name, severity, fields } = decodeCef(line);
  const header = [
    ['Device Event Class ID', code('action'), code(eventClass)],
    ['Name', `${code('action')} as words`, code(name)],
    ['Severity', event['severity'] === undefined ? 'the default' : code('severity'), String(severity)],
  ];
  const labels = [...fields].filter(([key]) => !key.endsWith('Label'));
  const rows = labels.map(([key, value]) => {
    const label = fields.get(`${key}Label`);
    const from = CEF_FIELDS.find((field) => field.key === key && (field.label ?? label) === label)?.from ?? 'notes';
    return [code(key), code(from), code(value)];
  });
  return `${table(['field', 'holds', 'in the example'], [...header, ...rows])}\n\`\`\`\n${line}\n\`\`\`\n`;
}

function ocsfClasses(events: readonly JsonObject[]): string {
  const rows = events.map((event) => {
    const made = JSON.parse(ocsfText(exampleEntry(event))) as JsonObject;
    return [
      code(event['category'] as Category),
      code(event['action'] as string),
      `${made['class_name']} (${made['class_uid']})`,
      `${made['activity_name']} (${made['activity_id']})`,
    ];
  });
  return table(['category', 'example', 'class', 'activity'], rows);
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |\n`).join('');
}

function code(text: string): string {
  return `\`${text.replaceAll('|', '\\|')}\``;
}

/** Returns a page with the tables of now between their marks. */
export function withFormatTables(page: string): string {
  const made = tables();
  return page.replace(
    /(<!-- ([\w-]+) -->\n)[\s\S]*?(<!-- \/\2 -->)/g,
    (_all, begin: string, name: string, end: string) => {
      const text = made.get(name);
      if (text === undefined) throw new Error(`there is no table ${name}`);
      return begin + text + end;
    },
  );
}

/** Returns the names of the tables that a page has. */
export function tablesOf(page: string): string[] {
  return [...page.matchAll(/<!-- \/([\w-]+) -->/g)].map(([, name]) => name!);
}

if (import.meta.main)
  for (const page of FORMAT_PAGES) writeFileSync(page, withFormatTables(readFileSync(page, 'utf8')));
