/**
 * Where a download goes on: `<stream>:<seq>` of the last line that the client has. Both stand in each line of every format, so whoever has
 * a part of a download has its cursor too, also where it was cut. It carries no authority: it is a place in what the caller may see anyway.
 *
 * The cursor of a closing line says besides up to when the log went when its first part was begun (`@` and milliseconds since 1970): each part
 * leaves an entry in the log, and one that is continued part by part must not follow itself for ever.
 */

export interface DownloadCursor {
  readonly stream: string;
  /** The last that the client has. */
  readonly seq: number;
  readonly until?: number | undefined;
}

export function formatCursor({ stream, seq, until }: DownloadCursor): string {
  return `${stream}:${seq}${until === undefined ? '' : `@${until}`}`;
}

/** Reads what openapi.yaml lets through. */
export function readCursor(text: string): DownloadCursor {
  const [place, until] = text.split('@', 2) as [string, string?];
  const colon = place.lastIndexOf(':');
  const seq = Number(place.slice(colon + 1));
  return { stream: place.slice(0, colon), seq, until: until === undefined ? undefined : Number(until) };
}
