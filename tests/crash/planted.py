#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every planted bug is caught by the test that guards against it.

Each plant is a defect of a line or two behind #ifdef VD_PLANT_NAME. The sources are compiled once as
they are, and each guard must pass; then, for each plant, the files that hold it are compiled with it,
and its guard must fail.

  planted.py --dir BUILD/tests/crash [PLANT...]
"""
import argparse
import concurrent.futures
import glob
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLAGS = ['-std=gnu17', '-D_GNU_SOURCE', '-D_FILE_OFFSET_BITS=64', '-I.', '-g', '-O1', '-w']
LIBS = ['-lcmocka', '-luring', '-lxxhash', '-lssl', '-lcrypto', '-lpthread', '-lm']
WRAP = ['-Wl,' + ','.join('--wrap=' + f for f in (
    'malloc', 'calloc', 'realloc', 'posix_memalign', 'mmap'))]
LIMIT = 300  # seconds; only a guard that hangs takes so long

CORE = ['core/io/*.c', 'core/codec/*.c', 'core/base/*.c']
PRODUCT = ['snapshot/*.c', 'pool/*.c', 'format/*.c', 'core/block/*.c'] + CORE
NBD = ['nbd/*.c', 'core/block/*.c', 'tests/nbd/fake_store.c'] + CORE
CRASH = ['tests/crash/%s.c' % n for n in (
    'exhaust', 'memory', 'oracle', 'oracle_judge', 'random', 'report', 'scenario', 'world',
    'world_judge')]
PROGRAMS = {
    'crash-sim': PRODUCT + CRASH + ['tests/crash/main.c'],
    'test_named': PRODUCT + CRASH + ['tests/crash/%s.c' % n for n in (
        'named', 'named_log', 'test_named')],
    'test_refill': ['pool/*.c', 'format/*.c'] + CORE + [
        'tests/pool/%s.c' % n for n in ('mini_client', 'rig', 'test_refill')],
    'test_nbd': NBD + ['tests/nbd/test_nbd.c'],
    'test_tls': NBD + ['tests/nbd/test_tls.c'],
    'test_dev': CORE + ['tests/io/test_dev.c'],
}
SIM = ('crash-sim', '--until-failure', '--seed', '1', '--jobs', '2', '--states')


def sim(states=8000):
    return SIM + (str(states),)


def named(pattern):
    return ('test_named', pattern)


# (plant, what is guarded, the guard)
PLANTS = [
    ('acknowledged_early', 'a write is acknowledged when the device has it', sim()),
    ('told_before_handed_over', 'what the host has not taken over is not acknowledged early', sim()),
    ('flushed_under_way', 'a flush waits for what was handed over', sim()),
    ('frozen_under_way', 'a root covers complete records only', sim()),
    ('read_under_way', 'what was handed over is read when it is complete', sim()),
    ('acknowledged_out_of_order', 'writes are acknowledged in the order of the log', sim()),
    ('fua_ignored', 'a forced write is durable', sim()),
    ('flush_error_swallowed', 'a failed flush is never taken for done', sim()),
    ('torn_payload_accepted', 'a torn record is no part of the log', sim()),
    ('replay_stops_at_rot', 'rot in the flushed log is repaired or refused, never cut',
     named('rot in the middle*')),
    ('tail_comes_back', 'what an opening cut off never comes back', sim()),
    ('tail_not_rewritten', 'what is taken over after a failed flush is written again',
     named('a failed flush*')),
    ('log_goes_anywhere', 'a failed log record goes where replay looks for it',
     named('a failed log write*')),
    ('half_an_operation', 'an operation of several records happens whole or not at all',
     named('a write larger*')),
    ('stale_root_accepted', 'an old root is not taken for the newest', sim()),
    ('root_before_nodes', 'nodes are durable before the root that names them', sim()),
    ('root_not_flushed', 'a root is durable before what it forgets is used again', sim()),
    ('segment_reused_early', 'a segment with later records in it is not used again',
     named('a segment emptied*')),
    ('read_not_pinned', 'a discard does not pull the blocks away from a read',
     named('a discard does not*')),
    ('misdirected_accepted', 'a misdirected or rotten block is an error', sim()),
    ('moved_not_flushed', 'moved data is durable before anything names it', named('moved data*')),
    ('victim_freed_early', 'a segment is free when its relocations are durable',
     named('a relocation never*')),
    ('relocation_overwrites', 'a relocation never hides a newer write',
     named('a relocation never*')),
    ('relocation_lost', 'a merge follows relocations', sim()),
    ('replaced_forgets_snapshots', 'what a snapshot shows is moved, though the log replaced it', sim()),
    ('torn_refill_accepted', 'a torn block in a dead place ends the log', sim()),
    ('refilled_before_root', 'a block is filled when a root says that it is dead', sim()),
    ('refilled_while_pinned', 'a block that is being read is not filled',
     ('test_refill', 'a_block_that*')),
    ('old_hints_trusted', 'an older hint block is not taken for the one that is missing',
     ('test_refill', 'what_was_refilled*')),
    ('hints_not_written', 'what was refilled can be moved', ('test_refill', 'what_was_refilled*')),
    ('old_maps_trusted', 'maps of an earlier session are not believed',
     ('test_refill', 'an_opened_pool_knows*')),
    ('copy_not_forced', 'the log has a forced write whole, wherever else it lies', sim()),
    ('reserve_not_enforced', 'a full pool keeps what it needs to delete', sim()),
    ('zero_as_absent', 'zeroes on a clone do not show what lies below', sim()),
    ('snapshot_half', 'a snapshot of several volumes is one moment', sim()),
    ('delete_frees_clone', 'a deletion keeps what a clone needs', sim()),
    ('rmw_loses', 'two writes into one block both count', sim()),
    ('resize_tail', 'growing shows zeroes behind the old end', sim()),
    ('changed_misses', 'a diff leaves out no change', sim()),
    ('lock_skipped', 'a device is opened by one owner', ('test_dev', 'a_device_is_opened*')),
    ('flush_error_swallowed', 'a device whose flush failed is not trusted again',
     ('test_dev', 'a_failed_flush*')),
    ('nbd_fua_ignored', 'a forced write of an NBD client is forced', ('test_nbd', 'flags_and_errors*')),
    ('nbd_injection', 'nothing said in the clear counts under TLS',
     ('test_tls', 'what_came_in_the_clear*')),
    ('nbd_list_in_clear', 'a server with TLS lists no exports in the clear',
     ('test_tls', 'nothing_is_told*')),
]


def sources(program):
    found = []
    for pattern in PROGRAMS[program]:
        found += sorted(glob.glob(pattern)) or [pattern]
    return found


class NoGuard(Exception):
    pass


class Builder:
    def __init__(self, cc, where):
        self.cc, self.where = cc, where

    def compile(self, source, plant=None):
        out = os.path.join(self.where, (plant or 'as-is') + '.' + source.replace('/', '_') + '.o')
        if not os.path.exists(out):
            define = ['-DVD_PLANT_%s=1' % plant.upper()] if plant else []
            part = '%s.%d' % (out, threading.get_ident())
            subprocess.run(self.cc + FLAGS + define + ['-c', source, '-o', part], check=True)
            os.rename(part, out)
        return out

    def program(self, name, plant=None):
        """The path of the program, with the plant in those of its files that know it."""
        hook = re.compile(rb'\bVD_PLANT_%s\b' % plant.upper().encode()) if plant else None
        objects, hooks = [], 0
        for source in sources(name):
            with open(source, 'rb') as f:
                here = bool(hook and hook.search(f.read()))
            hooks += here
            objects.append(self.compile(source, plant if here else None))
        if plant and not hooks:
            raise NoGuard('nothing in the sources of %s knows this plant' % name)
        out = os.path.join(self.where, (plant or 'as-is') + '.' + name)
        wrap = WRAP if 'tests/crash/memory.c' in sources(name) else []
        subprocess.run(self.cc + objects + ['-o', out] + wrap + LIBS, check=True)
        return out


def run(program, args, where):
    """True if the guard passes. What it says otherwise goes along."""
    env = dict(os.environ, TMPDIR=where)
    done = subprocess.run([program] + list(args), cwd=where, env=env, timeout=LIMIT,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = done.stdout.decode(errors='replace')
    if 'Running 0 test' in text:
        raise NoGuard('there is no such test: ' + ' '.join(args))
    return done.returncode == 0, text


def unguarded():
    """Plants in the sources that no guard is named for."""
    found = set()
    for folder in ('cli', 'copy', 'core', 'format', 'nbd', 'pool', 'server', 'snapshot'):
        for source in glob.glob(folder + '/**/*.[ch]', recursive=True):
            with open(source, encoding='utf-8') as f:
                found.update(n.lower() for n in re.findall(r'\bVD_PLANT_(\w+)', f.read()))
    return sorted(found - {p[0] for p in PLANTS})


def guard_name(guard):
    return '%s %s' % (guard[0], shlex.quote(guard[1])) if guard[0] != 'crash-sim' else \
        ' '.join(a for a in guard if a != '--until-failure')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--dir', required=True, help='a directory for a scratch directory')
    parser.add_argument('--cc', default='cc')
    parser.add_argument('--keep', action='store_true', help='keep the programs')
    parser.add_argument('plants', nargs='*', metavar='PLANT', help='default: all')
    args = parser.parse_args()
    chosen = [p for p in PLANTS if not args.plants or p[0] in args.plants]
    for plant in set(args.plants) - {p[0] for p in PLANTS}:
        parser.error('there is no plant ' + plant)
    where = os.path.abspath(args.dir)
    os.chdir(ROOT)
    started = time.monotonic()
    scratch = tempfile.TemporaryDirectory(prefix='planted-', dir=where)
    if args.keep:
        scratch._finalizer.detach()
        print('# ' + scratch.name)
    builder = Builder(shlex.split(args.cc), scratch.name)
    guards = sorted({guard for _, _, guard in chosen})
    programs = sorted({g[0] for g in guards})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(builder.compile, sorted({s for p in programs for s in sources(p)})))
        bad = 0
        clean = {p: builder.program(p) for p in programs}
        print('1..%d' % (1 + len(guards) + len(chosen)), flush=True)
        missing = unguarded()
        bad += bool(missing)
        print('not ok - without a guard: ' + ' '.join(missing) if missing else
              'ok - every plant in the sources has a guard', flush=True)
        for guard, (passed, text) in zip(guards, pool.map(
                lambda g: run(clean[g[0]], g[1:], scratch.name), guards)):
            bad += not passed
            print('%s - without a plant: %s' % ('ok' if passed else 'not ok', guard_name(guard)),
                  flush=True)
            if not passed:
                lines = text.splitlines()
                first = [i for i, line in enumerate(lines) if re.match('FAILED|DIED|ERROR', line)]
                start = first[0] if first else -20
                print('\n'.join('# ' + line for line in lines[start:][:20]))

        def planted(entry):
            plant, _, guard = entry
            try:
                return run(builder.program(guard[0], plant), guard[1:], scratch.name)
            except (NoGuard, subprocess.SubprocessError) as e:
                return True, str(e)

        for (plant, what, guard), (passed, text) in zip(chosen, pool.map(planted, chosen)):
            bad += passed
            print('%s - %s (plant %s: %s %s)' % (
                'not ok' if passed else 'ok', what, plant,
                'not caught by' if passed else 'caught by', guard_name(guard)), flush=True)
            if passed:
                print('# ' + (text.splitlines() or [''])[-1])
    print('# %d plants, %d s' % (len(chosen), time.monotonic() - started))
    if not args.keep:
        scratch.cleanup()
    return bad != 0


if __name__ == '__main__':
    sys.exit(main())
