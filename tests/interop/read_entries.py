# SPDX-License-Identifier: MIT
"""Numbers, addresses and log entries as docs/format.md describes them: the small parts of
read_image.py."""
import ctypes
import struct

BLOCK, CELL = 4096, 32
LBA_END = 1 << 51

_xxh = ctypes.CDLL("libxxhash.so.0").XXH3_64bits
_xxh.restype = ctypes.c_uint64
_xxh.argtypes = (ctypes.c_char_p, ctypes.c_size_t)


class Damaged(Exception):
    """The bytes are not what the format says."""


class NotOurs(Exception):
    """Nothing of ours is here: another magic number, an old record, the end."""


class Refused(Exception):
    """A pool that must not be opened."""


def xxh3(data):
    return _xxh(bytes(data), len(data))


def need(condition, what):
    if not condition:
        raise Damaged(what)


def zero(data, what):
    need(not any(data), f"{what}: not zero")


def own_checksum(data, at=8):
    return xxh3(data[:at] + bytes(8) + data[at + 8:])


def u16(data, at):
    return struct.unpack_from("<H", data, at)[0]


def u32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


def address(data, at, blocks=1):
    seg, sector = struct.unpack_from("<II", data, at)
    need(sector % 8 == 0, "address inside a block")
    return seg, sector


def segref(data, at, stream=None):
    seg, kind, chunks, rid = struct.unpack_from("<IBB2xQ", data, at)
    need(1 <= kind <= 5 and stream in (None, kind), "segment reference: stream")
    zero(data[at + 6:at + 8], "segment reference")
    need(chunks == 1, "segment reference: chunks")
    dev, index = struct.unpack_from("<H2xI", data, at + 16)
    zero(data[at + 18:at + 20], "chunk reference")
    need(dev == 0 and index == seg, "segment reference: not the chunk of its number")
    zero(data[at + 24:at + 80], "segment reference")
    return seg, rid


def logref(data, at):
    seg, rid = struct.unpack_from("<I4xQ", data, at)
    zero(data[at + 4:at + 8], "log reference")
    return seg, rid


def cell_range(lba, blocks):
    need(1 <= blocks <= CELL and lba % CELL + blocks <= CELL, "entry crosses a cell")
    need(lba + blocks <= LBA_END, "entry beyond the largest volume")


def entries(data, count, payload):
    out = []
    for _ in range(count):
        need(len(data) >= 4, "entry: cut off")
        kind, flags, length = struct.unpack_from("<BBH", data, 0)
        need(4 <= length <= len(data) and length % 8 == 0, "entry: length")
        need(flags == 0 or (kind == 6 and flags == 1), "entry: flags")
        need(kind in ENTRY, f"entry: type {kind}")
        least, parse = ENTRY[kind]
        need(length >= least, "entry: too short")
        e = parse(data[:length])
        if e["type"] in ("write", "relocate"):
            copies = 1 if e["type"] == "write" else 2
            need(e["payload"] + copies * e["blocks"] <= payload, "entry: beyond the payload")
        out.append(e)
        data = data[length:]
    need(not data, "entries: length")
    return out


def parse_write(d):
    blocks, payload, branch, lba = struct.unpack_from("<HHI4xQ", d, 4)
    zero(d[12:16], "write")
    cell_range(lba, blocks)
    need(len(d) == 24 + 8 * blocks, "write: length")
    return {"type": "write", "branch": branch, "lba": lba, "blocks": blocks, "payload": payload,
            "csum": struct.unpack_from(f"<{blocks}Q", d, 24)}


def parse_zero(d):
    branch, lba, blocks = struct.unpack_from("<IQQ", d, 4)
    need(len(d) == 24 and blocks >= 1 and lba + blocks <= LBA_END, "zero: range")
    return {"type": "zero", "branch": branch, "lba": lba, "blocks": blocks}


def parse_relocate(d):
    payload, blocks, count = struct.unpack_from("<HHI", d, 4)
    zero(d[12:16], "relocate")
    need(len(d) == 24, "relocate: length")
    need(count >= 1 and blocks == (count + 127) // 128, "relocate: blocks")
    return {"type": "relocate", "payload": payload, "blocks": blocks, "count": count,
            "csum": u64(d, 16)}


def relocations(data, count):
    for n in range(count):
        branch, blocks, lba = struct.unpack_from("<IIQ", data, 32 * n)
        cell_range(lba, blocks)
        yield blocks, address(data, 32 * n + 16), address(data, 32 * n + 24)


def parse_bulk(d):
    blocks, branch, lba = struct.unpack_from("<H2xI4xQ", d, 4)
    zero(d[12:16], "bulk")
    cell_range(lba, blocks)
    need(len(d) == 32 + 8 * blocks, "bulk: length")
    return {"type": "bulk", "branch": branch, "lba": lba, "blocks": blocks,
            "addr": address(d, 24), "csum": struct.unpack_from(f"<{blocks}Q", d, 32)}


def parse_epoch(d):
    need(len(d) == 16, "epoch: length")
    zero(d[4:8], "epoch")
    return {"type": "epoch", "epoch": u64(d, 8)}


def parse_catalog(d):
    size = u16(d, 4)
    zero(d[6:8], "catalogue entry")
    need(size <= 1024 and len(d) == 32 + (size + 7) // 8 * 8, "catalogue entry: length")
    zero(d[32 + size:], "catalogue entry")
    need(not (d[1] and size), "catalogue entry: deletes, yet has a value")
    return {"type": "catalog", "key": struct.unpack_from("<QQQ", d, 8),
            "value": None if d[1] else bytes(d[32:32 + size])}


def parse_segment(d):
    need(len(d) == 88, "segment: length")
    zero(d[4:8], "segment")
    segref(d, 8)
    return {"type": "segment"}


def parse_emptied(d):
    need(len(d) == 8 and u32(d, 4) > 0, "emptied: segment")
    return {"type": "emptied"}


ENTRY = {1: (24, parse_write), 2: (24, parse_zero), 3: (24, parse_relocate), 4: (32, parse_bulk),
         5: (16, parse_epoch), 6: (32, parse_catalog), 7: (88, parse_segment),
         8: (8, parse_emptied)}
