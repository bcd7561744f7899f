/**
 * Time stamps as authorities in the field make them, where that is sound but not as tidy as openssl's: certificates in no order, a signed
 * attribute more (RFC 6211), defaults that are spelled out in certificates. Signed anew by the test authority's keys.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Authority, der, encodeTstInfo, STAMPER } from './time-stamp-authority.ts';

interface Element {
  tag: number;
  /** Of a primitive. */
  content: Buffer;
  /** Of a constructed one. */
  kids: Element[] | undefined;
}

const CMS_ALGORITHM_PROTECTION = '06092a864886f70d010934';

/** Returns a token over `imprint` by a new RSA certificate of the authority, which has to have an intermediate one. */
export async function fieldToken(authority: Authority, imprint: Uint8Array): Promise<Buffer> {
  const plain = STAMPER.filter((one) => !one.startsWith('basicConstraints'));
  // DER: a SEQUENCE with BOOLEAN FALSE, where the default would be left out.
  const extensions = ['basicConstraints=DER:3003010100', ...plain];
  await authority.issue({ name: 'field', key: 'rsa2048', extensions });
  await spellOut(authority, 'field', authority.issuer);
  const content = encodeTstInfo({ imprint, more: [der(0x01, Buffer.from([0]))] });
  const made = await authority.forge({ content, by: 'field', args: ['-certfile', `${authority.issuer}.pem`] });
  const token = read(made);
  const signedData = token.kids![1]!.kids![0]!.kids!;
  signedData.find(({ tag }) => tag === 0xa0)!.kids!.reverse();
  const signer = signedData.at(-1)!.kids![0]!.kids!;
  const attributesAt = signer.findIndex(({ tag }) => tag === 0xa0);
  const [digest, attributes, algorithm] = signer.slice(attributesAt - 1, attributesAt + 2) as [
    Element,
    Element,
    Element,
  ];
  const protection = der(0x30, write(digest), write({ ...algorithm, tag: 0xa1 }));
  attributes.kids!.push(read(der(0x30, Buffer.from(CMS_ALGORITHM_PROTECTION, 'hex'), der(0x31, protection))));
  signer.at(-1)!.content = await sign(authority, 'field', write({ ...attributes, tag: 0x31 }));
  return write(token);
}

/** Makes a certificate of the folder say `critical FALSE` where it says nothing. */
export async function spellOut(authority: Authority, name: string, by: string): Promise<void> {
  const [tbs, algorithm] = read(await authority.certificate(name)).kids as [Element, Element];
  for (const extension of tbs.kids!.at(-1)!.kids![0]!.kids!)
    if (extension.kids!.length === 2) extension.kids!.splice(1, 0, read(der(0x01, Buffer.from([0]))));
  const signature = await sign(authority, by, write(tbs));
  const certificate = der(0x30, write(tbs), write(algorithm), der(0x03, Buffer.from([0]), signature));
  const lines = certificate.toString('base64').match(/.{1,64}/g)!;
  const pem = ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n');
  await writeFile(join(authority.folder, `${name}.pem`), pem);
}

async function sign(authority: Authority, name: string, data: Buffer): Promise<Buffer> {
  await writeFile(join(authority.folder, 'to-sign'), data);
  await authority.openssl('dgst', '-sha256', '-sign', `${name}.key`, '-out', 'signature', 'to-sign');
  return readFile(join(authority.folder, 'signature'));
}

function read(bytes: Buffer): Element {
  const all = readAll(bytes);
  if (all.length !== 1) throw new Error('not one element');
  return all[0]!;
}

function readAll(bytes: Buffer): Element[] {
  const found: Element[] = [];
  for (let at = 0; at < bytes.length; ) {
    const tag = bytes[at]!;
    const first = bytes[at + 1]!;
    const more = first < 0x80 ? 0 : first & 0x7f;
    const start = at + 2 + more;
    const end = start + (more === 0 ? first : bytes.readUIntBE(at + 2, more));
    const content = bytes.subarray(start, end);
    found.push({ tag, content, kids: (tag & 0x20) === 0 ? undefined : readAll(content) });
    at = end;
  }
  return found;
}

function write({ tag, content, kids }: Element): Buffer {
  return der(tag, ...(kids === undefined ? [content] : kids.map(write)));
}
