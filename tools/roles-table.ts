/** The table of roles in docs/access.md, from src/auth/roles.ts: `npm run roles` writes it, and a test compares it. */
import { readFileSync, writeFileSync } from 'node:fs';
import { PERMISSIONS, type Permission, ROLES } from '../src/auth/roles.ts';

const PAGE = new URL('../docs/access.md', import.meta.url);
const BEGIN = '<!-- roles -->\n';
const END = '<!-- /roles -->';

/** Returns the table as Markdown: a row a permission, a column each role that has one. */
export function rolesTable(): string {
  const roles = Object.entries<{ readonly may: readonly Permission[] }>(ROLES).filter(([, { may }]) => may.length > 0);
  const nothing = Object.keys(ROLES).filter((role) => !roles.some(([name]) => name === role));
  const head = ['permission', 'holds in', ...roles.map(([role]) => `\`${role}\``)];
  const place = { tenant: 'tenants', deployment: '`sealog`', both: 'both' };
  const rows = Object.entries(PERMISSIONS).map(([permission, where]) => [
    `\`${permission}\``,
    place[where],
    ...roles.map(([, { may }]) => (may.includes(permission as Permission) ? 'yes' : '')),
  ]);
  const lines = [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |\n`);
  return `${lines.join('')}\nNothing at all: ${nothing.map((role) => `\`${role}\``).join(', ')}.\n`;
}

/** Returns a page with the table of now between its marks. */
export function withRolesTable(page: string): string {
  const begin = page.indexOf(BEGIN);
  const end = page.indexOf(END);
  if (begin === -1 || end < begin) throw new Error('docs/access.md has lost the marks of its table');
  return page.slice(0, begin + BEGIN.length) + rolesTable() + page.slice(end);
}

if (import.meta.main) writeFileSync(PAGE, withRolesTable(readFileSync(PAGE, 'utf8')));
