"""The cluster's keys: a CA, the server's certificate, the admin's, and the service-account key.

Everything is EC P-256, which signs in well under a millisecond, so that making a whole PKI never
shows in the time of ``kubewire up``. Files that exist are kept: a restarted server must be
recognised by clients that hold the old CA.
"""

import base64
import datetime
import ipaddress
import json
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEARS = 10
ADMIN = ("kubernetes-admin", "system:masters")


class Pki(msgspec.Struct, frozen=True):
    """Where the files of one cluster's PKI lie."""

    directory: Path

    @property
    def ca(self) -> Path:
        """Certificate of the CA."""
        return self.directory / "ca.crt"

    @property
    def server(self) -> tuple[Path, Path]:
        """Certificate and key of the API server."""
        return self.directory / "apiserver.crt", self.directory / "apiserver.key"

    @property
    def admin(self) -> tuple[Path, Path]:
        """Certificate and key of the administrator."""
        return self.directory / "admin.crt", self.directory / "admin.key"

    @property
    def service_account_key(self) -> Path:
        """Private key that signs service-account tokens."""
        return self.directory / "sa.key"

    def client_certificate(
        self, name: str, organizations: Sequence[str] = ()
    ) -> tuple[bytes, bytes]:
        """Sign a client certificate; returns certificate and key as PEM."""
        ca_key = _load_key(self.directory / "ca.key")
        ca = x509.load_pem_x509_certificate(self.ca.read_bytes())
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = _sign(_subject(name, organizations), key, ca.subject, ca_key, [usage])
        return _pem(certificate), _key_pem(key)

    @property
    def kubelet(self) -> tuple[Path, Path]:
        """Certificate and key that the kubelets of one machine share."""
        return self.directory / "kubelet.crt", self.directory / "kubelet.key"

    def node_certificate(self, node: str) -> tuple[bytes, bytes]:
        """Sign the client certificate of a node's kubelet."""
        return self.client_certificate(f"system:node:{node}", ["system:nodes"])

    def kubeconfig(
        self, server: str, name: str = "kubewire", client: tuple[bytes, bytes] | None = None
    ) -> str:
        """Render a kubeconfig (JSON is YAML) with everything embedded; the admin's by default."""
        certificate, key = client or (self.admin[0].read_bytes(), self.admin[1].read_bytes())
        user = f"{name}-admin"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "preferences": {},
            "clusters": [
                {"name": name, "cluster": {"server": server, "certificate-authority-data": _b64(self.ca.read_bytes())}}
            ],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "users": [
                {"name": user, "user": {"client-certificate-data": _b64(certificate), "client-key-data": _b64(key)}}
            ],
        }  # fmt: skip
        return json.dumps(config, indent=2) + "\n"


def ensure(directory: Path, hosts: Sequence[str] = (), ips: Sequence[str] = ()) -> Pki:
    """Create what is missing; the server's certificate is made anew if it lacks a name."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    pki = Pki(directory)
    if not pki.ca.exists() or not (directory / "ca.key").exists():
        _create_ca(directory)
    if not pki.service_account_key.exists():
        _write(pki.service_account_key, _key_pem(ec.generate_private_key(ec.SECP256R1())))
    if not pki.admin[0].exists() or not pki.admin[1].exists():
        certificate, key = pki.client_certificate(ADMIN[0], [ADMIN[1]])
        _write(pki.admin[1], key)
        _write(pki.admin[0], certificate)
    _ensure_server(pki, pki.server, "kube-apiserver", _alternative_names(hosts, ips))
    return pki


def ensure_kubelet(pki: Pki, nodes: Sequence[str], ips: Sequence[str]) -> None:
    """Create what the kubelets serve with, for these nodes and their addresses."""
    _ensure_server(pki, pki.kubelet, "kubelet", [*map(x509.DNSName, nodes), *map(_address, ips)])


def _create_ca(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject("kubewire-ca", [])
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    _write(directory / "ca.key", _key_pem(key))
    _write(directory / "ca.crt", _pem(_sign(subject, key, subject, key, [constraints, usage])))


def _ensure_server(
    pki: Pki, files: tuple[Path, Path], subject: str, names: list[x509.GeneralName]
) -> None:
    """A server's certificate and key, made anew if it lacks a name."""
    if files[0].exists() and files[1].exists() and _covers(files[0], names):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    ca = x509.load_pem_x509_certificate(pki.ca.read_bytes())
    extensions: list[x509.ExtensionType] = [
        x509.SubjectAlternativeName(names),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
    ]
    ca_key = _load_key(pki.directory / "ca.key")
    certificate = _sign(_subject(subject, []), key, ca.subject, ca_key, extensions)
    _write(files[1], _key_pem(key))
    _write(files[0], _pem(certificate))


def _alternative_names(hosts: Sequence[str], ips: Sequence[str]) -> list[x509.GeneralName]:
    service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    all_hosts = ["localhost", *service, "kubernetes.default.svc.cluster.local", *hosts]
    all_ips = ["127.0.0.1", "::1", *ips]
    names: list[x509.GeneralName] = [x509.DNSName(h) for h in dict.fromkeys(all_hosts)]
    return names + [_address(i) for i in dict.fromkeys(all_ips)]


def _address(text: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(text))


def _covers(path: Path, names: list[x509.GeneralName]) -> bool:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    have = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names) <= set(have)


def _subject(name: str, organizations: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: Sequence[x509.ExtensionType],
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    for extension in extensions:
        critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def load_service_account_key(pki: Pki) -> ec.EllipticCurvePrivateKey:
    """Read the key that signs service-account tokens."""
    return _load_key(pki.service_account_key)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
