/** The keys that sign and signed, as `GET /v1/keys` lists them. Nobody has to believe this list: its statements are signed. */
import { type AnchorPlace, anchorStreamName, decodeKeyStatement, type KeyStatement } from '../chain/key-statement.ts';
import { claimedText, parseVkey } from '../chain/note.ts';

export interface KeyView {
  /** The key's name: the origin of what it signs. */
  readonly origin: string;
  readonly vkey: string;
  readonly generation: number;
  /** Where in the anchor stream it signs: from here on, up to, not including, `to`; null: it signs now. */
  readonly from: PlaceView;
  readonly to: PlaceView | null;
  /** The signed note that says so. */
  readonly statement: string;
}

interface PlaceView {
  readonly stream: string;
  readonly size: number;
}

/**
 * Returns the keys of these statements (texts of notes), in their order. The deployment's statements MUST be among them, since they say where
 * a generation ends. Throws an EvidenceError.
 */
export function keyViews(origin: string, notes: readonly string[]): KeyView[] {
  const statements = notes.map((note) => ({
    note,
    says: decodeKeyStatement(claimedText(note)),
  }));
  const begins = new Map<number, AnchorPlace>();
  for (const { says } of statements) if (nameOf(says) === origin) begins.set(says.generation, says.from);
  return statements.map(({ note, says }) => {
    const end = begins.get(says.generation + 1);
    return {
      origin: nameOf(says),
      vkey: says.vkey,
      generation: says.generation,
      from: placeView(says.from),
      to: end === undefined ? null : placeView(end),
      statement: note,
    };
  });
}

function nameOf({ vkey }: KeyStatement): string {
  return parseVkey(vkey).name;
}

function placeView({ epoch, size }: AnchorPlace): PlaceView {
  return { stream: anchorStreamName(epoch), size };
}
