"""A certificate authority of one's own, a server's certificate for 127.0.0.1 and a client's, made with openssl."""

from __future__ import annotations

from pathlib import Path

from scripts.servers.base import run

__all__ = ["make_certificates"]

_DAYS = "3650"


def make_certificates(folder: Path) -> None:
    """Write ``ca.pem``, and ``NAME.pem`` (certificate) and ``NAME.key`` (PKCS#8) for ``server`` and ``client``.

    Raises ServiceError when openssl is missing or fails.
    """
    folder.mkdir()
    _key(folder, "ca")
    ca: list[str | Path] = [
        "-key",
        folder / "ca.key",
        "-out",
        folder / "ca.pem",
        "-days",
        _DAYS,
        "-subj",
        "/CN=dovetail test authority",
        "-addext",  # which Python 3.13 wants to see
        "keyUsage=critical,keyCertSign,cRLSign",
    ]
    run(["openssl", "req", "-x509", "-new", "-sha256", *ca])
    for name in ("server", "client"):
        _key(folder, name)
        request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
        run(["openssl", "req", "-new", "-key", folder / f"{name}.key", "-out", request, "-subj", f"/CN={name}"])
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nauthorityKeyIdentifier=keyid\n")
        signed_by: list[str | Path] = [
            "-CA",
            folder / "ca.pem",
            "-CAkey",
            folder / "ca.key",
            "-CAcreateserial",
            "-days",
            _DAYS,
            "-sha256",
        ]
        out: list[str | Path] = ["-in", request, "-out", folder / f"{name}.pem", "-extfile", extensions]
        run(["openssl", "x509", "-req", "-sha256", *out, *signed_by])


def _key(folder: Path, name: str) -> None:
    kind = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    run(["openssl", "genpkey", *kind, "-out", folder / f"{name}.key"])
