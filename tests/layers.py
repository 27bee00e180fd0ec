#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the layering: which folder may include headers of which other folder.

The arrows are those of docs/ARCHITECTURE.md. A folder not listed here may include nothing, so a new
folder has to be added in both places. *_priv.h stays inside its folder; nobody includes cli/; and
includes are written from the root, so that this test can read them.
"""
import os
import re
import sys

BELOW_SERVER = ["core/base", "core/codec", "core/io", "core/block", "format", "pool", "snapshot",
                "copy", "foreign", "backup", "nbd", "vhost", "fuse"]
DOOR = ["core/base", "core/io", "core/block"]
ARROWS = {
    "core/base": [],
    "core/codec": ["core/base"],
    "core/io": ["core/base", "core/codec"],
    "core/block": ["core/base", "core/io"],
    "format": ["core/base", "core/codec"],
    "pool": ["core/base", "core/codec", "core/io", "format"],
    "snapshot": ["core/base", "core/io", "format", "pool", "core/block"],
    "nbd": DOOR,
    "vhost": DOOR,
    "fuse": DOOR,
    "foreign": DOOR,
    "copy": ["core/base", "core/io", "core/codec", "core/block"],
    "backup": ["core/base", "core/codec", "core/io", "core/block", "copy"],
    "server": BELOW_SERVER,
    "vm": ["core/base", "core/io", "server/client.h"],
    "cli": BELOW_SERVER + ["server", "vm"],
    "include": [],
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
PUBLIC = "vdisk.h"  # include/vdisk.h, open to everybody


def folder_of(path):
    """The longest listed folder that holds `path`, or None."""
    best = None
    for folder in ARROWS:
        if path.startswith(folder + "/") and (best is None or len(folder) > len(best)):
            best = folder
    return best


def judge(path, target, exists):
    """Why the file `path` may not include `target`; None if it may. Tests may include anything."""
    if target == PUBLIC:
        return None
    own = folder_of(path)
    if own is None:
        return "the folder is not listed in tests/layers.py"
    if "/" not in target or target.startswith("."):
        return "includes are written from the root of the tree"
    if not exists(target):
        return "there is no such header"
    other = folder_of(target)
    if other == own:
        return None
    if target.endswith("_priv.h"):
        return "a _priv.h stays inside its folder"
    allowed = ARROWS[own]
    if other in allowed or target in allowed:
        return None
    return f"{own} may include only {', '.join(allowed) or 'nothing'}"


def sources(root):
    for folder in sorted({f.split("/")[0] for f in ARROWS}):
        for where, _, names in os.walk(os.path.join(root, folder)):
            for name in sorted(names):
                if name.endswith((".c", ".h", ".S")):
                    yield os.path.relpath(os.path.join(where, name), root)


def cycle():
    """A cycle among the arrows as a list of folders, or None."""
    state = {}

    def visit(folder, trail):
        if state.get(folder) == "done":
            return None
        if folder in trail:
            return trail[trail.index(folder):] + [folder]
        for other in ARROWS[folder]:
            found = visit(folder_of(other + "/x"), trail + [folder])
            if found:
                return found
        state[folder] = "done"
        return None

    for folder in ARROWS:
        found = visit(folder, [])
        if found:
            return found
    return None


def self_test():
    """The checker must be able to say no."""
    def there(_):
        return True
    wrong = [("pool/a.c", "snapshot/snapshot.h"), ("nbd/a.c", "pool/pool.h"),
             ("server/a.c", "cli/cli.h"), ("snapshot/a.c", "pool/log_priv.h"),
             ("pool/a.c", "pool.h"), ("vm/a.c", "server/server.h"), ("new/a.c", "core/base/base.h")]
    right = [("pool/a.c", "pool/log_priv.h"), ("vm/a.c", "server/client.h"),
             ("cli/a.c", "server/server.h"), ("core/io/a.c", "core/base/base.h"),
             ("cli/a.c", "vdisk.h")]
    return (all(judge(p, t, there) for p, t in wrong)
            and not any(judge(p, t, there) for p, t in right)
            and judge("pool/a.c", "pool/gone.h", lambda _: False))


def main():
    root = os.path.abspath(sys.argv[1] if len(sys.argv) > 1
                           else os.path.join(os.path.dirname(__file__), ".."))
    bad = []
    for path in sources(root):
        with open(os.path.join(root, path), encoding="utf-8") as f:
            text = f.read()
        for target in INCLUDE.findall(text):
            why = judge(path, target, lambda t: os.path.exists(os.path.join(root, t)))
            if why:
                bad.append(f"{path}: includes {target}: {why}")
    for line in bad:
        print(line)
    loop = cycle()
    if loop:
        print("cycle: " + " -> ".join(loop))
    results = [("the checker refuses forbidden includes", bool(self_test())),
               ("the arrows have no cycle", loop is None),
               ("every include follows an arrow", not bad)]
    for name, good in results:
        print(("ok - " if good else "not ok - ") + name)
    sys.exit(0 if all(good for _, good in results) else 1)


if __name__ == "__main__":
    main()
