/** A strict reader of RFC 4180, sharing nothing with the writer. */

/** The cells of one line. Throws where RFC 4180 does not allow it, and where there is more than a line. */
export function readCsv(line: string): string[] {
  const cells: string[] = [];
  let at = 0;
  for (;;) {
    if (line[at] !== '"') throw new Error('a cell without quotes');
    let cell = '';
    for (at += 1; line[at] !== '"' || line[at + 1] === '"'; at += 1) {
      if (at >= line.length) throw new Error('a cell without an end');
      if (line[at] === '"') at += 1;
      cell += line[at];
    }
    cells.push(cell);
    at += 1;
    if (line.slice(at) === '\r\n') return cells;
    if (line[at] !== ',') throw new Error('something behind a cell');
    at += 1;
  }
}
