# SPDX-License-Identifier: MIT
# snapshot commands: several at once are all or none, held ones stay
$ vdisk create a.vdk --size 16M
$ vdisk volume create a.vdk:two --size 16M
$ vdisk snapshot create a.vdk:disk@s1 a.vdk:two@s1
$ vdisk snapshot create a.vdk:disk@s2 a.vdk:two@s1
! vdisk: there is already a snapshot "two@s1": choose another name, or delete it first
[1]
$ vdisk snapshot list a.vdk
SNAPSHOT  TAKEN                  SIZE  OWN  CLONES  HOLDS
disk@s1   TIME  16 MiB  0 B       0      0
two@s1    TIME  16 MiB  0 B       0      0
$ vdisk snapshot create a.vdk:disk@s2 a.vdk:disk@s2
! vdisk: disk@s2 is named twice
[2]
$ vdisk snapshot create a.vdk:disk
! vdisk: the snapshot is missing: write a.vdk:disk@SNAPSHOT
[2]
$ vdisk snapshot create a.vdk@s2
! vdisk: the pool has 2 volumes: say which one, as POOL:VOLUME
[2]
$ vdisk snapshot create a.vdk:disk@s2 --json
{
  "schema": "vdisk.snapshot-create/1",
  "snapshots": [
    {
      "volume": "disk",
      "name": "s2",
      "uuid": "UUID",
      "size": 16777216,
      "epoch": 2,
      "created": TIME,
      "exclusive": 0,
      "clones": 0,
      "holds": 0,
      "automatic": false
    }
  ]
}
$ vdisk snapshot create a.vdk:disk@-s2
! vdisk: "-s2" is no snapshot name: letters, digits, '.', '_' and '-', at most 127, beginning with a letter or digit
[2]
$ vdisk snapshot create a.vdk:disk@s3 b.vdk:disk@s3
! vdisk: b.vdk:disk@s3 is in another pool than a.vdk:disk@s3: give one command for each pool
[2]
$ vdisk snapshot rename a.vdk:disk@s2 s1
! vdisk: there is already a snapshot "disk@s1": choose another name, or delete it first
[1]
$ vdisk snapshot rename a.vdk:disk@s2 second
$ vdisk snapshot rename a.vdk:disk second
! vdisk: the snapshot is missing: write a.vdk:disk@SNAPSHOT
[2]
$ vdisk snapshot hold a.vdk:disk@second backup
$ vdisk snapshot delete a.vdk:disk@s1 a.vdk:disk@second
! vdisk: snapshot "disk@second" is held (1 tags): release its holds first
[4]
$ vdisk snapshot list a.vdk:disk
SNAPSHOT  TAKEN                  SIZE  OWN  CLONES  HOLDS
s1        TIME  16 MiB  0 B       0      0
second    TIME  16 MiB  0 B       0      1
$ vdisk snapshot release a.vdk:disk@second nobody
! vdisk: snapshot "disk@second" is not held by "nobody"
[3]
$ vdisk snapshot release a.vdk:disk@second backup
$ vdisk snapshot delete a.vdk:disk@s1 a.vdk:disk@second a.vdk:two@none
! vdisk: volume "two" has no snapshot "none": "vdisk snapshot list POOL" lists the snapshots
[3]
$ vdisk snapshot delete a.vdk:disk@s1 a.vdk:disk@second --json
{
  "schema": "vdisk.snapshot-delete/1",
  "deleted": [
    {
      "volume": "disk",
      "name": "s1"
    },
    {
      "volume": "disk",
      "name": "second"
    }
  ]
}
$ vdisk snapshot list a.vdk
SNAPSHOT  TAKEN                  SIZE  OWN  CLONES  HOLDS
two@s1    TIME  16 MiB  0 B       0      0
$ vdisk snapshot delete a.vdk:two@s1
$ vdisk snapshot list a.vdk
