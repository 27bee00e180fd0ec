# SPDX-License-Identifier: MIT
# registered pools: made, found by name, verified by UUID, forgotten
$ vdisk pool list
$ vdisk pool create tank tank.img --capacity 1G
$ vdisk pool list
NAME  UUID                                  DEVICE
tank  UUID  DIR/tank.img
$ vdisk ls tank
$ vdisk volume create tank:web --size 10G
$ vdisk ls tank
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
web     10 GiB   0 B  0 B          0
$ vdisk ls
POOL  PATH**OWNER
tank  DIR/tank.img**-
$ vdisk ls --json
{
  "schema": "vdisk.ls/1",
  "pools": [
    {
      "name": "tank",
      "uuid": "UUID",
      "path": "DIR/tank.img"
    }
  ]
}
$ vdisk pool create tank other.img
! vdisk: a pool is registered as "tank": detach it first, or choose another name
[1]
$ ls
tank.img
$ vdisk pool create ta.nk other.img
! vdisk: "ta.nk" is no name for a pool: letters, digits, '_' and '-', at most 127, beginning with a letter or digit
[2]
$ vdisk pool create other tank.img
! vdisk: tank.img holds a vdisk pool, which would be lost: say --force to overwrite it
[4]
$ head -c 100000 /dev/urandom > data.img; vdisk pool create other data.img
! vdisk: data.img holds data, which would be lost: say --force to overwrite it
[4]
$ truncate -s 16M e2.img; mke2fs -q e2.img && vdisk pool create other e2.img
! vdisk: e2.img holds an ext2, ext3 or ext4 file system, which would be lost: say --force to overwrite it
[4]
$ vdisk pool create other data.img --force
$ vdisk pool list
NAME   UUID                                  DEVICE
other  UUID  DIR/data.img
tank   UUID  DIR/tank.img
$ truncate -s 16M zero.img; vdisk pool create zero zero.img
$ vdisk pool create a b c
! vdisk: "c" is too much: see "vdisk pool create --help"
[2]
$ vdisk pool create dir .
! vdisk: . is neither a file nor a block device
[1]
$ vdisk pool detach zero
$ vdisk pool detach zero
! vdisk: no pool is registered as "zero": "vdisk pool list" lists those that are
[3]
$ vdisk ls zero
! vdisk: no pool is registered as "zero"; a file of that name is written ./zero: "vdisk pool list" lists those that are
[3]
$ vdisk pool attach zero.img
$ vdisk pool attach zero.img zwei
$ vdisk pool attach zero.img tank
! vdisk: another pool is registered as "tank": detach it first, or give this one another name
[1]
$ vdisk pool attach none.img
! vdisk: none.img does not exist: check the path
[3]
$ vdisk pool attach e2.img e2
! vdisk: e2.img is not a vdisk image: "vdisk create" and "vdisk pool create" make pools
[1]
$ vdisk create plain.vdk --size 1M
$ vdisk pool attach plain.vdk
! vdisk: the pool on plain.vdk has no name of its own: give one after the device
[2]
$ vdisk pool attach plain.vdk plain --json
{
  "schema": "vdisk.pool-attach/1",
  "name": "plain",
  "uuid": "UUID",
  "devices": [
    "plain.vdk"
  ]
}
$ vdisk ls plain
VOLUME   SIZE  USED  OWN  SNAPSHOTS  STATE
disk    1 MiB   0 B  0 B          0
$ rm plain.vdk; vdisk create plain.vdk --size 1M
$ vdisk ls plain
! vdisk: DIR/plain.vdk holds pool UUID, but UUID is registered: attach it again, or give the path
[1]
$ rm plain.vdk; vdisk ls plain
! vdisk: DIR/plain.vdk does not exist: check the path
[3]
$ echo rubbish > $VDISK_CONFIG_DIR/pools.json
$ vdisk pool list
! vdisk: CONFIG/pools.json is damaged (line 1): set it right, or remove it and attach the pools again
[5]
$ vdisk ls tank
! vdisk: CONFIG/pools.json is damaged (line 1): set it right, or remove it and attach the pools again
[5]
