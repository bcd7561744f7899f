#!/usr/bin/env python3
"""An independent verifier of Sealog's evidence bundles. It was written from docs/format.md alone, without Sealog's code.

A bundle (section 22 of that page) is a tar file that says which entries of one category of one tenant were recorded in a
time. This program reads it offline and says whether

  intact        everything holds, and every entry shown is anchored or pinned;
  tampered      something that must hold does not: each is listed as a finding;
  incomplete    nothing is wrong, but something could not be checked;
  not provable  all is consistent, but entries are neither anchored nor pinned.

"Anchored": evidence of an authority or a witness that YOU said you trust (--tsa, --witness), or a checkpoint of the
anchor stream that you kept (--checkpoint), covers the entry. "Pinned": a checkpoint of the stream itself that you kept
covers it. What is neither is un-anchored: the log's owner could have made it today.

Give the newest vkey that you know: a bundle can be silent about a later one, and then a retired key passes for the one
that signs now. The output says which key was taken for that one.

Section numbers in the comments are those of docs/format.md. Order of this file: canonical JSON (2), names and times
(3, 4), parts (5), records (6), trees and proofs (8, 10), notes and keys (10, 19), tar and form (22), time stamps (20),
the checks (22), output, self-test (25). Only Python's standard library and the `openssl` command (3.x) are used;
openssl does nothing here but check single signatures (Ed25519, RSA, ECDSA).

Usage: verify_bundle.py BUNDLE --key VKEY [--checkpoint FILE]... [--tsa CA.pem]... [--witness VKEY]... [--json]
       verify_bundle.py --self-test FORMAT.md
Exit: 0 intact, 1 tampered, 2 incomplete, not provable or not readable, 64 wrong usage.
"""

import argparse
import base64
import binascii
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

MAX_INTEGER = 2**53 - 1
MAX_BUNDLE = 2**31
MAX_JSON = 64 * 1024 * 1024
MAX_DER = 262144
MAX_STREAMS, MAX_STATEMENTS, MAX_CONSISTENCY, MAX_ANCHORS, MAX_PATH, MAX_RIGHT = 100, 1000, 1000, 100, 64, 128
MAX_EVIDENCE, MAX_ALL_EVIDENCE, MAX_BESIDE = 20, 1000, 20  # of an anchor, of the bundle; certificates or lists beside a token
MAX_CERTIFICATES, MAX_LISTS, MAX_CHAIN, MAX_TRIES, MAX_DER_DEPTH, MAX_DER_ELEMENTS = 64, 32, 8, 64, 32, 60000
MAX_JSON_DEPTH = 1000
MAX_ERASURE_CERTIFICATES, MAX_ERASED_ENTRIES = 10000, 500  # entries: of one certificate

class Malformed(Exception):
    """What was read does not have the form it must have. The caller decides which kind of finding that is."""

class CannotCheck(Exception):
    """openssl is missing or did not answer."""

def need(condition, detail):
    if not condition:
        raise Malformed(detail)

def sha256(data):
    return hashlib.sha256(data).digest()

# ---------------------------------------------------------------------------------------------------------------------
# Canonical JSON (section 2). parse_json takes the canonical text of a value and nothing else. Neither it nor
# write_json recurses.

_TOKEN = re.compile(r'"[^"\\\x00-\x1f]*(?:\\(?:["\\bfnrt]|u00(?:0[0-7bef]|1[0-9a-f]))[^"\\\x00-\x1f]*)*"'
                    r'|-?[0-9][0-9.e+-]*|true|false|null|[\[\]{},:]')
_SMALL_INTEGER = re.compile(r'0|-?[1-9][0-9]{0,14}')
_LITERALS = {'true': True, 'false': False, 'null': None}

def number_text(number):
    """ECMAScript's text of a double (section 2, Numbers)."""
    number = float(number)
    if number == 0:
        return '0'
    if number < 0:
        return '-' + number_text(-number)
    need(number != float('inf'), 'a number that no double holds')
    mantissa, _, exponent = repr(number).partition('e')  # repr: the shortest digits that read back the same
    whole, _, fraction = mantissa.partition('.')
    n = len(whole) + int(exponent or 0)
    digits = whole + fraction
    n -= len(digits) - len(digits.lstrip('0'))
    digits = digits.strip('0')
    k = len(digits)
    if k <= n <= 21:
        return digits + '0' * (n - k)
    if 0 < n <= 21:
        return digits[:n] + '.' + digits[n:]
    if -6 < n <= 0:
        return '0.' + '0' * -n + digits
    return digits[0] + ('.' + digits[1:] if k > 1 else '') + 'e' + ('+' if n > 0 else '-') + str(abs(n - 1))

def parse_number(token):
    if _SMALL_INTEGER.fullmatch(token):
        return int(token)
    need(len(token) <= 32, 'a number not in its canonical text')
    try:
        value = float(token)
    except ValueError:
        raise Malformed('a malformed number') from None
    need(number_text(value) == token, 'a number not in its canonical text')
    return value if '.' in token or 'e' in token else int(token)

def utf16(text):
    """The sort key of names: unsigned UTF-16 code units, a prefix first."""
    return text.encode('utf-16-be', 'surrogatepass')

def parse_json(raw):
    """The value whose canonical text `raw` is; Malformed where it is the canonical text of nothing."""
    try:
        text = raw.decode('utf-8')
    except UnicodeDecodeError:
        raise Malformed('not UTF-8') from None
    stack = []  # the open containers: [container, name of the member being read, sort key of that name]
    state = 'value'  # value | first (value or ]) | name | firstname (name or }) | next (comma or end)
    result, position, end = None, 0, len(text)
    while position < end:
        match = _TOKEN.match(text, position)
        need(match, f'not canonical JSON at character {position}')
        token, position = match.group(), match.end()
        mark = token[0]
        if state in ('name', 'firstname'):
            if mark == '}' and state == 'firstname':
                value = stack.pop()[0]
            else:
                need(mark == '"', 'a member without a name')
                name = json.loads(token)
                key = utf16(name)
                need(stack[-1][2] is None or stack[-1][2] < key, 'members out of order, or a name twice')
                need(text.startswith(':', position), 'a member without a value')
                position += 1
                stack[-1][1:] = [name, key]
                state = 'value'
                continue
        elif state == 'next':
            need(stack, 'something behind the value')
            container = stack[-1][0]
            if mark == ',':
                state = 'name' if isinstance(container, dict) else 'value'
                continue
            need(mark == ('}' if isinstance(container, dict) else ']'), 'a malformed array or object')
            value = stack.pop()[0]
        elif mark == '"':
            value = json.loads(token)
        elif mark in '[{':
            need(len(stack) <= MAX_JSON_DEPTH, 'nested too deeply')
            stack.append([[] if mark == '[' else {}, None, None])
            state = 'first' if mark == '[' else 'firstname'
            continue
        elif mark == ']' and state == 'first':
            value = stack.pop()[0]
        elif token in _LITERALS:
            value = _LITERALS[token]
        else:
            need(mark in '-0123456789', 'a value is missing')
            value = parse_number(token)
        state = 'next'  # `value` is complete: put it where it belongs
        if not stack:
            result = value
        elif isinstance(stack[-1][0], dict):
            stack[-1][0][stack[-1][1]] = value
        else:
            stack[-1][0].append(value)
    need(state == 'next' and not stack, 'JSON that ends too early')
    return result

class _Raw(str):
    """Text that write_json puts out as it is."""

def write_json(value):
    """JCS(value)."""
    out, todo = [], [value]
    while todo:
        item = todo.pop()
        if isinstance(item, _Raw):
            out.append(item)
        elif item is None or isinstance(item, bool):
            out.append({None: 'null', True: 'true', False: 'false'}[item])
        elif isinstance(item, str):
            out.append(json.dumps(item, ensure_ascii=False))
        elif isinstance(item, (int, float)):
            out.append(number_text(item))
        else:
            pieces = []
            if isinstance(item, dict):
                for name in sorted(item, key=utf16):
                    pieces += [_Raw(','), name, _Raw(':'), item[name]]
            else:
                for part in item:
                    pieces += [_Raw(','), part]
            opening, closing = '{}' if isinstance(item, dict) else '[]'
            todo += reversed([_Raw(opening)] + pieces[1:] + [_Raw(closing)])
    return ''.join(out).encode('utf-8')

# ---------------------------------------------------------------------------------------------------------------------
# The form of values in JSON files (section 22), of names (3) and of times (4).

CATEGORIES = ('user_authentication', 'data_access', 'configuration_change', 'data_modification', 'security_event',
              'system_operation', 'log_administration')
ANCHOR = 'sealog/anchor'
_TENANT = re.compile('[a-z0-9][a-z0-9-]{0,62}')
_EPOCH = re.compile('(.*)/e([1-9][0-9]{0,15})', re.S)
_ORIGIN = re.compile('[a-z0-9]([a-z0-9.:/_-]{0,200}[a-z0-9])?')
_HEX = re.compile('[0-9a-f]*')
_TIME = re.compile(r'([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})\.[0-9]{3}Z')

def members(value, required, optional=(), what='an object'):
    need(isinstance(value, dict), f'{what} is not an object')
    for name in required:
        need(name in value, f'{what} lacks {name}')
    for name in value:
        need(name in required or name in optional, f'{what} has a member that is not specified')

def array(value, most, what):
    need(isinstance(value, list), f'{what} is not an array')
    need(len(value) <= most, f'{what} has more than {most} items')
    return value

def integer(value, what):
    need(type(value) is int and 0 <= value <= MAX_INTEGER, f'{what} is not an integer from 0 to 2^53-1')
    return value

def string(value, what):
    need(isinstance(value, str), f'{what} is not a string')
    return value

def hexadecimal(value, size, what):
    need(isinstance(value, str) and len(value) == 2 * size and _HEX.fullmatch(value), f'{what} is not {size} bytes in hex')
    return bytes.fromhex(value)

def hashes(value, what, most=MAX_PATH):
    return [hexadecimal(item, 32, what) for item in array(value, most, what)]

def base64_bytes(value, what):
    """Standard base64 with padding, unused bits zero: it must be what encoding gives again."""
    need(isinstance(value, str), f'{what} is not base64')
    try:
        raw = base64.b64decode(value.encode('ascii'), validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f'{what} is not base64') from None
    need(base64.b64encode(raw).decode() == value, f'{what} is not base64 in its one spelling')
    return raw

def decimal(text, what):
    need(re.fullmatch('0|[1-9][0-9]{0,15}', text) and int(text) <= MAX_INTEGER, f'{what} is not a decimal number')
    return int(text)

def ascending(items, what):
    need(all(a < b for a, b in zip(items, items[1:])), f'{what} are out of order, or one stands twice')

def is_time(value):
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not match or value < '1970':
        return False
    try:
        datetime.datetime(*map(int, match.groups()))
        return True
    except ValueError:
        return False

def split_stream(name):
    """(stream of the first epoch, epoch), or None where `name` is no name of a stream."""
    match = _EPOCH.fullmatch(name)
    base, epoch = (match.group(1), int(match.group(2))) if match else (name, 1)
    tenant, _, category = base.partition('/')
    good = base == ANCHOR or (_TENANT.fullmatch(tenant) and category in CATEGORIES)
    return (base, epoch) if good and (not match or 2 <= epoch <= MAX_INTEGER) else None

# ---------------------------------------------------------------------------------------------------------------------
# Parts (section 5), records (6), hashes (7).

PARTS = ('actor', 'changes', 'details', 'raw', 'reason', 'target')
ZEROS = '0' * 64
_RECORD_REQUIRED = ('action', 'id', 'occurredAt', 'outcome', 'parts', 'previous', 'recordedAt', 'seq', 'source', 'stream', 'v')
_RECORD_OPTIONAL = ('evidence', 'retainUntil', 'severity')

def lp(data):
    return len(data).to_bytes(4, 'big') + data

def part_commitment(name, salt, value):
    return sha256(b'sealog/part/v1\0' + salt + lp(name.encode()) + lp(write_json(value)))

def parts_hash(commitments):
    """`commitments`: part name -> commitment."""
    text = b'sealog/parts/v1\0'
    for name in PARTS:
        if name in commitments:
            text += lp(name.encode()) + commitments[name]
    return sha256(text)

def read_record(raw):
    """Section 6: the record's members; Malformed where a reader must refuse it."""
    need(len(raw) <= 65535, 'a record of more than 65,535 bytes')
    record = parse_json(raw)
    members(record, _RECORD_REQUIRED, _RECORD_OPTIONAL, 'the record')
    for name in ('action', 'id', 'occurredAt', 'stream'):
        string(record[name], name)
    need(record['outcome'] in ('success', 'failure', 'unknown'), 'outcome has another value')
    need(record.get('evidence', 'incomplete') == 'incomplete', 'evidence has another value')
    hexadecimal(record['parts'], 32, 'parts')
    hexadecimal(record['previous'], 32, 'previous')
    need(is_time(record['recordedAt']), 'recordedAt is no time')
    need('retainUntil' not in record or is_time(record['retainUntil']), 'retainUntil is no time')
    integer(record['seq'], 'seq')
    need('severity' not in record or integer(record['severity'], 'severity') <= 10, 'severity is above 10')
    need(isinstance(record['source'], dict), 'source is no object')
    need(type(record['v']) is int and record['v'] == 1, 'v is not 1')
    return record

def leaf_hash(data):
    return sha256(b'\0' + data)

def node_hash(left, right):
    return sha256(b'\1' + left + right)

# ---------------------------------------------------------------------------------------------------------------------
# Trees (section 8), entry bundles (9), proofs (10).

EMPTY_ROOT = sha256(b'')

class Tree:
    """The frontier of a growing tree, as (level, hash) of its perfect subtrees, largest first."""

    def __init__(self, size=0, frontier=()):
        levels = [level for level in range(63, -1, -1) if size >> level & 1]
        need(len(levels) == len(frontier), 'left has another number of hashes than a frontier of this size')
        self.stack = list(zip(levels, frontier))

    def add(self, level, subtree):
        while self.stack and self.stack[-1][0] == level:
            subtree = node_hash(self.stack.pop()[1], subtree)
            level += 1
        self.stack.append((level, subtree))

    def root(self):
        if not self.stack:
            return EMPTY_ROOT
        root = self.stack[-1][1]
        for _, earlier in reversed(self.stack[:-1]):
            root = node_hash(earlier, root)
        return root

def right_levels(end, size):
    """The levels of the perfect subtrees that cover [end, size), each the largest that fits (section 22)."""
    levels = []
    while end < size:
        level = 0
        while end % (2 << level) == 0 and end + (2 << level) <= size:
            level += 1
        levels.append(level)
        end += 1 << level
    return levels

def inclusion_holds(leaf, seq, size, path, root):
    if seq >= size:
        return False
    n, m, h = seq, size - 1, leaf
    for p in path:
        if m == 0:
            return False
        if n & 1 or n == m:
            h = node_hash(p, h)
            while n and not n & 1:
                n, m = n >> 1, m >> 1
        else:
            h = node_hash(h, p)
        n, m = n >> 1, m >> 1
    return m == 0 and h == root

def consistency_holds(a, root_a, b, root_b, path):
    if a == 0 or a == b:
        return not path and root_a == (EMPTY_ROOT if a == 0 else root_b)
    if a > b:
        return False
    if a & (a - 1) == 0:
        path = [root_a] + path
    if not path:
        return False
    n, m = a - 1, b - 1
    while n & 1:
        n, m = n >> 1, m >> 1
    f = g = path[0]
    for p in path[1:]:
        if m == 0:
            return False
        if n & 1 or n == m:
            f, g = node_hash(p, f), node_hash(p, g)
            while n and not n & 1:
                n, m = n >> 1, m >> 1
        else:
            g = node_hash(g, p)
        n, m = n >> 1, m >> 1
    return m == 0 and f == root_a and g == root_b

def split_entries(raw):
    """Section 9: the records of an entry bundle."""
    records, position = [], 0
    while position < len(raw):
        length = int.from_bytes(raw[position:position + 2], 'big')
        record = raw[position + 2:position + 2 + length]
        need(position + 2 <= len(raw) and len(record) == length, 'entries: a record is cut short')
        records.append(record)
        position += 2 + length
    return records

# ---------------------------------------------------------------------------------------------------------------------
# openssl, for single signatures. Every answer is kept, since one key signs the same text in many places.

_answers = {}

def openssl(arguments, files):
    """Run openssl with `files` (name -> bytes) in a directory of their own; True where it says yes."""
    key = (tuple(arguments), tuple(sorted(files.items())))
    if key not in _answers:
        with tempfile.TemporaryDirectory(prefix='verify-bundle-') as folder:
            for name, data in files.items():
                with open(os.path.join(folder, name), 'wb') as file:
                    file.write(data)
            try:
                done = subprocess.run(['openssl'] + arguments, cwd=folder, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise CannotCheck(f'openssl could not be run: {type(error).__name__}') from None
        _answers[key] = done.returncode == 0
    return _answers[key]

def pem(label, der):
    return b'-----BEGIN %s-----\n%s-----END %s-----\n' % (label, base64.encodebytes(der), label)

_ED25519_SPKI = bytes.fromhex('302a300506032b6570032100')

def ed25519_holds(public, message, signature):
    if len(signature) != 64:
        return False
    return openssl(['pkeyutl', '-verify', '-pubin', '-inkey', 'key.pem', '-rawin', '-in', 'message', '-sigfile', 'signature'],
                   {'key.pem': pem(b'PUBLIC KEY', _ED25519_SPKI + public), 'message': message, 'signature': signature})

# ---------------------------------------------------------------------------------------------------------------------
# Signed notes and vkeys (C2SP signed-note), checkpoints (section 10).

ED25519, COSIGNATURE = 1, 4

class Key:
    """A vkey: name, key id, type and public key."""

    def __init__(self, vkey, kind):
        match = re.fullmatch(r'([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)', vkey)
        need(match, 'a malformed vkey')
        self.vkey, self.name, self.id = vkey, match.group(1), bytes.fromhex(match.group(2))
        raw = base64_bytes(match.group(3), 'the key of a vkey')
        need(len(raw) == 33 and raw[0] == kind, 'a vkey of another type')
        self.public = raw[1:]
        need(self.id == sha256(self.name.encode() + b'\n' + raw)[:4], 'a vkey whose key id is not that of its key')

def read_signature_line(line):
    """(name, key id, signature) of `— name base64`."""
    match = re.fullmatch('— ([^\\s+]+) ([A-Za-z0-9+/=]+)', line)
    need(match, 'a malformed signature line')
    raw = base64_bytes(match.group(2), 'a signature')
    need(len(raw) >= 5, 'a signature line without a signature')
    return match.group(1), raw[:4], raw[4:]

class Note:
    """A signed note: its text, which ends at the last empty line, and its signature lines."""

    def __init__(self, note):
        need(isinstance(note, str) and len(note.encode()) <= 1000000, 'a note is no text, or too long')
        need(not any(c < ' ' and c != '\n' for c in note), 'a note with control characters')
        text, gap, lines = note.rpartition('\n\n')
        need(gap and text and lines.endswith('\n'), 'no signed note')
        self.text = text + '\n'
        self.signatures = [read_signature_line(line) for line in lines[:-1].split('\n')]
        need(len(self.signatures) <= 100, 'a note with more than 100 signatures')

    def signers(self, known):
        """Those of the known keys that signed; None where a signature by one of them is wrong. Others are ignored."""
        found = []
        for name, key_id, signature in self.signatures:
            for key in known:
                if (key.name, key.id) == (name, key_id):
                    if not ed25519_holds(key.public, self.text.encode(), signature):
                        return None
                    found.append(key)
        return found

class Checkpoint(Note):
    """A signed note whose text is origin, size and root."""

    def __init__(self, note):
        super().__init__(note)
        lines = self.text.split('\n')
        need(len(lines) == 4 and lines[0], 'a checkpoint that is not three lines')
        self.origin, self.size = lines[0], decimal(lines[1], 'the size of a checkpoint')
        self.root = base64_bytes(lines[2], 'the root of a checkpoint')
        need(len(self.root) == 32, 'a checkpoint whose root is not 32 bytes')
        need(self.size or self.root == EMPTY_ROOT, 'a checkpoint of no entries with another root than theirs')

    def stream(self, origin):
        """(name, stream of the first epoch, epoch) under the deployment's origin; None where it is of another log."""
        name = self.origin[len(origin) + 1:]
        split = split_stream(name) if self.origin.startswith(origin + '/') else None
        return split and (name,) + split

def checkpoint_text(origin, size, root):
    return f'{origin}\n{size}\n{base64.b64encode(root).decode()}\n'

# ---------------------------------------------------------------------------------------------------------------------
# Key statements and what is trusted (section 19; section 22, Key statements).

class Statement:
    def __init__(self, text, origin):
        self.note = Note(text)
        lines = self.note.text.split('\n')
        need(len(lines) == 7 and lines[1] == 'sealog/key/v1', 'no key statement')
        need(lines[0] == origin, 'a key statement of another log')
        self.generation = decimal(lines[2], 'the generation')
        name, _, size = lines[3].partition(' ')
        split = split_stream(name)
        need(split and split[0] == ANCHOR, 'its fourth line is no place in the anchor stream')
        self.place = (split[1], decimal(size, 'its place'))  # an epoch of the anchor stream, a size
        self.key = Key(lines[4], ED25519)
        self.previous = None if lines[5] == '-' else Key(lines[5], ED25519)
        need(self.previous is None or self.previous.name == origin, 'its sixth line is no deployment key')
        first = self.place == (1, 0) and self.previous is None
        need(first if self.generation == 1 else self.generation > 1 and self.previous, 'its generation does not fit')
        self.name = self.key.name
        self.of_deployment = self.name == origin
        need(self.of_deployment or (self.name.startswith(origin + '/') and split_stream(self.name[len(origin) + 1:])),
             'it states a key of another log')

class Trust:
    """What the one given vkey vouches for: keys by name, each with its generation."""

    def __init__(self):
        self.keys = {}     # name -> [(Key, generation)]; generation None for a given stream key
        self.places = {}   # generation -> the place in the anchor stream from where on it signs
        self.only = None   # the name of the given key, where that is the key of one stream
        self.newest = None  # {vkey, generation} of the key that is taken for the one that signs now

    def signers(self, note, name):
        """[(key, generation)] of the trusted keys of `name` that signed; None where one of their signatures is wrong."""
        keys = self.keys.get(name, [])
        found = note.signers([key for key, _ in keys])
        return found and [pair for pair in keys if pair[0] in found]

    def end_of(self, generation):
        """The place where the next generation began; None where none replaced this one."""
        return None if generation is None else self.places.get(generation + 1)

    def silent_about(self, name):
        """The key of one stream tells nothing of who signs another."""
        return self.only not in (None, name)

    def current(self, pairs):
        return any(self.end_of(generation) is None for _, generation in pairs)

def read_trust(texts, given, origin, report):
    """Check all key statements from the given vkey on."""
    trust = Trust()
    statements = []
    for number, text in enumerate(texts):
        try:
            statements.append(Statement(text, origin))
        except Malformed as error:
            report.add('key', f'key statement {number}: {error}')
    order = [(not s.of_deployment, s.name, s.generation) for s in statements]
    if any(a >= b for a, b in zip(order, order[1:])):
        report.add('bundle', 'key statements are out of order, or one stands twice')
    if given.name != origin:  # the key of one stream is trusted alone
        trust.only = given.name
        trust.keys[given.name] = [(given, None)]
        trust.newest = {'vkey': given.vkey, 'generation': None}
        return trust

    deployment = {}
    for s in statements:
        if s.of_deployment and deployment.setdefault(s.generation, s) is not s:
            report.add('key', f'generation {s.generation} is stated twice')
    start = next((g for g, s in deployment.items() if s.key.vkey == given.vkey), None)
    if start is None:
        report.add('key', 'the given key is in no key statement of this bundle')
    good = set()
    for g, s in deployment.items():
        wanted = [s.key] + ([s.previous] if s.previous else [])
        signers = s.note.signers(wanted)
        if signers is None or any(key not in signers for key in wanted):
            report.add('signature', f'the statement of the deployment key, generation {g}, lacks a good signature')
        else:
            good.add(g)

    def follows(g):
        """Whether generation g is linked to the one before it, and not said to begin earlier."""
        before, after = deployment.get(g - 1), deployment.get(g)
        return before and after and {g - 1, g} <= good and after.previous.vkey == before.key.vkey and before.place <= after.place

    linked = {start} & good
    while linked and follows(max(linked) + 1):
        linked.add(max(linked) + 1)
    while linked and follows(min(linked)):
        linked.add(min(linked) - 1)
    for g in deployment:
        if g not in linked and g in good:
            report.add('key', f'the deployment key of generation {g} is not linked to the given key')
    for g in linked:
        trust.places[g] = deployment[g].place
    if linked:
        trust.newest = {'vkey': deployment[max(linked)].key.vkey, 'generation': max(linked)}

    for s in (s for s in statements if not s.of_deployment):
        which, d = f'the statement of {s.name}, generation {s.generation},', deployment.get(s.generation)
        if s.generation not in linked:
            report.add('key', f'{which} is not linked to the given key')
        elif not s.note.signers([d.key]):
            report.add('signature', f'{which} lacks a good signature')
        elif (s.place, s.previous and s.previous.vkey) != (d.place, d.previous and d.previous.vkey):
            report.add('signature', f'{which} contradicts that of its generation')
        elif any(generation == s.generation for _, generation in trust.keys.get(s.name, [])):
            report.add('signature', f'{which} is not the only one')
        else:
            trust.keys.setdefault(s.name, []).append((s.key, s.generation))
    return trust

# ---------------------------------------------------------------------------------------------------------------------
# The tar file (section 22, Tar). A header has one spelling: we write the one that is due and compare all 512 bytes.

_NAME = re.compile(b'[a-z0-9./-]{1,99}')
CERTIFICATES = 'certificates.ndjson'
FOLDER_FILES = ('checkpoint', 'range.json', 'entries', 'openings.ndjson', 'consistency.json', 'anchors.json')

def tar_header(name, size):
    header = bytearray(512)
    header[0:len(name)] = name
    header[100:108] = b'0000644\0'
    header[108:116] = header[116:124] = b'0000000\0'
    header[124:136] = b'%011o\0' % size
    header[136:148] = b'00000000000\0'
    header[148:156] = b' ' * 8
    header[156:157] = b'0'
    header[257:265] = b'ustar\x0000'
    header[148:156] = b'%06o\0 ' % sum(header)
    return bytes(header)

def read_tar(data):
    """[(name, content)] in order."""
    files, position = [], 0
    while True:
        header = data[position:position + 512]
        need(len(header) == 512, 'the tar ends too early')
        if header == bytes(512):
            break
        name = header[:100].split(b'\0')[0]
        need(_NAME.fullmatch(name), 'a malformed name in the tar')
        need(re.fullmatch(b'[0-7]{11}\0', header[124:136]), 'a malformed size in the tar')
        size = int(header[124:135], 8)
        need(header == tar_header(name, size), f'the tar header of {name.decode()} is not in its one spelling')
        padded = -(-size // 512) * 512
        content = data[position + 512:position + 512 + size]
        padding = data[position + 512 + size:position + 512 + padded]
        need(len(content) == size and padding == bytes(padded - size), f'the tar content of {name.decode()} is cut short or badly padded')
        files.append((name.decode(), content))
        need(len(files) <= 4 + len(FOLDER_FILES) * MAX_STREAMS, 'more files than a bundle may have')
        position += 512 + padded
    need(data[position:] == bytes(1024), 'the tar does not end in two zero blocks, or goes on behind them')
    return files

def expected_names(names):
    first = ['manifest.json', 'summary.txt', 'keys.json'] + ([CERTIFICATES] if names[3:4] == [CERTIFICATES] else [])
    folders, rest = divmod(len(names) - len(first), len(FOLDER_FILES))
    need(folders >= 1 and rest == 0, 'a file is missing, or there is one too many')
    return first + [f'{i}/{name}' for i in range(folders) for name in FOLDER_FILES]

def read_json_file(raw, what):
    need(len(raw) <= MAX_JSON, f'{what} has more than 64 MiB')
    try:
        return parse_json(raw)
    except Malformed as error:
        raise Malformed(f'{what}: {error}') from None

def read_manifest(raw, files):
    """The manifest; Malformed also where it names other files."""
    manifest = read_json_file(raw, 'manifest.json')
    members(manifest, ('bundle', 'files', 'origin', 'question'), what='manifest.json')
    need(type(manifest['bundle']) is int and manifest['bundle'] in (1, 2), 'manifest.json: bundle is not 1 or 2')
    need((manifest['bundle'] == 2) == (CERTIFICATES in dict(files)), f'{CERTIFICATES} is there in version 2, and in no other')
    need(isinstance(manifest['origin'], str) and _ORIGIN.fullmatch(manifest['origin']), 'manifest.json: a malformed origin')
    question = manifest['question']
    members(question, ('category', 'tenant'), ('from', 'to'), 'manifest.json: question')
    need(isinstance(question['tenant'], str) and _TENANT.fullmatch(question['tenant']), 'manifest.json: a malformed tenant')
    need(question['category'] in CATEGORIES, 'manifest.json: no category')
    for name in ('from', 'to'):
        need(name not in question or is_time(question[name]), f'manifest.json: {name} is no time')
    need(question.get('from', '0') <= question.get('to', '9999Z'), 'manifest.json: from is behind to')
    for item in array(manifest['files'], len(files), 'manifest.json: files'):
        members(item, ('bytes', 'name', 'sha256'), what='manifest.json: a file')
        integer(item['bytes'], 'manifest.json: bytes')
        hexadecimal(item['sha256'], 32, 'manifest.json: sha256')
    need([item['name'] for item in manifest['files']] == [name for name, _ in files], 'manifest.json names other files')
    return manifest

# ---------------------------------------------------------------------------------------------------------------------
# DER, as far as time stamps need it. A whole text is read at once, without recursion; every length must be definite
# and shortest, every element must fill its parent, and booleans, integers and bit strings have one spelling.

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID, ENUMERATED, SEQUENCE, SET = 1, 2, 3, 4, 5, 6, 10, 0x30, 0x31
UTC_TIME, GENERALIZED_TIME = 23, 24

class Der:
    """One element: tag, its whole bytes `raw`, its content `body`, and for constructed ones its `kids`."""

    def __init__(self, tag, raw, body):
        self.tag, self.raw, self.body, self.kids = tag, raw, body, []

def der_element(data, start, end):
    """The element at `start`, which must not reach behind `end`."""
    need(start + 2 <= end, 'DER that ends too early')
    tag, length, body = data[start], data[start + 1], start + 2
    need(tag & 31 != 31, 'a DER tag beyond 30')
    if length >= 0x80:
        count = length & 0x7f
        need(1 <= count <= 4 and body + count <= end, 'a DER length that is not definite')
        length = int.from_bytes(data[body:body + count], 'big')
        need(length >= 0x80 and length.bit_length() > 8 * (count - 1), 'a DER length that is not the shortest')
        body += count
    need(body + length <= end, 'DER that is cut short')
    return Der(tag, data[start:body + length], data[body:body + length])

def check_form(tag, body):
    """What DER demands of one element of a universal type, whatever it is a part of."""
    if tag & 0xc0:
        return
    need(bool(tag & 0x20) == (tag & 31 in (16, 17)), 'a string in pieces, or a list in one')
    need(tag, 'an end mark')
    if tag == BOOLEAN:
        need(body in (b'\0', b'\xff'), 'a boolean that is not DER')
    elif tag in (INTEGER, ENUMERATED):
        need(body, 'an empty integer')
        need(len(body) == 1 or not (body[0] == 0 and body[1] < 0x80 or body[0] == 0xff and body[1] >= 0x80), 'an integer that is not DER')
    elif tag == BIT_STRING:
        need(body and body[0] < 8 and (len(body) > 1 or body == b'\0'), 'a malformed bit string')
        need(len(body) == 1 or body[-1] & ((1 << body[0]) - 1) == 0, 'a bit string whose unused bits are not zero')
    elif tag == NULL:
        need(not body, 'a null that is not DER')
    elif tag == OID:
        need(1 <= len(body) <= 64 and body[-1] < 0x80, 'a malformed object identifier')
        need(all(byte != 0x80 or before >= 0x80 for before, byte in zip(b'\0' + body, body)), 'an object identifier that is not DER')

def read_der(data, what):
    """The one element that `data` is. The order within a set is taken as it stands."""
    try:
        need(len(data) <= MAX_DER, f'more than {MAX_DER} bytes')
        root = der_element(data, 0, len(data))
        need(len(root.raw) == len(data), 'something behind the DER')
        level, count = [root], 0
        for depth in range(MAX_DER_DEPTH + 1):
            following = []
            for element in level:
                check_form(element.tag, element.body)
                count += 1
                position = 0
                while element.tag & 0x20 and position < len(element.body):
                    need(depth < MAX_DER_DEPTH, 'DER that is nested too deeply')
                    kid = der_element(element.body, position, len(element.body))
                    position += len(kid.raw)
                    element.kids.append(kid)
                following += element.kids
            need(count + len(following) <= MAX_DER_ELEMENTS, 'DER with too many elements')
            level = following
        return root
    except Malformed as error:
        raise Malformed(f'{what}: {error}') from None

class Fields:
    """The kids of a sequence, taken one after the other; `done` refuses what no RFC names."""

    def __init__(self, element, tag, what):
        need(element.tag == tag, f'{what} is not what it must be')
        self.kids, self.what, self.next = element.kids, what, 0

    def peek(self, *tags):
        return self.next < len(self.kids) and self.kids[self.next].tag in tags

    def take(self, *tags):
        need(self.peek(*tags), f'{self.what}: a field is missing or of another type')
        self.next += 1
        return self.kids[self.next - 1]

    def maybe(self, *tags):
        return self.take(*tags) if self.peek(*tags) else None

    def done(self):
        need(self.next == len(self.kids), f'{self.what}: a field that is not specified')

def explicit(element, what):
    need(len(element.kids) == 1, f'{what}: not one element')
    return element.kids[0]

def oid_text(element):
    need(element.tag == OID, 'no object identifier')
    arcs, value = [], 0
    for byte in element.body:
        value = value << 7 | byte & 0x7f
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    top = min(arcs[0] // 40, 2)
    return '.'.join(map(str, [top, arcs[0] - 40 * top] + arcs[1:]))

def der_time(element):
    """`YYYYMMDDhhmmss` and fraction digits: text that compares as the times do."""
    text = element.body.decode('latin-1')
    if element.tag == UTC_TIME:
        need(re.fullmatch('[0-9]{12}Z', text), 'a malformed time')
        text = ('19' if text >= '5' else '20') + text
    need(re.fullmatch(r'[0-9]{14}(\.[0-9]*[1-9])?Z', text), 'a malformed time')
    try:
        datetime.datetime(*(int(text[a:b]) for a, b in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14))))
    except ValueError:
        raise Malformed('a time that does not exist') from None
    return text[:-1].replace('.', '')

# ---------------------------------------------------------------------------------------------------------------------
# Algorithms, certificates and revocation lists (section 20, "A time stamp holds").

SHA1 = '1.3.14.3.2.26'
HASHES = {'2.16.840.1.101.3.4.2.1': 'sha256', '2.16.840.1.101.3.4.2.2': 'sha384', '2.16.840.1.101.3.4.2.3': 'sha512'}
RSA, PSS = '1.2.840.113549.1.1.1', '1.2.840.113549.1.1.10'
RSA_WITH = {'1.2.840.113549.1.1.11': 'sha256', '1.2.840.113549.1.1.12': 'sha384', '1.2.840.113549.1.1.13': 'sha512'}
ECDSA_WITH = {'1.2.840.10045.4.3.2': 'sha256', '1.2.840.10045.4.3.3': 'sha384', '1.2.840.10045.4.3.4': 'sha512'}
EC, CURVES = '1.2.840.10045.2.1', ('1.2.840.10045.3.1.7', '1.3.132.0.34', '1.3.132.0.35')
TIME_STAMPING, ANY_PURPOSE = '1.3.6.1.5.5.7.3.8', '2.5.29.37.0'
BASIC_CONSTRAINTS, KEY_USAGE, EXT_KEY_USAGE, POLICIES = '2.5.29.19', '2.5.29.15', '2.5.29.37', '2.5.29.32'
CRL_NUMBER, CRL_POINT, CRL_REASON, CRL_INVALIDITY = '2.5.29.20', '2.5.29.28', '2.5.29.21', '2.5.29.24'
SUBJECT_KEY_ID = '2.5.29.14'
DIGITAL_SIGNATURE, NON_REPUDIATION, KEY_CERT_SIGN, CRL_SIGN = 0, 1, 5, 6
ORDERLY_REASONS = (b'\0', b'\3', b'\4', b'\5')  # unspecified, affiliationChanged, superseded, cessationOfOperation

def algorithm(element):
    """(object identifier, parameters or None) of an AlgorithmIdentifier."""
    fields = Fields(element, SEQUENCE, 'an algorithm')
    name, parameters = oid_text(fields.take(OID)), fields.kids[1] if len(fields.kids) > 1 else None
    need(len(fields.kids) <= 2, 'an algorithm with too many fields')
    return name, parameters

def hash_algorithm(element):
    name, parameters = algorithm(element)
    need(parameters is None or parameters.tag == NULL, 'a hash with parameters')
    need(name in HASHES, 'a hash that is none of SHA-256, SHA-384, SHA-512')
    return HASHES[name]

def signature_scheme(element, digest=None):
    """(hash, family, openssl options); `digest` is the hash that a SignerInfo names beside."""
    name, parameters = algorithm(element)
    if name == PSS:
        need(parameters is not None, 'PSS without parameters')
        fields = Fields(parameters, SEQUENCE, 'the parameters of PSS')
        used = hash_algorithm(explicit(fields.take(0xa0), 'PSS'))
        mask = Fields(explicit(fields.take(0xa1), 'PSS'), SEQUENCE, 'the mask of PSS')
        need(oid_text(mask.take(OID)) == '1.2.840.113549.1.1.8', 'PSS without MGF1')
        need(hash_algorithm(mask.take(SEQUENCE)) == used, 'PSS with two hashes')
        salt = fields.maybe(0xa2)
        salt = 20 if salt is None else int.from_bytes(explicit(salt, 'PSS').body, 'big')
        need(salt * 8 == int(used[3:]), 'PSS with a salt of another length than its hash')
        fields.done()
        options = ['-sigopt', 'rsa_padding_mode:pss', '-sigopt', f'rsa_pss_saltlen:{salt}', '-sigopt', f'rsa_mgf1_md:{used}']
        scheme = used, RSA, options
    else:
        need(parameters is None or (parameters.tag == NULL and name not in ECDSA_WITH), 'a signature algorithm with parameters')
        if name == RSA and digest:
            scheme = digest, RSA, []
        elif name in RSA_WITH:
            scheme = RSA_WITH[name], RSA, []
        else:
            need(name in ECDSA_WITH, 'a signature that is neither RSA nor ECDSA with SHA-2')
            scheme = ECDSA_WITH[name], EC, []
    need(digest in (None, scheme[0]), 'a signature with another hash than its digest')
    return scheme

def check_key(spki):
    """RSA of 2048 to 8192 bits, or ECDSA on one of three curves: which family it is."""
    fields = Fields(spki, SEQUENCE, 'a public key')
    name, parameters = algorithm(fields.take(SEQUENCE))
    bits = fields.take(BIT_STRING).body
    fields.done()
    if name == EC:
        need(parameters is not None and oid_text(parameters) in CURVES, 'a key on another curve')
        return EC
    need(name == RSA, 'a key that is neither RSA nor ECDSA')
    modulus = Fields(read_der(bits[1:], 'an RSA key'), SEQUENCE, 'an RSA key').take(INTEGER).body
    need(modulus[0] < 0x80 and 2048 <= int.from_bytes(modulus, 'big').bit_length() <= 8192, 'an RSA key of another length')
    return RSA

def signature_holds(spki, scheme, message, signature):
    digest, family, options = scheme
    if check_key(spki) != family:
        return False
    return openssl(['dgst', '-' + digest, '-verify', 'key.pem', '-signature', 'signature'] + options + ['message'],
                   {'key.pem': pem(b'PUBLIC KEY', spki.raw), 'signature': signature, 'message': message})

def read_extensions(element):
    """Object identifier -> (critical, the DER inside). `critical FALSE` may be spelled out, as some authorities do."""
    found = {}
    need(element.tag == SEQUENCE and element.kids, 'extensions that are empty')
    for item in element.kids:
        fields = Fields(item, SEQUENCE, 'an extension')
        name, critical = oid_text(fields.take(OID)), fields.maybe(BOOLEAN)
        need(name not in found, 'an extension that stands twice')
        found[name] = (critical is not None and critical.body == b'\xff', fields.take(OCTET_STRING).body)
        fields.done()
    return found

class Signed:
    """A certificate or a revocation list: what is signed, the algorithm, the signature."""

    def __init__(self, raw, what):
        self.raw = raw
        outer = Fields(read_der(raw, what), SEQUENCE, what)
        self.tbs, self.algorithm, bits = outer.take(SEQUENCE), outer.take(SEQUENCE), outer.take(BIT_STRING).body
        outer.done()
        need(bits[0] == 0, 'a malformed signature')
        self.signature = bits[1:]
        self.fields = Fields(self.tbs, SEQUENCE, what)

class Certificate(Signed):
    def __init__(self, raw):
        super().__init__(raw, 'a certificate')
        fields = self.fields
        version = fields.maybe(0xa0)
        self.is_version_3 = version is not None and explicit(version, 'the version').body == b'\2'
        self.serial = fields.take(INTEGER).body
        need(fields.take(SEQUENCE).raw == self.algorithm.raw, 'a certificate with two algorithms')
        self.issuer = fields.take(SEQUENCE).raw
        validity = Fields(fields.take(SEQUENCE), SEQUENCE, 'a validity')
        self.begin, self.end = (der_time(validity.take(UTC_TIME, GENERALIZED_TIME)) for _ in range(2))
        validity.done()
        self.subject, self.spki = fields.take(SEQUENCE).raw, fields.take(SEQUENCE)
        fields.maybe(0x81)
        fields.maybe(0x82)
        extensions = fields.maybe(0xa3)
        self.extensions = read_extensions(explicit(extensions, 'the extensions')) if extensions else {}
        fields.done()
        key_id = self.inside(SUBJECT_KEY_ID)
        need(key_id is None or key_id.tag == OCTET_STRING, 'a malformed key identifier')
        self.subject_key_id = key_id and key_id.body

    def inside(self, name):
        """What stands in an extension; None where it is not there."""
        return read_der(self.extensions[name][1], 'an extension') if name in self.extensions else None

    def uses(self):
        """The bits of the key usage; None where all uses are allowed. The ninth, decipherOnly, is not looked at."""
        bits = self.inside(KEY_USAGE)
        need(bits is None or bits.tag == BIT_STRING, 'a malformed key usage')
        return bits and {i for i in range(8) if (bits.body + b'\0')[1] >> 7 - i & 1}

    def may(self, use):
        uses = self.uses()
        return uses is None or use in uses

    def purposes(self):
        purposes = self.inside(EXT_KEY_USAGE)
        need(purposes is None or purposes.tag == SEQUENCE, 'a malformed extended key usage')
        return purposes and [oid_text(kid) for kid in purposes.kids]

    def sound(self, time):
        """What every certificate of a chain must be."""
        allowed = (BASIC_CONSTRAINTS, KEY_USAGE, EXT_KEY_USAGE, POLICIES)
        return (self.is_version_3 and self.begin <= time[:14] and time <= self.end
                and all(name in allowed for name, (critical, _) in self.extensions.items() if critical))

    def may_stamp(self):
        """RFC 3161 section 2.3, and what key usages go with it."""
        uses = self.uses()
        return (self.purposes() == [TIME_STAMPING] and self.extensions[EXT_KEY_USAGE][0]
                and (uses is None or uses and uses <= {DIGITAL_SIGNATURE, NON_REPUDIATION}))

    def may_issue(self, below):
        """`below`: how many certificates of authorities that are not self-issued stand below it in the chain."""
        constraints = self.inside(BASIC_CONSTRAINTS)
        if constraints is None:
            return False
        fields = Fields(constraints, SEQUENCE, 'basic constraints')
        ca, length = fields.maybe(BOOLEAN), fields.maybe(INTEGER)
        fields.done()
        purposes = self.purposes()
        return (ca is not None and ca.body == b'\xff' and self.may(KEY_CERT_SIGN)
                and (purposes is None or TIME_STAMPING in purposes or ANY_PURPOSE in purposes)
                and (length is None or int.from_bytes(length.body, 'big', signed=True) >= below))

    def signed(self, other):
        """Whether this certificate's key signed the other certificate, or the list."""
        try:
            return signature_holds(self.spki, signature_scheme(other.algorithm), other.tbs.raw, other.signature)
        except Malformed:
            return False

class RevocationList(Signed):
    def __init__(self, raw):
        super().__init__(raw, 'a revocation list')
        fields = self.fields
        fields.maybe(INTEGER)
        need(fields.take(SEQUENCE).raw == self.algorithm.raw, 'a revocation list with two algorithms')
        self.issuer = fields.take(SEQUENCE).raw
        der_time(fields.take(UTC_TIME, GENERALIZED_TIME))
        if fields.peek(UTC_TIME, GENERALIZED_TIME):
            der_time(fields.take(UTC_TIME, GENERALIZED_TIME))
        revoked, extensions = fields.maybe(SEQUENCE), fields.maybe(0xa0)
        fields.done()
        self.usable = True  # no critical parts that we do not know
        for name, (critical, inside) in (read_extensions(explicit(extensions, 'extensions')) if extensions else {}).items():
            if name == CRL_POINT:
                self.usable &= all(kid.tag != 0x84 for kid in read_der(inside, 'a distribution point').kids)  # [4] indirectCRL
            elif critical and name != CRL_NUMBER:
                self.usable = False
        self.entries = []  # serial, date, extensions
        for item in revoked.kids if revoked else []:
            entry = Fields(item, SEQUENCE, 'a revoked certificate')
            serial, since = entry.take(INTEGER).body, der_time(entry.take(UTC_TIME, GENERALIZED_TIME))
            extensions = entry.maybe(SEQUENCE)
            entry.done()
            extensions = read_extensions(extensions) if extensions else {}
            self.usable &= not any(critical for critical, _ in extensions.values())
            self.entries.append((serial, since, extensions))

    def takes_away(self, certificate, issuer, time):
        """Whether this is a list of the issuer, and a stamp of that time by the certificate is lost with it."""
        if not (self.usable and self.issuer == issuer.subject and issuer.may(CRL_SIGN) and issuer.signed(self)):
            return False
        for serial, since, extensions in self.entries:
            if serial != certificate.serial:
                continue
            reason = read_der(extensions[CRL_REASON][1], 'a reason').body if CRL_REASON in extensions else None
            if CRL_INVALIDITY in extensions:
                since = min(since, der_time(read_der(extensions[CRL_INVALIDITY][1], 'an invalidity date')))
            if reason not in ORDERLY_REASONS or since <= time:
                return True
        return False

# ---------------------------------------------------------------------------------------------------------------------
# Time-stamp tokens (RFC 3161, RFC 5652, RFC 5816; section 20).

SIGNED_DATA, TST_INFO = '1.2.840.113549.1.7.2', '1.2.840.113549.1.9.16.1.4'
CONTENT_TYPE, MESSAGE_DIGEST = '1.2.840.113549.1.9.3', '1.2.840.113549.1.9.4'
ESS_CERT_ID, ESS_CERT_ID_V2 = '1.2.840.113549.1.9.16.2.12', '1.2.840.113549.1.9.16.2.47'

def read_tst_info(raw, text):
    """genTime of a TSTInfo whose imprint is that of `text`."""
    fields = Fields(read_der(raw, 'the TSTInfo'), SEQUENCE, 'the TSTInfo')
    need(fields.take(INTEGER).body == b'\1', 'a TSTInfo of another version')
    fields.take(OID)
    imprint = Fields(fields.take(SEQUENCE), SEQUENCE, 'the imprint')
    need(hash_algorithm(imprint.take(SEQUENCE)) == 'sha256', 'an imprint that is not SHA-256')
    need(imprint.take(OCTET_STRING).body == sha256(text), 'the time stamp is of something else')
    imprint.done()
    fields.take(INTEGER)
    time = der_time(fields.take(GENERALIZED_TIME))
    accuracy = fields.maybe(SEQUENCE)
    need(accuracy is None or [kid.tag for kid in accuracy.kids] in
         [[], [2], [0x80], [0x81], [2, 0x80], [2, 0x81], [0x80, 0x81], [2, 0x80, 0x81]], 'a malformed accuracy')
    fields.maybe(BOOLEAN)
    fields.maybe(INTEGER)
    fields.maybe(0xa0)
    extensions = fields.maybe(0xa1)
    fields.done()
    if extensions:
        extensions.tag = SEQUENCE
        need(not any(critical for critical, _ in read_extensions(extensions).values()), 'a TSTInfo with a critical extension')
    return time

def check_certificate_id(attribute, certificate, second):
    """The first ESSCertID (or ESSCertIDv2) of the attribute is that of the signer's certificate."""
    fields = Fields(attribute, SEQUENCE, 'a signing certificate')
    identifiers = fields.take(SEQUENCE).kids
    fields.maybe(SEQUENCE)
    fields.done()
    need(identifiers, 'a signing certificate without identifiers')
    first = Fields(identifiers[0], SEQUENCE, 'a certificate identifier')
    digest = 'sha256' if second else 'sha1'
    if second and first.peek(SEQUENCE):
        digest = hash_algorithm(first.take(SEQUENCE))
    need(first.take(OCTET_STRING).body == hashlib.new(digest, certificate.raw).digest(), 'the attributes name another certificate')
    issuer_serial = first.maybe(SEQUENCE)
    first.done()
    if issuer_serial:
        names = Fields(issuer_serial, SEQUENCE, 'an issuer and serial')
        general, serial = names.take(SEQUENCE), names.take(INTEGER)
        names.done()
        need(len(general.kids) == 1 and general.kids[0].tag == 0xa4
             and explicit(general.kids[0], 'a name').raw == certificate.issuer and serial.body == certificate.serial,
             'the attributes name another issuer or serial')

def check_token(raw, text, certificates, lists, trusted):
    """True where the token counts, False where it is passed over; Malformed where it is wrong evidence."""
    content = Fields(read_der(raw, 'the token'), SEQUENCE, 'the token')
    need(oid_text(content.take(OID)) == SIGNED_DATA, 'the token is no signed data')
    signed = Fields(explicit(content.take(0xa0), 'the token'), SEQUENCE, 'the signed data')
    content.done()
    need(signed.take(INTEGER).body == b'\3', 'signed data of another version')
    digests = [hash_algorithm(kid) for kid in signed.take(SET).kids]
    inner = Fields(signed.take(SEQUENCE), SEQUENCE, 'the content')
    need(oid_text(inner.take(OID)) == TST_INFO, 'the content is no TSTInfo')
    info = explicit(inner.take(0xa0), 'the content')
    need(info.tag == OCTET_STRING, 'the content is no octet string')
    inner.done()
    inside, inside_lists = signed.maybe(0xa0), signed.maybe(0xa1)
    signers = signed.take(SET).kids
    signed.done()
    need(len(signers) == 1, 'not one signer')
    time = read_tst_info(info.body, text)
    certificates = [kid.raw for kid in (inside.kids if inside else [])] + certificates
    lists = [kid.raw for kid in (inside_lists.kids if inside_lists else [])] + lists
    need(len(certificates) <= MAX_CERTIFICATES and len(lists) <= MAX_LISTS, 'too many certificates or revocation lists')
    pool = {certificate.raw: certificate for certificate in trusted + readable(Certificate, certificates)}
    revocations = readable(RevocationList, lists)

    signer = Fields(signers[0], SEQUENCE, 'the signer')
    version = signer.take(INTEGER).body
    if signer.peek(SEQUENCE):
        names = Fields(signer.take(SEQUENCE), SEQUENCE, 'an issuer and serial')
        issuer, serial = names.take(SEQUENCE).raw, names.take(INTEGER).body
        names.done()
        found = [c for c in pool.values() if c.issuer == issuer and c.serial == serial]
        need(version == b'\1', 'a signer of another version')
    else:
        key_id = signer.take(0x80).body
        found = [c for c in pool.values() if c.subject_key_id == key_id]
        need(version == b'\3', 'a signer of another version')
    digest = hash_algorithm(signer.take(SEQUENCE))
    need(digests == [digest], 'another digest than the signed data name')
    attributes = signer.take(0xa0)
    scheme = signature_scheme(signer.take(SEQUENCE), digest)
    signature = signer.take(OCTET_STRING).body
    signer.done()  # so there are no unsigned attributes
    as_signed = b'\x31' + attributes.raw[1:]
    values = {}
    for item in attributes.kids:
        fields = Fields(item, SEQUENCE, 'an attribute')
        name, value = oid_text(fields.take(OID)), explicit(fields.take(SET), 'an attribute')
        fields.done()
        need(name not in values, 'an attribute that stands twice')
        values[name] = value
    need(CONTENT_TYPE in values and oid_text(values[CONTENT_TYPE]) == TST_INFO, 'the content type is not signed')
    need(MESSAGE_DIGEST in values and values[MESSAGE_DIGEST].tag == OCTET_STRING
         and values[MESSAGE_DIGEST].body == hashlib.new(digest, info.body).digest(), 'the digest is not that of the content')
    need(ESS_CERT_ID in values or ESS_CERT_ID_V2 in values, 'the signing certificate is not signed')
    need(found, 'the certificate that signed the token is not there')
    certificate = choose_signer(found, values)
    need(signature_holds(certificate.spki, scheme, as_signed, signature), 'the signature of the token is wrong')
    need(certificate.may_stamp(), 'the certificate may not sign time stamps')
    need(certificate.sound(time), 'the certificate was not valid at that time, or has an unknown critical extension')

    def sound(child, issuer, below):
        return issuer.sound(time) and issuer.may_issue(below)

    def unrevoked(child, issuer, below):
        return sound(child, issuer, below) and not any(item.takes_away(child, issuer, time) for item in revocations)

    if reaches(certificate, pool, trusted, unrevoked):
        return True
    need(not reaches(certificate, pool, trusted, sound), 'a certificate of the chain was revoked')
    need(not reaches(certificate, pool, trusted, lambda child, issuer, below: True), 'the chain to the trusted certificate is unsound')
    return False

def readable(kind, items):
    """What is malformed is as if it were not there: nobody vouches for which certificates and lists are there."""
    found = []
    for raw in items:
        try:
            found.append(kind(raw))
        except Malformed:
            pass
    return found

def choose_signer(found, values):
    """Of the certificates that the signer names (in practice one), the one that the signed attributes name."""
    problem = None
    for certificate in found:
        try:
            for name in (ESS_CERT_ID, ESS_CERT_ID_V2):
                if name in values:
                    check_certificate_id(values[name], certificate, name == ESS_CERT_ID_V2)
            return certificate
        except Malformed as error:
            problem = error
    raise problem

def reaches(start, pool, trusted, accept):
    """Whether issuers lead from `start` to a trusted certificate in at most 8 certificates. Breadth first: each
    certificate is met once, on its shortest way. The search ends a way at its first trusted certificate."""
    anchors = {certificate.raw for certificate in trusted}
    level, seen, tries = [(start, 0)], {start.raw}, 0  # with each, how many authorities stand below it, self-issued ones left out
    for _ in range(MAX_CHAIN):
        following = []
        for child, below in level:
            if child.raw in anchors:
                return True
            below_issuer = below + (child is not start and child.issuer != child.subject)
            for issuer in pool.values():
                if issuer.raw in seen or issuer.subject != child.issuer:
                    continue
                tries += 1
                need(tries <= MAX_TRIES, 'the certificates branch too often')
                try:
                    good = issuer.signed(child) and accept(child, issuer, below_issuer)
                except Malformed:  # an extension that can not be read
                    good = False
                if good:
                    seen.add(issuer.raw)
                    following.append((issuer, below_issuer))
        level = following
    return False

# ---------------------------------------------------------------------------------------------------------------------
# The checks (section 22).

class Report:
    def __init__(self):
        self.findings, self.unchecked, self.streams, self.key = [], [], [], None

    def add(self, kind, detail, stream=None, seq=None):
        self.findings.append({'stream': stream, 'seq': seq, 'kind': kind, 'detail': detail[:500]})

    def verdict(self):
        if self.findings:
            return 'tampered'
        if self.unchecked:
            return 'incomplete'
        return 'not_provable' if any(stream['unproven'] for stream in self.streams) else 'intact'

class Given:
    """What the verifier was given besides the bundle."""

    def __init__(self, key, checkpoints, authorities, witnesses):
        self.key, self.checkpoints, self.authorities, self.witnesses = key, checkpoints, authorities, witnesses
        self.kept = []         # (Checkpoint, name, stream of the first epoch, epoch) that passed their signatures
        self.kept_anchor = []  # those of the anchor stream

class Folder:
    """One epoch: what its files say, as far as it could be read."""

    def __init__(self):
        self.name = self.epoch = self.checkpoint = None
        self.first = self.end = 0
        self.records, self.valid = [], []   # raw, and what read_record made of it (None where malformed)
        self.consistency, self.anchors = [], []
        self.read = set()        # which of the functions that read its files succeeded
        self.roots = {}          # size -> root: of the checkpoint and the consistency items
        self.range_roots = {}    # size -> root over the range up to there, for the sizes of kept checkpoints
        self.tree_holds = self.malformed = False
        self.sound_anchors = []  # (leaf size, tick seq, Checkpoint, Tick epoch, counts)
        self.pinned_to = 0

def verify_bundle(data, given, report):
    try:
        need(len(data) <= MAX_BUNDLE, 'a bundle of more than 2^31 bytes')
        files = read_tar(data)
        names = [name for name, _ in files]
        need(names == expected_names(names), 'other files than a bundle has, or in another order')
        manifest = read_manifest(files[0][1], files[1:])
    except Malformed as error:
        report.add('bundle', str(error))
        return
    for item, (name, content) in zip(manifest['files'], files[1:]):
        if item['bytes'] != len(content) or item['sha256'] != sha256(content).hex():
            report.add('bundle', f'{name} has not the length and hash that the manifest says')
    files, origin, question = dict(files), manifest['origin'], manifest['question']
    base = f"{question['tenant']}/{question['category']}"
    trust = check_keys(files['keys.json'], given.key, origin, report)
    report.key = trust.newest
    check_kept_signatures(given, origin, base, trust, report)

    certified = read_certificates(files.get(CERTIFICATES, b''), origin, question['tenant'], trust, report)

    folders, items, unknown = [], 0, False  # items of evidence; whether nobody can say which stream some folder is of
    readable = True
    for number in range((len(files) - 3 - (CERTIFICATES in files)) // len(FOLDER_FILES)):
        contents = {name: files[f'{number}/{name}'] for name in FOLDER_FILES}
        folder = Folder()
        try:
            read_checkpoint(contents, folder, origin, base, folders[-1].epoch if folders else 0)
        except Malformed as error:
            report.add('bundle', f'{number}/: {error}')  # and nothing more about this folder
            readable, unknown = False, True
            continue
        folders.append(folder)
        for read in (read_range, read_entries, read_openings, read_consistency, read_anchors):
            try:
                read(contents, folder)
                folder.read.add(read)
            except Malformed as error:
                report.add('bundle', f'{number}/: {error}', folder.name)
                readable = False
        if {read_range, read_entries} <= folder.read:
            check_records(folder, report)
            if read_openings in folder.read:
                check_openings(folder, certified, report)
            check_tree(folder, {kept.size for kept, name, _, _ in given.kept if name == folder.name}, report)
            check_completeness(folder, question, report)
        if read_consistency in folder.read:
            check_consistency(folder, report)
        if read_anchors in folder.read:
            items += sum(len(item['evidence']) for item in folder.anchors)
        if items > MAX_ALL_EVIDENCE:
            report.add('bundle', f'{number}/: more than {MAX_ALL_EVIDENCE} items of evidence up to here', folder.name)
        elif {read_consistency, read_anchors} <= folder.read:
            check_anchors(folder, origin, trust, given, report)
        check_checkpoint_signature(folder, trust, given, report)
    if readable:
        check_summary(files['summary.txt'], folders, manifest, report)
        epochs = [folder.epoch for folder in folders]
        if epochs != list(range(1, len(epochs) + 1)):
            report.unchecked.append(f'the bundle has the epochs {", ".join(map(str, epochs))} of {base}: nothing shows that '
                                    'the others have no entries of the time')
    check_kept(given, folders, unknown, report)
    for folder in folders:
        report.streams.append(coverage(folder, question))

def check_keys(raw, key, origin, report):
    if key.name != origin and not (key.name.startswith(origin + '/') and split_stream(key.name[len(origin) + 1:])):
        report.add('key', 'the given key is a key of another log')
        return Trust()
    try:
        texts = array(read_json_file(raw, 'keys.json'), MAX_STATEMENTS, 'keys.json')
        for text in texts:
            string(text, 'keys.json: a key statement')
    except Malformed as error:
        report.add('bundle', str(error))
        texts = []
    return read_trust(texts, key, origin, report)

def check_kept_signatures(given, origin, base, trust, report):
    for number, text in enumerate(given.checkpoints):
        try:
            kept = Checkpoint(text)
        except Malformed as error:
            report.add('signature', f'kept checkpoint {number}: {error}')
            continue
        place = kept.stream(origin)
        if not place or place[1] not in (base, ANCHOR):
            report.unchecked.append(f'a kept checkpoint is of {kept.origin}, which this bundle does not show')
        elif place[1] == ANCHOR and trust.only:
            pass  # nobody can say who signs the anchor stream
        elif trust.silent_about(kept.origin):
            report.unchecked.append(f'a kept checkpoint is of {place[0]}, and the given key is that of another stream')
        elif not trust.signers(kept, kept.origin):
            report.add('signature', 'a kept checkpoint is not signed by a trusted key', place[0])
        else:
            (given.kept if place[1] == base else given.kept_anchor).append((kept,) + place)

# --- Form of one folder ---

def read_checkpoint(files, folder, origin, base, last_epoch):
    try:
        folder.checkpoint = Checkpoint(files['checkpoint'].decode('utf-8'))
    except UnicodeDecodeError:
        raise Malformed('checkpoint: not UTF-8') from None
    place = folder.checkpoint.stream(origin)
    need(place and place[1] == base, 'checkpoint: of another stream')
    folder.name, _, folder.epoch = place
    need(folder.epoch > last_epoch, 'checkpoint: its epoch is not later than that of the folder before')
    need(folder.checkpoint.size >= 1, 'checkpoint: of no entries')
    folder.roots = {folder.checkpoint.size: folder.checkpoint.root}

def read_range(files, folder):
    item = read_json_file(files['range.json'], 'range.json')
    members(item, ('end', 'first', 'left', 'right'), what='range.json')
    first, end = integer(item['first'], 'first'), integer(item['end'], 'end')
    need(first <= end <= folder.checkpoint.size, 'range.json: not first <= end <= size')
    folder.tree = Tree(first, hashes(item['left'], 'left'))
    levels, right = right_levels(end, folder.checkpoint.size), hashes(item['right'], 'right', MAX_RIGHT)
    need(len(levels) == len(right), 'range.json: another number of hashes in right')
    folder.right, folder.first, folder.end = list(zip(levels, right)), first, end

def read_entries(files, folder):
    records = split_entries(files['entries'])
    need(read_range not in folder.read or len(records) == folder.end - folder.first, 'entries: another number of records than range.json says')
    folder.records = records

def read_openings(files, folder):
    raw = files['openings.ndjson']
    need(not raw or raw.endswith(b'\n'), 'openings.ndjson: the last line is not ended')
    folder.openings = [read_json_file(line, 'a line of openings.ndjson') for line in raw.split(b'\n')[:-1]]
    for opening in folder.openings:
        check_opening_form(opening)
    if {read_range, read_entries} <= folder.read:
        need([opening['seq'] for opening in folder.openings] == list(range(folder.first, folder.end)),
             'openings.ndjson: not one line for each entry, in order')

def read_consistency(files, folder):
    folder.consistency = array(read_json_file(files['consistency.json'], 'consistency.json'), MAX_CONSISTENCY, 'consistency.json')
    for item in folder.consistency:
        members(item, ('from', 'path', 'root'), what='consistency.json: an item')
        integer(item['from'], 'from')
        item['path'], item['root'] = hashes(item['path'], 'path'), hexadecimal(item['root'], 32, 'root')
    ascending([item['from'] for item in folder.consistency], 'consistency.json: items')

def read_anchors(files, folder):
    folder.anchors = array(read_json_file(files['anchors.json'], 'anchors.json'), MAX_ANCHORS, 'anchors.json')
    for item in folder.anchors:
        check_anchor_form(item)

def check_opening_form(opening):
    members(opening, ('parts', 'seq'), what='an opening')
    integer(opening['seq'], 'seq')
    check_parts_form(opening['parts'])

def check_parts_form(parts):
    members(parts, (), PARTS, 'parts of an opening')
    for part in parts.values():
        need(isinstance(part, dict), 'a part is no object')
        if 'commitment' in part or 'state' in part:
            members(part, ('commitment', 'state'), what='a closed part')
            hexadecimal(part['commitment'], 32, 'commitment')
            need(part['state'] in ('erased', 'withheld'), 'a part in an unknown state')
        else:
            members(part, ('salt', 'value'), what='an open part')
            hexadecimal(part['salt'], 16, 'salt')

def check_anchor_form(item):
    members(item, ('checkpoint', 'evidence', 'leaf', 'tick'), what='an anchor')
    string(item['checkpoint'], 'checkpoint')
    members(item['leaf'], ('blind', 'path', 'size'), what='a leaf')
    hexadecimal(item['leaf']['blind'], 16, 'blind')
    integer(item['leaf']['size'], 'the size of a leaf')
    for step in array(item['leaf']['path'], MAX_PATH, 'the path of a leaf'):
        need(isinstance(step, dict) and len(step) == 1 and next(iter(step)) in ('left', 'right'), 'a malformed step')
        hexadecimal(next(iter(step.values())), 32, 'a step')
    members(item['tick'], ('path', 'record', 'seq'), what='a tick')
    hashes(item['tick']['path'], 'the path of a tick')
    string(item['tick']['record'], 'the record of a tick')
    integer(item['tick']['seq'], 'the seq of a tick')
    for evidence in array(item['evidence'], MAX_EVIDENCE, 'evidence'):
        need(isinstance(evidence, dict) and evidence.get('kind') in ('rfc3161', 'witness'), 'evidence of no known kind')
        if evidence['kind'] == 'witness':
            members(evidence, ('kind', 'line', 'name'), what='a witness')
            string(evidence['line'], 'line')
        else:
            members(evidence, ('certificates', 'crls', 'kind', 'name', 'token'), what='a time stamp')
            need(len(base64_bytes(evidence['token'], 'a token')) <= MAX_DER, 'a token that is too long')
            for name in ('certificates', 'crls'):
                for text in array(evidence[name], MAX_BESIDE, name):
                    need(len(base64_bytes(text, name)) <= MAX_DER, f'{name}: one that is too long')
                ascending(evidence[name], name)
        string(evidence['name'], 'name')
    ascending([utf16(write_json(evidence).decode()) for evidence in item['evidence']], 'items of evidence')

# --- Records, openings, tree, completeness ---

def check_records(folder, report):
    """Form, place, links, stamps. Of what is no record nothing else is told."""
    last, before = None, None
    for seq, raw in enumerate(folder.records, folder.first):
        record, previous = None, ZEROS if seq == 0 else before
        before = leaf_hash(raw).hex()
        try:
            record = read_record(raw)
        except Malformed as error:
            report.add('record', str(error), folder.name, seq)
            folder.malformed = True
        folder.valid.append(record)
        if not record:
            continue
        if (record['stream'], record['seq']) != (folder.name, seq):
            report.add('record', 'it stands in another place than it says', folder.name, seq)
        if previous is not None and record['previous'] != previous:
            report.add('link', 'it does not name the hash of the entry before', folder.name, seq)
        until = record.get('retainUntil', '~')  # absent is highest
        if last and (record['recordedAt'] < last['recordedAt'] or until < last.get('retainUntil', '~')):
            report.add('stamp', 'recordedAt or retainUntil goes back', folder.name, seq)
        elif until < record['recordedAt']:
            report.add('stamp', 'retainUntil is before recordedAt', folder.name, seq)
        last = record

def hash_of_parts(parts):
    return parts_hash({name: part_commitment(name, bytes.fromhex(part['salt']), part['value']) if 'salt' in part
                       else bytes.fromhex(part['commitment']) for name, part in parts.items()}).hex()

def check_openings(folder, certified, report):
    unproven = 0
    for seq, (record, opening) in enumerate(zip(folder.valid, folder.openings), folder.first):
        if not record:
            continue
        if hash_of_parts(opening['parts']) != record['parts']:
            report.add('part', 'the parts are not those that the record commits to', folder.name, seq)
        for name, part in opening['parts'].items():
            if part.get('state') == 'erased' and 'salt' not in part:
                signed = certified.get((folder.name, seq, name))
                if signed is None:
                    report.add('erasure', f'the part {name} is erased, and no certificate says so', folder.name, seq)
                unproven += signed is False
    if unproven:
        report.unchecked.append(f'who certified what was erased of {folder.name}: the given key is that of another stream')

def read_certificates(raw, origin, tenant, trust, report):
    """Section 26: (stream, seq, part) -> whether a certificate that names it is signed by a key that is known."""
    certified = {}
    try:
        need(not raw or raw.endswith(b'\n'), f'{CERTIFICATES}: the last line is not ended')
        lines = [read_json_file(line, CERTIFICATES) for line in raw.split(b'\n')[:-1]]
        need(len(lines) <= MAX_ERASURE_CERTIFICATES, f'{CERTIFICATES}: too many lines')
        places = []
        for line in lines:
            members(line, ('checkpoint', 'parts', 'path', 'record'), what=CERTIFICATES)
            check_parts_form(line['parts'])
            line['path'] = hashes(line['path'], 'path')
            raw_record = string(line['record'], 'record').encode()
            record = read_record(raw_record)
            name, seq = record['stream'], record['seq']
            split = split_stream(name)
            need(split and split[0] == f'{tenant}/log_administration', f'{CERTIFICATES}: of another stream')
            need(record['action'] in ('erasure.certified', 'retention.pruned') and record['source'].get('service') == 'sealog',
                 f'{CERTIFICATES}: no certificate')
            places.append((split[1], seq))
            ascending(places[-2:], f'{CERTIFICATES}: lines')
            string(line['checkpoint'], 'checkpoint')
            if hash_of_parts(line['parts']) != record['parts']:
                report.add('part', 'the parts of a certificate are not those that its record commits to', name, seq)
                continue
            try:
                checkpoint = Checkpoint(line['checkpoint'])
                need(checkpoint.origin == f'{origin}/{name}', 'its checkpoint is of another stream')
                need(inclusion_holds(leaf_hash(raw_record), seq, checkpoint.size, line['path'], checkpoint.root), 'it is not in its tree')
                need('salt' in line['parts'].get('details', ()), 'its details are not open')
                signed = not trust.silent_about(checkpoint.origin)
                signers = signed and trust.signers(checkpoint, checkpoint.origin)
                need(signers or not signed, 'its checkpoint is not signed by a trusted key')
            except Malformed as error:
                report.add('signature', f'a certificate: {error}', name, seq)
                continue
            if signed and not trust.current(signers):
                report.add('key', 'a certificate is signed by a retired key', name, seq)
                continue
            for key in certified_by(record, line['parts']['details']['value'], tenant):
                certified[key] = certified.get(key, False) or signed
    except Malformed as error:
        report.add('bundle', str(error))
        return {}
    return certified

def certified_by(record, details, tenant):
    """What the details of an erasure's certificate name; nothing at all where any of it is malformed."""
    if record['action'] != 'erasure.certified':
        return []
    try:
        members(details, ('entries', 'erasure'), what='details')
        string(details['erasure'], 'erasure')
        named = []
        for item in array(details['entries'], MAX_ERASED_ENTRIES, 'entries'):
            members(item, ('parts', 'seq', 'stream'), what='an entry')
            integer(item['seq'], 'seq')
            split = split_stream(string(item['stream'], 'stream'))
            need(split and split[0].startswith(f'{tenant}/'), 'a stream of another tenant')
            need(split[0].partition('/')[2] not in ('log_administration', 'anchor'), 'a stream that nothing is erased from')
            parts = array(item['parts'], len(PARTS), 'parts')
            need(parts and all(part in PARTS for part in parts) and parts == sorted(set(parts)), 'no parts, or not in order')
            named += [(item['stream'], item['seq'], part) for part in parts]
        return named
    except Malformed:
        return []

def check_tree(folder, wanted, report):
    """left, the records' hashes and right come to the checkpoint's root. `wanted`: sizes whose roots are asked for."""
    tree = folder.tree
    for size in range(folder.first, folder.end + 1):
        if size > folder.first:
            tree.add(0, leaf_hash(folder.records[size - folder.first - 1]))
        if size in wanted:
            folder.range_roots[size] = tree.root()
    for level, subtree in folder.right:
        tree.add(level, subtree)
    folder.tree_holds = tree.root() == folder.checkpoint.root
    if not folder.tree_holds:
        report.add('checkpoint', 'the entries do not come to the root of the checkpoint', folder.name)

def check_completeness(folder, question, report):
    """Neighbours: one recorded before `from` at `first`, one recorded at `to` or later at `end` - 1."""
    first, end = folder.first, folder.end
    if first > 0:
        entry = folder.valid[0] if end > first else 'missing'
        if entry and (entry == 'missing' or 'from' not in question or entry['recordedAt'] >= question['from']):
            report.add('gap', 'nothing shows that no entry before the range was asked for', folder.name, first)
    if end < folder.checkpoint.size:
        entry = folder.valid[-1] if end > first else 'missing'
        if entry and (entry == 'missing' or 'to' not in question or entry['recordedAt'] < question['to']):
            report.add('gap', 'nothing shows that no entry behind the range was asked for', folder.name, end)

def asked_for(folder, question):
    """The seqs of the entries that were asked for."""
    begin, end = question.get('from', ''), question.get('to', '~')
    return [seq for seq, record in enumerate(folder.valid, folder.first) if record and begin <= record['recordedAt'] < end]

def check_summary(raw, folders, manifest, report):
    origin, question = manifest['origin'], manifest['question']
    if any(folder.malformed for folder in folders):
        return
    lines = [f"Sealog evidence bundle, version {manifest['bundle']}", f'Log: {origin}',
             f"Question: {question['category']} of {question['tenant']}, recorded from {question.get('from', 'the beginning')} "
             f"until before {question.get('to', 'the end')}"]
    for folder in folders:
        seqs = asked_for(folder, question)
        span = f', seq {seqs[0]} to {seqs[-1]}' if seqs else ''
        lines.append(f'Stream {folder.name}: {len(seqs)} entries{span}, checkpoint of {folder.checkpoint.size} entries, '
                     f'{len(folder.anchors)} anchors')
    lines.append('Check it with: sealog verify BUNDLE --key VKEY')
    if raw != ''.join(line + '\n' for line in lines).encode():
        report.add('bundle', 'summary.txt is not what the other files say')

# --- Consistency, anchors, the checkpoint's signature ---

def check_consistency(folder, report):
    newest = folder.checkpoint
    for item in folder.consistency:
        if 0 < item['from'] < newest.size and consistency_holds(item['from'], item['root'], newest.size, newest.root, item['path']):
            folder.roots[item['from']] = item['root']
        else:
            report.add('anchor', f'the consistency path from size {item["from"]} does not lead to the checkpoint', folder.name)

def check_anchors(folder, origin, trust, given, report):
    order = []
    for item in folder.anchors:
        size = item['leaf']['size']
        try:
            checkpoint, epoch = check_anchor(item, folder, origin)
        except Malformed as error:
            report.add('anchor', f'an anchor of size {size}: {error}', folder.name, size - 1 if size else None)
            continue
        seq = item['tick']['seq']
        order.append((size, epoch, seq, checkpoint.size))
        kept = any(other.origin == checkpoint.origin and (other.size, other.root) == (checkpoint.size, checkpoint.root)
                   for other, _, _, _ in given.kept_anchor)
        sound = check_anchor_signature(checkpoint, epoch, folder, trust, report)
        counts = False
        for evidence in item['evidence']:
            try:
                counts |= check_evidence(evidence, checkpoint, given)
            except Malformed as error:
                report.add('anchor', f'evidence {evidence["name"]!r} for an anchor of size {size}: {error}', folder.name, size - 1)
                sound = False
        for other, name, _, _ in given.kept_anchor:
            if (other.origin, other.size) == (checkpoint.origin, checkpoint.size) and other.root != checkpoint.root:
                report.add('inconsistent', 'the anchor stream has another root than a kept checkpoint says', name, checkpoint.size - 1)
                sound = False
        signed_now = sound and trust.current(trust.signers(checkpoint, checkpoint.origin) or [])
        folder.sound_anchors.append({'size': size, 'place': (epoch, seq), 'sound': sound, 'firm': sound and (signed_now or kept),
                                     'counts': sound and (counts or kept)})
    if any(a >= b for a, b in zip(order, order[1:])):
        report.add('bundle', 'anchors.json is out of order, or an anchor stands twice', folder.name)

def check_anchor(item, folder, origin):
    """The anchor's way from the stream's checkpoint to that of the anchor stream."""
    checkpoint = Checkpoint(item['checkpoint'])
    place = checkpoint.stream(origin)
    need(place and place[1] == ANCHOR, 'its checkpoint is not of the anchor stream')
    raw = item['tick']['record'].encode()
    tick = read_record(raw)
    need(tick['stream'] == place[0] and tick['seq'] == item['tick']['seq'], 'its tick is of another place')
    need(tick['action'] == 'anchor.tick' and tick['outcome'] == 'success' and tick['source'] == {'service': 'sealog'}
         and tick['parts'] == parts_hash({}).hex() and 'retainUntil' not in tick, 'its tick is no tick')
    need(inclusion_holds(leaf_hash(raw), tick['seq'], checkpoint.size, hashes(item['tick']['path'], 'path'), checkpoint.root),
         'its tick is not in the anchor stream')
    leaf = item['leaf']
    need(0 < leaf['size'] <= folder.checkpoint.size and leaf['size'] in folder.roots, 'nothing shows the root at its size')
    text = checkpoint_text(folder.checkpoint.origin, leaf['size'], folder.roots[leaf['size']])
    h = leaf_hash(b'sealog/anchor-checkpoint/v1\0' + bytes.fromhex(leaf['blind']) + text.encode())
    for step in leaf['path']:
        (side, other), = step.items()
        other = bytes.fromhex(other)
        h = node_hash(other, h) if side == 'left' else node_hash(h, other)
    need(h.hex() == tick['id'], 'its leaf is not in the tick')
    return checkpoint, place[2]

def check_anchor_signature(checkpoint, epoch, folder, trust, report):
    """Whether the anchor's checkpoint is signed as it should be."""
    if trust.only:
        return False  # nobody can say who signs the anchor stream
    signers = trust.signers(checkpoint, checkpoint.origin)
    if not signers:
        report.add('signature', 'the checkpoint of an anchor is not signed by a trusted key', folder.name)
        return False
    if not any(trust.end_of(generation) is None or (epoch, checkpoint.size) <= trust.end_of(generation) for _, generation in signers):
        report.add('key', 'the checkpoint of an anchor is signed by a retired key, and too large for it', folder.name)
        return False
    return True

def check_evidence(evidence, checkpoint, given):
    """True where it counts, False where it is passed over; Malformed where it is wrong."""
    text = checkpoint.text.encode()
    if evidence['kind'] == 'rfc3161':
        certificates, lists = ([base64.b64decode(item) for item in evidence[name]] for name in ('certificates', 'crls'))
        return check_token(base64.b64decode(evidence['token']), text, certificates, lists, given.authorities)
    name, key_id, signature = read_signature_line(evidence['line'])
    for witness in given.witnesses:
        if (witness.name, witness.id) == (name, key_id):
            need(len(signature) == 72, 'no cosignature: its length is another')
            time = int.from_bytes(signature[:8], 'big')
            need(time <= MAX_INTEGER, 'no cosignature: its time is beyond 2^53-1')
            message = f'cosignature/v1\ntime {time}\n'.encode() + text
            need(ed25519_holds(witness.public, message, signature[8:]), 'the cosignature is wrong')
            return True
    return False

def check_checkpoint_signature(folder, trust, given, report):
    if trust.silent_about(folder.checkpoint.origin):
        report.unchecked.append(f'who signed the checkpoint of {folder.name}: the given key is that of another stream')
        return
    signers = trust.signers(folder.checkpoint, folder.checkpoint.origin)
    if not signers:
        report.add('signature', 'the checkpoint is not signed by a trusted key', folder.name)
    elif not trust.current(signers):
        end = max(trust.end_of(generation) for _, generation in signers)
        if not any(anchor['size'] == folder.checkpoint.size and anchor['place'] < end and anchor['firm'] for anchor in folder.sound_anchors):
            report.add('key', 'the checkpoint is signed by a retired key, and no anchor shows that it was while it signed', folder.name)

# --- Checkpoints that were kept, and what is anchored ---

def check_kept(given, folders, unknown, report):
    by_name = {folder.name: folder for folder in folders}
    for kept, name, _, _ in given.kept:
        folder = by_name.get(name)
        if kept.size == 0:
            continue
        if folder is None:
            if not unknown:
                report.add('truncated', f'a kept checkpoint has {kept.size} entries of a stream that the bundle does not have', name)
            continue
        if kept.size > folder.checkpoint.size:
            report.add('truncated', f'a kept checkpoint has {kept.size} entries', name, folder.checkpoint.size)
            continue
        root = folder.roots.get(kept.size, folder.range_roots.get(kept.size))
        if root is None:
            report.unchecked.append(f'the bundle does not show the tree of {name} at {kept.size} entries, of which a checkpoint was kept')
        elif kept.root != root:
            report.add('inconsistent', f'a kept checkpoint has another root at {kept.size} entries', name, kept.size - 1)
        else:
            folder.pinned_to = max(folder.pinned_to, kept.size)

def coverage(folder, question):
    """Which entries of the range are anchored, pinned, and neither. Ranges are from, up to and not including, to."""
    anchored = max([anchor['size'] for anchor in folder.sound_anchors if anchor['counts']], default=0) if folder.tree_holds else 0
    pinned = folder.pinned_to if folder.tree_holds else 0

    def span(begin, end):
        begin, end = max(begin, folder.first), min(end, folder.end)
        return [{'from': begin, 'to': end}] if begin < end else []

    return {'stream': folder.name, 'size': folder.checkpoint.size, 'first': folder.first, 'end': folder.end,
            'entries': len(asked_for(folder, question)), 'anchored': span(0, anchored), 'pinned': span(0, pinned),
            'unanchored': span(anchored, folder.end), 'unproven': span(max(anchored, pinned), folder.end)}

# ---------------------------------------------------------------------------------------------------------------------
# Output and command line.

VERDICTS = {'intact': ('INTACT: everything holds, and every entry shown is anchored or pinned.', 0),
            'tampered': ('TAMPERED: what must hold does not.', 1),
            'incomplete': ('INCOMPLETE: nothing was found wrong, but something could not be checked.', 2),
            'not_provable': ('NOT PROVABLE: what is here agrees with itself, but nothing outside of the log that you trust '
                             'vouches for all of it. Its owner could have written the un-anchored entries at any time.', 2)}

def ranges_text(ranges):
    return ', '.join(f"{r['from']} to {r['to'] - 1}" for r in ranges) or 'none'

def printable(text):
    return ''.join(c if c.isprintable() else '?' for c in str(text))

def print_people(report):
    print(VERDICTS[report.verdict()][0])
    if report.key:
        generation = report.key['generation']
        which = 'the key of one stream' if generation is None else f'the key of generation {generation}'
        print(f"\nTaken for the key that signs now: {which}, {printable(report.key['vkey'])}")
        print('  Whether it was replaced since can not be seen here: make sure that the key you gave is the newest.')
    for stream in report.streams:
        print(f"\nStream {stream['stream']}: checkpoint of {stream['size']} entries; the bundle shows seq {stream['first']} up to "
              f"before {stream['end']}, of which {stream['entries']} were asked for (the others are neighbours).")
        print(f"  anchored outside of the log:            seq {ranges_text(stream['anchored'])}")
        print(f"  pinned by a checkpoint that you kept:   seq {ranges_text(stream['pinned'])}")
        print(f"  un-anchored:                            seq {ranges_text(stream['unanchored'])}")
        if stream['unproven']:
            print(f"  Neither anchored nor pinned, so NOT shown to be old: seq {ranges_text(stream['unproven'])}")
    if report.findings:
        print('\nFindings:')
    for finding in report.findings:
        place = ' '.join(printable(x) for x in (finding['stream'], None if finding['seq'] is None else f"seq {finding['seq']}") if x is not None)
        print(f"  {finding['kind']}: {place + ': ' if place else ''}{printable(finding['detail'])}")
    if report.unchecked:
        print('\nNot checked:')
    for text in report.unchecked:
        print(f'  {printable(text)}')
    if not report.findings:
        print('\nShown: records, links, stamps, parts, tree, completeness and signatures agree with each other and with the given key.')

def print_json(report):
    streams = [{name: stream[name] for name in stream if name != 'unproven'} for stream in report.streams]
    print(json.dumps({'verdict': report.verdict(), 'key': report.key, 'findings': report.findings, 'unchecked': report.unchecked, 'streams': streams}))

def read_authorities(path):
    """The certificates of a PEM file."""
    with open(path, 'rb') as file:
        text = file.read(16 * 1024 * 1024)
    blocks = re.findall(b'-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\\s]*)-----END CERTIFICATE-----', text)
    need(blocks, f'{path}: no certificate in PEM')
    return [Certificate(base64_bytes(b''.join(block.split()).decode(), path)) for block in blocks]

def read_kept(path):
    """The text of a kept checkpoint; what is no text is told as a finding later."""
    with open(path, 'rb') as file:
        raw = file.read(1000001)
    try:
        return raw.decode('utf-8')
    except UnicodeDecodeError:
        return ''

class Arguments(argparse.ArgumentParser):
    def error(self, message):
        self.print_usage(sys.stderr)
        print(f'verify_bundle.py: {message}', file=sys.stderr)
        sys.exit(64)

def main():
    parser = Arguments(description='Verify an evidence bundle.', allow_abbrev=False)
    parser.add_argument('bundle', nargs='?')
    parser.add_argument('--key')
    parser.add_argument('--checkpoint', action='append', default=[])
    parser.add_argument('--tsa', action='append', default=[])
    parser.add_argument('--witness', action='append', default=[])
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--self-test', metavar='FORMAT.md')
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test(arguments.self_test)
    if not arguments.bundle or not arguments.key:
        parser.error('a bundle and --key are needed')
    try:
        given = Given(Key(arguments.key, ED25519), [read_kept(path) for path in arguments.checkpoint],
                      [certificate for path in arguments.tsa for certificate in read_authorities(path)],
                      [Key(vkey, COSIGNATURE) for vkey in arguments.witness])
    except (Malformed, OSError) as error:
        parser.error(str(error))
    try:
        with open(arguments.bundle, 'rb') as file:
            data = file.read(MAX_BUNDLE + 1)
    except (OSError, MemoryError) as error:
        print(f'The bundle can not be read: {error}', file=sys.stderr)
        return 2
    report = Report()
    try:
        verify_bundle(data, given, report)
    except (CannotCheck, MemoryError) as error:
        report.unchecked.append(str(error) or 'memory ran out')
    sys.stdout.reconfigure(errors='backslashreplace')
    (print_json if arguments.json else print_people)(report)
    return VERDICTS[report.verdict()][1]

# ---------------------------------------------------------------------------------------------------------------------
# The self-test: the worked examples of section 28 that concern what this verifier does.

def self_test(path):
    with open(path, encoding='utf-8') as file:
        text = file.read()
    rows = dict(re.findall(r'^\| `([a-z0-9.-]+)` \| `([^`|]*)` \|', text, re.M))
    blocks = {label: body for label, body in re.findall(r'^`([a-z0-9.]+)`:[^\n]*\n\n```text\n(.*?)\n```$', text, re.M | re.S)}
    canonical = re.findall(r'^\| `(json\.[0-9]+)` \| `([^`]*)` \| `([^`]*)` \|', text, re.M)
    counts = {'checked': 0, 'failed': 0}

    def check(label, good):
        counts['checked'] += 1
        if not good:
            counts['failed'] += 1
            print(f'FAILED: {label}')

    def refused(raw):
        try:
            parse_json(raw)
            return False
        except Malformed:
            return True

    for label, sent, wanted in canonical:
        check(label, write_json(json.loads(sent)) == wanted.encode() and write_json(parse_json(wanted.encode())) == wanted.encode())
        check(label + ' as sent', sent == wanted or refused(sent.encode()))
    records = []
    while f'entry{len(records)}.record' in blocks:
        entry = f'entry{len(records)}'
        raw = blocks[entry + '.record'].encode()
        record, commitments = read_record(raw), {}
        for name in PARTS:
            if f'{entry}.{name}.value' in blocks:
                value = parse_json(blocks[f'{entry}.{name}.value'].encode('utf-8'))
                commitments[name] = part_commitment(name, bytes.fromhex(rows[f'{entry}.{name}.salt']), value)
                check(f'{entry}.{name}.commitment', commitments[name].hex() == rows[f'{entry}.{name}.commitment'])
        check(entry + '.parts.hash', parts_hash(commitments).hex() == rows[entry + '.parts.hash'] == record['parts'])
        check(entry + '.hash', leaf_hash(raw).hex() == rows[entry + '.hash'])
        check(entry + '.previous', record['previous'] == (leaf_hash(records[-1]).hex() if records else ZEROS))
        check(entry + '.place', (record['seq'], record['stream']) == (len(records), rows['stream']))
        records.append(raw)
    payload = bytes.fromhex(''.join(blocks['block0.records.payload'].split()))
    check('block0.records.payload', split_entries(payload) == records[:2])

    def roots(leaves):
        tree, found = Tree(), [EMPTY_ROOT]
        for leaf in leaves:
            tree.add(0, leaf_hash(leaf))
            found.append(tree.root())
        return found

    tree = roots(records)
    for size, root in enumerate(tree):
        check(f'tree.root.{size}', root.hex() == rows[f'tree.root.{size}'])

    def path(label):
        return [] if rows[label] == '(empty)' else [bytes.fromhex(item) for item in rows[label].split()]

    for seq in range(3):
        hash_path = path(f'path.inclusion.{seq}')
        check(f'path.inclusion.{seq}', inclusion_holds(leaf_hash(records[seq]), seq, 3, hash_path, tree[3])
              and not inclusion_holds(leaf_hash(records[seq]), seq, 3, hash_path[:-1], tree[3])
              and not inclusion_holds(leaf_hash(records[seq]), seq, 3, hash_path + [tree[0]], tree[3]))
    for size in range(4):
        hash_path = path(f'path.consistency.{size}')
        check(f'path.consistency.{size}', consistency_holds(size, tree[size], 3, tree[3], hash_path)
              and not consistency_holds(size, tree[size], 3, tree[3], hash_path + [tree[0]]))
    check('checkpoint', checkpoint_text('audit.example.com/' + rows['stream'], 3, tree[3]) == blocks['checkpoint'] + '\n')
    small = roots([bytes([i]) for i in range(256)])
    for size in (1, 2, 4, 5, 6, 7, 8, 255):
        check(f'bytes.root.{size}', small[size].hex() == rows[f'bytes.root.{size}'])
    check('bytes.tile.root', small[256].hex() == rows['bytes.tile.root'])
    frontier = bytes.fromhex(''.join(blocks['bytes.frontier.7'].split()))
    check('bytes.frontier.7', Tree(7, [frontier[i:i + 32] for i in (0, 32, 64)]).root() == small[7])
    print(f"{counts['checked']} checked, {counts['failed']} failed")
    return 1 if counts['failed'] else 0

if __name__ == '__main__':
    sys.exit(main())
