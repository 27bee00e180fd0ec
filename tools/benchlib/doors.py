# SPDX-License-Identifier: MIT
"""The doors: the same volume as a network block device, a file and a virtio disk, beside what
qemu-storage-daemon exports (of a qcow2 and of a raw file) and nbdkit. One server of each kind has
all its doors open; what is driven is one at a time."""
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
    """What the servers here have in common: `file(door)` and `socket(door)` say where a door is."""

    doors = (NBD, FUSE, VHOST)

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
        os.makedirs(self.mount, exist_ok=True)
        self.sockets = os.path.join(self.place.sockets, "vhost")
        self.spawn([self.program, "serve", self.pool, "--nbd", f"unix:{self.door}",
                    "--fuse", self.mount, "--vhost", self.sockets])

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
    """qemu-storage-daemon with all its exports of one image."""

    def exports(self):
        return ["--export", f"type=fuse,id=e1,node-name=d0,mountpoint={self.mounted_file()},"
                "writable=on",
                "--export", "type=vhost-user-blk,id=e2,node-name=d0,addr.type=unix,"
                f"addr.path={self.vhost_socket()},writable=on"]

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
        above, suffix = self.layers()
        self.spawn([program, "--blockdev",
                    f"driver=file,node-name=f0,filename={self.file(suffix)},"
                    "cache.direct=on,aio=io_uring", *above,
                    "--nbd-server", f"addr.type=unix,addr.path={self.door}",
                    "--export", "type=nbd,id=e0,node-name=d0,name=disk,writable=on",
                    *self.exports()])

    def remove(self):
        super().remove()
        if os.path.exists(self.file(".fuse")):
            unmount(self.file(".fuse"))
            os.unlink(self.file(".fuse"))


class QemuRawDoors(QemuDoors):
    """The same over a raw file: what its doors cost by themselves."""

    name = "qemu raw"

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
        self.spawn([host.find_program("nbdkit", "nbdkit"), "--foreground", "--exit-with-parent",
                    "--unix", self.door, "--export-name", "disk", "file", self.file(".raw"),
                    "cache=none"])

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


def measure(bench, servers, door, work, rw, depth):
    """One work through one door of all servers that have it; {server: [Found per round]}."""
    mine = [s for s in servers if not isinstance(s, Doors) or door in s.doors]
    return bench.rounds(mine, lambda s: drive(bench, s, door, rw, depth)), work


def middle(runs, what):
    return host.median([getattr(r, what) for r in runs])


def run(bench, wanted):
    """N14, N15, and the same through the NBD door."""
    size = bench.args.size
    place = bench.place
    servers = bench.open([Raw(place, "doors", size), QemuDoors(place, "doors", size),
                          QemuRawDoors(place, "doors", size), Nbdkit(place, "doors", size),
                          VdiskDoors(place, "doors", size, bench.args.vdisk)])
    lines = ["| door | work | server | IOPS | half within, us | 99.9 % within, us | over raw, us "
             "| processor of the server, us a request |", "|---|---|---|---|---|---|---|---|"]
    rows = {NBD: "doors", FUSE: "N14", VHOST: "N15"}
    for door, row in rows.items():
        if row not in wanted:
            continue
        try:
            if door == VHOST:
                load_program(bench)
        except Skipped as e:
            for number in range(len(WORKS)):
                bench.unmeasured(row, number, e)
            continue
        for number, (work, rw, depth) in enumerate(WORKS):
            found, _ = measure(bench, servers, door, work, rw, depth)
            bench.report(row, number, {name: [r.iops for r in runs] for name, runs in
                                       found.items()},
                         {name: [r.as_json() for r in runs] for name, runs in found.items()})
            raw = middle(found["raw"], "p50") if "raw" in found else 0
            for name, runs in found.items():
                cells = [door, work, name, show(middle(runs, "iops")), show(middle(runs, "p50")),
                         show(middle(runs, "p999")),
                         show(middle(runs, "p50") - raw) if name != "raw" and depth == 1 else "",
                         show(middle(runs, "cpu")) if name != "raw" else ""]
                lines.append("| " + " | ".join(cells) + " |")
    bench.tables.append(("Each door, all servers (medians of the rounds):", lines))
    bench.close(servers)
