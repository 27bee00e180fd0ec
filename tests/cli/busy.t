# SPDX-License-Identifier: MIT
# connected clients protect a volume and are named; --force overrides
$ vdisk create a.vdk --size 16M
$ vdisk snapshot create a.vdk@s
$ serve s a.vdk --nbd unix:s.sock
ready: nbd+unix:///?socket=DIR/s.sock
$ ( (sleep 1000 & echo $! > holder; wait) | qemu-io -f raw 'nbd+unix:///disk?socket=s.sock') > io.out 2>&1 &
> until vdisk info a.vdk --json | grep -q '"export": "disk"'; do :; done
$ vdisk rollback a.vdk@s
! vdisk: volume "disk" is in use by pid N, uid 0: disconnect that client first, or say --force
[4]
$ vdisk volume delete a.vdk:disk --recursive
! vdisk: volume "disk" is in use by pid N, uid 0: disconnect that client first
[4]
$ vdisk info a.vdk | grep client
  client     pid N, uid 0 on "disk", read 0 B, written 0 B
$ vdisk ls a.vdk
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    16 MiB   0 B  0 B          1  open
$ vdisk rollback a.vdk@s --force --discard-current
$ kill $(cat holder); while vdisk info a.vdk --json | grep -q '"export": "disk"'; do :; done
$ vdisk rollback a.vdk@s --discard-current
$ vdisk volume delete a.vdk:disk --recursive
$ stop s
