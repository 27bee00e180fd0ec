# SPDX-License-Identifier: MIT
"""tools/bench scale"""


def options(parser):
    pass


def run(bench, wanted):
    pass
