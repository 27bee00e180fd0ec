# SPDX-License-Identifier: MIT
"""The rows that are not a speed under load: commands, opening, memory, space. N8 to N16."""
import random
import time

from . import host
from .control import BLOCK, Nbd
from .host import BenchError

MiB = 1 << 20


def timed(call):
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e3


def spread(values):
    values = sorted(values)
    return {"median": host.median(values), "worst": values[-1], "count": len(values)}


def commands(bench, wanted):
    """N8: each command by a process, and by a request over the control socket, while fio reads and
    writes at QD32. qcow2 and xfs take and delete a snapshot of theirs the same way."""
    size = bench.args.size
    servers = bench.open([s for s in bench.four("commands", size, room=size)
                          if s.name != "raw"])
    found = {s.name: under_load(bench, s) for s in servers}
    for m, what in enumerate(("snapshot", "clone", "rollback", "delete")):
        for n, how in enumerate(("command", "request")):
            values = {name: f[what, how] for name, f in found.items() if (what, how) in f}
            bench.report("N8", 2 * m + n, values,
                         detail={name: spread(v) for name, v in values.items()})
    bench.close(servers)


def under_load(bench, s):
    times = {}
    load = bench.fio.start(s.target(), "randrw", "4k", 32, time_based=1, runtime=3600)
    try:
        time.sleep(1)  # fio comes up to its speed
        for number in range(bench.args.commands):
            steps = vdisk_steps(s, number) if s.name == "vdisk" else other_steps(s, number)
            for what, how, call in steps:
                times.setdefault((what, how), []).append(timed(call))
            if load[0].poll() is not None:
                raise BenchError(f"fio ended while {s.name} was given commands")
        done = bench.fio.end(load)
        s.client_read += done.read
        s.client_written += done.written
    finally:
        bench.fio.cancel(load[0])
    return times


def vdisk_steps(s, number):
    """(what, how, call) once by command and once by request. What a step leaves, a later one
    deletes; roll backs discard the present state, for keeping it is the same and leaves a name."""
    def request(command, **args):
        return lambda: s.control.call(command, **args)

    def command(*args):
        return lambda: s.command(*args)

    name = f"s{number}"
    at = {"volume": "disk", "snapshot": name}
    text = f"{s.pool}:disk@{name}"
    by_command = {"snapshot": command("snapshot", "create", text),
                  "clone": command("clone", text, f"c{number}"),
                  "rollback": command("rollback", text, "--force", "--discard-current"),
                  "delete": command("volume", "delete", f"{s.pool}:c{number}", "--no-wait")}
    by_request = {"snapshot": request("snapshot-create", targets=[dict(at, snapshot=name + "r")]),
                  "clone": request("clone", volume="disk", snapshot=name + "r", to=f"c{number}r"),
                  "rollback": request("rollback", volume="disk", snapshot=name + "r", force=True,
                                      discard=True),
                  "delete": request("volume-delete", volume=f"c{number}r")}
    steps = [(what, how, calls[what]) for how, calls in (("command", by_command),
                                                         ("request", by_request)) for what in calls]
    return steps + [("delete", "command", command("snapshot", "delete", text, "--no-wait")),
                    ("delete", "request", request("snapshot-delete",
                                                  targets=[dict(at, snapshot=name + "r")]))]


def other_steps(s, number):
    """qcow2 by QMP, which is a request; xfs by cp, which is a command."""
    how = "request" if s.name == "qcow2" else "command"
    return [("snapshot", how, lambda: s.snapshot(f"s{number}")),
            ("delete", how, lambda: s.drop_snapshot(f"s{number}"))]


def reopening(bench, wanted):
    """N9: killed when the log since the last checkpoint is nearly as long as it gets."""
    size = bench.args.size
    server, = bench.open([bench.vdisk("reopened", size)])
    times, windows = [], []
    for _ in range(bench.args.rounds):
        load = bench.fio.start(server.target(), "randwrite", "4k", 32, time_based=1, runtime=3600)
        try:
            windows.append(kill_when_full(server))
        finally:
            bench.fio.cancel(load[0])
        times.append(timed(server.start) / 1e3)
    bench.report("N9", 0, {"vdisk": times}, detail={"log_bytes": windows})
    bench.say("log since the last checkpoint at the kills: "
              + ", ".join(host.show_bytes(w) for w in windows))
    server.client_read = server.client_written = 0  # fio died with the servers and cannot say
    bench.close([server])


def kill_when_full(server):
    """The window is a sixteenth of what is allocated, between 16 MiB and 1 GiB; a checkpoint begins
    when it is full, so the longest log is seen just before it gets shorter."""
    deadline = time.monotonic() + host.HANG
    while time.monotonic() < deadline:
        pool = server.control.call("describe")["pool"]
        window = min(max(pool["allocated"] // 16, 16 * MiB), 1 << 30)
        if pool["log"] >= 0.93 * window:
            server.kill()
            return pool["log"]
        time.sleep(0.002)
    raise BenchError("the log never gets as long as its window")


def memory(bench, wanted):
    """N10: of everything else in this run."""
    peak = bench.peaks.get("vdisk")
    values = {name: {key: p[key] / MiB for key in p if p[key]} for name, p in bench.peaks.items()
              if name != "raw"}
    for measure, key in enumerate(("peak", "cgroup_peak")):
        if not peak or not peak[key]:
            bench.unmeasured("N10", measure, "no other row was measured" if not peak else
                             "no memory cgroup can be made here")
            continue
        bench.report("N10", measure, {}, values={n: v[key] for n, v in values.items() if key in v})


def growing(bench, wanted):
    """N11b: the file after each rewriting, and when background work has ended."""
    size = bench.args.size // 4
    server, = bench.open([bench.vdisk("growing", size)])
    seen = []
    for _ in range(bench.args.rewrites):
        bench.drive(server, "randwrite", "4k", 32, io_size=size, norandommap=None)
        pool = server.control.call("describe")["pool"]
        seen.append((host.allocated(server.pool) - pool["live"], pool["live"]))
    bench.quiet([server])
    live = server.control.call("describe")["pool"]["live"]
    garbage = host.allocated(server.pool) - live
    most = max(g for g, _ in seen)
    bench.report("N11b", 0, {}, detail=[{"garbage": g, "live": v} for g, v in seen],
                 values={"vdisk": garbage / MiB, "limit": (live * 0.25) / MiB + 64,
                         "most while written": most / MiB})
    bench.close([server])


def comparing(bench, wanted):
    """N12: by command and by request, the pool being served."""
    server = bench.vdisk("compared", 1 << 40)
    server.create()
    server.start()
    lbas = random.Random(12).sample(range((1 << 40) // BLOCK), 1000)
    with Nbd(server.door, "disk") as nbd:
        server.control.call("snapshot-create", targets=[{"volume": "disk", "snapshot": "a"}])
        nbd.writes(lbas, 1)
        server.control.call("snapshot-create", targets=[{"volume": "disk", "snapshot": "b"}])
    server.client_written += len(lbas) * BLOCK
    at = {"from": {"volume": "disk", "snapshot": "a"}, "to": {"volume": "disk", "snapshot": "b"}}
    calls = [lambda: server.command("diff", f"{server.pool}@a", f"{server.pool}@b", "--json"),
             lambda: server.control.call("diff", list=True, **at)]
    found = server.control.call("diff", list=False, **at)
    if found["changed"] != len(lbas) * BLOCK:
        raise BenchError(f"diff finds {found['changed']} bytes changed, {len(lbas) * BLOCK} were")
    for m, call in enumerate(calls):
        times = [timed(call) for _ in range(max(5, bench.args.rounds))]
        bench.report("N12", m, {"vdisk": times}, detail=spread(times))
    bench.check(server)


def emptied(bench, wanted):
    """N13: everything discarded by the client; everything deleted by command."""
    size = bench.args.size // 2
    for measure in (0, 1):
        server, = bench.open([bench.vdisk(f"emptied{measure}", size)])
        bench.drive(server, "randwrite", "4k", 32, io_size=size // 2)
        peak = host.allocated(server.pool)
        limit = peak * 0.02 + 64 * MiB
        begun = time.monotonic()
        if measure == 0:
            with Nbd(server.door, "disk") as nbd:
                nbd.trim(size)
                nbd.flush()
        else:
            server.control.call("volume-delete", volume="disk", recursive=True)
        course = []
        while time.monotonic() < begun + 10:
            course.append((round(time.monotonic() - begun, 2), host.allocated(server.pool)))
            if course[-1][1] <= limit:
                break
            time.sleep(0.1)
        left, taken = course[-1][1], course[-1][0]
        bench.report("N13", measure, {}, detail={"seconds": taken, "peak": peak},
                     values={"vdisk": left / MiB, "limit": limit / MiB, "peak": peak / MiB,
                             "seconds": taken})
        bench.check(server)


def leaves(bench, wanted):
    """N16: nodes of all trees, so a little more than leaves of the map; two copies are stored."""
    size = bench.args.size // 4
    server = bench.vdisk("leaves", size)
    server.create()
    server.start()
    bench.drive(server, "randwrite", "4k", 32, io_size=size, norandommap=None, end_fsync=1)
    bench.quiet([server])
    bench.account(server)
    server.stop()
    pool = server.info()
    bench.report("N16", 0, {}, values={"vdisk": pool["metadata"] / 2 / (size // BLOCK)},
                 detail={"metadata": pool["metadata"], "blocks": size // BLOCK})
    bench.verified.append(f"{server.id}: {server.verify()}")
    server.remove()
