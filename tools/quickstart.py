#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The tour behind tools/quickstart: each command is shown, run, and its effect looked at."""
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "guest"))

from guest import Guest, GuestError, make_disk  # noqa: E402
from vdisk import Vdisk, VdiskError  # noqa: E402

BOLD, DIM, OFF = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


class Tour:
    def __init__(self, vdisk, scratch):
        self.vdisk = vdisk
        self.scratch = scratch
        self.number = 0

    def step(self, text):
        self.number += 1
        print(f"\n{BOLD}{self.number}. {text}{OFF}", flush=True)

    def say(self, text):
        print(f"   {text}", flush=True)

    def show(self, output):
        for line in output.splitlines():
            print(f"   {DIM}{line}{OFF}", flush=True)

    def run(self, *args):
        print("   $ vdisk " + " ".join(shlex.quote(a) for a in args), flush=True)
        output = self.vdisk.run(*args)
        self.show(output)
        return output

    def inside(self, guest, script, shown=None):
        print(f"   guest# {shown or script}", flush=True)
        output = guest.run(script)
        self.show(output)
        return output


def megabytes(path):
    return f"{os.stat(path).st_blocks * 512 / 1e6:.0f} MB"


def tour(t, server_box):
    pool = "disk.vdk"
    path = os.path.join(t.scratch, pool)
    door = os.path.join(t.scratch, "nbd.sock")

    t.step("A real disk: Debian's kernel and a small system behind a boot loader, made from packages")
    image = make_disk(os.path.join(t.scratch, "debian.raw"))
    t.say(f"debian.raw: {os.path.getsize(image) / 1e6:.0f} MB long, "
          f"{megabytes(image)} of it in use")

    t.step("Import it: one file that holds the disk and, later, all its snapshots")
    t.run("import", "debian.raw", pool)
    t.run("info", pool)
    t.say(f"{pool} takes {megabytes(path)}")

    t.step("Serve it over NBD and boot a virtual machine from it (BIOS, boot loader, kernel)")
    print(f"   $ vdisk serve {pool} --nbd unix:nbd.sock &", flush=True)
    server = t.vdisk.serve(pool, door)
    server_box.append(server)
    guest = Guest(t.scratch, nbd=door)
    server_box.append(guest)
    guest.boot()
    t.inside(guest, "uname -sr; grep ' / ' /proc/mounts")

    t.step("Work in it")
    letter = "The quick brown fox was here."
    t.inside(guest, f"echo '{letter}' >/letter; sync; cat /letter")

    t.step("Take a snapshot while it runs")
    t.run("snapshot", "create", f"{pool}@before")
    t.run("snapshot", "list", pool)

    t.step("Destroy everything")
    guest.run("rm -rf --no-preserve-root --one-file-system / || true")
    print("   guest# rm -rf --no-preserve-root /", flush=True)
    t.inside(guest, "$b dd if=/dev/urandom of=/dev/vda bs=1M count=100 2>/dev/null; $b sync; "
             "$b ls /usr /bin /etc 2>&1 || true",
             "dd if=/dev/urandom of=/dev/vda bs=1M count=100; ls /usr /bin /etc")
    guest.power_off()
    t.say("The machine is off. Its disk has no boot loader, no partitions and no files left.")

    t.step("Roll back")
    t.run("rollback", f"{pool}@before")

    t.step("Boot again, from the same server")
    guest.boot()
    found = t.inside(guest, "cat /letter").strip()
    guest.power_off()
    server.stop()

    t.step("Check every block of the file")
    t.run("check", pool, "--data")
    t.run("snapshot", "list", pool)
    t.say(f"{pool} takes {megabytes(path)}")
    return found == letter


def main():
    build = os.path.abspath(sys.argv[1])
    scratch = tempfile.mkdtemp(prefix="vdisk-quickstart.", dir="/var/tmp")
    box = []
    try:
        t = Tour(Vdisk(os.path.join(build, "cli", "vdisk"), scratch), scratch)
        good = tour(t, box)
        problem = "the letter is not what it was"
    except (GuestError, VdiskError, subprocess.TimeoutExpired) as error:
        good, problem = False, error
    except KeyboardInterrupt:
        good, problem = False, "interrupted"
    finally:
        for thing in reversed(box):
            thing.__exit__()
        shutil.rmtree(scratch, ignore_errors=True)
    if not good:
        print(f"\n{BOLD}It did not work: {problem}{OFF}")
        sys.exit(1)
    print(f"\n{BOLD}The machine is back as it was when the snapshot was taken.{OFF}")
    print(f"The program is {os.path.relpath(os.path.join(build, 'cli', 'vdisk'))}; "
          "try --help, and read README.md.")


if __name__ == "__main__":
    main()
