"""Runs an S3 server on this host while a block lasts."""

import re
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

SECRET = "Geheim/nis+1"


class Server(NamedTuple):
    port: int
    log: Path

    def url(self, folder: str = "") -> str:
        return (
            f"s3://key:{SECRET.replace('/', '%2F')}@bucket/{folder or uuid.uuid4().hex}"
            f"?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        )

    def count_reads(self, file: str) -> int:
        return len(re.findall(rf"GET /bucket/[^ ?]*/{re.escape(file)}[ ?]", self.log.read_text()))


@contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """Run an S3 server with one bucket, whose log is in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            make = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
            for attempt in range(200):
                try:
                    urllib.request.urlopen(make, timeout=10).close()
                    break
                except OSError:
                    assert attempt < 199, log.read_text()
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.1)
            yield Server(port, log)
        finally:
            process.terminate()
