# SPDX-License-Identifier: MIT
"""A pool that fuse-server has mounted, for the tests of the FUSE door."""
import os
import shutil
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20


def skip_unless_fuse():
    """Ends the test with 77 where nothing can be mounted."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as e:
        print(f"skipped: /dev/fuse: {e.strerror}")
        sys.exit(77)
    if os.geteuid() != 0 and not shutil.which("fusermount3"):
        print("skipped: fusermount3 is not installed")
        sys.exit(77)


class Refused(Exception):
    pass


class Mounted:
    """with Mounted(EXE, disk=SIZE) as m: m.path("disk/disk.raw") ..."""

    def __init__(self, exe, *options, where=None, pool="p.vdk", prefix=(), **volumes):
        self.exe = exe
        self.tmp = where or tempfile.mkdtemp(prefix="vdisk-fuse-", dir="/var/tmp")
        self.ours = where is None
        self.mnt = os.path.join(self.tmp, "mnt")
        if not os.path.lexists(self.mnt):
            os.mkdir(self.mnt)
        self.prefix, self.pool = list(prefix), os.path.join(self.tmp, pool)
        self.options = list(options)
        for name, size in volumes.items():
            self.options += ["--volume", f"{name}={size}"]
        self.start()

    def start(self):
        self.p = subprocess.Popen([*self.prefix, self.exe, self.pool, self.mnt, *self.options],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.p.stdout.readline().strip()
        if line != self.mnt:
            self.p.communicate()
            raise Refused(line)

    def path(self, *parts):
        return os.path.join(self.mnt, *parts)

    def ask(self, line):
        """One command; what it printed before its answer. Raises Refused."""
        self.p.stdin.write(line + "\n")
        self.p.stdin.flush()
        out = []
        while True:
            answer = self.p.stdout.readline().strip()
            if answer == "ok":
                return out
            if not answer or answer.startswith("error"):
                raise Refused(answer)
            out.append(answer)

    def stop(self):
        """Ends the server; its exit status and the rest of what it said."""
        out, _ = self.p.communicate(timeout=120)
        return self.p.returncode, out

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.p.poll() is None:
            self.stop()
        subprocess.run([self.exe, "--umount", self.mnt], stdout=subprocess.DEVNULL)
        if self.ours:
            shutil.rmtree(self.tmp)


class Checks:
    """Prints ok or not ok for each; the exit status at the end."""

    def __init__(self):
        self.bad = 0

    def check(self, what, good, told=""):
        print(f"{'ok' if good else 'not ok'} - {what}" + (f": {told}" if told and not good else ""),
              flush=True)
        self.bad += not good

    def comes(self, what, fn, want):
        """The kernel is told of changes on another thread, and tells of closed files when it likes:
        that takes a moment, which a busy machine may make long."""
        for _ in range(30000):
            if fn() == want:
                break
            time.sleep(0.001)
        self.check(what, fn() == want)

    def errno(self, what, want, fn, *args, **kw):
        try:
            fn(*args, **kw)
            self.check(what, False, "it was not refused")
        except OSError as e:
            self.check(what, e.errno in (want if isinstance(want, tuple) else (want,)), f"{e}")

    def end(self):
        sys.exit(1 if self.bad else 0)
