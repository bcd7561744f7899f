"""Runs docs/verifiers/verify_bundle.py over many bundles in one process, so that a test need not start one for each.

A line of JSON in, a line of JSON out. In: {"bundle": file, "key": vkey, "checkpoints": [text], "authorities": [base64 of
DER], "witnesses": [vkey]}. Out: what the verifier prints with --json.
"""
import base64
import contextlib
import importlib.util
import io
import json
import sys

spec = importlib.util.spec_from_file_location('verify_bundle', sys.argv[1])
verifier = importlib.util.module_from_spec(spec)
sys.dont_write_bytecode = True
spec.loader.exec_module(verifier)

for line in sys.stdin:
    case = json.loads(line)
    given = verifier.Given(
        verifier.Key(case['key'], verifier.ED25519), case['checkpoints'],
        [verifier.Certificate(base64.b64decode(one)) for one in case['authorities']],
        [verifier.Key(one, verifier.COSIGNATURE) for one in case['witnesses']])
    with open(case['bundle'], 'rb') as file:
        data = file.read()
    report = verifier.Report()
    verifier.verify_bundle(data, given, report)
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        verifier.print_json(report)
    print(text.getvalue().strip(), flush=True)
