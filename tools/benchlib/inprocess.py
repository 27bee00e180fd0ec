# SPDX-License-Identifier: MIT
"""The engine without a socket: fio's external engine over libvdisk (tools/fio/vdisk_fio.c). Debian
has no development package of fio, so it is built against the source of the installed version."""
import glob
import os

from . import host
from .host import BenchError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCE = os.path.join(ROOT, "tools", "fio", "vdisk_fio.c")
MIRROR = "http://deb.debian.org/debian"


def engine(bench):
    """The engine's path: of a build that has it, or made now if that was asked for; else None."""
    build = os.path.dirname(os.path.dirname(bench.args.vdisk))
    ready = os.path.join(build, "tools", "fio", "vdisk_fio.so")
    if os.path.exists(ready):
        return ready
    if not bench.args.in_process:
        return None
    library = os.path.join(build, "include")
    if not os.path.exists(os.path.join(library, "libvdisk.so")):
        raise BenchError(f"{library}/libvdisk.so is missing: --in-process wants a --vdisk in its "
                         "build directory")
    made = os.path.join(bench.place.path, "vdisk_fio.so")
    source = fetch(bench)
    bench.say("building fio's engine over libvdisk")
    host.run(["gcc", "-std=gnu17", "-O2", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-shared",
              "-fPIC", "-fvisibility=hidden", "-w", "-isystem", source, "-include",
              f"{source}/config-host.h", f"-I{ROOT}/include", SOURCE, "-o", made, f"-L{library}",
              f"-Wl,-rpath,{library}", "-lvdisk", "-lpthread"])
    return made


def fetch(bench):
    """The configured source of the fio that is installed. apt keeps its own lists as they are: this
    uses others, in the work directory."""
    bench.say("fetching the source of fio with apt-get")
    where = os.path.join(bench.place.path, "fio-source")
    for name in ("lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(where, name))
    release = host.run(["sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME"]).strip()
    version = host.run(["dpkg-query", "-W", "-f", "${Version}", "fio"], "dpkg-query").strip()
    with open(f"{where}/sources.list", "w", encoding="ascii") as f:
        f.write("deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
                f"{MIRROR} {release} main\n")
    apt = ["apt-get", "-q", "-o", f"Dir::Etc::sourcelist={where}/sources.list",
           "-o", "Dir::Etc::sourceparts=/dev/null", "-o", f"Dir::State::lists={where}/lists",
           "-o", f"Dir::Cache={where}/cache", "-o", "APT::Sandbox::User=root"]
    host.run([*apt, "update"])
    host.run(["sh", "-c", 'cd "$0" && exec "$@"', where, *apt, "--download-only", "source",
              f"fio={version}"])
    description, = glob.glob(f"{where}/*.dsc")
    host.run([host.find_program("dpkg-source", "dpkg-dev"), "--no-check", "-x", description,
              f"{where}/src"])
    host.run(["sh", "-c", 'cd "$0" && exec ./configure', f"{where}/src"], "fio's configure")
    return f"{where}/src"


def measure(bench, servers):
    """Each write durable before the next: raw opened O_DSYNC, libvdisk with a flush."""
    library = engine(bench)
    if not library:
        bench.unmeasured("N6", 0, "the engine over libvdisk is built with --in-process")
        return
    raw, vdisk = (next(s for s in servers if s.name == name) for name in ("raw", "vdisk"))
    targets = {"raw": {**raw.target(), "sync": "dsync"},
               "vdisk": {"ioengine": f"external:{library}", "target": vdisk.pool,
                         "size": vdisk.size, "sync": 1}}
    vdisk.stop()
    clients = vdisk.client_read, vdisk.client_written
    done = bench.rounds([raw, vdisk], lambda s: bench.drive(
        s, "randwrite", "4k", 1, target=targets[s.name], time_based=1,
        runtime=bench.args.seconds))
    bench.report("N6", 0, {name: [r.iops for r in runs] for name, runs in done.items()},
                 {name: [r.as_json() for r in runs] for name, runs in done.items()})
    vdisk.client_read, vdisk.client_written = clients  # what follows is the server's device bytes
    vdisk.start()
