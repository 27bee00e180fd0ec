#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs transcripts: files of commands with what they are expected to print.

    transcript.py [--update] VDISK FILE.t...

    # a comment; the first one says what the transcript guards
    $ vdisk ls nope.vdk            a command, given to a shell in an empty directory
    ! vdisk: nope.vdk ...          what it prints on standard error
    [3]                            its exit status, when that is not 0
    other lines                    what it prints on standard output

In expected lines ** stands for any text; a line ... stands for any lines; ~ is an empty line. UUIDs, times, process ids
and the scratch directory are replaced by UUID, TIME, PID N and DIR on both sides.

Besides the shell's there are: `serve NAME ARGS...` (vdisk serve in the background, until it says
"ready:"), `stop NAME` (SIGTERM, waits, shows what it printed and its status), `term NAME`, `wait
NAME`, `crash NAME` (SIGKILL), and `as-nobody COMMAND...` (as uid 65534). A first line "# needs: root
fake" says where it can be run.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

HANG = float(os.environ.get("VDISK_TEST_HANG", "300"))
REPLACE = [
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b(PID|pid|process) \d+\b"), r"\1 N"),
    (re.compile(r'"pid": ?\d+'), '"pid": N'),
    (re.compile(r'"(created|started|ended|connected)": ?\d+'), r'"\1": TIME'),
    (re.compile(r"\b\d+-\d+\.(sock|nbd)\b"), r"DEV-INO.\1"),
]
PRELUDE = """
as-nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups env -u VDISK_RUNTIME_DIR \
    -u VDISK_CONFIG_DIR -u XDG_RUNTIME_DIR XDG_CONFIG_HOME="$DIR/nobody-config" \
    "$@"; }
"""


class Step:
    def __init__(self, command, line):
        self.command = command
        self.line = line
        self.expect = []
        self.comments = []  # before it


def parse(text):
    """(steps, what the first comment says, the needs, trailing comment lines)"""
    steps, comments, title, needs = [], [], None, []
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("$ "):
            step = Step(line[2:], number)
            step.comments, comments = comments, []
            steps.append(step)
        elif line.startswith("> ") and steps:
            steps[-1].command += "\n" + line[2:]
        elif line.startswith("#") or (not line and (not steps or comments)):
            if line.startswith("# needs:"):
                needs = line[8:].split()
            elif line.startswith("# ") and title is None and "SPDX" not in line:
                title = line[2:]
            comments.append(line)
        elif line and steps:
            steps[-1].expect.append(line)
        elif line:
            raise SystemExit(f"line {number}: output before a command")
        elif steps:
            comments.append(line)
    return steps, title or "transcript", needs, comments


def matches(expect, got):
    """Line lists, with ** and ... in the expected ones."""
    if not expect:
        return not got
    if expect[0] == "...":
        return any(matches(expect[1:], got[i:]) for i in range(len(got) + 1))
    if not got:
        return False
    pattern = ".*".join(re.escape(part) for part in expect[0].split("**"))
    return bool(re.fullmatch(pattern, got[0])) and matches(expect[1:], got[1:])


class Runner:
    def __init__(self, vdisk):
        self.vdisk = os.path.abspath(vdisk)
        self.dir = tempfile.mkdtemp(prefix="vdisk-cli.", dir=os.environ.get("VDISK_TEST_DIR"))
        os.chmod(self.dir, 0o755)
        bin_dir = os.path.join(self.dir, ".bin")
        self.work = os.path.join(self.dir, "w")
        os.mkdir(bin_dir)
        os.mkdir(self.work)
        # A copy, so that an unprivileged user can run it wherever the build is.
        shutil.copy(self.vdisk, os.path.join(bin_dir, "vdisk"))
        self.env = {k: v for k, v in os.environ.items()
                    if k not in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "NOTIFY_SOCKET")}
        self.env.update(PATH=bin_dir + ":" + os.environ["PATH"], DIR=self.work, TZ="UTC", LC_ALL="C.UTF-8",
                        VDISK_RUNTIME_DIR=os.path.join(self.dir, "run"), HOME=self.dir,
                        VDISK_CONFIG_DIR=os.path.join(self.dir, "config"))
        self.servers = {}

    def normal(self, text):
        for old, new in ((self.work, "DIR"), (self.env["VDISK_RUNTIME_DIR"], "RUN"),
                         (self.env["VDISK_CONFIG_DIR"], "CONFIG"), (self.dir, "TOP")):
            text = text.replace(old, new)
        for pattern, new in REPLACE:
            text = pattern.sub(new, text)
        return text

    @staticmethod
    def lines(out, err, status):
        got = [line.rstrip() or "~" for line in out.removesuffix("\n").split("\n")] if out else []
        errs = ["! " + line for line in err.split("\n") if line]
        return got + errs + ([f"[{status}]"] if status else [])

    def run(self, command):
        words = command.split()
        special = getattr(self, "do_" + words[0].replace("-", "_"), None)
        if special:
            out, err, status = special(words[1:], command)
        else:
            out, err, status = self.shell(command)
        return self.lines(self.normal(out), self.normal(err), status)

    def shell(self, command):
        done = subprocess.run(["bash", "-c", PRELUDE + command], cwd=self.work, env=self.env,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=HANG)
        return (done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"),
                done.returncode)

    def do_serve(self, words, command):
        name, rest = words[0], command.split(None, 2)[2]
        log = open(os.path.join(self.dir, name + ".err"), "w+", encoding="utf-8")
        process = subprocess.Popen(["bash", "-c", "exec vdisk serve " + rest], cwd=self.work,
                                   env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=log, text=True)
        first = process.stdout.readline()
        self.servers[name] = (process, log)
        if first:
            return first, "", 0
        return self.end(name)

    def end(self, name):
        process, log = self.servers.pop(name)
        out = process.stdout.read()
        process.stdout.close()
        status = process.wait(HANG)
        log.seek(0)
        err = log.read()
        log.close()
        return out, err, status if status >= 0 else 128 - status

    def do_stop(self, words, _):
        self.servers[words[0]][0].terminate()
        return self.end(words[0])

    def do_term(self, words, _):
        self.servers[words[0]][0].terminate()
        return "", "", 0

    def do_wait(self, words, _):
        return self.end(words[0])

    def do_crash(self, words, _):
        self.servers[words[0]][0].send_signal(signal.SIGKILL)
        return self.end(words[0])

    def close(self):
        for process, log in self.servers.values():
            process.kill()
            process.wait()
            process.stdout.close()
            log.close()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            left = [m.split()[1] for m in mounts if m.split()[1].startswith(self.dir + "/")]
        for mount in left:
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(self.dir)

    def left(self):
        """What still runs of our own copy of the program: detached jobs of a failed transcript."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/exe").startswith(self.dir + "/"):
                    yield int(pid)
            except OSError:
                pass


def expected(step):
    """Standard output first, then standard error, then the status, as a run gives them."""
    status = [e for e in step.expect if re.fullmatch(r"\[\d+\]", e)]
    errs = [e for e in step.expect if e.startswith("! ")]
    return [e for e in step.expect if e not in errs and e not in status] + errs + status


def play(vdisk, path, update):
    with open(path, encoding="utf-8") as f:
        steps, title, needs, rest = parse(f.read())
    if "root" in needs and os.geteuid() != 0:
        print(f"skipped - {title}: needs root")
        return None
    if "fake" in needs and "fake" not in os.path.basename(vdisk):
        print(f"skipped - {title}: needs the store in memory")
        return None
    runner = Runner(vdisk)
    good = True
    lines = []
    try:
        for step in steps:
            got = runner.run(step.command)
            ok = matches(expected(step), got)
            lines += step.comments + ["$ " + step.command.replace("\n", "\n> ")]
            lines += step.expect if ok else got
            if not ok and not update:
                good = False
                print(f"{path}:{step.line}: $ {step.command}\n  expected:")
                print("\n".join("    " + e for e in expected(step)) + "\n  got:")
                print("\n".join("    " + e for e in got))
                break
    finally:
        runner.close()
    if update:
        with open(path, "w", encoding="utf-8") as f:
            f.write("\n".join(lines + rest).rstrip("\n") + "\n")
    print(("ok - " if good else "not ok - ") + title)
    return good


def main():
    args = sys.argv[1:]
    update = args[:1] == ["--update"]
    args = args[update:]
    results = [play(args[0], path, update) for path in args[1:]]
    if False in results:
        sys.exit(1)
    sys.exit(0 if True in results else 77)


if __name__ == "__main__":
    main()
