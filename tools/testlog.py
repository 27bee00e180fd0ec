#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Counts the test cases of one or more meson runs.

    testlog.py BUILD-DIRECTORY:EXIT-STATUS-OF-MESON...

Further runs repeat tests of the first in another build: of those only failures are counted.

A meson test is a program with many cases. They are counted by what the programs say: cmocka's
summary, unittest's, or lines "ok ..." / "not ok ..." / "skipped: why". A program that says nothing is
one case, by its exit status. A program that dies counts one failure on top of what it reported.
"""
import json
import os
import re
import sys

CMOCKA = re.compile(r"^\[  (PASSED|FAILED|SKIPPED) +\] (\d+) test\(s\)", re.M)
TAP = re.compile(r"^(not ok|ok)\b(?!.*# SKIP)", re.M)
SKIP = re.compile(r"^(?:skipped: (.*)|ok\b.*# SKIP ?(.*))$", re.M)
UNITTEST = re.compile(r"^Ran (\d+) tests? in .*\n+(?:OK|FAILED)(?: \((.*)\))?$", re.M)
UNITTEST_SKIP = re.compile(r"^.* \.\.\. skipped ['\"](.*)['\"]$", re.M)
FAILED = ("FAIL", "ERROR", "TIMEOUT", "UNEXPECTEDPASS")


def count(test):
    """(passed, failed, [reasons of skips]) of one entry of the log."""
    text = test.get("stdout", "") + "\n" + test.get("stderr", "")
    passed = failed = unexplained = 0
    for kind, n in CMOCKA.findall(text):
        if kind == "PASSED":
            passed += int(n)
        elif kind == "FAILED":
            failed += int(n)
        else:
            unexplained += int(n)
    for kind in TAP.findall(text):
        if kind == "ok":
            passed += 1
        else:
            failed += 1
    for ran, details in UNITTEST.findall(text):
        numbers = {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", details)}
        wrong = sum(numbers.get(k, 0) for k in ("failures", "errors", "unexpected successes"))
        unexplained += numbers.get("skipped", 0)
        failed += wrong
        passed += int(ran) - wrong - numbers.get("skipped", 0)
    skips = [next(filter(None, groups), "no reason given") for groups in SKIP.findall(text)]
    skips += UNITTEST_SKIP.findall(text)
    result = test.get("result", "ERROR")
    if result == "SKIP":
        unexplained = max(unexplained, 1)
    skips += ["no reason given"] * (unexplained - len(skips))
    if result in FAILED and failed == 0:
        failed += 1
    if result in ("OK", "EXPECTEDFAIL") and passed == 0 and not skips:
        passed += 1
    return passed, failed, skips


def read(build):
    try:
        with open(os.path.join(build, "meson-logs", "testlog.json"), encoding="utf-8") as log:
            return [json.loads(line) for line in log if line.strip()]
    except FileNotFoundError:
        return []  # meson writes none when there is no test at all


def main():
    passed = failed = skipped = 0
    bad = []
    for number, run in enumerate(sys.argv[1:]):
        build, status = run.rsplit(":", 1)
        failed_here = 0
        for test in read(build):
            ok, not_ok, skips = count(test)
            failed_here += not_ok
            if not_ok:
                bad.append(f"{test['name']} (in {build})")
            if number == 0:
                passed += ok
                skipped += len(skips)
                for why in skips:
                    print(f"skipped in {test['name']}: {why}")
        # Meson itself failed, and no test says why: an honest count still ends in a failure.
        if int(status) != 0 and failed_here == 0:
            failed_here = 1
            bad.append(f"meson test (exit status {status}, in {build})")
        failed += failed_here
    for name in bad:
        print(f"FAILED: {name}")
    if skipped:
        print(f"{skipped} skipped")
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
