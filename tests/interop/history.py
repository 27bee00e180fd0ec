# SPDX-License-Identifier: MIT
"""Random histories of a pool, kept twice: by vdisk, and in memory as plain bytes. What the file then
holds is read by read_image.py and exported by vdisk, and all three must agree."""
import os
import random
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "nbd"))
import wire  # noqa: E402

MIB = 1 << 20
SIZE = 12 * MIB
VOLUMES, SNAPSHOTS = 4, 8
TIGHT = 40 * MIB  # so small a pool that space has to be won back by cleaning


class Differs(Exception):
    """vdisk, the reader and the model do not agree."""


class History:
    def __init__(self, vdisk, directory, seed, tight):
        self.vdisk, self.rng = vdisk, random.Random(seed)
        self.image = os.path.join(directory, "pool.vdk")
        self.sock = os.path.join(directory, "nbd")
        self.raw = os.path.join(directory, "raw")
        self.env = dict(os.environ, XDG_RUNTIME_DIR=directory, XDG_CONFIG_HOME=directory)
        self.views = {"disk": bytearray(SIZE)}  # VOLUME and VOLUME@SNAPSHOT: content
        self.log, self.names = [], 0
        self.server, self.clients = None, {}
        self.tight = tight
        self.cmd("create", self.image, "--size", SIZE, *(["--capacity", TIGHT] if tight else []))

    # commands

    def cmd(self, *words):
        self.log.append(" ".join(str(w) for w in words))
        r = subprocess.run([self.vdisk, *map(str, words)], env=self.env, capture_output=True,
                           text=True)
        if r.returncode:
            raise Differs(f"{words}: exit status {r.returncode}: "
                          f"{r.stderr.strip()}{r.stdout.strip()}")
        return r.stdout

    def target(self, view):
        return f"{self.image}:{view}"

    def serve(self):
        self.server = subprocess.Popen(
            [self.vdisk, "serve", self.image, "--nbd", "unix:" + self.sock], env=self.env,
            stdout=subprocess.PIPE, text=True)
        if not self.server.stdout.readline():
            raise Differs("the server does not start")

    def stop(self, sig):
        self.log.append(f"signal {sig}")
        for c in self.clients.values():
            c.sock.close()
        self.clients = {}
        if self.server:
            self.server.send_signal(sig)
            self.server.stdout.close()
            self.server.wait()
            self.server = None
        if os.path.exists(self.sock):
            os.unlink(self.sock)

    def client(self, volume):
        if volume not in self.clients:
            w = wire.Wire("unix:" + self.sock)
            w.hello()
            w.negotiate_structured()
            w.go(volume)
            self.clients[volume] = w
        return self.clients[volume]

    def disconnect(self, volume):
        w = self.clients.pop(volume, None)
        if w:
            w.send(wire.request_bytes(wire.DISC))
            w.sock.close()

    # operations

    def volumes(self):
        return [v for v in self.views if "@" not in v]

    def snapshots(self):
        return [v for v in self.views if "@" in v]

    def fresh(self, prefix):
        self.names += 1
        return f"{prefix}{self.names}"

    def span(self, most):
        """A volume and a range in it, often near what was written before, sometimes unaligned."""
        volume = self.rng.choice(self.volumes())
        size = len(self.views[volume])
        off = self.rng.choice([self.rng.randrange(size), self.rng.randrange(min(size, 256 << 10))])
        length = self.rng.choice([4096, 4096, self.rng.randrange(1, most)])
        unit = self.rng.choice([4096, 4096, 512])
        off = off // unit * unit
        return volume, off, max(512, min((length + unit - 1) // unit * unit, size - off))

    def write(self):
        volume, off, length = self.span(300 << 10)
        data = self.rng.randbytes(length)
        if self.rng.random() < 0.2:
            data = data[:512] + bytes(length - 512)
        self.client(volume).write(off, data, self.rng.choice([0, 0, wire.FUA]))
        self.views[volume][off:off + length] = data
        self.log.append(f"write {volume} {off} {length}")

    def zero(self):
        volume, off, length = self.span(2 * MIB)
        error = self.client(volume).do(wire.ZEROES, off, length,
                                       self.rng.choice([0, wire.NO_HOLE]))
        assert error == 0, error
        self.views[volume][off:off + length] = bytes(length)
        self.log.append(f"zero {volume} {off} {length}")

    def flush(self):
        assert self.client(self.rng.choice(self.volumes())).do(wire.FLUSH) == 0

    def snapshot(self):
        if len(self.snapshots()) >= SNAPSHOTS:
            return
        some = self.rng.sample(self.volumes(), self.rng.randint(1, min(2, len(self.volumes()))))
        name = self.fresh("s")
        self.cmd("snapshot", "create", *[self.target(f"{v}@{name}") for v in some])
        for v in some:
            self.views[f"{v}@{name}"] = bytes(self.views[v])

    def snapshot_delete(self):
        if self.snapshots():
            view = self.rng.choice(self.snapshots())
            self.cmd("snapshot", "delete", self.target(view))
            del self.views[view]

    def clone(self):
        if len(self.volumes()) < VOLUMES:
            source, name = self.rng.choice(list(self.views)), self.fresh("c")
            self.cmd("clone", self.target(source), name)
            self.views[name] = bytearray(self.views[source])

    def volume_delete(self):
        if len(self.volumes()) > 1:
            volume = self.rng.choice(self.volumes())
            self.disconnect(volume)
            self.cmd("volume", "delete", self.target(volume), "--recursive")
            self.views = {v: d for v, d in self.views.items() if v.split("@")[0] != volume}

    def rollback(self):
        if not self.snapshots():
            return
        view = self.rng.choice(self.snapshots())
        volume = view.split("@")[0]
        self.disconnect(volume)
        self.cmd("rollback", self.target(view), "--discard-current", "--force")
        self.views[volume] = bytearray(self.views[view])

    def resize(self):
        volume = self.rng.choice(self.volumes())
        size = self.rng.randrange(4 * MIB, SIZE) // 512 * 512
        self.disconnect(volume)
        self.cmd("volume", "resize", self.target(volume), "--size", size, "--shrink")
        old = self.views[volume]
        self.views[volume] = old[:size] + bytes(max(0, size - len(old)))

    def step(self):
        if self.tight:
            for _ in range(20):
                self.write()
            return
        op = self.rng.choices(
            [self.write, self.zero, self.flush, self.snapshot, self.snapshot_delete, self.clone,
             self.volume_delete, self.rollback, self.resize],
            [60, 10, 5, 8, 4, 4, 1, 3, 2])[0]
        op()

    # judging

    def same(self, view, who):
        with open(self.raw, "rb") as f:
            got = f.read()
        want = bytes(self.views[view])
        if got != want:
            at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b),
                      min(len(got), len(want)))
            raise Differs(f"{view} as {who} reads it: {len(got)} bytes, {len(want)} expected, "
                          f"first difference at {at}")

    def judge(self, reader, export):
        """reader(image): an object with `names` and read(view, path)."""
        image = reader(self.image)
        if sorted(image.names) != sorted(self.views):
            raise Differs(f"the reader lists {sorted(image.names)}, not {sorted(self.views)}")
        for view in self.views:
            image.read(view, self.raw)
            self.same(view, "the reader")
        if export:
            for view in self.views:
                os.unlink(self.raw)
                self.cmd("export", self.target(view), self.raw, "--format", "raw")
                self.same(view, "vdisk")
            self.cmd("check", self.image, "--data")


def run(vdisk, reader, directory, seed, rounds, steps, tight=False):
    """Raises Differs. Odd rounds end with the server killed: every write was acknowledged, so all of
    it must be in the log."""
    h = History(vdisk, directory, seed, tight)
    try:
        for i in range(rounds):
            h.serve()
            for _ in range(steps):
                h.step()
            h.stop(signal.SIGKILL if i % 2 else signal.SIGTERM)
            h.judge(reader, export=i == rounds - 1 or i % 4 == 3)
    except (Differs, wire.Gone, OSError, AssertionError) as e:
        raise Differs(f"seed {seed}: {e}\n  " + "\n  ".join(h.log[-12:])) from e
    finally:
        h.stop(signal.SIGKILL)
