#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random operations on a file of the mount, against a model in memory.

usage: exercise.py FUSE-SERVER [--steps N] [--seed N]
       exercise.py --file PATH [--steps N] [--seed N]   any file that may be overwritten

Reads and writes of any offset and length through the page cache, past it (O_DIRECT) and through
mappings, growing, punching and zeroing, SEEK_DATA and SEEK_HOLE, copy_file_range, fsync, closing
and opening. Each read is compared; at the end, the whole file, after mounting again too.
"""
import argparse
import ctypes
import errno
import mmap
import os
import random
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from mounted import MIB, Checks, Mounted, skip_unless_fuse  # noqa: E402

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def fallocate(fd, mode, off, length):
    if LIBC.fallocate(fd, mode, off, length) != 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


class Wrong(Exception):
    pass


class Exercise:
    def __init__(self, path, seed, grow_to, ways=("cached", "direct")):
        self.path, self.rng, self.grow_to, self.ways = path, random.Random(seed), grow_to, ways
        self.log = []
        self.fds = {}
        self.map = None
        self.open()
        self.size = os.fstat(self.fds["cached"]).st_size
        self.model = bytearray(self.read_all())

    def open(self):
        self.fds = {"cached": os.open(self.path, os.O_RDWR),
                    "direct": os.open(self.path, os.O_RDWR | os.O_DIRECT)}

    def close(self):
        self.unmap()
        for fd in self.fds.values():
            os.close(fd)

    def unmap(self):
        if self.map:
            self.map.close()
            self.map = None

    def read_all(self):
        fd, out = self.fds["cached"], bytearray()
        while len(out) < self.size:
            out += os.pread(fd, MIB, len(out))
        return out

    def range(self, most=256 << 10):
        """Offset and length: small, large, whole blocks, whole sectors, at the end."""
        shape = self.rng.randrange(5)
        length = self.rng.randrange(1, most if shape else 2000)
        off = self.rng.randrange(self.size)
        if shape == 1:
            off, length = off & ~4095, (length + 4095) & ~4095
        elif shape == 2:
            off, length = off & ~511, (length + 511) & ~511
        elif shape == 3:
            off = max(0, self.size - self.rng.randrange(1, most))
        return off, min(length, self.size - off)

    def data(self, length):
        if self.rng.randrange(8) == 0:
            return bytes(length)
        return self.rng.randbytes(min(length, 4099)) * (length // 4099 + 1)

    def same(self, what, off, got, length):
        if bytes(got) != bytes(self.model[off:off + length]):
            bad = next((i for i in range(length)
                        if i >= len(got) or got[i] != self.model[off + i]), length)
            raise Wrong(f"{what} at {off}+{length}: byte {off + bad} is wrong")

    # Each operation is a method do_NAME(how), how: "cached" or "direct".

    def do_read(self, how):
        off, length = self.range(2 * MIB)
        buf = mmap.mmap(-1, length)  # on a page, for O_DIRECT
        done = os.preadv(self.fds[how], [buf], off)
        if done < length and how == "cached":
            raise Wrong(f"read {done} of {length} bytes")
        self.same("read", off, buf[:done], done)
        buf.close()

    def do_write(self, how):
        off, length = self.range(2 * MIB)
        data = self.data(length)[:length]
        buf = mmap.mmap(-1, length)
        buf[:] = data
        done = os.pwritev(self.fds[how], [buf], off)
        buf.close()
        if done != length:
            raise Wrong(f"wrote {done} of {length} bytes")
        self.model[off:off + length] = data

    def do_map_write(self, _):
        if not self.map:
            self.map = mmap.mmap(self.fds["cached"], self.size)
        off, length = self.range(64 << 10)
        self.map[off:off + length] = self.model[off:off + length] = self.data(length)[:length]
        self.map.flush()

    def do_map_read(self, _):
        if not self.map:
            self.map = mmap.mmap(self.fds["cached"], self.size)
        off, length = self.range()
        self.same("mapped read", off, self.map[off:off + length], length)

    def do_punch(self, how):
        off, length = self.range(4 * MIB)
        mode = self.rng.choice([PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE | KEEP_SIZE])
        fallocate(self.fds[how], mode, off, length)
        self.model[off:off + length] = bytes(length)

    def do_allocate(self, how):
        off, length = self.range()
        fallocate(self.fds[how], self.rng.choice([0, KEEP_SIZE]), off, length)

    def do_grow(self, how):
        to = min(self.size + 512 * self.rng.randrange(1, 2000), self.grow_to)
        if to <= self.size or self.rng.randrange(4):
            return
        self.unmap()
        os.ftruncate(self.fds[how], to)
        self.model += bytes(to - self.size)
        self.size = to
        if os.stat(self.path).st_size != to:
            raise Wrong(f"the size is not {to} after growing")

    def do_seek(self, how):
        """What is called a hole reads as zeroes; where data is said to begin there is some."""
        fd, at = self.fds[how], self.rng.randrange(self.size)
        for _ in range(4):
            try:
                data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as e:
                if e.errno != errno.ENXIO:
                    raise
                data = self.size
            if any(self.model[at:data]):
                raise Wrong(f"SEEK_DATA from {at} says {data}, but there is data before")
            if data >= self.size:
                return
            at = os.lseek(fd, data, os.SEEK_HOLE)
            if at <= data or at > self.size:
                raise Wrong(f"SEEK_HOLE from {data} says {at}")
            if at == self.size:
                return

    def do_copy(self, how):
        off, length = self.range()
        to = self.rng.randrange(self.size)
        length = min(length, self.size - to)
        if off < to + length and to < off + length:
            return
        done = 0
        while done < length:
            n = os.copy_file_range(self.fds["cached"], self.fds[how], length - done, off + done,
                                   to + done)
            if n == 0:
                raise Wrong(f"copy_file_range stopped after {done} of {length} bytes")
            done += n
        self.model[to:to + length] = self.model[off:off + length]

    def do_sync(self, how):
        (os.fsync if self.rng.randrange(2) else os.fdatasync)(self.fds[how])

    def do_reopen(self, _):
        if self.rng.randrange(3) == 0:
            self.close()
            self.open()

    def step(self):
        name = self.rng.choice(["read", "read", "read", "write", "write", "write", "map_write",
                                "map_read", "punch", "allocate", "grow", "seek", "copy", "sync",
                                "reopen"])
        how = self.rng.choice(self.ways)
        try:
            getattr(self, "do_" + name)(how)
        except (OSError, Wrong) as e:
            raise Wrong(f"{name} ({how}): {e}") from e

    def run(self, steps):
        for i in range(steps):
            try:
                self.step()
            except Wrong as e:
                raise Wrong(f"step {i}: {e}") from e
        self.same("the whole file", 0, self.read_all(), self.size)


def exercise(checks, what, path, seed, steps, grow_to, **options):
    e = Exercise(path, seed, grow_to, **options)
    try:
        e.run(steps)
        checks.check(what, True)
    except Wrong as w:
        checks.check(what, False, f"seed {seed}: {w}")
    finally:
        e.close()
    return e


def write_own_bytes(path, who, among, rounds, size, failed):
    """Every `among`-th byte is ours, in sectors that are everybody's."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    rng = random.Random(who)
    mine = {}
    for _ in range(rounds):
        at = rng.randrange(size // among) * among + who
        mine[at] = rng.randbytes(1)
        os.pwrite(fd, mine[at], at)
    failed += [at for at, byte in mine.items() if os.pread(fd, 1, at) != byte]
    os.close(fd)


def together(checks, path):
    """Writers of single bytes of the same sectors, all at once."""
    failed, among = [], 4
    threads = [threading.Thread(target=write_own_bytes,
                                args=(path, i, among, 500, 4096, failed)) for i in range(among)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    checks.check("writes of parts of a sector at once lose nothing", not failed, f"{failed[:5]}")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("server", nargs="?")
    ap.add_argument("--file")
    ap.add_argument("--steps", type=int, default=1500)
    ap.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    args = ap.parse_args()
    checks = Checks()
    if args.file:
        size = os.stat(args.file).st_size
        exercise(checks, "the file is as the model says", args.file, args.seed, args.steps, size)
        checks.end()
    skip_unless_fuse()
    with Mounted(args.server, disk=8 * MIB + 512) as m:
        e = exercise(checks, "disk.raw is as the model says after every operation",
                     m.path("disk/disk.raw"), args.seed, args.steps, 24 * MIB)
        status, out = m.stop()
        checks.check("the server ends well", status == 0, out)
        m.start()
        with open(m.path("disk/disk.raw"), "rb") as f:
            checks.check("and so it is when it is mounted again", f.read() == bytes(e.model))
        together(checks, m.path("disk/disk.raw"))
    checks.end()


if __name__ == "__main__":
    main()
