# SPDX-License-Identifier: MIT
# jobs can be listed, waited for and cancelled; a cancelled import leaves nothing
$ vdisk create a.vdk --size 16M
$ serve s a.vdk
ready: nbd+unix:///?socket=RUN/DEV-INO.nbd
$ vdisk job list a.vdk
...
$ { (sleep 1000 & echo $! > holder; wait) | (vdisk import - a.vdk:v 2> import.err; echo $? > import.status); } > /dev/null 2>&1 &
> until vdisk job list a.vdk | grep -q running; do :; done
$ vdisk job list a.vdk
ID  KIND ** TARGET ** STATE ** DONE  TOTAL
 1  import  v ** running ** 0 B      -
...
$ vdisk ls a.vdk
VOLUME        SIZE  USED  OWN  SNAPSHOTS  STATE
disk        16 MiB   0 B  0 B          0
v.import-1   1 MiB   0 B  0 B          0  open
$ vdisk job cancel a.vdk 7
! vdisk: there is no job 7: "vdisk job list POOL" lists the jobs
[3]
$ vdisk job cancel a.vdk x
! vdisk: "x" is no job number: see "vdisk job list"
[2]
$ vdisk job cancel a.vdk
! vdisk: ID is missing: see "vdisk job cancel --help"
[2]
$ vdisk job resume a.vdk 1
! vdisk: job 1 cannot be resumed: only an interrupted import can
[1]
$ vdisk job cancel a.vdk 1
$ while [ ! -s import.status ]; do :; done; cat import.status; cat import.err
7
vdisk: import was cancelled
$ kill $(cat holder)
$ vdisk job list a.vdk | grep import
 1  import  v ** cancelled ** 0 B ** -
$ vdisk job list a.vdk --json | grep -v settle
{
  "schema": "vdisk.job-list/1",
  "jobs": [
    {
      "id": 1,
      "kind": "import",
      "target": "v",
      "state": "cancelled",
      "done": 0,
      "total": 0,
      "started": TIME,
      "ended": TIME,
      "error": {
        "errno": -125,
        "id": "cancelled",
        "message": "import was cancelled"
      }
...
$ vdisk job cancel a.vdk 1
! vdisk: job 1 has ended (cancelled)
[1]
$ vdisk job wait a.vdk 1
! vdisk: import was cancelled
[7]
$ vdisk ls a.vdk
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    16 MiB   0 B  0 B          0
$ rm -f import.status; { (sleep 1000 & echo $! > holder; wait) | (vdisk import - a.vdk:v 2> import.err <&0 & echo $! > import.pid; wait $!; echo $? > import.status); } > /dev/null 2>&1 &
> until vdisk job list a.vdk | grep -q running; do :; done
$ kill -INT $(cat import.pid); while [ ! -s import.status ]; do :; done; cat import.status import.err
7
vdisk: import was cancelled
$ kill $(cat holder); vdisk ls a.vdk
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    16 MiB   0 B  0 B          0
$ truncate -s 4M r.raw; vdisk import r.raw a.vdk:w --detach > id; cat id
job **
$ vdisk job wait a.vdk
$ vdisk job wait a.vdk $(cut -d' ' -f2 id)
$ vdisk ls a.vdk
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    16 MiB   0 B  0 B          0
w        4 MiB   0 B  0 B          0
$ vdisk check a.vdk --data --detach --json
{
  "schema": "vdisk.check/1",
  "job": {
    "id": **,
    "kind": "check",
    "target": "DIR/a.vdk",
    "state": "running",
    "done": 0,
    "total": 0,
    "started": TIME
  }
}
$ vdisk job wait a.vdk $(cut -d' ' -f2 id) --json
{
  "schema": "vdisk.job-wait/1",
  "job": {
    "id": **,
    "kind": "import",
    "target": "w",
    "state": "done",
    "done": 4194304,
    "total": 4194304,
    "started": TIME,
    "ended": TIME
  }
}
$ stop s
$ vdisk import r.raw a.vdk:x --detach; vdisk job wait a.vdk; vdisk ls a.vdk
job 1
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    16 MiB   0 B  0 B          0
w        4 MiB   0 B  0 B          0
x        4 MiB   0 B  0 B          0
$ vdisk export a.vdk:x out.raw --detach; vdisk job wait a.vdk; until vdisk volume set a.vdk:x comment=done; do :; done; cmp out.raw r.raw
job 1
$ vdisk import none.raw a.vdk:y --detach
! vdisk: none.raw does not exist: check the path
[3]
$ vdisk job list a.vdk
$ vdisk job wait a.vdk 1
! vdisk: there is no job 1: "vdisk job list POOL" lists the jobs
[3]
$ vdisk job list --pool a.vdk
$ vdisk job wait --pool a.vdk 1
! vdisk: there is no job 1: "vdisk job list POOL" lists the jobs
[3]
