# SPDX-License-Identifier: MIT
# damage is found, named and never exported; a full pool refuses and can be emptied
$ yes 'a line that is easy to find again' | head -c 1M > src.raw
> vdisk import src.raw a.vdk && vdisk check a.vdk --data
No damage found: ** nodes, ** runs**.
$ cp a.vdk b.vdk; python3 -c 'f = open("b.vdk", "r+b"); d = f.read(); at = d.index(b"a line that", 1 << 20); f.seek(at); f.write(b"A")'
$ vdisk check b.vdk
No damage found: ** nodes, ** runs**.
$ vdisk check b.vdk --data
branch **, blocks ** (segment **, sector **): bad checksum
DAMAGED: 1 errors in ** nodes, ** runs**.
[5]
$ vdisk check b.vdk --data --json | grep -v findings
{
  "schema": "vdisk.check/1",
  "sound": false,
  "data": true,
    "branch **, blocks ** (segment **, sector **): bad checksum"
  ],
  "found": 1,
  "nodes": **,
  "runs": **,
  "blocks": 256,
  "errors": 1,
  "repairable": 0
}
$ vdisk export b.vdk out.raw
! vdisk: error: b.vdk: ** blocks in segment **, sector **: Bad message
! vdisk: error: volume disk: reading **: checksum mismatch
! vdisk: cannot read the source at offset **: Bad message
[5]
$ ls
a.vdk
b.vdk
src.raw
$ vdisk export b.vdk - | wc -c
0
! vdisk: error: b.vdk: ** blocks in segment **, sector **: Bad message
! vdisk: error: volume disk: reading **: checksum mismatch
! vdisk: cannot read the source at offset **: Bad message
$ vdisk ls b.vdk
VOLUME   SIZE   USED    OWN  SNAPSHOTS  STATE
disk    1 MiB  1 MiB  1 MiB          0
$ vdisk snapshot create b.vdk@still-works
$ truncate -s 100K b.vdk; vdisk ls b.vdk
! vdisk: b.vdk is not a vdisk image: "vdisk create" and "vdisk pool create" make pools
[1]
$ truncate -s 0 b.vdk; vdisk ls b.vdk
! vdisk: b.vdk is not a vdisk image: "vdisk create" and "vdisk pool create" make pools
[1]
$ head -c 2M /dev/urandom > b.vdk; vdisk check b.vdk
! vdisk: b.vdk is not a vdisk image: "vdisk create" and "vdisk pool create" make pools
[1]
$ cp a.vdk b.vdk; dd if=/dev/zero of=b.vdk bs=4096 count=1 conv=notrunc status=none; vdisk check b.vdk
No damage found: ** nodes, ** runs**.
$ vdisk create full.vdk --size 1G --capacity 64M
$ head -c 100M /dev/urandom > big.raw; vdisk import big.raw full.vdk:big
! vdisk: cannot write to the target at offset **: No space left on device
[6]
$ vdisk ls full.vdk
VOLUME   SIZE  USED  OWN  SNAPSHOTS  STATE
disk    1 GiB   0 B  0 B          0
$ serve s full.vdk --nbd unix:s.sock
ready: nbd+unix:///?socket=DIR/s.sock
$ qemu-img convert -n -f raw big.raw -O raw 'nbd+unix:///disk?socket=s.sock'
! qemu-img: error while writing at byte **: No space left on device
[1]
$ vdisk volume delete full.vdk:disk
$ vdisk volume create full.vdk:new --size 8M
$ head -c 8M big.raw > small.raw; until vdisk import small.raw full.vdk:small 2> err; do grep -q space err || cat err; done; vdisk export full.vdk:small - | cmp - small.raw
$ stop s
$ vdisk check full.vdk --data
No damage found: ** nodes, ** runs**.
