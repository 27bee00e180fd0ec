#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Reads vdisk pools. Written from docs/format.md alone; shares nothing with the program, so that the
two can be held against each other. Opens read-only, replays the log in memory, writes nothing.

    read_image.py IMAGE list            volumes and snapshots, as JSON
    read_image.py IMAGE read TARGET OUT one of them to a raw file; TARGET is VOLUME or VOLUME@SNAPSHOT
    read_image.py IMAGE verify          reads every view whole, writes nothing
"""
import json
import re
import struct
import sys
from bisect import bisect_left, bisect_right

from read_entries import (
    BLOCK, CELL, Damaged, LBA_END, NotOurs, Refused, address, cell_range, entries,
    logref, need, own_checksum, relocations, segref, u16, u32, u64, xxh3, zero,
)

SECTOR = 512
EVER = 1 << 64
HEAD, HISTORY, CATALOG = 0, 1, 3
WORDS = {0: 2, 1: 4, 2: 3, 3: 3, 4: 3, 5: 4}
FEATURES = ("multi-device", "redundancy", "tiers", "compression", "encryption", "dedup", "refill")
KNOWN = 1 << 6
SEGMAPS = 1 << 0  # of the compatible bits; of no use to a reader
NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,126}\Z")


class Label:
    def __init__(self, data):
        if data[:8] != b"VskVDBL1":
            raise NotOurs
        need(own_checksum(data) == u64(data, 8), "label checksum")
        major, self.minor = u16(data, 16), u16(data, 18)
        compat, ro_compat, incompat = struct.unpack_from("<QQQ", data, 24)
        self.generation = u64(data, 88)
        if major != 1:
            raise Refused(f"major version {major}")
        if incompat & ~KNOWN:
            raise Refused("unknown features: " + ", ".join(
                FEATURES[b] if b < len(FEATURES) else f"bit {b}"
                for b in range(64) if (incompat & ~KNOWN) >> b & 1))
        self.pool, self.device = data[48:64], data[64:80]
        index, count, self.chunk_size = struct.unpack_from("<HHI", data, 80)
        need(index == 0 and count == 1, "label: devices")
        need(self.chunk_size in [1 << n for n in range(20, 26)], "label: chunk size")
        self.incarnation, self.created, self.capacity, self.root_counter = struct.unpack_from(
            "<QQQQ", data, 96)
        need(data[128:131] == bytes((1, 0, 0)), "label: redundancy, tier")
        self.clean = bool(data[131] & 1)
        name = data[136:264].rstrip(b"\0")
        need(not name or NAME.match(name), "label: pool name")
        self.name = name.decode()
        if self.minor == 0 and not compat & ~SEGMAPS and not ro_compat:
            need(data[131] <= 1, "label: flags")
            zero(data[20:24], "label")
            zero(data[904 + 8 * 136:], "label")
        zero(data[264 + 8:904], "label: states, key slots")
        cuts = u32(data, 132)
        need(cuts <= 8, "label: number of cuts")
        self.cuts = [Cut(data, 904 + 136 * i) for i in range(cuts)]
        zero(data[904 + 136 * cuts:904 + 136 * 8], "label: cuts")
        order = [c.incarnation for c in self.cuts] + [self.incarnation]
        need(all(a < b for a, b in zip(order, order[1:])), "label: order of cuts")


class Cut:
    def __init__(self, data, at):
        self.incarnation, self.seq, self.csum = struct.unpack_from("<QQQ", data, at)
        self.seg, self.rid = segref(data, at + 24, 1)
        self.next = [logref(data, at + 104), logref(data, at + 120)]


class Root:
    def __init__(self, data, pool):
        if data[:8] != b"RotVDBR1":
            raise NotOurs
        need(own_checksum(data) == u64(data, 8), "root checksum")
        if data[16:32] != pool:
            raise NotOurs
        self.incarnation, self.counter, self.seq, self.epoch = struct.unpack_from("<QQQQ", data, 32)
        self.seg, self.rid = segref(data, 64, 1)
        self.sector = u32(data, 144)
        need(self.sector % 8 == 0, "root: log position")
        self.next = [logref(data, 152), logref(data, 168)]
        self.csum = u64(data, 184)
        self.areas = struct.unpack_from("<QQQQ", data, 192)
        self.area, self.table_csum, self.entries, self.entry_size = struct.unpack_from(
            "<QQII", data, 224)
        need(self.entries >= 1 and self.entry_size == 32, "root: table")
        need(64 + 32 * self.entries <= self.area and self.area % BLOCK == 0, "root: table area")
        self.live = u64(data, 248)
        zero(data[148:152] + data[264:296] + data[296 + 8 * 56:], "root")
        self.trees = [self.tree(data, 296 + 56 * t) for t in range(8)]
        need(not any(t["height"] for t in self.trees[6:]), "root: unknown trees")

    @staticmethod
    def tree(data, at):
        height = data[at + 24]
        if not height:
            zero(data[at:at + 56], "empty tree")
            return {"height": 0}
        need(height <= 16, "height of a tree")
        zero(data[at + 25:at + 32], "tree root")
        return {"height": height, "ptr": node_ptr(data, at), "entries": u64(data, at + 32),
                "leaves": u64(data, at + 40), "nodes": u64(data, at + 48)}


def node_ptr(data, at):
    return address(data, at), address(data, at + 8), u64(data, at + 16)


class Header:
    """A log record's header."""

    def __init__(self, data, pool64):
        if data[:4] != b"RdC1":
            raise NotOurs
        need(own_checksum(data) == u64(data, 8), "header checksum")
        self.flags, count, self.csum, pool, self.incarnation, self.seq, self.prev, self.rid = (
            struct.unpack_from("<HHQQQQQQ", data, 4))
        if pool != pool64:
            raise NotOurs
        self.at = address(data, 56)
        self.payload, length, echo_length, echo_count, self.echo_flags, self.echo_payload = (
            struct.unpack_from("<IHHHHI", data, 64))
        self.horizon, self.root_counter = struct.unpack_from("<QQ", data, 80)
        self.next = [logref(data, 104), logref(data, 120)]
        need(not (self.flags | self.echo_flags) & ~3, "header: flags")
        need(length <= 1952 and echo_length <= 1952, "header: lengths")
        need(self.seq >= 1 and self.horizon < self.seq, "header: horizon")
        zero(data[144:192] + data[192 + length + echo_length:], "header")
        self.raw = entries(data[192:192 + length], count, self.payload)
        self.echo = entries(data[192 + length:192 + length + echo_length], echo_count,
                            self.echo_payload)
        self.commit = bool(self.flags & 1)

    def addressed(self):
        """Its entries, writes with the address of their blocks."""
        for e in self.raw:
            if e["type"] in ("write", "relocate"):
                seg, sector = self.at
                e = dict(e, addr=(seg, sector + 8 * (1 + e["payload"])))
            yield e


class Lost:
    """A record whose header is gone, put together from the next one's echo."""

    def __init__(self, seq, at, nxt, successors, horizon):
        self.seq, self.at, self.next, self.horizon = seq, at, successors, horizon
        self.csum, self.payload, self.raw = nxt.prev, nxt.echo_payload, nxt.echo
        self.commit = bool(nxt.echo_flags & 1)

    addressed = Header.addressed


class Run:
    """Blocks [lba, lba + blocks) of a branch, of one version."""
    __slots__ = ("lba", "blocks", "born", "died", "addr", "csum", "logged")

    def __init__(self, lba, blocks, born, died, addr, csum, logged=False):
        self.lba, self.blocks, self.born, self.died = lba, blocks, born, died
        self.addr, self.csum = addr, csum  # addr None: zero
        self.logged = logged  # from the log, not from a tree


class Ranges:
    """A set of block numbers, as ranges in order."""

    def __init__(self, ranges=()):
        self.start = [a for a, b in ranges if a < b]
        self.end = [b for a, b in ranges if a < b]

    def __bool__(self):
        return bool(self.start)

    def pairs(self):
        return list(zip(self.start, self.end))

    def take(self, a, b):
        """Removes [a, b); returns the ranges of it that were there."""
        i, j = bisect_right(self.end, a), bisect_left(self.start, b)
        if i >= j:
            return []
        got, keep = [], []
        for s, e in zip(self.start[i:j], self.end[i:j]):
            got.append((max(s, a), min(e, b)))
            keep += [(s, a)] if s < a else []
            keep += [(b, e)] if e > b else []
        self.start[i:j] = [s for s, _ in keep]
        self.end[i:j] = [e for _, e in keep]
        return got


class Image:
    def __init__(self, path):
        self.file = open(path, "rb")
        self.label = self.newest(lambda data: Label(data), 0, lambda x: x.generation, "label")
        self.pool64 = u64(self.label.pool, 0)
        self.seg_blocks = self.label.chunk_size // BLOCK
        self.root = self.newest(lambda data: Root(data, self.label.pool), 8192,
                                lambda x: x.counter, "root")
        if self.label.root_counter > self.root.counter:
            raise Refused(f"root {self.label.root_counter} was durable, but is not there")
        self.table()
        self.nodes = {}
        self.catalog = {key: value for key, value in self.kv_entries(CATALOG)}
        self.written = {}  # branch: runs, in log order
        self.moved = {}    # what the trees name at an address: where it is
        self.came = {}     # and the other way round
        self.repaired = 0
        Replay(self).run()
        self.understand()

    # bytes

    def bytes_at(self, offset, length):
        self.file.seek(offset)
        data = self.file.read(length)
        if len(data) != length:
            raise NotOurs
        return data

    def block(self, seg, sector):
        need(sector + 8 <= self.seg_blocks * 8, "address beyond its segment")
        return self.bytes_at(seg * self.label.chunk_size + sector * SECTOR, BLOCK)

    # head

    def newest(self, make, base, order, what):
        best, bad = None, None
        for copy in range(2):
            for slot in range(2):
                try:
                    x = make(self.bytes_at(base + slot * BLOCK + copy * 524288, BLOCK))
                except NotOurs:
                    continue
                except Damaged as e:
                    bad = e
                    continue
                if best is None or order(x) > order(best):
                    best = x
        if best is None:
            raise bad or NotOurs(f"no {what}")
        return best

    def table(self):
        r, bad = self.root, None
        for copy in range(2):
            try:
                size = (64 + 32 * r.entries + BLOCK - 1) // BLOCK * BLOCK
                data = self.bytes_at(r.areas[r.counter % 2 * 2 + copy], size)
                need(xxh3(data) == r.table_csum, "table checksum")
                need(data[:8] == b"SegTabe1" and data[8:24] == self.label.pool, "table header")
                need(struct.unpack_from("<QII", data, 24) == (r.counter, r.entries, 32),
                     "table header")
                zero(data[40:64], "table header")
                for i in range(r.entries):
                    self.table_entry(i, data[64 + 32 * i:96 + 32 * i])
                return
            except (Damaged, NotOurs) as e:
                bad = e
        raise Damaged(f"no copy of the segment table: {bad}")

    def table_entry(self, i, d):
        state, stream, chunks, flags, live = struct.unpack_from("<BBBBI", d, 0)
        need(state <= 4 and stream <= 5 and flags <= 1 and chunks <= 1, f"segment {i}")
        need((state == 4) == (stream == 5), f"segment {i}: fixed")
        need(chunks and stream if state >= 2 else not live, f"segment {i}: state")
        need(live <= self.seg_blocks, f"segment {i}: live blocks")
        need((i == 0) <= (state == 4), "segment 0 is not the head")

    # trees

    def node(self, ptr, tree, level, low=None):
        if ptr in self.nodes:
            return self.nodes[ptr]
        bad = None
        for copy in range(2):
            try:
                data = self.block(*ptr[copy])
                self.check_node(data, ptr[2], tree, level, low)
                if len(self.nodes) > 4096:
                    self.nodes.clear()
                self.nodes[ptr] = data
                return data
            except (Damaged, NotOurs) as e:
                bad = e
        raise Damaged(f"tree {tree}: both copies of a node are bad: {bad}")

    def check_node(self, data, csum, tree, level, low):
        need(data[:4] == b"Nde1", "node magic")
        need(own_checksum(data) == u64(data, 8) == csum, "node checksum")
        need(data[4] == tree and data[5] == level, "node: tree, level")
        need(u64(data, 16) == self.pool64, "node: pool")
        need(u16(data, 6) >= 1 and u16(data, 104) <= 3984, "node: count, used")
        zero(data[110:112], "node")
        if level or tree not in (HEAD, HISTORY):
            zero(data[106:110], "node")
        first, last = struct.unpack_from("<4Q", data, 40), struct.unpack_from("<4Q", data, 72)
        need(first <= last and (low is None or first == low), "node: range of keys")

    def children(self, data, tree):
        words = WORDS[tree]
        size, count = 24 + 8 * words, u16(data, 6)
        need(u16(data, 104) == count * size, "interior node: used")
        out = []
        for i in range(count):
            at = 112 + i * size
            key = struct.unpack_from(f"<{words}Q", data, at + 24) + (0,) * (4 - words)
            need(not out or key > out[-1][0], "interior node: order")
            out.append((key, node_ptr(data, at)))
        need(out[0][0] == struct.unpack_from("<4Q", data, 40), "interior node: first key")
        need(out[-1][0] == struct.unpack_from("<4Q", data, 72), "interior node: last key")
        return out

    def leaves(self, tree, low, high):
        """Leaves that may hold keys in [low, high], in order."""
        root = self.root.trees[tree]
        if not root["height"]:
            return
        stack = [(root["ptr"], root["height"] - 1, None)]
        while stack:
            ptr, level, first = stack.pop()
            data = self.node(ptr, tree, level, first)
            if level == 0:
                yield data
                continue
            kids = self.children(data, tree)
            want = [(p, level - 1, k) for i, (k, p) in enumerate(kids)
                    if k <= high and (i + 1 == len(kids) or kids[i + 1][0] > low)]
            stack += reversed(want)

    def kv_entries(self, tree):
        words = WORDS[tree]
        for data in self.leaves(tree, (0,) * 4, (EVER,) * 4):
            body, at, before = data[112:], 0, None
            for i in range(u16(data, 6)):
                need(u16(body, 3984 - 2 * (i + 1)) == at, "leaf: offsets")
                size = u16(body, at)
                zero(body[at + 2:at + 8], "leaf entry")
                need(size <= 1024, "leaf entry: length")
                key = struct.unpack_from(f"<{words}Q", body, at + 8)
                need(before is None or key > before, "leaf: order")
                value = at + 8 + 8 * words
                yield key, body[value:value + size]
                before, at = key, value + (size + 7) // 8 * 8
            need(at == u16(data, 104), "leaf: used")

    def runs(self, tree, branch):
        """All runs of a branch in HEAD or HISTORY."""
        for data in self.leaves(tree, (branch, 0, 0, 0), (branch, EVER, EVER, EVER)):
            first = struct.unpack_from("<4Q", data, 40)
            if first[0] == branch:
                yield from self.map_leaf(data, tree, first[1] * (CELL if tree == HISTORY else 1))

    def map_leaf(self, data, tree, base):
        count, csums, epochs = u16(data, 6), u16(data, 106), u16(data, 108)
        at = 112 + 20 * count
        need(20 * count + 8 * (csums + epochs) == u16(data, 104), "map leaf: used")
        epoch = struct.unpack_from(f"<{epochs}Q", data, at)
        csum = struct.unpack_from(f"<{csums}Q", data, at + 8 * epochs)
        used = 0
        for i in range(count):
            rel, born, died, kind, blocks, index, seg, sector = struct.unpack_from(
                "<IHHBBHII", data, 112 + 20 * i)
            lba = base + rel
            need(born < epochs, "run: born")
            need(died == 65535 if tree == HEAD else died < epochs, "run: died")
            end = EVER if tree == HEAD else epoch[died]
            need(epoch[born] < end, "run: born after it died")
            if kind == 2:
                need(index == 0, "zero run: checksum")
                need(not blocks or not (seg or sector), "zero run: address")
                need(blocks or tree == HEAD, "zero run: length")
                blocks = blocks or seg | sector << 32
                need(lba + blocks <= LBA_END, "zero run: range")
                yield Run(lba, blocks, epoch[born], end, None, None)
                continue
            need(kind == 1, f"run: type {kind}")
            cell_range(lba, blocks)
            need(index == used, "run: checksums")
            need(sector % 8 == 0, "run: address")
            used += blocks
            need(used <= csums, "run: checksums")
            yield Run(lba, blocks, epoch[born], end, (seg, sector), csum[index:index + blocks])
        need(used == csums, "map leaf: checksums")

    # catalogue

    def understand(self):
        self.alias, self.branch, self.volumes, self.snapshots = {}, {}, {}, []
        for key, v in sorted(self.catalog.items()):
            kind, ident, _ = key
            if kind == 2:
                need(len(v) == 8 and u64(v, 0) > ident, "alias")
                self.alias[ident] = u64(v, 0)
            elif kind == 3:
                need(len(v) == 64 and v[57] <= 1, "branch")
                zero(v[58:64], "branch")
                parent, origin, limit, cursor = struct.unpack_from("<QQQQ", v, 0)
                need(parent < ident, "branch: parent")
                self.branch[ident] = {"parent": parent, "origin": origin, "limit": limit,
                                      "cursor": cursor if v[57] & 1 else None}
            elif kind == 4:
                self.volumes[ident] = self.volume(v)
            elif kind == 5:
                self.snapshots.append(self.snapshot(v))
            else:
                need(kind in (1, 6, 7, 8), f"catalogue: kind {kind}")
        self.into = {b["parent"]: n for n, b in self.branch.items() if b["cursor"] is not None}

    def volume(self, v):
        need(len(v) >= 48, "volume")
        a, b, c = v[44], v[45], v[46]
        need(len(v) == 48 + a + b + c, "volume: length")
        branch, size, created, flags = struct.unpack_from("<QQQI", v, 16)
        text = [v[48:48 + a], v[48 + a:48 + a + b], v[48 + a + b:]]
        need(all(NAME.match(t) or (i and not t) for i, t in enumerate(text)), "volume: name")
        return {"name": text[0].decode(), "uuid": v[:16].hex(), "branch": branch, "size": size,
                "created": created, "read-only": bool(flags & 1),
                "origin": [t.decode() for t in text[1:]]}

    def snapshot(self, v):
        need(len(v) >= 64 and len(v) == 64 + v[60] and NAME.match(v[64:]), "snapshot")
        volume, branch, epoch, size, created, flags = struct.unpack_from("<QQQQQI", v, 16)
        need(volume in self.volumes, "snapshot: of no volume")
        return {"name": v[64:].decode(), "uuid": v[:16].hex(), "branch": branch, "epoch": epoch,
                "volume": self.volumes[volume]["name"], "size": size, "created": created,
                "automatic": bool(flags & 1)}

    def resolve(self, branch):
        while branch not in self.branch:
            need(branch in self.alias, f"branch {branch} is nowhere")
            branch = self.alias[branch]
        return branch

    # views

    def target(self, text):
        """(branch, epoch, size) of VOLUME or VOLUME@SNAPSHOT."""
        volume, _, snapshot = text.partition("@")
        for s in self.snapshots:
            if snapshot and (s["volume"], s["name"]) == (volume, snapshot):
                branch = self.resolve(s["branch"])
                return self.into.get(branch, branch), s["epoch"], s["size"]
        for v in self.volumes.values():
            if not snapshot and v["name"] == volume:
                return self.resolve(v["branch"]), EVER - 1, v["size"]
        raise KeyError(text)

    def view(self, branch, epoch, blocks):
        """Yields (start, end, run) for all that is not zero, in no order."""
        todo = [(branch, epoch, Ranges([(0, blocks)]))]
        while todo:
            branch, epoch, missing = todo.pop()
            for run in self.versions(branch, epoch):
                for start, end in missing.take(run.lba, run.lba + run.blocks):
                    if run.addr is not None:
                        yield start, end, run
                if not missing:
                    break
            if missing:
                todo += self.below(branch, epoch, missing)

    def versions(self, branch, epoch):
        """Versions that a view at this epoch may see, those that count first, first."""
        for run in reversed(self.written.get(branch, [])):
            if run.born <= epoch:
                yield run
        for run in self.runs(HEAD, branch):
            if run.born <= epoch:
                yield run
        for run in self.runs(HISTORY, branch):
            if run.born <= epoch < run.died:
                yield run

    def below(self, branch, epoch, missing):
        b = self.branch[branch]
        if not b["parent"]:
            return
        p = self.branch[b["parent"]]
        cursor = b["cursor"] or 0
        skipped = Ranges(missing.take(0, cursor))
        if skipped and p["parent"]:
            part = Ranges(skipped.take(0, min(b["limit"], p["limit"])))
            yield p["parent"], min(epoch, p["origin"]), part
        part = Ranges(missing.take(0, b["limit"]))
        if part:
            yield b["parent"], min(epoch, b["origin"]), part

    def data(self, run, lba):
        seg, sector = run.addr
        at = seg, sector + 8 * (lba - run.lba)
        data = self.block(*(at if run.logged else self.moved.get(at, at)))
        need(xxh3(data) == run.csum[lba - run.lba], f"block {lba}: checksum")
        return data

    def read(self, text, out):
        branch, epoch, size = self.target(text)
        blocks = 0
        for start, end, run in self.view(branch, epoch, (size + BLOCK - 1) // BLOCK):
            for lba in range(start, end):
                data = self.data(run, lba)
                blocks += 1
                if out:
                    out.seek(lba * BLOCK)
                    out.write(data[:max(0, size - lba * BLOCK)])
        if out:
            out.truncate(size)
        return blocks


class Replay:
    """Section 11: from the root along the log."""

    def __init__(self, image):
        self.image, root = image, image.root
        self.seg, self.at, self.rid = root.seg, root.sector // 8, root.rid
        self.seq, self.prev, self.next, self.horizon = root.seq + 1, root.csum, root.next, root.seq
        self.taken = []  # records of the whole log
        self.incarnation = None

    def header(self, seg, at, rid):
        if at >= self.image.seg_blocks:
            raise NotOurs
        h = Header(self.image.block(seg, at * 8), self.image.pool64)
        if (h.incarnation, h.rid, h.at) != (self.incarnation, rid, (seg, at * 8)):
            raise NotOurs
        need(at + 1 + h.payload <= self.image.seg_blocks, "record crosses its segment's end")
        return h

    def try_header(self, *place):
        try:
            return self.header(*place)
        except (Damaged, NotOurs):
            return None

    def csum_of(self, seq):
        if seq == self.image.root.seq:
            return self.image.root.csum
        for r in reversed(self.taken):
            if r.seq == seq:
                return r.csum
        return None

    def run(self):
        root, label = self.image.root, self.image.label
        for cut in label.cuts:
            if cut.incarnation < root.incarnation:
                continue
            self.incarnation = cut.incarnation
            self.horizon = max(self.horizon, cut.seq)
            while self.seq <= cut.seq and self.step():
                pass
            need(self.seq == cut.seq + 1 and self.csum_of(cut.seq) == cut.csum,
                 "the log does not reach a cut")
            self.seg, self.at, self.rid, self.next = cut.seg, 0, cut.rid, cut.next
            self.prev = cut.csum
        self.incarnation = max(label.incarnation, root.incarnation)
        while self.step():
            pass
        self.verify_tail()
        self.apply()

    def step(self):
        h = self.try_header(self.seg, self.at, self.rid)
        if h and (h.seq, h.prev) != (self.seq, self.prev):
            h = None
        for seg, rid in h.next if h else self.next:
            s = self.try_header(seg, 0, rid) if seg else None
            if not s:
                continue
            if s.seq <= self.seq and s.prev == self.csum_of(s.seq - 1):
                self.taken = [r for r in self.taken if r.seq < s.seq]
                self.seg, self.at, self.rid = seg, 0, rid
                self.seq, self.prev = s.seq, s.prev
                return True
            break
        if not h:
            h = self.rot()
            if not h:
                return False
        elif h.root_counter > self.image.root.counter:
            raise Refused(f"the log knows of root {h.root_counter}")
        self.taken.append(h)
        self.at += 1 + h.payload
        self.seq, self.prev, self.next = h.seq + 1, h.csum, h.next
        self.horizon = max(self.horizon, h.horizon)
        return True

    def rot(self):
        """None at the end of the log; a record in place of one that is lost."""
        flushed, nxt = self.seq <= self.horizon, None
        for seg, start, rid in [(self.seg, self.at, self.rid)] + [(s, 0, r) for s, r in self.next]:
            at = start
            while (seg or seg == self.seg) and at < self.image.seg_blocks:
                h = self.try_header(seg, at, rid)
                if h and h.seq > self.seq:
                    flushed = flushed or h.horizon >= self.seq
                    nxt = h if h.seq == self.seq + 1 else nxt
                    at += h.payload
                at += 1
        if not flushed:
            return None
        if not nxt:
            raise Refused(f"record {self.seq} was flushed and cannot be read")
        self.image.repaired += 1
        return Lost(self.seq, (self.seg, self.at * 8), nxt, self.next, self.horizon)

    def verify_tail(self):
        for i, r in enumerate(self.taken):
            if r.seq <= self.horizon:
                continue
            try:
                for e in r.addressed():
                    if e["type"] == "relocate":
                        self.moves(e)
                    for b in range(e["blocks"] if e["type"] in ("write", "bulk") else 0):
                        seg, sector = e["addr"]
                        data = self.image.block(seg, sector + 8 * b)
                        need(xxh3(data) == e["csum"][b], "payload")
            except (Damaged, NotOurs, Refused):
                del self.taken[i:]
                return

    def apply(self):
        image, epoch, group = self.image, self.image.root.epoch, []
        for r in self.taken:
            group.append(r)
            if not r.commit:
                continue
            for e in [e for record in group for e in record.addressed()]:
                epoch = self.apply_entry(e, epoch)
            group = []
        image.epoch = epoch

    def moves(self, e):
        """The good copy of what a relocate entry has in the payload."""
        seg, sector = e["addr"]
        for copy in range(2):
            data = b""
            for b in range(e["blocks"]):
                try:
                    data += self.image.block(seg, sector + 8 * (copy * e["blocks"] + b))
                except (Damaged, NotOurs):
                    break
            if len(data) == e["blocks"] * BLOCK and xxh3(data) == e["csum"]:
                return data
        raise Refused("relocations cannot be read")

    def apply_entry(self, e, epoch):
        image, kind = self.image, e["type"]
        if kind in ("write", "bulk", "zero"):
            run = Run(e["lba"], e["blocks"], epoch, EVER, e.get("addr"), e.get("csum"), True)
            image.written.setdefault(e["branch"], []).append(run)
        elif kind == "relocate":
            for blocks, (s, o), (t, p) in relocations(self.moves(e), e["count"]):
                for b in range(blocks):
                    named = image.came.pop((s, o + 8 * b), (s, o + 8 * b))
                    image.moved[named] = t, p + 8 * b
                    image.came[t, p + 8 * b] = named
        elif kind == "catalog":
            if e["value"] is None:
                image.catalog.pop(e["key"], None)
            else:
                image.catalog[e["key"]] = e["value"]
        elif kind == "epoch":
            return e["epoch"]
        return epoch


def main(argv):
    if len(argv) < 3 or argv[2] not in ("list", "read", "verify") or (
            len(argv) != (5 if argv[2] == "read" else 3)):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        image = Image(argv[1])
        if argv[2] == "list":
            print(json.dumps({
                "pool": image.label.name, "clean": image.label.clean, "seq": image.root.seq,
                "records": len(image.written), "repaired": image.repaired,
                "volumes": sorted(image.volumes.values(), key=lambda v: v["name"]),
                "snapshots": image.snapshots}, indent=1))
        elif argv[2] == "read":
            with open(argv[4], "wb") as out:
                image.read(argv[3], out)
        else:
            for v in image.volumes.values():
                print(v["name"], image.read(v["name"], None))
            for s in image.snapshots:
                name = s["volume"] + "@" + s["name"]
                print(name, image.read(name, None))
    except Refused as e:
        print(f"refused: {e}", file=sys.stderr)
        return 3
    except (Damaged, NotOurs) as e:
        print(f"damaged: {e or 'nothing of ours'}", file=sys.stderr)
        return 5
    except KeyError as e:
        print(f"not found: {e}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
