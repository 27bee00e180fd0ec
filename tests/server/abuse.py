#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A control socket that is sent rubbish answers or hangs up, and goes on serving.

    abuse.py VDISK
"""
import array
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

COMMANDS = ["describe", "volume-create", "volume-delete", "volume-rename", "volume-resize",
            "volume-set", "volume-get", "snapshot-create", "snapshot-delete", "snapshot-rename",
            "snapshot-hold", "rollback", "clone", "diff", "check", "import", "export", "job-list",
            "job-wait", "job-cancel", "job-resume", "no-such-command", "", "\u0000", "x" * 5000]
VALUES = [None, True, 0, -1, 1 << 62, 1.5, "", "a" * 300, "../..", "\u0000", [], {}, [[]], ["x"] * 99,
          {"volume": 7}, {"volume": "disk", "snapshot": 3}, "disk", "disk@s", "s"]
KEYS = ["volume", "snapshot", "to", "size", "targets", "properties", "tag", "id", "from", "list",
        "source", "overwrite", "detach", "data", "recursive", "force", "discard", "release"]


class Peer:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(path)

    def recv(self):
        header = self.exactly(8)
        assert header[:4] == b"VDC1", header
        return json.loads(self.exactly(struct.unpack(">I", header[4:])[0]))

    def exactly(self, n):
        data = b""
        while len(data) < n:
            part = self.sock.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def send(self, text, fds=()):
        if not isinstance(text, bytes):
            text = json.dumps(text).encode()
        self.raw(b"VDC1" + struct.pack(">I", len(text)), fds)
        self.raw(text)

    def raw(self, data, fds=()):
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], anc)

    def answer(self):
        """The final frame, or None if it hangs up first."""
        try:
            while True:
                frame = self.recv()
                if "event" not in frame and "hello" not in frame:
                    return frame
        except (EOFError, ConnectionError):
            return None

    def close(self):
        self.sock.close()


def greeted(path):
    """A connection that has been let in; before that it may be sent away, as any client."""
    while True:
        peer = Peer(path)
        try:
            peer.recv()
            return peer
        except (EOFError, ConnectionError):
            peer.close()


def requests(path, rng):
    """Every command with no, with wrong and with random arguments."""
    null = os.open("/dev/null", os.O_RDWR)
    for round_number in range(12):
        for command in COMMANDS:
            args = {k: rng.choice(VALUES) for k in KEYS if rng.random() < round_number / 14}
            peer = greeted(path)
            peer.send({"command": command, "args": args},
                      [null] * rng.randrange(0, 4) if rng.random() < 0.3 else [])
            if rng.random() < 0.1:
                peer.close()
                continue
            frame = peer.answer()
            assert frame is not None and ("result" in frame or "error" in frame), (command, args)
            peer.close()
    os.close(null)


def frames(path, rng):
    """Things that are no frames."""
    deep = b'{"command":"describe","args":' + b"[" * 100000 + b"]" * 100000 + b"}"
    for text in (b"[]", b"{", b"", deep, b'{"command":1,"args":{}}', b'{"command":"describe"}',
                 bytes(rng.randrange(256) for _ in range(500)), b"\xff" * 40):
        peer = greeted(path)
        try:
            peer.send(text)
            frame = peer.answer()
        except ConnectionError:
            frame = None
        assert frame is None or "error" in frame, text[:40]
        peer.close()
    for raw in (b"GET / HTTP/1.0\r\n\r\n", b"VDC1\xff\xff\xff\xff", b"VDC1\x00\x10\x00\x01x", b"V",
                b"VDC1\x00\x00\x00\x40{"):
        peer = Peer(path)
        try:
            peer.raw(raw)
        except ConnectionError:
            pass
        peer.close()


def crowd(path):
    """More connections than are let in, all silent: a command must still get through afterwards."""
    peers = [Peer(path) for _ in range(100)]
    for peer in peers:
        peer.close()


def main():
    vdisk = os.path.abspath(sys.argv[1])
    top = tempfile.mkdtemp(prefix="vdisk-abuse.")
    env = dict(os.environ, VDISK_RUNTIME_DIR=top + "/run", VDISK_CONFIG_DIR=top + "/config")
    pool = top + "/a.vdk"
    seed = int(os.environ.get("VDISK_TEST_SEED", "7"))
    print("seed", seed)
    server = None
    try:
        subprocess.run([vdisk, "create", pool, "--size", "4M"], env=env, check=True)
        server = subprocess.Popen([vdisk, "serve", pool], env=env, stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline().startswith("ready")
        path = next(os.path.join(top, "run", n) for n in os.listdir(top + "/run")
                    if n.endswith(".sock"))
        fds = len(os.listdir(f"/proc/{server.pid}/fd"))
        frames(path, random.Random(seed))
        crowd(path)
        requests(path, random.Random(seed))
        subprocess.run([vdisk, "ls", pool], env=env, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([vdisk, "job", "wait", pool], env=env, stdout=subprocess.DEVNULL)
        now = len(os.listdir(f"/proc/{server.pid}/fd"))
        assert now <= fds + 2, f"{now - fds} descriptors were left open"
        server.terminate()
        assert server.wait(120) == 0, server.returncode
        server = None
        subprocess.run([vdisk, "check", pool, "--data"], env=env, check=True,
                       stdout=subprocess.DEVNULL)
    finally:
        if server:
            server.kill()
            server.wait()
        shutil.rmtree(top)
    print("ok - rubbish on the control socket is refused and harms nobody")


if __name__ == "__main__":
    main()
