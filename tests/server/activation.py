#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Socket activation: sockets made before the server is, as systemd makes them.

usage: activation.py VDISK
"""
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile

VDISK = os.path.abspath(sys.argv[1])
GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)
# Becomes the server with the sockets from 3 on, and the variables that tell of them.
LAUNCH = """
import os, sys
fds, pid, names, vdisk, *args = sys.argv[1:]
fds = [int(f) for f in fds.split(",")]
moved = [os.dup2(f, 100 + i) for i, f in enumerate(fds)]
for i, f in enumerate(moved):
    os.dup2(f, 3 + i, inheritable=True)
    os.close(f)
os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=pid or str(os.getpid()))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execv(vdisk, [vdisk, *args])
"""


def is_served(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as s:
        s.settimeout(60)
        s.connect(address)
        return s.recv(18, socket.MSG_WAITALL) == GREETING


class Sockets:
    def __init__(self, where):
        self.path = os.path.join(where, "given")
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(self.path)
        self.unix.listen()
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.address = self.tcp.getsockname()
        self.open = socket.create_server(("0.0.0.0", 0))

    def close(self):
        for s in (self.unix, self.tcp, self.open):
            s.close()


def start(where, sockets, *args, pid="", names=""):
    fds = [s.fileno() for s in sockets]
    env = dict(os.environ, VDISK_RUNTIME_DIR=os.path.join(where, "run"),
               VDISK_CONFIG_DIR=os.path.join(where, "config"))
    return subprocess.Popen([sys.executable, "-c", LAUNCH, ",".join(map(str, fds)), pid, names, VDISK,
                             "serve", os.path.join(where, "a.vdk"), "--json", *args],
                            pass_fds=fds, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def doors(p):
    """What it opened, when it is ready; None if it ended instead."""
    line = p.stdout.readline()
    found = json.loads(line) if line.startswith('{"') else {}
    if found.get("event") != "ready":
        return None
    return [d["address"] for d in found["doors"]]


def end(p):
    p.terminate()
    _, err = p.communicate(timeout=60)
    return p.returncode, err


def run(where):
    subprocess.run([VDISK, "create", os.path.join(where, "a.vdk"), "--size", "1M"], check=True,
                   env=dict(os.environ, VDISK_RUNTIME_DIR=os.path.join(where, "run")))
    s = Sockets(where)
    unix, tcp = "unix:" + s.path, "tcp:%s:%d" % s.address

    # Whoever came before the server is served by it.
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(s.path)
        p = start(where, [s.unix, s.tcp])
        yield "all that were handed over are doors", doors(p) == [unix, tcp]
        early.settimeout(60)
        yield "who came before the server is served", early.recv(18, socket.MSG_WAITALL) == GREETING
    yield "both answer", is_served(s.path) and is_served(s.address)
    yield "it ends well", end(p)[0] == 0
    yield "a socket's file stays whose it was", os.path.exists(s.path)

    p = start(where, [s.unix, s.tcp], "--nbd", "fd:disks", names="else:disks")
    yield "one is taken by its name", doors(p) == [tcp] and is_served(s.address)
    end(p)
    p = start(where, [s.unix], "--nbd", "fd:3", pid="1")
    yield "one is taken by its number", doors(p) == [unix]
    end(p)
    p = start(where, [s.unix], pid="1")
    yield "what is for another process is left alone", \
        [d.endswith(".nbd") for d in doors(p) or []] == [True]
    end(p)

    p = start(where, [s.open])
    refused = doors(p) is None
    code, err = end(p)
    yield "a socket that other machines reach is refused like any", \
        refused and code == 8 and "can be reached from other machines" in err
    p = start(where, [s.open], "--insecure")
    yield "unless that is asked for", doors(p) is not None
    end(p)
    with socket.socket(socket.AF_UNIX) as idle:
        p = start(where, [idle])
        refused = doors(p) is None
        code, err = end(p)
        yield "one that does not listen is refused", \
            refused and code == 1 and "not a listening socket" in err
    p = start(where, [s.unix], "--nbd", "fd:none", names="disks")
    refused = doors(p) is None
    yield "a name that nobody gave is refused", refused and "no socket called" in end(p)[1]
    s.close()


def main():
    bad = 0
    with tempfile.TemporaryDirectory(prefix="vdisk-activation-") as where:
        for what, good in run(where):
            print(("ok - " if good else "not ok - ") + what, flush=True)
            bad += not good
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
