# SPDX-License-Identifier: MIT
"""What the tests of foreign formats share: disks to be copied, QEMU's tools, the program."""
import os
import random
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
from steps import Failed, Scratch, check, run  # noqa: E402,F401
from vdisk import HANG, Vdisk, VdiskError      # noqa: E402,F401

MIB = 1 << 20
KINDS = [("qcow2", None), ("vmdk", None), ("vmdk", "streamOptimized"), ("vdi", None),
         ("vdi", "fixed"), ("vhdx", None), ("vhdx", "fixed"), ("vpc", None), ("vpc", "fixed")]


def qemu_img(*args, ok=True, cwd=None):
    done = subprocess.run(["qemu-img", *map(str, args)], capture_output=True, text=True, cwd=cwd,
                          timeout=HANG, stdin=subprocess.DEVNULL)
    if ok and done.returncode != 0:
        raise Failed(f"qemu-img {args}: {done.stderr}")
    return done


def identical(path, fmt, raw, raw_format="raw"):
    """qemu-img compare's word for it; a longer one must be zero beyond the shorter."""
    done = qemu_img("compare", "-f", fmt, "-F", raw_format, path, raw, ok=False,
                    cwd=os.path.dirname(raw))
    check(done.returncode == 0 and "identical" in done.stdout,
          f"{path} ({fmt}) and {raw} differ: {done.stdout} {done.stderr}")


def make_raw(path, size, extents, seed=1):
    """A sparse file with random bytes in [(offset, length)]."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        for off, length in extents:
            f.seek(off)
            f.write(rng.randbytes(length))
    return path


def disks(folder):
    """Sparse, full, and of an odd size that no format likes: (name, path)."""
    made = []
    for name, size, extents in [
            ("sparse", 300 * MIB, [(0, 4096), (70 * MIB + 512, 100000), (300 * MIB - 4096, 4096)]),
            ("full", 24 * MIB, [(0, 24 * MIB)]),
            ("odd", 5 * MIB + 512 * 7, [(MIB - 1000, 3 * MIB), (5 * MIB + 512 * 6, 512)])]:
        made.append((name, make_raw(os.path.join(folder, name + ".raw"), size, extents)))
    return made


class Context:
    def __init__(self, program, folder):
        self.dir = folder
        self.vdisk = Vdisk(program, folder)

    def path(self, name):
        return os.path.join(self.dir, name)

    def refused(self, *args):
        """Runs a command that must fail in order: its one line on standard error."""
        status, _, err = self.vdisk.try_run(*args)
        lines = err.splitlines()
        check(0 < status < 10 and len(lines) == 1 and lines[0].startswith("vdisk: "),
              f"vdisk {args}: status {status}: {err}")
        return lines[0]

    def remove(self, *names):
        for name in names:
            if os.path.lexists(self.path(name)):
                os.unlink(self.path(name))


def main(title, steps):
    with Scratch() as folder:
        sys.exit(run(title, steps, Context(sys.argv[1], folder)))
