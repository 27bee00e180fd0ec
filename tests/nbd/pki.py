# SPDX-License-Identifier: MIT
"""Certificates and keys for tests, made with the openssl command as the README makes them."""
import os
import subprocess

EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
CA_CONFIG = """
[ca]
default_ca = own
[own]
database = {0}/index.txt
crlnumber = {0}/crlnumber
default_md = sha256
default_crl_days = 30
certificate = {0}/ca-cert.pem
private_key = {0}/ca-key.pem
"""


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Pki:
    """An authority in `top`, and directories beneath it as servers and clients want them."""

    def __init__(self, top):
        self.top = top
        os.makedirs(top)
        self.ca = os.path.join(top, "ca-cert.pem")
        self.ca_key = os.path.join(top, "ca-key.pem")
        openssl("req", "-x509", *EC, "-days", "30", "-subj", "/CN=test authority",
                "-keyout", self.ca_key, "-out", self.ca)

    def issue(self, where, role, name, days=30):
        """ROLE-cert.pem and ROLE-key.pem; returns the directory."""
        where = os.path.join(self.top, where)
        os.makedirs(where, exist_ok=True)
        key, cert, request = (os.path.join(where, role + end)
                              for end in ("-key.pem", "-cert.pem", ".csr"))
        openssl("req", "-new", *EC, "-subj", "/CN=" + name, "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", request)
        openssl("x509", "-req", "-in", request, "-copy_extensions", "copy", "-CA", self.ca,
                "-CAkey", self.ca_key, "-days", str(days), "-out", cert)
        os.remove(request)
        return where

    def trust(self, where):
        """Puts the authority's certificate there."""
        with open(self.ca, "rb") as a, open(os.path.join(where, "ca-cert.pem"), "wb") as b:
            b.write(a.read())
        return where

    def revoke(self, cert, where):
        """Writes ca-crl.pem, in which `cert` is revoked, into the directory `where`."""
        config = os.path.join(self.top, "ca.conf")
        with open(config, "w", encoding="utf-8") as f:
            f.write(CA_CONFIG.format(self.top))
        for name, text in (("index.txt", ""), ("crlnumber", "01\n")):
            with open(os.path.join(self.top, name), "w", encoding="utf-8") as f:
                f.write(text)
        openssl("ca", "-config", config, "-revoke", cert)
        openssl("ca", "-config", config, "-gencrl", "-out", os.path.join(where, "ca-crl.pem"))


def write_keys(path, keys):
    """A file as psktool writes it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        for name, key in keys.items():
            f.write(f"{name}:{key}\n")
    return path
