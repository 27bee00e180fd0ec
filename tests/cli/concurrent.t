# SPDX-License-Identifier: MIT
# commands given at the same time wait for each other instead of failing
$ vdisk create a.vdk --size 16M
$ for i in 1 2 3 4 5 6 7 8 9 10 11 12; do (vdisk snapshot create a.vdk@s$i || echo failed $i) & done 2> err; wait; cat err
$ vdisk ls a.vdk:disk | grep -c '^s'
12
$ head -c 1M /dev/urandom > r.raw; for i in 1 2 3 4; do (vdisk import r.raw a.vdk:v$i || echo failed) & (vdisk ls a.vdk > /dev/null || echo failed) & (vdisk volume set a.vdk:disk user.n=$i || echo failed) & (vdisk export a.vdk:disk - > /dev/null || echo failed) & done 2> err; wait; cat err
$ vdisk ls a.vdk | sort
VOLUME    SIZE   USED    OWN  SNAPSHOTS  STATE
disk    16 MiB    0 B    0 B         12
v1       1 MiB  1 MiB  1 MiB          0
v2       1 MiB  1 MiB  1 MiB          0
v3       1 MiB  1 MiB  1 MiB          0
v4       1 MiB  1 MiB  1 MiB          0
$ serve s a.vdk
ready: nbd+unix:///?socket=RUN/DEV-INO.nbd
$ for i in 1 2 3 4 5 6 7 8 9 10 11 12; do (vdisk snapshot create a.vdk:v1@t$i || echo failed $i) & (vdisk snapshot list a.vdk > /dev/null || echo failed) & done 2> err; wait; cat err
$ vdisk ls a.vdk:v1 | grep -c '^t'
12
$ stop s
$ vdisk check a.vdk --data
No damage found: ** nodes, ** runs**.
$ (flock 9; exec python3 -c 'import fcntl, os, struct, sys; fd = os.open("a.vdk", os.O_RDWR); fcntl.fcntl(fd, 37, struct.pack("hhllhh", fcntl.F_WRLCK, 0, 0, 0, 0, 0)); open("locked", "w").close(); os.read(0, 1)' < <(sleep 1000 & echo $! > holder; wait)) 9> flock > /dev/null 2>&1 &
> while [ ! -e locked ]; do :; done
$ vdisk ls a.vdk
! vdisk: a.vdk is in use by process N (python3): wait until that ends, or stop it
[4]
$ vdisk serve a.vdk
! vdisk: a.vdk is in use by process N (python3): wait until that ends, or stop it
[4]
$ kill $(cat holder)
