# SPDX-License-Identifier: MIT
# needs: fake
# an import that its server's end interrupted is resumed from what was durable
$ truncate -s 3G big.raw
> printf middle | dd of=big.raw bs=1M seek=500 conv=notrunc status=none
> printf end | dd of=big.raw bs=1M seek=2600 conv=notrunc status=none
$ vdisk create a.vdk --size 16M
$ truncate -s 2500M part.raw; vdisk import big.raw a.vdk:gone --overwrite
$ vdisk volume delete a.vdk:gone
$ echo 1 > stall
$ VDISK_FAKE_STALL=$PWD/stall vdisk import big.raw a.vdk:v --detach
job 1
$ vdisk job list a.vdk | grep -c running
0
[1]
$ kill -TERM $(vdisk ls --json | grep -o '"pid": [0-9]*' | grep -o '[0-9]*'); while ls $VDISK_RUNTIME_DIR | grep -q sock; do :; done; rm stall
! kill: usage: kill [-s sigspec | -n signum | -sigspec] pid | jobspec ... or kill -l [sigspec]
$ vdisk job list a.vdk
$ vdisk ls a.vdk
VOLUME    SIZE   USED    OWN  SNAPSHOTS  STATE
disk    16 MiB    0 B    0 B          0
v        3 GiB  8 KiB  8 KiB          0
$ vdisk volume get a.vdk:v
$ vdisk job wait a.vdk 1
! vdisk: there is no job 1: "vdisk job list POOL" lists the jobs
[3]
$ vdisk job wait a.vdk
$ vdisk job resume a.vdk 9
! vdisk: there is no job 9: "vdisk job list POOL" lists the jobs
[3]
$ mv big.raw moved.raw
$ vdisk job resume a.vdk 1
! vdisk: there is no job 1: "vdisk job list POOL" lists the jobs
[3]
$ vdisk job resume a.vdk 1 part.raw
! vdisk: there is no job 1: "vdisk job list POOL" lists the jobs
[3]
$ vdisk job resume a.vdk 1 moved.raw
! vdisk: there is no job 1: "vdisk job list POOL" lists the jobs
[3]
$ vdisk ls a.vdk
VOLUME    SIZE   USED    OWN  SNAPSHOTS  STATE
disk    16 MiB    0 B    0 B          0
v        3 GiB  8 KiB  8 KiB          0
$ vdisk job list a.vdk
$ vdisk export a.vdk:v - | cmp - moved.raw
$ vdisk volume get a.vdk:v
