"""The S3 store's contract, and nodes with it: against SLUICE_TEST_S3, or a MinIO of its own."""

import os
import shutil
import socket
import subprocess
import time

import harness
import tierstore


def minio():
    """MinIO's binary: $MINIO, on the path, or built once from its Go module."""
    named = os.environ.get("MINIO") or shutil.which("minio")
    if named:
        return named
    harness.need("go", "golang")
    where = os.path.join(harness.CACHE, "minio")
    binary = os.path.join(where, "minio")
    if not os.path.exists(binary):
        harness.run(["go", "install", "github.com/minio/minio@latest"], timeout=580, env={**os.environ, "GOBIN": where, "CGO_ENABLED": "0"})
    return binary


def run(c):
    if os.environ.get("SLUICE_TEST_S3"):
        both(c, {})
        return
    binary = minio()
    c.versions["MinIO"] = harness.run([binary, "--version"]).split()[2]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    keys = {"MINIO_ROOT_USER": "interopuser", "MINIO_ROOT_PASSWORD": "interopsecret", "MINIO_UPDATE": "off", "MINIO_BROWSER": "off"}
    with open(os.path.join(c.directory, "minio.log"), "wb") as log:
        server = subprocess.Popen([binary, "server", "--quiet", "--address", f"127.0.0.1:{port}", os.path.join(c.directory, "minio")], stdout=log,
                                  stderr=log, env={**os.environ, **keys})
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None, "MinIO has ended"
                time.sleep(0.2)
        both(c, {"SLUICE_TEST_S3": f"http://127.0.0.1:{port}/vault", "SLUICE_TEST_S3_KEY": "interopuser", "SLUICE_TEST_S3_SECRET": "interopsecret"})
        tierstore.go_test(c, {"SLUICE_TEST_MINIO": binary}, "./test/tier", "^TestService", r"--- (PASS|FAIL|SKIP): ((TestService\w+)) ", "no MinIO is named")
    finally:
        server.terminate()
        server.wait(30)


def both(c, environment):
    tierstore.contract(c, "s3tier", environment)
    tierstore.nodes(c, "s3", environment)
