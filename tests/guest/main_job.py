#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The main job, on a real guest: a Linux disk is imported, served and booted; a snapshot is taken
while it runs; the guest destroys itself; the snapshot brings it back. Then the server is killed
under a writing guest, and the power fails.

    main_job.py VDISK [SCRATCH-DIRECTORY]
"""
import hashlib
import os
import subprocess
import sys
import time

from guest import Guest, make_disk
from steps import Scratch, check, run
from vdisk import Vdisk

ROOT_OFFSET = (1 + 64) << 20  # of the root partition, as tools/make-guest lays it out
WRITER_BLOCKS = 200
WRITER_BLOCK = 65536
ENV = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")


class Context:
    def __init__(self, vdisk, scratch):
        self.vdisk = vdisk
        self.scratch = scratch
        self.pool = os.path.join(scratch, "disk.vdk")
        self.socket = os.path.join(scratch, "nbd.sock")
        self.server = None
        self.guest = Guest(scratch, nbd=self.socket)
        self.sums = {}


def file_sum(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fsck(image):
    """A full check of the root file system inside a raw image, by e2fsck, changing nothing."""
    done = subprocess.run(["e2fsck", "-fn", f"{image}?offset={ROOT_OFFSET}"], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, env=ENV)
    check(done.returncode == 0, f"e2fsck says {done.returncode}: {done.stdout}{done.stderr}")


def fsck_after_crash(image):
    """Replays the journal as the next mount would; only then must everything be in order."""
    subprocess.run(["e2fsck", "-fy", f"{image}?offset={ROOT_OFFSET}"], capture_output=True,
                   stdin=subprocess.DEVNULL, env=ENV)
    fsck(image)


def cat(image, path):
    """A file's text, read from the image without mounting it."""
    done = subprocess.run(["debugfs", "-R", f"cat {path}", f"{image}?offset={ROOT_OFFSET}"],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, env=ENV)
    return done.stdout


def export(c, target, name):
    path = os.path.join(c.scratch, name)
    c.vdisk.run("export", target, path, "--format", "raw", "--overwrite")
    return path


def step_import(c):
    """import makes a pool file whose content is the image's, byte for byte."""
    c.image = make_disk()
    c.vdisk.run("import", c.image, c.pool)
    out = export(c, c.pool, "out.raw")
    check(os.path.getsize(out) == os.path.getsize(c.image), "the export has another size")
    check(file_sum(out) == file_sum(c.image), "the export differs from the image")
    os.unlink(out)
    c.vdisk.run("check", c.pool, "--data")
    taken = os.stat(c.pool).st_blocks * 512
    check(taken < os.stat(c.image).st_blocks * 512 * 1.25 + (64 << 20),
          f"a sparse image takes {taken} bytes")


def step_boot(c):
    """a guest boots from it over NBD, through BIOS and boot loader, and writes."""
    c.server = c.vdisk.serve(c.pool, c.socket)
    c.guest.boot()
    c.guest.run("echo 'I was here.' >/letter; dd if=/dev/urandom of=/treasure bs=1M count=24 "
                "conv=fsync; sync")
    c.sums["treasure"] = c.guest.run("sha256sum </treasure").split()[0]
    c.guest.run("(while :; do date +%s.%N >>/log; sync /log; done) >/dev/null 2>&1 &")


def step_snapshot(c):
    """a snapshot is taken while it runs and writes."""
    c.vdisk.run("snapshot", "create", f"{c.pool}@before")
    check("before" in c.vdisk.run("snapshot", "list", c.pool), "the snapshot is not listed")


def step_snapshot_stays(c):
    """the snapshot does not change when the volume does."""
    first = file_sum(export(c, f"{c.pool}@before", "before.raw"))
    c.guest.run("dd if=/dev/urandom of=/more bs=1M count=16 conv=fsync; rm -f /treasure; sync")
    c.sums["before"] = first
    again = file_sum(export(c, f"{c.pool}@before", "before.raw"))
    check(first == again, "the snapshot's content has changed")
    status, _, err = c.vdisk.try_run("rollback", f"{c.pool}@before")
    check(status == 4, f"rollback under a running guest: status {status}, not 4 (busy): {err}")


COUNTER = """
(i=0; while :; do
    i=$((i + 1))
    echo $i >/count.new && sync /count.new && mv /count.new /count && sync / && echo $i >/run/count
done) >/dev/null 2>&1 &
until [ -s /run/count ]; do sleep 0.1; done
"""


def step_snapshots_under_load(c):
    """snapshots under load hold all that was synced, in a file system that is whole."""
    c.guest.run(COUNTER)
    for name in ("load-1", "load-2", "load-3"):
        synced = int(c.guest.run("cat /run/count"))
        c.vdisk.run("snapshot", "create", f"{c.pool}@{name}")
        image = export(c, f"{c.pool}@{name}", "load.raw")
        fsck_after_crash(image)
        found = int(cat(image, "/count") or 0)
        check(found >= synced, f"{name}: the guest had synced {synced}, there is {found}")
    c.vdisk.run("snapshot", "delete", *(f"{c.pool}@load-{n}" for n in (1, 2, 3)))


def step_destroy(c):
    """the guest destroys its own disk, and no longer boots."""
    c.guest.run("rm -rf --no-preserve-root --one-file-system / || true")
    c.guest.run("$b dd if=/dev/urandom of=/dev/vda bs=1M count=160; $b sync")
    c.guest.power_off()
    live = export(c, c.pool, "live.raw")
    with open(live, "rb") as f:
        check(f.read(512)[-2:] != b"\x55\xaa", "the boot sector is still there")
    os.unlink(live)


def step_rollback(c):
    """rollback brings the disk back, bit for bit, and it boots with the files there."""
    c.vdisk.run("rollback", f"{c.pool}@before")
    check(file_sum(export(c, c.pool, "live.raw")) == c.sums["before"],
          "the volume is not what the snapshot was")
    c.guest.boot()
    check(c.guest.run("cat /letter").strip() == "I was here.", "the letter is not there")
    check(c.guest.run("sha256sum </treasure").split()[0] == c.sums["treasure"],
          "the treasure has changed")
    c.guest.power_off()
    fsck(export(c, c.pool, "live.raw"))


def step_trim(c):
    """the file gets smaller when the guest deletes and trims, while it runs."""
    c.guest.boot()
    c.guest.run("fstrim /")
    before = os.stat(c.pool).st_blocks * 512
    c.guest.run("dd if=/dev/urandom of=/big bs=1M count=192 conv=fsync")
    full = os.stat(c.pool).st_blocks * 512
    check(full > before + (150 << 20), f"192 MiB more made {before} bytes into {full}")
    c.guest.run("rm /big; sync; fstrim /")
    # Space comes back with checkpoints, which follow writes: a count of them limits this, not time.
    for _ in range(60):
        if os.stat(c.pool).st_blocks * 512 < before + (80 << 20):
            break
        c.guest.run("dd if=/dev/urandom of=/small bs=1M count=4 conv=notrunc,fsync")
    left = os.stat(c.pool).st_blocks * 512
    check(left < before + (80 << 20), f"the file was {before}, grew to {full}, and keeps {left}")
    c.guest.power_off()


WRITER = f"""
rm -f /run/failed; echo 0 >/run/progress
fallocate -l {WRITER_BLOCKS * WRITER_BLOCK} /w && sync
(for i in $(seq 0 {WRITER_BLOCKS - 1}); do
    yes "block $i round $ROUND" | head -c {WRITER_BLOCK} |
        dd of=/w bs={WRITER_BLOCK} seek=$i iflag=fullblock oflag=direct conv=notrunc 2>/dev/null ||
        echo $i >>/run/failed
    echo $i >/run/progress
done; echo done >/run/progress) >/dev/null 2>&1 &
"""
# Read past the page cache: what the disk holds, not what the guest remembers.
WRITER_SUM = f"dd if=/w bs={WRITER_BLOCK} iflag=direct 2>/dev/null | sha256sum"


def writer_want(number):
    """What WRITER_SUM must print after a whole round."""
    digest = hashlib.sha256()
    for i in range(WRITER_BLOCKS):
        line = f"block {i} round {number}\n".encode()
        digest.update((line * (WRITER_BLOCK // len(line) + 1))[:WRITER_BLOCK])
    return digest.hexdigest() + "  -\n"


def progress(c):
    text = c.guest.run("cat /run/progress").strip()
    return WRITER_BLOCKS if text == "done" else int(text or 0)


def step_kill_server(c):
    """kill -9 of the server under a writing guest loses no acknowledged write."""
    c.guest.boot()
    c.guest.run("ROUND=1\n" + WRITER)
    kills = 0
    for goal in range(20, WRITER_BLOCKS - 10, 34):
        while progress(c) < goal:
            time.sleep(0.05)
        c.server.kill()
        kills += 1
        c.server.start()
    while progress(c) < WRITER_BLOCKS:
        time.sleep(0.05)
    check(kills >= 5, "the server was killed too seldom to mean anything")
    check(not c.guest.run("cat /run/failed 2>/dev/null || true"), "the guest saw write errors")
    check(c.guest.run(WRITER_SUM) == writer_want(1),
          "acknowledged writes are missing")
    check(c.guest.run("dmesg | grep -i -E 'I/O error|EXT4-fs error' || true") == "",
          "the guest's kernel complains")


def step_power_cut(c):
    """power cut of guest and server: what was fsynced is there, and the file system is whole."""
    c.guest.run("echo precious >/fsynced; sync /fsynced /; cp /fsynced /moved; sync /moved /")
    c.guest.run("ROUND=2\n" + WRITER)
    while progress(c) < 30:
        time.sleep(0.05)
    c.guest.pull_plug()
    c.server.kill()
    c.server.start()
    c.guest.boot()
    check(c.guest.run("cat /fsynced /moved") == "precious\nprecious\n", "fsynced data is missing")
    c.guest.power_off()
    fsck(export(c, c.pool, "live.raw"))


def step_clean(c):
    """afterwards the server ends cleanly and check --data finds nothing wrong."""
    c.server.stop()
    c.vdisk.run("check", c.pool, "--data")
    c.vdisk.run("snapshot", "delete", f"{c.pool}@before")
    c.vdisk.run("check", c.pool, "--data")


STEPS = [step_import, step_boot, step_snapshot, step_snapshot_stays,
         step_snapshots_under_load, step_destroy, step_rollback, step_trim, step_kill_server,
         step_power_cut, step_clean]


def main():
    make_disk()  # says skipped before anything else is tried
    with Scratch() as scratch:
        c = Context(Vdisk(sys.argv[1], scratch), scratch)
        try:
            status = run("main job", STEPS, c)
        finally:
            if c.guest.process:
                c.guest.pull_plug()
            if c.server and c.server.process.poll() is None:
                c.server.kill()
    sys.exit(status)


if __name__ == "__main__":
    main()
