#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is below the mount point: names, attributes, snapshots that come and go, partitions, what
changes behind the kernel's back, and what is refused.

usage: layout.py FUSE-SERVER
"""
import errno
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from mounted import MIB, Checks, Mounted, Refused, skip_unless_fuse  # noqa: E402

GPT = """label: gpt
start=2048, size=4096, name="first"
start=8192, size=2048, name="second"
"""
# Three primary ones and two logical ones.
MBR = """label: dos
start=2048, size=2048, type=83
start=4096, size=2048, type=83
start=8192, size=20480, type=5
start=10240, size=2048, type=83
start=14336, size=1024, type=83
"""


def put(path, off, data):
    with open(path, "r+b", buffering=0) as f:
        f.seek(off)
        f.write(data)


def get(path, off, length):
    with open(path, "rb", buffering=0) as f:
        f.seek(off)
        return f.read(length)


def tree(m, c):
    c.check("the volumes are at the top", sorted(os.listdir(m.mnt)) == ["disk", "other"])
    c.check("a volume has its disk, partitions and snapshots",
            sorted(os.listdir(m.path("disk"))) == ["disk.raw", "partitions", "snapshots"])
    for name in ("nothing", "disk/nothing", "disk/snapshots/nothing", "disk/partitions/1.raw",
                 "disk/partitions/x", "@", "disk@x", "n" * 127):
        c.errno(f"there is no {name[:30]}", errno.ENOENT, os.stat, m.path(name))
    st, names = os.stat(m.path("disk/disk.raw")), os.statvfs(m.mnt)
    c.check("the size is the volume's", st.st_size == 16 * MIB)
    c.check("files are their owner's", st.st_mode & 0o777 == 0o600 and st.st_uid == os.geteuid())
    c.check("numbers are listed as they are",
            {e.name: e.inode() for e in os.scandir(m.path("disk"))} ==
            {n: os.stat(m.path("disk", n)).st_ino for n in os.listdir(m.path("disk"))})
    c.check("the pool's room is told", 0 < names.f_bfree <= names.f_blocks)
    put(m.path("disk/disk.raw"), MIB, os.urandom(2 * MIB))
    blocks = os.stat(m.path("disk/disk.raw")).st_blocks
    c.check("st_blocks is what is in use", blocks == 2 * MIB // 512, f"{blocks}")


def xattrs(m, c):
    path = m.path("disk/disk.raw")
    values = {n: os.getxattr(path, n).decode() for n in os.listxattr(path)}
    c.check("id, state and usage are extended attributes",
            values.get("user.vdisk.state") == "read-write" and values["user.vdisk.volume"] == "disk"
            and len(values["user.vdisk.id"]) == 36 and int(values["user.vdisk.usage"]) == 2 * MIB,
            f"{values}")
    c.errno("others there are not", errno.ENODATA, os.getxattr, path, "user.vdisk.nothing")


def snapshots(m, c):
    disk, snaps = m.path("disk/disk.raw"), m.path("disk/snapshots")
    put(disk, 0, b"before")
    os.mkdir(os.path.join(snaps, "one"))
    put(disk, 0, b"after.")
    one = os.path.join(snaps, "one/disk.raw")
    c.check("mkdir takes a snapshot", get(one, 0, 6) == b"before" and get(disk, 0, 6) == b"after.")
    c.check("it says so", os.getxattr(one, "user.vdisk.state") == b"snapshot"
            and os.getxattr(one, "user.vdisk.snapshot") == b"one")
    c.check("and is read-only", os.stat(one).st_mode & 0o222 == 0)
    c.errno("also for root", errno.EROFS if os.geteuid() == 0 else errno.EACCES, os.open, one,
            os.O_WRONLY)
    c.errno("no two of one name", errno.EEXIST, os.mkdir, os.path.join(snaps, "one"))
    c.errno("no name that is none", errno.EINVAL, os.mkdir, os.path.join(snaps, "a b"))
    m.ask("create disk@two")
    c.check("snapshots that a command takes appear", sorted(os.listdir(snaps)) == ["one", "two"])
    c.check("with what is in them", get(os.path.join(snaps, "two/disk.raw"), 0, 6) == b"after.")
    m.ask("delete disk@two")
    c.errno("and disappear", errno.ENOENT, os.stat, os.path.join(snaps, "two"))
    with open(disk, "rb", buffering=0) as f:
        c.check("(in the page cache)", f.read(6) == b"after.")
        m.ask("rollback disk@one")
        c.comes("a roll back is seen through an open file", lambda: os.pread(f.fileno(), 6, 0),
                b"before")
    c.check("what was there is kept beside", len(os.listdir(snaps)) == 2)
    for name in os.listdir(snaps):
        os.rmdir(os.path.join(snaps, name))
    c.check("rmdir deletes them", os.listdir(snaps) == [])
    c.errno("one that is not there cannot be", errno.ENOENT, os.rmdir, os.path.join(snaps, "one"))


def sfdisk(path, script):
    subprocess.run(["sfdisk", "-q", "--no-reread", "--no-tell-kernel", path], input=script,
                   text=True, check=True)


def partitions(m, c):
    disk, parts = m.path("other/disk.raw"), m.path("other/partitions")
    if not shutil.which("sfdisk"):
        print("skipped: sfdisk is not installed")
        return
    sfdisk(disk, GPT)
    sizes = {n: os.stat(os.path.join(parts, n)).st_size for n in sorted(os.listdir(parts))}
    c.check("GPT partitions are files", sizes == {"1.raw": 2 * MIB, "2.raw": MIB}, f"{sizes}")
    second, at = os.path.join(parts, "2.raw"), 8192 * 512
    c.check("(in the page cache)", get(disk, at, 8) == bytes(8))
    put(second, 0, b"by part.")
    c.check("what is written to one is in the disk at once", get(disk, at, 8) == b"by part.")
    put(disk, at + 3, b"disk.")
    c.check("and the other way round", get(second, 0, 8) == b"by disk.")
    put(second, MIB - 3, b"end")
    with open(second, "r+b", buffering=0) as f:
        f.seek(MIB - 3)
        c.check("a write past its end is cut", f.write(b"endend") == 3)
        c.errno("and one behind it refused", errno.ENOSPC, f.write, b"x")
    c.check("nothing came behind it", get(disk, at + MIB, 4) == bytes(4))
    c.errno("a partition does not grow", errno.EPERM, os.truncate, second, 2 * MIB)
    os.mkdir(m.path("other/snapshots/gpt"))
    sfdisk(disk, MBR)
    sizes = {n: os.stat(os.path.join(parts, n)).st_size for n in sorted(os.listdir(parts))}
    c.check("MBR partitions, logical ones too, but not what holds these",
            sizes == {"1.raw": MIB, "2.raw": MIB, "5.raw": MIB, "6.raw": MIB // 2}, f"{sizes}")
    old = m.path("other/snapshots/gpt/partitions")
    c.check("a snapshot has those of its time", sorted(os.listdir(old)) == ["1.raw", "2.raw"])
    c.check("with what was in them", get(os.path.join(old, "2.raw"), 0, 8) == b"by disk.")


def hostile(m, c):
    """Tables that lie. What is shown lies inside the disk, and the server lives."""
    disk, parts = m.path("other/disk.raw"), m.path("other/partitions")
    size = os.stat(disk).st_size

    def table(*entries):
        out = bytearray(512)
        for i, (kind, start, length) in enumerate(entries):
            out[446 + 16 * i + 4] = kind
            out[454 + 16 * i:458 + 16 * i] = start.to_bytes(4, "little")
            out[458 + 16 * i:462 + 16 * i] = length.to_bytes(4, "little")
        out[510:] = b"\x55\xaa"
        return bytes(out)

    put(disk, 0, bytes(64 << 10))
    put(disk, size - (64 << 10), bytes(64 << 10))
    put(disk, 0, table((0x83, 2048, 0xFFFFFFFF), (0x83, 0xFFFFFFF0, 100), (0x83, 4096, 8)))
    c.check("partitions that stick out of the disk are left out", os.listdir(parts) == ["3.raw"])
    put(disk, 0, table((5, 2048, 8192)))
    for at in (2048, 2058):  # a chain that bites its tail
        put(disk, at * 512, table((0x83, 1, 4), (5, 10 if at == 2048 else 0, 8)))
    shown = os.listdir(parts)
    c.check("a chain without an end ends", len(shown) <= 256, f"{len(shown)}")
    put(disk, 0, os.urandom(64 << 10))
    c.check("rubbish is no table", len(os.listdir(parts)) <= 256)


def changes(m, c):
    disk = m.path("disk/disk.raw")
    m.ask(f"resize disk {20 * MIB}")
    c.check("a resize by command is seen", os.stat(disk).st_size == 20 * MIB)
    os.truncate(disk, 24 * MIB)
    c.check("truncate grows a disk", os.stat(disk).st_size == 24 * MIB)
    with open(disk, "r+b", buffering=0) as f:
        c.errno("and does not shrink it", errno.EPERM, f.truncate, MIB)
        c.errno("sizes are whole sectors", errno.EINVAL, f.truncate, 25 * MIB + 1)
        f.seek(24 * MIB)
        c.errno("writing does not make it longer", errno.ENOSPC, f.write, b"x")
    put(disk, 0, b"stays")
    with open(disk, "wb"):
        pass
    c.check("O_TRUNC leaves it alone, as it does a block device",
            os.stat(disk).st_size == 24 * MIB and get(disk, 0, 5) == b"stays")
    m.ask("write disk 8192 512 65")
    c.check("what another door wrote is read after opening", get(disk, 8192, 2) == b"AA")
    m.ask("rename disk renamed")
    c.check("a renamed volume has its new name", sorted(os.listdir(m.mnt)) == ["other", "renamed"])
    with open(m.path("renamed/disk.raw"), "rb", buffering=0) as f:
        told = m.ask("clients")
        c.check("clients are told", len(told) == 1
                and told[0].startswith(f"client renamed ro pid {os.getpid()}, uid"), f"{told}")
        m.ask("rename renamed disk")
        c.check("renaming does not touch what is open",
                os.fstat(f.fileno()).st_size == 24 * MIB and f.read(5) == b"stays")
        try:
            m.ask("delete disk")
            c.check("a volume whose file is open is not deleted", False)
        except Refused as e:
            c.check("a volume whose file is open is not deleted", "volume-busy" in str(e), f"{e}")
    c.comes("nobody is told of when all is closed", lambda: m.ask("clients"), [])
    huge = (1 << 63) - MIB
    m.ask(f"volume huge {huge}")
    os.mkdir(m.path("huge/snapshots/empty"))
    for where in ("huge", "huge/snapshots/empty"):
        st = os.stat(m.path(where, "disk.raw"))
        c.check(f"{where}: as large as can be, and empty", (st.st_size, st.st_blocks) == (huge, 0))
        c.check(f"{where}: without partitions", os.listdir(m.path(where, "partitions")) == [])
    put(m.path("huge/disk.raw"), huge - 5, b"there")
    with open(m.path("huge/disk.raw"), "rb", buffering=0) as f:
        at = os.lseek(f.fileno(), 0, os.SEEK_DATA)
        c.check("its end is found", huge - 4096 <= at <= huge - 5, f"{at}")
    c.comes("a closed file is let go of", lambda: m.ask("clients"), [])
    m.ask("delete huge")
    m.ask("volume new 1048576")
    c.check("a new volume appears", os.stat(m.path("new/disk.raw")).st_size == MIB)
    m.ask("delete new")
    c.errno("a deleted one is gone", errno.ENOENT, os.stat, m.path("new/disk.raw"))


def refusals(m, c):
    disk = m.path("disk/disk.raw")
    for what, fn, args in (
            ("a file of one's own", lambda p: os.open(p, os.O_CREAT | os.O_WRONLY, 0o600),
             [m.path("disk/x")]),
            ("a volume by mkdir", os.mkdir, [m.path("x")]),
            ("removing a disk", os.unlink, [disk]),
            ("removing a volume", os.rmdir, [m.path("disk")]),
            ("renaming", os.rename, [disk, m.path("disk/x")]),
            ("linking", os.symlink, ["x", m.path("disk/x")]),
            ("other permissions", os.chmod, [disk, 0o777])):
        c.errno(f"refused: {what}", errno.EPERM, fn, *args)
    os.utime(disk, (1, 1000))
    c.check("times can be set", os.stat(disk).st_mtime == 1000)


def read_only(exe, where, c):
    with Mounted(exe, "--read-only", where=where) as m:
        c.errno("read-only: not written", errno.EROFS, os.open, m.path("disk/disk.raw"), os.O_RDWR)
        c.errno("read-only: no snapshot", errno.EROFS, os.mkdir, m.path("disk/snapshots/x"))
        c.check("read-only: read", get(m.path("disk/disk.raw"), 0, 5) == b"stays")


def main():
    skip_unless_fuse()
    c, exe = Checks(), sys.argv[1]
    with Mounted(exe, disk=16 * MIB, other=32 * MIB) as m:
        for part in (tree, xattrs, snapshots, partitions, hostile, changes, refusals):
            part(m, c)
        status, out = m.stop()
        c.check("the server ends well", status == 0, out)
        read_only(exe, m.tmp, c)
    c.end()


if __name__ == "__main__":
    main()
