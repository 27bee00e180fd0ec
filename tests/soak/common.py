# SPDX-License-Identifier: MIT
"""What the soak tests share: blocks that say whose they are, and an NBD client that keeps several
requests under way and is fast enough to compare a hundred gigabytes."""
import os
import random
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [os.path.join(HERE, "..", "nbd"), os.path.join(HERE, "..", "guest")]
import wire  # noqa: E402

BLOCK = 4096
ZERO = bytes(BLOCK)
HEAD = struct.Struct(">8sQQ")  # volume, block number, version
VOLUME = b"vd-soak\n"
PIECE = 512 - HEAD.size
NOISE = random.Random(4096).randbytes(1 << 20)
SPAN = 8 * PIECE


class Failed(Exception):
    pass


def check(condition, message):
    if not condition:
        raise Failed(message)


def block(lba, version):
    """The content of block `lba` in `version`; version 0 is zeroes. Each sector begins with the
    whole identity, and what lies between does not compress and differs between versions."""
    if not version:
        return ZERO
    head = HEAD.pack(VOLUME, lba, version)
    at = (lba * 7919 + version * 104729) % (len(NOISE) - SPAN)
    n = NOISE[at:at + SPAN]
    return head + head.join([n[i:i + PIECE] for i in range(0, SPAN, PIECE)])


def describe(data):
    """Says what a block holds that should hold something else."""
    if data == ZERO:
        return "zeroes"
    volume, lba, version = HEAD.unpack_from(data)
    if volume != VOLUME:
        return f"foreign bytes {data[:24].hex()}"
    whole = "" if data == block(lba, version) else ", torn"
    return f"version {version} of block {lba}{whole}"


def version_of(data, lba):
    """The version of block `lba` that `data` holds whole, or None."""
    if data == ZERO:
        return 0
    version = HEAD.unpack_from(data)[2]
    return version if data == block(lba, version) else None


class Client:
    """One connection with simple replies; requests may be sent ahead of the replies read."""

    def __init__(self, path, export):
        self.wire = wire.Wire("unix:" + path)
        self.wire.sock.settimeout(float(os.environ.get("VDISK_TEST_HANG", "600")))
        self.wire.hello().go(export)
        self.size = self.wire.size
        self.cookie = 0
        self.reads = {}
        self.tail = memoryview(bytearray(16))

    def send(self, cmd, off=0, length=0, flags=0, data=b""):
        self.cookie += 1
        if cmd == wire.READ:
            self.reads[self.cookie] = length
        self.wire.send(wire.request_bytes(cmd, off, length, flags, self.cookie) + data)
        return self.cookie

    def fill(self, view):
        while len(view):
            try:
                n = self.wire.sock.recv_into(view)
            except ConnectionResetError as e:
                raise wire.Gone from e
            if not n:
                raise wire.Gone
            view = view[n:]

    def reply(self, into=None):
        """(cookie, error, view of a read's bytes); `into` has room for them."""
        self.fill(self.tail)
        magic, error, cookie = struct.unpack(">IIQ", self.tail)
        check(magic == wire.SIMPLE, f"no reply begins with {magic:#x}")
        length = self.reads.pop(cookie, 0)
        if error or not length:
            return cookie, error, None
        view = memoryview(into if into is not None else bytearray(length))[:length]
        self.fill(view)
        return cookie, 0, view

    def close(self):
        """Says goodbye and waits until the server has closed its side."""
        try:
            self.wire.send(wire.request_bytes(wire.DISC))
            self.wire.drain()
        except wire.Gone:
            pass
        self.wire.sock.close()

    def drop(self):
        self.wire.sock.close()


def allocated(path, export):
    """The ranges of an export that base:allocation does not call holes: [(offset, end)]."""
    with wire.Wire("unix:" + path) as w:
        w.hello().negotiate_structured()
        w.option(wire.OPT_SET_META, wire.meta_data(export, b"base:allocation"))
        w.go(export)
        found, at = [], 0
        while at < w.size:
            extents = w.status(at, min(w.size - at, 1 << 30))
            check(isinstance(extents, list) and extents, f"{export}: block status: {extents}")
            for length, flags in extents:
                if not flags & 1:
                    if found and found[-1][1] == at:
                        found[-1][1] = at + length
                    else:
                        found.append([at, at + length])
                at += length
        w.send(wire.request_bytes(wire.DISC))
        w.drain()
    return found


def size_arg(text):
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper())
    return int(text[:-1]) << unit if unit else int(text)
