/**
 * Takes secrets out of what is written for operators: the log, and the last words of a command.
 *
 * Nothing here is meant to be logged in the first place. This is for the error of a library that repeats what it was given, and for the line
 * that somebody adds tomorrow: every line goes through it, whatever member or text the secret is in. Three nets: the secrets that the
 * configuration holds, letter by letter; what has the shape of a credential; and what stands in members and headers with a telling name.
 */

const GONE = '[redacted]';
/** Shorter ones stand in the middle of words; as part of a URL they are found by its shape. */
const SECRET_LENGTH_MIN = 6;
/** Of members in members; what lies deeper is nobody's log line. */
const DEPTH_MAX = 12;

const TELLING =
  '[\\w-]{0,40}(?:authorization|cookie|passw(?:or)?d|passphrase|secret|token|api[-_]?key|private[-_]?key|seed|credential)s?';
const TELLING_NAME = new RegExp(`^${TELLING}$`, 'i');

/** Each is bounded: a long text takes time in proportion to its length. */
const SHAPES: readonly (readonly [shape: RegExp, instead: string])[] = [
  // Private keys in PEM, and what is left of one.
  [/-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[A-Za-z0-9+/=\s:,-]|\\n)*/g, GONE],
  // JSON Web Tokens, and what is left of one.
  [/\beyJ[\w-]{6,}(?:\.[\w-]*){0,4}/g, GONE],
  // API keys; their ids are no secret.
  [/\b(sealog_[0-9a-f]{16}_)[\w-]+/gi, `$1${GONE}`],
  [/\b(bearer|basic)(\s{1,9})[\w.~+/=-]{6,}/gi, `$1$2${GONE}`],
  // user:password@ of a URL, whatever is in the password.
  [/(\b[a-z][a-z0-9+.-]{0,20}:\/\/[^\s/:@]{0,200}):[^\s]{0,500}@/gi, `$1:${GONE}@`],
  [/([?&;][\w-]{0,40}(?:passw(?:or)?d|secret|token|key|sig|signature|code)=)[^&\s"'#]+/gi, `$1${GONE}`],
  [/\b(password[ =:]{1,9}["'])[^"']*/gi, `$1${GONE}`],
  // Headers, to the end of their line.
  [new RegExp(`\\b(${TELLING}):[ \\t]{0,9}[^\\r\\n"]+`, 'gi'), `$1: ${GONE}`],
  // JSON inside a text, however often it was quoted.
  [new RegExp(`(\\\\{0,8}"${TELLING}\\\\{0,8}"\\s{0,9}:\\s{0,9}\\\\{0,8}")[^"\\\\]+`, 'gi'), `$1${GONE}`],
];

/** Returns what takes these secrets, and whatever looks like one, out of a text. */
export function redactor(secrets: readonly string[]): (text: string) => string {
  const spellings = secrets
    .filter((secret) => secret.length >= SECRET_LENGTH_MIN)
    .flatMap((secret) => [secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)]);
  // The longest first: one may be part of another.
  const known = [...new Set(spellings)].sort((a, b) => b.length - a.length);
  return (text) => {
    let clean = text;
    for (const secret of known) clean = clean.replaceAll(secret, GONE);
    for (const [shape, instead] of SHAPES) clean = clean.replace(shape, instead);
    return clean;
  };
}

/** Returns what takes them out of a line of the log: JSON, with a line feed, before and after. */
export function lineRedactor(secrets: readonly string[]): (line: string) => string {
  const textOf = redactor(secrets);
  const withoutSecrets = (value: unknown, depth: number): unknown => {
    if (typeof value === 'string') return textOf(value);
    if (typeof value !== 'object' || value === null) return value;
    if (depth === DEPTH_MAX) return GONE;
    if (Array.isArray(value)) return value.map((item) => withoutSecrets(item, depth + 1));
    const members = Object.entries(value).map(([name, member]): [string, unknown] => {
      // Counts and switches are no secrets.
      const isTold = ['number', 'boolean'].includes(typeof member) || member === null;
      return [textOf(name), TELLING_NAME.test(name) && !isTold ? GONE : withoutSecrets(member, depth + 1)];
    });
    return Object.fromEntries(members);
  };
  return (line) => {
    try {
      return `${JSON.stringify(withoutSecrets(JSON.parse(line), 0))}\n`;
    } catch {
      // Not a line of ours; whatever it is, it is text.
      return textOf(line);
    }
  };
}
