# SPDX-License-Identifier: MIT
"""Runs fio, and reads what it found."""
import json
import os
import signal
import subprocess

from .host import HANG, BenchError, find_program, in_own_group


class Fio:
    """`place` has the scratch directory; seeds follow from one, so that all servers get the same."""

    def __init__(self, place):
        self.place = place
        self.program = find_program("fio", "fio")
        self.count = 0

    def command(self, target, rw, bs, depth, out, **options):
        args = {"name": "bench", "rw": rw, "bs": bs, "iodepth": depth, "thread": 1, "randrepeat": 0,
                "refill_buffers": 1, "norandommap": 1, "random_generator": "tausworthe64",
                "output-format": "json", "output": out, **target, **options}
        return [self.program] + [f"--{k}={v}" for k, v in args.items() if v is not None]

    def start(self, target, rw, bs, depth, **options):
        """Runs in the background; give what it returns to finish() or cancel()."""
        self.count += 1
        out = os.path.join(self.place.path, f"fio-{self.count}.json")
        command = self.command(target, rw, bs, depth, out, **options)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, cwd=self.place.path, env=self.place.env,
                                   preexec_fn=in_own_group)
        self.place.stack.callback(self.cancel, process)
        return process, out, command

    def end(self, started):
        """Asks one that runs to end; what it did so far."""
        if started[0].poll() is None:
            started[0].send_signal(signal.SIGINT)
        return self.finish(started, (0, 128))

    def finish(self, started, good=(0,)):
        process, out, command = started
        try:
            said, _ = process.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            self.cancel(process)
            raise BenchError(f"fio does not end: {' '.join(command)}") from None
        try:
            with open(out, encoding="utf-8", errors="replace") as f:
                text = f.read()
            # The nbd engine greets on the same channel.
            job = json.loads(text[text.index("{"):])["jobs"][0]
            os.unlink(out)
        except (OSError, ValueError, KeyError, IndexError):
            job = {"error": "no result"}
        if process.returncode not in good or job["error"] != 0:
            lines = [line for line in (said or "").splitlines() if line.strip()]
            why = lines[-1] if lines else f"error {job['error']}"
            raise BenchError(f"fio failed with {process.returncode}: {why} ({' '.join(command)})")
        return Result(job)

    def run(self, target, rw, bs, depth, **options):
        return self.finish(self.start(target, rw, bs, depth, **options))

    @staticmethod
    def cancel(process):
        if process.poll() is None:
            process.kill()
            process.wait()


class Result:
    """Reads and writes of one run together."""

    def __init__(self, job):
        both = [job["read"], job["write"]]
        self.read, self.written = (d["io_bytes"] for d in both)
        self.iops = sum(d["iops"] for d in both)
        self.bandwidth = sum(d["bw_bytes"] for d in both)
        busiest = max(both, key=lambda d: d["io_bytes"])
        latency = busiest["clat_ns"]
        self.p50, self.p999 = (latency.get("percentile", {}).get(p, 0) / 1e3
                               for p in ("50.000000", "99.900000"))
        self.worst = latency["max"] / 1e3

    def as_json(self):
        return {"iops": round(self.iops, 1), "bytes_per_second": self.bandwidth,
                "latency_us": {"p50": self.p50, "p99.9": self.p999, "max": self.worst}}
