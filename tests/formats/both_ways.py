#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every format in and out, with disks that are sparse, full and of odd sizes; QEMU's own tools judge.

    both_ways.py VDISK [SCRATCH]
"""
import os
import socket
import subprocess

from images import KINDS, MIB, check, disks, identical, main, make_raw, qemu_img


def option(fmt, sub):
    if fmt == "vdi":
        return ["-o", "static=on"] if sub else []
    if fmt == "vpc":
        return ["-o", "force_size=on" + (",subformat=fixed" if sub else "")]
    return ["-o", "subformat=" + sub] if sub else []


def imports(c):
    """what QEMU wrote is imported right, in every format"""
    for name, raw in disks(c.dir):
        for fmt, sub in KINDS:
            image = c.path(f"{name}.{fmt}")
            qemu_img("convert", "-O", fmt, *option(fmt, sub), raw, image)
            c.vdisk.run("import", image, c.path("a.vdk"), "--format", fmt)
            c.vdisk.run("export", c.path("a.vdk"), c.path("a.raw"))
            identical(c.path("a.raw"), "raw", raw)
            c.remove("a.vdk", "a.raw", os.path.basename(image))


def exports(c):
    """what is exported is identical to QEMU, in every format, and verifies"""
    for name, raw in disks(c.dir):
        pool = c.path("b.vdk")
        c.vdisk.run("import", raw, pool, "--verify")
        for fmt, sub in KINDS:
            args = ["--subformat", sub] if sub else []
            c.vdisk.run("export", pool, c.path("b.img"), "--format", fmt, "--verify", *args)
            identical(c.path("b.img"), fmt, raw)
            c.remove("b.img")
        c.remove("b.vdk")


def compressed(c):
    """--compress makes compressed clusters, and fewer bytes"""
    raw = c.path("text.raw")
    with open(raw, "wb") as f:
        f.write(b"the same again " * (8 * MIB // 15))
        f.truncate(16 * MIB)
    c.vdisk.run("import", raw, c.path("c.vdk"))
    c.vdisk.run("export", c.path("c.vdk"), c.path("c.qcow2"), "--format", "qcow2", "--compress",
                "--verify")
    identical(c.path("c.qcow2"), "qcow2", raw)
    check(os.path.getsize(c.path("c.qcow2")) < 2 * MIB, "it is not compressed")
    c.vdisk.run("convert", c.path("c.qcow2"), c.path("c.vmdk"), "--source-format", "qcow2",
                "--format", "vmdk", "--subformat", "streamOptimized", "--verify")
    identical(c.path("c.vmdk"), "vmdk", raw)


def converts(c):
    """from each format to each other, without a pool"""
    raw = make_raw(c.path("d.raw"), 9 * MIB, [(MIB, MIB), (8 * MIB - 512, 1024)])
    last, last_format = raw, "raw"
    for fmt, sub in KINDS + [("raw", None)]:
        to = c.path(f"d-{fmt}-{sub}.img")
        args = ["--subformat", sub] if sub else []
        c.vdisk.run("convert", last, to, "--source-format", last_format, "--format", fmt, *args)
        identical(to, fmt, raw)
        last, last_format = to, fmt
    status, out, _ = c.vdisk.try_run("convert", raw, c.path("d.qcow2"), "--format", "qcow2",
                                     "--json", "--progress=json")
    check(status == 0 and '"bytes": 9437184' in out, f"--json says {out}")


class NbdServer:
    """QEMU's server of one image, at a unix socket."""

    def __init__(self, c, image, fmt, *args):
        self.path = c.path("nbd.sock")
        self.process = subprocess.Popen(["qemu-nbd", "-t", "-f", fmt, "-k", self.path, *args, image])
        while self.process.poll() is None:
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(self.path)
                    return
            except OSError:
                pass

    def __enter__(self):
        return f"nbd+unix:///exp?socket={self.path}"

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def servers(c):
    """NBD servers are sources and targets, with one connection or several"""
    raw = make_raw(c.path("n.raw"), 20 * MIB, [(0, MIB), (15 * MIB, 2 * MIB)])
    for share in ("1", "8"):
        # A target that is not zero, and larger.
        to = make_raw(c.path("n.img"), 21 * MIB, [(0, 21 * MIB)], seed=2)
        with NbdServer(c, raw, "raw", "-x", "exp", "-r", "-e", share) as uri:
            c.vdisk.run("import", uri, c.path("n.vdk"), "--verify")
        with NbdServer(c, to, "raw", "-x", "exp", "-e", share) as uri:
            c.vdisk.run("export", c.path("n.vdk"), uri, "--verify")
        identical(to, "raw", raw)
        with NbdServer(c, raw, "raw", "-x", "exp", "-r", "-e", share) as uri:
            c.vdisk.run("convert", uri, c.path("n.vmdk"), "--format", "vmdk", "--subformat",
                        "streamOptimized", "--verify")
            line = c.refused("export", c.path("n.vdk"), uri)
            check("read-only" in line, line)
            line = c.refused("import", uri.replace("/exp", "/other"), c.path("m.vdk"))
            check('does not serve "other"' in line, line)
            check(not os.path.exists(c.path("m.vdk")), "a refused import leaves a pool")
        identical(c.path("n.vmdk"), "vmdk", raw)
        c.remove("n.vdk", "n.img", "n.vmdk")


def odd_server(c):
    """a server whose size is no multiple of 512 is padded with zeroes"""
    with open(c.path("o.raw"), "wb") as f:
        f.write(b"\xff" * 1000)
    command = (f"vdisk=$1; shift; exec \"$vdisk\" import \"$uri\" {c.path('o.vdk')}")
    done = subprocess.run(["nbdkit", "-U", "-", "file", c.path("o.raw"), "--run",
                           command.replace("$1", c.vdisk.program).replace("; shift", "")],
                          env=c.vdisk.env, capture_output=True, text=True)
    check(done.returncode == 0, done.stderr)
    c.vdisk.run("export", c.path("o.vdk"), c.path("p.raw"))
    with open(c.path("p.raw"), "rb") as f:
        check(f.read() == b"\xff" * 1000 + bytes(24), "the padding is wrong")


def served(c):
    """jobs of a server: an import and an export of images, detached too"""
    raw = make_raw(c.path("s.raw"), 40 * MIB, [(0, 20 * MIB)])
    qemu_img("convert", "-O", "qcow2", raw, c.path("s.qcow2"))
    c.vdisk.run("create", c.path("s.vdk"), "--size", "1M")
    pool = c.path("s.vdk")
    with c.vdisk.serve(pool, c.path("door.sock")) as server:
        c.vdisk.run("import", c.path("s.qcow2"), pool + ":a", "--format", "qcow2", "--verify")
        c.vdisk.run("export", pool + ":a", c.path("s1.vhdx"), "--format", "vhdx", "--verify")
        c.vdisk.run("export", pool + ":a", c.path("s1.vmdk"), "--format", "vmdk", "--subformat",
                    "streamOptimized")
        c.vdisk.run("import", c.path("s.qcow2"), pool + ":b", "--format", "qcow2", "--detach")
        c.vdisk.run("job", "wait", pool)
        c.vdisk.run("export", pool + ":b", c.path("s2.vdi"), "--format", "vdi", "--detach")
        c.vdisk.run("job", "wait", pool)
        server.stop()
    for path, fmt in (("s1.vhdx", "vhdx"), ("s1.vmdk", "vmdk"), ("s2.vdi", "vdi")):
        identical(c.path(path), fmt, raw)
    jobs = c.vdisk.json("job", "list", pool)["jobs"]
    check(jobs == [], f"jobs are left: {jobs}")
    # The same without a server: the detached process is the owner.
    c.vdisk.run("export", pool + ":b", c.path("s3.vdi"), "--format", "vdi", "--detach")
    while c.vdisk.try_run("info", pool)[0] == 0 and not os.path.exists(c.path("s3.vdi")):
        pass
    identical(c.path("s3.vdi"), "vdi", raw)


def block_device(c):
    """a block device is source and target (where this machine allows one)"""
    raw = make_raw(c.path("k.raw"), 8 * MIB, [(MIB, MIB)])
    file = make_raw(c.path("k.img"), 16 * MIB, [(0, 16 * MIB)], seed=3)
    made = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True)
    if made.returncode != 0:
        print(f"skipped: no loop device: {made.stderr.strip()}")
        return
    device = made.stdout.strip()
    try:
        c.vdisk.run("convert", raw, device, "--format", "qcow2", "--overwrite", "--verify")
        identical(device, "qcow2", raw)
        c.vdisk.run("import", device, c.path("k.vdk"), "--format", "qcow2", "--verify")
        check("only raw and plain qcow2" in
              c.refused("convert", raw, device, "--format", "vdi", "--overwrite"), "vdi on a device")
        c.vdisk.run("export", c.path("k.vdk"), device, "--overwrite", "--verify")
        identical(device, "raw", raw)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


main("formats both ways", [imports, exports, compressed, converts, servers, odd_server, served,
                           block_device])
