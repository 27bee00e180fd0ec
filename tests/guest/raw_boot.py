#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The guest machinery by itself, on a raw file without vdisk: if this fails, the failures of the
other guest tests say nothing about vdisk.

    raw_boot.py - [SCRATCH-DIRECTORY]
"""
import os
import sys

from guest import Guest, make_disk
from steps import Scratch, check, run


class Context:
    pass


def step_boot(c):
    """the disk boots and runs commands."""
    c.guest.boot()
    check(c.guest.run("false", check=False)[0] == 1, "an exit status is lost")
    check(c.guest.run("echo out; echo err >&2") == "out\nerr\n", "output is lost")
    c.guest.run("echo kept >/kept; sync; echo lost >/lost")


def step_power_cut(c):
    """a power cut keeps what was synced."""
    c.guest.pull_plug()
    c.guest.boot()
    check(c.guest.run("cat /kept") == "kept\n", "a synced file is gone")


def step_destroyed(c):
    """the agent answers after the root was destroyed, and powers off."""
    c.guest.run("rm -rf --no-preserve-root --one-file-system / || true")
    check(c.guest.run("$b ls /usr 2>/dev/null || echo gone") == "gone\n", "/usr is still there")
    c.guest.power_off()


def main():
    with Scratch() as scratch:
        c = Context()
        c.guest = Guest(scratch, raw=make_disk(os.path.join(scratch, "disk.raw")))
        with c.guest:
            status = run("raw disk", [step_boot, step_power_cut, step_destroyed], c)
    sys.exit(status)


if __name__ == "__main__":
    main()
