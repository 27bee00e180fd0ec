# SPDX-License-Identifier: MIT
# ls, info, tree and du show pools, volumes, snapshots and clones
$ vdisk create a.vdk --size 64M
$ vdisk ls a.vdk
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    64 MiB   0 B  0 B          0
$ vdisk ls ./a.vdk
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    64 MiB   0 B  0 B          0
$ vdisk ls $PWD/a.vdk
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    64 MiB   0 B  0 B          0
$ vdisk ls a.vdk:disk
$ vdisk volume create a.vdk:data --size 1.5G
$ vdisk snapshot create a.vdk:disk@one a.vdk:data@one
$ vdisk snapshot create a.vdk:disk@two
$ vdisk clone a.vdk:disk@one copy
$ vdisk clone a.vdk:copy copy2
$ vdisk ls a.vdk
VOLUME     SIZE  USED  OWN  SNAPSHOTS  STATE
disk     64 MiB   0 B  0 B          2
data    1.5 GiB   0 B  0 B          1
copy     64 MiB   0 B  0 B          0
copy2    64 MiB   0 B  0 B          0
$ vdisk ls a.vdk:disk
SNAPSHOT  TAKEN                  SIZE  OWN  CLONES  HOLDS
one       TIME  64 MiB  0 B       1      0
two       TIME  64 MiB  0 B       0      0
$ vdisk tree a.vdk
disk  64 MiB
├─ @one  TIME
│  └─ copy  64 MiB
│     └─ copy2  64 MiB
└─ @two  TIME
data  1.5 GiB
└─ @one  TIME
$ vdisk du a.vdk
NAME      USED  OWN
disk       0 B  0 B
disk@one     -  0 B
disk@two     -  0 B
data       0 B  0 B
data@one     -  0 B
copy       0 B  0 B
copy2      0 B  0 B
~
live data **, metadata **, allocated **
$ vdisk info a.vdk
path         DIR/a.vdk
uuid         UUID
format       1.0
made         TIME
capacity     **
allocated    **
live data    **
metadata     **
reserved     **
log          **
volumes      4
snapshots    3
~
VOLUME     SIZE  USED  OWN  SNAPSHOTS  STATE
disk     64 MiB   0 B  0 B          2
data    1.5 GiB   0 B  0 B          1
copy     64 MiB   0 B  0 B          0
copy2    64 MiB   0 B  0 B          0
$ vdisk info a.vdk:disk
volume       disk
uuid         UUID
size         64 MiB
made         TIME
used         0 B
own          0 B
snapshots    2
open         0 times, 0 for writing
$ vdisk info a.vdk:copy
volume       copy
uuid         UUID
size         64 MiB
made         TIME
used         0 B
own          0 B
snapshots    0
open         0 times, 0 for writing
origin       disk@one (depth 1)
$ vdisk info a.vdk:disk@two
snapshot     disk@two
uuid         UUID
size         64 MiB
taken        TIME
own          0 B
clones       0
holds        0
$ vdisk info a.vdk:disk@three
! vdisk: disk has no snapshot three: "vdisk snapshot list POOL" lists the snapshots
[3]
$ vdisk info a.vdk:dusk
! vdisk: there is no volume "dusk": "vdisk ls POOL" lists the volumes
[3]
$ vdisk info a.vdk@two
! vdisk: the pool has 4 volumes: say which one, as POOL:VOLUME
[2]
$ vdisk ls a.vdk:disk --json
{
  "schema": "vdisk.ls/1",
  "volumes": [
    {
      "name": "disk",
      "uuid": "UUID",
      "size": 67108864,
      "created": TIME,
      "read_only": false,
      "snapshots": 2,
      "opens": 0,
      "opens_writable": 0,
      "depth": 0,
      "referenced": 0,
      "exclusive": 0
    }
  ],
  "snapshots": [
    {
      "volume": "disk",
      "name": "one",
      "uuid": "UUID",
      "size": 67108864,
      "epoch": 1,
      "created": TIME,
      "exclusive": 0,
      "clones": 1,
      "holds": 0,
      "automatic": false
    },
    {
      "volume": "disk",
      "name": "two",
      "uuid": "UUID",
      "size": 67108864,
      "epoch": 2,
      "created": TIME,
      "exclusive": 0,
      "clones": 0,
      "holds": 0,
      "automatic": false
    }
  ]
}
$ vdisk info a.vdk:disk@two --json
{
  "schema": "vdisk.info/1",
  "snapshot": {
    "volume": "disk",
    "name": "two",
    "uuid": "UUID",
    "size": 67108864,
    "epoch": 2,
    "created": TIME,
    "exclusive": 0,
    "clones": 0,
    "holds": 0,
    "automatic": false
  }
}
$ vdisk tree
! vdisk: TARGET is missing: see "vdisk tree --help"
[2]
$ vdisk du
! vdisk: TARGET is missing: see "vdisk du --help"
[2]
