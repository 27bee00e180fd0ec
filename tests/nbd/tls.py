# SPDX-License-Identifier: MIT
"""The NBD door with TLS: under the clients that people use, and under those that mean ill.

usage: tls.py NBD-MEMORY-SERVER [unittest options]
"""
import os
import random
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import unittest
import warnings

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from pki import Pki, write_keys  # noqa: E402
from wire import *  # noqa: E402,F403
from wire import Gone, Server, Wire, go_data, option_bytes  # noqa: E402

EXE = sys.argv.pop(1) if len(sys.argv) > 1 else "nbd-memory-server"
MIB = 1 << 20
SIZE = 32 * MIB
ANY = "tcp:127.0.0.1:0"

tmp = tempfile.TemporaryDirectory(prefix="vdisk-tls-", dir="/var/tmp")


def setUpModule():
    global pki, other, keys
    pki = Pki(os.path.join(tmp.name, "pki"))
    other = Pki(os.path.join(tmp.name, "other"))
    for where in ("server", "revoking"):
        pki.trust(pki.issue(where, "server", "127.0.0.1"))
    pki.issue("anonymous", "server", "127.0.0.1")
    for name in ("alice", "bob"):
        pki.trust(pki.issue(name, "client", name))
    pki.trust(pki.issue("late", "client", "late", days=-1))
    pki.trust(other.issue("mallory", "client", "alice"))
    pki.revoke(path("pki/bob/client-cert.pem"), path("pki/revoking"))
    os.makedirs(path("none"))
    pki.trust(path("none"))
    key = {name: random.Random(name).randbytes(32).hex() for name in ("carol", "dave", "wrong")}
    write_keys(path("keys.psk"), {n: key[n] for n in ("carol", "dave")})
    for where, name in (("carol", "carol"), ("bad", "wrong")):
        os.makedirs(path(where))
        write_keys(path(where + "/keys.psk"), {"carol": key[name], "eve": key[name]})


def tearDownModule():
    tmp.cleanup()


def path(name):
    return os.path.join(tmp.name, name)


def run(*args):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       errors="replace", timeout=240, stdin=subprocess.DEVNULL)
    return p.returncode, p.stdout


class SecureWire(Wire):
    """Python's OpenSSL as the client."""

    def secure(self, directory=None, version=None):
        replies = self.option(OPT_STARTTLS)
        assert replies == [(REP_ACK, b"")], replies
        context = ssl.create_default_context(cafile=pki.ca)
        if directory:
            context.load_cert_chain(path(directory + "/client-cert.pem"),
                                    path(directory + "/client-key.pem"))
        if version:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = version
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
        try:
            self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")
        except OSError as e:  # ssl.SSLError is one
            raise Gone from e
        return self

    def recv(self, n):
        try:
            return super().recv(n)
        except ssl.SSLError as e:  # TLS 1.3: refused after the client's last word
            raise Gone from e

    def drain(self):
        try:
            return super().drain()
        except ssl.SSLError:
            return b""


class Door(unittest.TestCase):
    options = []

    @classmethod
    def setUpClass(cls):
        cls.server = Server(EXE, "--volume", f"full={SIZE}", "--fill", "--volume", f"vol={SIZE}",
                            *cls.options, address=ANY)
        cls.port = cls.server.path.rsplit(":", 1)[1]

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None)

    def connect(self):
        return SecureWire(self.server.address).hello()

    def x509(self, who, name="vol"):
        return f"nbds://127.0.0.1:{self.port}/{name}?tls-certificates={path(who)}"

    def psk(self, who, name="vol", where="carol"):
        return f"nbds://{who}@127.0.0.1:{self.port}/{name}?tls-psk-file={path(where)}/keys.psk"

    def qemu(self, name, who=None, keys_of=None, user=None):
        creds = (f"tls-creds-x509,id=t,endpoint=client,dir={path(who)}" if who else
                 f"tls-creds-psk,id=t,endpoint=client,dir={path(keys_of)},username={user}")
        return ["--object", creds, "--image-opts",
                f"driver=nbd,host=127.0.0.1,port={self.port},export={name},tls-creds=t"]

    def good(self, *args):
        code, out = run(*args)
        self.assertEqual(code, 0, " ".join(args) + "\n" + out)
        return out

    def bad(self, *args):
        code, out = run(*args)
        self.assertNotEqual(code, 0, " ".join(args) + "\n" + out)
        return out

    def copies(self, uri):
        """What goes in comes out."""
        src, dst = path("src"), path("dst")
        with open(src, "wb") as f:
            f.write(random.Random(uri).randbytes(SIZE))
        self.good("nbdcopy", "--flush", src, uri)
        self.good("nbdcopy", "--requests=64", "--request-size=16384", uri, dst)
        with open(src, "rb") as a, open(dst, "rb") as b:
            self.assertEqual(a.read(), b.read())


class Certificates(Door):
    @classmethod
    def setUpClass(cls):
        cls.options = ["--tls-cert", path("pki/server")]
        super().setUpClass()

    def tearDown(self):
        # Whatever was tried: the server is alive, and those who may still can.
        with self.connect() as w:
            w.secure("pki/alice").go("full")
            self.assertEqual(w.do(READ, 0, 0), 0)

    def test_libnbd(self):
        self.copies(self.x509("pki/alice"))
        out = self.good("nbdinfo", "--list", self.x509("pki/alice", ""))
        self.assertIn("with TLS", out)
        self.assertIn('export="full"', out)

    def test_qemu(self):
        args = self.qemu("vol", who="pki/alice")
        with open(path("img"), "wb") as f:
            f.write(random.Random(5).randbytes(SIZE))
        creds, opts = args[:2], args[3]
        self.good("qemu-img", "convert", *creds, "-n", "-f", "raw", path("img"),
                  "--target-image-opts", opts)
        self.good("qemu-img", "compare", *creds, "--image-opts", opts, "driver=raw,file.driver=file,"
                  f"file.filename={path('img')}")
        self.good("qemu-io", *args, "-c", "write -P 7 512 1M", "-c", "read -P 7 512 1M",
                  "-c", "write -z 0 64k", "-c", "flush", "-c", "read -P 0 0 64k")

    def test_who_is_not_known_is_refused(self):
        for who in ("other/mallory", "pki/late", "none"):
            self.bad("nbdinfo", self.x509(who))
            with self.connect() as w, self.assertRaises(Gone):
                w.secure(who if who != "none" else None)
                w.option(OPT_LIST)
        self.bad("nbdinfo", self.psk("carol"))
        self.bad("qemu-img", "info", *self.qemu("vol", who="other/mallory"))
        self.bad("nbdinfo", f"nbd://127.0.0.1:{self.port}/vol")

    def test_versions(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with self.connect() as w:
                w.secure("pki/alice", version).negotiate_structured().go("full")
                self.assertEqual(w.read(512, 512)[:8], struct.pack("<Q", 512))
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with self.connect() as w, self.assertRaises(Gone):
                w.secure("pki/alice", version)

    def test_nothing_in_the_clear(self):
        with self.connect() as w:
            for option in (OPT_LIST, OPT_INFO, OPT_GO, OPT_STRUCTURED, OPT_LIST_META, OPT_SET_META,
                           4, 99):
                replies = w.option(option, go_data("vol"))
                self.assertEqual(len(replies), 1)
                self.assertEqual(replies[0][0], ERR_TLS_REQD)
                self.assertNotIn(b"full", replies[0][1])
            w.secure("pki/alice").go("vol")
        with self.connect() as w:
            w.send(option_bytes(OPT_EXPORT_NAME, b"vol"))
            self.assertEqual(w.drain(), b"")
        with self.connect() as w:
            self.assertEqual(w.option(OPT_ABORT), [(REP_ACK, b"")])
            self.assertEqual(w.drain(), b"")

    def test_starttls_twice(self):
        with self.connect() as w:
            w.secure("pki/alice")
            self.assertEqual(w.option(OPT_STARTTLS)[0][0], ERR_INVALID)
            self.assertEqual(len(w.option(OPT_LIST)), 3)
            w.go("vol")

    def test_starttls_with_data(self):
        with self.connect() as w:
            self.assertEqual(w.option(OPT_STARTTLS, b"x")[0][0], ERR_INVALID)
            w.secure("pki/alice").go("vol")

    def test_what_is_settled_inside_counts(self):
        with self.connect() as w:
            w.secure("pki/alice")
            # Nothing has been negotiated yet.
            self.assertEqual(w.option(OPT_LIST_META, meta_data("vol"))[0][0], ERR_INVALID)
            w.negotiate_structured()
            self.assertEqual(w.option(OPT_LIST_META, meta_data("vol"))[-1], (REP_ACK, b""))

    def test_plain_text_behind_starttls(self):
        for extra in (option_bytes(OPT_LIST), option_bytes(OPT_GO, go_data("vol")), b"\x16", bytes(9)):
            with self.connect() as w:
                w.send(option_bytes(OPT_STARTTLS) + extra)
                self.assertEqual(w.drain(), b"")

    def test_plain_text_instead_of_tls(self):
        for text in (option_bytes(OPT_LIST), bytes(1000), b"GET / HTTP/1.0\r\n\r\n"):
            with self.connect() as w:
                self.assertEqual(w.option(OPT_STARTTLS), [(REP_ACK, b"")])
                w.send(text)
                self.assertNotIn(b"full", w.drain())

    def hello_bytes(self):
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=pki.ca)
        s = context.wrap_bio(into, out, server_hostname="127.0.0.1")
        with self.assertRaises(ssl.SSLWantReadError):
            s.do_handshake()
        return out.read()

    def test_noise_in_the_handshake(self):
        rng = random.Random(6)
        hello = self.hello_bytes()
        for i in range(150):
            data = bytearray(hello)
            if i % 3 == 0:
                data = bytearray(rng.randbytes(rng.randrange(1, 70000)))
            elif i % 3 == 1:
                for _ in range(rng.choice((1, 4, 16))):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            else:
                del data[rng.randrange(len(data)):]
            with self.connect() as w:
                self.assertEqual(w.option(OPT_STARTTLS), [(REP_ACK, b"")])
                try:
                    w.send(data)
                    w.sock.shutdown(socket.SHUT_WR)
                except (Gone, OSError):
                    pass
                w.drain()

    def test_noise_under_tls(self):
        """Records that are damaged on the way end the connection, and nothing is written."""
        rng = random.Random(7)
        for _ in range(20):
            with Relay(self.server.address) as relay:
                with SecureWire(relay.address).hello() as w:
                    w.secure("pki/alice").negotiate_structured().go("vol")
                    before = w.read(0, 4096)
                    relay.damage = rng.randrange(5, 4000)
                    with self.assertRaises((Gone, OSError)):
                        w.do(WRITE, 0, 4096, 0, rng.randbytes(4096))
                        w.do(FLUSH)
            with self.connect() as w:
                w.secure("pki/alice").negotiate_structured().go("vol")
                self.assertEqual(w.read(0, 4096), before)

    def test_nothing_can_be_read_on_the_way(self):
        with Relay(self.server.address) as relay:
            port = relay.address.rsplit(":", 1)[1]
            self.good("nbdcopy", self.x509("pki/alice", "full").replace(f":{self.port}/", f":{port}/"),
                      path("out"))
        with open(path("out"), "rb") as f:
            self.assertEqual(f.read(16), struct.pack("<QQ", 0, 8))
        self.assertGreater(len(relay.seen), SIZE)
        # As they would stand there: four bytes alone turn up in so much noise now and then.
        for text in (struct.pack(">I", 4) + b"full", struct.pack("<QQ", 4096, 4104),
                     struct.pack(">IHH", REQUEST, 0, READ)):
            self.assertEqual(relay.seen.find(text), -1, text)

    def test_a_crowd_that_stalls_holds_up_nobody(self):
        hello = self.hello_bytes()
        crowd = []
        for i in range(300):  # more than there are places: the longest there make room
            w = self.connect()
            self.assertEqual(w.option(OPT_STARTTLS), [(REP_ACK, b"")])
            w.send(hello[:i * len(hello) // 300])
            crowd.append(w)
        with self.connect() as w:
            w.secure("pki/alice").negotiate_structured().go("full")
            for i in range(200):
                self.assertEqual(w.read(i * 4096, 512)[:8], struct.pack("<Q", i * 4096))
        for w in crowd:
            w.sock.close()

    def test_many_in_flight(self):
        rng = random.Random(8)
        with self.connect() as w:
            w.secure("pki/alice").negotiate_structured().go("vol")
            data = rng.randbytes(32 * MIB)
            w.write(0, data)
            self.assertEqual(w.read(0, 32 * MIB), data)
            stream = b"".join(request_bytes(READ, i * 8192, 8192, cookie=i) for i in range(1000))
            w.send(stream)  # sockets' buffers hold as much; a TLS object is not for two threads
            for _ in range(1000):
                cookie, error, kind, got, done = w.reply()
                self.assertEqual((error, kind, done), (0, T_DATA, True))
                self.assertEqual(got[8:], data[cookie * 8192:cookie * 8192 + 8192])


class Relay:
    """Somebody in between, who writes everything down, and may damage a byte."""

    def __init__(self, address):
        host, port = address.split(":", 1)[1].rsplit(":", 1)
        self.to = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "tcp:127.0.0.1:%d" % self.listener.getsockname()[1]
        self.seen = bytearray()
        self.damage = None  # in how many bytes from the client
        self.sockets = []
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.listener.shutdown(socket.SHUT_RDWR)
        for t in self.threads:
            t.join()
        for s in [self.listener, *self.sockets]:
            s.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.to)
            self.sockets += [client, server]
            pumps = [threading.Thread(target=self.pump, args=(client, server, True), daemon=True),
                     threading.Thread(target=self.pump, args=(server, client, False), daemon=True)]
            self.threads += pumps
            for t in pumps:
                t.start()

    def pump(self, source, sink, from_client):
        try:
            while data := source.recv(1 << 20):
                self.seen += data
                if from_client and self.damage is not None:
                    if self.damage < len(data):
                        data = bytearray(data)
                        data[self.damage] ^= 0x40
                        self.damage = None
                    else:
                        self.damage -= len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for s in (source, sink):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


class Revoked(Door):
    @classmethod
    def setUpClass(cls):
        cls.options = ["--tls-cert", path("pki/revoking")]
        super().setUpClass()

    def test_revoked(self):
        self.good("nbdinfo", self.x509("pki/alice"))
        self.bad("nbdinfo", self.x509("pki/bob"))


class Anonymous(Door):
    @classmethod
    def setUpClass(cls):
        cls.options = ["--tls-cert", path("pki/anonymous")]
        super().setUpClass()

    def test_clients_need_no_certificate(self):
        self.good("nbdinfo", self.x509("none"))
        with self.connect() as w:
            w.secure().go("vol")


class Keys(Door):
    @classmethod
    def setUpClass(cls):
        cls.options = ["--tls-psk", path("keys.psk")]
        super().setUpClass()

    def test_clients(self):
        self.copies(self.psk("carol"))
        self.good("qemu-img", "info", *self.qemu("vol", keys_of="carol", user="carol"))

    def test_who_has_no_key_is_refused(self):
        self.bad("nbdinfo", self.psk("carol", where="bad"))
        self.bad("nbdinfo", self.psk("eve", where="bad"))
        self.bad("nbdinfo", self.x509("pki/alice"))
        self.bad("qemu-img", "info", *self.qemu("vol", keys_of="bad", user="carol"))
        with self.connect() as w, self.assertRaises(Gone):
            w.secure()
        self.good("nbdinfo", self.psk("carol"))


class Both(Door):
    @classmethod
    def setUpClass(cls):
        cls.options = ["--tls-cert", path("pki/server"), "--tls-psk", path("keys.psk")]
        super().setUpClass()

    def test_either_will_do(self):
        self.good("nbdinfo", self.psk("carol"))
        self.good("nbdinfo", self.x509("pki/alice"))
        self.good("qemu-img", "info", *self.qemu("vol", keys_of="carol", user="carol"))
        self.good("qemu-img", "info", *self.qemu("vol", who="pki/alice"))
        self.bad("nbdinfo", self.psk("carol", where="bad"))
        self.bad("nbdinfo", self.x509("none"))
        self.bad("nbdinfo", self.x509("other/mallory"))


class Secrets(Door):
    @classmethod
    def setUpClass(cls):
        cls.options = ["--tls-cert", path("pki/server"), "--tls-psk", path("keys.psk")]
        super().setUpClass()

    def dumpable(self):
        """All that a core dump of the server would hold."""
        pid = self.server.proc.pid
        out, where = bytearray(), None
        with open(f"/proc/{pid}/smaps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb") as mem:
            for line in maps:
                words = line.split()
                if "-" in words[0] and len(words) >= 5:
                    where = [int(w, 16) for w in words[0].split("-")] if "r" in words[1] else None
                elif words[0] == "VmFlags:" and where and "dd" not in words and "io" not in words:
                    mem.seek(where[0])
                    try:
                        out += mem.read(where[1] - where[0])
                    except OSError:
                        pass  # the kernel's own pages
        return out

    def test_no_secret_in_a_core_dump(self):
        self.good("nbdinfo", self.psk("carol"))
        self.good("nbdinfo", self.x509("pki/alice"))
        with open(path("keys.psk"), encoding="utf-8") as f:
            keys = [bytes.fromhex(line.split(":")[1]) for line in f]
        text = self.good("openssl", "pkey", "-in", path("pki/server/server-key.pem"), "-text",
                         "-noout")
        private, public = (bytes.fromhex(re.sub(r"[\s:]", "", text.split(begin)[1].split(end)[0]))
                           for begin, end in (("priv:", "pub:"), ("pub:", "ASN1")))
        memory = self.dumpable()
        # Memory is not for printing.
        self.assertTrue(public in memory)  # so we do look at the right place
        for secret in [*keys, private, private[::-1]]:  # numbers are stored in either order
            self.assertFalse(secret in memory)


class Addresses(unittest.TestCase):
    def test_who_can_be_reached(self):
        """Other machines are let in only where that was asked for."""
        for address, remote in (("tcp:127.0.0.1:0", False), ("tcp:127.3.4.5:0", False),
                                ("tcp:localhost:0", False), ("tcp:0.0.0.0:0", True)):
            p = subprocess.run([EXE, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, timeout=60) if remote else None
            if remote:
                self.assertEqual(p.returncode, 1)
                self.assertIn("other machines can reach", p.stderr)
            with Server(EXE, "--volume", "a=1048576", *(["--remote"] if remote else []),
                        address=address) as s:
                port = s.address.rsplit(":", 1)[1]
                host = "127.0.0.1" if remote else s.address.split(":")[1]
                with Wire(f"tcp:{host}:{port}") as w:
                    w.hello().go("a")


if __name__ == "__main__":
    missing = [t for t in ("openssl", "nbdinfo", "nbdcopy", "qemu-img", "qemu-io")
               if not shutil.which(t)]
    if missing:
        print("skipped: not installed: " + ", ".join(missing))
        sys.exit(77)
    unittest.main(verbosity=2)
