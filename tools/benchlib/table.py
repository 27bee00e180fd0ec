# SPDX-License-Identifier: MIT
"""The numbers to reach: what each row measures, what it must reach and aims at. Rows measured in
several ways have a measure for each."""
from dataclasses import dataclass, field


@dataclass
class Ratio:
    """At least `factor` times what `of` does: a server, or another row's vdisk."""
    factor: float
    of: str

    def text(self):
        return self.of if self.factor == 1 else f"{self.factor:g} × {self.of}"

    def limit(self, values, results):
        if self.of in values:
            return self.factor * values[self.of]
        other = results.get(self.of)
        return self.factor * other if other else None

    def met(self, value, limit):
        return value >= limit


@dataclass
class Most:
    """At most so much."""
    value: float
    unit: str

    def text(self):
        return f"≤ {self.value:g} {self.unit}".rstrip()

    def limit(self, values, results):
        return self.value

    def met(self, value, limit):
        return value <= limit


@dataclass
class Beside(Most):
    """At most a limit that is measured too, under the name "limit"."""

    def text(self):
        return self.unit

    def limit(self, values, results):
        return values.get("limit")


@dataclass
class Measure:
    name: str
    unit: str
    must: object = None
    aim: object = None


@dataclass
class Row:
    id: str
    work: str
    measures: list = field(default_factory=list)


def rows(*entries):
    return {id: Row(id, work, list(measures)) for id, work, *measures in entries}


def door(must=None, aim=None):
    """What is measured of each; the numbers to reach are for depth 32."""
    return [Measure(f"random {way} QD{depth}", "IOPS", must if depth > 1 else None,
                    aim if depth > 1 else None) for depth in (32, 1) for way in ("read", "write")]


DOORS = ("NBD", "N14", "N15")

ROWS = rows(
    ("N1", "random read QD32",
     Measure("read", "IOPS", Ratio(1.5, "qcow2"), Ratio(1, "raw"))),
    ("N2", "random write QD32, pool fixed at 5/4 of a filled volume, 5/4 of it overwritten before",
     Measure("write", "IOPS", Ratio(2, "qcow2"), Ratio(1.3, "raw"))),
    ("N3", "random write QD32, fresh thin image",
     Measure("write", "IOPS", Ratio(8, "qcow2"), Ratio(1, "raw"))),
    ("N4", "random write QD32 just after a snapshot",
     Measure("write", "IOPS", Ratio(25, "qcow2"), Ratio(1, "N2"))),
    ("N5", "random read QD32, live volume with many snapshots, 1 % overwritten between them",
     Measure("read", "IOPS", Ratio(0.95, "no snapshots"), Ratio(1, "no snapshots"))),
    ("N5b", "random read QD32 of what has a history",
     Measure("after many rounds of snapshot and roll back", "IOPS", Ratio(0.9, "no snapshots"),
             Ratio(1, "no snapshots")),
     Measure("clone with 16 live ancestors", "IOPS", Ratio(0.5, "no snapshots"),
             Ratio(1, "no snapshots")),
     Measure("oldest of many snapshots", "IOPS", Ratio(0.25, "no snapshots"),
             Ratio(1, "no snapshots"))),
    ("N6", "random write QD1",
     Measure("durable each, in process", "IOPS", Ratio(0.8, "raw"), Ratio(1, "raw")),
     Measure("flush each", "IOPS", Ratio(1.3, "qcow2"), Ratio(1, "raw")),
     Measure("plain", "IOPS", Ratio(1.2, "qcow2"), Ratio(1, "raw"))),
    ("N7", "1 MiB sequential QD8",
     Measure("read", "MiB/s", Ratio(1.2, "qcow2"), Ratio(1, "raw")),
     Measure("write", "MiB/s", Ratio(1.2, "qcow2"), Ratio(1, "raw"))),
    ("N8", "commands on a served pool under QD32, as the client sees them",
     *[Measure(f"{what}, {how}", "ms", Most(10, "ms"), Most(1, "ms"))
       for what in ("snapshot", "clone", "rollback", "delete") for how in ("command", "request")]),
    ("N9", "open after kill -9 with a full log window",
     Measure("serve, until a client is greeted", "s", Most(2, "s"), Most(0.5, "s"))),
    ("N10", "peak memory of the server in all rows of this run",
     Measure("resident", "MiB", Most(512, "MiB"), Most(256, "MiB")),
     Measure("with its page cache, in a cgroup", "MiB", Most(512, "MiB"), Most(256, "MiB"))),
    ("N11", "write amplification, pool fixed at 5/4 of the volume",
     Measure("uniform", "device bytes ÷ guest bytes", Most(3.7, ""), Most(3.5, "")),
     Measure("90 % of writes to 10 %", "device bytes ÷ guest bytes", Most(2.2, ""), Most(1.8, ""))),
    ("N11b", "growing file, fixed working set rewritten 20 times",
     Measure("garbage", "MiB", Beside(0, "≤ 25 % of live + 64 MiB"))),
    ("N12", "diff of two snapshots, 1 TiB volume, 1,000 changed blocks",
     Measure("command", "ms", Most(100, "ms"), Most(20, "ms")),
     Measure("request", "ms", Most(100, "ms"), Most(20, "ms"))),
    ("N13", "space of the file 10 s after everything is gone",
     Measure("discarded", "MiB", Beside(0, "≤ 2 % of peak + 64 MiB")),
     Measure("deleted", "MiB", Beside(0, "≤ 2 % of peak + 64 MiB"))),
    ("NBD", "the NBD door beside others'", *door()),
    ("N14", "the FUSE door, files opened with O_DIRECT", *door(Ratio(1.3, "qcow2"))),
    ("N15", "the vhost-user-blk door, driven by a frontend of our own, one queue",
     *door(Ratio(1.3, "qcow2"), Ratio(1, "raw"))),
    ("N16", "live metadata, one copy, per 4 KiB block written at random",
     Measure("nodes", "bytes", Most(40, "bytes"), Most(30, "bytes"))),
)
