# SPDX-License-Identifier: MIT
"""The NBD door under clients that keep to the protocol, and under those that do not.

usage: protocol.py NBD-MEMORY-SERVER [unittest options]
"""
import os
import random
import signal
import struct
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from wire import *  # noqa: E402,F403
from wire import Gone, Server, Wire, go_data, meta_data, option_bytes, request_bytes  # noqa: E402

EXE = sys.argv.pop(1) if len(sys.argv) > 1 else "nbd-memory-server"
MIB = 1 << 20
SIZE = 64 * MIB


def pattern(off, length):
    return b"".join(struct.pack("<Q", o) for o in range(off, off + length, 8))


class Door(unittest.TestCase):
    """One server for all tests of a class: whatever a client does, the next one must be served."""

    options = ["--volume", f"vol={SIZE}", "--snapshot", "vol@snap", "--volume", "other=1048576",
               "--shuffle"]
    address = None

    @classmethod
    def setUpClass(cls):
        cls.server = Server(EXE, *cls.options, address=cls.address)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None)

    def tearDown(self):
        # The server is alive and sane.
        with self.server.open("other") as w:
            self.assertEqual(len(w.read(0, 4096)), 4096)

    def assertGone(self, w):
        """The server hangs up, having said nothing more."""
        self.assertEqual(w.drain(), b"")


class Handshake(Door):
    def test_greeting(self):
        with self.server.connect() as w:
            w.hello()
            self.assertEqual(w.server_flags, 3)

    def test_unknown_client_flags_are_refused(self):
        with self.server.connect() as w:
            w.hello(flags=7)
            self.assertGone(w)

    def test_bad_magic_is_refused(self):
        with self.server.connect() as w:
            w.hello()
            w.send(option_bytes(OPT_LIST, magic=OPTION + 1))
            self.assertGone(w)

    def test_unknown_options_are_answered(self):
        with self.server.connect() as w:
            w.hello()
            for option in (0, 4, 11, 12, 99, 1 << 31, (1 << 32) - 1):
                for data in (b"", b"x" * 1000):
                    self.assertEqual(w.option(option, data)[0][0], ERR_UNSUP)
            # There is a way to say that it is known, but not here.
            self.assertEqual(w.option(OPT_STARTTLS)[0][0], ERR_POLICY)
            w.go("vol")
            self.assertEqual(w.size, SIZE)

    def test_options_without_end(self):
        with self.server.connect() as w:
            w.hello()
            with self.assertRaises(Gone):
                for _ in range(10000):
                    w.option(99)
                self.fail("10,000 options were taken")

    def test_options_without_end_unread(self):
        with self.server.connect() as w:
            w.hello()
            try:
                for _ in range(100):
                    w.send(option_bytes(99) * 100)
            except Gone:
                pass
            w.drain()

    def test_huge_option_lengths(self):
        for length in (32769, 1 << 20, (1 << 31) + 5, (1 << 32) - 1):
            with self.server.connect() as w:
                w.hello()
                w.send(option_bytes(OPT_GO, b"", length=length))
                self.assertEqual(w.replies(OPT_GO)[0][0], ERR_TOO_BIG)
                self.assertGone(w)
            with self.server.connect() as w:
                w.hello()
                w.send(option_bytes(OPT_EXPORT_NAME, b"", length=length))
                self.assertGone(w)

    def test_longest_option(self):
        with self.server.connect() as w:
            w.hello()
            self.assertEqual(w.option(99, b"y" * 32768)[0][0], ERR_UNSUP)

    def test_cut_off_at_every_byte(self):
        whole = (struct.pack(">I", 3) + option_bytes(OPT_STRUCTURED)
                 + option_bytes(OPT_SET_META, meta_data("vol", b"base:allocation"))
                 + option_bytes(OPT_LIST) + option_bytes(OPT_GO, go_data("vol", [1, 2, 3]))
                 + request_bytes(WRITE, 4096, 1024, data=b"z" * 1024)
                 + request_bytes(READ, 0, 512))
        with self.server.open() as check:
            for n in range(len(whole)):
                with self.server.connect() as w:
                    w.send(whole[:n])
                    w.sock.shutdown(1)
                    w.drain()
                if n % 64 == 0:  # and without waiting for an answer
                    with self.server.connect() as w:
                        w.send(whole[:n])
            self.assertEqual(check.read(0, 512), bytes(512))

    def test_byte_by_byte(self):
        stream = (struct.pack(">I", 3) + option_bytes(OPT_STRUCTURED)
                  + option_bytes(OPT_GO, go_data("vol")) + request_bytes(READ, 0, 512))
        with self.server.connect() as w:
            w.hello(flags=None)
            for i in range(len(stream)):
                w.send(stream[i:i + 1])
            self.assertEqual(w.replies(OPT_STRUCTURED)[-1][0], REP_ACK)
            self.assertEqual(w.replies(OPT_GO)[-1][0], REP_ACK)
            w.structured = True
            self.assertEqual(w.answer(1, 512)[0], 0)

    def test_list(self):
        with self.server.connect() as w:
            w.hello()
            replies = w.option(OPT_LIST)
            names = [d[4:].decode() for k, d in replies if k == REP_SERVER]
            self.assertEqual(sorted(names), ["other", "vol", "vol@snap"])
            self.assertEqual(replies[-1], (REP_ACK, b""))
            self.assertEqual(w.option(OPT_LIST, b"x")[0][0], ERR_INVALID)
            self.assertEqual(w.option(OPT_LIST)[-1][0], REP_ACK)

    def test_info(self):
        with self.server.connect() as w:
            w.hello()
            infos = {d[:2]: d[2:] for k, d in w.option(OPT_INFO, go_data("vol", [1, 2, 3, 77, 1]))
                     if k == REP_INFO}
            self.assertEqual(infos[b"\0\0"][:8], struct.pack(">Q", SIZE))
            self.assertEqual(infos[b"\0\1"], b"vol")
            self.assertIn(b"\0\2", infos)
            self.assertEqual(infos[b"\0\3"], struct.pack(">III", 512, 4096, 32 * MIB))
            # It was only a question.
            w.go("vol@snap")
            self.assertTrue(w.flags & F_READ_ONLY)
            self.assertFalse(w.flags & (F_TRIM | F_ZEROES | F_DF))

    def test_flags(self):
        with self.server.open("vol", structured=True) as w:
            self.assertEqual(w.flags, 1 | F_FLUSH | F_FUA | F_TRIM | F_ZEROES | F_DF | F_MULTI
                             | F_CACHE | F_FAST)

    def test_export_name(self):
        for flags, extra in ((3, 0), (1, 124), (0, 124)):
            with self.server.connect() as w:
                w.hello(flags=flags)
                w.send(option_bytes(OPT_EXPORT_NAME, b"vol"))
                size, _ = w.unpack(">QH")
                self.assertEqual(size, SIZE)
                self.assertEqual(w.recv(extra), bytes(extra))
                self.assertEqual(w.read(0, 512), bytes(512))
        for name in (b"nothing", b"", b"vol\0", b"\xff", b"v" * 5000):
            with self.server.connect() as w:
                w.hello()
                w.send(option_bytes(OPT_EXPORT_NAME, name))
                self.assertGone(w)

    def test_clients_of_the_plain_newstyle(self):
        with self.server.connect() as w:
            w.hello(flags=0)
            w.send(option_bytes(OPT_LIST))
            self.assertGone(w)

    def test_names_that_are_none(self):
        with self.server.connect() as w:
            w.hello()
            for name in ("nothing", "", "@", "vol@", "@snap", "vol@snap@snap", "vol@nothing",
                         "VOL", "vol/", "../vol", "vol ", "v" * 127, "v" * 4096, "ü"):
                for option in (OPT_INFO, OPT_GO):
                    kind, text = w.option(option, go_data(name))[-1]
                    self.assertEqual(kind, ERR_UNKNOWN, name)
                    self.assertTrue(text.decode())
            for name in (b"\xff", b"vol\0", b"\0", b"\xc0\x80", b"\xed\xa0\x80", b"v" * 4097,
                         b"\xe2\x82", b"\xf8\x88\x80\x80\x80", b"\xf4\x90\x80\x80"):
                self.assertEqual(w.option(OPT_GO, go_data(name))[-1][0], ERR_INVALID, name)
            w.go("vol")

    def test_option_data_that_lie(self):
        bad = [b"", b"\0", b"\0\0\0\3", b"\0\0\0\3vol", b"\0\0\0\3vol\0", b"\0\0\0\3vol\0\1",
               b"\0\0\0\3vol\0\1\0", b"\0\0\0\3vol\0\0\0", b"\xff\xff\xff\xffvol\0\0",
               b"\0\0\0\4vol\0\0", b"\0\0\0\3vol\xff\xff\0\0"]
        with self.server.connect() as w:
            w.hello()
            for data in bad:
                for option in (OPT_INFO, OPT_GO):
                    self.assertEqual(w.option(option, data)[-1][0], ERR_INVALID, data)
            w.negotiate_structured()
            bad = [b"", b"\0\0\0\3vol", b"\0\0\0\3vol\0\0\0\1", b"\0\0\0\3vol\0\0\0\0x",
                   b"\0\0\0\3vol\0\0\0\1\0\0\0\5base", b"\0\0\0\3vol\xff\xff\xff\xff",
                   b"\0\0\0\3vol\0\0\0\1\xff\xff\xff\xff", b"\0\0\0\3vol\0\0\0\1\0\0\0\1\xff"]
            for data in bad:
                for option in (OPT_LIST_META, OPT_SET_META):
                    self.assertEqual(w.option(option, data)[-1][0], ERR_INVALID, data)
            w.go("vol")

    def test_structured_takes_no_data(self):
        with self.server.connect() as w:
            w.hello()
            self.assertEqual(w.option(OPT_STRUCTURED, b"1")[0][0], ERR_INVALID)
            w.go("vol")
            self.assertFalse(w.flags & F_DF)
            self.assertEqual(w.read(0, 512), bytes(512))

    def test_abort(self):
        with self.server.connect() as w:
            w.hello()
            self.assertEqual(w.option(OPT_ABORT), [(REP_ACK, b"")])
            self.assertGone(w)

    def test_options_after_go(self):
        with self.server.open() as w:
            w.send(option_bytes(OPT_LIST) + bytes(64))
            self.assertGone(w)


class MetaContext(Door):
    def test_needs_structured_replies(self):
        with self.server.connect() as w:
            w.hello()
            for option in (OPT_LIST_META, OPT_SET_META):
                self.assertEqual(w.option(option, meta_data("vol"))[0][0], ERR_INVALID)

    def test_queries(self):
        name, since = (struct.pack(">I", 0) + n
                       for n in (b"base:allocation", b"vdisk:changed-since:snap"))
        both, first, second = [name, since], [name], [since]
        with self.server.connect() as w:
            w.hello().negotiate_structured()
            for queries, found in (((), both), ((b"base:",), first), ((b"base:allocation",), first),
                                   ((b"x:y", b"base:allocation"), first), ((b"qemu:",), []),
                                   ((b"base:alloc",), []), ((b"nonsense",), []), ((b"",), []),
                                   ((b"vdisk:",), second), ((b"vdisk:changed-since:",), second),
                                   ((b"vdisk:changed-since:snap", b"base:"), both),
                                   ((b"vdisk:changed-since:none",), []), ((b":",), []),
                                   ((b"vdisk:changed-since",), []),
                                   ((b"vdisk:changed-since:snap:",), [])):
                for name in ("vol", "vol@snap"):
                    replies = w.option(OPT_LIST_META, meta_data(name, *queries))
                    self.assertEqual(replies, [(REP_META, f) for f in found] + [(REP_ACK, b"")],
                                     queries)
            # That is another volume's snapshot.
            self.assertEqual(w.option(OPT_LIST_META, meta_data("other", b"vdisk:")),
                             [(REP_ACK, b"")])
            many = [b"x:%d" % i for i in range(257)]
            self.assertEqual(w.option(OPT_LIST_META, meta_data("vol", *many))[0][0], ERR_TOO_BIG)
            for queries, found in (((), 0), ((b"base:",), 0), ((b"base:allocation",) * 3, 1),
                                   ((b"vdisk:",), 0), ((b"vdisk:changed-since:none",), 0),
                                   ((b"vdisk:changed-since:snap",) * 2, 1),
                                   ((b"vdisk:changed-since:snap", b"base:allocation"), 2),
                                   ((b"qemu:dirty-bitmap:x",), 0)):
                replies = w.option(OPT_SET_META, meta_data("vol", *queries))
                self.assertEqual(len(replies), found + 1, queries)
            self.assertEqual(w.option(OPT_LIST_META, meta_data("none"))[0][0], ERR_UNKNOWN)

    def test_last_choice_counts(self):
        with self.server.connect() as w:
            w.hello().negotiate_structured()
            w.option(OPT_SET_META, meta_data("vol", b"base:allocation"))
            w.option(OPT_SET_META, meta_data("vol"))
            w.go("vol")
            self.assertEqual(w.status(0, 4096), EINVAL)

    def test_choice_is_for_one_export(self):
        with self.server.connect() as w:
            w.hello().negotiate_structured()
            w.option(OPT_SET_META, meta_data("other", b"base:allocation"))
            w.go("vol")
            self.assertEqual(w.status(0, 4096), EINVAL)
            self.assertEqual(w.read(0, 512), bytes(512))

    def test_changed_since(self):
        name = "vdisk:changed-since:snap"
        with self.server.connect() as w:
            w.hello().negotiate_structured()
            ids = w.choose("vol", b"base:allocation", name.encode())
            w.go("vol")
            w.write(64 << 10, b"d" * 8192)
            w.write(MIB + 512, b"e" * 512)
            changed = [(65536, 0), (8192, 1), (MIB - 65536 - 8192, 0), (4096, 1), (MIB - 4096, 0)]
            got = w.statuses(0, 2 * MIB)
            self.assertEqual(got[ids[name]], changed)
            self.assertEqual(sum(n for n, _ in got[ids["base:allocation"]]), 2 * MIB)
            self.assertEqual(w.statuses(0, 2 * MIB, REQ_ONE)[ids[name]], changed[:1])
            # Ranges that begin and end anywhere.
            self.assertEqual(w.statuses(65536 + 512, 8192)[ids[name]], [(7680, 1), (512, 0)])
            self.assertEqual(w.statuses(MIB + 1024, 512)[ids[name]], [(512, 1)])
            # What is as it was is unchanged, however it came to be so.
            self.assertEqual(w.do(ZEROES, 0, SIZE), 0)
            self.assertEqual(w.statuses(0, SIZE)[ids[name]], [(SIZE, 0)])
            for block in range(0, 1030, 2):
                w.write(block * 4096, b"f" * 4096)
            got = w.statuses(0, SIZE)[ids[name]]
            self.assertEqual(got, [(4096, 1), (4096, 0)] * 256)
            self.assertEqual(w.do(TRIM, 0, SIZE), 0)
        # Without base:allocation, and of the snapshot itself.
        with self.server.connect() as w:
            w.hello().negotiate_structured()
            ids = w.choose("vol@snap", name.encode())
            w.go("vol@snap")
            self.assertEqual(w.statuses(0, SIZE), {ids[name]: [(SIZE, 0)]})

    def test_block_status(self):
        with self.server.open("other", meta=True) as w:
            w.write(128 << 10, b"d" * (64 << 10))
            self.assertEqual(w.status(0, MIB), [(128 << 10, 3), (64 << 10, 0), (832 << 10, 3)])
            self.assertEqual(w.status(0, MIB, REQ_ONE | FUA), [(128 << 10, 3)])
            self.assertEqual(w.status((192 << 10) - 512, 1024), [(512, 0), (512, 3)])
            for off, length in ((MIB, 512), (MIB - 512, 1024), (1, 512), (0, 513), (0, 0),
                                ((1 << 64) - 512, 1024)):
                self.assertEqual(w.status(off, length), EINVAL)
            self.assertEqual(w.status(0, 512, NO_HOLE), EINVAL)
            self.assertEqual(w.do(TRIM, 128 << 10, 64 << 10), 0)
            self.assertEqual(w.status(0, MIB), [(MIB, 3)])


class Requests(Door):
    def test_commands(self):
        data = random.Random(1).randbytes(8192)
        for structured in (False, True):
            with self.server.open(structured=structured) as w:
                w.write(4096, data)
                self.assertEqual(w.read(4096, 8192), data)
                self.assertEqual(w.read(4608, 1024), data[512:1536])
                self.assertEqual(w.do(FLUSH), 0)
                self.assertEqual(w.do(ZEROES, 4096, 4096), 0)
                self.assertEqual(w.do(ZEROES, 8192, 512, NO_HOLE | FAST_ZERO), 0)
                self.assertEqual(w.read(4096, 8192), bytes(4608) + data[4608:])
                self.assertEqual(w.do(TRIM, 0, SIZE), 0)
                self.assertEqual(w.read(4096, 8192), bytes(8192))

    def test_fua_on_everything(self):
        with self.server.open(meta=True) as w:
            w.write(0, b"f" * 512, FUA)
            self.assertEqual(w.read(0, 512, FUA), b"f" * 512)
            self.assertEqual(w.do(FLUSH, flags=FUA), 0)
            self.assertEqual(w.do(ZEROES, 0, 512, FUA | NO_HOLE), 0)
            self.assertEqual(w.do(TRIM, 0, 4096, FUA), 0)
            self.assertEqual(sum(n for n, _ in w.status(0, 4096, FUA)), 4096)
            self.assertEqual(w.do(WRITE, 0, 0, FUA), 0)

    def test_errors_leave_the_stream_in_step(self):
        far = 1 << 62
        cases = [
            (READ, SIZE, 512, 0, EINVAL), (READ, SIZE - 512, 1024, 0, EINVAL),
            (READ, far, 512, 0, EINVAL), (READ, (1 << 64) - 512, 512, 0, EINVAL),
            (READ, 1, 512, 0, EINVAL), (READ, 0, 511, 0, EINVAL),
            (READ, 0, 32 * MIB + 512, 0, EINVAL), (READ, 0, (1 << 32) - 512, 0, EINVAL),
            (READ, 0, 512, NO_HOLE, EINVAL), (READ, 0, 512, 1 << 15, EINVAL),
            (WRITE, SIZE, 512, 0, ENOSPC), (WRITE, far, 4096, 0, ENOSPC),
            (WRITE, (1 << 64) - 512, 1024, 0, ENOSPC), (WRITE, 1, 4096, 0, EINVAL),
            (WRITE, 0, 4095, 0, EINVAL), (WRITE, 0, 1, 0, EINVAL), (WRITE, 0, 512, DF, EINVAL),
            (WRITE, 0, 33 * MIB, 0, EINVAL), (WRITE, 0, 64 * MIB, 0, EINVAL),
            (ZEROES, SIZE, 512, 0, ENOSPC), (ZEROES, 0, 100, 0, EINVAL),
            (ZEROES, 0, 512, REQ_ONE, EINVAL),
            (TRIM, SIZE - 512, 1024, 0, ENOSPC), (TRIM, 7, 512, 0, EINVAL),
            (TRIM, 0, 512, FAST_ZERO, EINVAL), (FLUSH, 0, 0, NO_HOLE, EINVAL),
            (FLUSH, 512, 0, 0, EINVAL), (FLUSH, 0, 512, 0, EINVAL),
            (CACHE, SIZE, 512, 0, EINVAL), (CACHE, 1, 512, 0, EINVAL),
            (CACHE, 0, 512, DF, EINVAL), (CACHE, 0, 512, 0, 0), (CACHE, 0, SIZE, FUA, 0),
            (8, 0, 512, 0, EINVAL), (0xFFFF, 0, 512, 0, EINVAL),
            (STATUS, 0, 512, 0, EINVAL),
        ]
        for structured in (False, True):
            with self.server.open(structured=structured) as w:
                w.write(0, b"k" * 4096)
                for cmd, off, length, flags, error in cases:
                    data = bytes(length) if cmd == WRITE else b""
                    self.assertEqual(w.do(cmd, off, length, flags, data), error,
                                     (cmd, off, length, flags))
                    self.assertEqual(w.read(0, 512), b"k" * 512)
                self.assertEqual(w.read(0, 4096), b"k" * 4096)
                if not structured:
                    self.assertEqual(w.do(READ, 0, 512, DF), EINVAL)

    def test_nothing(self):
        for structured in (False, True):
            with self.server.open(structured=structured) as w:
                for cmd in (READ, WRITE, ZEROES, TRIM):
                    self.assertEqual(w.do(cmd, 4096, 0), 0)
                    self.assertEqual(w.do(cmd, SIZE, 0), 0)

    def test_read_only(self):
        with self.server.open("vol@snap", meta=True) as w:
            for cmd in (WRITE, ZEROES, TRIM):
                self.assertEqual(w.do(cmd, 0, 4096, 0, b"w" * 4096 if cmd == WRITE else b""),
                                 EPERM)
            self.assertEqual(w.do(FLUSH), 0)
            self.assertEqual(w.read(0, 4096), bytes(4096))

    def test_bad_request_magic(self):
        with self.server.open() as w:
            w.send(request_bytes(READ, 0, 512, magic=REQUEST ^ 1))
            self.assertGone(w)

    def test_write_beyond_reason(self):
        for length in (64 * MIB + 1, 1 << 31, (1 << 32) - 1):
            with self.server.open() as w:
                w.send(request_bytes(WRITE, 0, length))
                self.assertGone(w)

    def test_largest_requests(self):
        data = random.Random(2).randbytes(32 * MIB)
        for structured in (False, True):
            with self.server.open(structured=structured) as w:
                w.write(MIB, data, FUA)
                self.assertEqual(w.read(MIB, 32 * MIB), data)
                self.assertEqual(w.read(MIB + 512, 5 * MIB), data[512:5 * MIB + 512])
                if structured:
                    self.assertEqual(w.read(MIB, 65536, DF), data[:65536])
                    self.assertEqual(w.read(MIB, 4 * MIB, DF), data[:4 * MIB])
                    self.assertEqual(w.do(READ, MIB, 32 * MIB, DF), EOVERFLOW)
                self.assertEqual(w.do(TRIM, 0, SIZE), 0)

    def test_holes_are_short_to_send(self):
        with self.server.open() as w:
            self.assertEqual(w.do(TRIM, 0, SIZE), 0)
            w.ask(READ, 0, 16 * MIB)
            kinds = []
            while True:
                _, error, kind, data, done = w.reply()
                kinds.append((error, kind))
                if done:
                    break
            self.assertEqual(kinds, [(0, T_HOLE)] * 4 + [(0, T_NONE)])
            # Whoever wants one piece gets the zeroes.
            w.ask(READ, 0, MIB, DF)
            _, _, kind, data, done = w.reply()
            self.assertEqual((kind, len(data), done), (T_DATA, MIB + 8, True))

    def test_cut_off_in_a_payload(self):
        with self.server.open() as check:
            check.write(0, b"o" * 65536)
            for n in (0, 1, 511, 512, 4096, 40000, 65535):
                with self.server.open() as w:
                    w.send(request_bytes(WRITE, 0, 65536, data=b"n" * n))
                self.assertEqual(check.read(0, 65536), b"o" * 65536)
            for n in (100, 3 * MIB, 5 * MIB, 32 * MIB - 1):
                with self.server.open() as w:
                    w.send(request_bytes(WRITE, MIB, 32 * MIB, data=bytes(n)))

    def test_disconnect_finishes_what_is_under_way(self):
        with self.server.open() as w:
            for i in range(100):
                w.ask(WRITE, i * 4096, 4096, 0, bytes([i]) * 4096)
            w.send(request_bytes(DISC))
            seen = set()
            try:
                while True:
                    cookie, error, *_ = w.reply()
                    self.assertEqual(error, 0)
                    seen.add(cookie)
            except Gone:
                pass
            self.assertEqual(len(seen), 100)
        with self.server.open() as w:
            for i in range(100):
                self.assertEqual(w.read(i * 4096, 4096), bytes([i]) * 4096)

    def test_many_in_flight(self):
        """1,000 requests of all kinds at once, each on blocks of its own; twice over."""
        rng = random.Random(3)
        n, block = 1000, 8192
        with self.server.open() as w:
            self.assertEqual(w.do(ZEROES, 0, n * block), 0)
            model = [bytes(block)] * n
            for _ in range(4):
                asked, lengths = {}, {}
                out = []
                for i in range(n):
                    w.cookie += 1
                    kind = rng.choice((READ, READ, WRITE, WRITE, ZEROES, TRIM, FLUSH))
                    data = rng.randbytes(block) if kind == WRITE else b""
                    flags = rng.choice((0, FUA))
                    where = (0, 0) if kind == FLUSH else (i * block, block)
                    out.append(request_bytes(kind, *where, flags, w.cookie, data))
                    asked[w.cookie] = (kind, i)
                    if kind == READ:
                        lengths[w.cookie] = block
                    else:
                        model[i] = {WRITE: data, FLUSH: model[i]}.get(kind, bytes(block))
                self.exchange(w, b"".join(out), asked, model)

    def exchange(self, w, stream, asked, model):
        """Sends while it receives, as a client must."""
        import threading
        sender = threading.Thread(target=w.send, args=(stream,))
        sender.start()
        while asked:
            cookie, error, kind, data, done = w.reply()
            self.assertEqual(error, 0)
            what, i = asked[cookie]
            if what == READ and kind == T_DATA:
                self.assertEqual(data[8:], model[i])
            if done:
                del asked[cookie]
        sender.join()

    def test_overlapping_writes_land_whole(self):
        with self.server.open() as w:
            for i in range(200):
                w.ask(WRITE, 0, 16384, 0, bytes([i]) * 16384)
            for _ in range(200):
                self.assertEqual(w.reply()[1], 0)
            got = w.read(0, 16384)
            for sector in range(0, 16384, 512):
                self.assertEqual(len(set(got[sector:sector + 512])), 1)

    def test_several_connections_are_one_disk(self):
        with self.server.open() as a, self.server.open() as b, self.server.open("other") as c:
            a.write(0, b"1" * 4096)
            self.assertEqual(b.do(FLUSH), 0)
            self.assertEqual(b.read(0, 4096), b"1" * 4096)
            self.assertNotEqual(c.read(0, 4096), b"1" * 4096)

    def test_a_client_that_does_not_listen_holds_up_nobody(self):
        with self.server.open() as deaf, self.server.open() as deaf2, self.server.open() as w:
            w.write(0, b"s" * MIB)
            for d in (deaf, deaf2):
                # At once: each message of its own takes room in the socket.
                d.send(b"".join(request_bytes(READ, 0, MIB, cookie=i) for i in range(400)))
            for i in range(500):
                self.assertEqual(w.read(i * 4096 % MIB, 4096), b"s" * 4096)
            self.assertEqual(w.read(0, 32 * MIB)[:MIB], b"s" * MIB)
            # And what it asked for is all there when it wakes up.
            cookies = set()
            for _ in range(400):
                cookie, error, kind, data, done = deaf.reply()
                self.assertEqual((error, kind, done), (0, T_DATA, True))
                self.assertEqual(data[8:], b"s" * MIB)
                cookies.add(cookie)
            self.assertEqual(len(cookies), 400)

    def test_noise(self):
        """Streams that begin well and are then damaged: nothing may follow but a hang-up."""
        rng = random.Random(4)
        good = (struct.pack(">I", 3) + option_bytes(OPT_STRUCTURED)
                + option_bytes(OPT_SET_META, meta_data("vol", b"base:allocation"))
                + option_bytes(OPT_GO, go_data("vol", [3]))
                + request_bytes(WRITE, 8192, 512, FUA, 1, b"q" * 512)
                + request_bytes(READ, 0, 65536) + request_bytes(STATUS, 0, MIB)
                + request_bytes(ZEROES, 0, 4096) + request_bytes(FLUSH))
        for _ in range(400):
            bad = bytearray(good)
            for _ in range(rng.choice((1, 2, 8))):
                how = rng.randrange(3)
                at = rng.randrange(len(bad))
                if how == 0:
                    bad[at] ^= 1 << rng.randrange(8)
                elif how == 1:
                    bad[at:at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x80\0\0\0"))
                else:
                    del bad[at:at + rng.randrange(64)]
            with self.server.connect() as w:
                try:
                    w.send(bad)
                    w.sock.shutdown(1)
                except (Gone, OSError):
                    pass
                w.drain()


class Tcp(Requests):
    """The same over TCP."""
    address = "tcp:127.0.0.1:0"


class Limits(unittest.TestCase):
    def test_only_volume_has_no_name(self):
        with Server(EXE, "--volume", "a=1048576", "--snapshot", "a@s") as s:
            with s.open("") as w:
                self.assertEqual(w.size, MIB)
            with s.connect() as w:
                w.hello()
                infos = [d[2:] for k, d in w.option(OPT_INFO, go_data("", [1])) if d[:2] == b"\0\1"]
                self.assertEqual(infos, [b"a"])
            # Contexts chosen for "" are those of the volume it means.
            with s.connect() as w:
                w.hello().negotiate_structured()
                w.option(OPT_SET_META, meta_data("", b"base:allocation"))
                w.go("a")
                self.assertEqual(w.status(0, 4096), [(4096, 3)])

    def test_no_volume(self):
        with Server(EXE) as s, s.connect() as w:
            w.hello()
            self.assertEqual(w.option(OPT_LIST), [(REP_ACK, b"")])
            self.assertEqual(w.option(OPT_GO, go_data(""))[0][0], ERR_UNKNOWN)

    def test_read_only_server(self):
        with Server(EXE, "--volume", "a=1048576", "--read-only") as s, s.open("a") as w:
            self.assertTrue(w.flags & F_READ_ONLY)
            self.assertEqual(w.do(WRITE, 0, 512, 0, bytes(512)), EPERM)

    def test_number_of_clients(self):
        with Server(EXE, "--volume", "a=1048576") as s:
            clients = [s.open("a") for _ in range(128)]
            with s.connect() as w:
                self.assertEqual(w.drain(), b"")
            for w in clients:
                self.assertEqual(w.read(0, 512), bytes(512))
            clients.pop().sock.close()
            while True:  # until the server has noticed
                with s.connect() as w:
                    try:
                        w.hello().go("a")
                        self.assertEqual(w.read(0, 512), bytes(512))
                        break
                    except Gone:
                        continue
            for w in clients:
                w.sock.close()

    def test_new_clients_see_a_new_size(self):
        with Server(EXE, "--volume", "a=1048576") as s, s.open("a") as old:
            self.assertEqual(old.size, MIB)
            self.assertEqual(old.do(READ, MIB, 512), EINVAL)
            s.proc.send_signal(signal.SIGUSR1)
            while True:
                with s.open("a") as w:
                    if w.size == 2 * MIB:
                        break
            self.assertEqual(old.read(MIB, 512), bytes(512))

    def test_clients_of_a_disk_that_goes_are_dropped(self):
        with Server(EXE, "--volume", "a=1048576") as s, s.open("a") as w:
            w.read(0, 512)
            s.proc.send_signal(signal.SIGUSR2)
            self.assertEqual(w.drain(), b"")

    def test_stop_answers_what_is_under_way(self):
        with Server(EXE, "--volume", f"a={SIZE}", "--shuffle") as s:
            with s.open("a") as w:
                w.read(0, 512)
                for i in range(200):
                    w.ask(READ, i * 4096, 65536)
                w.reply()
                s.proc.send_signal(signal.SIGTERM)
                try:
                    while True:  # whole replies, then the end
                        self.assertEqual(w.reply()[1], 0)
                except Gone:
                    pass
            self.assertEqual(s.proc.wait(60), 0)

    def test_stop_with_clients_in_every_state(self):
        with Server(EXE, "--volume", f"a={SIZE}") as s:
            idle, fresh, half, mid = s.open("a"), s.connect(), s.connect(), s.open("a")
            half.hello()
            half.send(option_bytes(OPT_GO, b"", length=100))
            mid.send(request_bytes(WRITE, 0, 8 * MIB, data=bytes(5 * MIB)))
            idle.read(0, 512)
            self.assertEqual(s.stop(), 0)
            for w in (idle, fresh, half, mid):
                w.drain()
                w.sock.close()


class BadDisk(unittest.TestCase):
    """5 to 6 MiB of the volume cannot be read or written."""

    def setUp(self):
        self.server = Server(EXE, "--volume", f"a={SIZE}", "--fill", "--fail", f"{5 * MIB}:{MIB}")
        self.addCleanup(self.server.__exit__, None)

    def test_errors_are_passed_on(self):
        for structured in (False, True):
            with self.server.open("a", structured=structured) as w:
                self.assertEqual(w.do(READ, 5 * MIB, 4096), EIO)
                self.assertEqual(w.do(WRITE, 5 * MIB, 512, FUA, bytes(512)), EIO)
                self.assertEqual(w.do(ZEROES, 0, SIZE), EIO)
                self.assertEqual(w.do(TRIM, 5 * MIB, MIB), EIO)
                self.assertEqual(w.do(READ, 4 * MIB, 4 * MIB), EIO)
                self.assertEqual(w.read(4096, 4096), pattern(4096, 4096))

    def test_long_structured_read(self):
        with self.server.open("a") as w:
            cookie = w.ask(READ, 0, 32 * MIB)
            error, data = w.answer(cookie, 32 * MIB)
            self.assertEqual(error, EIO)
            self.assertEqual(w.read(8 * MIB, 32 * MIB), pattern(8 * MIB, 32 * MIB))

    def test_long_simple_read(self):
        # Early enough, it is an error; later there is no way to say so but to hang up.
        with self.server.open("a", structured=False) as w:
            self.assertEqual(w.do(READ, 4 * MIB, 16 * MIB), EIO)
            self.assertEqual(w.read(6 * MIB, 16 * MIB), pattern(6 * MIB, 16 * MIB))
            cookie = w.ask(READ, 0, 16 * MIB)
            with self.assertRaises(Gone):
                w.answer(cookie, 16 * MIB)

    def test_long_write(self):
        with self.server.open("a") as w:
            self.assertEqual(w.do(WRITE, 0, 32 * MIB, 0, bytes(32 * MIB)), EIO)
            self.assertEqual(w.read(40 * MIB, 4096), pattern(40 * MIB, 4096))


if __name__ == "__main__":
    unittest.main(verbosity=2)
