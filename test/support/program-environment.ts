/** What a program that a test starts has of the test's environment: how to find others, and where Node keeps what it has compiled. */
export const PROGRAM_ENVIRONMENT: NodeJS.ProcessEnv = Object.fromEntries(
  ['PATH', 'NODE_COMPILE_CACHE'].flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value]];
  }),
);
