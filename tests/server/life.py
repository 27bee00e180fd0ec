#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A server that people live with: what it tells systemd, the journal and Prometheus; how it ends; and
that clients which reconnect go on when it was killed.

usage: life.py VDISK UNITS-DIRECTORY
"""
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time

VDISK, UNITS = (os.path.abspath(a) for a in sys.argv[1:3])
HANG = float(os.environ.get("VDISK_TEST_HANG", "120"))
FAILED = []


def check(good, what):
    print(f"{'ok' if good else 'not ok'} - {what}", flush=True)
    if not good:
        FAILED.append(what)


class Server:
    """vdisk serve, ready."""

    def __init__(self, *args, env=None, before=()):
        self.process = subprocess.Popen([*before, VDISK, "serve", *args], stdout=subprocess.PIPE, text=True,
                                        env=dict(os.environ, **(env or {})))
        self.uris = [self.process.stdout.readline().split(" ", 1)[1].strip()]

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        status = self.process.wait(HANG)
        self.process.stdout.close()
        return status


def vdisk(*args):
    return subprocess.run([VDISK, *args], check=True, capture_output=True, text=True, timeout=HANG).stdout


def wait_for(condition):
    """Polls; the limit is there only so that a hung test ends."""
    end = time.monotonic() + HANG
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("not ok - a condition never came true")
        time.sleep(0.02)


class Client:
    """qemu-io over NBD, told what to do line by line."""

    def __init__(self, path, reconnect=0):
        image = f"driver=nbd,server.type=unix,server.path={path},reconnect-delay={reconnect}"
        self.process = subprocess.Popen(["qemu-io", "--image-opts", image], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self, word):
        """Lines up to one with `word` in it; '' when it has ended."""
        for line in self.process.stdout:
            if word in line or "failed" in line or "error" in line:
                return line
        return ""

    def end(self):
        self.process.stdin.close()
        self.process.stdout.read()
        return self.process.wait(HANG)


# ---- Prometheus ----

def http(port, request, shut=False):
    with socket.create_connection(("127.0.0.1", port), HANG) as s:
        s.sendall(request)
        if shut:
            s.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while part := s.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
    return answer


def parse_metrics(text):
    """{name{labels}: value}, by somebody else's parser; None where there is none."""
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        parse = "import json, sys; from prometheus_client.parser import text_string_to_metric_families as f\n" \
                "print(json.dumps([[s.name, s.labels, s.value] for m in f(sys.stdin.read()) for s in m.samples]))"
        done = subprocess.run(["/usr/bin/python3", "-c", parse], input=text, capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else None
    return [[s.name, s.labels, s.value] for m in text_string_to_metric_families(text) for s in m.samples]


def metrics():
    server = Server("p.vdk", "--nbd", "unix:m.sock", "--metrics", "tcp:127.0.0.1:0")
    port = int(re.search(r"http://127.0.0.1:(\d+)/metrics", vdisk("door", "list", "p.vdk", "--json"))[1])
    client = Client("m.sock")
    for command in ("write -P 1 0 64k", "write -P 2 64k 64k", "read 0 4k"):
        client.tell(command)
        client.answer("bytes at offset")
    get = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    head, _, text = http(port, get).partition(b"\r\n\r\n")
    check(head.startswith(b"HTTP/1.1 200 ") and b"version=0.0.4" in head, "GET /metrics is answered")
    samples = parse_metrics(text.decode())
    if samples is None:
        print("skipped: no Python module prometheus_client: metrics are not parsed")
    else:
        def value(name, **labels):
            found = [v for n, l, v in samples if n == name and labels.items() <= l.items()]
            return found[0] if len(found) == 1 else found
        disk = {"volume": "disk", "kind": "write"}
        check(value("vdisk_volume_requests_total", **disk) == 2 and
              value("vdisk_volume_bytes_total", **disk) == 131072 and
              value("vdisk_volume_requests_total", volume="disk", kind="read") >= 1 and
              value("vdisk_volume_errors_total", **disk) == 0 and
              value("vdisk_volume_size_bytes", volume="disk") == 64 << 20 and
              value("vdisk_pool_clients") == 1, "metrics say what was done")
        buckets = [v for n, l, v in samples if n.endswith("_bucket") and disk.items() <= l.items()]
        check(buckets == sorted(buckets) and buckets[-1] == 2 and
              value("vdisk_volume_request_duration_seconds_count", **disk) == 2 and
              value("vdisk_volume_request_duration_seconds_sum", **disk) > 0, "histograms are whole")
    promtool = shutil.which("promtool")
    if promtool:
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
        check(done.returncode == 0 and not done.stderr, "promtool finds nothing wrong: " + done.stderr.decode())
    for request, status in ((b"GET / HTTP/1.1\r\n\r\n", b"404"), (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
                            (b"rubbish\r\n\r\n", b"400"), (b"GET /metrics\0 HTTP/1.1\r\n\r\n", b"400"),
                            (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 9000, b"431"),
                            (b"HEAD /metrics HTTP/1.0\r\n\r\n", b"200")):
        answer = http(port, request)
        check(answer.split(b" ")[1:2] == [status], f"{request[:30]} is answered with {status.decode()}")
    # Those who only hold places are turned away, or sent away in the end; others get their answers.
    idle = [socket.create_connection(("127.0.0.1", port), HANG) for _ in range(40)]
    for s in idle:
        s.settimeout(HANG)
        while True:
            try:
                if not s.recv(1):
                    break
            except ConnectionResetError:
                break
        s.close()
    check(http(port, get).startswith(b"HTTP/1.1 200 "), "clients that say nothing are sent away")
    idle = socket.create_connection(("127.0.0.1", port), HANG)
    client.end()
    check(server.end() == 0, "a silent client does not hold up the end")
    idle.close()


# ---- a terminal ----

def terminal():
    server = Server("p.vdk", "--nbd", "unix:t.sock")
    for how in ("q", "interrupt"):
        ours, theirs = pty.openpty()
        before = termios.tcgetattr(theirs)
        top = subprocess.Popen([VDISK, "top", "--interval", "0.2"], stdin=theirs, stdout=theirs, stderr=theirs)
        drawn = b""
        while drawn.count(b"q ends this") < 2:
            drawn += os.read(ours, 4096)
        if how == "q":
            os.write(ours, b"q")
        else:
            top.send_signal(signal.SIGINT)
        check(top.wait(HANG) == 0 and b"\033[H\033[J" in drawn and b"disk" in drawn and
              termios.tcgetattr(theirs) == before, f"top redraws, ends by {how}, and leaves the terminal as it was")
        os.close(ours)
        os.close(theirs)
    server.end()


# ---- systemd ----

def systemd():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.settimeout(HANG)
        s.bind("notify")
        server = Server("p.vdk", "--nbd", "unix:n.sock", env={
            "NOTIFY_SOCKET": os.path.abspath("notify"), "WATCHDOG_USEC": "200000"})
        got = [s.recv(100) for _ in range(4)]
        check(got == [b"READY=1"] + [b"WATCHDOG=1"] * 3, "systemd hears of readiness and the watchdog")
        server.process.send_signal(signal.SIGTERM)
        while got[-1] == b"WATCHDOG=1":
            got.append(s.recv(100))
        check(got[-1] == b"STOPPING=1", "and of the end")
        server.end()


def units():
    if not shutil.which("systemd-analyze"):
        print("skipped: no systemd-analyze")
        return
    for kind in ("system", "user"):
        where = os.path.abspath("units-" + kind)
        os.mkdir(where)
        with open(os.path.join(UNITS, f"vdisk@.{kind}.service")) as f:
            text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=" + VDISK, f.read())
        # The manual page is not installed here.
        text = re.sub(r"(?m)^Documentation=.*\n", "", text)
        with open(os.path.join(where, "vdisk@tank.service"), "w") as f:
            f.write(text)
        shutil.copy(os.path.join(os.path.dirname(__file__), "../../tools/systemd/vdisk@.socket"),
                    os.path.join(where, "vdisk@tank.socket"))
        done = subprocess.run(["systemd-analyze", "verify", *(["--user"] if kind == "user" else []),
                               os.path.join(where, "vdisk@tank.service"), os.path.join(where, "vdisk@tank.socket")],
                              capture_output=True, text=True, env=dict(os.environ, XDG_RUNTIME_DIR=where))
        bad = [line for line in done.stderr.splitlines() if "vdisk" in line]
        check(not bad, f"{kind} units are sound: " + " ".join(bad))


def journal():
    """With a journal of our own, in a mount namespace: its socket has a fixed place."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        print("skipped: not root: the journal's socket cannot be replaced")
        return
    os.makedirs("journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s, open("stderr", "w") as err:
        s.settimeout(HANG)
        s.bind("journal/socket")
        st = os.fstat(err.fileno())
        script = 'mkdir -p /run/systemd; mount -t tmpfs none /run/systemd; mkdir /run/systemd/journal; ' \
                 'mount --bind "$PWD/journal" /run/systemd/journal; exec "$@"'
        env = dict(os.environ, JOURNAL_STREAM=f"{st.st_dev}:{st.st_ino}", VDISK_LOG="info")
        server = subprocess.Popen(["unshare", "-m", "sh", "-c", script, "sh", VDISK, "serve", "p.vdk", "--nbd",
                                   "unix:j.sock"], stdout=subprocess.PIPE, stderr=err, env=env, text=True)
        server.stdout.readline()
        client = Client("j.sock")
        fields = s.recv(4096).decode().splitlines()
        check(any(f.startswith("MESSAGE=nbd: ") and "opened disk" in f for f in fields) and "PRIORITY=6" in fields and
              "SYSLOG_IDENTIFIER=vdisk" in fields and f"VDISK_POOL={os.path.realpath('p.vdk')}" in fields,
              f"the journal gets lines with fields: {fields}")
        client.end()
        server.terminate()
        server.wait(HANG)
        server.stdout.close()
    check(os.path.getsize("stderr") == 0, "and standard error nothing")


# ---- ends ----

def limited_end():
    """A hundred requests wait for one a second; the end does not."""
    server = Server("p.vdk", "--nbd", "unix:l.sock")
    vdisk("volume", "set", "p.vdk", "limit.iops=1", "limit.burst=0s")
    commands = [a for i in range(100) for a in ("-c", f"aio_write -q -P 5 {i * 4}k 4k")]
    client = subprocess.Popen(["qemu-io", "--image-opts", "driver=nbd,server.type=unix,server.path=l.sock", *commands],
                              stderr=subprocess.DEVNULL)
    wait_for(lambda: json.loads(vdisk("top", "p.vdk", "--json", "--count", "1", "--interval", "0.1"))
             ["pools"][0]["volumes"][0]["in_flight"] > 10 or client.poll() is not None)
    start = time.monotonic()
    check(server.end() == 0, f"an end does not wait for a limit ({time.monotonic() - start:.1f} s)")
    client.wait(HANG)
    vdisk("volume", "set", "p.vdk", "limit.iops=", "limit.burst=")


def killed(rounds=6, writes=40):
    """Killed in the middle of writes; the client reconnects, and what it was told is done is there."""
    server = Server("p.vdk", "--nbd", "unix:k.sock")
    client = Client("k.sock", reconnect=int(HANG))
    written = 0
    for _ in range(rounds):
        for i in range(writes):
            client.tell(f"write -P {written % 251 + 1} {written * 64}k 64k")
            if i == writes // 2:
                server.end(signal.SIGKILL)
                server = Server("p.vdk", "--nbd", "unix:k.sock")
            line = client.answer("wrote")
            if "wrote 65536/65536" not in line:
                check(False, f"write {written} goes on after kill -9: {line!r}")
                client.end()
                server.end()
                return
            written += 1
    bad = []
    for i in range(written):
        client.tell(f"read -P {i % 251 + 1} {i * 64}k 64k")
        line = client.answer("65536/65536")
        if "65536/65536" not in line:
            bad.append(line)
    check(not bad, f"{written} writes through {rounds} kills are there, for the same client: {bad[:1]}")
    client.end()
    server.end()
    check(subprocess.run([VDISK, "check", "p.vdk", "--data"], capture_output=True).returncode == 0, "the pool is sound")


def main():
    with tempfile.TemporaryDirectory() as where:
        os.chdir(where)
        os.environ.update(VDISK_RUNTIME_DIR=os.path.join(where, "run"), VDISK_CONFIG_DIR=os.path.join(where, "config"))
        vdisk("create", "p.vdk", "--size", "64M")
        for part in (metrics, terminal, systemd, units, journal, limited_end, killed):
            part()
        os.chdir("/")
    sys.exit(1 if FAILED else 0)


main()
