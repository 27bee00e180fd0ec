# SPDX-License-Identifier: MIT
# import and export: files, pipes, refusals; a failure leaves nothing behind
$ head -c 3000000 /dev/urandom > src.raw; truncate -s 8M src.raw
$ vdisk import src.raw a.vdk
$ vdisk export a.vdk out.raw
$ cmp src.raw out.raw
$ test $(stat -c %b out.raw) -lt 8000 && stat -c %a out.raw
600
$ vdisk export a.vdk out.raw
! vdisk: out.raw exists already: say --overwrite to write over it
[1]
$ vdisk export a.vdk out.raw --overwrite --json
{
  "schema": "vdisk.export/1",
  "volume": "disk",
  "bytes": 8388608
}
$ vdisk export a.vdk --format floppy x.raw
! vdisk: --format: "floppy" is not one of raw|qcow2|vmdk|vdi|vhdx|vpc: see "vdisk export --help"
[2]
$ vdisk export a.vdk@none x.raw; ls
a.vdk
out.raw
src.raw
! vdisk: volume "disk" has no snapshot "none": "vdisk snapshot list POOL" lists the snapshots
$ vdisk export a.vdk none/x.raw
! vdisk: the directory none does not exist: check the path
[3]
$ vdisk export a.vdk - | cmp - src.raw
$ vdisk export a.vdk - > file.raw; cmp src.raw file.raw
$ vdisk export a.vdk - --json
{
  "error": {
    "id": "usage",
    "message": "--json and the exported data cannot share standard output",
    "target": "a.vdk"
  }
}
! vdisk: --json and the exported data cannot share standard output
[2]
$ vdisk import src.raw a.vdk
! vdisk: a.vdk exists: name a volume, as a.vdk:VOLUME, or a file that does not
[1]
$ vdisk import src.raw a.vdk:disk
! vdisk: the volume disk exists already: choose another name, or delete it first
[1]
$ vdisk import src.raw a.vdk:disk --overwrite
$ vdisk snapshot create a.vdk@s
$ vdisk import src.raw a.vdk:disk --overwrite
! vdisk: the volume disk has 1 snapshots, which --overwrite does not delete: delete them first
[1]
$ cat src.raw | vdisk import - a.vdk:pipe --json
{
  "schema": "vdisk.import/1",
  "volume": "pipe",
  "bytes": 8388608
}
$ vdisk export a.vdk:pipe - | cmp - src.raw
$ vdisk import - a.vdk:file < src.raw
$ vdisk import none.raw b.vdk
! vdisk: none.raw does not exist: check the path
[3]
$ vdisk import . b.vdk
! vdisk: . is a directory
[1]
$ vdisk import /dev/null b.vdk
! vdisk: the source is empty
[1]
$ : > empty.raw; vdisk import empty.raw b.vdk
! vdisk: the source is empty
[1]
$ : > empty.raw; vdisk import empty.raw a.vdk:empty
! vdisk: the source is empty
[1]
$ vdisk import src.raw b.vdk@s
! vdisk: an import makes a volume: leave @s out
[2]
$ vdisk import src.raw b.vdk:v@s
! vdisk: an import makes a volume: leave @s out
[2]
$ vdisk import src.raw none/b.vdk
! vdisk: the directory none does not exist: check the path
[3]
$ vdisk import src.raw a.vdk:new --capacity 1G
! vdisk: --capacity is for a file that is made
[2]
$ vdisk import src.raw c.vdk:root --progress=json 2>&1 | tail -1
{"event":"progress","job":1,"kind":"import","done":8388608,"total":8388608}
$ vdisk ls a.vdk
VOLUME   SIZE     USED      OWN  SNAPSHOTS  STATE
disk    8 MiB  2.9 MiB      0 B          1
pipe    8 MiB  2.9 MiB  2.9 MiB          0
file    8 MiB  2.9 MiB  2.9 MiB          0
$ ls
a.vdk
c.vdk
empty.raw
file.raw
out.raw
src.raw
$ truncate -s 1000 odd.raw; printf abc | dd of=odd.raw conv=notrunc status=none; vdisk import odd.raw odd.vdk
$ vdisk ls odd.vdk
VOLUME   SIZE   USED    OWN  SNAPSHOTS  STATE
disk    1 KiB  4 KiB  4 KiB          0
$ vdisk export odd.vdk - | head -c 3
abc
