#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Linux guest on a vhost-user-blk disk: of the door over a raw file, and of "vdisk serve", whose
pool is then looked at.

Its kernel is given to QEMU: TCG does not see what others write into the guest's memory, and goes on
with the code that it had translated before, so a boot loader that loads itself over the one that
came before does not start. No server can do anything about that.

    guest.py VHOST-MEMORY-SERVER|VDISK [SCRATCH-DIRECTORY]
"""
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
from guest import Guest, HANG, kernel_options, make_disk  # noqa: E402
from steps import Scratch, check, run  # noqa: E402
from vdisk import Vdisk  # noqa: E402

BLOCKS = 80
BLOCK = 16384


class Server:
    """The door by itself, over a raw file."""

    def __init__(self, program, scratch, raw):
        self.dir = os.path.join(scratch, "v")
        self.command = [os.path.abspath(program), self.dir, "--raw", f"disk={raw}", "--stats"]
        self.log = os.path.join(scratch, "server.log")
        self.start()

    def start(self):
        """The kernel may hold the socket of a killed server for a moment more."""
        deadline = time.monotonic() + HANG
        while True:
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL,
                                                stdout=subprocess.PIPE, stderr=log, text=True)
            if self.process.stdout.readline().strip() == self.dir:
                return
            self.process.wait()
            check(time.monotonic() < deadline, "the server does not start")
            time.sleep(0.05)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        check(self.process.wait(HANG) == 0, "the server did not end cleanly")

    def grow(self, size):
        """Twice what it was."""
        self.process.send_signal(signal.SIGUSR1)

    def look(self):
        """Nothing more to be looked at."""

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()


class VdiskServer:
    """"vdisk serve" of a pool with the disk as its only volume."""

    def __init__(self, program, scratch, raw):
        self.vdisk = Vdisk(program, scratch)
        self.vdisk.run("import", raw, "disk.vdk")
        self.dir = os.path.join(scratch, "v")
        self.server = self.vdisk.serve("disk.vdk", os.path.join(scratch, "nbd.sock"), "--vhost",
                                       self.dir)
        self.snapshots = 0

    @property
    def process(self):
        return self.server.process

    def start(self):
        """After a kill: there is a snapshot more each time."""
        self.server.start()
        self.snapshots += 1
        self.vdisk.run("snapshot", "create", f"disk.vdk@s{self.snapshots}")

    def kill(self):
        self.server.kill()

    def grow(self, size):
        self.vdisk.run("volume", "resize", "disk.vdk", "--size", str(size))

    def stop(self):
        self.server.stop()

    def look(self):
        found = self.vdisk.json("check", "disk.vdk", "--data")
        check(found["errors"] == 0, f"the pool has errors: {found}")

    def tail(self):
        with open(self.server.log, encoding="utf-8", errors="replace") as f:
            return f.read()


def disk(path, size="262152K"):
    """QEMU's arguments for memory that is shared and a socket that is tried again."""
    return ["-object", f"memory-backend-memfd,id=mem,size={size},share=on",
            "-machine", "memory-backend=mem", "-chardev",
            f"socket,id=disk,path={path},reconnect=1"]


class Context:
    pass


def step_boot(c):
    """a guest boots from it and sees what disk it is."""
    c.guest.boot()
    c.guest.run("echo kept >/kept; sync")
    check(c.guest.run("cat /sys/block/vda/queue/physical_block_size").strip() == "4096",
          "the guest does not see physical blocks of 4 KiB")
    check(c.guest.run("cat /sys/block/vda/cache_type").strip() == "write back",
          "the guest does not see a write cache, and will never flush")
    check(len(c.guest.run("cat /sys/block/vda/serial").strip()) == 20, "there is no serial number")
    check(c.guest.run("ls /sys/block/vda/mq | wc -l").strip() == "2", "there are not two queues")


def step_data(c):
    """what is written is read back, past all caches, and trimming works."""
    out = c.guest.run("dd if=/dev/urandom of=/a bs=1M count=24 conv=fsync 2>/dev/null; "
                      "sha256sum </a; dd if=/a bs=64k iflag=direct 2>/dev/null | sha256sum")
    check(len(set(out.split("\n")[:2])) == 1, f"it reads back as something else: {out}")
    c.guest.run("rm /a; sync; fstrim /")


WRITER = f"""
rm -f /run/failed; echo 0 >/run/progress
fallocate -l {BLOCKS * BLOCK} /w && sync
(for i in $(seq 0 {BLOCKS - 1}); do
    yes "block $i" | head -c {BLOCK} |
        dd of=/w bs={BLOCK} seek=$i iflag=fullblock oflag=direct conv=notrunc 2>/dev/null ||
        echo $i >>/run/failed
    echo $i >/run/progress
done; echo {BLOCKS} >/run/progress) >/dev/null 2>&1 &
"""
CHECKER = f"""
for i in $(seq 0 {BLOCKS - 1}); do yes "block $i" | head -c {BLOCK}; done | sha256sum
dd if=/w bs={BLOCK} iflag=direct 2>/dev/null | sha256sum
"""


def progress(c):
    return int(c.guest.run("cat /run/progress").strip() or 0)


def step_kill(c):
    """kill -9 of the server, five times, under a writing guest loses nothing."""
    c.guest.run(WRITER)
    kills = 0
    for goal in range(8, 8 + 5 * 14, 14):
        while progress(c) < goal:
            time.sleep(0.05)
        c.server.kill()
        kills += 1
        c.server.start()
    while progress(c) < BLOCKS:
        time.sleep(0.05)
    check(kills == 5, "the server was not killed often enough")
    check(not c.guest.run("cat /run/failed 2>/dev/null || true"), "the guest saw write errors")
    sums = c.guest.run(CHECKER).split("\n")
    check(sums[0] == sums[1], "acknowledged writes are missing")
    check(c.guest.run("dmesg | grep -i -E 'I/O error|EXT4-fs error' || true") == "",
          "the guest's kernel complains")


def step_resize(c):
    """a guest that runs sees that its disk has grown."""
    before = int(c.guest.run("cat /sys/block/vda/size"))
    c.server.grow(2 * before * 512)
    deadline = time.monotonic() + HANG
    while int(c.guest.run("cat /sys/block/vda/size")) != 2 * before:
        check(time.monotonic() < deadline, "the guest was not told")
        time.sleep(0.05)


def step_end(c):
    """the guest powers off, and the server ends without a complaint."""
    c.guest.power_off()
    c.server.stop()
    log = c.server.tail()
    check("does not keep to the protocol" not in log, f"QEMU was refused: {log}")
    c.server.look()


def main():
    with Scratch() as scratch:
        c = Context()
        raw = make_disk(os.path.join(scratch, "disk.raw"))
        ours = os.path.basename(sys.argv[1]) == "vdisk"
        c.server = (VdiskServer if ours else Server)(sys.argv[1], scratch, raw)
        c.guest = Guest(scratch, disk=disk(os.path.join(c.server.dir, "disk.sock")),
                        device="vhost-user-blk-pci,chardev=disk",
                        kernel=kernel_options(raw, scratch))
        try:
            with c.guest:
                status = run("vdisk serve --vhost" if ours else "vhost-user-blk",
                             [step_boot, step_data, step_kill, step_resize, step_end], c)
            print(c.server.tail())
        finally:
            if c.server.process.poll() is None:
                c.server.kill()
    sys.exit(status)


if __name__ == "__main__":
    main()
