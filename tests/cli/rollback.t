# SPDX-License-Identifier: MIT
# rollback, clone and diff: contents come back, clones are apart, changes are listed
$ printf '%4096s' one | tr ' ' x > one.raw; truncate -s 1M one.raw
$ printf '%4096s' two | tr ' ' y > two.raw; truncate -s 1M two.raw
$ vdisk import one.raw a.vdk
$ vdisk snapshot create a.vdk@first
$ vdisk diff a.vdk@first
$ vdisk serve -h | head -1
Usage: vdisk serve POOL [--nbd ADDR]... [--vhost DIR]... [--fuse MNT]... [--allow-other]
$ vdisk export a.vdk@first - | cmp - one.raw
$ serve s a.vdk --nbd unix:s.sock
ready: nbd+unix:///?socket=DIR/s.sock
$ qemu-img convert -n -f raw two.raw -O raw 'nbd+unix:///?socket=s.sock'
$ vdisk diff a.vdk@first
0 4096 data
$ vdisk diff a.vdk@first --summary
4 KiB changed, of it 0 B now zero, in 1 ranges
$ vdisk diff a.vdk@first --json
{
  "schema": "vdisk.diff/1",
  "extents": [
    {"offset": 0, "length": 4096, "zero": false}
  ],
  "changed": 4096,
  "zero": 0
}
$ vdisk clone a.vdk@first other
$ vdisk export a.vdk:other - | cmp - one.raw
$ vdisk export a.vdk:disk - | cmp - two.raw
$ stop s
$ vdisk rollback a.vdk@first
! vdisk: the pool has 2 volumes: say which one, as POOL:VOLUME
[2]
$ vdisk rollback a.vdk:disk@first
The state before is kept as disk@before-rollback-first-1.
$ vdisk export a.vdk:disk - | cmp - one.raw
$ vdisk ls a.vdk:disk
SNAPSHOT                 TAKEN                 SIZE    OWN  CLONES  HOLDS
first                    TIME  1 MiB    0 B       2      0
before-rollback-first-1  TIME  1 MiB  4 KiB       0      0
$ vdisk export a.vdk:disk@$(vdisk ls a.vdk:disk --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["snapshots"][1]["name"])') - | cmp - two.raw
$ vdisk rollback a.vdk:disk@first --discard-current --json
{
  "schema": "vdisk.rollback/1",
  "volume": "disk",
  "snapshot": "first"
}
$ vdisk rollback a.vdk:disk@none
! vdisk: volume "disk" has no snapshot "none": "vdisk snapshot list POOL" lists the snapshots
[3]
$ vdisk rollback a.vdk:disk
! vdisk: the snapshot is missing: write a.vdk:disk@SNAPSHOT
[2]
$ vdisk clone a.vdk:disk@first other
! vdisk: there is already a volume "other": choose another name, or delete it first
[1]
$ vdisk clone a.vdk:disk@none new
! vdisk: volume "disk" has no snapshot "none": "vdisk snapshot list POOL" lists the snapshots
[3]
$ vdisk clone a.vdk:disk@first a.vdk:new
! vdisk: "a.vdk:new" is no volume name: letters, digits, '.', '_' and '-', at most 127, beginning with a letter or digit
[2]
$ vdisk diff a.vdk:disk
! vdisk: the snapshot to compare from is missing: write a.vdk:disk@SNAPSHOT
[2]
$ vdisk diff a.vdk:disk@none
! vdisk: volume "disk" has no snapshot "none": "vdisk snapshot list POOL" lists the snapshots
[3]
$ vdisk diff a.vdk:disk@first b.vdk:disk
! vdisk: b.vdk:disk is in another pool than a.vdk:disk@first
[2]
$ vdisk diff a.vdk:disk@none --json
{
  "schema": "vdisk.diff/1",
  "extents": [],
  "error": {"errno":-2,"id":"snapshot-not-found","message":"volume \"disk\" has no snapshot \"none\""}
}
! vdisk: volume "disk" has no snapshot "none": "vdisk snapshot list POOL" lists the snapshots
[3]
