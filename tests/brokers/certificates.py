"""Certificates of servers that are good, expired, or of another host, and of clients, known and unknown."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority's certificate, and a key with its chain for each kind of server and client."""

    authority: Path
    good: Path
    expired: Path
    elsewhere: Path
    client: Path
    stranger: Path

    @classmethod
    def make(cls, directory: Path) -> "Certificates":
        """Make them all; the good one is of 127.0.0.1."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(directory / "authority.pem")
        yesterday = datetime.now(UTC) - timedelta(days=1)
        issued = {
            "good": authority.issue_cert("127.0.0.1", "localhost"),
            "expired": authority.issue_cert("127.0.0.1", not_after=yesterday),
            "elsewhere": authority.issue_cert("broker.example"),
            "client": authority.issue_cert("worker@platform.example"),
            "stranger": trustme.CA().issue_cert("worker@platform.example"),
        }
        for name, certificate in issued.items():
            key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
            pkcs8 = key.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )  # all that Java reads
            chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
            (directory / f"{name}.pem").write_bytes(pkcs8 + chain)
        return cls(directory / "authority.pem", *(directory / f"{name}.pem" for name in issued))
