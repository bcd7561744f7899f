/** `node:assert/strict` for a page: what the verifier uses of it. */

interface Assert {
  (value: unknown, message?: string): asserts value;
  equal(actual: unknown, expected: unknown, message?: string): void;
}

class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

function ok(value: unknown, message = 'this can not be'): void {
  if (!value) throw new AssertionError(message);
}

const assert: Assert = Object.assign(ok as (value: unknown, message?: string) => asserts value, {
  equal(actual: unknown, expected: unknown, message?: string): void {
    ok(Object.is(actual, expected), message);
  },
});

// biome-ignore lint/style/noDefaultExport: it stands for a module that has one
export default assert;
