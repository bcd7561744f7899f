/** Which version of Sealog this is. */
import { readFile } from 'node:fs/promises';

export async function programVersion(): Promise<string> {
  const { version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  return version;
}
