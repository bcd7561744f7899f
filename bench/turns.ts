/** Sides of a comparison take turns. */

/**
 * Runs each side once a round. Every second round goes the other way round, so that no one always finds the machine as the same other left it.
 */
export async function takeTurns(
  rounds: number,
  sides: readonly ((round: number) => Promise<unknown>)[],
): Promise<void> {
  for (let round = 0; round < rounds; round++)
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) await side(round);
}
