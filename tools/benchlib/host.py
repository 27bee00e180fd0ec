# SPDX-License-Identifier: MIT
"""What tools/bench asks of the machine: programs run and servers kept, everything undone at the end
(also after Ctrl-C), memory and device bytes counted."""
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

CGROUP2 = "/sys/fs/cgroup"
CGROUP1 = "/sys/fs/cgroup/memory"
HANG = float(os.environ.get("VDISK_TEST_HANG", "900"))
PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class BenchError(Exception):
    """One line for a person."""


class Skipped(Exception):
    """Why something cannot be measured here."""


def size_arg(text):
    unit = {"K": 10, "M": 20, "G": 30, "T": 40, "P": 50}.get(text[-1:].upper())
    try:
        return int(text[:-1]) << unit if unit else int(text)
    except ValueError:
        raise BenchError(f"\"{text}\" is no size: a number of bytes, or with K, M, G, T") from None


def show_bytes(n):
    for unit, name in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if n >= 1 << unit:
            return f"{n / (1 << unit):.4g} {name}"
    return f"{n:.0f} B"


def find_program(name, package):
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not found:
        raise BenchError(f"{name} is missing: \"tools/deps --install bench\" installs {package}")
    return found


def in_own_group():
    """Between fork and exec: Ctrl-C is for us to handle, and nothing outlives us."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(command, what=None, env=None, ok=(0,)):
    """The output of a program that has to succeed."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env=env, preexec_fn=in_own_group, timeout=HANG)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what or command[0]} does not end: {' '.join(command)}") from None
    if done.returncode not in ok:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise BenchError(f"{what or command[0]} failed with {done.returncode}: "
                         f"{said[-1] if said else 'it says nothing'} ({' '.join(command)})")
    return done.stdout


class Cgroup:
    """A memory group of its own for one server, where the machine lets us have one: its peak counts
    the page cache that the server causes too."""

    def __init__(self, name):
        self.path = self.peak_file = None
        try:
            with open(f"{CGROUP2}/cgroup.controllers", encoding="ascii") as f:
                two = "memory" in f.read().split()
        except OSError:
            two = False
        for root, peak, there in ((CGROUP2, "memory.peak", two),
                                  (CGROUP1, "memory.max_usage_in_bytes", os.path.isdir(CGROUP1))):
            if not there:
                continue
            path = f"{root}/vdisk-bench-{os.getpid()}-{name}"
            try:
                os.mkdir(path)
            except OSError:
                continue
            if os.path.exists(f"{path}/{peak}"):
                self.path, self.peak_file = path, f"{path}/{peak}"
                return
            os.rmdir(path)

    def take(self, pid):
        if self.path:
            with open(f"{self.path}/cgroup.procs", "w", encoding="ascii") as f:
                f.write(str(pid))

    def peak(self):
        if not self.path:
            return None
        with open(self.peak_file, encoding="ascii") as f:
            return int(f.read())

    def close(self):
        if self.path:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)


def proc_fields(pid, name):
    with open(f"/proc/{pid}/{name}", encoding="ascii", errors="replace") as f:
        return dict(line.split(":", 1) for line in f.read().splitlines() if ":" in line)


class Process:
    """A server: started, measured, ended. What it read, wrote and took is known after its end."""

    def __init__(self, name, command, workdir, env=None):
        self.command, self.name, self.workdir, self.env = command, name, workdir, env
        self.log = os.path.join(workdir, f"{name}.log")
        self.process = self.cgroup = None
        self.last = {"peak": 0, "read": 0, "written": 0, "cgroup_peak": None}

    def start(self):
        """Apart from making it: whoever has to end it must know it by then. An interruption waits
        until there is a process to end."""
        def ready():
            in_own_group()
            self.cgroup.take(os.getpid())

        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.cgroup = Cgroup(self.name)
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(
                    self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
                    cwd=self.workdir, preexec_fn=ready)
            self.pid = self.process.pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return " / ".join(f.read().splitlines()[-3:])

    def counters(self):
        """Peak memory, and bytes read from and written to devices since the start."""
        if self.alive():
            try:
                io = proc_fields(self.pid, "io")
                self.last = {"peak": int(proc_fields(self.pid, "status")["VmHWM"].split()[0]) << 10,
                             "read": int(io["read_bytes"]), "written": int(io["write_bytes"]),
                             "cgroup_peak": self.cgroup.peak()}
            except (OSError, KeyError):
                pass
        return dict(self.last)

    def ticks(self):
        """Processor time so far, in clock ticks."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])
        except (OSError, IndexError):
            return 0

    def wait_ready(self, test):
        deadline = time.monotonic() + HANG
        while not test():
            if not self.alive():
                raise BenchError(f"{self.name} ended with {self.process.returncode}: {self.tail()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} does not answer: {self.tail()}")
            time.sleep(0.002)

    def stop(self):
        """A clean end."""
        self.counters()
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(HANG)
            except subprocess.TimeoutExpired:
                self.kill()
                raise BenchError(f"{self.name} does not end: {self.tail()}") from None
        self.cgroup.close()
        if self.process.returncode not in (0, -signal.SIGTERM):
            raise BenchError(f"{self.name} ended with {self.process.returncode}: {self.tail()}")

    def kill(self):
        self.counters()
        if self.alive():
            self.process.kill()
            self.process.wait()
        if self.cgroup:
            self.cgroup.close()


def greets(path):
    """True when an NBD server greets a client at the unix socket `path`."""
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(HANG)
            s.connect(path)
            return s.recv(8) == b"NBDMAGIC"
    except OSError:
        return False


def quiet(processes, longest=20.0):
    """Waits until servers have finished what they do in the background, so that nobody is measured
    beside another's leftovers: under two per cent of a processor for three tenths of a second."""
    deadline = time.monotonic() + longest
    per_second = os.sysconf("SC_CLK_TCK")
    while time.monotonic() < deadline:
        before = sum(p.ticks() for p in processes)
        time.sleep(0.3)
        if sum(p.ticks() for p in processes) - before <= 0.02 * 0.3 * per_second:
            return True
    return False


@contextlib.contextmanager
def deaf():
    """Nobody is in so much of a hurry that things may be left behind."""
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class Place:
    """The work directory and all that has to be undone; a context manager."""

    def __init__(self, directory, limit):
        self.stack = contextlib.ExitStack()
        self.parent, self.limit = directory, limit

    def __enter__(self):
        for number in SIGNALS:
            signal.signal(number, interrupted)
        try:
            self.path = tempfile.mkdtemp(prefix="vdisk-bench.", dir=self.parent)
        except OSError as e:
            raise BenchError(f"no work directory in {self.parent}: {e.strerror}; --dir names "
                             "another place") from None
        self.stack.callback(shutil.rmtree, self.path, ignore_errors=True)
        # Paths of sockets have room for 107 bytes.
        self.sockets = tempfile.mkdtemp(prefix="vdb.", dir="/tmp")
        self.stack.callback(shutil.rmtree, self.sockets, ignore_errors=True)
        for name in ("run", "config"):
            os.mkdir(os.path.join(self.sockets, name), mode=0o700)
        self.env = dict(os.environ, VDISK_RUNTIME_DIR=os.path.join(self.sockets, "run"),
                        VDISK_CONFIG_DIR=os.path.join(self.sockets, "config"))
        return self

    def __exit__(self, *_):
        with deaf():
            self.stack.close()

    @contextlib.contextmanager
    def scope(self):
        """What is begun inside is undone at its end."""
        outer, self.stack = self.stack, contextlib.ExitStack()
        try:
            yield
        finally:
            inner, self.stack = self.stack, outer
            with deaf():
                inner.close()

    def need(self, size, what):
        """Says beforehand when `size` bytes are more than may be taken, or than there are."""
        if size > self.limit:
            raise Skipped(f"{what} needs {show_bytes(size)}, --space allows {show_bytes(self.limit)}")
        free = shutil.disk_usage(self.path).free
        if size > free:
            raise Skipped(f"{what} needs {show_bytes(size)}, {self.parent} has {show_bytes(free)}")


def interrupted(*_):
    raise KeyboardInterrupt


def allocated(path):
    return os.stat(path).st_blocks * 512


def median(values):
    values = sorted(values)
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2
