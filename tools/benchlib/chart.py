# SPDX-License-Identifier: MIT
"""The chart: a group of bars for each speed that was measured, the fastest as long as there is room,
a mark where vdisk's must reach; below, how far each other row is from its limit."""
from xml.sax.saxutils import escape

from .bench import show
from .table import ROWS

COLOURS = {"raw": "#9a9a9a", "xfs": "#c8a05a", "qcow2": "#5b8fc0", "vdisk": "#c0392b",
           "no snapshots": "#d9a29b"}
MET = "#4f9a6a"
LEFT, BARS, WIDTH = 110, 500, 980
BAR, GAP = 15, 16
SPEEDS = ("IOPS", "MiB/s")


def text(x, y, what, size=12, anchor="start", weight="normal", colour="#222"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'font-weight="{weight}" fill="{colour}">{escape(what)}</text>')


def rect(x, y, w, h, colour):
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(w, 1):.1f}" height="{h}" fill="{colour}"/>'


def mark(x, y, height):
    """Where a bar must end, or may at most."""
    return (f'<line x1="{x:.1f}" y1="{y - 2:.1f}" x2="{x:.1f}" y2="{y + height + 2:.1f}" '
            'stroke="#111" stroke-width="2"/>')


def group(entry, y):
    """A speed: a title with the verdict, then a bar for each server. Returns elements and the next
    y."""
    values = {k: v for k, v in entry["values"].items() if k in COLOURS}
    must = entry.get("must") or {}
    limit = must.get("limit")
    title = f"{entry['row']}  {ROWS[entry['row']].work}"
    if len(ROWS[entry["row"]].measures) > 1:
        title += f": {entry['measure']}"
    out = [text(20, y + 12, title, 12, weight="bold")]
    # A limit far beyond every bar is only said, or it would squeeze them to nothing.
    longest = max(values.values()) or 1
    scale = BARS / max(longest, limit if limit and limit < 2 * longest else 0)
    y += 19
    for name in [n for n in COLOURS if n in values]:
        end = LEFT + values[name] * scale
        label = f"{show(values[name])} {entry['unit']}"
        out += [text(LEFT - 8, y + 12, name, 11, "end"),
                rect(LEFT, y, end - LEFT, BAR, COLOURS[name])]
        if name == "vdisk" and limit:
            label += f"; must reach {must['text']} = {show(limit)}: " \
                     f"{'met' if must['met'] else 'not met'}"
            if limit * scale <= BARS + 1:
                out.append(mark(LEFT + limit * scale, y, BAR))
                if limit * scale > end - LEFT - 2:
                    end = LEFT + limit * scale
        out.append(text(end + 7, y + 12, label, 11))
        y += BAR + 2
    return out, y + GAP


def bounded(entry, y):
    """Something that must not be more than a limit: the bar ends at the mark when it is met just
    so."""
    value, limit = entry["values"]["vdisk"], entry["must"]["limit"]
    room = BARS * 0.4
    shown = min(value / limit, 1.9) * room
    label = f"{show(value)} of at most {show(limit)} {entry['unit']}"
    left = 2.4 * LEFT
    return [text(left - 8, y + 12, f"{entry['row']}  {entry['measure']}", 11, "end"),
            rect(left, y, shown, BAR, COLOURS["vdisk"] if value > limit else MET),
            mark(left + room, y, BAR), text(left + max(shown, room) + 8, y + 12, label, 11)], \
        y + BAR + 6


def draw(results, title):
    """An SVG document."""
    known = sorted((e for e in results if "vdisk" in e["values"]),
                   key=lambda e: list(ROWS).index(e["row"]))
    speeds = [e for e in known if e["unit"] in SPEEDS]
    others = [e for e in known if e["unit"] not in SPEEDS
              and (e.get("must") or {}).get("limit")]
    parts, y = [text(20, 28, "vdisk beside its peers: medians, longer is better", 16,
                     weight="bold"), text(20, 46, title, 10, colour="#666")], 66
    for entry in speeds:
        more, y = group(entry, y)
        parts += more
    if others:
        parts.append(text(20, y + 12, "Limits: left of the mark is met", 14, weight="bold"))
        y += 28
    for entry in others:
        more, y = bounded(entry, y)
        parts += more
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 10:.0f}" '
            f'font-family="sans-serif">\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n'
            '</svg>\n')
