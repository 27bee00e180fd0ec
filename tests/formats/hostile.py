#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images that refer to what is none of theirs, that are damaged, or that lie. Each must be refused in
one line, or give a read error, and leave neither a volume nor a file.

    hostile.py VDISK [SCRATCH]
"""
import os
import random
import struct
import subprocess

from images import MIB, check, main, make_raw, qemu_img


def refuse(c, image, fmt, words, *args):
    """An import into a pool that exists, one into a file to be made, and a conversion."""
    pool = c.path("pool.vdk")
    before = sorted(os.listdir(c.dir))
    for command in (["import", image, pool + ":v", "--format", fmt],
                    ["import", image, c.path("new.vdk"), "--format", fmt],
                    ["convert", image, c.path("new.raw"), "--source-format", fmt],
                    ["convert", image, c.path("new.q"), "--source-format", fmt, "--format", "qcow2",
                     "--compress"]):
        line = c.refused(*command, *args)
        check(words in line, f"{words!r} is not said: {line}")
    volumes = [v["name"] for v in c.vdisk.json("ls", pool)["volumes"]]
    check(volumes == ["disk"], f"{image} left a volume: {volumes}")
    check(sorted(os.listdir(c.dir)) == before, f"{image} left files: {os.listdir(c.dir)}")


def patch(path, off, data):
    with open(path, "r+b") as f:
        f.seek(off)
        f.write(data)


def fresh(c, name, fmt="qcow2", *options):
    """An image with something in it."""
    raw = c.path("seed.raw")
    if not os.path.exists(raw):
        make_raw(raw, 4 * MIB, [(0, 2 * MIB)])
    image = c.path(name)
    qemu_img("convert", "-O", fmt, *options, raw, image)
    return image


def with_backing(c, name, backing, fmt):
    """A qcow2 header that names a backing file, which QEMU's tools would refuse to write."""
    image = c.path(name)
    qemu_img("create", "-f", "qcow2", image, "4M")
    text = backing.encode()
    ext = b""
    if fmt:
        f = fmt.encode()
        ext = struct.pack(">II", 0xE2792ACA, len(f)) + f + bytes(-len(f) % 8)
    ext += bytes(8)
    patch(image, 104 if header_len(image) == 104 else 112, ext)
    patch(image, 1024, text)
    patch(image, 8, struct.pack(">QI", 1024, len(text)))
    return image


def header_len(image):
    with open(image, "rb") as f:
        f.seek(100)
        return struct.unpack(">I", f.read(4))[0]


def begin(c):
    """(a pool to import into)"""
    c.vdisk.run("create", c.path("pool.vdk"), "--size", "1M")


def outside(c):
    """a backing file outside the image's directory, by any way of naming it"""
    os.symlink("/etc/passwd", c.path("innocent"))
    for i, name in enumerate(["/etc/passwd", os.path.relpath("/etc/passwd", c.dir), "innocent",
                              "./innocent", "/proc/self/environ", "/dev/zero", "/dev/null",
                              "/etc/no-such-file"]):
        image = with_backing(c, f"out{i}.qcow2", name, "raw")
        refuse(c, image, "qcow2", "outside its own directory")
    # Below a file that is all right.
    with_backing(c, "low.qcow2", "/etc/passwd", "raw")
    image = with_backing(c, "high.qcow2", "low.qcow2", "qcow2")
    refuse(c, image, "qcow2", "outside its own directory")


def protocols(c):
    """protocols and json: as names, which --trust-source does not allow either"""
    for i, name in enumerate(['json:{"driver":"file","filename":"/etc/passwd"}',
                              "nbd://127.0.0.1:1/x", "nbd+unix:///x?socket=/tmp/x",
                              "nbd:127.0.0.1:1", "file:/etc/passwd", "host_device:/dev/sda",
                              "fat:/etc", "http://127.0.0.1/x", "ssh://localhost/etc/passwd"]):
        image = with_backing(c, f"proto{i}.qcow2", name, "raw")
        refuse(c, image, "qcow2", "only plain files are followed")
        refuse(c, image, "qcow2", "only plain files are followed", "--trust-source")


def no_format(c):
    """a backing file whose format is not recorded, and which looks like an image"""
    with_backing(c, "inner.qcow2", "/etc/passwd", "raw")
    image = with_backing(c, "outer.qcow2", "inner.qcow2", None)
    refuse(c, image, "qcow2", "does not say what its backing file")
    refuse(c, with_backing(c, "odd.qcow2", "seed.raw", "luks"), "qcow2", "cannot be") \
        if os.path.exists(c.path("seed.raw")) else None


def loops(c):
    """an image that is its own backing file, and two that are each other's"""
    refuse(c, with_backing(c, "self.qcow2", "self.qcow2", "qcow2"), "qcow2", "refers to itself")
    with_backing(c, "ping.qcow2", "pong.qcow2", "qcow2")
    refuse(c, with_backing(c, "pong.qcow2", "ping.qcow2", "qcow2"), "qcow2", "refers to itself")


def missing(c):
    """a backing file that is not there"""
    refuse(c, with_backing(c, "gone.qcow2", "nowhere.raw", "raw"), "qcow2", "cannot be opened")


def data_files(c):
    """an external data file elsewhere, through json:, or not named at all"""
    for i, name in enumerate(["/etc/passwd", "json:{}", "../x", None]):
        image = c.path(f"data{i}.qcow2")
        qemu_img("create", "-f", "qcow2", image, "4M")
        patch(image, 72, struct.pack(">Q", 4))
        text = (name or "").encode()
        ext = struct.pack(">II", 0x44415441, len(text)) + text + bytes(-len(text) % 8)
        patch(image, header_len(image), (ext if name else b"") + bytes(8))
        refuse(c, image, "qcow2", {0: "outside its", 1: "only plain files", 2: "refers to",
                                   3: "data file is missing"}[i])


def vmdk_names(c):
    """vmdk descriptors that name files elsewhere, and what only looks as if it had data"""
    head = '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="{}"\n'
    for i, (kind, line, words) in enumerate([
            ("monolithicFlat", 'RW 8 FLAT "/etc/passwd" 0', "outside its own"),
            ("twoGbMaxExtentFlat", 'RW 8 FLAT "innocent" 0', "outside its own"),
            ("monolithicFlat", 'RW 8 FLAT "json:{}" 0', "only plain files"),
            ("twoGbMaxExtentSparse", 'RW 8 SPARSE "pool.vdk"', "is no VMDK extent"),
            ("fullDevice", 'RW 8 FLAT "/dev/sda" 0', "subformat is unknown"),
            ("monolithicFlat", 'RW 8 RAW "/dev/sda" 0', "extent of an unknown kind"),
            ("monolithicFlat", 'RW 99999999999999999999 FLAT "pool.vdk" 0', "cannot be one")]):
        image = c.path(f"desc{i}.vmdk")
        with open(image, "w", encoding="utf-8") as f:
            f.write(head.format(kind) + "\n" + line + "\n")
        refuse(c, image, "vmdk", words)
    image = fresh(c, "empty.vmdk", "vmdk")
    patch(image, 12, bytes(8))  # capacity 0: QEMU would take the descriptor inside for the disk
    refuse(c, image, "vmdk", "without data of its own")
    image = fresh(c, "parent.vmdk", "vmdk")
    with open(image, "rb") as f:
        at = f.read(1 << 16).index(b"parentCID=ffffffff")
    patch(image, at, b"parentCID=00000001\nparentFileNameHint=\"/etc/passwd\"\n")
    refuse(c, image, "vmdk", "outside its own")


def vhd_parent(c):
    """a differencing VHD, whose parent nobody reads"""
    image = fresh(c, "diff.vpc", "vpc")
    patch(image, 63, b"\4")
    refuse(c, image, "vpc", "differencing")


def encrypted(c):
    """an encrypted image"""
    image = fresh(c, "secret.qcow2")
    patch(image, 32, struct.pack(">I", 2))
    refuse(c, image, "qcow2", "encrypted")


def truncated(c):
    """headers that end too early, in every format"""
    for fmt in ("qcow2", "vmdk", "vdi", "vhdx", "vpc"):
        for size in (0, 3, 40, 100, 511):
            image = fresh(c, "short." + fmt, fmt)
            with open(image, "r+b") as f:
                f.truncate(size)
            refuse(c, image, fmt, "")
        os.unlink(image)


def cut_short(c):
    """files that end before their data does, which QEMU would read as zeroes"""
    for fmt, options in (("qcow2", []), ("qcow2", ["-c"]), ("vmdk", []), ("vdi", []), ("vhdx", []),
                         ("vpc", []), ("vmdk", ["-o", "subformat=streamOptimized"]),
                         ("qcow2", ["-o", "extended_l2=on"]), ("vdi", ["-o", "static=on"])):
        for part in (0.1, 0.5, 0.95):
            image = fresh(c, "cut." + fmt, fmt, *options)
            with open(image, "r+b") as f:
                f.truncate(int(os.path.getsize(image) * part))
            refuse(c, image, fmt, "")
        os.unlink(image)


def huge(c):
    """sizes beyond all bounds"""
    for size in (1 << 62, (1 << 63) - 512, (1 << 64) - 512):
        image = fresh(c, "huge.qcow2")
        patch(image, 24, struct.pack(">Q", size))
        refuse(c, image, "qcow2", "")
    image = fresh(c, "huge.vdi", "vdi")
    patch(image, 368, struct.pack("<Q", 1 << 62))
    refuse(c, image, "vdi", "")
    image = fresh(c, "huge.vmdk", "vmdk")
    patch(image, 12, struct.pack("<Q", 1 << 62))
    refuse(c, image, "vmdk", "")


def rubbish(c):
    """random damage: never a crash or a hang; a volume is whole or not there"""
    rng = random.Random(7)
    pool = c.path("pool.vdk")
    for i in range(40):
        fmt = rng.choice(["qcow2", "vmdk", "vdi", "vhdx", "vpc"])
        image = fresh(c, "bad." + fmt, fmt)
        size = os.path.getsize(image)
        for _ in range(rng.choice([1, 4, 40])):
            off = rng.randrange(min(size, rng.choice([512, 4096, 1 << 18])))
            patch(image, off, rng.randbytes(rng.choice([1, 4, 8])))
        status, _, err = c.vdisk.try_run("import", image, pool + ":bad", "--format", fmt)
        check(0 <= status < 10 and len(err.splitlines()) <= 1, f"{i} {fmt}: {status} {err}")
        volumes = [v["name"] for v in c.vdisk.json("ls", pool)["volumes"]]
        check(volumes == (["disk"] if status else ["disk", "bad"]), f"{i} {fmt}: {volumes}")
        if status == 0:
            c.vdisk.run("volume", "delete", pool + ":bad")
        os.unlink(image)
    c.vdisk.run("check", pool, "--data")


def unreadable(c):
    """clusters that lie beyond the file's end: a read error in the middle, and nothing is left"""
    image = fresh(c, "hole.qcow2")
    with open(image, "r+b") as f:
        f.seek(40)
        l1 = struct.unpack(">Q", f.read(8))[0]
        f.seek(l1)
        l2 = struct.unpack(">Q", f.read(8))[0] & ((1 << 56) - 512)
        f.seek(l2 + 8 * 20)
        f.write(struct.pack(">Q", 1 << 63 | 3 << 16 | 512))  # not aligned to a cluster
    refuse(c, image, "qcow2", "")


def looks(c):
    """what looks like an image is neither taken for raw nor for an image without --format"""
    for fmt in ("qcow2", "vmdk", "vdi", "vhdx", "vpc"):
        image = fresh(c, "like." + fmt, fmt)
        line = c.refused("import", image, c.path("new.vdk"))
        check(f"looks like a {fmt} image" in line and f"--format {fmt}" in line, line)
        check(not os.path.exists(c.path("new.vdk")), "a pool is left")
        c.vdisk.run("import", image, c.path("new.vdk"), "--format", "raw")
        c.vdisk.run("export", c.path("new.vdk"), c.path("new.raw"))
        size = os.path.getsize(image)
        check(subprocess.run(["cmp", "-n", str(size), image, c.path("new.raw")]).returncode == 0,
              "raw is not byte by byte")
        c.remove("new.vdk", "new.raw")
        for other in ("qcow2", "vdi"):
            if other != fmt:
                line = c.refused("import", image, c.path("new.vdk"), "--format", other)
                check(f"is no {other} image" in line, line)


main("formats hostile", [begin, outside, protocols, no_format, loops, missing, data_files,
                         vmdk_names, vhd_parent, encrypted, truncated, cut_short, huge, rubbish, unreadable,
                         looks])
