#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Imports killed at random moments go on and end right; exports and conversions that are cut off
leave nothing.

    killed.py VDISK [SCRATCH [IMPORTS [SEED]]]
"""
import os
import random
import signal
import subprocess
import sys

from images import MIB, check, identical, main, make_raw, qemu_img

ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
SEED = int(sys.argv[4]) if len(sys.argv) > 4 else 1
STRIPE = 3 * MIB
SIZE = 1300 * MIB  # beyond the first step of an import


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(p) for p in f.read().split()]
    except OSError:
        return []


def gone(pid):
    """No longer there, or only waiting to be collected by whoever inherited it."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def start(c, *args):
    return subprocess.Popen([c.vdisk.program, *args], env=c.vdisk.env, cwd=c.dir,
                            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def used(path):
    return os.stat(path).st_blocks * 512


def kill_when(process, reached, how=signal.SIGKILL):
    """Kills it once `reached` says so; True if it had not ended before. Its children go with it."""
    while process.poll() is None and not reached():
        pass
    below = children(process.pid)
    alive = process.poll() is None
    process.send_signal(how)
    process.wait()
    for pid in below:
        while not gone(pid):
            pass
    return alive


def begin(c):
    """(an image with 780 MiB of data in 1300)"""
    c.raw = make_raw(c.path("k.raw"), SIZE, [])
    block = random.Random(SEED).randbytes(STRIPE)
    with open(c.raw, "r+b") as f:
        for off in range(0, SIZE - STRIPE, 5 * MIB):
            f.seek(off)
            f.write(off.to_bytes(8, "little") + block[8:])
    qemu_img("convert", "-O", "qcow2", c.raw, c.path("k.qcow2"))


def imports(c):
    """imports killed at random moments are resumed, or begun again, and end right"""
    rng = random.Random(SEED)
    kills = resumes = begins = 0
    for _ in range(ROUNDS):
        pool = c.path("k.vdk")
        c.vdisk.run("create", pool, "--size", "1M")
        command = ["import", "k.qcow2", pool + ":v", "--format", "qcow2"]
        for life in range(3):
            base, goal = used(pool), rng.randrange(850 * MIB)
            last = life == 2
            process = start(c, *command)
            if last:
                check(process.wait() == 0, f"{command} fails")
                break
            if not kill_when(process, lambda: used(pool) - base >= goal):
                check(process.returncode == 0, f"{command}: {process.returncode}")
                break
            kills += 1
            volumes = {v["name"] for v in c.vdisk.json("ls", pool)["volumes"]} - {"disk"}
            jobs = c.vdisk.json("job", "list", pool)["jobs"]
            if "v" in volumes and not jobs:
                break  # it was done but for its last words
            if jobs:
                command = ["job", "resume", pool, str(jobs[0]["id"])]
                resumes += 1
            else:
                # Killed before it had made a volume, or had recorded what that is.
                for name in volumes:
                    c.vdisk.run("volume", "delete", f"{pool}:{name}")
                begins += 1
        c.vdisk.run("export", pool + ":v", c.path("out.raw"))
        check(subprocess.run(["cmp", c.raw, c.path("out.raw")]).returncode == 0, "it differs")
        volumes = sorted(v["name"] for v in c.vdisk.json("ls", pool)["volumes"])
        check(volumes == ["disk", "v"], f"left: {volumes}")
        c.vdisk.run("check", pool)
        c.remove("k.vdk", "out.raw")
    print(f"# {ROUNDS} imports, {kills} kills, {resumes} resumed, {begins} begun again")
    check(kills > 0, "nothing was killed")


def children_killed(c):
    """a reader of QEMU's that dies fails the import, and leaves no volume"""
    pool = c.path("q.vdk")
    c.vdisk.run("create", pool, "--size", "1M")
    base = used(pool)
    process = start(c, "import", "k.qcow2", pool + ":v", "--format", "qcow2")
    while process.poll() is None and used(pool) - base < 100 * MIB:
        pass
    for pid in children(process.pid):
        os.kill(pid, signal.SIGKILL)
    check(process.wait() == 1, f"status {process.returncode}")
    volumes = [v["name"] for v in c.vdisk.json("ls", pool)["volumes"]]
    check(volumes == ["disk"], f"left: {volumes}")
    c.remove("q.vdk")


def exports(c):
    """exports and conversions that are cut off, by Ctrl-C or kill -9, leave nothing"""
    pool = c.path("e.vdk")
    c.vdisk.run("import", c.raw, pool)
    os.mkdir(c.path("out"))
    for args in (["--format", "qcow2"], ["--format", "qcow2", "--compress"],
                 ["--format", "vmdk", "--subformat", "streamOptimized"], ["--format", "vdi"]):
        for source in (["export", pool], ["convert", c.raw]):
            for how in (signal.SIGINT, signal.SIGKILL):
                process = start(c, *source, c.path("out/x"), *args)

                def writing():
                    """Some of it is in the file, which has no name yet."""
                    for pid in [process.pid, *children(process.pid)]:
                        try:
                            for fd in os.listdir(f"/proc/{pid}/fd"):
                                link = f"/proc/{pid}/fd/{fd}"
                                if os.readlink(link).startswith(c.path("out")) and used(link) > MIB:
                                    return True
                        except OSError:
                            pass
                    return False

                cut = kill_when(process, writing, how)
                check(cut, f"{source} {args} was not cut off: {process.returncode}")
                check(how == signal.SIGKILL or process.returncode == 7,
                      f"{source} {args}: status {process.returncode}")
                check(os.listdir(c.path("out")) == [], f"{source} {args} left a file")
    # What is there already stays until it can be replaced.
    with open(c.path("out/x"), "w", encoding="ascii") as f:
        f.write("precious")
    process = start(c, "export", pool, c.path("out/x"), "--format", "qcow2", "--overwrite")
    kill_when(process, lambda: len(children(process.pid)) > 0, signal.SIGINT)
    with open(c.path("out/x"), encoding="ascii") as f:
        check(f.read() == "precious", "it was overwritten")
    c.vdisk.run("export", pool, c.path("out/x"), "--format", "qcow2", "--overwrite")
    identical(c.path("out/x"), "qcow2", c.raw)


main("formats killed", [begin, imports, children_killed, exports])
