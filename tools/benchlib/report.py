# SPDX-License-Identifier: MIT
"""What tools/bench found: a table for people (and for docs/performance.md), JSON for programs, a
chart."""
import json
import os
import platform
import time

from . import chart, host
from .bench import show
from .table import ROWS

SERVERS = ("raw", "xfs", "qcow2", "vdisk")
WORDS = {True: "met", False: "**not met**", None: "?"}


def machine(args):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="ascii",
                                                            errors="replace")
                if line.startswith("model name")), "processor unknown")
    return (f"{os.cpu_count()} × {cpu}, Linux {platform.release()}; images of "
            f"{host.show_bytes(args.size)}, {args.rounds} round{'s' * (args.rounds != 1)} of "
            f"{args.seconds} s; {host.run([args.vdisk, '--version']).strip()}")


def wanted(entry, key):
    if key not in entry:
        return "", ""
    want = entry[key]
    limit = f" = {show(want['limit'])}" if want["limit"] is not None and "×" in want["text"] else ""
    return want["text"] + limit, WORDS[want["met"]]


def lines(bench, args, whole):
    yield f"Measured {time.strftime('%Y-%m-%d')}: {machine(args)}."
    if not whole:
        yield "Interrupted: rows are missing."
    yield ""
    yield "| row | measure | unit | raw | xfs | qcow2 | vdisk | must reach | | aim | |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for e in sorted(bench.results, key=lambda e: list(ROWS).index(e["row"])):
        cells = [show(e["values"][s]) if s in e["values"] else "" for s in SERVERS]
        if "skipped" in e:
            cells[-1] = f"skipped: {e['skipped']}"
        other = ", ".join(f"{k} {show(v)}" for k, v in e["values"].items() if k not in SERVERS)
        name = e["measure"] + (f" ({other})" if other else "")
        yield "| " + " | ".join([e["row"], name, e["unit"], *cells, *wanted(e, "must"),
                                 *wanted(e, "aim")]) + " |"
    yield ""
    for row in (r for r in ROWS.values() if any(e["row"] == r.id for e in bench.results)):
        yield f"- {row.id}: {row.work}"
    for title, found in (("Failed", bench.failed), ("Command lines", [f"{name}: `{line}`" for name, known in
                                            bench.commands.items() for line in known]),
                         ("Device bytes and memory", bench.notes),
                         ("Verified afterwards", bench.verified),
                         ("Skipped", [f"{k}: {v}" for k, v in bench.skipped.items()])):
        if found:
            yield from ["", f"{title}:", "", *[f"- {line}" for line in found]]
    for title, table in bench.tables:
        yield from ["", title, "", *table]


def write(bench, args, whole):
    text = "\n".join(lines(bench, args, whole))
    print(text, flush=True)
    if not args.output:
        return
    result = {"schema": "vdisk.bench/1", "whole": whole, "machine": machine(args),
              "time": int(time.time()), "quick": args.quick, "size": args.size,
              "rounds": args.rounds, "seconds": args.seconds, "results": bench.results,
              "commands": bench.commands, "peak_memory": bench.peaks, "notes": bench.notes,
              "verified": bench.verified, "skipped": bench.skipped, "failed": bench.failed,
              "scale": bench.scale}
    for name, content in (("bench.json", json.dumps(result, indent=1) + "\n"),
                          ("bench.md", text + "\n"),
                          ("bench.svg", chart.draw(bench.results, machine(args)))):
        with open(os.path.join(args.output, name), "w", encoding="utf-8") as f:
            f.write(content)
    bench.say(f"written to {args.output}: bench.json, bench.md, bench.svg")
