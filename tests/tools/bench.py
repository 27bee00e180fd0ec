#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/bench works: rows are measured on every server that can run here, images verified, files
written as promised, nothing left behind, also after Ctrl-C. How fast anything is does not matter.

    bench.py VDISK DIRECTORY
"""
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
BENCH = os.path.join(HERE, "..", "..", "tools", "bench")
HANG = float(os.environ.get("VDISK_TEST_HANG", "600"))
SVG = "{http://www.w3.org/2000/svg}"
failures = 0


def check(good, what, why=""):
    global failures
    failures += not good
    print(f"{'ok' if good else 'not ok'} - {what}" + ("" if good else f": {why}"), flush=True)


class Bench:
    def __init__(self, vdisk, scratch):
        self.vdisk, self.scratch, self.pid = vdisk, scratch, 0
        self.work = os.path.join(scratch, "work")
        os.mkdir(self.work)

    def command(self, *args):
        return [sys.executable, BENCH, "--vdisk", self.vdisk, "--dir", self.work, *args]

    def run(self, *args):
        with subprocess.Popen(self.command(*args), stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            self.pid = process.pid
            out, err = process.communicate(timeout=HANG)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def left(self):
        """What a run has left: files, loop devices, processes that work here."""
        found = os.listdir(self.work)
        loops = subprocess.run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"],
                               capture_output=True, text=True).stdout
        found += [line for line in loops.splitlines() if self.work in line]
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory"):
            found += glob.glob(f"{root}/vdisk-bench-{self.pid}-*")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/cwd").startswith(self.work):
                    found.append(f"process {pid}")
            except OSError:
                pass
        return found


def measures(bench):
    out = os.path.join(bench.scratch, "out")
    done = bench.run("--quick", "N3", "N12", "N10", "--size", "64M", "--seconds", "1",
                     "--output", out)
    check(done.returncode == 0, "a small run succeeds", done.stdout + done.stderr)
    if done.returncode != 0:
        return
    with open(os.path.join(out, "bench.json"), encoding="utf-8") as f:
        result = json.load(f)
    rows = {(r["row"], r["measure"]): r for r in result["results"]}
    speed = rows["N3", "write"]
    servers = {"raw", "qcow2", "vdisk"} | ({"xfs"} - set(result["skipped"]))
    check(set(speed["values"]) == servers and all(v > 0 for v in speed["values"].values()),
          "every server that can run here is measured", speed)
    check(abs(speed["must"]["limit"] - 8 * speed["values"]["qcow2"]) < 1
          and speed["must"]["met"] == (speed["values"]["vdisk"] >= speed["must"]["limit"]),
          "what must be reached is worked out", speed["must"])
    check(rows["N12", "request"]["values"]["vdisk"] > 0
          and rows["N10", "resident"]["values"]["vdisk"] > 1, "times and memory are measured", rows)
    check(any("vdisk serve" in c for c in result["commands"]["vdisk"])
          and any("cache.direct=on,aio=io_uring" in c for c in result["commands"]["qcow2"]),
          "command lines are told", result["commands"])
    said = " ".join(result["verified"])
    check("vdisk check --data" in said and ", 0 errors" in said and "qemu-img check" in said,
          "images are verified", said)
    check(any(n.startswith("vdisk-fresh: device") and "for" in n for n in result["notes"]),
          "device bytes are compared with what clients asked for", result["notes"])
    drawn = xml.etree.ElementTree.parse(os.path.join(out, "bench.svg")).getroot()
    check(drawn.tag == SVG + "svg" and len(drawn.findall(SVG + "rect")) > len(servers),
          "the chart is drawn", drawn.tag)
    with open(os.path.join(out, "bench.md"), encoding="utf-8") as f:
        check("| N3 | write |" in f.read(), "the table is written")
    check(not bench.left(), "nothing is left behind", bench.left())


def scales(bench):
    out = os.path.join(bench.scratch, "scale")
    done = bench.run("--quick", "scale", "--volumes", "20", "--snapshots", "50", "--clones", "10",
                     "--sizes", "64M,1T", "--output", out)
    check(done.returncode == 0, "scale succeeds", done.stdout + done.stderr)
    if done.returncode == 0:
        with open(os.path.join(out, "bench.json"), encoding="utf-8") as f:
            courses = json.load(f)["scale"]
        check(len(courses) == 4 and all(c["figures"]["open"][-1] > 0 for c in courses.values()),
              "each course has its figures", courses)
    check(not bench.left(), "scale leaves nothing behind", bench.left())


def opens_doors(bench):
    """Two of three: that of FUSE needs what not every machine has, and takes no other code."""
    out = os.path.join(bench.scratch, "doors")
    done = bench.run("--quick", "NBD", "N15", "--size", "64M", "--seconds", "1", "--output", out)
    check(done.returncode == 0, "the doors are measured", done.stdout + done.stderr)
    if done.returncode == 0:
        with open(os.path.join(out, "bench.json"), encoding="utf-8") as f:
            rows = {(r["row"], r["measure"]): r for r in json.load(f)["results"]}
        for row, servers in (("NBD", {"raw", "qcow2", "qemu-raw", "nbdkit", "vdisk"}),
                             ("N15", {"raw", "qcow2", "qemu-raw", "vdisk"})):
            found = rows[row, "random read QD1"]
            check(set(found["values"]) == servers and all(found["values"].values()),
                  f"{row} is measured on all that have this door", found)
    check(not bench.left(), "the doors leave nothing behind", bench.left())


def interrupted(bench):
    """Ctrl-C in the middle of a long run, as a terminal sends it: to bench alone."""
    process = subprocess.Popen(bench.command("--quick", "N2", "--size", "64M", "--seconds", "600"),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    bench.pid = process.pid
    # There is work to undo as soon as a server is up.
    while process.poll() is None and not any(
            "vdisk-worn.log" in files for _, _, files in os.walk(bench.work)):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=HANG)
    check(process.returncode == 130 and "interrupted" in said, "Ctrl-C ends it", said)
    check(not bench.left(), "Ctrl-C leaves nothing behind", bench.left())


def refuses(bench):
    for args, why in ((["N99"], "there is no row N99"), (["--size", "x"], "is no size"),
                      (["--size", "1M"], "--size is at least"), (["--rounds", "0"], "at least 1"),
                      (["--vdisk", "/nowhere/vdisk"], "is missing"),
                      (["N12", "--dir", "/nowhere"], "--dir names another place")):
        done = bench.run(*args)
        lines = done.stderr.splitlines()
        check(done.returncode == 1 and len(lines) == 1 and why in lines[0],
              f"{' '.join(args)} is refused in one line", done.stdout + done.stderr)


def main():
    vdisk, directory = sys.argv[1:3]
    for program in ("fio", "qemu-storage-daemon", "qemu-img"):
        if not shutil.which(program):
            print(f"skipped: no {program}")
            return 77
    scratch = tempfile.mkdtemp(prefix="bench-test.", dir=directory)
    try:
        bench = Bench(os.path.abspath(vdisk), scratch)
        measures(bench)
        scales(bench)
        opens_doors(bench)
        interrupted(bench)
        refuses(bench)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
