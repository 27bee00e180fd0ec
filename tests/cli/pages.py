#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every command of the program has a manual page that was built, and every page a command.

    pages.py VDISK PAGE...
"""
import os
import subprocess
import sys


def main():
    vdisk, pages = sys.argv[1], sys.argv[2:]
    commands = subprocess.run([vdisk, "help", "--list"], capture_output=True, text=True,
                              check=True).stdout.splitlines()
    wanted = {"vdisk.1"} | {f"vdisk-{c.replace(' ', '-')}.1" for c in commands}
    built = {os.path.basename(p) for p in pages}
    bad = [f"no page {p}" for p in sorted(wanted - built)]
    bad += [f"no command for {p}" for p in sorted(built - wanted)]
    for page in pages:
        with open(page, encoding="utf-8") as f:
            text = f.read()
        name = os.path.basename(page)[:-2]
        if f'.TH "{name}" "1"' not in text or f"\n{name} - " not in text:
            bad.append(f"{page} is no manual page of its command")
    print("\n".join(bad))
    print(("not ok" if bad else "ok") + " - every command has a manual page")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
