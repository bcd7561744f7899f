/**
 * A server that plays AWS KMS, as its API reference says (JSON 1.1, Signature Version 4), and strict where KMS is: each signature is worked out
 * again from what came, the encryption context belongs to the ciphertext, and what is pending deletion decrypts nothing.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes, randomUUID } from 'node:crypto';
import { type KeyAnswer, type KeyRequest, type KeyServer, startKeyServer } from './key-server.ts';

interface KmsKey {
  readonly id: string;
  readonly key: Buffer;
  state: 'Enabled' | 'Disabled' | 'PendingDeletion';
  deletionDate: number | undefined;
}

export interface KmsServer extends KeyServer {
  readonly region: string;
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken: string | undefined;
  readonly keys: Map<string, KmsKey>;
  /** Alias → id of a key. */
  readonly aliases: Map<string, string>;
  /** How many aliases are on a page. */
  pageSize: number;
  /** An alias is not found so many times after it was made, as in a service of many machines. */
  hiddenFor: number;
  /** The waiting period is over. */
  deletePending(): void;
}

const DAY = 86_400;

export async function startKms(): Promise<KmsServer> {
  const keys = new Map<string, KmsKey>();
  const aliases = new Map<string, string>();
  const hidden = new Map<string, number>();

  function answer(request: KeyRequest): KeyAnswer {
    if (!isSigned(request)) return failed('InvalidSignatureException');
    const target = String(request.headers['x-amz-target']);
    if (request.method !== 'POST' || request.headers['content-type'] !== 'application/x-amz-json-1.1')
      return failed('SerializationException');
    const body = JSON.parse(request.text) as Record<string, unknown>;
    const key = keyOf(body['KeyId']);
    const missing = failed('NotFoundException', `Alias ${body['KeyId']} is not found.`);
    switch (target.replace(/^TrentService\./, '')) {
      case 'CreateKey': {
        if (body['KeySpec'] !== 'SYMMETRIC_DEFAULT' || body['KeyUsage'] !== 'ENCRYPT_DECRYPT')
          return failed('ValidationException');
        const made: KmsKey = { id: randomUUID(), key: randomBytes(32), state: 'Enabled', deletionDate: undefined };
        keys.set(made.id, made);
        return done({ KeyMetadata: view(made) });
      }
      case 'CreateAlias': {
        const name = String(body['AliasName']);
        if (!/^alias\/[a-zA-Z0-9/_-]+$/.test(name)) return failed('InvalidAliasNameException');
        if (aliases.has(name)) return failed('AlreadyExistsException');
        if (!keys.has(String(body['TargetKeyId']))) return failed('NotFoundException');
        aliases.set(name, String(body['TargetKeyId']));
        hidden.set(name, server.hiddenFor);
        return { status: 200 };
      }
      case 'DescribeKey':
        return key === undefined ? missing : done({ KeyMetadata: view(key) });
      case 'ListAliases': {
        const all = [...aliases.keys()].sort();
        const from = body['Marker'] === undefined ? 0 : Number(body['Marker']);
        const isCut = from + server.pageSize < all.length;
        const page = all.slice(from, from + server.pageSize).map((AliasName) => ({ AliasName, AliasArn: 'arn' }));
        return done({ Aliases: page, Truncated: isCut, ...(isCut ? { NextMarker: `${from + server.pageSize}` } : {}) });
      }
      case 'ScheduleKeyDeletion': {
        // By id or ARN only.
        const found = keys.get(String(body['KeyId']));
        const days = Number(body['PendingWindowInDays'] ?? 30);
        if (found === undefined) return missing;
        if (days < 7 || days > 30) return failed('ValidationException');
        if (found.state === 'PendingDeletion') return failed('KMSInvalidStateException');
        found.state = 'PendingDeletion';
        found.deletionDate = Math.floor(Date.now() / 1000) + days * DAY;
        return done({ KeyId: found.id, DeletionDate: found.deletionDate, KeyState: 'PendingDeletion' });
      }
      case 'Encrypt': {
        if (key === undefined) return missing;
        const refusal = unusable(key);
        if (refusal !== undefined) return refusal;
        const nonce = randomBytes(12);
        const cipher = createCipheriv('aes-256-gcm', key.key, nonce);
        cipher.setAAD(contextOf(body));
        const sealed = Buffer.concat([cipher.update(base64(body['Plaintext'])), cipher.final()]);
        const blob = Buffer.concat([
          Buffer.from(key.id.replaceAll('-', ''), 'hex'),
          nonce,
          sealed,
          cipher.getAuthTag(),
        ]);
        return done({ CiphertextBlob: blob.toString('base64'), KeyId: arn(key) });
      }
      case 'Decrypt': {
        if (key === undefined) return missing;
        const blob = base64(body['CiphertextBlob']);
        const refusal = unusable(key);
        if (refusal !== undefined) return refusal;
        const owner = [...keys.keys()].find((id) => id.replaceAll('-', '') === blob.subarray(0, 16).toString('hex'));
        if (owner === undefined) return failed('InvalidCiphertextException');
        if (owner !== key.id) return failed('IncorrectKeyException');
        try {
          const decipher = createDecipheriv('aes-256-gcm', key.key, blob.subarray(16, 28));
          decipher.setAAD(contextOf(body));
          decipher.setAuthTag(blob.subarray(-16));
          const text = Buffer.concat([decipher.update(blob.subarray(28, -16)), decipher.final()]);
          return done({
            Plaintext: text.toString('base64'),
            KeyId: arn(key),
            EncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
          });
        } catch {
          return failed('InvalidCiphertextException');
        }
      }
      default:
        return failed('UnknownOperationException');
    }
  }

  function keyOf(name: unknown): KmsKey | undefined {
    const text = String(name);
    if (!text.startsWith('alias/')) return keys.get(text);
    const wait = hidden.get(text) ?? 0;
    hidden.set(text, wait - 1);
    return wait > 0 ? undefined : keys.get(aliases.get(text) ?? '');
  }

  function unusable({ state }: KmsKey): KeyAnswer | undefined {
    if (state === 'PendingDeletion') return failed('KMSInvalidStateException', 'is pending deletion.');
    return state === 'Disabled' ? failed('DisabledException') : undefined;
  }

  function view(key: KmsKey) {
    return {
      ...{
        KeyId: key.id,
        Arn: arn(key),
        Enabled: key.state === 'Enabled',
        KeyState: key.state,
        KeyManager: 'CUSTOMER',
      },
      ...(key.deletionDate === undefined ? {} : { DeletionDate: key.deletionDate }),
    };
  }

  /** Signature Version 4, from what came over the wire. */
  function isSigned({ method, url, headers, text }: KeyRequest): boolean {
    const match =
      /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/kms\/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})$/.exec(
        String(headers['authorization']),
      );
    const time = String(headers['x-amz-date']);
    if (match === null || !/^\d{8}T\d{6}Z$/.test(time)) return false;
    const [, id, day, region, names = '', signature] = match;
    if (id !== server.accessKeyId || region !== server.region || !time.startsWith(day!)) return false;
    if (headers['x-amz-security-token'] !== server.sessionToken) return false;
    const sentAt = Date.parse(time.replace(/(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z/, '$1-$2-$3T$4:$5:$6Z'));
    if (Math.abs(Date.now() - sentAt) > 300_000) return false;
    const list = names.split(';');
    const needed = [
      'host',
      'content-type',
      'x-amz-date',
      'x-amz-target',
      ...(server.sessionToken === undefined ? [] : ['x-amz-security-token']),
    ];
    if (needed.some((name) => !list.includes(name)) || list.toString() !== [...list].sort().toString()) return false;
    const lines = [
      method,
      url.pathname,
      '',
      ...list.map((name) => `${name}:${String(headers[name]).trim()}`),
      '',
      names,
      sha(text),
    ];
    const toSign = `AWS4-HMAC-SHA256\n${time}\n${day}/${region}/kms/aws4_request\n${sha(lines.join('\n'))}`;
    let key: Buffer = Buffer.from(`AWS4${server.secretAccessKey}`);
    for (const part of [day!, region!, 'kms', 'aws4_request']) key = createHmac('sha256', key).update(part).digest();
    return createHmac('sha256', key).update(toSign).digest('hex') === signature;
  }

  const server: KmsServer = Object.assign(
    await startKeyServer(answer, ({ headers }) => String(headers['x-amz-target']).replace('TrentService.', '')),
    {
      ...{ region: 'eu-central-1', accessKeyId: 'AKIATEST', sessionToken: undefined as string | undefined },
      ...{ secretAccessKey: randomBytes(30).toString('base64'), keys, aliases, pageSize: 100, hiddenFor: 0 },
      deletePending() {
        for (const { id, state } of keys.values()) {
          if (state !== 'PendingDeletion') continue;
          keys.delete(id);
          for (const [alias, target] of aliases) if (target === id) aliases.delete(alias);
        }
      },
    },
  );
  return server;
}

function contextOf(body: Record<string, unknown>): Buffer {
  return Buffer.from(JSON.stringify(Object.entries((body['EncryptionContext'] ?? {}) as object).sort()));
}

function arn({ id }: KmsKey): string {
  return `arn:aws:kms:eu-central-1:111122223333:key/${id}`;
}

function done(body: object): KeyAnswer {
  return { status: 200, body };
}

function failed(type: string, message = ''): KeyAnswer {
  return { status: 400, body: { __type: type, message } };
}

function base64(text: unknown): Buffer {
  const bytes = Buffer.from(String(text), 'base64');
  if (bytes.toString('base64') !== text) throw new Error('not base64');
  return bytes;
}

function sha(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
