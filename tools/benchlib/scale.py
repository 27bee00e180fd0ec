# SPDX-License-Identifier: MIT
"""tools/bench scale: time and memory of what people do, against the size of a volume, the number of
volumes, of snapshots and of clones. Each course builds a pool up in steps and at each step does the
same things; what grows faster than it must is marked."""
import math
import random
import time

from . import host
from .control import BLOCK, Nbd
from .host import BenchError, show_bytes, size_arg
from .state import timed

FULL = {"volumes": 10_000, "snapshots": 100_000, "clones": 1000, "sizes": "1G,1T,64T"}
QUICK = {"volumes": 1000, "snapshots": 5000, "clones": 200, "sizes": "1G,1T,64T"}
# Below these a difference says nothing.
FLOOR = {"ms": 1.0, "MiB": 16.0}
BESIDE = 0.3  # how much steeper than it must an exponent may be: constant parts and noise
REPEAT = 7
TOUCHED = 1000
MiB = 1 << 20


def options(parser):
    g = parser.add_argument_group("scale")
    for name in ("volumes", "snapshots", "clones"):
        g.add_argument(f"--{name}", type=int, metavar="N",
                       help=f"in a pool ({FULL[name]}, quick {QUICK[name]})")
    g.add_argument("--sizes", metavar="N,N", help=f"of a volume ({FULL['sizes']})")
    g.add_argument("--budget", type=int, metavar="SECONDS",
                   help="for building up each of them (900, quick 60); it stops there")


class Course:
    """One table: `steps` along one dimension, and for each operation a figure per step."""

    def __init__(self, bench, title, steps, budget):
        self.bench, self.title, self.steps = bench, title, steps
        self.deadline = time.monotonic() + budget
        self.figures, self.unit, self.must = {}, {}, {}
        self.done, self.stopped = [], None

    def put(self, what, value, unit="ms", must=0):
        """`must`: the exponent with which it may grow: 0 constant, 1 with the number."""
        self.figures.setdefault(what, []).append(value)
        self.unit[what], self.must[what] = unit, must

    def at_last(self, what, value, unit="ms"):
        """Known for the last step only."""
        self.figures[what] = [None] * (len(self.done) - 1) + [value]
        self.unit[what], self.must[what] = unit, 1

    def time(self, what, calls, must=0):
        """The median of several."""
        self.put(what, host.median([timed(call) for call in calls]), "ms", must)

    def late(self, at):
        if time.monotonic() > self.deadline:
            self.stopped = f"stopped at {at}: --budget is used up"
        return self.stopped is not None

    def exponent(self, what):
        """Of the last step; None where there is nothing to tell from."""
        values = self.figures[what]
        if len(values) < 2 or None in values[-2:]:
            return None
        floor = FLOOR[self.unit[what]]
        a, b = (max(v, floor) for v in values[-2:])
        n, m = self.done[len(values) - 2:len(values)]
        if m <= n:
            return None
        return math.log(b / a) / math.log(m / n)

    def judge(self, what):
        e, must = self.exponent(what), self.must[what]
        if e is None:
            return "", False
        steep = e > must + BESIDE
        word = {0: "constant", 1: "linear"}[must]
        return (f"n^{e:.2f}, must be {word}" if steep else word), steep

    def lines(self, name):
        shown = [name(n) for n in self.done]
        yield "| | unit | " + " | ".join(shown) + " | growth |"
        yield "|---|---|" + "---|" * (len(shown) + 1)
        for what, values in self.figures.items():
            said, steep = self.judge(what)
            cells = ["" if v is None else f"{v:.3g}" for v in values] + [""] * (len(shown) - len(values))
            yield f"| {what} | {self.unit[what]} | " + " | ".join(cells) + \
                f" | {'**' + said + '**' if steep else said} |"
        if self.stopped:
            yield ""
            yield f"**{self.stopped}**"

    def finish(self, name=str):
        table = list(self.lines(name))
        self.bench.tables.append((self.title, table))
        self.bench.scale[self.title] = {"steps": self.done, "figures": self.figures,
                                        "units": self.unit, "stopped": self.stopped,
                                        "steep": [w for w in self.figures if self.judge(w)[1]]}
        print("\n".join(["", self.title, *table, ""]), flush=True)


class Pool:
    """A server and what every course asks of it."""

    def __init__(self, bench, tag, size):
        self.server = bench.vdisk(tag, size)
        self.server.create()
        self.server.start()
        self.rng = random.Random(tag)

    def call(self, command, **args):
        return self.server.control.call(command, **args)

    def write(self, volume, count, version, size):
        lbas = self.rng.sample(range(size // BLOCK), count)
        with Nbd(self.server.door, volume) as nbd:
            nbd.writes(lbas, version)
            nbd.flush()
        self.server.client_written += count * BLOCK

    def common(self, course, growing):
        """Looked at, closed and opened; `growing`: the exponent of what shows everything."""
        s = self.server
        course.time("describe, request", [lambda: self.call("describe")] * 3, growing)
        course.time("ls, command", [lambda: s.command("ls", s.pool, "--json")] * 3, growing)
        course.time("tree, command", [lambda: s.command("tree", s.pool, "--json")] * 3, growing)
        course.put("memory of the server, so far", s.counters()["peak"] / MiB, "MiB", growing)
        course.put("close", timed(s.stop), "ms", growing)
        course.put("open", timed(s.start), "ms", growing)
        course.put("memory after opening", s.counters()["peak"] / MiB, "MiB", growing)
        s.kill()
        course.put("open after kill -9", timed(s.start), "ms", growing)
        course.put("file", host.allocated(s.pool) / MiB, "MiB", growing)

    def settle(self, bench, course, longest):
        """How long the server is busy after everything was deleted; quiet() needs 0.3 s to see."""
        begun = time.monotonic()
        quiet = bench.quiet([self.server], longest)
        course.at_last("background work after it" + ("" if quiet else ", not finished"),
                        (time.monotonic() - begun - 0.3) * 1e3)

    def close(self, bench, course):
        s = self.server
        bench.account(s)
        s.stop()
        course.at_last("check, command", timed(lambda: s.command("check", s.pool)))
        bench.verified.append(f"{s.id}: {s.verify()}")
        s.remove()


def target(volume, snapshot=None):
    return {"volume": volume, **({"snapshot": snapshot} if snapshot else {})}


def sizes(bench):
    """The same work on volumes of any size must take the same time."""
    steps = [size_arg(word) for word in bench.args.sizes.split(",")]
    course = Course(bench, f"One volume, {TOUCHED} blocks written, by its size", steps, 1 << 30)
    for number, size in enumerate(steps):
        server = bench.vdisk(f"size{number}", size)
        course.put("create, command", timed(server.create))
        server.remove()
        p = Pool(bench, f"size{number}", size)
        for version in (1, 2):
            course.put(f"write {TOUCHED} blocks, pass {version}",
                       timed(lambda v=version: p.write("disk", TOUCHED, v, size)))
            p.call("snapshot-create", targets=[target("disk", f"s{version}")])
        at = {"from": target("disk", "s1"), "to": target("disk", "s2"), "list": True}
        course.time("diff, request", [lambda: p.call("diff", **at)] * REPEAT)
        course.time("snapshot, request", [
            lambda i=i: p.call("snapshot-create", targets=[target("disk", f"t{i}")])
            for i in range(REPEAT)])
        course.time("clone, request", [
            lambda i=i: p.call("clone", **target("disk", "s1"), to=f"c{i}")
            for i in range(REPEAT)])
        course.time("du, command", [lambda: p.server.command("du", p.server.pool)] * 3)
        p.common(course, 0)
        course.put("discard everything, NBD, in pieces of 4 GiB", timed(lambda: discard(p, size)),
                   "ms", 1)
        course.put("delete the volume and its snapshots", timed(
            lambda: p.call("volume-delete", volume="disk", recursive=True)))
        course.done.append(size)
        p.settle(bench, course, 60)
        p.close(bench, course)
    course.finish(show_bytes)


def discard(pool, size):
    """A client discards a volume in the largest pieces that NBD allows."""
    piece = (1 << 32) - (1 << 20)
    with Nbd(pool.server.door, "disk") as nbd:
        for off in range(0, size, piece):
            nbd.one(Nbd.TRIM, off, min(piece, size - off))


def steps_to(n):
    """Three, each ten times the one before; less for small numbers."""
    return sorted({max(2, n // 100), max(2, n // 10), n})


def volumes(bench):
    course = Course(bench, "Volumes in a pool, each with a block and a snapshot, by their number",
                    steps_to(bench.args.volumes), bench.args.budget)
    p = Pool(bench, "volumes", 1 << 30)
    count = 0
    for step in course.steps:
        while count < step and not course.late(count):
            p.call("volume-create", volume=f"v{count}", size=1 << 30)
            with Nbd(p.server.door, f"v{count}") as nbd:
                nbd.writes([count], 1)
            p.call("snapshot-create", targets=[target(f"v{count}", "s")])
            count += 1
        course.time("create, request", [
            lambda i=i: p.call("volume-create", volume=f"x{i}", size=1 << 30)
            for i in range(REPEAT)])
        course.time("connect a client", [
            lambda: Nbd(p.server.door, f"v{count // 2}").close()] * REPEAT)
        course.time("describe one, request", [
            lambda: p.call("describe", volume=f"v{count // 2}")] * REPEAT)
        course.time("rename, request", [
            lambda i=i: p.call("volume-rename", volume=f"x{i}", to=f"y{i}")
            for i in range(REPEAT)])
        course.time("delete, request", [
            lambda i=i: p.call("volume-delete", volume=f"y{i}") for i in range(REPEAT)])
        together = [target(f"v{i}", "all") for i in range(min(100, count))]
        course.put("snapshot of (up to) 100 at once, request", timed(
            lambda: p.call("snapshot-create", targets=together)))
        p.call("snapshot-delete", targets=together)
        p.common(course, 1)
        course.done.append(count)
        if course.stopped:
            break
    p.close(bench, course)
    course.finish()


def snapshots(bench):
    course = Course(bench, "Snapshots of a volume, a block written between them, by their number",
                    steps_to(bench.args.snapshots), bench.args.budget)
    size, count = 1 << 30, 0
    p = Pool(bench, "snapshots", size)
    p.write("disk", TOUCHED, 1, size)
    for step in course.steps:
        begun, first = time.perf_counter(), count
        with Nbd(p.server.door, "disk") as nbd:
            while count < step and not course.late(count):
                nbd.writes([p.rng.randrange(size // BLOCK)], count)
                p.call("snapshot-create", targets=[target("disk", f"s{count}")])
                count += 1
        course.put("write and snapshot, each of those made",
                   (time.perf_counter() - begun) * 1e3 / max(1, count - first))
        last, middle = f"s{count - 1}", f"s{count // 2}"
        course.time("create, request", [
            lambda i=i: p.call("snapshot-create", targets=[target("disk", f"x{step}-{i}")])
            for i in range(REPEAT)])
        course.time("describe one, request", [
            lambda: p.call("describe", **target("disk", middle))] * REPEAT)
        course.time("diff of neighbours, request", [
            lambda: p.call("diff", list=True, **{"from": target("disk", f"s{count - 2}"),
                                                 "to": target("disk", last)})] * REPEAT)
        course.time("diff of first and last, request", [
            lambda: p.call("diff", list=True, **{"from": target("disk", "s0"),
                                                 "to": target("disk", last)})] * 3, 1)
        course.time("connect to the oldest and read", [lambda: look(p, "disk@s0")] * REPEAT)
        course.time("clone of the middle one, request", [
            lambda i=i: p.call("clone", **target("disk", middle), to=f"c{step}-{i}")
            for i in range(REPEAT)])
        course.time("delete the clone, request", [
            lambda i=i: p.call("volume-delete", volume=f"c{step}-{i}") for i in range(REPEAT)])
        course.time("delete, request", [
            lambda i=i: p.call("snapshot-delete", targets=[target("disk", f"x{step}-{i}")])
            for i in range(REPEAT)])
        course.time("du, command", [lambda: p.server.command("du", p.server.pool)], 1)
        p.common(course, 1)
        course.done.append(count)
        if course.stopped:
            break
    course.at_last("delete all, requests of 1000", timed(lambda: drop_all(p, count)))
    p.settle(bench, course, bench.args.budget)
    p.close(bench, course)
    course.finish()


def look(pool, export):
    with Nbd(pool.server.door, export) as nbd:
        nbd.read(5)


def drop_all(pool, count):
    """In requests of a thousand."""
    for i in range(0, count, 1000):
        pool.call("snapshot-delete", targets=[target("disk", f"s{j}")
                                              for j in range(i, min(i + 1000, count))])


def clones(bench):
    course = Course(bench, "Clones of one golden snapshot, a block written to each, by their number",
                    steps_to(bench.args.clones), bench.args.budget)
    size, count = 1 << 30, 0
    p = Pool(bench, "clones", size)
    p.write("disk", TOUCHED, 1, size)
    p.call("snapshot-create", targets=[target("disk", "golden")])
    for step in course.steps:
        while count < step and not course.late(count):
            p.call("clone", **target("disk", "golden"), to=f"c{count}")
            with Nbd(p.server.door, f"c{count}") as nbd:
                nbd.writes([count], 2)
            count += 1
        course.time("clone, request", [
            lambda i=i: p.call("clone", **target("disk", "golden"), to=f"x{i}")
            for i in range(REPEAT)])
        course.time("connect to a clone and read", [
            lambda: look(p, f"c{count // 2}")] * REPEAT)
        course.time("snapshot of a clone, request", [
            lambda i=i: p.call("snapshot-create", targets=[target(f"x{i}", "s")])
            for i in range(REPEAT)])
        course.time("diff of a clone, request", [
            lambda i=i: p.call("diff", list=True, **{"from": target(f"x{i}", "s"),
                                                     "to": target(f"x{i}")})
            for i in range(REPEAT)])
        course.time("roll a clone back, request", [
            lambda i=i: p.call("rollback", **target(f"x{i}", "s"), force=True, discard=True)
            for i in range(REPEAT)])
        course.time("delete a clone, request", [
            lambda i=i: p.call("volume-delete", volume=f"x{i}", recursive=True)
            for i in range(REPEAT)])
        p.common(course, 1)
        course.done.append(count)
        if course.stopped:
            break
    begun = time.perf_counter()
    for i in range(count):
        p.call("volume-delete", volume=f"c{i}")
    course.at_last("delete all, requests", (time.perf_counter() - begun) * 1e3)
    p.settle(bench, course, bench.args.budget)
    p.close(bench, course)
    course.finish()


def run(bench, wanted):
    args = bench.args
    for key, value in (QUICK if args.quick else FULL).items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    args.budget = args.budget or (60 if args.quick else 900)
    if min(args.volumes, args.snapshots, args.clones) < 2:
        raise BenchError("--volumes, --snapshots and --clones are at least 2")
    for course in (sizes, volumes, snapshots, clones):
        try:
            with bench.place.scope():
                course(bench)
        except BenchError as e:
            bench.failed.append(f"scale, {course.__name__}: {e}")
            bench.say(f"FAILED: {bench.failed[-1]}")
