#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""All doors of one server at once, with real clients: fio over NBD, a file system in a file of the FUSE
mount, a vhost-user front end that verifies; then the server is killed and all of it is looked at again.

usage: doors.py VDISK VHOST-LOAD
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

VDISK, LOAD = (os.path.abspath(a) for a in sys.argv[1:3])
HANG = float(os.environ.get("VDISK_TEST_HANG", "120"))
FAILED = []


def check(good, what):
    print(f"{'ok' if good else 'not ok'} - {what}", flush=True)
    if not good:
        FAILED.append(what)


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG, **more)


def start(*args):
    server = subprocess.Popen([VDISK, "serve", *args], stdout=subprocess.PIPE, text=True)
    server.stdout.readline()
    return server


def end(server, how):
    server.send_signal(how)
    server.wait(HANG)
    server.stdout.close()


def main_path():
    for volume in ("net", "file", "guest"):
        run(VDISK, "volume", "create", f"p.vdk:{volume}", "--size", "48M", check=True)
    doors = ("p.vdk", "--nbd", "unix:n.sock", "--fuse", "mnt", "--vhost", "vhost")
    server = start(*doors)
    fio = subprocess.Popen(["fio", "--name=x", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=16",
                            "--size=32m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
                            f"--uri=nbd+unix:///net?socket={os.path.abspath('n.sock')}"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    load = subprocess.Popen([LOAD, "vhost/guest.sock", "--depth", "16", "--seconds", "3", "--verify"],
                            stdout=subprocess.DEVNULL)
    made = run("mkfs.ext4", "-q", "-d", os.path.dirname(os.path.abspath(__file__)), "mnt/file/disk.raw")
    check(made.returncode == 0, "a file system is made in the mount " + made.stderr)
    check(run(VDISK, "snapshot", "create", "p.vdk:file@made").returncode == 0 and
          os.path.exists("mnt/file/snapshots/made/disk.raw"), "a snapshot appears there")
    seen = {}
    while fio.poll() is None or load.poll() is None:
        for door in json.loads(run(VDISK, "door", "list", "p.vdk", "--json").stdout)["doors"]:
            for client in door["clients"]:
                if client["export"]: # it has none while it negotiates
                    seen.setdefault(door["kind"], set()).add(client["export"])
    check(fio.returncode == 0, "fio verifies over NBD")
    check(load.returncode == 0, "a front end verifies over vhost-user-blk")
    check(seen.get("nbd") == {"net"} and seen.get("vhost") == {"guest"}, f"doors tell of their clients: {seen}")
    end(server, signal.SIGKILL)

    check(run(VDISK, "umount", "mnt").returncode == 0, "what a killed server left is unmounted")
    server = start(*doors)
    check(run("e2fsck", "-fn", "mnt/file/disk.raw").returncode == 0 and
          run("e2fsck", "-fn", "mnt/file/snapshots/made/disk.raw").returncode == 0,
          "the file system and its snapshot are whole after kill -9")
    metered = run(VDISK, "top", "p.vdk", "--json", "--count", "1", "--interval", "0.1")
    check(metered.returncode == 0, "top shows it " + metered.stderr)
    with open("mnt/file/disk.raw", "r+b"):
        refused = run("qemu-io", "-f", "raw", "-c", "write 0 4k", "nbd+unix:///file?socket=n.sock")
        check("being written through the door fuse" in refused.stderr, "a volume is written through one door")
    end(server, signal.SIGTERM)
    check(server.returncode == 0 and not os.listdir("mnt") and not os.listdir("vhost"), "all doors close in order")
    done = run(VDISK, "check", "p.vdk", "--data")
    check(done.returncode == 0, "the pool is sound " + done.stdout)


def main():
    missing = [p for p in ("fio", "mkfs.ext4", "qemu-io") if not shutil.which(p)]
    if missing or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        print(f"skipped: {' '.join(missing) or 'no /dev/fuse'}")
        sys.exit(77)
    where = tempfile.mkdtemp(prefix="vdisk-doors.")
    os.chdir(where)
    os.environ.update(VDISK_RUNTIME_DIR=os.path.join(where, "run"), VDISK_CONFIG_DIR=os.path.join(where, "config"))
    os.mkdir("mnt")
    try:
        run(VDISK, "create", "p.vdk", "--size", "1M", check=True)
        main_path()
    finally:
        os.chdir("/")
        if re.search(f" {where}/mnt ", open("/proc/self/mounts", encoding="utf-8").read()):
            subprocess.run(["umount", "-l", f"{where}/mnt"], check=False)
        shutil.rmtree(where)
    sys.exit(1 if FAILED else 0)


main()
