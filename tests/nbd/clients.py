# SPDX-License-Identifier: MIT
"""The NBD door under the clients that people use: libnbd, its tools, QEMU's tools, fio, nbdkit.

usage: clients.py NBD-MEMORY-SERVER [unittest options]

A client that is not installed is skipped, and said so.
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from wire import Server  # noqa: E402

EXE = sys.argv.pop(1) if len(sys.argv) > 1 else "nbd-memory-server"
MIB = 1 << 20
SIZE = 64 * MIB


def needs(*tools):
    missing = [t for t in tools if not shutil.which(t)]
    return unittest.skipIf(missing, f"{', '.join(missing)} not installed")


def run(*args, **kw):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       errors="replace", timeout=240, **kw)
    if p.returncode != 0:
        raise AssertionError(f"{' '.join(args)}\nended with {p.returncode}:\n{p.stdout}")
    return p.stdout


def libnbd_python():
    """An interpreter that has libnbd's binding: not every Python of a machine does."""
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([python, "-c", "import nbd; nbd.NBD()"], cwd="/",
                          stderr=subprocess.DEVNULL).returncode == 0:
            return python
    return None


class Clients(unittest.TestCase):
    def setUp(self):
        self.server = Server(EXE, "--volume", f"full={SIZE}", "--fill", "--volume", f"vol={SIZE}",
                             "--volume", f"empty={SIZE}", "--snapshot", "full@monday", "--shuffle")
        self.addCleanup(self.server.__exit__, None)
        self.tmp = tempfile.TemporaryDirectory(prefix="vdisk-nbd-", dir="/var/tmp")
        self.addCleanup(self.tmp.cleanup)

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.server.path}"

    def file(self, name, size=0, seed=None):
        path = os.path.join(self.tmp.name, name)
        with open(path, "wb") as f:
            if seed is None:
                f.truncate(size)
            else:
                f.write(random.Random(seed).randbytes(size))
        return path

    def same(self, a, b):
        with open(a, "rb") as x, open(b, "rb") as y:
            while True:
                p, q = x.read(MIB), y.read(MIB)
                self.assertEqual(p, q)
                if not p:
                    break

    @needs("nbdinfo")
    def test_nbdinfo(self):
        j = json.loads(run("nbdinfo", "--json", self.uri("vol")))
        e = j["exports"][0]
        self.assertEqual(j["protocol"], "newstyle-fixed")
        self.assertTrue(j["structured"])
        self.assertEqual(e["export-size"], SIZE)
        self.assertEqual((e["block_size_minimum"], e["block_size_preferred"], e["block_size_maximum"]),
                         (512, 4096, 32 * MIB))
        for flag in ("can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero",
                     "can_multi_conn", "can_df", "can_cache"):
            self.assertTrue(e[flag], flag)
        self.assertFalse(e["is_read_only"])
        self.assertEqual(e["contexts"], ["base:allocation"])
        j = json.loads(run("nbdinfo", "--list", "--json", self.uri("")))
        self.assertEqual(sorted(e["export-name"] for e in j["exports"]),
                         ["empty", "full", "full@monday", "vol"])
        self.assertEqual(sorted(e["export-name"] for e in j["exports"] if e["is_read_only"]),
                         ["full@monday"])
        j = json.loads(run("nbdinfo", "--map", "--json", self.uri("empty")))
        self.assertEqual([(m["offset"], m["length"], m["type"]) for m in j], [(0, SIZE, 3)])

    @needs("nbdcopy")
    def test_nbdcopy(self):
        src, dst = self.file("src", SIZE, seed=1), self.file("dst", SIZE)
        for requests, size in ((64, 262144), (2, 32 * MIB), (256, 16384)):
            args = [f"--requests={requests}", f"--request-size={size}"]
            run("nbdcopy", "--flush", *args, src, self.uri("vol"))
            run("nbdcopy", *args, self.uri("vol"), dst)
            self.same(src, dst)
        # From export to export, with several connections to each.
        run("nbdcopy", "--connections=4", self.uri("full"), self.uri("vol"))
        run("nbdcopy", self.uri("vol"), dst)
        full = self.file("full", SIZE)
        run("nbdcopy", self.uri("full@monday"), full)
        self.same(full, dst)
        # And holes stay holes.
        run("nbdcopy", "--destination-is-zero", self.uri("empty"), self.uri("vol"))

    def test_libnbd(self):
        python = libnbd_python()
        if not python:
            self.skipTest("libnbd's Python binding not installed")
        script = f"""
import nbd
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri("{self.uri('vol')}")
assert h.get_size() == {SIZE}
assert h.get_block_size(nbd.SIZE_MINIMUM) == 512
h.pwrite(b"a" * 4096, 0, nbd.CMD_FLAG_FUA)
h.zero(4096, 4096, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_FAST_ZERO)
h.trim(65536, 65536, nbd.CMD_FLAG_FUA)
h.flush()
assert h.can_cache()
h.cache({SIZE}, 0)
assert h.pread(8192, 0) == b"a" * 4096 + bytes(4096)
parts = []
h.pread_structured(1048576, 0, lambda b, off, status, err: parts.append(len(b)), nbd.CMD_FLAG_DF)
assert parts == [1048576], parts
seen = []
h.block_status({SIZE}, 0, lambda ctx, off, entries, err: seen.append((ctx, entries)))
assert seen[0][0] == "base:allocation" and sum(seen[0][1][::2]) == {SIZE}, seen
chunks = []
h.pread_structured({16 * MIB}, 0, lambda b, off, status, err: chunks.append((len(b), off, status)))
assert sum(c[0] for c in chunks) == {16 * MIB}
assert any(c[2] == nbd.READ_HOLE for c in chunks)
# Errors have the right names.
h.set_strict_mode(0)
for call, error in ((lambda: h.pread(512, {SIZE}), "EINVAL"),
                    (lambda: h.pwrite(bytes(512), {SIZE}), "ENOSPC"),
                    (lambda: h.pread(100, 0), "EINVAL"),
                    (lambda: h.cache(4096, {SIZE}), "EINVAL")):
    try:
        call()
        raise SystemExit("no error")
    except nbd.Error as e:
        assert e.errno == error, (e.errno, error)
assert h.pread(512, 0) == b"a" * 512
h.shutdown()
for name in ("full@monday", "full"):
    r = nbd.NBD()
    r.connect_uri("nbd+unix:///" + name + "?socket={self.server.path}")
    assert r.is_read_only() == (name == "full@monday")
    assert r.pread(512, 512)[:8] == (512).to_bytes(8, "little")
    r.shutdown()
n = nbd.NBD()
try:
    n.connect_uri("nbd+unix:///none?socket={self.server.path}")
    raise SystemExit("no error")
except nbd.Error as e:
    assert e.errno == "ENOENT", str(e)
"""
        run(python, "-c", script, cwd=self.tmp.name)

    @needs("qemu-img")
    def test_qemu_img(self):
        info = json.loads(run("qemu-img", "info", "--output=json", self.uri("vol")))
        self.assertEqual(info["virtual-size"], SIZE)
        src, dst = self.file("src", SIZE // 2, seed=2), self.file("dst")
        with open(src, "ab") as f:
            f.truncate(SIZE)
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "16", src,
            self.uri("vol"))
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", src, self.uri("vol"))
        spans = json.loads(run("qemu-img", "map", "--output=json", self.uri("vol")))
        self.assertEqual(sum(s["length"] for s in spans if s["data"]), SIZE // 2)
        qcow2 = os.path.join(self.tmp.name, "q.qcow2")
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.uri("vol"), qcow2)
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", qcow2, dst)
        self.same(src, dst)
        run("qemu-img", "bench", "-w", "-d", "64", "-c", "20000", "-s", "4096", "-f", "raw",
            self.uri("vol"))

    @needs("qemu-io")
    def test_qemu_io(self):
        commands = ["write -P 0x11 0 1M", "write -f -P 0x22 512 512", "write -z 64k 64k",
                    "write -z -u 128k 64k", "discard 256k 256k", "flush",
                    "read -P 0x11 0 512", "read -P 0x22 512 512", "read -P 0x11 1k 63k",
                    "read -P 0 64k 128k", "read -P 0x11 192k 64k", "read -P 0 256k 256k",
                    "aio_write -P 0x33 1M 2M", "aio_write -P 0x44 4M 1M", "aio_read 0 1M",
                    "aio_flush", "read -P 0x33 1M 2M", "read -P 0x44 4M 1M",
                    "write -P 0x55 0 31M", "read -P 0x55 0 31M", "write -P 0x66 513 777",
                    "read -P 0x66 513 777", "read -P 0x55 1290 4096", "map"]
        out = run("qemu-io", "-f", "raw", "--discard=unmap",
                  *[a for c in commands for a in ("-c", c)], self.uri("vol"))
        self.assertNotIn("Pattern verification failed", out)
        self.assertNotIn("error", out.lower())

    @needs("fio")
    def test_fio_verifies(self):
        for name, extra in (("small", ["--rw=randwrite", "--bs=4k", "--iodepth=32"]),
                            ("odd", ["--rw=randwrite", "--bs=17k", "--iodepth=64", "--fsync=50"]),
                            ("sectors", ["--rw=randrw", "--bs=512", "--iodepth=64",
                                         "--size=8m"]),
                            ("trims", ["--rw=randtrimwrite", "--bs=8k", "--iodepth=16"]),
                            ("large", ["--rw=write", "--bs=4m", "--iodepth=8"])):
            verify = [] if name == "trims" else ["--verify=crc32c", "--verify_fatal=1"]
            run("fio", f"--name={name}", "--ioengine=nbd", f"--uri={self.uri('vol')}",
                "--size=32m", "--randseed=7", *extra, *verify,
                cwd=self.tmp.name)

    @needs("fio")
    def test_fio_many_connections(self):
        run("fio", "--ioengine=nbd", f"--uri={self.uri('vol')}", "--numjobs=8", "--size=8m",
            "--offset_increment=8m", "--name=jobs", "--rw=randwrite", "--bs=4k", "--iodepth=16",
            "--verify=crc32c", "--verify_fatal=1", "--group_reporting", cwd=self.tmp.name)

    @needs("qemu-storage-daemon", "nbdinfo")
    def test_qemu_reexports(self):
        """QEMU as our client, with a client of its own: its NBD driver's whole repertoire."""
        sock = os.path.join(self.tmp.name, "q.sock")
        pid = os.path.join(self.tmp.name, "q.pid")
        daemon = subprocess.Popen(
            ["qemu-storage-daemon", "--pidfile", pid, "--blockdev",
             f"driver=nbd,node-name=n0,server.type=unix,server.path={self.server.path},export=vol,"
             "reconnect-delay=5,discard=unmap,cache.direct=on",
             "--nbd-server", f"addr.type=unix,addr.path={sock}",
             "--export", "type=nbd,id=e0,node-name=n0,name=vol,writable=on"])
        try:
            src, dst = self.file("src", SIZE, seed=3), self.file("dst", SIZE)
            uri = f"nbd+unix:///vol?socket={sock}"
            while not os.path.exists(pid):
                self.assertIsNone(daemon.poll())
            run("nbdcopy", "--flush", src, uri)
            run("nbdcopy", uri, dst)
            self.same(src, dst)
        finally:
            daemon.terminate()
            daemon.wait(60)
        run("nbdcopy", self.uri("vol"), dst)
        self.same(src, dst)


if __name__ == "__main__":
    unittest.main(verbosity=2)
