# SPDX-License-Identifier: MIT
"""vdisk:changed-since:SNAPSHOT against a model: a real pool, written to through NBD by random
requests, with snapshots in between, rolled back, renamed, deleted; what nbdinfo is told of each pair
of views is compared with the bytes that both hold.

usage: changed.py VDISK [SEED]

A block that differs must be called changed. One that nobody has touched must not be: what was
written with the bytes it had may be called either.
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from wire import *  # noqa: E402,F403
from wire import Wire  # noqa: E402

BLOCK = 4096
SIZE = 8 << 20
SINCE = "vdisk:changed-since:"


class View:
    """Bytes, and for each block the number of the last request that touched it."""

    def __init__(self, data, touched):
        self.data, self.touched = bytearray(data), list(touched)

    def copy(self):
        return View(self.data, self.touched)


class Test:
    def __init__(self, vdisk, where, seed):
        self.vdisk, self.rng = os.path.abspath(vdisk), random.Random(seed)
        self.pool = os.path.join(where, "a.vdk")
        self.sock = os.path.join(where, "s")
        self.env = dict(os.environ, VDISK_RUNTIME_DIR=os.path.join(where, "run"),
                        VDISK_CONFIG_DIR=os.path.join(where, "config"))
        self.live = View(bytes(SIZE), [0] * (SIZE // BLOCK))
        self.snaps = {}
        self.requests = 0
        self.compared = 0
        self.run("create", self.pool, "--size", str(SIZE))
        self.serve()

    def run(self, *args):
        done = subprocess.run([self.vdisk, *args], env=self.env, capture_output=True, text=True,
                              timeout=120)
        if done.returncode:
            raise AssertionError(f"vdisk {' '.join(args)}: {done.stderr}")
        return done.stdout

    def serve(self):
        self.server = subprocess.Popen([self.vdisk, "serve", self.pool, "--nbd", "unix:" + self.sock],
                                       env=self.env, stdout=subprocess.PIPE, text=True)
        if not self.server.stdout.readline().startswith("ready"):
            raise AssertionError("the server did not start")

    def stop(self):
        self.server.terminate()
        assert self.server.wait(60) == 0
        self.server.stdout.close()

    def write_some(self, n):
        with Wire("unix:" + self.sock) as w:
            w.hello().negotiate_structured().go("disk")
            for _ in range(n):
                self.request(w)

    def request(self, w):
        rng = self.rng
        self.requests += 1
        off = rng.randrange(SIZE // 512) * 512
        length = min(rng.choice((512, 1536, 4096, 12288, 65536, 300032)), SIZE - off)
        kind = rng.choice((WRITE, WRITE, WRITE, ZEROES, TRIM, WRITE))
        if rng.random() < .5:
            off, length = off & -BLOCK, max(length & -BLOCK, BLOCK)
        if kind == WRITE:
            same = rng.random() < .1
            data = bytes(self.live.data[off:off + length]) if same else rng.randbytes(length)
            w.write(off, data)
        else:
            data = bytes(length)
            if kind == TRIM:  # for whole blocks only is it said what they read as
                off &= -BLOCK
                length = max(length & -BLOCK, BLOCK)
                data = bytes(length)
            assert w.do(kind, off, length) == 0
        self.live.data[off:off + length] = data
        for block in range(off // BLOCK, (off + length - 1) // BLOCK + 1):
            self.live.touched[block] = self.requests

    def map(self, export, name):
        uri = f"nbd+unix:///{export}?socket={self.sock}"
        done = subprocess.run(["nbdinfo", "--json", f"--map={SINCE}{name}", uri], text=True,
                              capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return [(m["offset"], m["length"], m["type"]) for m in json.loads(done.stdout)]

    def compare(self, export, name, extents):
        was = self.snaps[name]
        now = self.live if "@" not in export else self.snaps[export.split("@")[1]]
        at = 0
        for off, length, state in extents:
            assert off == at and length > 0 and state in (0, 1), (export, name, off, length, state)
            at += length
            for block in range(off // BLOCK, -(-at // BLOCK)):
                part = slice(max(off, block * BLOCK), min(at, block * BLOCK + BLOCK))
                if state == 0:
                    assert was.data[part] == now.data[part], (export, name, block)
                else:
                    assert was.touched[block] != now.touched[block], (export, name, block)
                self.compared += 1
        assert at == SIZE

    def check(self):
        exports = ["disk"] + ["disk@" + s for s in self.snaps]
        for name in self.snaps:
            export = self.rng.choice(exports)
            for e in {export, "disk"}:
                self.compare(e, name, self.map(e, name))

    def check_ranges(self):
        """Several contexts at once, of ranges that begin and end anywhere."""
        names = self.rng.sample(sorted(self.snaps), min(3, len(self.snaps)))
        with Wire("unix:" + self.sock) as w:
            w.hello().negotiate_structured()
            ids = w.choose("disk", b"base:allocation", *((SINCE + n).encode() for n in names))
            assert len(ids) == 1 + len(names), ids
            w.go("disk")
            for _ in range(30):
                off = self.rng.randrange(SIZE // 512) * 512
                length = min(self.rng.choice((512, 4096, 70144, SIZE)), SIZE - off)
                got = w.statuses(off, length)
                assert sorted(got) == sorted(ids.values())
                for name in names:
                    at = off
                    for n, state in got[ids[SINCE + name]]:
                        was = self.snaps[name].data[at:at + n]
                        assert state or was == self.live.data[at:at + n], (name, at, n)
                        at += n
                    assert at == off + length or len(got[ids[SINCE + name]]) == 512

    def snapshot(self, name):
        self.run("snapshot", "create", f"{self.pool}@{name}")
        self.snaps[name] = self.live.copy()

    def play(self):
        for i in range(8):
            self.snapshot(f"s{i}")
            self.write_some(self.rng.choice((1, 10, 60)))
            if i == 4:  # over what is in the trees as well as what is in the log
                self.stop()
                self.serve()
            if i == 5:
                self.run("rollback", self.pool + "@s2")
                kept = self.live
                self.live = self.snaps["s2"].copy()
                auto = [s for s in json.loads(self.run("snapshot", "list", self.pool, "--json"))
                        ["snapshots"] if s["name"] not in self.snaps]
                self.snaps[auto[0]["name"]] = kept
            if i == 6:
                self.run("snapshot", "delete", self.pool + "@s1")
                del self.snaps["s1"]
                self.run("snapshot", "rename", self.pool + "@s3", "third")
                self.snaps["third"] = self.snaps.pop("s3")
            self.check()
            self.check_ranges()

    def gone(self):
        """What was chosen is meant, whatever it is called; never another one of that name."""
        with Wire("unix:" + self.sock) as w:
            w.hello().negotiate_structured()
            ids = w.choose("disk", (SINCE + "s4").encode())
            (chosen,) = ids.values()
            w.go("disk")
            self.run("snapshot", "rename", self.pool + "@s4", "fourth")
            self.snaps["fourth"] = self.snaps.pop("s4")
            self.snapshot("s4")
            first = w.statuses(0, SIZE)[chosen]
            assert any(state for _, state in first), "compared with the new one of that name"
            self.run("snapshot", "delete", self.pool + "@fourth")
            del self.snaps["fourth"]
            assert w.statuses(0, SIZE) == EIO
            assert w.do(FLUSH) == 0


def main():
    if not shutil.which("nbdinfo"):
        print("skipped: nbdinfo is not installed")
        sys.exit(77)
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    print(f"# seed {seed}")
    with tempfile.TemporaryDirectory(prefix="vdisk-changed-", dir="/var/tmp") as where:
        test = Test(sys.argv[1], where, seed)
        try:
            test.play()
            print(f"ok - all that changed is told, and nothing that did not ({test.compared} blocks)")
            test.gone()
            print("ok - a snapshot that was chosen stays the one that is meant")
            test.stop()
        finally:
            test.server.kill()
            test.server.wait()


if __name__ == "__main__":
    main()
