# SPDX-License-Identifier: MIT
# doors are added, listed and removed while a pool is served; a volume is written through one of them
$ vdisk create a.vdk --size 16M
$ vdisk door list a.vdk
! vdisk: a.vdk is not being served, so it has no doors: "vdisk serve POOL" serves it
[3]
$ vdisk door add a.vdk --nbd unix:x
! vdisk: a.vdk is not being served, so it has no doors: "vdisk serve POOL" serves it
[3]
$ vdisk top a.vdk
! vdisk: a.vdk is not being served: there is nothing to see: "vdisk serve POOL" serves it
[3]
$ vdisk top
! vdisk: no pool is being served: there is nothing to see: "vdisk serve POOL" serves it
[3]
$ serve s a.vdk --nbd unix:one.sock
ready: nbd+unix:///?socket=DIR/one.sock
$ vdisk door add a.vdk --nbd unix:two.sock
nbd+unix:///?socket=DIR/two.sock
$ vdisk door add a.vdk --nbd unix:ro.sock --read-only
nbd+unix:///?socket=DIR/ro.sock
$ vdisk door list a.vdk
KIND  ADDRESS**CLIENTS  STATE
nbd   unix:one.sock**0
nbd   unix:DIR/two.sock**0
nbd   unix:DIR/ro.sock**0  read-only
$ vdisk door add a.vdk
! vdisk: say which door, as for serve: see "vdisk door add --help"
[2]
$ vdisk door add a.vdk --nbd unix:two.sock
! vdisk: there is a door at unix:DIR/two.sock already
[1]
$ vdisk door add a.vdk --nbd nonsense
! vdisk: 'nonsense' is not an address: unix:PATH, tcp:HOST:PORT or fd:N
[1]
$ vdisk door add a.vdk --nbd fd:3
! vdisk: 'fd:3' is not an address: unix:PATH or tcp:HOST:PORT
[1]
$ vdisk door add a.vdk --nbd unix:none/x
! vdisk: unix:none/x: cannot listen: No such file or directory
[3]
$ vdisk door add a.vdk --metrics tcp:0.0.0.0:0
! vdisk: tcp:0.0.0.0:0 can be reached from other machines, and anybody there could read the metrics: take 127.0.0.1, or give --insecure
[8]
$ vdisk door remove a.vdk unix:none.sock
! vdisk: a.vdk has no door unix:DIR/none.sock: see "vdisk door list"
[3]
# a client that stays, until its standard input ends
$ mkfifo hold; (qemu-io -f raw 'nbd+unix:///?socket=one.sock' < hold > held.out) & exec 9> hold; echo 'write -P 7 0 64k' >&9; until grep -q wrote held.out; do sleep 0.05; done; vdisk door list a.vdk | head -2
> qemu-io -f raw -c 'write 0 4k' 'nbd+unix:///?socket=two.sock' 2>&1 | tail -1
> qemu-io -r -f raw -c 'read -P 7 0 4k' 'nbd+unix:///?socket=ro.sock' | head -1
> vdisk volume delete a.vdk:disk 2>&1 | sed 's/by pid [0-9]*, uid [0-9]*/by WHO/'; exec 9>&-; wait
KIND  ADDRESS**CLIENTS  STATE
nbd   unix:one.sock**1
server reported: volume "disk" is being written through the door nbd unix:one.sock: close that, open this read-only, or serve the pool with --shared
read 4096/4096 bytes at offset 0
vdisk: volume "disk" is in use by WHO: disconnect that client first
$ vdisk door remove a.vdk two.sock; vdisk door remove a.vdk unix:ro.sock; vdisk door list a.vdk --json | grep -c address
1
$ ls two.sock ro.sock
! ls: cannot access 'two.sock': No such file or directory
! ls: cannot access 'ro.sock': No such file or directory
[2]
$ stop s
$ serve s a.vdk --nbd unix:one.sock --shared
ready: nbd+unix:///?socket=DIR/one.sock
$ vdisk door add a.vdk --nbd unix:two.sock
nbd+unix:///?socket=DIR/two.sock
$ mkfifo hold2; (qemu-io -f raw 'nbd+unix:///?socket=one.sock' < hold2 > held2.out) & exec 9> hold2; echo 'write -P 8 0 64k' >&9; until grep -q wrote held2.out; do sleep 0.05; done
> qemu-io -f raw -c 'write -P 9 4k 4k' 'nbd+unix:///?socket=two.sock' | head -1; exec 9>&-; wait
wrote 4096/4096 bytes at offset 4096
$ stop s
# watching, and limits
$ serve s a.vdk --nbd unix:one.sock
ready: nbd+unix:///?socket=DIR/one.sock
$ vdisk top a.vdk --count 1 --interval 0.1
**a.vdk  process N  clients 0
cleaner idle 0.0/s  free segments ** of **  to clean up 0 B  log **  cache **, hits ** %
VOLUME  READS/S  BYTES/S  P50  P99  WRITES/S  BYTES/S  P50  P99  IN FLIGHT
disk          0      0 B    -    -         0      0 B    -    -          0
~
$ vdisk door add a.vdk --metrics tcp:127.0.0.1:0
http://127.0.0.1:**/metrics
$ vdisk top --count 1 --interval 0.1 --json
{"schema":"vdisk.top/1","pools":[{"path":"DIR/a.vdk","name":"","pid": N,"clients":0,**"volumes":[{"name":"disk","in_flight":0,**}]}]}
$ vdisk top a.vdk --interval 0
! vdisk: --interval is a number of seconds, 0.1 or more
[2]
$ vdisk top a.vdk --interval soon
! vdisk: --interval is a number of seconds, 0.1 or more
[2]
$ vdisk top a.vdk --count 0
! vdisk: --count is a number, 1 or more
[2]
$ vdisk top none.vdk
! vdisk: none.vdk does not exist: check the path
[3]
$ vdisk volume set a.vdk limit.iops=1000 limit.bandwidth=50MiB limit.burst=10s
$ vdisk volume get a.vdk
read-only=off
limit.iops=1000
limit.bandwidth=50MiB
limit.burst=10s
$ vdisk volume set a.vdk limit.iops=many
! vdisk: limit.iops is a number of requests per second, such as 1000
[2]
$ vdisk volume set a.vdk limit.bandwidth=1
! vdisk: limit.bandwidth is a size per second, such as 50MiB, and at least 4K
[2]
$ vdisk volume set a.vdk limit.burst=2h
! vdisk: limit.burst is a time of up to an hour, such as 10s or 500ms
[2]
$ vdisk volume set a.vdk limit.iops= limit.bandwidth= limit.burst=; vdisk volume get a.vdk
read-only=off
$ stop s
