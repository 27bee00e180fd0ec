# SPDX-License-Identifier: MIT
"""Test programs made of steps that build on each other: "ok - name" or "not ok - name" for each,
and after the first failure no further ones."""
import shutil
import sys
import tempfile
import time
import traceback


class Failed(Exception):
    pass


def check(condition, message):
    if not condition:
        raise Failed(message)


def run(title, steps, context):
    """Runs the functions in order with `context`; a step's name is its docstring's first line.
    Exits the program."""
    for number, step in enumerate(steps):
        name = step.__doc__.split("\n")[0].rstrip(".")
        started = time.monotonic()
        try:
            step(context)
        except Exception:  # whatever it was, it is this step's failure
            traceback.print_exc()
            print(f"not ok - {title}: {name}")
            for left in steps[number + 1:]:
                print(f"# not run: {left.__doc__.splitlines()[0]}")
            return 1
        # The time is for the reader; nothing depends on it.
        print(f"ok - {title}: {name} ({time.monotonic() - started:.1f} s)", flush=True)
    return 0


class Scratch:
    """A directory for one run, on a real disk: O_DIRECT works there, which it does not on tmpfs."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="vdisk-test.", dir=sys.argv[2]
                                     if len(sys.argv) > 2 else "/var/tmp")
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)
