# SPDX-License-Identifier: MIT
"""How long writes wait, second by second, while roots are written and the cleaner works: "tools/bench
stalls". The pool is N2's: it cannot grow and is full."""
import glob
import os

from . import host
from .bench import show
from .chart import text
from .host import BenchError

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 980, 420, 80, 60, 50
LINES = ((0.5, "half of them", "#5b8fc0"), (0.999, "99.9 %", "#c0392b"), (1.0, "all", "#9a9a9a"))
FIO_BITS = 6  # a bin's width is 1/64 of its value


def bin_ns(i):
    """The middle of fio's bin i (its stat.h, plat_idx_to_val)."""
    if i < 2 << FIO_BITS:
        return i
    error_bits = (i >> FIO_BITS) - 1
    return (1 << (error_bits + FIO_BITS)) + (i % (1 << FIO_BITS) + 0.5) * (1 << error_bits)


def within(counts, part):
    """The latency in us that `part` of the requests did not exceed."""
    want, seen = part * sum(counts), 0
    for i, n in enumerate(counts):
        seen += n
        if n and seen >= want:
            return bin_ns(i) / 1e3
    return 0.0


def read_log(path):
    """Seconds since the start, and the counts of all bins; one for each second."""
    with open(path, encoding="ascii") as f:
        for line in f:
            words = [int(word) for word in line.split(",")]
            if sum(words[3:]):
                yield words[0] / 1e3, words[3:]


def draw(points, whole, title):
    """An SVG document; latencies on a logarithmic scale."""
    low, high = 10.0, 10.0
    while high < max(max(p[1:]) for p in points):
        high *= 10
    last = points[-1][0]
    decades = [d for d in (10.0 ** i for i in range(1, 9)) if low <= d <= high]

    def x(seconds):
        return LEFT + (WIDTH - LEFT - 20) * seconds / last

    def y(us):
        at = [i for i, d in enumerate(decades) if d <= max(us, low)][-1]
        part = at + (max(us, low) / decades[at] - 1) / 9 if at + 1 < len(decades) else at
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - part / max(len(decades) - 1, 1))

    parts = [text(20, 26, "Latency of writes, second by second", 16, weight="bold"),
             text(20, 44, title, 10, colour="#666")]
    for d in decades:
        label = f"{show(d)} us" if d < 1000 else f"{show(d / 1000)} ms"
        parts += [f'<line x1="{LEFT}" y1="{y(d):.1f}" x2="{WIDTH - 20}" y2="{y(d):.1f}" '
                  'stroke="#ddd"/>', text(LEFT - 8, y(d) + 4, label, 11, "end")]
    for number, (part, name, colour) in enumerate(LINES):
        path = " ".join(f"{x(p[0]):.1f},{y(p[1 + number]):.1f}" for p in points)
        parts += [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>',
                  text(LEFT + 240 * number, HEIGHT - 12, f"{name}: {show(whole[number])} us in all", 11,
                       colour=colour)]
    parts += [text(x(last * i / 5), HEIGHT - BOTTOM + 18, f"{last * i / 5:.0f} s", 11, "middle")
              for i in range(6)]
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
            f'font-family="sans-serif">\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n'
            '</svg>\n')


def run(bench, wanted):
    size, seconds = bench.args.size, bench.args.stalls
    servers = bench.open([bench.vdisk("stalls", size, max(size * 5 // 4, size + (1 << 28)))])
    server = servers[0]
    bench.drive(server, "randwrite", "4k", 32, io_size=int(size * bench.args.worn))
    prefix = os.path.join(bench.place.path, "stalls")
    done = bench.drive(server, "randwrite", "4k", 32, time_based=1, runtime=seconds,
                       write_hist_log=prefix, log_hist_msec=1000)
    logs = glob.glob(prefix + "*hist*.log")
    if len(logs) != 1:
        raise BenchError("fio has left no log of latencies")
    points, total = [], []
    for at, counts in read_log(logs[0]):
        points.append((at, *(within(counts, part) for part, _, _ in LINES)))
        total = [a + b for a, b in zip(total, counts)] if total else counts
    os.unlink(logs[0])
    if not points:
        raise BenchError("fio's log of latencies is empty")
    whole = [within(total, part) for part, _, _ in LINES]
    bench.account(server)
    bench.close(servers)
    title = (f"random writes of 4 KiB, QD32, volume of {host.show_bytes(size)}, pool of 5/4 of it, full; "
             f"{show(done.iops)} IOPS")
    worst = sorted(p[2] for p in points)
    lines = ["| | half within | 99.9 % within | all within |", "|---|---|---|---|",
             "| all | " + " | ".join(f"{show(v)} us" for v in whole) + " |",
             "| the middle second | " + " | ".join(
                 f"{show(host.median([p[i] for p in points]))} us" for i in (1, 2, 3)) + " |",
             "| the worst second | " + " | ".join(
                 f"{show(max(p[i] for p in points))} us" for i in (1, 2, 3)) + " |"]
    bench.tables.append((f"{len(points)} seconds of {title}; 99.9 % of a second's writes took more than 10 ms "
                         f"in {sum(w > 10000 for w in worst)} of them:", lines))
    if bench.args.output:
        with open(os.path.join(bench.args.output, "stalls.svg"), "w", encoding="utf-8") as f:
            f.write(draw(points, whole, title))
