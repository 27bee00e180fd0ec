# SPDX-License-Identifier: MIT
"""The rows that are a speed beside others: N1 to N7. One function for each state of the images, so
that rows which want the same state share it."""
import array
import random

from . import host, inprocess
from .control import BLOCK, Nbd, block
from .host import BenchError, Skipped

GiB = 1 << 30


def filled(bench, wanted):
    """N1, N7, N6 and N4, in this order: each leaves the images fit for the next."""
    size = bench.args.size
    servers = bench.open(bench.four("filled", size, room=size))
    if "N1" in wanted:
        bench.speed("N1", 0, servers, "randread")
    if "N7" in wanted:
        bench.speed("N7", 0, servers, "read", bs="1M", depth=8)
        bench.speed("N7", 1, servers, "write", bs="1M", depth=8)
    if "N6" in wanted:
        inprocess.measure(bench, servers)
        # Raw wants only the data and what is needed to find it, as an NBD flush does.
        bench.speed("N6", 1, servers, "randwrite", depth=1, fsync=1,
                    files={"fdatasync": 1})
        bench.speed("N6", 2, servers, "randwrite", depth=1)
    if "N4" in wanted:
        after_snapshot(bench, servers)
    bench.close(servers)


def after_snapshot(bench, servers):
    held = {}

    def prepare(s, number):
        if s.name == "raw":
            return
        if s.name in held:
            s.drop_snapshot(held.pop(s.name))
        bench.quiet(servers)
        s.snapshot(f"s{number}")
        held[s.name] = f"s{number}"

    bench.speed("N4", 0, servers, "randwrite", prepare=prepare)
    for s in servers:
        if s.name in held:
            s.drop_snapshot(held[s.name])


def fresh(bench, wanted):
    """N3: raw stays what it is, all others begin anew each round; every block is written once."""
    servers = bench.four("fresh", bench.args.size)
    opened = bench.open(servers, fill=False)

    def prepare(s, number):
        if number > 0:
            s.renew()

    bench.speed("N3", 0, opened, "randwrite", prepare=prepare, norandommap=None)
    bench.close(opened)


def worn(bench, wanted):
    """N2, then N11: the pool cannot grow, and is as full as it will ever be."""
    size = bench.args.size
    capacity = max(size * 5 // 4, size + GiB // 4)  # what is fixed weighs more in a small pool
    servers = bench.four("worn", size, capacity) if "N2" in wanted else \
        [bench.vdisk("worn", size, capacity)]
    servers = bench.open(servers)
    for s in servers:
        bench.drive(s, "randwrite", "4k", 32, io_size=int(size * bench.args.worn))
    if "N2" in wanted:
        # What was written while all were quiet is soon used up: then the cleaner is at work.
        bench.speed("N2", 0, servers, "randwrite", lead=size // 8)
    if "N11" in wanted:
        amplification(bench, [s for s in servers if s.name != "raw"])
    bench.close(servers)


def amplification(bench, servers):
    """Until background work has ended: what is put off is written all the same."""
    size = bench.args.size
    total = int(size * bench.args.wear)
    for measure, options in ((0, {}), (1, {"random_distribution": "zoned:90/10:10/90"})):
        values = {}
        for s in servers:
            if options:
                # The cleaner's idea of hot and cold is of the other load.
                bench.drive(s, "randwrite", "4k", 32, io_size=total // 3, **options)
            bench.quiet(servers)
            before = s.counters()["written"]
            done = bench.drive(s, "randwrite", "4k", 32, io_size=total, end_fsync=1, **options)
            bench.quiet(servers)
            values[s.name] = (s.counters()["written"] - before) / done.written
        bench.report("N11", measure, {}, values=values,
                     detail=f"{host.show_bytes(total)} written, fio {options or 'uniform'}")


# --- histories ---

class Model:
    """A volume whose every block is known, and the same of snapshots that are looked at later."""

    def __init__(self, server, seed):
        self.server, self.rng = server, random.Random(seed)
        self.count = server.size // BLOCK
        self.live = array.array("I", bytes(4 * self.count))
        self.version = 0
        self.kept = {}

    def fill(self, export="disk"):
        with Nbd(self.server.door, export) as nbd:
            nbd.writes(range(self.count), 0)
            nbd.flush()
        self.server.client_written += self.server.size

    def touch(self, nbd, part):
        """Overwrites that part of the blocks, none twice."""
        self.version += 1
        lbas = self.rng.sample(range(self.count), max(1, int(self.count * part)))
        nbd.writes(lbas, self.version)
        for lba in lbas:
            self.live[lba] = self.version
        self.server.client_written += len(lbas) * BLOCK

    def keep(self, export):
        self.kept[export] = self.live[:]

    def compare(self, samples=2000):
        """Some blocks of each export that is known."""
        for export, versions in {**self.kept, "disk": self.live}.items():
            with Nbd(self.server.door, export) as nbd:
                for lba in self.rng.sample(range(self.count), min(samples, self.count)):
                    if nbd.read(lba) != block(lba, versions[lba]):
                        raise BenchError(f"{self.server.id}: block {lba} of {export} is wrong")
            self.server.client_read += min(samples, self.count) * BLOCK


def reading(bench, row, measure, base, server, export):
    """Rounds of random reads of `server`'s export beside the same volume without a history."""
    pair = {"no snapshots": base, "vdisk": server}
    rounds = {name: [] for name in pair}
    for number in range(bench.args.rounds):
        for name, s in list(pair.items())[::-1 if number % 2 else 1]:
            bench.quiet(list(pair.values()))
            target = s.target(export if s is server else "disk")
            rounds[name].append(bench.drive(s, "randread", "4k", 32, target=target, time_based=1,
                                            runtime=bench.args.seconds).iops)
    bench.report(row, measure, rounds)


def history(bench, wanted):
    """N5 and N5b. The volume is smaller than elsewhere: all that is overwritten is kept."""
    size, count = bench.args.history_size, bench.args.history
    room = int(size * (1 + count * 0.0105) * 1.15) + 3 * size
    try:
        bench.place.need(room, f"{count} snapshots of {host.show_bytes(size)}")
    except Skipped as e:
        for row, measures in (("N5", 1), ("N5b", 3)):
            for m in range(measures if row in wanted else 0):
                bench.unmeasured(row, m, e)
        return
    base = bench.vdisk("base", size)
    base.create()
    base.start()
    bottom = Model(base, 1)
    bottom.fill()
    deep(bench, wanted, base, size, count)
    if "N5b" in wanted:
        reverted(bench, base, size, count)
        cloned(bench, base, size)
    bottom.compare()
    bench.check(base)


def deep(bench, wanted, base, size, count):
    server = bench.vdisk("deep", size)
    server.create()
    server.start()
    model = Model(server, 2)
    model.fill()
    bench.say(f"{count} snapshots, 1 % of {host.show_bytes(size)} overwritten before each")
    with Nbd(server.door, "disk") as nbd:
        for number in range(count):
            model.touch(nbd, 0.0101)
            server.control.call("snapshot-create", targets=[{"volume": "disk",
                                                             "snapshot": f"s{number}"}])
            if number in (0, count // 2):
                model.keep(f"disk@s{number}")
    if "N5" in wanted:
        reading(bench, "N5", 0, base, server, "disk")
    if "N5b" in wanted:
        reading(bench, "N5b", 2, base, server, "disk@s0")
    model.compare()
    bench.check(server)


def reverted(bench, base, size, count):
    """A volume that is put back to what it was, again and again."""
    server = bench.vdisk("reverted", size)
    server.create()
    server.start()
    model = Model(server, 3)
    model.fill()
    bench.say(f"{count} rounds of snapshot, write, roll back, delete the snapshot")
    with Nbd(server.door, "disk") as nbd:
        for number in range(count):
            before = model.live[:]
            name = {"volume": "disk", "snapshot": f"s{number}"}
            server.control.call("snapshot-create", targets=[name])
            model.touch(nbd, 64 / model.count)
            server.control.call("rollback", discard=True, force=True, **name)
            server.control.call("snapshot-delete", targets=[name])
            model.live = before
    bench.quiet([server], longest=60)
    reading(bench, "N5b", 0, base, server, "disk")
    model.compare()
    bench.check(server)


def cloned(bench, base, size):
    """Sixteen volumes, each a clone of the one before and itself written to since."""
    server = bench.vdisk("cloned", size)
    server.create()
    server.start()
    model = Model(server, 4)
    model.fill()
    last = "disk"
    for number in range(16):
        with Nbd(server.door, last) as nbd:
            server.control.call("snapshot-create", targets=[{"volume": last, "snapshot": "s"}])
            server.control.call("clone", volume=last, snapshot="s", to=f"c{number}")
            nbd.writes(model.rng.sample(range(model.count), model.count // 100), 10 ** 6 + number)
        last = f"c{number}"
        with Nbd(server.door, last) as nbd:
            model.touch(nbd, 0.01)
    model.kept[last], model.live = model.live, None
    reading(bench, "N5b", 1, base, server, last)
    # The first volume holds what was written behind the clones' backs as well.
    model.live = model.kept[last]
    with Nbd(server.door, last) as nbd:
        for lba in model.rng.sample(range(model.count), min(2000, model.count)):
            if nbd.read(lba) != block(lba, model.live[lba]):
                raise BenchError(f"{server.id}: block {lba} of {last} is wrong")
    bench.check(server)
