# SPDX-License-Identifier: MIT
"""The control socket of a vdisk server (server/wire.h), and NBD with many writes under way: what is
measured without the start of a process around it."""
import json
import os
import random
import socket
import struct

from .host import HANG, BenchError

BLOCK = 4096
NOISE = random.Random(4096).randbytes(8 << 20)
HEAD = struct.Struct(">QQ")  # block number, version


def take(sock, n):
    parts = []
    while n:
        part = sock.recv(min(n, 1 << 20))
        if not part:
            raise BenchError("the server hung up")
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


class Control:
    """Commands to the owner of a pool that is being served; a connection for each, as vdisk does."""

    def __init__(self, pool, runtime):
        st = os.stat(pool)
        self.path = os.path.join(runtime, f"{st.st_dev}-{st.st_ino}.sock")

    @staticmethod
    def receive(sock):
        magic, length = struct.unpack(">4sI", take(sock, 8))
        if magic != b"VDC1":
            raise BenchError("what answers at the control socket is no vdisk")
        return json.loads(take(sock, length))

    def call(self, command, **args):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(HANG)
            s.connect(self.path)
            self.receive(s)
            frame = json.dumps({"command": command, "args": args}).encode()
            s.sendall(struct.pack(">4sI", b"VDC1", len(frame)) + frame)
            while True:
                answer = self.receive(s)
                if "result" in answer:
                    return answer["result"]
                if "error" in answer:
                    raise BenchError(f"{command}: {answer['error']['message']}")
                if "retry" in answer:
                    raise BenchError(f"{command}: the server is ending")


def block(lba, version):
    """Content that does not compress and says whose it is."""
    at = (lba * 7919 + version * 104729) % (len(NOISE) - BLOCK)
    return HEAD.pack(lba, version) + NOISE[at:at + BLOCK - HEAD.size]


class Nbd:
    """A connection with simple replies. writes() keeps `depth` requests under way."""

    READ, WRITE, DISC, FLUSH, TRIM = range(5)

    def __init__(self, path, export):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(HANG)
        self.sock.connect(path)
        take(self.sock, 18)
        name = export.encode()
        body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.sock.sendall(struct.pack(">IQII", 1, 0x49484156454F5054, 7, len(body)) + body)
        while True:
            _, _, kind, length = struct.unpack(">QIII", take(self.sock, 20))
            take(self.sock, length)
            if kind == 1:
                break
            if kind & 0x80000000:
                raise BenchError(f"the NBD server has no export \"{export}\"")

    def request(self, kind, off, length, data=b""):
        return struct.pack(">IHHQQI", 0x25609513, 0, kind, 0, off, length) + data

    def replies(self, n):
        for _, error, _ in struct.iter_unpack(">IIQ", take(self.sock, 16 * n)):
            if error:
                raise BenchError(f"a write failed with NBD error {error}")

    def writes(self, lbas, version, depth=32):
        """Writes blocks `lbas` of `version`, no block twice; all are acknowledged on return."""
        half, waiting = depth // 2, 0
        for i in range(0, len(lbas), half):
            batch = lbas[i:i + half]
            self.sock.sendall(b"".join([self.request(self.WRITE, lba * BLOCK, BLOCK,
                                                     block(lba, version)) for lba in batch]))
            self.replies(waiting)
            waiting = len(batch)
        self.replies(waiting)

    def one(self, kind, off=0, length=0):
        self.sock.sendall(self.request(kind, off, length))
        self.replies(1)

    def flush(self):
        self.one(self.FLUSH)

    def trim(self, size):
        for off in range(0, size, 1 << 30):
            self.one(self.TRIM, off, min(1 << 30, size - off))

    def read(self, lba):
        self.sock.sendall(self.request(self.READ, lba * BLOCK, BLOCK))
        self.replies(1)
        return take(self.sock, BLOCK)

    def close(self):
        self.sock.sendall(self.request(self.DISC, 0, 0))
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()
