#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Databases on an ext4 through a loop device on the file of a mounted volume, whose server is killed
under them. What they said was committed is there when server, file system and database are back.

    databases.py VDISK SCRATCH-DIRECTORY    (--write-sqlite: itself, as the process that writes)
"""
import contextlib
import glob
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "guest"))
from filesystems import run  # noqa: E402
from mounted import Checks, skip_unless_fuse  # noqa: E402
from steps import Scratch  # noqa: E402
from vdisk import HANG, Vdisk  # noqa: E402

ROUNDS = 3
AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


class Disk:
    """A served pool, its volume as a file, a loop device on it, and ext4 on that at `at`."""

    def __init__(self, program, scratch):
        self.vdisk = Vdisk(program, scratch)
        self.mnt, self.at = (os.path.join(scratch, name) for name in ("mnt", "fs"))
        os.chmod(scratch, 0o755)  # the database is another user
        for path in (self.mnt, self.at):
            os.mkdir(path)
        self.vdisk.run("create", "db.vdk", "--size", "1G")
        self.server = self.loop = None
        self.up()
        run("mkfs.ext4", "-q", "-F", self.loop)
        run("mount", self.loop, self.at)

    def up(self):
        door = os.path.join(self.vdisk.workdir, "n.sock")
        if self.server:
            self.server.start()
        else:
            self.server = self.vdisk.serve("db.vdk", door, "--fuse", self.mnt)
        file = os.path.join(self.mnt, "disk", "disk.raw")
        deadline = time.monotonic() + HANG
        while not os.path.exists(file) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.loop = run("losetup", "--show", "--direct-io=on", "-f", file).strip()

    def kill(self):
        self.server.kill()

    def down(self):
        """What is left of it after a kill."""
        run("umount", "--lazy", self.at)
        run("losetup", "-d", self.loop)
        self.vdisk.run("umount", self.mnt)
        # The kernel lets go of a loop device when its last user has gone, which is not at once.
        deadline = time.monotonic() + HANG
        while self.loop in run("losetup", "--list", "--noheadings", "--output", "NAME").split():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.loop} does not end")
            time.sleep(0.05)

    def again(self):
        self.down()
        self.up()
        run("mount", self.loop, self.at)

    def end(self):
        run("umount", self.at)
        run("e2fsck", "-f", "-n", self.loop)
        run("losetup", "-d", self.loop)
        self.server.stop()
        return self.vdisk.json("check", "db.vdk", "--data")["errors"]

    def abandon(self):
        """Whatever state it is in."""
        for command in (["umount", "--lazy", self.at], ["losetup", "-d", self.loop or "-"]):
            subprocess.run(command, capture_output=True, check=False)
        if self.server.process.poll() is None:
            self.server.kill()
        subprocess.run(["umount", "--lazy", self.mnt], capture_output=True, check=False)


def killed_later(disk, seconds):
    timer = threading.Timer(seconds, disk.kill)
    timer.start()
    return timer


def open_sqlite(path, mode):
    db = sqlite3.connect(path, isolation_level=None, timeout=5)
    db.execute(f"pragma journal_mode={mode}")
    db.execute("pragma synchronous=extra")  # the deletion of a journal is what commits
    db.execute("create table if not exists t(n integer primary key, text blob)")
    return db


def write_sqlite(path, mode, last):
    """What `Sqlite.write` starts: rows after `last` until the disk is gone, each told of when it is
    committed."""
    try:
        db = open_sqlite(path, mode)
        while True:
            last += 1
            db.execute("insert into t values(?, ?)", (last, str(last).encode() * 300))
            print(last, flush=True)
    except sqlite3.Error:
        os._exit(0)  # not to write to the dead disk for as long as it takes


class Sqlite:
    """Rows of growing numbers, one to a transaction, in both journal modes."""

    def __init__(self, disk, mode):
        self.path = os.path.join(disk.at, f"{mode}.db")
        self.mode, self.said = mode, 0

    def write(self):
        """Until the disk is gone; by a process of its own, with which all of its files go."""
        said = run(sys.executable, os.path.abspath(__file__), "--write-sqlite", self.path,
                   self.mode, str(self.said)).split()
        self.said = int(said[-1]) if said else self.said

    def judge(self):
        """What is wrong, or None."""
        db = open_sqlite(self.path, self.mode)
        sound = db.execute("pragma integrity_check").fetchone()[0]
        rows = db.execute("select n, text from t order by n").fetchall()
        db.close()
        if sound != "ok":
            return sound
        if len(rows) < self.said:
            return f"{self.said} rows were committed, {len(rows)} are there"
        if any(n != i + 1 or text != str(n).encode() * 300 for i, (n, text) in enumerate(rows)):
            return "a row is not what was written"
        self.said = len(rows)
        return None


def sqlite(disk, c, rng):
    for mode in ("wal", "delete"):
        db = Sqlite(disk, mode)
        for number in range(ROUNDS):
            timer = killed_later(disk, 0.5 + rng.random())
            db.write()
            timer.join()
            disk.again()
            before = db.said
            why = db.judge()
            c.check(f"SQLite ({mode}) has what it committed after kill -9, {number + 1}",
                    why is None and before > 0, why or "nothing was committed")


class Postgres:
    """A cluster with checksums on, in a directory of the file system."""

    def __init__(self, disk, programs):
        self.data, self.programs = os.path.join(disk.at, "pg"), programs
        self.sockets = os.path.join(disk.vdisk.workdir, "pgrun")
        self.log = os.path.join(self.sockets, "log")
        self.said = 0
        for path in (self.data, self.sockets):
            os.mkdir(path)
            shutil.chown(path, "postgres", "postgres")
            os.chmod(path, 0o700)
        self.program("initdb", "--data-checksums", "--no-instructions", "--auth=trust", "-D",
                     self.data)

    def command(self, name, *args):
        return [*AS_POSTGRES, os.path.join(self.programs, name), *args]

    def program(self, name, *args):
        return run(*self.command(name, *args), cwd="/")

    def start(self):
        self.process = subprocess.Popen(
            self.command("postgres", "-D", self.data, "-c", "listen_addresses=", "-c",
                         f"unix_socket_directories={self.sockets}"),
            cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=open(self.log, "ab"))
        deadline = time.monotonic() + HANG
        while subprocess.run(self.command("pg_isready", "-q", "-h", self.sockets)).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(self.log, encoding="utf-8") as log:
                    raise RuntimeError(f"PostgreSQL does not start: {log.read()[-1000:]}")
            time.sleep(0.05)

    def stop(self):
        self.process.send_signal(signal.SIGINT)  # its fast shutdown
        self.process.wait(HANG)

    def psql(self, *args, **options):
        return subprocess.Popen(self.command("psql", "-h", self.sockets, "-X", "-At", "-d",
                                             "postgres", *args), cwd="/", text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, **options)

    def ask(self, sql):
        out, _ = self.psql("-q", "-c", sql).communicate(timeout=HANG)
        return out.strip()

    def write(self):
        """One row to a transaction until the disk is gone; psql answers when it is committed."""
        with self.psql("-v", "ON_ERROR_STOP=1") as p:
            try:
                while True:
                    n = self.said + 1
                    p.stdin.write(f"insert into t values({n}, repeat('{n} ', 300));\n")
                    p.stdin.flush()
                    if not p.stdout.readline().startswith("INSERT"):
                        break
                    self.said = n
                p.stdin.close()
            except BrokenPipeError:
                pass

    def kill(self):
        """Postmaster and all: the disk is gone, so nothing else ends it."""
        pid = self.process.pid
        self.process.send_signal(signal.SIGSTOP)  # it starts no more
        with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as f:
            children = [int(child) for child in f.read().split()]
        for victim in (pid, *children):
            os.kill(victim, signal.SIGKILL)
        self.process.wait(HANG)

    def judge(self):
        if self.ask("select count(*) from t where text <> repeat(n || ' ', 300)") != "0":
            return "a row is not what was written"
        count = int(self.ask("select count(*) from t") or 0)
        most = int(self.ask("select coalesce(max(n), 0) from t") or 0)
        if count < self.said or most != count:
            return f"{self.said} rows were committed, {count} are there, up to {most}"
        self.said = count
        return None


def postgres(disk, c, rng, stack):
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        print("skipped: PostgreSQL is not installed (tools/deps --install database)")
        return
    db = Postgres(disk, found[-1])
    stack.callback(lambda: db.process.poll() is None and db.kill())
    db.start()
    db.ask("create table t(n integer primary key, text text)")
    db.ask("checkpoint")
    for number in range(ROUNDS):
        timer = killed_later(disk, 0.5 + rng.random())
        db.write()
        timer.join()
        db.kill()
        disk.again()
        db.start()
        before = db.said
        why = db.judge()
        c.check(f"PostgreSQL has what it committed after kill -9, {number + 1}",
                why is None and before > 0, why or "nothing was committed")
    db.stop()
    said = db.program("pg_checksums", "--check", "-D", db.data)
    c.check("all checksums of its pages are right", "Bad checksums:  0" in said, said)


def main():
    if sys.argv[1] == "--write-sqlite":
        write_sqlite(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    skip_unless_fuse()
    if os.geteuid() != 0 or subprocess.run(["losetup", "-f"], capture_output=True).returncode != 0:
        print("skipped: file systems on loop devices want root and loop devices")
        sys.exit(77)
    c, rng = Checks(), random.Random(int(os.environ.get("VDISK_TEST_SEED", "1")))
    with Scratch() as scratch, contextlib.ExitStack() as stack:
        disk = Disk(sys.argv[1], scratch)
        stack.callback(disk.abandon)
        sqlite(disk, c, rng)
        postgres(disk, c, rng, stack)
        c.check("file system and pool are in order", disk.end() == 0)
    c.end()


if __name__ == "__main__":
    main()
