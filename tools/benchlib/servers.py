# SPDX-License-Identifier: MIT
"""vdisk and what it is measured beside. Each is an image that fio can drive, with a snapshot where it
has one: raw is a fully written file, qcow2 sits behind qemu-storage-daemon's NBD export, xfs is a
file on an XFS on a loop device, whose snapshots are reflink copies."""
import json
import os
import shutil
import socket

from . import host
from .control import Control
from .host import BenchError, Process, Skipped


class Server:
    """An image of `size` bytes; `tag` tells apart those that exist at the same time."""

    name = "?"
    nbd = True

    def __init__(self, place, tag, size):
        self.place, self.tag, self.size = place, tag, size
        self.id = f"{self.name}-{tag}"
        self.door = os.path.join(place.sockets, f"{self.id}.sock")
        self.process = None
        self.past = {"peak": 0, "read": 0, "written": 0, "cgroup_peak": None}
        self.client_read = self.client_written = 0
        self.commands = []
        place.stack.callback(self.abandon)

    def file(self, suffix):
        return os.path.join(self.place.path, f"{self.id}{suffix}")

    def target(self, export="disk"):
        return {"ioengine": "nbd", "uri": f"nbd+unix:///{export}?socket={self.door}",
                "size": self.size}

    def spawn(self, command):
        if command not in self.commands:
            self.commands.append(command)
        self.process = Process(self.id, command, self.place.path, self.place.env)
        self.process.start()
        self.process.wait_ready(lambda: host.greets(self.door))

    def counters(self):
        now = self.process.counters() if self.process else {"peak": 0, "read": 0, "written": 0,
                                                            "cgroup_peak": None}
        peaks = [c for c in (now["cgroup_peak"], self.past["cgroup_peak"]) if c]
        return {"peak": max(now["peak"], self.past["peak"]),
                "read": now["read"] + self.past["read"],
                "written": now["written"] + self.past["written"],
                "cgroup_peak": max(peaks) if peaks else None}

    def processes(self):
        return [self.process] if self.process and self.process.alive() else []

    def retire(self, how):
        if self.process:
            process, self.process = self.process, None
            try:
                how(process)
            finally:
                before, self.past = self.past, process.last
                for key in ("read", "written"):
                    self.past[key] += before[key]
                self.past["peak"] = max(self.past["peak"], before["peak"])
                peaks = [c for c in (self.past["cgroup_peak"], before["cgroup_peak"]) if c]
                self.past["cgroup_peak"] = max(peaks) if peaks else None
            if os.path.exists(self.door):
                os.unlink(self.door)

    def stop(self):
        self.retire(lambda process: process.stop())

    def kill(self):
        self.retire(lambda process: process.kill())

    def renew(self):
        """The image is as if just made, and the server runs again."""
        self.stop()
        self.create()
        self.start()

    def abandon(self):
        """Whatever state it is in, nothing of it is left."""
        try:
            self.kill()
        finally:
            self.remove()

    def remove(self):
        raise NotImplementedError

    def snapshot(self, name):
        raise Skipped(f"{self.name} has no snapshots")

    def drop_snapshot(self, name):
        raise Skipped(f"{self.name} has no snapshots")

    def verify(self):
        """What the image's own checker says of the stopped image, or None."""
        return None


class Raw(Server):
    name = "raw"
    nbd = False

    def create(self):
        pass  # the fill makes it

    def renew(self):
        pass  # and it stays what it is

    def start(self):
        if "file" not in " ".join(sum(self.commands, [])):
            self.commands.append(["no server: fio io_uring O_DIRECT on a fully written file"])

    def target(self, export="disk"):
        return {"ioengine": "io_uring", "direct": 1, "filename": self.file(".img"),
                "size": self.size}

    def remove(self):
        if os.path.exists(self.file(".img")):
            os.unlink(self.file(".img"))


class Qcow2(Server):
    name = "qcow2"

    def create(self):
        self.remove()
        host.run([host.find_program("qemu-img", "qemu-utils"), "create", "-q", "-f", "qcow2",
                  self.file(".qcow2"), str(self.size)])

    def start(self):
        program = host.find_program("qemu-storage-daemon", "qemu-system-common")
        self.monitor = os.path.join(self.place.sockets, f"{self.id}.qmp")
        self.spawn([program, "--chardev", f"socket,id=m,path={self.monitor},server=on,wait=off",
                    "--monitor", "chardev=m", "--blockdev",
                    f"driver=file,node-name=f0,filename={self.file('.qcow2')},"
                    "cache.direct=on,aio=io_uring",
                    "--blockdev", "driver=qcow2,node-name=d0,file=f0",
                    "--nbd-server", f"addr.type=unix,addr.path={self.door}",
                    "--export", "type=nbd,id=e0,node-name=d0,name=disk,writable=on"])

    def qmp(self, command, **arguments):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(host.HANG)
            s.connect(self.monitor)
            f = s.makefile("rw", encoding="utf-8")
            f.readline()
            for name, args in (("qmp_capabilities", {}), (command, arguments)):
                f.write(json.dumps({"execute": name, "arguments": args}) + "\n")
                f.flush()
                answer = {}
                while "return" not in answer:
                    answer = json.loads(f.readline())
                    if "error" in answer:
                        raise BenchError(f"qemu-storage-daemon: {answer['error']['desc']}")

    def snapshot(self, name):
        self.qmp("blockdev-snapshot-internal-sync", device="d0", name=name)

    def drop_snapshot(self, name):
        self.qmp("blockdev-snapshot-delete-internal-sync", device="d0", name=name)

    def verify(self):
        said = host.run([host.find_program("qemu-img", "qemu-utils"), "check", "-f", "qcow2",
                         self.file(".qcow2")], ok=(0, 3))
        return "qemu-img check: " + said.strip().splitlines()[0]

    def remove(self):
        if os.path.exists(self.file(".qcow2")):
            os.unlink(self.file(".qcow2"))


class Xfs(Server):
    """`room`: what may be written beside the image, by copies that go their own way."""

    name = "xfs"
    nbd = False

    def __init__(self, place, tag, size, room=0):
        if os.geteuid() != 0:
            raise Skipped("loop devices and mounting want root")
        for program, package in (("mkfs.xfs", "xfsprogs"), ("losetup", "mount")):
            try:
                host.find_program(program, package)
            except BenchError as e:
                raise Skipped(str(e)) from None
        self.loop = self.mounted = None
        self.total = max(int(size * 1.1) + room + (64 << 20), 512 << 20)
        super().__init__(place, tag, size)

    def create(self):
        """The backing file is fully written first, as raw's is."""
        self.remove()
        self.place.need(self.total, "the XFS on a loop device")
        backing, self.mounted = self.file(".loop"), self.file(".mnt")
        host.run([host.find_program("fio", "fio"), "--name=fill", f"--filename={backing}",
                  f"--size={self.total}", "--rw=write", "--bs=4M", "--direct=1", "--iodepth=4",
                  "--ioengine=io_uring", "--output=/dev/null"])
        losetup = ["losetup", "--find", "--show", "--direct-io=on", backing]
        self.loop = host.run(losetup).strip()
        self.begun = self.sectors()
        mkfs = ["mkfs.xfs", "-q", "-f", "-K", "-m", "reflink=1", self.loop]
        host.run(mkfs)
        os.mkdir(self.mounted)
        mount = ["mount", "-t", "xfs", "-o", "noatime", self.loop, self.mounted]
        host.run(mount)
        self.commands = [losetup, mkfs, mount]
        self.renew()

    def renew(self):
        with open(self.image(), "wb") as f:
            f.truncate(self.size)

    def sectors(self):
        """Read and written by the loop device since the machine started."""
        with open(f"/sys/block/{os.path.basename(self.loop)}/stat", encoding="ascii") as f:
            fields = f.read().split()
        return int(fields[2]), int(fields[6])

    def image(self, name="disk"):
        return os.path.join(self.mounted, f"{name}.img")

    def start(self):
        pass

    def target(self, export="disk"):
        return {"ioengine": "io_uring", "direct": 1, "filename": self.image(), "size": self.size}

    def counters(self):
        now = dict(super().counters())
        if self.loop:
            read, written = self.sectors()
            now["read"] = (read - self.begun[0]) * 512
            now["written"] = (written - self.begun[1]) * 512
        return now

    def snapshot(self, name):
        host.run(["cp", "--reflink=always", self.image(), self.image(name)])

    def drop_snapshot(self, name):
        os.unlink(self.image(name))

    def verify(self):
        host.run(["umount", self.mounted])
        os.rmdir(self.mounted)
        self.mounted = None
        host.run([host.find_program("xfs_repair", "xfsprogs"), "-n", self.loop])
        return "xfs_repair -n: clean"

    def remove(self):
        if self.mounted and os.path.isdir(self.mounted):
            if os.path.ismount(self.mounted):
                host.run(["umount", "--lazy", self.mounted])
            shutil.rmtree(self.mounted, ignore_errors=True)
        self.mounted = None
        if self.loop:
            host.run(["losetup", "--detach", self.loop])
            self.loop = None
        if os.path.exists(self.file(".loop")):
            os.unlink(self.file(".loop"))


class Vdisk(Server):
    name = "vdisk"

    def __init__(self, place, tag, size, program, capacity=None):
        super().__init__(place, tag, size)
        self.program, self.capacity = program, capacity
        self.pool = self.file(".vdk")

    def create(self):
        self.remove()
        more = ["--capacity", str(self.capacity)] if self.capacity else []
        self.command("create", self.pool, "--size", str(self.size), *more)

    def start(self):
        self.spawn([self.program, "serve", self.pool, "--nbd", f"unix:{self.door}"])
        self.control = Control(self.pool, self.place.env["VDISK_RUNTIME_DIR"])

    def command(self, *args):
        return host.run([self.program, *args], f"vdisk {args[0]}", env=self.place.env)

    def info(self):
        return json.loads(self.command("info", self.pool, "--json"))["pool"]

    def snapshot(self, name):
        self.command("snapshot", "create", f"{self.pool}:disk@{name}")

    def drop_snapshot(self, name):
        self.command("snapshot", "delete", f"{self.pool}:disk@{name}")

    def verify(self):
        found = json.loads(self.command("check", self.pool, "--data", "--json"))
        return f"vdisk check --data: {found['blocks']} blocks, {found['errors']} errors"

    def remove(self):
        if os.path.exists(self.pool):
            os.unlink(self.pool)
