#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A guest that is a boot sector, on a volume served by "vdisk serve --vhost": by KVM, by TCG, and
moved from one QEMU to the next while it runs. It needs no memory to speak of and no driver but the
BIOS's, so it runs where no Linux guest starts.

    boot_sector.py VDISK boot_sector.S [SCRATCH-DIRECTORY]
"""
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
SOURCE = sys.argv.pop(2)  # what follows the program is the scratch directory, for Scratch too
from guest import HANG, skip  # noqa: E402
from steps import Scratch, check, run  # noqa: E402
from vdisk import Vdisk  # noqa: E402

TURNS = 500
PLACES = 32
BLOCK = 4096
SAID = {33: "all was right", 35: "it read something else than it wrote", 37: "the disk gave an error"}


class Context:
    pass


def assemble(scratch, name, turns):
    """A disk of 1 MiB that begins with the sector."""
    for program in ("as", "ld", "qemu-system-x86_64"):
        if not shutil.which(program):
            skip(f"there is no {program} (tools/deps --install guest)")
    obj, image = (os.path.join(scratch, f"{name}.{kind}") for kind in ("o", "raw"))
    subprocess.run(["as", "--32", "--defsym", f"TURNS={turns}", SOURCE, "-o", obj], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", obj, "-o",
                    image], check=True)
    check(os.path.getsize(image) == 512, "the boot sector is not one sector")
    os.truncate(image, 1 << 20)
    return image


def qemu(c, volume, accelerator, *more):
    return ["qemu-system-x86_64", "-accel", accelerator, "-m", "16", "-nodefaults", "-display",
            "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-no-reboot",
            "-object", "memory-backend-memfd,id=mem,size=16M,share=on", "-machine",
            "memory-backend=mem", "-chardev",
            f"socket,id=d,path={os.path.join(c.doors, volume)}.sock,reconnect=1",
            "-device", "vhost-user-blk-pci,chardev=d,num-queues=1,bootindex=0", *more]


def blocks(c, volume):
    """What the volume holds now, seen through another door."""
    out = os.path.join(c.vdisk.workdir, "out.raw")
    c.vdisk.run("export", f"boot.vdk:{volume}", out, "--overwrite")
    with open(out, "rb") as f:
        data = f.read()
    return [data[(place + 1) * BLOCK:(place + 2) * BLOCK] for place in range(PLACES)]


def turn_of(block):
    """Which turn wrote a block; all its words say so."""
    turn = struct.unpack_from("<H", block)[0]
    check(block == struct.pack("<H", turn) * (BLOCK // 2), "a block is of more than one turn")
    return turn


def works(c, accelerator):
    """From boot to the last block, then the volume as others see it."""
    c.vdisk.run("rollback", "boot.vdk:once@fresh", "--discard-current", "--force")
    done = subprocess.run(qemu(c, "once", accelerator), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=HANG)
    check(done.returncode == 33, SAID.get(done.returncode, done.stderr))
    for place, block in enumerate(blocks(c, "once")):
        last = max(n for n in range(1, TURNS + 1) if n % PLACES == place)
        check(turn_of(block) == last, f"block {place} is of turn {turn_of(block)}, not {last}")


class Machine:
    """A QEMU that can be talked to."""

    def __init__(self, c, name, *more):
        self.paths = {kind: os.path.join(c.vdisk.workdir, f"{name}.{kind}")
                      for kind in ("qmp", "serial")}
        self.process = subprocess.Popen(
            qemu(c, "forever", "tcg", "-qmp", f"unix:{self.paths['qmp']},server=on,wait=off",
                 "-serial", f"unix:{self.paths['serial']},server=on,wait=off", *more),
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.monitor = self.connect("qmp").makefile("rw", encoding="utf-8")
        self.monitor.readline()
        self.ask("qmp_capabilities")

    def connect(self, kind):
        deadline = time.monotonic() + HANG
        while True:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(self.paths[kind])
                return s
            except OSError:
                s.close()
                check(self.process.poll() is None and time.monotonic() < deadline,
                      "QEMU does not start")
                time.sleep(0.02)

    def ask(self, command, **arguments):
        self.monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.monitor.flush()
        while True:
            line = self.monitor.readline()
            check(line, f"QEMU has gone: {self.process.returncode}")
            answer = json.loads(line)
            check("error" not in answer, answer.get("error"))
            if "return" in answer:
                return answer["return"]

    def until(self, command, wanted, bad=()):
        deadline = time.monotonic() + HANG
        while (state := self.ask(command).get("status")) != wanted:
            check(state not in bad and time.monotonic() < deadline, f"{command}: {state}")
            time.sleep(0.02)

    def end(self):
        self.ask("quit")
        self.process.wait(HANG)


def moves(c, machine, number):
    """To another QEMU, which takes over when all is there; the server has two clients meanwhile."""
    path = os.path.join(c.vdisk.workdir, f"moving{number}")
    other = Machine(c, f"m{number}", "-incoming", f"unix:{path}")
    machine.ask("migrate", uri=f"unix:{path}")
    machine.until("query-migrate", "completed", ("failed", "cancelled"))
    machine.end()
    other.until("query-status", "running")
    return other


def turns(c):
    return max(turn_of(block) for block in blocks(c, "forever"))


def step_tcg(c):
    """a boot-sector guest reads and writes by TCG."""
    works(c, "tcg")


def step_kvm(c):
    """a boot-sector guest reads and writes by KVM."""
    works(c, "kvm")


def step_move(c):
    """a guest that runs moves to another QEMU three times."""
    machine = Machine(c, "m0")
    for number in range(1, 4):
        before = turns(c)
        while turns(c) == before:  # it works, before it moves and after
            time.sleep(0.1)
        machine = moves(c, machine, number)
    before = turns(c)
    while turns(c) == before:
        time.sleep(0.1)
    machine.connect("serial").send(b"q")
    status = machine.process.wait(HANG)
    check(status == 33, SAID.get(status, f"QEMU ended with {status}"))
    for place, block in enumerate(blocks(c, "forever")):
        check(turn_of(block) % PLACES == place, f"block {place} is of turn {turn_of(block)}")


def main():
    steps = [step_tcg, step_move]
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        steps.append(step_kvm)
    else:
        print("# skipped: /dev/kvm cannot be opened, so the guest runs by TCG only")
    with Scratch() as scratch:
        c = Context()
        c.vdisk = Vdisk(sys.argv[1], scratch)
        c.doors = os.path.join(scratch, "v")
        for name, count in (("once", TURNS), ("forever", 0)):
            c.vdisk.run("import", assemble(scratch, name, count), f"boot.vdk:{name}")
        with c.vdisk.serve("boot.vdk", os.path.join(scratch, "nbd.sock"), "--vhost",
                           c.doors) as server:
            c.vdisk.run("snapshot", "create", "boot.vdk:once@fresh")
            status = run("boot sector", steps, c)
            server.stop()
    sys.exit(status)


if __name__ == "__main__":
    main()
