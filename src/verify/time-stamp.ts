/**
 * Time stamps (RFC 3161): whether a token of a time-stamp authority proves that something with a certain hash existed at a
 * certain time. Checked offline, as of that time, against certificates that the verifier was told to trust.
 *
 * pkijs and asn1js read the structures, and WebCrypto does the arithmetic, so that the same code runs in a browser. Both
 * libraries are more generous than evidence may be: they take BER, and pass over what they did not expect. So
 *
 * - what is read is DER first (`der.ts`), and
 * - what pkijs made of it must become the same bytes again when it is written (`sameBytes`): then nothing is in there
 *   that it did not see. (It does so with each of the 144 roots that Debian ships.) `critical FALSE` alone may be spelled out: some
 *   authorities do, and it is under their signature.
 *
 * Which rules hold is decided here and not by the libraries. Every bit of a token is part of a signature, is under a
 * signature or a hash, or has only one value that is taken; all but certificates and revocation lists in it which the
 * chain does not need. (An ECDSA signature (r, s) has a twin (r, −s), as everywhere: the bytes differ, what is said not.)
 *
 * **Revocation** (RFC 3161 section 4). A certificate of the chain that a revocation list names with the reason unspecified,
 * affiliationChanged, superseded or cessationOfOperation was given up in good order: stamps from before that date stay
 * valid. With any other reason, and with none, nothing that its key signed counts any more, whatever the time it says: a
 * thief of the key can write any time. The same rule is applied to authorities' certificates above it. A list is used only
 * where all that is critical in it is understood (RFC 5280 section 5.2); else it is as if it were not there, since whoever
 * gives us the lists could also leave them out. So are certificates and lists that can not be read. The verdict says whether lists answered for the whole chain.
 *
 * **Not done**: name constraints and policies (a certificate where they are critical is refused, RFC 5280 section 4.2),
 * OCSP, delta and indirect lists. Names are compared byte by byte. `tsa` in a token is a hint (RFC 3161 section 2.4.2) and
 * not compared with the certificate, which is what the verdict names.
 */
import assert from 'node:assert/strict';
import {
  type AsnType,
  BitString,
  Boolean as BooleanNode,
  Constructed,
  fromBER,
  Integer,
  Null,
  ObjectIdentifier,
  OctetString,
  Sequence,
} from 'asn1js';
import {
  type AlgorithmIdentifier,
  Certificate,
  CertificateRevocationList,
  CRLDistributionPoints,
  CryptoEngine,
  type Extension,
  IssuerAndSerialNumber,
  type PkiObject,
  type PublicKeyInfo,
  type RelativeDistinguishedNames,
  RSASSAPSSParams,
  SignedData,
  type SignerInfo,
  TSTInfo,
} from 'pkijs';
import { concatBytes, equalBytes, fromBase64, fromUtf8, toHex } from '../chain/bytes.ts';
import { EvidenceError } from '../errors.ts';
import { checkDer, contentsOf, DER_DEPTH_MAX, DER_ELEMENTS_MAX } from './der.ts';

export interface TimeStampCheck {
  /** A TimeStampToken: DER of a CMS ContentInfo. */
  readonly token: Uint8Array;
  /** SHA-256 of what was stamped. */
  readonly imprint: Uint8Array;
  /** Certificates (DER) that the verifier was told to trust: of roots, or of authorities below them. */
  readonly trusted: readonly Uint8Array[];
  /** More certificates (DER) that the chain may need. They are not trusted. */
  readonly certificates: readonly Uint8Array[];
  /** Revocation lists (DER). */
  readonly crls: readonly Uint8Array[];
}

export interface GoodTimeStamp {
  readonly kind: 'good';
  /** The time that the token says (genTime), in milliseconds since 1970, cut to whole ones. */
  readonly time: number;
  /** The subject of the authority's certificate, for people. */
  readonly authority: string;
  /** When the first certificate of the chain ends: by then something newer has to cover the token. Milliseconds since 1970. */
  readonly certificateEnds: number;
  /** The authority's policy (an object identifier). */
  readonly policy: string;
  /** From the authority's certificate to one that is trusted, in DER. */
  readonly chain: readonly Uint8Array[];
  /** How many revocation lists are by authorities of the chain, and understood. */
  readonly lists: number;
  /** Whether revocation lists that reach to `time` or later answered for each certificate below the trusted one. */
  readonly revocationChecked: boolean;
}

/** The token is sound in itself, but its chain does not lead to a trusted certificate. */
export interface UntrustedTimeStamp {
  readonly kind: 'untrusted';
  readonly detail: string;
}

export type TimeStampVerdict = GoodTimeStamp | UntrustedTimeStamp;

/** A certificate of the chain was revoked, in a way that takes its worth from this token. */
export class RevokedError extends EvidenceError {}

/** An authority answered that it gives no token. The message says why, in its words and ours. */
export class TimeStampRefusal extends Error {
  override readonly name = 'TimeStampRefusal';
}

/** Of a token, and of each certificate and list beside it. Tokens have 1 to 10 KB, lists of authorities a few. */
export const TIME_STAMP_BYTES_MAX = 256 * 1024;
/** Certificates in and beside a token; and revocation lists, likewise. */
const CERTIFICATES_MAX = 64;
const CRLS_MAX = 32;
/** The signer's, the trusted one's, and those between: three or four in real chains. */
const CHAIN_LENGTH_MAX = 8;
/** Signatures that are tried to find a chain: each can cost a millisecond. */
const TRIES_MAX = 64;
const RSA_BITS_MIN = 2048;
/** Above it a signature takes long enough to be used against us. */
const RSA_BITS_MAX = 8192;
const PEM_LENGTH_MAX = 1024 * 1024;

const OID = {
  signedData: '1.2.840.113549.1.7.2',
  tstInfo: '1.2.840.113549.1.9.16.1.4',
  contentType: '1.2.840.113549.1.9.3',
  messageDigest: '1.2.840.113549.1.9.4',
  signingCertificate: '1.2.840.113549.1.9.16.2.12',
  signingCertificateV2: '1.2.840.113549.1.9.16.2.47',
  timeStamping: '1.3.6.1.5.5.7.3.8',
  anyExtendedKeyUsage: '2.5.29.37.0',
  sha256: '2.16.840.1.101.3.4.2.1',
  rsa: '1.2.840.113549.1.1.1',
  rsaPss: '1.2.840.113549.1.1.10',
  mgf1: '1.2.840.113549.1.1.8',
  ecPublicKey: '1.2.840.10045.2.1',
} as const;

const EXTENSION = {
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  basicConstraints: '2.5.29.19',
  cRLNumber: '2.5.29.20',
  reasonCode: '2.5.29.21',
  invalidityDate: '2.5.29.24',
  issuingDistributionPoint: '2.5.29.28',
  cRLDistributionPoints: '2.5.29.31',
  certificatePolicies: '2.5.29.32',
  extendedKeyUsage: '2.5.29.37',
} as const;

/** Hash functions that a signature may rest on. */
const HASHES: ReadonlyMap<string, string> = new Map([
  [OID.sha256, 'SHA-256'],
  ['2.16.840.1.101.3.4.2.2', 'SHA-384'],
  ['2.16.840.1.101.3.4.2.3', 'SHA-512'],
]);

/** Signature algorithms that name their hash: `sha…WithRSAEncryption` and `ecdsa-with-SHA…`. MD5 and SHA-1 are not among them. */
const SIGNATURES: ReadonlyMap<string, { readonly key: string; readonly hash: string }> = new Map([
  ['1.2.840.113549.1.1.11', { key: OID.rsa, hash: 'SHA-256' }],
  ['1.2.840.113549.1.1.12', { key: OID.rsa, hash: 'SHA-384' }],
  ['1.2.840.113549.1.1.13', { key: OID.rsa, hash: 'SHA-512' }],
  ['1.2.840.10045.4.3.2', { key: OID.ecPublicKey, hash: 'SHA-256' }],
  ['1.2.840.10045.4.3.3', { key: OID.ecPublicKey, hash: 'SHA-384' }],
  ['1.2.840.10045.4.3.4', { key: OID.ecPublicKey, hash: 'SHA-512' }],
]);

/** P-256, P-384, P-521: what WebCrypto knows. */
const CURVES: ReadonlySet<string> = new Set(['1.2.840.10045.3.1.7', '1.3.132.0.34', '1.3.132.0.35']);

/** Identifier octets. */
const SEQUENCE = 0x30;
const CONTEXT_0 = 0xa0;
const CONTEXT_1 = 0xa1;

/** Bits of KeyUsage (RFC 5280 section 4.2.1.3), in its first byte. */
const DIGITAL_SIGNATURE = 0x80;
const NON_REPUDIATION = 0x40;
const KEY_CERT_SIGN = 0x04;
const CRL_SIGN = 0x02;

/** unspecified, affiliationChanged, superseded, cessationOfOperation: what RFC 3161 section 4 point 1 wants where no key was lost. */
const ORDERLY_REASONS: ReadonlySet<number> = new Set([0, 3, 4, 5]);

/**
 * Checks a token: says the time that it proves, or that its chain does not end in a trusted certificate. Throws an
 * EvidenceError where the token or something beside it is wrong, whatever the bytes. The cost is linear in their length.
 */
export async function checkTimeStamp(check: TimeStampCheck): Promise<TimeStampVerdict> {
  assert(check.imprint.length === 32, 'an imprint is a SHA-256');
  return guard('the time stamp can not be checked', async () => {
    const token = openToken(check.token);
    const { info } = token;
    if (!equalBytes(info.imprint, check.imprint)) throw new EvidenceError('the time stamp is of something else');

    const certificates = [...token.certificates, ...check.certificates];
    if (certificates.length > CERTIFICATES_MAX) throw new EvidenceError('the time stamp has too many certificates');
    const crls = [...token.crls, ...check.crls];
    if (crls.length > CRLS_MAX) throw new EvidenceError('the time stamp has too many revocation lists');
    const others = openEach(certificates, openCertificate);
    const trusted = check.trusted.map(openCertificate);
    const signer = await findSigner(token, [...others, ...trusted]);
    checkSigner(signer, info.time);
    await checkTokenSignature(token, signer);

    const lists = openEach(crls, openRevocationList);
    const { chain, end } = await findChain(signer, others, trusted, lists, info.time);
    if (chain === undefined) {
      const name = nameText(end.certificate.subject);
      return { kind: 'untrusted', detail: `its chain ends at ${name}, and leads to no certificate that is trusted` };
    }
    return {
      kind: 'good',
      time: info.time,
      authority: nameText(signer.certificate.subject),
      certificateEnds: Math.min(...chain.map((one) => one.notAfter)),
      policy: info.policy,
      chain: chain.map((one) => one.der),
      ...(await answersOf(lists, chain, info.time)),
    };
  });
}

/**
 * Nobody vouches for which certificates and lists are there, so one that can not be read is as if it were not. (Where it was needed, no way
 * leads to a trusted certificate.)
 */
function openEach<T>(all: readonly Uint8Array[], open: (der: Uint8Array) => T): T[] {
  return all.flatMap((der) => {
    try {
      return [open(der)];
    } catch (error) {
      if (ownError('it can not be read', error) instanceof EvidenceError) return [];
      throw error;
    }
  });
}

/**
 * Returns the token in an authority's answer, a TimeStampResp (RFC 3161 section 2.4.2), unchecked. Throws a
 * TimeStampRefusal where the authority gives none, an EvidenceError where the bytes are no such answer.
 */
export function decodeTimeStampReply(der: Uint8Array): Uint8Array {
  return guardSync('the answer can not be read', () => {
    const [statusInfo, token, ...more] = elements(parse(der), Sequence);
    const [status, ...details] = elements(statusInfo, Sequence);
    if (more.length > 0) throw new EvidenceError('the answer has more than a status and a token');
    const code = smallInteger(status);
    if (code > 1) throw new TimeStampRefusal(refusalText(code, details));
    if (token === undefined) throw new EvidenceError('the answer says that a token was granted, but has none');
    return encoded(token);
  });
}

/** Returns the nonce of a token, or undefined where it has none. The token is not checked. Throws an EvidenceError. */
export function tokenNonce(token: Uint8Array): bigint | undefined {
  return guardSync('the time stamp can not be read', () => openToken(token).info.nonce);
}

/**
 * Returns the certificates of a PEM text (RFC 7468), at least one, in DER. What stands between them is passed over, other
 * PEM blocks are refused. Throws an EvidenceError.
 */
export function readCertificates(pem: string): Uint8Array[] {
  if (pem.length > PEM_LENGTH_MAX) throw new EvidenceError('the file of certificates is too long');
  const found: Uint8Array[] = [];
  let lines: string[] | undefined;
  for (const line of pem.split(/\r?\n/)) {
    const text = line.trim();
    if (text === '-----BEGIN CERTIFICATE-----' && lines === undefined) {
      lines = [];
    } else if (text === '-----END CERTIFICATE-----' && lines !== undefined) {
      const der = fromBase64(lines.join(''));
      guardSync('a certificate can not be read', () => openCertificate(der));
      found.push(der);
      lines = undefined;
    } else if (text.startsWith('-----')) {
      throw new EvidenceError('the file has something else than certificates in PEM');
    } else {
      lines?.push(text);
    }
  }
  if (lines !== undefined) throw new EvidenceError('the file of certificates is cut off');
  if (found.length === 0) throw new EvidenceError('the file has no certificate in PEM');
  if (found.length > CERTIFICATES_MAX) throw new EvidenceError('the file has too many certificates');
  return found;
}

/** Returns the HTTP addresses at which a certificate (DER) says that its revocation list is. Throws an EvidenceError. */
export function revocationListUrls(der: Uint8Array): string[] {
  return guardSync('the certificate can not be read', () => {
    const extension = openCertificate(der).extensions.get(EXTENSION.cRLDistributionPoints);
    if (extension === undefined) return [];
    const { distributionPoints } = new CRLDistributionPoints({ schema: parse(extension.value) });
    return distributionPoints.flatMap(({ distributionPoint, reasons, cRLIssuer }) =>
      // A point for some reasons only, or of another issuer, leads to lists that are not used here.
      Array.isArray(distributionPoint) && reasons === undefined && cRLIssuer === undefined
        ? distributionPoint
            .filter(({ type, value }) => type === 6 && typeof value === 'string' && /^https?:\/\//i.test(value))
            .map(({ value }) => value as string)
        : [],
    );
  });
}

// --- The token: CMS SignedData (RFC 5652 section 5) around a TSTInfo (RFC 3161 section 2.4.2) ---

interface Token {
  readonly info: StampInfo;
  /** The TSTInfo's bytes. */
  readonly content: Uint8Array;
  readonly signer: SignerInfo;
  readonly attributes: ReadonlyMap<string, AsnType>;
  /** What the signature is over: the attributes as a SET. */
  readonly signed: Uint8Array;
  readonly hash: string;
  /** DER, unread. */
  readonly certificates: readonly Uint8Array[];
  readonly crls: readonly Uint8Array[];
}

interface StampInfo {
  readonly imprint: Uint8Array;
  readonly time: number;
  readonly policy: string;
  readonly nonce: bigint | undefined;
}

function openToken(der: Uint8Array): Token {
  checkSize(der);
  checkDer(der);
  const [contentType, wrapped, ...more] = contentsOf(der);
  const [signedData, ...others] = wrapped?.[0] === CONTEXT_0 ? contentsOf(wrapped) : [];
  const isWhole = der[0] === SEQUENCE && signedData?.[0] === SEQUENCE && more.length === 0 && others.length === 0;
  if (!isWhole || objectIdentifier(parse(contentType!)) !== OID.signedData)
    throw new EvidenceError('the time stamp is not CMS SignedData');
  const { rest, certificates, crls } = takeOut(contentsOf(signedData));
  // pkijs writes the version that RFC 5652 section 5.1 wants, so another one shows here too.
  const data = new SignedData({ schema: parse(rest) });
  sameBytes(data, rest, 'the time stamp');

  const { eContentType, eContent } = data.encapContentInfo;
  if (eContentType !== OID.tstInfo || !(eContent instanceof OctetString)) {
    throw new EvidenceError('the signed content is not a TSTInfo');
  }
  const content = octets(eContent);
  const [signer, ...moreSigners] = data.signerInfos;
  // RFC 3161 section 2.4.2: one signature, that of the authority.
  if (signer === undefined || moreSigners.length > 0) throw new EvidenceError('the time stamp has not one signature');
  // They are under no signature. Those that are known (stamps on stamps) have their place in the anchor stream here.
  if (signer.unsignedAttrs !== undefined) throw new EvidenceError('the time stamp has attributes that are not signed');
  if (signer.signedAttrs === undefined) throw new EvidenceError('the time stamp has no signed attributes');
  const [digestAlgorithm, ...moreAlgorithms] = data.digestAlgorithms;
  if (digestAlgorithm?.algorithmId !== signer.digestAlgorithm.algorithmId || moreAlgorithms.length > 0) {
    throw new EvidenceError('the time stamp names other hash functions than its signature');
  }
  checkHashAlgorithm(digestAlgorithm);
  return {
    info: openStampInfo(content),
    content,
    signer,
    attributes: attributesOf(signer),
    signed: new Uint8Array(signer.signedAttrs.encodedValue),
    hash: checkHashAlgorithm(signer.digestAlgorithm),
    certificates,
    crls,
  };
}

/** Takes the certificates [0] and revocation lists [1], which nobody signed as a set, out of SignedData's fields (RFC 5652 section 5.1). */
function takeOut(fields: readonly Uint8Array[]): { rest: Uint8Array; certificates: Uint8Array[]; crls: Uint8Array[] } {
  const crlsAt = fields[3]?.[0] === CONTEXT_0 ? 4 : 3;
  const signersAt = fields[crlsAt]?.[0] === CONTEXT_1 ? crlsAt + 1 : crlsAt;
  return {
    rest: element(SEQUENCE, concatBytes(...fields.slice(0, 3), ...fields.slice(signersAt))),
    certificates: fields.slice(3, crlsAt).flatMap(contentsOf),
    crls: fields.slice(crlsAt, signersAt).flatMap(contentsOf),
  };
}

function openStampInfo(content: Uint8Array): StampInfo {
  const node = parse(content);
  const fields = elements(node, Sequence);
  const info = new TSTInfo({ schema: node });
  const optional = [info.accuracy, info.ordering, info.nonce, info.tsa, info.extensions];
  if (fields.length !== 5 + optional.filter((one) => one !== undefined).length) {
    throw new EvidenceError('the TSTInfo has fields that are unknown or in another order');
  }
  if (info.version !== 1) throw new EvidenceError('the TSTInfo is of another version');
  if (info.extensions?.some((one) => one.critical) === true) {
    throw new EvidenceError('the TSTInfo has a critical extension that is not understood');
  }
  const { hashAlgorithm, hashedMessage } = info.messageImprint;
  if (hashAlgorithm.algorithmId !== OID.sha256)
    throw new EvidenceError('the time stamp is of another hash than SHA-256');
  checkHashAlgorithm(hashAlgorithm);
  return {
    imprint: octets(hashedMessage),
    time: readTime(fields[4]!),
    policy: info.policy,
    nonce: info.nonce === undefined ? undefined : bigInteger(info.nonce),
  };
}

/** The signed attributes by type, each once and with one value (RFC 5652 sections 5.3 and 11). */
function attributesOf(signer: SignerInfo): Map<string, AsnType> {
  const attributes = new Map<string, AsnType>();
  for (const { type, values } of signer.signedAttrs?.attributes ?? []) {
    if (values.length !== 1 || attributes.has(type)) throw new EvidenceError(`the attribute ${type} is there twice`);
    attributes.set(type, values[0]);
  }
  return attributes;
}

/**
 * Returns the certificate that the signer names: in the SignerInfo, which nobody signed, and by hash in the signed
 * attributes (ESSCertID of RFC 2634 section 5.4, ESSCertIDv2 of RFC 5035, RFC 5816 section 2.2.1), one of which MUST be
 * there and both hold where both are.
 */
async function findSigner({ signer, attributes }: Token, certificates: readonly X509[]): Promise<X509> {
  const { sid } = signer;
  const byNumber = sid instanceof IssuerAndSerialNumber;
  // RFC 5652 section 5.3.
  if (signer.version !== (byNumber ? 1 : 3)) throw new EvidenceError('the SignerInfo is of another version');
  const named = certificates.filter((one) =>
    byNumber
      ? equalBytes(one.issuer, nameBytes(sid.issuer)) && one.certificate.serialNumber.isEqual(sid.serialNumber)
      : one.keyId !== undefined && equalBytes(one.keyId, octets(sid)),
  );
  if (named.length === 0) throw new EvidenceError("the authority's certificate is not there");

  const ids = [
    { attribute: attributes.get(OID.signingCertificate), version: 1 },
    { attribute: attributes.get(OID.signingCertificateV2), version: 2 },
  ].filter((one) => one.attribute !== undefined);
  if (ids.length === 0) throw new EvidenceError("the time stamp does not bind its authority's certificate");
  let wrong: EvidenceError | undefined;
  for (const one of named) {
    try {
      for (const { attribute, version } of ids) {
        // The first one is the signer's. What others there are, the chain has to be sound in any case.
        const [id] = elements(elements(attribute, Sequence)[0], Sequence);
        await checkCertificateId(elements(id, Sequence), version, one);
      }
      return one;
    } catch (error) {
      if (!(error instanceof EvidenceError)) throw error;
      wrong ??= error;
    }
  }
  throw wrong!;
}

/** ESSCertID { certHash, issuerSerial OPTIONAL }, of SHA-1; ESSCertIDv2 { hashAlgorithm DEFAULT sha256, … }. */
async function checkCertificateId(fields: readonly AsnType[], version: number, certificate: X509): Promise<void> {
  const rest = [...fields];
  let hash = 'SHA-1';
  if (version === 2) {
    hash = 'SHA-256';
    if (rest[0] instanceof Sequence) {
      const [algorithm] = elements(rest.shift(), Sequence);
      hash = HASHES.get(objectIdentifier(algorithm)) ?? '';
      if (hash === '') throw new EvidenceError("the authority's certificate is bound by an unknown hash");
    }
  }
  // SHA-1 is enough here: the certificate is the authority's own, and another one for this hash is a second preimage.
  if (!equalBytes(octets(rest.shift()), await digest(hash, certificate.der))) {
    throw new EvidenceError("the signature binds another certificate than the authority's");
  }
  const issuerSerial = rest.shift();
  if (issuerSerial !== undefined) {
    // IssuerSerial { GeneralNames: one directoryName, [4], and the serial number }.
    const [names, serial] = elements(issuerSerial, Sequence);
    const [name] = elements(elements(names, Sequence)[0], Constructed);
    if (
      name === undefined ||
      !equalBytes(encoded(name), certificate.issuer) ||
      !(serial instanceof Integer && serial.isEqual(certificate.certificate.serialNumber))
    ) {
      throw new EvidenceError("the signature binds another certificate than the authority's");
    }
  }
  if (rest.length > 0) throw new EvidenceError('an ESSCertID has more than it may have');
}

/** contentType, messageDigest and the signature over the attributes (RFC 5652 sections 5.4, 5.6, 11.1, 11.2). */
async function checkTokenSignature(token: Token, { certificate }: X509): Promise<void> {
  const { signer, attributes, content, hash, signed } = token;
  if (objectIdentifier(attributes.get(OID.contentType)) !== OID.tstInfo) {
    throw new EvidenceError('the signed attributes are of another content type');
  }
  if (!equalBytes(octets(attributes.get(OID.messageDigest)), await digest(hash, content))) {
    throw new EvidenceError('the signed attributes are of another TSTInfo');
  }
  const good = await isSignedBy(
    certificate.subjectPublicKeyInfo,
    { data: signed, signature: signer.signature, algorithm: signer.signatureAlgorithm },
    hash,
  );
  if (!good) throw new EvidenceError('the signature of the time stamp is wrong');
}

/** What the authority's own certificate must be (RFC 3161 section 2.3). */
function checkSigner(signer: X509, time: number): void {
  checkValidity(signer, time);
  const usage = signer.extensions.get(EXTENSION.extendedKeyUsage);
  if (usage === undefined || !usage.critical || usages(signer)?.join() !== OID.timeStamping) {
    throw new EvidenceError("the authority's certificate is not one for time stamps alone, critically so");
  }
  const bits = keyUsage(signer);
  if (bits !== undefined && (bits === 0 || (bits & ~(DIGITAL_SIGNATURE | NON_REPUDIATION)) !== 0)) {
    throw new EvidenceError("the authority's certificate is for other uses than signatures");
  }
}

// --- Certificates and their chain (RFC 5280) ---

interface X509 {
  readonly der: Uint8Array;
  readonly certificate: Certificate;
  /** Names in DER. */
  readonly subject: Uint8Array;
  readonly issuer: Uint8Array;
  readonly notBefore: number;
  readonly notAfter: number;
  readonly extensions: Extensions;
  /** Of the subject's key. */
  readonly keyId: Uint8Array | undefined;
}

type Extensions = ReadonlyMap<string, { readonly critical: boolean; readonly value: Uint8Array }>;

function openCertificate(der: Uint8Array): X509 {
  const certificate = new Certificate({ schema: parse(der) });
  sameBytes({ toSchema: () => certificate.toSchema(true) }, withoutDefaults(parse(der)), 'a certificate');
  const extensions = extensionsOf(certificate.extensions ?? []);
  const keyId = extensions.get(EXTENSION.subjectKeyIdentifier);
  return {
    der,
    certificate,
    subject: nameBytes(certificate.subject),
    issuer: nameBytes(certificate.issuer),
    notBefore: instantOf(certificate.notBefore.value),
    notAfter: instantOf(certificate.notAfter.value),
    extensions,
    keyId: keyId && octets(parse(keyId.value)),
  };
}

function extensionsOf(list: readonly Extension[]): Extensions {
  const extensions = new Map<string, { critical: boolean; value: Uint8Array }>();
  for (const { extnID, critical, extnValue } of list) {
    if (extensions.has(extnID)) throw new EvidenceError(`the extension ${extnID} is there twice`);
    extensions.set(extnID, { critical, value: octets(extnValue) });
  }
  return extensions;
}

/**
 * Returns the chain from the signer to the first trusted certificate, or where names and signatures end without leading to one. Throws an
 * EvidenceError where they do, but no such chain is sound; a RevokedError where one would be but for a revocation. There may be several ways
 * up, since authorities sign each other's keys: one that is sound is enough.
 */
async function findChain(
  signer: X509,
  others: readonly X509[],
  trusted: readonly X509[],
  lists: readonly RevocationList[],
  time: number,
): Promise<{ chain: X509[] | undefined; end: X509 }> {
  const isTrusted = (one: X509) => trusted.some((other) => equalBytes(one.der, other.der));
  let tries = 0;
  /** `check` throws where `issuer` can not be the next of `path`. */
  const walk = async (
    path: X509[],
    check: (issuer: X509, path: readonly X509[]) => Promise<void>,
  ): Promise<X509[] | undefined> => {
    const last = path.at(-1)!;
    if (isTrusted(last)) return path;
    if (path.length > longest.length) longest = path;
    if (path.length === CHAIN_LENGTH_MAX) return undefined;
    for (const issuer of [...trusted, ...others]) {
      if (!equalBytes(issuer.subject, last.issuer) || path.some((other) => equalBytes(issuer.der, other.der))) continue;
      if (++tries > TRIES_MAX) throw new EvidenceError('the chain of certificates branches too often');
      if (!(await holds(() => isIssuedBy(last, issuer)))) continue;
      try {
        await guard('a certificate of the chain can not be read', () => check(issuer, path));
      } catch (error) {
        if (!(error instanceof EvidenceError)) throw error;
        // What a revocation took away says more than another way that never was one.
        if (wrong === undefined || error instanceof RevokedError) wrong = error;
        continue;
      }
      const found = await walk([...path, issuer], check);
      if (found !== undefined) return found;
    }
    return undefined;
  };
  let longest: readonly X509[] = [signer];
  let wrong: EvidenceError | undefined;
  const chain = await walk([signer], async (issuer, path) => {
    checkIssuer(issuer, path, time);
    await checkNotTakenAway(path.at(-1)!, issuer, lists, time);
  });
  const reason = wrong;
  if (chain === undefined && reason !== undefined) {
    const isLed = (await walk([signer], async () => undefined)) !== undefined;
    if (isLed) throw reason;
  }
  return { chain, end: longest.at(-1)! };
}

/** What a certificate must be to have signed the last one of `path` (RFC 5280 section 6.1.4). */
function checkIssuer(issuer: X509, path: readonly X509[], time: number): void {
  checkValidity(issuer, time);
  const name = nameText(issuer.certificate.subject);
  const constraints = issuer.extensions.get(EXTENSION.basicConstraints);
  const [isAuthority, lengthMax] = constraints === undefined ? [] : elements(parse(constraints.value), Sequence);
  if (!(isAuthority instanceof BooleanNode && isAuthority.valueBlock.value)) {
    throw new EvidenceError(`the certificate of ${name} is not one of an authority`);
  }
  const below = path.slice(1).filter((one) => !equalBytes(one.subject, one.issuer)).length;
  if (lengthMax !== undefined && below > smallInteger(lengthMax)) {
    throw new EvidenceError(`the certificate of ${name} has more authorities below it than it allows`);
  }
  if (((keyUsage(issuer) ?? KEY_CERT_SIGN) & KEY_CERT_SIGN) === 0) {
    throw new EvidenceError(`the certificate of ${name} may not sign certificates`);
  }
  const allowed = usages(issuer);
  if (allowed !== undefined && !allowed.includes(OID.timeStamping) && !allowed.includes(OID.anyExtendedKeyUsage)) {
    throw new EvidenceError(`the certificate of ${name} is not for time stamps`);
  }
}

/** Critical extensions that are followed here; policies ask for nothing unless a verifier does (RFC 5280 section 6.1.1). */
const UNDERSTOOD: ReadonlySet<string> = new Set([
  EXTENSION.keyUsage,
  EXTENSION.basicConstraints,
  EXTENSION.certificatePolicies,
  EXTENSION.extendedKeyUsage,
]);

function checkValidity({ certificate, extensions, notBefore, notAfter }: X509, time: number): void {
  const name = nameText(certificate.subject);
  if (certificate.version !== 2) throw new EvidenceError(`the certificate of ${name} is not X.509 version 3`);
  if (time < notBefore)
    throw new EvidenceError(`the certificate of ${name} was not valid yet at the time of the stamp`);
  if (time > notAfter) throw new EvidenceError(`the certificate of ${name} had expired at the time of the stamp`);
  for (const [id, { critical }] of extensions) {
    if (critical && !UNDERSTOOD.has(id)) {
      throw new EvidenceError(`the certificate of ${name} has a critical extension that is not understood: ${id}`);
    }
  }
}

/** Whether the issuer's key signed the certificate. */
async function isIssuedBy({ certificate }: X509, issuer: X509): Promise<boolean> {
  const { tbsView, signatureValue, signature, signatureAlgorithm } = certificate;
  return (
    equalBytes(written(signature), written(signatureAlgorithm)) &&
    isSignedBy(issuer.certificate.subjectPublicKeyInfo, {
      data: tbsView,
      signature: signatureValue,
      algorithm: signatureAlgorithm,
    })
  );
}

/** The first byte of KeyUsage, or undefined where everything is allowed. */
function keyUsage({ extensions }: X509): number | undefined {
  const extension = extensions.get(EXTENSION.keyUsage);
  if (extension === undefined) return undefined;
  const bits = parse(extension.value);
  if (!(bits instanceof BitString)) throw new EvidenceError('a key usage is not a BIT STRING');
  // A second byte has only decipherOnly, which no signer's and no authority's certificate has.
  return bits.valueBlock.valueHexView[0] ?? 0;
}

function usages({ extensions }: X509): string[] | undefined {
  const extension = extensions.get(EXTENSION.extendedKeyUsage);
  return extension && elements(parse(extension.value), Sequence).map(objectIdentifier);
}

// --- Revocation (RFC 5280 sections 5 and 6.3, RFC 3161 section 4) ---

interface RevocationList {
  readonly list: CertificateRevocationList;
  readonly issuer: Uint8Array;
  readonly extensions: Extensions;
  /** Where it is not (all certificates of the issuer, all reasons), it can show revocation, but not that there was none. */
  readonly complete: boolean;
  /** Nothing in it is critical that is not understood. */
  readonly usable: boolean;
}

function openRevocationList(der: Uint8Array): RevocationList {
  const list = new CertificateRevocationList({ schema: parse(der) });
  sameBytes({ toSchema: () => list.toSchema(true) }, withoutDefaults(parse(der)), 'a revocation list');
  const extensions = extensionsOf(list.crlExtensions?.extensions ?? []);
  const point = extensions.get(EXTENSION.issuingDistributionPoint);
  const criticalEntry = list.revokedCertificates?.some(({ crlEntryExtensions }) =>
    crlEntryExtensions?.extensions.some((one) => one.critical),
  );
  // [4] indirectCRL: it speaks for other issuers too.
  const indirect =
    point !== undefined && elements(parse(point.value), Sequence).some((one) => one.idBlock.tagNumber === 4);
  const strange = [...extensions].some(
    ([id, { critical }]) => critical && id !== EXTENSION.issuingDistributionPoint && id !== EXTENSION.cRLNumber,
  );
  return {
    list,
    issuer: nameBytes(list.issuer),
    extensions,
    complete: point === undefined,
    usable: !indirect && !strange && criticalEntry !== true,
  };
}

/** Throws a RevokedError where a list by its issuer takes the certificate away. */
async function checkNotTakenAway(
  certificate: X509,
  issuer: X509,
  lists: readonly RevocationList[],
  time: number,
): Promise<void> {
  for (const one of lists) if (await isListOf(one, issuer)) checkNotRevoked(one.list, certificate, time);
}

/** What lists say of a chain in which none is revoked: how many are by its authorities, and whether they answer for each certificate. */
async function answersOf(
  lists: readonly RevocationList[],
  chain: readonly X509[],
  time: number,
): Promise<Pick<GoodTimeStamp, 'lists' | 'revocationChecked'>> {
  const used = new Set<RevocationList>();
  const answered = new Set<X509>();
  for (const issuer of chain.slice(1)) {
    for (const one of lists) {
      if (!(await isListOf(one, issuer))) continue;
      used.add(one);
      const until = instantOf((one.list.nextUpdate ?? one.list.thisUpdate).value);
      if (one.complete && until >= time) answered.add(issuer);
    }
  }
  return { lists: used.size, revocationChecked: answered.size === chain.length - 1 };
}

/** Whether the list is by this issuer, and understood. Others are passed over, such as those of an earlier key of the same name. */
async function isListOf({ list, issuer: name, usable }: RevocationList, issuer: X509): Promise<boolean> {
  if (!usable || !equalBytes(name, issuer.subject)) return false;
  const { tbsView, signatureValue, signature, signatureAlgorithm } = list;
  return holds(
    async () =>
      ((keyUsage(issuer) ?? CRL_SIGN) & CRL_SIGN) !== 0 &&
      equalBytes(written(signature), written(signatureAlgorithm)) &&
      isSignedBy(issuer.certificate.subjectPublicKeyInfo, {
        data: tbsView,
        signature: signatureValue,
        algorithm: signatureAlgorithm,
      }),
  );
}

function checkNotRevoked(list: CertificateRevocationList, { certificate }: X509, time: number): void {
  const name = nameText(certificate.subject);
  for (const entry of list.revokedCertificates ?? []) {
    if (!entry.userCertificate.isEqual(certificate.serialNumber)) continue;
    const extensions = extensionsOf(entry.crlEntryExtensions?.extensions ?? []);
    const reason = extensions.get(EXTENSION.reasonCode);
    if (reason === undefined || !ORDERLY_REASONS.has(smallInteger(parse(reason.value)))) {
      throw new RevokedError(`the certificate of ${name} was revoked, and nothing that its key signed counts any more`);
    }
    const invalidity = extensions.get(EXTENSION.invalidityDate);
    const since = Math.min(
      instantOf(entry.revocationDate.value),
      invalidity === undefined ? Number.POSITIVE_INFINITY : readTime(parse(invalidity.value)),
    );
    if (time >= since) {
      throw new RevokedError(`the certificate of ${name} had been revoked at the time of the stamp`);
    }
  }
}

// --- Signatures ---

interface Signed {
  readonly data: Uint8Array;
  readonly signature: BitString | OctetString;
  readonly algorithm: AlgorithmIdentifier;
}

/**
 * Says whether a signature is good. `hash` is the one that a SignerInfo names beside its signature algorithm, which must
 * be the same, or leave it open (rsaEncryption, RFC 3370 section 3.2). Throws an EvidenceError where key or algorithm
 * are too weak or unknown.
 */
async function isSignedBy(key: PublicKeyInfo, { data, signature, algorithm }: Signed, hash?: string): Promise<boolean> {
  const id = algorithm.algorithmId;
  let wanted = SIGNATURES.get(id);
  if (id === OID.rsa && hash !== undefined) wanted = { key: OID.rsa, hash };
  if (id === OID.rsaPss) wanted = { key: OID.rsa, hash: pssHash(algorithm) };
  else if (algorithm.algorithmParams !== undefined && !(algorithm.algorithmParams instanceof Null)) {
    throw new EvidenceError('a signature algorithm has parameters that it does not take');
  }
  if (wanted === undefined) throw new EvidenceError(`the signature algorithm ${id} is too weak or unknown`);
  if (hash !== undefined && wanted.hash !== hash)
    throw new EvidenceError('a signature is of another hash than it says');
  if (key.algorithm.algorithmId !== wanted.key) throw new EvidenceError('a signature is of another kind than the key');
  checkKey(key);
  if (signature instanceof BitString && signature.valueBlock.unusedBits !== 0) return false;
  if (wanted.key === OID.ecPublicKey && !isEcdsaValue(signature.valueBlock.valueHexView)) return false;
  const engine = new CryptoEngine({ crypto: globalThis.crypto });
  return engine.verifyWithPublicKey(toBuffer(data), signature, key, algorithm, wanted.hash);
}

/** Ecdsa-Sig-Value { r, s } (RFC 3279 section 2.2.3), which pkijs also takes with other or negative numbers in it. */
function isEcdsaValue(der: Uint8Array): boolean {
  const numbers = elements(parse(der), Sequence);
  return numbers.length === 2 && numbers.every((one) => one.idBlock.tagNumber === 2 && bigInteger(one) > 0n);
}

/** RSASSA-PSS (RFC 4055 section 3.1), with the same hash in both places and a salt of its length. */
function pssHash(algorithm: AlgorithmIdentifier): string {
  const { hashAlgorithm, maskGenAlgorithm, saltLength } = new RSASSAPSSParams({ schema: algorithm.algorithmParams });
  const hash = HASHES.get(hashAlgorithm.algorithmId);
  const [maskHash] = elements(maskGenAlgorithm.algorithmParams, Sequence);
  if (
    hash === undefined ||
    maskGenAlgorithm.algorithmId !== OID.mgf1 ||
    objectIdentifier(maskHash) !== hashAlgorithm.algorithmId ||
    saltLength * 8 !== Number(hash.slice(4))
  ) {
    throw new EvidenceError('a signature has parameters of RSASSA-PSS that are weak or unknown');
  }
  return hash;
}

function checkKey({ algorithm, subjectPublicKey }: PublicKeyInfo): void {
  if (algorithm.algorithmId === OID.ecPublicKey) {
    if (!CURVES.has(objectIdentifier(algorithm.algorithmParams)))
      throw new EvidenceError('a key is on an unknown curve');
    return;
  }
  // RSAPublicKey { modulus, publicExponent }, RFC 8017 appendix A.1.1.
  const [modulus] = elements(parse(subjectPublicKey.valueBlock.valueHexView), Sequence);
  const bits = bigInteger(modulus).toString(2).length;
  if (bits < RSA_BITS_MIN || bits > RSA_BITS_MAX) {
    throw new EvidenceError(`an RSA key has ${bits} bits, not ${RSA_BITS_MIN} to ${RSA_BITS_MAX}`);
  }
}

/** Returns the name of a hash function. Its parameters are absent or NULL (RFC 5754 section 2). */
function checkHashAlgorithm({ algorithmId, algorithmParams }: AlgorithmIdentifier): string {
  const hash = HASHES.get(algorithmId);
  if (hash === undefined) throw new EvidenceError(`the hash function ${algorithmId} is too weak or unknown`);
  if (algorithmParams !== undefined && !(algorithmParams instanceof Null)) {
    throw new EvidenceError('a hash function has parameters');
  }
  return hash;
}

async function digest(hash: string, data: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await globalThis.crypto.subtle.digest(hash, toBuffer(data)));
}

// --- DER ---

/** Reads one element of DER, and nothing after it. Throws an EvidenceError. */
function parse(der: Uint8Array): AsnType {
  checkSize(der);
  checkDer(der);
  const limits = { maxDepth: DER_DEPTH_MAX + 1, maxNodes: DER_ELEMENTS_MAX, parseEmbedded: false };
  const { offset, result } = fromBER(toBuffer(der), limits);
  if (offset !== der.length) throw new EvidenceError('a time stamp, or something beside it, can not be read');
  return result;
}

function checkSize(der: Uint8Array): void {
  if (der.length > TIME_STAMP_BYTES_MAX) throw new EvidenceError('a time stamp, or something beside it, is too large');
}

/** Throws where the library would write something else than what it read: then there was more than it saw. */
function sameBytes(object: { toSchema(): unknown }, der: Uint8Array, what: string): void {
  if (!equalBytes(written(object), der)) throw new EvidenceError(`${what} has something that is not understood`);
}

function written(object: { toSchema(): unknown } | PkiObject): Uint8Array {
  return new Uint8Array((object.toSchema() as AsnType).toBER());
}

/**
 * Returns an element's bytes without `critical FALSE`, a default that DER leaves out (X.690 section 11.5) and some authorities write. The
 * library leaves it out too, and what was written stays under the signature.
 */
function withoutDefaults(node: AsnType): Uint8Array {
  if (!(node instanceof Constructed)) return encoded(node);
  const [id, critical, value, ...more] = node.valueBlock.value;
  const isSpelledOut =
    id instanceof ObjectIdentifier &&
    critical instanceof BooleanNode &&
    !critical.valueBlock.value &&
    value instanceof OctetString &&
    more.length === 0;
  const parts = isSpelledOut ? [encoded(id), encoded(value)] : node.valueBlock.value.map(withoutDefaults);
  const content = concatBytes(...parts);
  return content.length === contentOf(node).length ? encoded(node) : element(encoded(node)[0]!, content);
}

/** Returns one element of DER. */
function element(identifier: number, content: Uint8Array): Uint8Array {
  const { length } = content;
  const more = length < 0x80 ? 0 : length < 0x100 ? 1 : length < 0x1_0000 ? 2 : 3;
  const bytes = Array.from({ length: more }, (_, i) => Math.floor(length / 256 ** (more - 1 - i)) % 256);
  return concatBytes(Uint8Array.of(identifier, ...(more === 0 ? [length] : [0x80 | more, ...bytes])), content);
}

/** Returns the bytes of an element as they were read. */
function encoded(node: AsnType): Uint8Array {
  return node.valueBeforeDecodeView;
}

/** Returns the elements of a list. */
function elements(node: AsnType | undefined, kind: typeof Sequence | typeof Constructed): AsnType[] {
  if (!(node instanceof kind)) throw new EvidenceError('a list is missing');
  return node.valueBlock.value;
}

/** Returns the content of an OCTET STRING, or of a primitive that stands for one. */
function octets(node: AsnType | undefined): Uint8Array {
  if (node === undefined || node.idBlock.isConstructed) throw new EvidenceError('a string of bytes is missing');
  const isOctets = node instanceof OctetString || node.idBlock.tagClass === 3;
  if (!isOctets) throw new EvidenceError('a string of bytes is missing');
  return contentOf(node);
}

function contentOf(node: AsnType): Uint8Array {
  return encoded(node).subarray(node.idBlock.blockLength + node.lenBlock.blockLength);
}

function objectIdentifier(node: AsnType | undefined): string {
  if (!(node instanceof ObjectIdentifier)) throw new EvidenceError('an object identifier is missing');
  return node.valueBlock.toString();
}

/** Returns an INTEGER or ENUMERATED from 0 to 127. */
function smallInteger(node: AsnType | undefined): number {
  if (!(node instanceof Integer)) throw new EvidenceError('a number is missing');
  const [value, ...more] = contentOf(node);
  if (value === undefined || value > 127 || more.length > 0) throw new EvidenceError('a number is out of its range');
  return value;
}

function bigInteger(node: AsnType | undefined): bigint {
  if (!(node instanceof Integer)) throw new EvidenceError('a number is missing');
  const content = contentOf(node);
  return BigInt.asIntN(content.length * 8, BigInt(`0x${toHex(content)}`));
}

/** GeneralizedTime as RFC 3161 section 2.4.2 has it: UTC, seconds, a fraction without a zero at its end. */
function readTime(node: AsnType): number {
  const text = fromUtf8(contentOf(node));
  const match = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.(\d*[1-9]))?Z$/.exec(text);
  if (node.idBlock.tagClass !== 1 || node.idBlock.tagNumber !== 24 || match === null) {
    throw new EvidenceError('a time is not as it must be');
  }
  const [, year, month, day, hours, minutes, seconds, fraction = ''] = match;
  const written = `${year}-${month}-${day}T${hours}:${minutes}:${seconds}.${fraction.slice(0, 3).padEnd(3, '0')}Z`;
  const time = Date.parse(written);
  // A 30th of February is read as another day.
  if (!Number.isFinite(time) || new Date(time).toISOString() !== written) throw new EvidenceError('a time is no time');
  return time;
}

function instantOf(date: Date): number {
  const time = date.getTime();
  if (!Number.isFinite(time)) throw new EvidenceError('a time is no time');
  return time;
}

// --- For people ---

const ATTRIBUTE_NAMES: ReadonlyMap<string, string> = new Map([
  ['2.5.4.3', 'CN'],
  ['2.5.4.5', 'serialNumber'],
  ['2.5.4.6', 'C'],
  ['2.5.4.7', 'L'],
  ['2.5.4.8', 'ST'],
  ['2.5.4.10', 'O'],
  ['2.5.4.11', 'OU'],
  ['2.5.4.97', 'organizationIdentifier'],
]);

function nameBytes(name: RelativeDistinguishedNames): Uint8Array {
  return new Uint8Array(name.valueBeforeDecode);
}

/** A name as text, in the order in which it is written. What could mislead a reader is escaped (RFC 4514 section 2.4). */
function nameText(name: RelativeDistinguishedNames): string {
  return name.typesAndValues
    .map(({ type, value }) => `${ATTRIBUTE_NAMES.get(type) ?? type}=${readable(String(value.valueBlock.value), 200)}`)
    .join(', ');
}

function readable(text: string, lengthMax: number): string {
  const cut = text.length > lengthMax ? `${text.slice(0, lengthMax)}…` : text;
  return cut
    .toWellFormed()
    .replace(/[\\,=\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
      /[\\,=]/.test(character) ? `\\${character}` : `\\u{${character.codePointAt(0)!.toString(16)}}`,
    );
}

const STATUS_TEXTS: readonly string[] = [
  'granted',
  'granted with modifications',
  'rejected',
  'waiting',
  'a revocation is imminent',
  'a revocation has happened',
];

/** PKIFailureInfo (RFC 3161 section 2.4.2), by bit. */
const FAILURE_TEXTS: ReadonlyMap<number, string> = new Map([
  [0, 'the hash function is unknown or not supported'],
  [2, 'the request is not permitted or supported'],
  [5, 'the request has the wrong format'],
  [14, "the authority's time source is not available"],
  [15, 'the policy is not supported'],
  [16, 'the extension is not supported'],
  [17, 'the additional information is not available'],
  [25, 'the request can not be handled due to a failure of the system'],
]);

/** `details`: statusString and failInfo of PKIStatusInfo, each optional. */
function refusalText(code: number, details: readonly AsnType[]): string {
  const words = [`the authority answers: ${STATUS_TEXTS[code] ?? `status ${code}`}`];
  for (const detail of details) {
    if (detail instanceof BitString) {
      const bytes = detail.valueBlock.valueHexView;
      for (const [bit, text] of FAILURE_TEXTS) {
        if (((bytes[bit >> 3] ?? 0) & (0x80 >> (bit & 7))) !== 0) words.push(text);
      }
    } else if (detail instanceof Sequence) {
      const texts = detail.valueBlock.value.map((one) => fromUtf8(contentOf(one)));
      words.push(`"${readable(texts.join(' '), 300)}"`);
    }
  }
  return words.join('; ');
}

// --- Errors ---

/** Whatever the libraries throw at bytes that they did not expect is the bytes' fault. */
async function guard<Value>(what: string, work: () => Promise<Value>): Promise<Value> {
  try {
    return await work();
  } catch (error) {
    throw ownError(what, error);
  }
}

/** False also where the bytes are not what anybody expects. */
async function holds(work: () => Promise<boolean>): Promise<boolean> {
  try {
    return await guard('it can not be read', work);
  } catch (error) {
    if (error instanceof EvidenceError) return false;
    throw error;
  }
}

function guardSync<Value>(what: string, work: () => Value): Value {
  try {
    return work();
  } catch (error) {
    throw ownError(what, error);
  }
}

function ownError(what: string, error: unknown): Error {
  if (error instanceof EvidenceError || error instanceof TimeStampRefusal) return error;
  return new EvidenceError(what, { cause: error });
}

/** A copy that is certainly a view of an ArrayBuffer of its own, as WebCrypto and asn1js want it. */
function toBuffer(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(bytes);
}
