#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What images have besides plain clusters, and images of several files.

    special.py VDISK [SCRATCH]
"""
import os
import subprocess

from images import MIB, check, identical, main, make_raw, qemu_img


def imported(c, image, fmt, *args):
    """The content of the image through a pool, as a raw file."""
    c.remove("x.vdk", "x.raw")
    c.vdisk.run("import", image, c.path("x.vdk"), "--format", fmt, "--verify", *args)
    c.vdisk.run("export", c.path("x.vdk"), c.path("x.raw"))
    return c.path("x.raw")


def io(image, fmt, *commands):
    args = [word for command in commands for word in ("-c", command)]
    # QEMU looks for a data file in the current directory.
    subprocess.run(["qemu-io", "-f", fmt, *args, image], check=True, capture_output=True,
                   cwd=os.path.dirname(image))


def subclusters(c):
    """qcow2 with subclusters, some of them written, zeroed, discarded"""
    image = c.path("sub.qcow2")
    qemu_img("create", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k", image, "64M")
    io(image, "qcow2", "write -P 1 4k 4k", "write -P 2 1M 300k", "write -z 1100k 8k",
       "write -P 3 40M 12k", "discard 1M 128k")
    identical(imported(c, image, "qcow2"), "raw", image, "qcow2")


def compressed(c):
    """qcow2 with compressed clusters among others"""
    raw = make_raw(c.path("z.raw"), 20 * MIB, [(0, MIB), (9 * MIB, 70000)])
    image = c.path("z.qcow2")
    qemu_img("convert", "-c", "-O", "qcow2", raw, image)
    io(image, "qcow2", "write -P 9 512k 100k")
    identical(imported(c, image, "qcow2"), "raw", image, "qcow2")


def snapshots(c):
    """qcow2 with internal snapshots: the present state counts"""
    image = c.path("snap.qcow2")
    qemu_img("create", "-f", "qcow2", image, "32M")
    io(image, "qcow2", "write -P 1 0 8M")
    qemu_img("snapshot", "-c", "one", image)
    io(image, "qcow2", "write -P 2 4M 1M", "discard 6M 1M")
    identical(imported(c, image, "qcow2"), "raw", image, "qcow2")


def data_file(c):
    """qcow2 with an external data file, raw or not, beside it"""
    for raw in ("on", "off"):
        image = c.path(f"ext-{raw}.qcow2")
        qemu_img("create", "-f", "qcow2", "-o",
                 f"data_file=ext-{raw}.data,data_file_raw={raw}", image, "32M", cwd=c.dir)
        io(image, "qcow2", "write -P 7 1M 3M", "write -P 8 31M 512")
        identical(imported(c, image, "qcow2"), "raw", image, "qcow2")


def old_version(c):
    """qcow2 version 2, and unusual cluster sizes"""
    for options in ("compat=0.10", "cluster_size=512", "cluster_size=2M", "refcount_bits=1"):
        image = c.path("old.qcow2")
        qemu_img("create", "-f", "qcow2", "-o", options, image, "16M")
        io(image, "qcow2", "write -P 4 0 1M", "write -P 5 15M 1000k")
        identical(imported(c, image, "qcow2"), "raw", image, "qcow2")


def chain(c):
    """a backing chain of 20, in a directory of its own, of several formats"""
    os.makedirs(c.path("chain/below"))
    below, below_format = "below/0.raw", "raw"
    make_raw(c.path("chain/below/0.raw"), 16 * MIB, [(0, 16 * MIB)])
    for i in range(1, 20):
        fmt = "vmdk" if i == 3 else "qcow2"
        image = c.path(f"chain/{i}.{fmt}")
        if i == 3:  # a vmdk over anything but a vmdk is not to be had
            qemu_img("convert", "-f", below_format, "-O", "vmdk", c.path(f"chain/{below}"), image)
        else:
            qemu_img("create", "-f", "qcow2", "-b", below, "-F", below_format, image)
        io(image, fmt, f"write -P {i} {i * 700}k 64k")
        below, below_format = f"{i}.{fmt}", fmt
    identical(imported(c, image, "qcow2"), "raw", image, "qcow2")
    # A name of another directory, through a link: the image's own directory is where it lies.
    os.symlink(image, c.path("link.qcow2"))
    identical(imported(c, c.path("link.qcow2"), "qcow2"), "raw", image, "qcow2")


def trusted(c):
    """a backing file elsewhere is followed with --trust-source only"""
    os.makedirs(c.path("away"))
    make_raw(c.path("away/base.raw"), 4 * MIB, [(0, MIB)])
    image = c.path("chain/far.qcow2")
    qemu_img("create", "-f", "qcow2", "-b", "../away/base.raw", "-F", "raw", image)
    line = c.refused("import", image, c.path("x2.vdk"), "--format", "qcow2")
    check("outside its own directory" in line and "--trust-source" in line, line)
    identical(imported(c, image, "qcow2", "--trust-source"), "raw", c.path("away/base.raw"))


def vmdk_files(c):
    """vmdk of several files: flat, split, and a delta over one"""
    raw = make_raw(c.path("v.raw"), 40 * MIB, [(0, MIB), (30 * MIB, MIB)])
    for sub in ("monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse"):
        image = c.path(f"{sub}.vmdk")
        qemu_img("convert", "-O", "vmdk", "-o", f"subformat={sub}", raw, image)
        identical(imported(c, image, "vmdk"), "raw", raw)
        delta = c.path(f"{sub}-delta.vmdk")
        qemu_img("create", "-f", "vmdk", "-b", f"{sub}.vmdk", "-F", "vmdk", delta)
        io(delta, "vmdk", "write -P 6 20M 2M")
        identical(imported(c, delta, "vmdk"), "raw", delta, "vmdk")


def large(c):
    """a vmdk of more than one extent of 2 GiB, and a disk of 2 TiB that is nearly empty"""
    raw = make_raw(c.path("l.raw"), 5 << 30, [(0, MIB), ((4 << 30) - 5000, 9000)])
    image = c.path("l.vmdk")
    qemu_img("convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", raw, image)
    identical(imported(c, image, "vmdk"), "raw", raw)
    qemu_img("create", "-f", "qcow2", c.path("huge.qcow2"), "2T")
    io(c.path("huge.qcow2"), "qcow2", "write -P 1 1T 1M")
    c.vdisk.run("import", c.path("huge.qcow2"), c.path("huge.vdk"), "--format", "qcow2")
    c.vdisk.run("export", c.path("huge.vdk"), c.path("out.qcow2"), "--format", "qcow2")
    identical(c.path("out.qcow2"), "qcow2", c.path("huge.qcow2"), "qcow2")


def busy_image(c):
    """an image that a guest has open is not read"""
    image = c.path("busy.qcow2")
    qemu_img("create", "-f", "qcow2", image, "16M")
    with subprocess.Popen(["qemu-io", "-f", "qcow2", image], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, bufsize=0) as holder:
        holder.stdin.write(b"write 0 4k\n")
        while b"bytes" not in holder.stdout.read(64):  # then it has it open
            pass
        line = c.refused("import", image, c.path("busy.vdk"), "--format", "qcow2")
        check("lock" in line and "busy.qcow2" in line, line)
        holder.stdin.close()


main("formats special", [subclusters, compressed, snapshots, data_file, old_version, chain, trusted,
                         vmdk_files, large, busy_image])
