#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How mounts begin and end: wrong mount points, an ordinary user, unmounting from outside, with files
open, and after the server was killed.

usage: life.py FUSE-SERVER
"""
import errno
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from mounted import MIB, Checks, Mounted, Refused, skip_unless_fuse  # noqa: E402

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def is_mounted(path):
    with open("/proc/self/mountinfo") as f:
        return any(line.split()[4] == path for line in f)


def umount(exe, path):
    """vd_fuse_umount in a process of its own: "" or what it says."""
    return subprocess.run([exe, "--umount", path], stdout=subprocess.PIPE, text=True,
                          timeout=60).stdout.strip()


def refused(c, what, ident, text, exe, where, **kw):
    try:
        with Mounted(exe, where=where, disk=MIB, **kw):
            c.check(what, False, "it was mounted")
    except Refused as e:
        c.check(what, str(e).startswith(f"error {ident}: ") and text in str(e), f"{e}")


def wrong_points(exe, c):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as where:
        mnt = os.path.join(where, "mnt")
        os.symlink("nowhere", mnt)
        refused(c, "a mount point that is not there is refused", "mountpoint-invalid",
                "No such file", exe, where)
        os.unlink(mnt)
        open(mnt, "w").close()
        refused(c, "one that is a file is", "mountpoint-invalid", "not a directory", exe, where)
        os.unlink(mnt)
        os.makedirs(os.path.join(mnt, "x"))
        refused(c, "one that is not empty is", "mountpoint-invalid", "not empty", exe, where)
        os.rmdir(os.path.join(mnt, "x"))
        with Mounted(exe, where=where, disk=MIB):
            refused(c, "one where something is mounted is", "mountpoint-invalid",
                    "mounted on", exe, where, pool="q.vdk")
        c.check("what is no mount cannot be unmounted",
                umount(exe, mnt).startswith("error not-mounted: "))
        c.check("nor what is not there",
                umount(exe, mnt + "/x").startswith("error not-mounted: "))


def in_own_namespace():
    """Becomes this test with mounts of its own, in which /dev/fuse is ours to change."""
    if os.geteuid() != 0 or os.environ.get("VDISK_TEST_DEV"):
        return
    where = tempfile.mkdtemp(prefix="vdisk-fuse-", dir="/var/tmp")
    node = os.path.join(where, "fuse")
    script = (f"mount -t tmpfs none {where} && mknod -m 666 {node} c 10 229 && "
              f"mount --bind {node} /dev/fuse && exec \"$@\"")
    p = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", sys.executable, *sys.argv],
                       env=dict(os.environ, VDISK_TEST_DEV=node))
    os.rmdir(where)
    sys.exit(p.returncode)


def ordinary_user(exe, c):
    """Also where others' permissions would let root in."""
    node = os.environ.get("VDISK_TEST_DEV")
    if not node or not shutil.which("setpriv") or not shutil.which("fusermount3"):
        print("skipped: an ordinary user's mount (needs root, setpriv and fusermount3)")
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp") as where:
        # The program may lie where others cannot go.
        program = os.path.join(where, "fuse-server")
        shutil.copy(exe, program)
        mnt = os.path.join(where, "mnt")
        os.chmod(where, 0o777)
        os.mkdir(mnt)
        refused(c, "a user does not mount on what is not theirs", "mountpoint-invalid",
                "not yours", program, where, prefix=NOBODY)
        os.chown(mnt, 65534, 65534)
        os.chmod(node, 0o600)
        refused(c, "nor without permission for /dev/fuse", "no-fuse", "Permission denied", program,
                where, prefix=NOBODY)
        os.chmod(node, 0o666)
        with Mounted(program, where=where, prefix=NOBODY, disk=MIB) as m:
            path = m.path("disk/disk.raw")
            out = subprocess.run([*NOBODY, "sh", "-c", f"echo hello | dd of={path} conv=notrunc "
                                  f"status=none && head -c 5 {path}"], stdout=subprocess.PIPE)
            c.check("a user mounts through fusermount3", out.stdout == b"hello")
            c.errno("and nobody else may look in, not even root", errno.EACCES, os.stat, path)
            status, out = m.stop()
            c.check("and ends it", status == 0 and not is_mounted(mnt), out)
        with Mounted(program, where=where, prefix=NOBODY, disk=MIB) as m:
            said = subprocess.run([*NOBODY, program, "--umount", mnt], stdout=subprocess.PIPE)
            c.check("or unmounts it", said.stdout == b"" and m.p.stdout.readline() == "ended\n")


def others_allowed(exe, c):
    """By the umask of the server: read, and not write."""
    if not os.environ.get("VDISK_TEST_DEV") or not shutil.which("setpriv"):
        print("skipped: other users on a mount (needs root and setpriv)")
        return
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as where:
        os.chmod(where, 0o755)
        with Mounted(exe, "--allow-other", where=where, disk=MIB) as m:
            path = m.path("disk/disk.raw")
            got = subprocess.run([*NOBODY, "head", "-c", "3", path], stdout=subprocess.PIPE)
            c.check("others read where they are allowed in", got.stdout == bytes(3))
            got = subprocess.run([*NOBODY, "sh", "-c", f"exec 3<>{path}"], stderr=subprocess.PIPE)
            c.check("and do not write where the umask says so", b"Permission denied" in got.stderr)
            got = subprocess.run([*NOBODY, "mkdir", m.path("disk/snapshots/x")],
                                 stderr=subprocess.PIPE)
            c.check("nor take snapshots", b"Permission denied" in got.stderr)
    os.umask(before)


def from_outside(exe, c):
    with Mounted(exe, disk=4 * MIB) as m:
        with open(m.path("disk/disk.raw"), "r+b", buffering=0) as f:
            f.write(b"kept")
            c.check("a mount that is in use stays",
                    umount(exe, m.mnt).startswith("error mount-busy: "))
        c.check("unmounting from outside works", umount(exe, m.mnt) == "")
        c.check("and the server hears of it", m.p.stdout.readline() == "ended\n")
        c.check("and ends well", m.p.wait(60) == 0)
        m.start()
        with open(m.path("disk/disk.raw"), "rb") as f:
            c.check("nothing is lost", f.read(4) == b"kept")


def with_open_files(exe, c):
    """Stopping with a file open and a mapping that was written to."""
    with Mounted(exe, disk=4 * MIB) as m:
        fd = os.open(m.path("disk/disk.raw"), os.O_RDWR)
        pages = mmap.mmap(fd, 4 * MIB)
        pages[MIB:MIB + 6] = b"mapped"
        status, out = m.stop()
        c.check("a server stops though files are open", status == 0, out)
        c.check("and the mount is gone", not is_mounted(m.mnt))
        try:
            os.pread(fd, 4096, 2 * MIB)
            c.check("such a file gives errors then", False)
        except OSError as e:
            c.check("such a file gives errors then", e.errno in (errno.ENOTCONN, errno.ECONNABORTED,
                                                                errno.EIO), f"{e}")
        pages.close()
        try:
            os.close(fd)
        except OSError:
            pass  # closing asks the server, which is gone
        m.start()
        with open(m.path("disk/disk.raw"), "rb") as f:
            f.seek(MIB)
            c.check("what was mapped and written is there", f.read(6) == b"mapped")


def killed(exe, c):
    with Mounted(exe, disk=4 * MIB) as m:
        with open(m.path("disk/disk.raw"), "r+b", buffering=0) as f:
            f.write(b"acknowledged")
        m.p.send_signal(signal.SIGKILL)
        m.p.wait()
        c.errno("a killed server's mount gives errors", (errno.ENOTCONN, errno.ECONNABORTED), os.stat,
                m.mnt)
        try:
            m.start()
            c.check("a stale mount is named as such", False)
        except Refused as e:
            c.check("a stale mount is named as such",
                    str(e).startswith("error mountpoint-stale: ") and "vdisk umount" in str(e), e)
        c.check("and can be cleaned", umount(exe, m.mnt) == "" and not is_mounted(m.mnt))
        m.start()
        with open(m.path("disk/disk.raw"), "rb") as f:
            c.check("what was acknowledged is there", f.read(12) == b"acknowledged")


def main():
    skip_unless_fuse()
    in_own_namespace()
    c, exe = Checks(), os.path.abspath(sys.argv[1])
    for part in (wrong_points, ordinary_user, others_allowed, from_outside, with_open_files, killed):
        part(exe, c)
    c.end()


if __name__ == "__main__":
    main()
