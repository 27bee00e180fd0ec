# SPDX-License-Identifier: MIT
"""The engine without a socket: fio's external engine over libvdisk (tools/fio/vdisk_fio.c), built
against the source of the installed fio, which Debian has no development package of."""


def measure(bench, size):
    bench.unmeasured("N6", 0, "the engine over libvdisk is asked for with --in-process")
