# SPDX-License-Identifier: MIT
"""What the measurements share: the servers side by side, rounds in turn, results beside limits."""
import time

from . import host
from .fio import Fio
from .host import BenchError, Skipped
from .servers import Qcow2, Raw, Vdisk, Xfs
from .table import ROWS

MiB = 1 << 20


class Bench:
    def __init__(self, place, args):
        self.place, self.args = place, args
        self.fio = Fio(place)
        self.results = []    # one for each measure, in the order measured
        self.commands = {}   # server: command lines
        self.notes = []
        self.peaks = {}      # server: bytes
        self.verified = []
        self.skipped = {}    # server or row: why
        self.failed = []     # lines
        self.tables = []     # (title, lines) besides the rows
        self.scale = {}
        self.begun = time.monotonic()

    def say(self, text):
        print(f"# {time.monotonic() - self.begun:7.1f} s  {text}", flush=True)

    def note(self, text):
        self.notes.append(text)
        self.say(text)

    def attempt(self, group, wanted):
        """One that fails costs its own rows only."""
        try:
            with self.place.scope():
                group(self, wanted)
        except BenchError as e:
            self.failed.append(f"{' '.join(wanted)}: {e}")
            self.say(f"FAILED: {self.failed[-1]}")

    # --- servers ---

    def vdisk(self, tag, size, capacity=None):
        return Vdisk(self.place, tag, size, self.args.vdisk, capacity)

    def four(self, tag, size, capacity=None, room=0):
        """All that can run here, not yet created."""
        servers = []
        for make in (lambda: Raw(self.place, tag, size),
                     lambda: Qcow2(self.place, tag, size),
                     lambda: Xfs(self.place, tag, size, room),
                     lambda: self.vdisk(tag, size, capacity)):
            try:
                servers.append(make())
            except Skipped as e:
                self.skip("xfs", e)
        return servers

    def skip(self, what, why):
        if what not in self.skipped:
            self.skipped[what] = str(why)
            self.say(f"{what} skipped: {why}")

    def open(self, servers, fill=True):
        """Created, started and, the same way for all, filled from one end to the other; returns
        those that could be."""
        opened = []
        for s in servers:
            try:
                s.create()
            except Skipped as e:
                self.skip(s.name, e)
                continue
            s.start()
            opened.append(s)
            if fill or s.name == "raw":
                self.drive(s, "write", "1M", 8, end_fsync=1)
        return opened

    def drive(self, server, rw, bs, depth, target=None, **options):
        result = self.fio.run(target or server.target(), rw, bs, depth, **options)
        server.client_read += result.read
        server.client_written += result.written
        return result

    def quiet(self, servers, longest=20.0):
        return host.quiet([p for s in servers for p in s.processes()], longest)

    def close(self, servers):
        """A pass of fio's own verification, then each image's checker; command lines, memory and
        device bytes are noted, and the images are gone."""
        for s in servers:
            size = min(64 * MiB, s.size)
            self.drive(s, "randwrite", "4k", 32, target={**s.target(), "size": size},
                       norandommap=None, verify="crc32c", do_verify=1, verify_fatal=1, end_fsync=1)
            self.check(s)

    def check(self, s):
        """Stops one server and has its image looked at; the image is gone afterwards."""
        self.account(s)
        s.stop()
        said = s.verify()
        self.verified.append(f"{s.id}: {said or 'fio verify: no error'}")
        s.remove()

    def account(self, s):
        now = s.counters()
        client = s.client_read, s.client_written
        if s.name == "raw":
            now["read"], now["written"] = client
        peak = self.peaks.setdefault(s.name, {"peak": 0, "cgroup_peak": None})
        for key in peak:
            peak[key] = max(filter(None, (peak[key], now[key])), default=peak[key])
        known = self.commands.setdefault(s.name, [])
        for command in s.commands:
            if self.shape(s, command) not in known:
                known.append(self.shape(s, command))
        parts = [f"{way} {host.show_bytes(done)}" + (f" for {host.show_bytes(asked)} "
                                                     f"({done / asked:.2f})" if asked else "")
                 for way, done, asked in (("read", now["read"], client[0]),
                                          ("wrote", now["written"], client[1])) if done or asked]
        memory = f", peak memory {host.show_bytes(now['peak'])}" if now["peak"] else ""
        if now["cgroup_peak"]:
            memory += f", with page cache {host.show_bytes(now['cgroup_peak'])}"
        self.note(f"{s.id}: device {'; '.join(parts)}{memory}")

    def shape(self, s, command):
        """A command line without what differs between runs."""
        line = " ".join(command)
        for old, new in ((s.door, "SOCKET"), (self.place.sockets, "RUN"), (self.place.path, "DIR"),
                         (f"-{s.tag}", "")):
            line = line.replace(old, new)
        return line

    # --- measuring ---

    def rounds(self, servers, run, prepare=None):
        """{name: [a value per round]}: in each round every server once, in an order that moves on;
        prepare() happens before the others are waited for. One that cannot is left out."""
        values = {s.name: [] for s in servers}
        for number in range(self.args.rounds):
            turn = number % len(servers)
            for s in servers[turn:] + servers[:turn]:
                if values[s.name] is None:
                    continue
                try:
                    if prepare:
                        prepare(s, number)
                    self.quiet(servers)
                    values[s.name].append(run(s))
                except Skipped as e:
                    self.skip(s.name, e)
                    values[s.name] = None
        return {name: v for name, v in values.items() if v}

    def speed(self, row, measure, servers, rw, bs="4k", depth=32, prepare=None, files=None,
              lead=0, **options):
        """Rounds of a timed fio run on each; `files` are the options for those that fio reaches as
        files, instead of `options`; `lead` bytes go before it and do not count."""
        def run(s):
            mine = options if s.nbd or files is None else files
            if lead:
                self.drive(s, rw, bs, depth, io_size=lead, **mine)
            return self.drive(s, rw, bs, depth, time_based=1, runtime=self.args.seconds, **mine)
        done = self.rounds(servers, run, prepare)
        mib = ROWS[row].measures[measure].unit == "MiB/s"
        rounds = {name: [r.bandwidth / MiB if mib else r.iops for r in runs]
                  for name, runs in done.items()}
        self.report(row, measure, rounds, {name: [r.as_json() for r in runs]
                                           for name, runs in done.items()})

    def report(self, row, measure, rounds, detail=None, values=None):
        """Notes and prints a measure: medians of `rounds`, and whether vdisk's is good enough.
        `values` are not medians but given."""
        m = ROWS[row].measures[measure]
        values = dict(values or {}, **{k: host.median(v) for k, v in rounds.items()})
        entry = {"row": row, "measure": m.name, "unit": m.unit, "values": values,
                 "rounds": rounds, "detail": detail}
        known = {r["row"]: r["values"].get("vdisk") for r in self.results}
        for name in ("must", "aim"):
            want = getattr(m, name)
            if want is None:
                continue
            limit = want.limit(values, known)
            met = None if limit is None or "vdisk" not in values else \
                want.met(values["vdisk"], limit)
            entry[name] = {"text": want.text(), "limit": limit, "met": met}
        self.results.append(entry)
        shown = "  ".join(f"{k} {show(v)}" for k, v in values.items())
        self.say(f"{row} {m.name}: {shown} {m.unit}; {self.verdict(entry)}")

    def unmeasured(self, row, measure, why):
        m = ROWS[row].measures[measure]
        self.results.append({"row": row, "measure": m.name, "unit": m.unit, "values": {},
                             "skipped": str(why)})
        self.say(f"{row} {m.name}: skipped: {why}")

    @staticmethod
    def verdict(entry):
        words = {True: "met", False: "NOT MET", None: "cannot be told"}
        return ", ".join(f"{name} {entry[key]['text']} {words[entry[key]['met']]}" for name, key in
                         (("must reach", "must"), ("aim", "aim")) if key in entry)


def show(value):
    """Three or four digits, with thousands set apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
