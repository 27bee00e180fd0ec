# SPDX-License-Identifier: MIT
# needs: root
# volumes are mounted as files, by a server that is there or by one of the mount's own; what is left is cleaned
$ vdisk create a.vdk --size 16M; mkdir m; vdisk mount a.vdk m; ls m m/disk
m:
disk
~
m/disk:
disk.raw
partitions
snapshots
$ vdisk ls
POOL  PATH**OWNER
-     DIR/a.vdk**PID N (vdisk mount)
$ vdisk door list a.vdk
KIND  ADDRESS**CLIENTS  STATE
fuse  DIR/m**0
$ vdisk mount a.vdk m
! vdisk: there is a door at DIR/m already
[1]
$ printf hello | dd of=m/disk/disk.raw conv=notrunc status=none; mkdir m/disk/snapshots/one; vdisk snapshot create a.vdk@two; ls m/disk/snapshots; rmdir m/disk/snapshots/two; vdisk snapshot list a.vdk | cut -c1-9
one
two
SNAPSHOT
one
$ vdisk umount m; vdisk export a.vdk@one one.raw; head -c 5 one.raw; echo; ls m
hello
$ vdisk umount m
! vdisk: no vdisk pool is mounted on DIR/m
[1]
$ vdisk umount
! vdisk: MNT is missing: see "vdisk umount --help"
[2]
$ vdisk mount a.vdk
! vdisk: MNT is missing: see "vdisk mount --help"
[2]
$ vdisk mount a.vdk none
! vdisk: cannot mount on DIR/none: No such file or directory
[3]
$ vdisk mount a.vdk a.vdk
! vdisk: DIR/a.vdk is not a directory
[1]
$ vdisk mount none.vdk m
! vdisk: none.vdk does not exist: check the path
[3]
$ vdisk mount a.vdk:disk m
! vdisk: a pool is mounted as a whole: leave the volume and snapshot out
[2]
$ vdisk mount a.vdk m --read-only; printf x | dd of=m/disk/disk.raw conv=notrunc status=none 2>&1 | grep -o 'Read-only.*\|Permission.*'; vdisk umount m
Read-only file system
# a server that was killed leaves a mount that only umount gets rid of
$ vdisk mount a.vdk m; kill -9 $(vdisk ls | sed -n 's/.*PID \([0-9]*\).*/\1/p'); until ! ls m > ls.out 2>&1; do :; done; vdisk mount a.vdk m
! vdisk: DIR/m is what a server that was killed has left: "vdisk umount DIR/m" cleans it
[1]
$ vdisk umount m; ls m
# a pool that is served gets a door more; a volume is written through one of them
$ serve s a.vdk --nbd unix:n.sock
ready: nbd+unix:///?socket=DIR/n.sock
$ vdisk mount a.vdk m; qemu-io -f raw -c 'write -q -P 3 0 1M' 'nbd+unix:///?socket=n.sock'; head -c 4096 m/disk/disk.raw | tr -d '\003' | wc -c
0
$ exec 8<>m/disk/disk.raw; qemu-io -f raw -c 'write 0 1M' 'nbd+unix:///?socket=n.sock' 2>&1 | tail -1
server reported: volume "disk" is being written through the door fuse DIR/m: close that, open this read-only, or serve the pool with --shared
$ umount m; until vdisk door list a.vdk | grep -vq fuse; do :; done; vdisk ls a.vdk | head -1
VOLUME    SIZE**
$ vdisk door add a.vdk --vhost v; ls v; vdisk volume create a.vdk:two --size 1M; ls v; vdisk volume rename a.vdk:two three; ls v; vdisk volume delete a.vdk:three; ls v; vdisk door remove a.vdk v; ls v
DIR/v
disk.sock
disk.sock
two.sock
disk.sock
three.sock
disk.sock
$ vdisk door add a.vdk --nbd unix:n.sock
! vdisk: there is a door at unix:DIR/n.sock already
[1]
$ vdisk create b.vdk --size 1M; vdisk serve b.vdk --nbd unix:n.sock
! vdisk: unix:n.sock: cannot listen: Address already in use
[1]
$ vdisk serve b.vdk --vhost a.vdk
! vdisk: a.vdk is not a directory
[1]
$ stop s
# without /dev/fuse, and without permission
$ unshare -m sh -c 'mount -t tmpfs none /dev && exec vdisk mount a.vdk m'
! vdisk: /dev/fuse is missing: load the kernel module with "modprobe fuse"
[1]
$ as-nobody vdisk mount a.vdk m
! vdisk: nobody cannot write a.vdk, which belongs to root (mode 0600): ask root for access, or run this as root
[8]
$ chmod 755 .; as-nobody vdisk umount m
! vdisk: no vdisk pool is mounted on DIR/m
[1]
$ ls $VDISK_RUNTIME_DIR
