/**
 * One answer for all who ask at the same time. For what strangers may ask: each of them would else take a connection of the database that
 * events wait for.
 */

/** Returns what asks `make`, but for whoever comes while it is at work: he waits for the same. */
export function shared<T>(make: () => Promise<T>): () => Promise<T> {
  let making: Promise<T> | undefined;
  return () => {
    making ??= make().finally(() => {
      making = undefined;
    });
    return making;
  };
}
