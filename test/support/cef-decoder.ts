/**
 * A CEF reader of its own, written from the rules that receivers follow and sharing nothing with the writer: seven `|` that no `\`
 * precedes, then `key=value` with one blank between them, where a `=` in a value must have a `\` before it. It refuses what some receiver
 * would refuse or read otherwise.
 */

export interface DecodedCef {
  readonly vendor: string;
  readonly product: string;
  readonly version: string;
  readonly eventClass: string;
  readonly name: string;
  readonly severity: number;
  /** The values with their escapes undone. */
  readonly fields: ReadonlyMap<string, string>;
  /** The values as they stand in the line. */
  readonly written: ReadonlyMap<string, string>;
}

export function decodeCef(line: string): DecodedCef {
  if (!line.startsWith('CEF:0|')) throw new Error('the line does not begin with CEF:0|');
  if (/[\u0000-\u001f\u007f-\u009f]/.test(line)) throw new Error('the line has a control character');
  const columns: string[] = [];
  let at = 'CEF:0|'.length;
  while (columns.length < 6) {
    let column = '';
    for (; line[at] !== '|'; at += 1) {
      if (at >= line.length) throw new Error('the header has fewer than seven bars');
      if (line[at] === '\\') {
        at += 1;
        if (line[at] !== '\\' && line[at] !== '|') throw new Error('a header has no such escape');
      }
      column += line[at];
    }
    columns.push(column);
    at += 1;
  }
  const severity = Number(columns[5]);
  if (!/^(?:[0-9]|10)$/.test(columns[5]!)) throw new Error('the severity is not 0 to 10');

  const written = new Map<string, string>();
  for (const [key, value] of pairs(line.slice(at))) {
    if (!/^[A-Za-z0-9]+$/.test(key)) throw new Error(`${key} is not a key that all receivers take`);
    if (written.has(key)) throw new Error(`${key} stands twice`);
    if (value === '') throw new Error(`${key} is empty`);
    if (value.trim() !== value) throw new Error(`${key} has a blank at an edge`);
    written.set(key, value);
  }
  for (const key of written.keys()) {
    if (/^(?:cs|cn|c6a|flexString|deviceCustomDate)\d$/.test(key) && !written.has(`${key}Label`))
      throw new Error(`${key} has no label`);
    if (key.endsWith('Label') && !written.has(key.slice(0, -5))) throw new Error(`${key} labels nothing`);
  }
  return {
    vendor: columns[0]!,
    product: columns[1]!,
    version: columns[2]!,
    eventClass: columns[3]!,
    name: columns[4]!,
    severity,
    written,
    fields: new Map([...written].map(([key, value]) => [key, unescapeValue(value)])),
  };
}

/** The extension's pairs. A key ends at a `=` without `\`; its value ends at the last blank before the next key. */
function pairs(extension: string): [string, string][] {
  const equals: number[] = [];
  for (let at = 0; at < extension.length; at += 1) {
    if (extension[at] === '\\') at += 1;
    else if (extension[at] === '=') equals.push(at);
  }
  const found: [string, string][] = [];
  for (const [index, equal] of equals.entries()) {
    const start = index === 0 ? 0 : extension.lastIndexOf(' ', equal) + 1;
    const next = equals[index + 1];
    const end = next === undefined ? extension.length : extension.lastIndexOf(' ', next);
    if (end <= equal) throw new Error('a value ends before it begins');
    found.push([extension.slice(start, equal), extension.slice(equal + 1, end)]);
  }
  return found;
}

function unescapeValue(value: string): string {
  let text = '';
  for (let at = 0; at < value.length; at += 1) {
    if (value[at] !== '\\') {
      text += value[at];
      continue;
    }
    at += 1;
    const meant = new Map([
      ['\\', '\\'],
      ['=', '='],
      ['n', '\n'],
      ['r', '\r'],
    ]).get(value[at] ?? '');
    if (meant === undefined) throw new Error(`a value has no escape \\${value[at]}`);
    text += meant;
  }
  return text;
}

/** How Splunk's connector for CEF finds keys and values, which it leaves escaped. */
export function splunkPairs(line: string): Map<string, string> {
  const extension = line
    .split(/(?<!\\)\|/)
    .slice(7)
    .join('|');
  return new Map([...extension.matchAll(/([^=\s]+)=((?:\\=|[^=])+)(?:\s|$)/g)].map(([, key, value]) => [key!, value!]));
}
