# SPDX-License-Identifier: MIT
"""An NBD client that can also misbehave, and a server process to try it on."""
import os
import signal
import socket
import struct
import subprocess
import tempfile

INIT = 0x4E42444D41474943
OPTION = 0x49484156454F5054
OPTION_REPLY = 0x3E889045565A9
REQUEST = 0x25609513
SIMPLE = 0x67446698
CHUNK = 0x668E33EF

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO = 1, 2, 3, 5, 6, 7
OPT_STRUCTURED, OPT_LIST_META, OPT_SET_META = 8, 9, 10
REP_ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_TLS_REQD, ERR_UNKNOWN, ERR_TOO_BIG = (
    (1 << 31) + n for n in (1, 2, 3, 5, 6, 9))
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = range(4)

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
DONE = 1
T_NONE, T_DATA, T_HOLE, T_STATUS, T_ERROR = 0, 1, 2, 5, (1 << 15) + 1
EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW = 1, 5, 22, 28, 75

F_READ_ONLY, F_FLUSH, F_FUA, F_TRIM, F_ZEROES, F_DF, F_MULTI, F_CACHE, F_FAST = (
    1 << n for n in (1, 2, 3, 5, 6, 7, 8, 10, 11))

SECONDS = 60  # longer than anything takes: a test that waits so long has failed


def go_data(name, infos=()):
    if isinstance(name, str):
        name = name.encode()
    return (struct.pack(">I", len(name)) + name + struct.pack(">H", len(infos))
            + b"".join(struct.pack(">H", i) for i in infos))


def meta_data(name, *queries):
    name = name.encode()
    return (struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
            + b"".join(struct.pack(">I", len(q)) + q for q in queries))


def option_bytes(option, data=b"", magic=OPTION, length=None):
    return struct.pack(">QII", magic, option, len(data) if length is None else length) + data


def request_bytes(cmd, off=0, length=0, flags=0, cookie=1, data=b"", magic=REQUEST):
    return struct.pack(">IHHQQI", magic, flags, cmd, cookie, off, length) + data


class Gone(Exception):
    """The server has closed the connection."""


class Wire:
    def __init__(self, address):
        kind, where = address.split(":", 1)
        if kind == "unix":
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(SECONDS)
            self.sock.connect(where)
        else:
            host, port = where.rsplit(":", 1)
            self.sock = socket.create_connection((host.strip("[]"), int(port)), SECONDS)
        self.cookie = 0
        self.structured = False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Gone from e

    def recv(self, n):
        parts = []
        while n > 0:
            try:
                part = self.sock.recv(min(n, 1 << 20))
            except ConnectionResetError as e:
                raise Gone from e
            if not part:
                raise Gone
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def unpack(self, form):
        return struct.unpack(form, self.recv(struct.calcsize(form)))

    def drain(self):
        """Everything up to the end of the connection, which must come."""
        got = b""
        try:
            while True:
                part = self.sock.recv(1 << 16)
                if not part:
                    return got
                got += part
        except ConnectionResetError:
            return got

    # The handshake.

    def hello(self, flags=3):
        magic, option, self.server_flags = self.unpack(">QQH")
        assert (magic, option) == (INIT, OPTION)
        if flags is not None:
            self.send(struct.pack(">I", flags))
        return self

    def option(self, option, data=b""):
        """Sends one and returns all its replies: [(type, data)]."""
        self.send(option_bytes(option, data))
        return self.replies(option)

    def replies(self, option):
        got = []
        while True:
            magic, opt, kind, length = self.unpack(">QIII")
            assert magic == OPTION_REPLY and opt == option, (hex(magic), opt)
            got.append((kind, self.recv(length)))
            if kind == REP_ACK or kind >> 31:
                return got

    def negotiate_structured(self):
        assert self.option(OPT_STRUCTURED) == [(REP_ACK, b"")]
        self.structured = True
        return self

    def go(self, name):
        replies = self.option(OPT_GO, go_data(name))
        assert replies[-1][0] == REP_ACK, replies
        for kind, data in replies:
            if kind == REP_INFO and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:])
        return self

    # Transmission.

    def ask(self, cmd, off=0, length=0, flags=0, data=b""):
        self.cookie += 1
        self.send(request_bytes(cmd, off, length, flags, self.cookie, data))
        return self.cookie

    def reply(self, lengths=None):
        """One message: (cookie, error, kind, payload, done). For simple replies to reads
        `lengths` maps cookies to what must follow."""
        (magic,) = self.unpack(">I")
        if magic == SIMPLE:
            error, cookie = self.unpack(">IQ")
            data = b""
            if not error and lengths and cookie in lengths:
                data = self.recv(lengths[cookie])
            return cookie, error, None, data, True
        assert magic == CHUNK and self.structured, hex(magic)
        flags, kind, cookie, length = self.unpack(">HHQI")
        data = self.recv(length)
        error = 0
        if kind == T_ERROR:
            error, text_len = struct.unpack(">IH", data[:6])
            assert error and text_len == length - 6
            data[6:].decode()
        return cookie, error, kind, data, bool(flags & DONE)

    def answer(self, cookie, length=None, off=0):
        """All of one request's answer, when no other is under way: (error, bytes of a read)."""
        out = bytearray(length or 0)
        covered = error = 0
        while True:
            got, err, kind, data, done = self.reply({cookie: length} if length else None)
            assert got == cookie
            error = error or err
            if kind is None and length and not err:
                assert not self.structured
                out[:] = data
                covered = length
            elif kind == T_DATA:
                (at,) = struct.unpack(">Q", data[:8])
                out[at - off:at - off + len(data) - 8] = data[8:]
                covered += len(data) - 8
            elif kind == T_HOLE:
                at, n = struct.unpack(">QI", data)
                covered += n
            if done:
                break
        assert error or covered == (length or 0), (covered, length)
        assert len(out) == (length or 0)
        return error, bytes(out)

    def read(self, off, length, flags=0):
        error, data = self.answer(self.ask(READ, off, length, flags), length, off)
        assert error == 0, error
        return data

    def do(self, cmd, off=0, length=0, flags=0, data=b""):
        """A request without data in its answer: the error."""
        return self.answer(self.ask(cmd, off, length, flags, data))[0]

    def write(self, off, data, flags=0):
        assert self.do(WRITE, off, len(data), flags, data) == 0

    def status(self, off, length, flags=0):
        """[(length, flags)] or the error."""
        cookie = self.ask(STATUS, off, length, flags)
        got, error, kind, data, done = self.reply()
        assert got == cookie and done
        if error:
            return error
        assert kind == T_STATUS and data[:4] == struct.pack(">I", 1)
        return [struct.unpack_from(">II", data, i) for i in range(4, len(data), 8)]


    def statuses(self, off, length, flags=0):
        """What each chosen context says: {id: [(length, flags)]}, or the error."""
        cookie = self.ask(STATUS, off, length, flags)
        got = {}
        while True:
            c, error, kind, data, done = self.reply()
            assert c == cookie
            if error:
                return error
            (context,) = struct.unpack_from(">I", data)
            assert kind == T_STATUS and context not in got
            got[context] = [struct.unpack_from(">II", data, i) for i in range(4, len(data), 8)]
            if done:
                return got

    def choose(self, name, *queries):
        """Chooses contexts: {name: id}."""
        replies = self.option(OPT_SET_META, meta_data(name, *queries))
        assert replies.pop() == (REP_ACK, b""), replies
        return {data[4:].decode(): struct.unpack(">I", data[:4])[0] for _, data in replies}


class Server:
    """A process of nbd-memory-server, ended and checked when the block is left."""

    def __init__(self, exe, *options, address=None):
        self.dir = tempfile.TemporaryDirectory(prefix="vdisk-nbd-")
        address = address or "unix:" + os.path.join(self.dir.name, "s.sock")
        self.proc = subprocess.Popen([exe, address, *options], stdout=subprocess.PIPE, text=True)
        self.address = self.proc.stdout.readline().strip()
        if not self.address:
            raise RuntimeError("the server did not start")
        where = self.address.split(":", 1)[1]
        self.path = where
        self.uri = ("nbd+unix:///?socket=" + where if self.address.startswith("unix:")
                    else "nbd://" + where)

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        code = self.stop()
        self.dir.cleanup()
        if kind is None:
            assert code == 0, f"the server ended with {code}"

    def stop(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            code = "no answer to SIGTERM"
        self.proc.stdout.close()
        return code

    def connect(self):
        return Wire(self.address)

    def open(self, name="vol", structured=True, meta=False):
        w = self.connect().hello()
        if structured:
            w.negotiate_structured()
        if meta:
            assert len(w.option(OPT_SET_META, meta_data(name, b"base:allocation"))) == 2
        return w.go(name)
