"""A whole deployment on 127.0.0.1: SuperLink with TLS and node keys, SuperExec, SuperNodes."""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
STOP_SECONDS = 10.0


class Loopback:
    """Starts the servers of a deployment in ``folder`` and stops them, each by its own process id, on leaving."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.host = folder / "coordinator"
        self.host.mkdir(parents=True)
        self.app = copy_app(folder / "app")
        write_certificates(folder)
        self.secret = folder / "superexec.secret"
        self.secret.write_bytes(secrets.token_bytes(32))

    def __enter__(self) -> Loopback:
        ca = self.folder / "ca.crt"
        write_connection(self.host, f"127.0.0.1:{self.port}", ca)
        self._start(
            "superlink",
            self.host,
            [
                "flower-superlink",
                "--ssl-ca-certfile",
                ca,
                "--ssl-certfile",
                self.folder / "server.pem",
                "--ssl-keyfile",
                self.folder / "server.key",
                "--enable-supernode-auth",
                "--database",
                self.host / "state.db",
                "--isolation",
                "process",
                "--host",
                "127.0.0.1",
                "--disable-runtime-dependency-installation",
                "--port",
                self.port,
                "--superexec-auth-secret-file",
                self.secret,
            ],
        )
        wait_for_port(self.port)
        self._start(
            "superexec",
            self.host,
            [
                "flower-superexec",
                "--root-certificates",
                ca,
                "--runtime-api-address",
                f"127.0.0.1:{self.port}",
                "--superexec-auth-secret-file",
                self.secret,
            ],
        )
        return self

    def __exit__(self, *error: object) -> None:
        for _, process in reversed(self._running):
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for _, process in reversed(self._running):
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)

    def add_node(self, name: str, settings: str, *, registered: bool = True) -> subprocess.Popen[bytes]:
        """A SuperNode with a key of its own; ``settings`` is the text of its device.toml."""
        folder = self.folder / name
        folder.mkdir()
        private, public = folder / "node", folder / "node.pub"
        write_node_key(private, public)
        (folder / "device.toml").write_text(settings)
        if registered:
            self.flwr("supernode", "register", public, "prod")
        return self._start(
            name,
            folder,
            [
                "flower-supernode",
                "--root-certificates",
                self.folder / "ca.crt",
                "--superlink",
                f"127.0.0.1:{self.port}",
                "--auth-supernode-private-key",
                private,
                "--port",
                free_port(),
                "--node-config",
                folder / "device.toml",
            ],
        )

    def flwr(self, *arguments: object, timeout: float = 60, check: bool = True) -> str:
        """Run a ``flwr`` command on the coordinator host; what it printed."""
        command = [str(SCRIPTS / "flwr"), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.host, env=environment(self.host), timeout=timeout, capture_output=True, text=True
        )
        output = done.stdout + done.stderr
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} exited with {done.returncode}:\n{output}\n{self.logs()}")
        return output

    def run(self, run_config: Mapping[str, str], *, timeout: float) -> str:
        """``flwr run`` to its end; what it printed."""
        text = "".join(f"{key} = {toml_string(value)}\n" for key, value in run_config.items())
        path = self.host / "run.toml"
        path.write_text(text)
        return self.flwr("run", self.app, "prod", "--stream", "--run-config", path, timeout=timeout, check=False)

    def logs(self) -> str:
        """What every server printed so far."""
        parts = []
        for path in sorted(self.folder.glob("*.log")):
            parts.append(f"--- {path.name}\n{path.read_text(errors='replace')}")
        return "\n".join(parts)

    def _start(self, name: str, folder: Path, command: list[object]) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [str(SCRIPTS / str(command[0])), *map(str, command[1:])],
                cwd=folder,
                env=environment(folder),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._running.append((name, process))
        return process


def copy_app(folder: Path) -> Path:
    """The app directory as a coordinator host has it: nothing but what ``flwr run`` sends."""
    for name in ("server/app.py", "client/app.py", "pyproject.toml", "LICENSE"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """The environment of a server: its own Flower home, nothing reported home, one thread."""
    own = {
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
    }
    return os.environ | own


def toml_string(value: str) -> str:
    """A TOML basic string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def write_connection(home: Path, address: str, ca: Path) -> None:
    """``flwr``'s own list of SuperLinks."""
    (home / "flwr").mkdir()
    (home / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "prod"\n\n[superlink.prod]\naddress = "{address}"\nroot-certificates = "{ca}"\n'
    )


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, seconds: float = 60) -> None:
    """Return once something listens on the port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on port {port} after {seconds:g} s")


def write_node_key(private: Path, public: Path) -> None:
    """An ECDSA P-384 pair, as ``ssh-keygen -t ecdsa -b 384`` writes it."""
    key = ec.generate_private_key(ec.SECP384R1())
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    )
    private.chmod(0o600)
    ssh = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    public.write_bytes(ssh + b"\n")


def write_certificates(folder: Path) -> None:
    """``ca.crt``, ``server.pem`` and ``server.key`` for localhost and 127.0.0.1."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, ca: bool
    ):
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if not ca:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (folder / "ca.crt").write_bytes(certificate("test authority", authority, "test authority", authority, True))
    (folder / "server.pem").write_bytes(certificate("localhost", server, "test authority", authority, False))
    (folder / "server.key").write_bytes(
        server.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
