# SPDX-License-Identifier: MIT
# volume commands do what they say, and say what they do not
$ vdisk create a.vdk --size 64M
$ vdisk volume create a.vdk:data --size 32M
$ vdisk volume create a.vdk:data --size 32M
! vdisk: there is already a volume "data": choose another name, or delete it first
[1]
$ vdisk volume create a.vdk --size 32M
! vdisk: the volume is missing: write a.vdk:VOLUME
[2]
$ vdisk volume create a.vdk:data@x --size 32M
! vdisk: a.vdk:data@x is a snapshot where a volume is wanted: leave @x out
[2]
$ vdisk volume create a.vdk:da,ta --size 32M
! vdisk: "da,ta" is no volume name: letters, digits, '.', '_' and '-', at most 127, beginning with a letter or digit
[2]
$ vdisk volume create a.vdk:huge --size 9E
! vdisk: --size: the size '9E' is too large: see "vdisk volume create --help"
[2]
$ vdisk volume resize a.vdk:data --size 48M
$ vdisk volume resize a.vdk:data --size 16M
! vdisk: volume "data" has 50331648 bytes: making it smaller loses data, say --shrink if that is meant
[1]
$ vdisk volume resize a.vdk:data --size 16M --shrink --json
{
  "schema": "vdisk.volume-resize/1",
  "volume": {
    "name": "data",
    "uuid": "UUID",
    "size": 16777216,
    "created": TIME,
    "read_only": false,
    "snapshots": 0,
    "opens": 0,
    "opens_writable": 0,
    "depth": 0,
    "referenced": 0,
    "exclusive": 0
  }
}
$ vdisk volume rename a.vdk:data date
$ vdisk volume rename a.vdk:date disk
! vdisk: there is already a volume "disk": choose another name, or delete it first
[1]
$ vdisk volume rename a.vdk:date 'da te'
! vdisk: "da te" is no volume name: letters, digits, '.', '_' and '-', at most 127, beginning with a letter or digit
[2]
$ vdisk volume rename a.vdk date
! vdisk: the pool has 2 volumes: say which one, as POOL:VOLUME
[2]
$ vdisk volume set a.vdk:date comment='for the archive' user.owner=ann
$ vdisk volume get a.vdk:date comment
for the archive
$ vdisk volume get a.vdk:date
read-only=off
comment=for the archive
user.owner=ann
$ vdisk volume get a.vdk:date colour
! vdisk: the property colour is not set
[3]
$ vdisk volume set a.vdk:date user.owner=
$ vdisk volume get a.vdk:date --json
{
  "schema": "vdisk.volume-get/1",
  "volume": "date",
  "properties": {
    "read-only": "off",
    "comment": "for the archive"
  }
}
$ vdisk volume set a.vdk:date colour=red
! vdisk: there is no property "colour": use read-only, limit.iops, limit.bandwidth, limit.burst, comment or user.NAME
[2]
$ vdisk volume set a.vdk:date read-only=perhaps
! vdisk: read-only is "on" or "off"
[2]
$ vdisk volume set a.vdk:date read-only
! vdisk: "read-only" is not PROPERTY=VALUE
[2]
$ vdisk volume set a.vdk:date read-only=on
$ vdisk ls a.vdk
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    64 MiB   0 B  0 B          0
date    16 MiB   0 B  0 B          0  read-only
$ vdisk volume delete a.vdk
! vdisk: the volume is missing: write a.vdk:VOLUME
[2]
$ vdisk volume delete a.vdk:none
! vdisk: there is no volume "none": "vdisk ls POOL" lists the volumes
[3]
$ vdisk snapshot create a.vdk:disk@s
$ vdisk volume delete a.vdk:disk
! vdisk: volume "disk" has 1 snapshots: delete them first, or say --recursive
[1]
$ vdisk volume delete a.vdk:disk --recursive --no-wait
$ vdisk volume delete a.vdk:date --json
{
  "schema": "vdisk.volume-delete/1",
  "deleted": "date"
}
$ vdisk ls a.vdk
$ vdisk snapshot create a.vdk@x
! vdisk: the pool has no volume: "vdisk ls POOL" lists the volumes
[3]
