/** Damage to single ids, as SQL: a row has those of a whole block. `$1` is the stream. */

/** Takes one away, and leaves the others in their places. */
export function withoutId(seq: number): string {
  return `UPDATE sealog.entry_id SET ids[(${seq} - first_seq + 1)::integer] = NULL
    WHERE stream = $1 AND ${seq} >= first_seq AND ${seq} < first_seq + cardinality(ids)`;
}

/** Adds a row with one: `id` is a UUID as SQL. */
export function plantedId(
  seq: number | string,
  id: string,
  month: number,
  { tenant = '1', stream = '$1' } = {},
): string {
  return `INSERT INTO sealog.entry_id (tenant, stream, first_seq, drop_month, ids, ids_rest)
    SELECT ${tenant}, ${stream}, ${seq}, ${month}, ARRAY[sealog.id_half(p.id)], ARRAY[sealog.id_rest(p.id)] FROM (SELECT ${id}::uuid AS id) AS p WHERE $1::integer > 0`;
}
