# SPDX-License-Identifier: MIT
# create makes a file of its owner's, refuses what exists, and leaves nothing behind
$ vdisk create a.vdk --size 64M
$ stat -c %a a.vdk
600
$ vdisk create a.vdk --size 64M
! vdisk: a.vdk exists already: choose another name, or remove it first
[1]
$ vdisk create b.vdk
! vdisk: --size is missing: see "vdisk create --help"
[2]
$ vdisk create b.vdk --size
! vdisk: --size needs a value: see "vdisk create --help"
[2]
$ vdisk create b.vdk --size 0
! vdisk: --size: zero is no size: see "vdisk create --help"
[2]
$ vdisk create b.vdk --size 1000
! vdisk: --size: 1000 is no multiple of 512 bytes: see "vdisk create --help"
[2]
$ vdisk create b.vdk --size big
! vdisk: --size: 'big' is not a size: give bytes, or a number with K, M, G, T, P or E: see "vdisk create --help"
[2]
$ vdisk create b.vdk --size 64M --size 65M
! vdisk: --size is given twice: see "vdisk create --help"
[2]
$ vdisk create b.vdk --size 64M --volume a/b
! vdisk: --volume: "a/b" is no name (letters, digits, '.', '_' and '-', beginning with a letter or digit): see "vdisk create --help"
[2]
$ vdisk create b.vdk --size 64M --colour red
! vdisk: there is no option --colour: see "vdisk create --help"
[2]
$ vdisk create b.vdk c.vdk --size 64M
! vdisk: "c.vdk" is too much: see "vdisk create --help"
[2]
$ vdisk create --size 64M
! vdisk: FILE is missing: see "vdisk create --help"
[2]
$ vdisk create none/b.vdk --size 64M
! vdisk: the directory none does not exist: check the path
[3]
$ vdisk create a.vdk/b.vdk --size 64M
! vdisk: a.vdk: Not a directory
[1]
$ vdisk create . --size 64M
! vdisk: . exists already: choose another name, or remove it first
[1]
$ ln -s nowhere link.vdk
$ vdisk create link.vdk --size 64M
! vdisk: link.vdk exists already: choose another name, or remove it first
[1]
$ vdisk create b.vdk --size 64M --volume root --json
{
  "schema": "vdisk.create/1",
  "path": "b.vdk",
  "uuid": "UUID",
  "volume": "root",
  "size": 67108864,
  "reserve": true
}
$ vdisk create b.vdk --size 64M --json
{
  "error": {
    "id": "exists",
    "message": "b.vdk exists already",
    "target": "b.vdk"
  }
}
! vdisk: b.vdk exists already: choose another name, or remove it first
[1]
$ vdisk create 'a b@c:d.vdk' --size=1G --capacity 100M
$ vdisk ls --pool 'a b@c:d.vdk'
VOLUME   SIZE  USED  OWN  SNAPSHOTS  STATE
disk    1 GiB   0 B  0 B          0
$ ls
a b@c:d.vdk
a.vdk
b.vdk
link.vdk
