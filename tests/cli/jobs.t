# SPDX-License-Identifier: MIT
# jobs can be listed, waited for and cancelled; a cancelled import leaves nothing
$ vdisk create a.vdk --size 16M
$ serve s a.vdk
$ vdisk job list a.vdk
$ (sleep 1000 2>/dev/null & echo $! > holder; wait) | (vdisk import - a.vdk:v 2> import.err; echo $? > import.status) > /dev/null 2>&1 &
> until vdisk job list a.vdk | grep -q running; do :; done
$ vdisk job list a.vdk
$ vdisk ls a.vdk
$ vdisk job cancel a.vdk 7
$ vdisk job cancel a.vdk x
$ vdisk job cancel a.vdk
$ vdisk job resume a.vdk 1
$ vdisk job cancel a.vdk 1
$ while [ ! -s import.status ]; do :; done; cat import.status; cat import.err
$ kill $(cat holder)
$ vdisk job list a.vdk
$ vdisk job list a.vdk --json
$ vdisk job cancel a.vdk 1
$ vdisk job wait a.vdk 1
$ vdisk ls a.vdk
$ rm -f import.status; (sleep 1000 2>/dev/null & echo $! > holder; wait) | (vdisk import - a.vdk:v 2> import.err & echo $! > import.pid; wait; echo $! > import.status) > /dev/null 2>&1 &
> until vdisk job list a.vdk | grep -q running; do :; done
$ kill -INT $(cat import.pid); while [ ! -s import.status ]; do :; done; cat import.err
$ kill $(cat holder); vdisk ls a.vdk
$ truncate -s 4M r.raw; vdisk import r.raw a.vdk:w --detach
$ vdisk job wait a.vdk
$ vdisk job wait a.vdk 3
$ vdisk ls a.vdk
$ vdisk check a.vdk --data --detach --json
$ vdisk job wait a.vdk 4 --json
$ stop s
$ vdisk import r.raw a.vdk:x --detach; vdisk job wait a.vdk; vdisk ls a.vdk
$ vdisk export a.vdk:x out.raw --detach; vdisk job wait a.vdk; until vdisk volume set a.vdk:x comment=done; do :; done; cmp out.raw r.raw
$ vdisk import none.raw a.vdk:y --detach
$ vdisk job list a.vdk
$ vdisk job wait a.vdk 1
$ vdisk job list --pool a.vdk
$ vdisk job wait --pool a.vdk 1
