# SPDX-License-Identifier: MIT
# a TCP door lets in only who proves who he is, unless told otherwise, and says what it needs for that
$ vdisk create a.vdk --size 1M
$ vdisk serve a.vdk --nbd tcp:0.0.0.0:0
! vdisk: tcp:0.0.0.0:0 can be reached from other machines, and anybody there could read and write the volumes: give --tls-cert or --tls-psk, or --insecure
[8]
$ vdisk serve a.vdk --nbd tcp:[::]:0 --json
{
  "error": {
    "id": "address-remote",
    "message": "tcp:[::]:0 can be reached from other machines, and anybody there could read and write the volumes: give --tls-cert or --tls-psk, or --insecure",
    "target": "tcp:[::]:0"
  }
}
! vdisk: tcp:[::]:0 can be reached from other machines, and anybody there could read and write the volumes: give --tls-cert or --tls-psk, or --insecure
[8]
$ serve s a.vdk --nbd tcp:0.0.0.0:0 --insecure
ready: nbd://0.0.0.0:**
$ stop s
$ serve s a.vdk --nbd tcp:127.0.0.1:0 --nbd tcp:localhost:0
ready: nbd://127.0.0.1:**
$ stop s
ready: nbd://localhost:**
$ vdisk serve a.vdk --nbd tcp:nowhere.invalid:1
! vdisk: nowhere.invalid: Name or service not known
[3]
$ vdisk serve a.vdk --nbd udp:127.0.0.1:1
! vdisk: 'udp:127.0.0.1:1' is not an address: unix:PATH, tcp:HOST:PORT or fd:N
[1]

# certificates, as the README makes them
$ mkdir tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=my disks" -keyout tls/ca-key.pem -out tls/ca-cert.pem 2>/dev/null
$ openssl req -x509 -CA tls/ca-cert.pem -CAkey tls/ca-key.pem -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=server -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=CA:FALSE -keyout tls/server-key.pem -out tls/server-cert.pem 2>/dev/null
$ openssl req -x509 -CA tls/ca-cert.pem -CAkey tls/ca-key.pem -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=alice -addext basicConstraints=CA:FALSE -keyout tls/client-key.pem -out tls/client-cert.pem 2>/dev/null
$ serve s a.vdk --nbd tcp:0.0.0.0:0 --nbd unix:s --tls-cert tls
ready: nbds://0.0.0.0:**
$ port=$(vdisk info a.vdk --json | sed -n 's/.*"tcp:0.0.0.0:\(.*\)".*/\1/p'); nbdinfo --size "nbds://127.0.0.1:$port?tls-certificates=tls"; nbdinfo --size "nbd+unix:///?socket=s"; nbdinfo --size "nbd://127.0.0.1:$port"
1048576
1048576
! nbdinfo: nbd_connect_uri: handshake: server requires TLS encryption first: Operation not supported
[1]
$ port=$(vdisk info a.vdk --json | sed -n 's/.*"tcp:0.0.0.0:\(.*\)".*/\1/p'); /usr/bin/python3 -c 'import nbd, os, sys; h = nbd.NBD(); h.set_uri_allow_local_file(True); h.connect_uri(sys.argv[1]); os.system("vdisk info a.vdk | grep -A1 TLS")' "nbds://127.0.0.1:$port?tls-certificates=tls" | sed 's/:[0-9][0-9]* /:PORT /'
door         nbd tcp:0.0.0.0:PORT (TLS)
  client     127.0.0.1:PORT (alice) on "disk", read 0 B, written 0 B
$ stop s
ready: nbd+unix:///?socket=DIR/s

# what is wrong with the files
$ vdisk serve a.vdk --tls-cert tls
! vdisk: TLS is for TCP, and there is no TCP door: add --nbd tcp:HOST:PORT, or leave --tls-cert and --tls-psk out
[2]
$ vdisk serve a.vdk --nbd unix:s --tls-psk none
! vdisk: TLS is for TCP, and there is no TCP door: add --nbd tcp:HOST:PORT, or leave --tls-cert and --tls-psk out
[2]
$ vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-cert none
! vdisk: none/server-cert.pem does not exist: check the path
[3]
$ vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-psk none
! vdisk: none does not exist: check the path
[3]
$ chmod 644 tls/server-key.pem; vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-cert tls; chmod 600 tls/server-key.pem
! vdisk: tls/server-key.pem holds secrets but others than its owner may open it (mode 0644): chmod 600 tls/server-key.pem
$ mv tls/ca-cert.pem ca; vdisk serve a.vdk --nbd tcp:0.0.0.0:0 --tls-cert tls
! vdisk: tcp:0.0.0.0:0 can be reached from other machines, and anybody there could read and write the volumes: put the authority that signs your clients' certificates beside the server's as ca-cert.pem, or give --insecure
[8]
$ serve s a.vdk --nbd tcp:127.0.0.1:0 --tls-cert tls
ready: nbds://127.0.0.1:**
$ stop s
$ serve s a.vdk --nbd tcp:0.0.0.0:0 --tls-cert tls --insecure
ready: nbds://0.0.0.0:**
$ stop s
$ echo x > tls/ca-cert.pem; vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-cert tls; mv ca tls/ca-cert.pem
! vdisk: tls/ca-cert.pem is no certificate in PEM: no start line
$ echo x > tls/ca-crl.pem; vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-cert tls; rm tls/ca-crl.pem
! vdisk: tls/ca-crl.pem is no list of revoked certificates in PEM: no start line
$ cp -r tls mixed; cp tls/client-key.pem mixed/server-key.pem; vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-cert mixed
! vdisk: mixed/server-key.pem is not the key of the certificate beside it: key values mismatch
[1]
$ openssl pkcs8 -topk8 -in tls/server-key.pem -passout pass:secret -out mixed/server-key.pem; vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-cert mixed
! vdisk: mixed/server-key.pem needs a password, and nobody is there to type it: store the key without
[1]
$ cp tls/server-cert.pem mixed/server-key.pem; vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-cert mixed
! vdisk: mixed/server-key.pem is no private key in PEM: unsupported
[1]
$ openssl req -new -key tls/server-key.pem -subj /CN=old -out csr; openssl x509 -req -in csr -CA tls/ca-cert.pem -CAkey tls/ca-key.pem -days -1 -out mixed/server-cert.pem 2>/dev/null; vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-cert mixed
! vdisk: the certificate in mixed/server-cert.pem has expired, clients would refuse it: make a new one
[1]

# keys
$ umask 077; echo "alice:$(openssl rand -hex 32)" > keys.psk
$ serve s a.vdk --nbd tcp:0.0.0.0:0 --tls-psk keys.psk
ready: nbds://0.0.0.0:**
$ port=$(vdisk info a.vdk --json | sed -n 's/.*"tcp:0.0.0.0:\(.*\)".*/\1/p'); nbdinfo --size "nbds://alice@127.0.0.1:$port?tls-psk-file=keys.psk"
1048576
$ stop s
$ chmod 640 keys.psk; vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-psk keys.psk
! vdisk: keys.psk holds secrets but others than its owner may open it (mode 0640): chmod 600 keys.psk
[8]
$ umask 077; echo alice:geheim > bad.psk; vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-psk bad.psk
! vdisk: bad.psk, line 1: a key has between 32 and 512 hexadecimal digits, an even number of them
[1]
$ vdisk serve a.vdk --nbd tcp:127.0.0.1:0 --tls-psk tls --json
{
  "error": {
    "id": "tls-file-invalid",
    "message": "tls is not a regular file of at most 1 MiB: check the path",
    "target": "tcp:127.0.0.1:0"
  }
}
! vdisk: tls is not a regular file of at most 1 MiB: check the path
[1]

# sockets that nobody has handed over
$ vdisk serve a.vdk --nbd fd:7
! vdisk: fd:7 is not a listening socket that this process was given
[1]
$ vdisk serve a.vdk --nbd fd:1
! vdisk: fd:1 is not a listening socket that this process was given
[1]
$ vdisk serve a.vdk --nbd fd:disks
! vdisk: systemd has handed over no socket called "disks": see FileDescriptorName= in its socket unit
[1]
$ vdisk ls a.vdk
VOLUME   SIZE  USED  OWN  SNAPSHOTS  STATE
disk    1 MiB   0 B  0 B          0
