# SPDX-License-Identifier: MIT
# every command has help; what does not exist is said so
$ vdisk > /dev/null
! Usage: vdisk COMMAND ...
! Virtual disks with snapshots, in files or on block devices.
!   create             make a disk: a pool of one file with one volume in it
!   pool create        make an empty pool and register it under a name
!   pool list          list registered pools
!   pool attach        register a pool that exists
!   pool detach        forget a registered pool
!   ls                 list pools, volumes or snapshots
!   info               show everything about a pool, a volume or a snapshot
!   tree               draw volumes, snapshots and clones as a tree
!   du                 show what takes the space
!   volume create      make a volume in a pool
!   volume delete      delete a volume
!   volume rename      give a volume another name
!   volume resize      make a volume larger or smaller
!   volume set         set properties of a volume
!   volume get         show properties of a volume
!   snapshot create    take snapshots
!   snapshot list      list the snapshots of a volume
!   snapshot delete    delete snapshots
!   snapshot rename    give a snapshot another name
!   snapshot hold      protect a snapshot from deletion
!   snapshot release   take a hold from a snapshot
!   rollback           make a volume what it was at a snapshot
!   clone              make a new volume from a snapshot or volume
!   diff               list what changed between two points
!   import             copy a disk into a pool
!   export             copy a volume or snapshot out of a pool
!   convert            copy a disk from one format to another
!   serve              serve a pool's volumes to clients
!   mount              show a pool's volumes as files
!   umount             unmount what vdisk mount has mounted
!   door add           open another door of a pool that is being served
!   door remove        close a door of a pool that is being served
!   door list          list the doors of a pool that is being served
!   top                show what volumes do, as it happens
!   job list           list the long jobs of a pool
!   job wait           wait for a job to end
!   job cancel         cancel a job
!   job resume         go on with an interrupted import
!   check              check a pool for damage
! A target is POOL[:VOLUME][@SNAPSHOT]. POOL is a registered name, or the path of the pool's
! file or device (with a '/' or a '.' in it). VOLUME may be left out when there is just one.
! "vdisk COMMAND --help" tells more about each; "vdisk --version" which version this is.
[2]
$ vdisk 2>&1 | head -1
Usage: vdisk COMMAND ...
$ vdisk --version
vdisk 0.1.0
$ vdisk --help | grep -c '^  [a-z]'
39
$ vdisk help --list | wc -l
39
$ vdisk help --list | while read -r c; do vdisk $c --help | grep -q "^Usage: vdisk $c" || echo no help for $c; done
$ vdisk help --list | while read -r c; do vdisk $c -h | awk 'length > 100' ; done
$ vdisk help --list | while read -r c; do vdisk $c --no-such-option > out 2> err; [ $? = 2 ] && [ ! -s out ] && [ $(wc -l < err) = 1 ] || echo $c; done
$ vdisk help --list | while read -r c; do vdisk $c a b c d e f --pool x.vdk --json > out 2> err; [ $? != 0 ] && python3 -c 'import json; json.load(open("out"))' || echo $c; done
$ vdisk help create | head -1
Usage: vdisk create FILE --size N [--volume NAME] [--capacity N]
$ vdisk help snapshot | head -1
Usage: vdisk snapshot COMMAND ...
$ vdisk help nonsense
! vdisk: there is no command "nonsense": see "vdisk --help"
[2]
$ vdisk nonsense
! vdisk: there is no command "nonsense": see "vdisk --help"
[2]
$ vdisk snapshot nonsense
! vdisk: there is no command "snapshot nonsense": see "vdisk snapshot --help"
[2]
$ vdisk snapshot 2>&1 | head -1
Usage: vdisk snapshot COMMAND ...
$ vdisk -x
! vdisk: there is no command "-x": see "vdisk --help"
[2]
$ vdisk help --completion > c.bash && bash -c '. ./c.bash; COMP_WORDS=(vdisk snapshot cr) COMP_CWORD=2; _vdisk 2>/dev/null; echo "${COMPREPLY[@]}"; COMP_WORDS=(vdisk import --ov) COMP_CWORD=2; _vdisk 2>/dev/null; echo "${COMPREPLY[@]}"; COMP_WORDS=(vdisk ex) COMP_CWORD=1; _vdisk; echo "${COMPREPLY[@]}"'
create
--overwrite
export
$ vdisk help --scdoc snapshot create | head -1
vdisk-snapshot-create(1)
$ vdisk create a.vdk --size 1M && vdisk ls a.vdk > /dev/full
! vdisk: the result could not be written: No space left on device
[1]
