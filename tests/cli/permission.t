# SPDX-License-Identifier: MIT
# needs: root
# what is denied is explained: which path, whose it is, what to do
$ mkdir mine && chmod 700 mine && vdisk create mine/a.vdk --size 1M; vdisk create a.vdk --size 1M; chmod 644 a.vdk; mkdir theirs; chown 65534 theirs
$ as-nobody vdisk ls mine/a.vdk
! vdisk: nobody cannot enter mine, which belongs to root (mode 0700): ask root for access, or run this as root
[8]
$ as-nobody vdisk ls a.vdk
VOLUME   SIZE  USED  OWN  SNAPSHOTS  STATE
disk    1 MiB   0 B  0 B          0
$ as-nobody vdisk snapshot create a.vdk@s
! vdisk: nobody cannot write a.vdk, which belongs to root (mode 0644): ask root for access, or run this as root
[8]
$ as-nobody vdisk create mine/b.vdk --size 1M
! vdisk: nobody cannot enter mine, which belongs to root (mode 0700): ask root for access, or run this as root
[8]
$ as-nobody vdisk create b.vdk --size 1M
! vdisk: nobody cannot write in ., which belongs to root (mode 0755): ask root for access, or run this as root
[8]
$ as-nobody vdisk create theirs/b.vdk --size 1M
$ as-nobody vdisk ls theirs/b.vdk --json | head -3
{
  "schema": "vdisk.ls/1",
  "volumes": [
$ as-nobody vdisk export a.vdk out.raw
! vdisk: nobody cannot write in ., which belongs to root (mode 0755): ask root for access, or run this as root
[8]
$ as-nobody vdisk export a.vdk theirs/out.raw
$ as-nobody vdisk import a.vdk theirs/c.vdk
$ chmod 600 a.vdk; as-nobody vdisk import a.vdk theirs/d.vdk
! vdisk: nobody cannot read a.vdk, which belongs to root (mode 0600): ask root for access, or run this as root
[8]
$ as-nobody vdisk ls a.vdk --json
{
  "error": {
    "id": "access-denied",
    "message": "nobody cannot read a.vdk, which belongs to root (mode 0600): ask root for access, or run this as root",
    "target": "a.vdk"
  }
}
! vdisk: nobody cannot read a.vdk, which belongs to root (mode 0600): ask root for access, or run this as root
[8]
$ ls theirs
b.vdk
c.vdk
out.raw
$ chmod 666 a.vdk
$ serve s a.vdk
ready: nbd+unix:///?socket=RUN/DEV-INO.nbd
$ as-nobody vdisk snapshot create a.vdk@t
! vdisk: a.vdk is in use by another process: wait until that ends, or stop it
[4]
$ stop s
$ as-nobody bash -c 'vdisk serve theirs/b.vdk > theirs/log 2>&1 & echo $! > theirs/pid; until grep -qs ready theirs/log; do :; done'
$ vdisk ls theirs/b.vdk
VOLUME   SIZE  USED  OWN  SNAPSHOTS  STATE
disk    1 MiB   0 B  0 B          0
$ vdisk snapshot create theirs/b.vdk@by-root
$ as-nobody vdisk snapshot list theirs/b.vdk
SNAPSHOT  TAKEN                 SIZE  OWN  CLONES  HOLDS
by-root   TIME  1 MiB  0 B       0      0
$ kill $(cat theirs/pid); while vdisk info theirs/b.vdk | grep -q '^served by'; do :; done
$ as-nobody vdisk ls theirs/b.vdk:disk
SNAPSHOT  TAKEN                 SIZE  OWN  CLONES  HOLDS
by-root   TIME  1 MiB  0 B       0      0
$ as-nobody env XDG_RUNTIME_DIR=$PWD/none vdisk serve theirs/b.vdk
! vdisk: cannot make DIR/none/vdisk for the control socket (No such file or directory): set XDG_RUNTIME_DIR to a directory of yours
[3]
$ mkdir open theirs/run; chmod 777 open; as-nobody env XDG_RUNTIME_DIR=$PWD/theirs/run vdisk pool list
$ as-nobody env XDG_CONFIG_HOME=$PWD/mine vdisk pool list
! vdisk: nobody cannot enter DIR/mine, which belongs to root (mode 0700): ask root for access, or run this as root
[8]
$ as-nobody env XDG_CONFIG_HOME=$PWD/none vdisk pool create p theirs/p.vdk
! vdisk: the directory DIR/none does not exist: check the path
[3]
$ umask 077; echo alice:$(openssl rand -hex 32) > keys.psk; as-nobody vdisk serve theirs/b.vdk --nbd tcp:127.0.0.1:0 --tls-psk keys.psk
! vdisk: this user (uid 65534) cannot read keys.psk: it must be open to the user who serves
[8]
$ chown 65533 keys.psk; vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-psk keys.psk; mv keys.psk mine
! vdisk: keys.psk holds secrets but belongs to another user (uid 65533): chown it to the user who serves
$ as-nobody vdisk serve theirs/b.vdk --nbd tcp:127.0.0.1:0 --tls-cert mine
! vdisk: this user (uid 65534) cannot read mine/server-cert.pem: it must be open to the user who serves
[8]
$ ls theirs; rm -rf /tmp/vdisk-65534
b.vdk
c.vdk
log
out.raw
pid
run
