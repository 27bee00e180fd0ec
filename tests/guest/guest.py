# SPDX-License-Identifier: MIT
"""A Linux guest under QEMU for tests: boots the disk that tools/make-guest makes, runs commands in it.

    with Guest(nbd="/run/x.sock", workdir=d) as guest:
        guest.boot()
        guest.run("echo hello > /file; sync")
        guest.power_off()

Time limits here only keep a hung guest from hanging the tests for ever; nothing passes or fails by
being fast. Commands go through the agent of tests/guest/image/agent.
"""
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
HANG = float(os.environ.get("VDISK_TEST_HANG", "600"))  # seconds until a silent guest is given up


class GuestError(Exception):
    pass


def skip(why):
    """Ends a test program in the way that meson and tools/check call skipped."""
    print(f"skipped: {why}", flush=True)
    sys.exit(77)


def make_disk(path=None):
    """The kept image's path, or `path` after a sparse copy was written there. Skips the test where
    the disk cannot be made."""
    if not shutil.which("qemu-system-x86_64"):
        skip("there is no qemu-system-x86_64 (tools/deps --install guest)")
    out = subprocess.run([os.path.join(ROOT, "tools", "make-guest")] + ([path] if path else []),
                         stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    last = out.stdout.strip().split("\n")[-1]
    if out.returncode == 77:
        skip(last.removeprefix("skipped: "))
    if out.returncode != 0:
        raise GuestError("tools/make-guest failed")
    return last


class Channel:
    """Lines and counted bytes over a socket, with a limit on silence."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""

    def _more(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise GuestError("the guest has been silent for too long")
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(65536)
        except socket.timeout:
            raise GuestError("the guest has been silent for too long") from None
        except ConnectionError:
            data = b""
        if not data:
            raise GuestError("QEMU has gone")
        self.buffer += data

    def line(self, deadline):
        while b"\n" not in self.buffer:
            self._more(deadline)
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode("utf-8", "replace")

    def exactly(self, n, deadline):
        while len(self.buffer) < n:
            self._more(deadline)
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def send(self, data, deadline):
        self.sock.settimeout(max(1.0, deadline - time.monotonic()))
        self.sock.sendall(data)

    def close(self):
        self.sock.close()


def disk_options(raw=None, nbd=None, export="", reconnect=120):
    """QEMU's -blockdev arguments for the node `disk`."""
    if raw:
        return ["-blockdev", json.dumps({
            "driver": "raw", "node-name": "disk", "discard": "unmap",
            "file": {"driver": "file", "filename": raw, "discard": "unmap",
                     "cache": {"direct": True}}})]
    return ["-blockdev", json.dumps({
        "driver": "nbd", "node-name": "disk", "export": export, "discard": "unmap",
        "reconnect-delay": reconnect, "cache": {"direct": True},
        "server": {"type": "unix", "path": nbd}})]


def kernel_options(image, workdir):
    """QEMU's arguments that start the image's kernel without BIOS and boot loader."""
    if not shutil.which("mcopy"):
        skip("there is no mcopy (tools/deps --install guest)")
    kernel, initrd = (os.path.join(workdir, name) for name in ("vmlinuz", "initrd.img"))
    subprocess.run(["mcopy", "-n", "-i", f"{image}@@1M", "::vmlinuz", "::initrd.img", workdir],
                   check=True, stdin=subprocess.DEVNULL)
    return ["-kernel", kernel, "-initrd", initrd, "-append",
            "root=/dev/vda2 console=ttyS0 quiet panic=-1 mitigations=off"]


class Guest:
    def __init__(self, workdir, raw=None, nbd=None, export="", reconnect=120, name="guest",
                 disk=None, device=None, kernel=None):
        """The disk is a raw file, an export behind an NBD unix socket, or QEMU arguments that
        define the block node `disk`; or, with `device`, whatever that device needs. `kernel`
        is what kernel_options gave, for disks that cannot be booted from."""
        self.name = name
        self.workdir = workdir
        self.disk = disk or disk_options(raw, nbd, export, reconnect)
        self.device = device or "virtio-blk-pci,drive=disk,serial=disk,bootindex=0"
        self.kernel = kernel or []
        self.console = os.path.join(workdir, f"{name}.console")
        self.process = self.channel = self.monitor = None
        self.jobs = 0

    # Life cycle.

    def start(self):
        """Starts QEMU and returns; the guest is still booting."""
        listeners = []
        for kind in ("control", "monitor"):
            path = os.path.join(self.workdir, f"{self.name}.{kind}")
            if os.path.exists(path):
                os.unlink(path)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(HANG)
            listeners.append((listener, path))
        errors = open(os.path.join(self.workdir, f"{self.name}.stderr"), "ab")
        # Guests run under TCG here: KVM is not to be had everywhere, and this boots in seconds.
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-name", self.name, "-machine", "q35",
             "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "262152K",
             "-nodefaults", "-display", "none", "-no-reboot", *self.disk,
             "-device", self.device, *self.kernel,
             "-chardev", f"file,id=console,path={self.console},append=on",
             "-serial", "chardev:console",
             "-device", "virtio-serial-pci",
             "-chardev", f"socket,id=control,path={listeners[0][1]},server=off",
             "-device", "virtserialport,chardev=control,name=vdisk.control",
             "-chardev", f"socket,id=monitor,path={listeners[1][1]},server=off",
             "-mon", "chardev=monitor,mode=control"],
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        errors.close()
        channels = []
        for listener, path in listeners:
            channels.append(Channel(self._accept(listener)))
            listener.close()
            os.unlink(path)
        self.channel, self.monitor = channels
        self.monitor.line(time.monotonic() + HANG)  # the greeting
        self.qmp("qmp_capabilities")

    def _accept(self, listener):
        listener.settimeout(0.2)
        deadline = time.monotonic() + HANG
        while time.monotonic() < deadline:
            try:
                return listener.accept()[0]
            except socket.timeout:
                if self.process.poll() is not None:
                    break
        raise GuestError(f"QEMU does not start: {self.tail('stderr')}")

    def wait_ready(self):
        deadline = time.monotonic() + HANG
        try:
            while self.channel.line(deadline) != "hello":
                pass
        except GuestError as error:
            raise GuestError(f"{error}; its console: {self.tail()}") from None

    def boot(self):
        self.start()
        self.wait_ready()

    def power_off(self):
        """A clean shutdown: file systems are unmounted, then QEMU ends."""
        self._post("$b poweroff || $b poweroff -f")
        self._wait()

    def pull_plug(self):
        """QEMU dies at once, as in a power cut: nothing in the guest is written back."""
        if self.process:
            if self.process.poll() is None:
                self.process.kill()
            self._wait()

    def _wait(self):
        try:
            self.process.wait(HANG)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise GuestError(f"the guest does not power off: {self.tail()}") from None
        finally:
            self.channel.close()
            self.monitor.close()
            self.process = None

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.pull_plug()

    # Commands.

    def _post(self, script):
        self.jobs += 1
        text = base64.b64encode(script.encode()).decode()
        self.channel.send(f"{self.jobs} {text}\n".encode(), time.monotonic() + HANG)
        return self.jobs

    def post(self, script):
        """Sends a script and does not wait; collect() fetches its result. One at a time."""
        self._post(script)

    def collect(self):
        """(exit status, output) of the script sent last."""
        deadline = time.monotonic() + HANG
        while True:
            words = self.channel.line(deadline).split()
            if len(words) == 4 and words[0] == "done":
                break
        output = self.channel.exactly(int(words[3]), deadline).decode("utf-8", "replace")
        if words[1] != str(self.jobs):
            raise GuestError(f"an answer to job {words[1]}, not {self.jobs}")
        return int(words[2]), output

    def run(self, script, check=True):
        """Runs a bash script in the guest; returns its output (stdout and stderr), or with
        check=False (status, output)."""
        self._post(script)
        status, output = self.collect()
        if not check:
            return status, output
        if status != 0:
            raise GuestError(f"in the guest: {script!r} ended with {status}: {output}")
        return output

    def qmp(self, command, **arguments):
        deadline = time.monotonic() + HANG
        request = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self.monitor.send(json.dumps(request).encode() + b"\n", deadline)
        while True:
            answer = json.loads(self.monitor.line(deadline))
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise GuestError(f"{command}: {answer['error']['desc']}")

    def tail(self, kind="console", lines=12):
        """The end of the console or of QEMU's messages, for people."""
        path = os.path.join(self.workdir, f"{self.name}.{kind}")
        try:
            with open(path, encoding="utf-8", errors="replace") as f:
                return "\n".join(f.read().splitlines()[-lines:])
        except FileNotFoundError:
            return "(nothing)"
