# SPDX-License-Identifier: MIT
# images of other programs: what is said of them, and what is refused
$ head -c 1000000 /dev/urandom > src.raw; truncate -s 8M src.raw
$ qemu-img convert -O qcow2 src.raw src.qcow2
$ vdisk import src.qcow2 a.vdk
! vdisk: src.qcow2 looks like a qcow2 image: say --format qcow2, or --format raw to take it byte by byte
[2]
$ vdisk import src.qcow2 a.vdk --format vdi
! vdisk: DIR/src.qcow2 is no vdi image
[1]
$ vdisk import src.qcow2 a.vdk --format luks
! vdisk: --format: "luks" is not one of raw|qcow2|vmdk|vdi|vhdx|vpc: see "vdisk import --help"
[2]
$ vdisk import src.qcow2 a.vdk --format qcow2 --verify --json
{
  "schema": "vdisk.import/1",
  "volume": "disk",
  "bytes": 8388608
}
$ vdisk import none.qcow2 b.vdk --format qcow2
! vdisk: none.qcow2 does not exist: check the path
[3]
$ vdisk import . b.vdk --format qcow2
! vdisk: . is a directory
[1]
$ vdisk import - b.vdk --format qcow2 < src.qcow2
! vdisk: only a raw disk can come from a pipe
[2]
$ cat src.raw | vdisk import - b.vdk --verify
! vdisk: what comes from a pipe cannot be verified: it can be read only once
[2]
$ ls
a.vdk
src.qcow2
src.raw
$ vdisk export a.vdk out.qcow2
! vdisk: out.qcow2 is named like a qcow2 image: say --format qcow2, or --format raw
[2]
$ vdisk export a.vdk out.qcow2 --format qcow2 --json
{
  "schema": "vdisk.export/1",
  "volume": "disk",
  "bytes": 8388608
}
$ qemu-img compare out.qcow2 src.raw; stat -c %a out.qcow2
Images are identical.
600
$ vdisk export a.vdk out.qcow2 --format qcow2
! vdisk: out.qcow2 exists already: say --overwrite to write over it
[1]
$ vdisk export a.vdk out.qcow2 --format qcow2 --overwrite
$ vdisk export a.vdk out.vmdk --format vmdk --compress
! vdisk: --compress is for qcow2: say --subformat streamOptimized
[2]
$ vdisk export a.vdk out.vmdk --format vmdk --subformat odd
! vdisk: --subformat: "odd" is not one of monolithicSparse|streamOptimized
[2]
$ vdisk export a.vdk out.qcow2 --format qcow2 --subformat odd
! vdisk: qcow2 has no subformats
[2]
$ vdisk export a.vdk out.x --subformat fixed
! vdisk: --compress and --subformat are not for raw
[2]
$ vdisk export a.vdk out.vmdk --format vmdk --subformat streamOptimized --progress=json 2>&1 | tail -1
{"event":"progress","job":1,"kind":"export","done":8388608,"total":8388608}
$ vdisk export a.vdk - --format qcow2 | wc -c
0
! vdisk: only a raw disk can go into a pipe
$ vdisk export a.vdk - --verify | wc -c
0
! vdisk: what goes into a pipe cannot be verified
$ vdisk export a.vdk none/out.qcow2 --format qcow2
! vdisk: the directory none does not exist: check the path
[3]
$ vdisk export a.vdk@none out2.qcow2 --format qcow2
! vdisk: volume "disk" has no snapshot "none": "vdisk snapshot list POOL" lists the snapshots
[3]
$ mkfifo pipe; vdisk export a.vdk pipe --format qcow2 --overwrite
! vdisk: pipe is no file: only raw can go there
[1]
$ vdisk convert out.vmdk out.vdi --source-format vmdk --format vdi --verify
$ vdisk convert out.vmdk out.raw
! vdisk: out.vmdk looks like a vmdk image: say --source-format vmdk, or --source-format raw to take it byte by byte
[2]
$ vdisk convert out.vmdk out.vhdx --source-format vmdk
! vdisk: out.vhdx is named like a vhdx image: say --format vhdx, or --format raw
[2]
$ vdisk convert - out.raw
! vdisk: convert works on files, devices and NBD servers, not on pipes
[2]
$ vdisk convert src.raw out.vdi --format vdi
! vdisk: out.vdi exists already: say --overwrite to write over it
[1]
$ vdisk convert src.raw out.raw --json
{
  "schema": "vdisk.convert/1",
  "bytes": 8388608
}
$ cmp src.raw out.raw
$ vdisk import nbd://127.0.0.1:1/x b.vdk
! vdisk: tcp:127.0.0.1:1: cannot connect: Connection refused
[1]
$ vdisk import nbd+unix:///x?socket=$DIR/none b.vdk
! vdisk: unix:DIR/none: cannot connect: No such file or directory
[3]
$ vdisk import nbd+unix:///x b.vdk
! vdisk: nbd+unix:///x is not understood: nbd://HOST[:PORT][/EXPORT] or nbd+unix:///[EXPORT]?socket=PATH
[2]
$ vdisk import nbds://host/x b.vdk
! vdisk: nbds://host/x: NBD with TLS is not supported here: use nbd:// or nbd+unix://
[9]
$ vdisk import nbd://127.0.0.1:1/x b.vdk --format qcow2
! vdisk: what an NBD server gives is raw: leave --format out
[2]
$ vdisk export a.vdk nbd://127.0.0.1:1/x --format qcow2
! vdisk: what an NBD server gets is raw: leave --format out
[2]
$ vdisk export a.vdk nbd://127.0.0.1:1/x
! vdisk: tcp:127.0.0.1:1: cannot connect: Connection refused
[1]
$ mkdir sub; qemu-img create -q -f qcow2 -b ../src.raw -F raw sub/over.qcow2
$ vdisk import sub/over.qcow2 b.vdk --format qcow2
! vdisk: DIR/sub/over.qcow2 refers to ../src.raw, outside its own directory: if you trust the image, say --trust-source
[8]
$ vdisk import sub/over.qcow2 b.vdk --format qcow2 --trust-source
$ vdisk export b.vdk - | cmp - src.raw
$ head -c 300000 src.qcow2 > cut.qcow2; vdisk import cut.qcow2 c.vdk --format qcow2
! vdisk: DIR/cut.qcow2 is damaged: it ends before its data does: it was cut short
[5]
$ PATH=$(dirname $(command -v vdisk)) vdisk import src.qcow2 c.vdk --format qcow2
! vdisk: qemu-storage-daemon is not installed, which image formats need: install the package qemu-system-common
[9]
$ PATH=$(dirname $(command -v vdisk)) vdisk export a.vdk c.qcow2 --format qcow2
! vdisk: qemu-img is not installed, which image formats need: install the package qemu-utils
[9]
$ ls
a.vdk
b.vdk
cut.qcow2
out.qcow2
out.raw
out.vdi
out.vmdk
pipe
src.qcow2
src.raw
sub
