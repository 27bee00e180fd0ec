# SPDX-License-Identifier: MIT
"""Runs the vdisk program for tests: commands with their exit status, and a server that can be
killed and started again."""
import json
import os
import socket
import subprocess
import time

HANG = float(os.environ.get("VDISK_TEST_HANG", "600"))


class VdiskError(Exception):
    pass


class Vdisk:
    def __init__(self, program, workdir):
        self.program = os.path.abspath(program)
        self.workdir = workdir
        self.env = dict(os.environ, XDG_RUNTIME_DIR=os.path.join(workdir, "run"),
                        XDG_CONFIG_HOME=os.path.join(workdir, "config"))
        os.makedirs(self.env["XDG_RUNTIME_DIR"], mode=0o700, exist_ok=True)

    def try_run(self, *args):
        """(exit status, stdout, stderr)"""
        done = subprocess.run([self.program, *args], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, env=self.env, cwd=self.workdir, timeout=HANG)
        return done.returncode, done.stdout, done.stderr

    def run(self, *args):
        status, out, err = self.try_run(*args)
        if status != 0:
            raise VdiskError(f"vdisk {' '.join(args)}: exit status {status}: {err.strip()}")
        return out

    def json(self, *args):
        return json.loads(self.run(*args, "--json"))

    def serve(self, pool, path, *args):
        """A server of `pool` with an NBD door at the unix socket `path`, ready for clients."""
        return Server(self, pool, path, args)


class Server:
    def __init__(self, vdisk, pool, path, args):
        self.command = [vdisk.program, "serve", pool, "--nbd", f"unix:{path}", *args]
        self.vdisk = vdisk
        self.path = path
        self.process = None
        self.start()

    def start(self):
        self.log = os.path.join(self.vdisk.workdir, "server.log")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=self.vdisk.env,
                                            cwd=self.vdisk.workdir)
        deadline = time.monotonic() + HANG
        while not self._answers():
            if self.process.poll() is not None:
                raise VdiskError(f"the server ended with {self.process.returncode}: {self.tail()}")
            if time.monotonic() > deadline:
                raise VdiskError(f"the server does not answer: {self.tail()}")
            time.sleep(0.02)

    def _answers(self):
        """True when the door greets a client; a socket file alone may be a dead server's."""
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(HANG)
                s.connect(self.path)
                return s.recv(8) == b"NBDMAGIC"
        except OSError:
            return False

    def kill(self):
        """kill -9, and waits until it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """A clean end; raises if it was not clean."""
        self.process.terminate()
        try:
            status = self.process.wait(HANG)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise VdiskError(f"the server does not end: {self.tail()}") from None
        if status != 0:
            raise VdiskError(f"the server ended with {status}: {self.tail()}")

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return "\n".join(f.read().splitlines()[-12:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.kill()
