# SPDX-License-Identifier: MIT
# a served pool takes every command through its owner; a second owner is refused by name
$ vdisk create a.vdk --size 16M
$ serve s a.vdk
ready: nbd+unix:///?socket=RUN/DEV-INO.nbd
$ vdisk ls
POOL  PATH**OWNER
-     DIR/a.vdk**PID N (vdisk serve)
$ vdisk serve a.vdk
! vdisk: a.vdk is in use by process N (vdisk serve): wait until that ends, or stop it
[4]
$ vdisk ls a.vdk
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    16 MiB   0 B  0 B          0
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
volumes      1
snapshots    0
served by    vdisk serve
door         nbd unix:RUN/DEV-INO.nbd
~
VOLUME    SIZE  USED  OWN  SNAPSHOTS  STATE
disk    16 MiB   0 B  0 B          0
$ vdisk volume create a.vdk:b --size 8M
$ vdisk volume resize a.vdk:b --size 9M
$ vdisk volume rename a.vdk:b c
$ vdisk volume set a.vdk:c comment=hi
$ vdisk volume get a.vdk:c
read-only=off
comment=hi
$ vdisk snapshot create a.vdk:disk@one a.vdk:c@one
$ vdisk snapshot hold a.vdk:c@one me
$ vdisk snapshot delete a.vdk:c@one
! vdisk: snapshot "c@one" is held (1 tags): release its holds first
[4]
$ vdisk snapshot release a.vdk:c@one me
$ vdisk snapshot rename a.vdk:c@one uno
$ vdisk snapshot list a.vdk
SNAPSHOT  TAKEN                  SIZE  OWN  CLONES  HOLDS
disk@one  TIME  16 MiB  0 B       0      0
c@uno     TIME   9 MiB  0 B       0      0
$ vdisk clone a.vdk:c@uno d
$ vdisk diff a.vdk:disk@one
$ head -c 1M /dev/urandom > r.raw; vdisk import r.raw a.vdk:r && vdisk export a.vdk:r - | cmp - r.raw
$ vdisk import r.raw a.vdk:r
! vdisk: the volume r exists already: choose another name, or delete it first
[1]
$ vdisk rollback a.vdk:c@uno
The state before is kept as c@before-rollback-uno-1.
$ vdisk check a.vdk --data
No damage found: ** nodes, ** runs**.
$ vdisk volume delete a.vdk:d
$ vdisk job wait a.vdk
$ vdisk tree a.vdk
disk  16 MiB
└─ @one  TIME
c  9 MiB
├─ @uno  TIME
└─ @before-rollback-uno-1  TIME
r  1 MiB
$ stop s
$ vdisk ls a.vdk:r
$ ls $VDISK_RUNTIME_DIR
$ serve s a.vdk --nbd unix:one.sock --nbd tcp:127.0.0.1:0 --json
{"schema":"vdisk.serve/1","event":"ready","pid": N,"doors":[{"kind":"nbd","address":"unix:one.sock","uri":"nbd+unix:///?socket=DIR/one.sock","tls":false,"read_only":false,"clients":[]},{"kind":"nbd","address":"tcp:127.0.0.1:**","uri":"nbd://127.0.0.1:**","tls":false,"read_only":false,"clients":[]}]}
$ stop s
$ vdisk serve a.vdk --nbd nonsense
! vdisk: 'nonsense' is not an address: unix:PATH, tcp:HOST:PORT or fd:N
[1]
$ vdisk serve a.vdk --nbd unix:none/x.sock
! vdisk: unix:none/x.sock: cannot listen: No such file or directory
[3]
$ vdisk serve a.vdk:disk
! vdisk: a pool is served as a whole: leave the volume and snapshot out
[2]
$ vdisk serve none.vdk
! vdisk: none.vdk does not exist: check the path
[3]
$ vdisk serve a.vdk --cifs x
! vdisk: there is no option --cifs: see "vdisk serve --help"
[2]
$ serve r a.vdk --read-only --nbd unix:r.sock
ready: nbd+unix:///?socket=DIR/r.sock
$ vdisk ls a.vdk
VOLUME    SIZE   USED    OWN  SNAPSHOTS  STATE
disk    16 MiB    0 B    0 B          1
c        9 MiB    0 B    0 B          2
r        1 MiB  1 MiB  1 MiB          0
$ vdisk export a.vdk:r - | cmp - r.raw
$ vdisk volume create a.vdk:new --size 1M
! vdisk: a.vdk is served read-only by process N (vdisk serve): stop that, or serve it without --read-only
[4]
$ qemu-img convert -n -f raw r.raw -O raw 'nbd+unix:///r?socket=r.sock'
! qemu-img: Could not open 'nbd+unix:///r?socket=r.sock': Could not open image: Permission denied
[1]
$ stop r
$ serve s a.vdk
ready: nbd+unix:///?socket=RUN/DEV-INO.nbd
$ crash s
[137]
$ vdisk ls a.vdk:r
$ serve s a.vdk
ready: nbd+unix:///?socket=RUN/DEV-INO.nbd
$ stop s
