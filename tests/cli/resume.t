# SPDX-License-Identifier: MIT
# needs: fake
# an import that its server's end interrupted is resumed from what was durable, not from the start
$ truncate -s 3G big.raw
> printf middle | dd of=big.raw bs=1M seek=500 conv=notrunc status=none
> printf end | dd of=big.raw bs=1M seek=2600 conv=notrunc status=none
$ vdisk create a.vdk --size 16M
$ truncate -s 2500M part.raw; vdisk import big.raw a.vdk:gone --overwrite
$ vdisk volume delete a.vdk:gone
$ echo 1 > stall
$ VDISK_FAKE_FROM=2500000000 VDISK_FAKE_STALL=$PWD/stall vdisk import big.raw a.vdk:v --detach
job 1
$ until vdisk job list a.vdk | grep -qE 'running +[23](\.[0-9])? GiB'; do :; done
$ kill -TERM $(vdisk ls --json | grep -o '"pid": [0-9]*' | grep -o '[0-9]*')
> until vdisk job list a.vdk | grep -qE 'stopping|interrupted'; do :; done; rm stall; while vdisk ls | grep -q import; do :; done
$ vdisk job list a.vdk
ID  KIND    TARGET  STATE         DONE  TOTAL
 1  import  v       interrupted  2 GiB  3 GiB
$ vdisk ls a.vdk
VOLUME        SIZE   USED    OWN  SNAPSHOTS  STATE
disk        16 MiB    0 B    0 B          0
v.import-1   3 GiB  ** KiB  ** KiB          0
$ vdisk volume get a.vdk:v
! vdisk: there is no volume "v": "vdisk ls POOL" lists the volumes
[3]
$ vdisk job wait a.vdk 1
! vdisk: job 1 was interrupted and does not run: resume or cancel it
[1]
$ vdisk job wait a.vdk
$ vdisk job resume a.vdk 9
! vdisk: there is no job 9: "vdisk job list POOL" lists the jobs
[3]
$ mv big.raw moved.raw
> printf MIDDLE | dd of=moved.raw bs=1M seek=500 conv=notrunc status=none
$ vdisk job resume a.vdk 1
! vdisk: DIR/big.raw does not exist: check the path
[3]
$ vdisk job resume a.vdk 1 part.raw
! vdisk: the source is no longer of the size it had: cancel the job and import again
[1]
$ vdisk job resume a.vdk 1 moved.raw
$ vdisk ls a.vdk
VOLUME    SIZE   USED    OWN  SNAPSHOTS  STATE
disk    16 MiB    0 B    0 B          0
v        3 GiB  8 KiB  8 KiB          0
$ vdisk job list a.vdk
$ vdisk export a.vdk:v out.raw; dd if=out.raw bs=1M skip=500 count=1 status=none | head -c 6; dd if=out.raw bs=1M skip=2600 count=1 status=none | head -c 3; stat -c ' %s' out.raw
middleend 3221225472
$ vdisk volume get a.vdk:v
