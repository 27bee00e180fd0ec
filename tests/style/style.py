#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""House rules that a program can check: licence lines, lengths, formatting, what a .c file opens
with. Prints each offence and, per rule, "ok" or "not ok".

    style.py [ROOT]
"""
import os
import re
import shutil
import subprocess
import sys

FILE_LINES = 850      # "under about 800"
FUNCTION_LINES = 80   # "under about 70"
COLUMNS = 120         # clang-format aims at 100; comments and tables may stick out a little
CODE = (".c", ".h", ".S")
SCRIPTS = (".py", ".sh", ".build", ".txt")
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
FORMAT_MAJOR = "14"   # Debian 12's; other versions lay code out differently


def listing(root):
    """Files of the project: what git tracks; without git, everything."""
    try:
        out = subprocess.run(["git", "-c", "safe.directory=*", "-C", root, "ls-files"],
                             capture_output=True, check=True, text=True)
        names = out.stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        names = []
        for where, dirs, files in os.walk(root):
            dirs[:] = [d for d in dirs if not d.startswith((".git", "build"))]
            names += [os.path.relpath(os.path.join(where, f), root) for f in files]
    return sorted({n for n in names if os.path.isfile(os.path.join(root, n))})


def read(root, name):
    try:
        with open(os.path.join(root, name), encoding="utf-8") as f:
            return f.read()
    except UnicodeDecodeError:
        return None  # a corpus or a golden image
    except FileNotFoundError:
        return ""  # gone since the listing: somebody is working here


def is_script(name, text):
    return name.endswith(SCRIPTS) or text.startswith("#!")


def check_spdx(name, text):
    if name.endswith(CODE):
        if not text.startswith("/* SPDX-License-Identifier: MIT */\n"):
            yield f"{name}:1: the first line is not /* SPDX-License-Identifier: MIT */"
    elif is_script(name, text) and not name.endswith(".txt"):
        head = text.split("\n", 2)[:2]
        if "# SPDX-License-Identifier: MIT" not in head:
            yield f"{name}:1: no # SPDX-License-Identifier: MIT in the first two lines"


def check_opening(name, text):
    if name.endswith(".c") and not text.split("\n", 1)[-1].lstrip("\n").startswith("/*"):
        yield f"{name}:2: a .c file opens with a comment that says what it is for"


def check_lengths(name, text):
    if not (name.endswith(CODE) or is_script(name, text)):
        return
    lines = text.split("\n")
    if len(lines) > FILE_LINES + 1:
        yield f"{name}: {len(lines) - 1} lines, at most {FILE_LINES}"
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS:
            yield f"{name}:{number}: {len(line)} columns, at most {COLUMNS}"


def check_functions(name, text):
    """In our layout a function's braces are the only ones alone in the first column."""
    if not name.endswith((".c", ".h")):
        return
    start = None
    for number, line in enumerate(text.split("\n"), 1):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            if number - start - 1 > FUNCTION_LINES:
                yield f"{name}:{start}: a function of {number - start - 1} lines, " \
                      f"at most {FUNCTION_LINES}"
            start = None


def check_unfinished(name, text):
    for number, line in enumerate(text.split("\n"), 1):
        if UNFINISHED.search(line):
            yield f"{name}:{number}: unfinished work: {line.strip()[:60]}"


def check_space(name, text):
    if not (name.endswith(CODE) or is_script(name, text)):
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip() or "\t" in line:
            yield f"{name}:{number}: a tab or a blank at the end of the line"
    if text and not text.endswith("\n"):
        yield f"{name}: no newline at the end"


def format_offences(root, names):
    """None when clang-format is not to be had in the right version."""
    tool = shutil.which("clang-format-" + FORMAT_MAJOR) or shutil.which("clang-format")
    if not tool:
        return None
    version = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
    if f"version {FORMAT_MAJOR}." not in version:
        return None
    files = [n for n in names if n.endswith(".c")]
    bad = []
    for i in range(0, len(files), 64):
        out = subprocess.run([tool, "--dry-run", "--ferror-limit=1"] + files[i:i + 64], cwd=root,
                             capture_output=True, text=True)
        bad += re.findall(r"^(.+?:\d+):\d+: (?:warning|error): code should be clang-formatted",
                          out.stderr, re.M)
    return [f"{where}: run clang-format -i on it" for where in bad]


RULES = [
    ("every file names its licence", check_spdx),
    ("every .c file opens with its purpose", check_opening),
    ("files and lines are short", check_lengths),
    ("functions are short", check_functions),
    ("nothing is left unfinished", check_unfinished),
    ("no stray blanks", check_space),
]


def main():
    root = os.path.abspath(sys.argv[1] if len(sys.argv) > 1
                           else os.path.join(os.path.dirname(__file__), "..", ".."))
    names = listing(root)
    texts = {n: t for n, t in ((n, read(root, n)) for n in names) if t is not None}
    good = True
    for title, rule in RULES:
        offences = [line for name, text in texts.items() for line in rule(name, text)]
        print("\n".join(offences + [("not ok - " if offences else "ok - ") + title]))
        good = good and not offences
    offences = format_offences(root, names)
    if offences is None:
        print(f"skipped: no clang-format {FORMAT_MAJOR}")
    else:
        print("\n".join(offences + [("not ok - " if offences else "ok - ")
                                    + "code is laid out by clang-format"]))
        good = good and not offences
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
