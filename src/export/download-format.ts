/**
 * The formats of a download: what a file begins with, a line for each entry, and the closing line, which no entry can be taken for. A file
 * without one was cut.
 */
import { cefText } from './cef.ts';
import { csvClosing, csvHeader, csvText } from './csv.ts';
import type { ExportedEntry } from './exported-entry.ts';
import { jsonText } from './json.ts';
import { ocsfText } from './ocsf.ts';

export const DOWNLOAD_FORMATS = ['ndjson', 'cef', 'csv', 'ocsf'] as const;

export type DownloadFormat = (typeof DOWNLOAD_FORMATS)[number];

/** Of one stream, what a download had: how many entries, and which seqs the first and the last of them have; null where there was none. */
export interface DownloadedStream {
  readonly stream: string;
  readonly entries: number;
  readonly firstSeq: number | null;
  readonly lastSeq: number | null;
}

/** What the closing line says of the lines before it. */
export interface ClosingStatement {
  /** Whether the download came to its end, and not to its `limit`. */
  readonly complete: boolean;
  readonly entries: number;
  /** In the order of the lines. */
  readonly streams: readonly DownloadedStream[];
  /** Goes on behind the last line; null where there is nothing more. */
  readonly cursor: string | null;
}

interface Writer {
  readonly contentType: string;
  readonly extension: string;
  /** What the first part of a download begins with. */
  readonly opening: string;
  /** An entry, with its line end. */
  readonly line: (exported: ExportedEntry) => string;
  readonly closing: (statement: string) => string;
}

const WRITERS: Readonly<Record<DownloadFormat, Writer>> = {
  ndjson: {
    contentType: 'application/x-ndjson',
    extension: 'ndjson',
    opening: '',
    line: (exported) => `${jsonText(exported)}\n`,
    // No event has a member of this name.
    closing: (statement) => `${statement}\n`,
  },
  cef: {
    contentType: 'text/plain; charset=utf-8',
    extension: 'cef',
    opening: '',
    line: (exported) => `${cefText(exported)}\n`,
    closing: (statement) => `# ${statement}\n`,
  },
  csv: {
    contentType: 'text/csv; charset=utf-8',
    extension: 'csv',
    opening: csvHeader(),
    line: csvText,
    closing: csvClosing,
  },
  ocsf: {
    contentType: 'application/x-ndjson',
    extension: 'ocsf.ndjson',
    opening: '',
    line: (exported) => `${ocsfText(exported)}\n`,
    closing: (statement) => `${statement}\n`,
  },
};

export function downloadWriter(format: DownloadFormat): Writer {
  return WRITERS[format];
}

/** Returns the last line of a download, with its end. */
export function closingLine(format: DownloadFormat, statement: ClosingStatement): string {
  return WRITERS[format].closing(JSON.stringify({ export: statement }));
}
