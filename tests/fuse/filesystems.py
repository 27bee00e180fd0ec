#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""File systems on disks of the mount, through loop devices; and fio, which verifies what it wrote.

usage: filesystems.py FUSE-SERVER

ext4, xfs and btrfs each: made on disk.raw through a loop device, files copied in, random operations
on one, fio on another, a snapshot in the middle of it, unmounted, checked; the snapshot's clone then
mounts and holds what it should.
What cannot be tried here is skipped, and said so.
"""
import filecmp
import os
import random
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from exercise import exercise  # noqa: E402
from mounted import MIB, Checks, Mounted, skip_unless_fuse  # noqa: E402

KINDS = {
    "ext4": (["mkfs.ext4", "-q", "-F"], ["e2fsck", "-f", "-n"]),
    "xfs": (["mkfs.xfs", "-q", "-f"], ["xfs_repair", "-n"]),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], ["btrfs", "check", "--readonly"]),
}


def run(*args, cwd=None):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       errors="replace", timeout=240, cwd=cwd)
    if p.returncode != 0:
        raise RuntimeError(f"{' '.join(args)} ended with {p.returncode}: {p.stdout[-600:]}")
    return p.stdout


class Loop:
    def __init__(self, path, *options):
        self.dev = run("losetup", "--show", "-f", *options, path).strip()

    def __enter__(self):
        return self.dev

    def __exit__(self, *exc):
        run("losetup", "-d", self.dev)


class At:
    """A file system that is mounted."""

    def __init__(self, dev, where):
        self.where = where
        os.makedirs(where, exist_ok=True)
        run("mount", dev, where)

    def __enter__(self):
        return self.where

    def __exit__(self, *exc):
        run("umount", self.where)


def some_files(most):
    """Real files, large and small, `most` bytes at most."""
    total, out = 0, []
    for top in ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/bin", "/usr/share/doc"):
        for where, _, names in os.walk(top):
            for n in sorted(names):
                path = os.path.join(where, n)
                if not os.path.isfile(path) or os.path.islink(path):
                    continue
                total += os.path.getsize(path)
                if total > most:
                    return out
                out.append(path)
    return out


def copy(files, to):
    for f in files:
        target = os.path.join(to, f[1:])
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(f, target)


def same(files, at):
    return all(filecmp.cmp(f, os.path.join(at, f[1:]), shallow=False) for f in files)


def verify_by_fio(path, cwd, *options):
    run("fio", "--name=v", f"--filename={path}", "--rw=randwrite", "--iodepth=32",
        "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0",
        "--randrepeat=0", *options, cwd=cwd)


def work_on(m, c, kind, at):
    """Random operations against a model, and fio at depth 32, on files of the file system."""
    path = os.path.join(at, "exercised")
    with open(path, "wb") as f:
        f.truncate(8 * MIB)
    # Past the page cache file systems take whole sectors only, which is fio's part.
    exercise(c, f"{kind}: a file is as the model says", path, random.randrange(1 << 32), 500, 12 * MIB,
             ways=("cached",))
    if shutil.which("fio"):
        verify_by_fio(os.path.join(at, "fio"), m.tmp, "--direct=1", "--ioengine=libaio",
                      "--bs=4k-64k", "--size=32m")
        c.check(f"{kind}: fio verifies at depth 32", True)


def filesystem(m, c, kind, options, files):
    make, fsck = KINDS[kind]
    disk, at = m.path(kind, "disk.raw"), os.path.join(m.tmp, "fs")
    half = len(files) // 2
    with Loop(disk, *options) as dev:
        run(*make, dev)
        with At(dev, at):
            copy(files[:half], at)
            run("sync", "-f", at)
            os.mkdir(m.path(kind, "snapshots/middle"))
            work_on(m, c, kind, at)
            copy(files[half:], at)
            run("fstrim", at)
        with At(dev, at):
            c.check(f"{kind}: what was copied in is there", same(files, at))
    run(*fsck, disk)
    c.check(f"{kind}: clean", True)
    # Its log wants to be replayed, as after a crash, so it has to be written to.
    m.ask(f"clone {kind}@middle again-{kind}")
    with Loop(m.path(f"again-{kind}", "disk.raw"), *options) as dev:
        with At(dev, at):
            c.check(f"{kind}: a clone of the snapshot has what was there at its time",
                    same(files[:half], at))
    run(*fsck, m.path(f"again-{kind}", "disk.raw"))
    c.check(f"{kind}: and is clean", True)


def filesystems(m, c):
    if os.geteuid() != 0 or subprocess.run(["losetup", "-f"], capture_output=True).returncode != 0:
        print("skipped: file systems (needs root and loop devices)")
        return
    files = some_files(200 * MIB)
    known = open("/proc/filesystems").read().split()
    for i, kind in enumerate(KINDS):
        tools = [KINDS[kind][0][0], KINDS[kind][1][0]]
        missing = [t for t in tools if not shutil.which(t)] + [kind] * (kind not in known)
        if missing:
            print(f"skipped: {kind} ({', '.join(missing)} not here)")
            continue
        # Through the page cache and past it.
        try:
            filesystem(m, c, kind, ["--direct-io=on"] if i % 2 else [], files)
        except (OSError, RuntimeError) as e:
            c.check(f"{kind}: all steps go well", False, f"{e}")


def pool_on_a_mount(exe, m, c):
    """A pool whose file lies on a file system on a disk of another: what the kernel has to write out
    for the one waits for the other, down to the host."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        return
    at = os.path.join(m.tmp, "fs")
    data = os.path.join(m.tmp, "data")
    with open(data, "wb") as f:
        f.write(os.urandom(64 * MIB))
    with Loop(m.path("below/disk.raw")) as dev:
        run("mkfs.ext4", "-q", "-F", dev)
        with At(dev, at), Mounted(exe, where=at, disk=256 * MIB) as inner:
            for off in (0, 128):
                run("dd", f"if={data}", f"of={inner.path('disk/disk.raw')}", "bs=1M", "conv=notrunc,fsync",
                    f"seek={off}", "status=none")
            run("sync", "-f", at)
            run("cmp", "-n", str(64 * MIB), data, inner.path("disk/disk.raw"))
            c.check("a pool on a disk of a mount is written and read", True)
            status, out = inner.stop()
            c.check("and its server ends well", status == 0, out)


def fio(m, c):
    if not shutil.which("fio"):
        print("skipped: fio is not installed")
        return
    for what, options in (
            ("at depth 32, past the page cache", ["--direct=1", "--ioengine=libaio", "--bs=512-64k",
                                                  "--bs_unaligned=0"]),
            ("by four, each its own part", ["--direct=1", "--ioengine=psync", "--numjobs=4",
                                            "--size=16m", "--offset_increment=16m", "--bs=4k-32k"]),
            ("through the page cache, syncing", ["--ioengine=psync", "--bs=1k-128k", "--fsync=64"]),
            ("mapped", ["--ioengine=mmap", "--bs=4k"])):
        try:
            verify_by_fio(m.path("fio/disk.raw"), m.tmp, "--size=64m", "--allow_file_create=0", *options)
            c.check(f"fio verifies {what}", True)
        except RuntimeError as e:
            c.check(f"fio verifies {what}", False, f"{e}")


def main():
    skip_unless_fuse()
    c = Checks()
    size = 512 * MIB
    with Mounted(sys.argv[1], ext4=size, xfs=size, btrfs=size, below=size, fio=64 * MIB) as m:
        fio(m, c)
        pool_on_a_mount(sys.argv[1], m, c)
        filesystems(m, c)
        status, out = m.stop()
        c.check("the server ends well", status == 0, out)
    c.end()


if __name__ == "__main__":
    main()
