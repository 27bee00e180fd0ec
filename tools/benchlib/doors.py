# SPDX-License-Identifier: MIT
"""The doors: the same volume as a network block device, a file and a virtio disk, beside what
qemu-storage-daemon exports (of a qcow2 and of a raw file) and nbdkit. One server of each kind has
its doors open; what is driven is one at a time."""
import json
import os
import shutil

from . import host
from .bench import show
from .host import BenchError, Process, Skipped
from .servers import Qcow2, Raw, Server, Vdisk

WORKS = (("random read QD32", "randread", 32), ("random write QD32", "randwrite", 32),
         ("random read QD1", "randread", 1), ("random write QD1", "randwrite", 1))
NBD, FUSE, VHOST = "NBD", "FUSE", "vhost-user-blk"


class Doors:
    """What the servers here have in common: which doors there are, and where."""

    doors = (NBD, FUSE, VHOST)

    def wait_open(self, doors):
        """The greeting of the NBD door says nothing of the others."""
        def is_open():
            mounted = FUSE not in doors or (os.path.exists(self.mounted_file()) and
                                            os.stat(self.mounted_file()).st_size == self.size)
            return mounted and (VHOST not in doors or os.path.exists(self.vhost_socket()))
        self.process.wait_ready(is_open)

    def turn_to(self, door):
        """This door is driven next."""

    def ticks(self):
        return sum(p.ticks() for p in self.processes())

    def fio_target(self, door):
        if door == NBD:
            return self.target()
        return {"ioengine": "io_uring", "direct": 1, "filename": self.mounted_file(),
                "size": self.size}


class VdiskDoors(Doors, Vdisk):
    def start(self):
        self.mount = self.file(".mnt")
        self.sockets = os.path.join(self.place.sockets, "vhost")
        os.makedirs(self.mount, exist_ok=True)
        os.makedirs(self.sockets, exist_ok=True)
        fuse = ["--fuse", self.mount] if FUSE in self.doors else []
        self.spawn([self.program, "serve", self.pool, "--nbd", f"unix:{self.door}", *fuse,
                    "--vhost", self.sockets])
        self.wait_open(self.doors)

    def mounted_file(self):
        return os.path.join(self.mount, "disk", "disk.raw")

    def vhost_socket(self):
        return os.path.join(self.sockets, "disk.sock")

    def remove(self):
        super().remove()
        if os.path.isdir(self.file(".mnt")):
            unmount(self.file(".mnt"))
            os.rmdir(self.file(".mnt"))


class QemuDoors(Doors, Qcow2):
    """qemu-storage-daemon with its exports of one image. The FUSE export may grow the image, which
    the others do not allow beside them: it is there when it is driven, and then alone."""

    turned_to = NBD

    def turn_to(self, door):
        again = (door == FUSE) != (self.turned_to == FUSE)
        self.turned_to = door
        if again:
            self.stop()
            self.start()

    def exports(self):
        kinds = {NBD: "type=nbd,name=disk",
                 FUSE: f"type=fuse,mountpoint={self.mounted_file()}",
                 VHOST: f"type=vhost-user-blk,addr.type=unix,addr.path={self.vhost_socket()}"}
        for door in (FUSE,) if self.turned_to == FUSE else (NBD, VHOST):
            yield door, f"{kinds[door]},id={door},node-name=d0,writable=on"

    def mounted_file(self):
        return self.file(".fuse")

    def vhost_socket(self):
        return os.path.join(self.place.sockets, f"{self.id}.vhost")

    def layers(self):
        return ["--blockdev", "driver=qcow2,node-name=d0,file=f0"], ".qcow2"

    def start(self):
        with open(self.mounted_file(), "wb"):
            pass
        program = host.find_program("qemu-storage-daemon", "qemu-system-common")
        exports = list(self.exports())
        above, suffix = self.layers()
        self.spawn([program, "--blockdev",
                    f"driver=file,node-name=f0,filename={self.file(suffix)},"
                    "cache.direct=on,aio=io_uring", *above,
                    "--nbd-server", f"addr.type=unix,addr.path={self.door}",
                    *(word for _, e in exports for word in ("--export", e))])
        self.wait_open([door for door, _ in exports])

    def remove(self):
        super().remove()
        if os.path.exists(self.file(".fuse")):
            unmount(self.file(".fuse"))
            os.unlink(self.file(".fuse"))


class QemuRawDoors(QemuDoors):
    """The same over a raw file: what its doors cost by themselves."""

    name = "qemu-raw"

    def create(self):
        self.remove()
        with open(self.file(".raw"), "wb") as f:
            f.truncate(self.size)

    def layers(self):
        return ["--blockdev", "driver=raw,node-name=d0,file=f0"], ".raw"

    def verify(self):
        return None

    def remove(self):
        super().remove()
        if os.path.exists(self.file(".raw")):
            os.unlink(self.file(".raw"))


class Nbdkit(Doors, Server):
    """Its file plugin, which uses the page cache but does not keep what it has read or written."""

    name = "nbdkit"
    doors = (NBD,)

    def create(self):
        if not shutil.which("nbdkit", path=os.environ.get("PATH", "") + ":/usr/sbin"):
            raise Skipped("nbdkit is missing: \"tools/deps --install bench\" installs it")
        self.remove()
        with open(self.file(".raw"), "wb") as f:
            f.truncate(self.size)

    def start(self):
        self.spawn([host.find_program("nbdkit", "nbdkit"), "--foreground", "--unix", self.door,
                    "file", self.file(".raw"), "cache=none"])

    def remove(self):
        if os.path.exists(self.file(".raw")):
            os.unlink(self.file(".raw"))


def unmount(path):
    if os.path.ismount(path) or any(line.split()[1] == path for line in
                                    open("/proc/mounts", encoding="utf-8")):
        host.run(["umount", "--lazy", path])


def load_program(bench):
    """The frontend of our own that drives vhost-user-blk servers; part of a build with tests."""
    beside = os.path.join(os.path.dirname(os.path.dirname(bench.args.vdisk)), "tests", "vhost")
    path = bench.args.vhost_load or os.path.join(beside, "vhost_load")
    if not os.access(path, os.X_OK):
        raise Skipped(f"{path} is missing: a build with -Dtests=true has it, --vhost-load names "
                      "another")
    return path


class Found:
    """One timed run: requests per second, latencies in us, processor time of the server per
    request in us."""

    def __init__(self, iops, p50, p999, cpu):
        self.iops, self.p50, self.p999, self.cpu = iops, p50, p999, cpu

    def as_json(self):
        return {"iops": round(self.iops, 1), "cpu_us": round(self.cpu, 2),
                "latency_us": {"p50": self.p50, "p99.9": self.p999}}


def drive(bench, server, door, rw, depth):
    seconds = bench.args.seconds
    before = server.ticks() if isinstance(server, Doors) else 0
    if door == VHOST and isinstance(server, Doors):
        said = host.run([load_program(bench), server.vhost_socket(), "--json", "--depth",
                         str(depth), "--seconds", str(seconds),
                         "--read" if rw == "randread" else "--write"])
        done = json.loads(said)
        if done["bad"]:
            raise BenchError(f"{server.id}: {done['bad']} requests to its vhost-user-blk failed")
        iops, p50, p999 = done["iops"], done["p50_us"], done["p999_us"]
        requests = done["requests"]
        way = "client_read" if rw == "randread" else "client_written"
        setattr(server, way, getattr(server, way) + requests * 4096)
    else:
        target = server.fio_target(door) if isinstance(server, Doors) else server.target()
        r = bench.drive(server, rw, "4k", depth, target=target, time_based=1, runtime=seconds)
        iops, p50, p999 = r.iops, r.p50, r.p999
        requests = (r.read + r.written) / 4096
    cpu = 0
    if isinstance(server, Doors):
        cpu = (server.ticks() - before) / os.sysconf("SC_CLK_TCK") * 1e6 / max(requests, 1)
    return Found(iops, p50, p999, cpu)


def middle(runs, what):
    return host.median([getattr(r, what) for r in runs])


def why_not(bench, door):
    """Why a door cannot be measured here, or None."""
    try:
        if door == VHOST:
            load_program(bench)
        if door == FUSE and not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise Skipped("/dev/fuse cannot be opened")
    except Skipped as e:
        return e
    return None


def one(bench, servers, door, row, number):
    """One work through one door of all servers that have it; the lines of the table."""
    work, rw, depth = WORKS[number]
    mine = [s for s in servers if not isinstance(s, Doors) or door in s.doors]
    for server in mine:
        if isinstance(server, Doors):
            server.turn_to(door)
    found = bench.rounds(mine, lambda s: drive(bench, s, door, rw, depth))
    bench.report(row, number, {name: [r.iops for r in runs] for name, runs in found.items()},
                 {name: [r.as_json() for r in runs] for name, runs in found.items()})
    raw = middle(found["raw"], "p50") if "raw" in found else None
    for name, runs in found.items():
        over = middle(runs, "p50") - raw if raw and name != "raw" and depth == 1 else None
        cells = [door, work, name, show(middle(runs, "iops")), show(middle(runs, "p50")),
                 show(middle(runs, "p999")), "" if over is None else show(over),
                 show(middle(runs, "cpu")) if name != "raw" else ""]
        yield "| " + " | ".join(cells) + " |"


def run(bench, wanted):
    """N14, N15, and the same through the NBD door."""
    size, place = bench.args.size, bench.place
    missing = {door: why_not(bench, door) for door in (NBD, FUSE, VHOST)}
    made = [QemuDoors(place, "doors", size), QemuRawDoors(place, "doors", size),
            Nbdkit(place, "doors", size), VdiskDoors(place, "doors", size, bench.args.vdisk)]
    for server in made:
        server.doors = tuple(d for d in server.doors if d != FUSE or not missing[FUSE])
    servers = bench.open([Raw(place, "doors", size), *made])
    lines = ["| door | work | server | IOPS | half within, us | 99.9 % within, us | over raw, us | "
             "server's processor time a request, us |", "|---|---|---|---|---|---|---|---|"]
    for door, row in ((NBD, "NBD"), (FUSE, "N14"), (VHOST, "N15")):
        for number in range(len(WORKS) if row in wanted else 0):
            if missing[door]:
                bench.unmeasured(row, number, missing[door])
            else:
                lines.extend(one(bench, servers, door, row, number))
    bench.tables.append(("Each door of each server, medians of the rounds:", lines))
    bench.close(servers)
