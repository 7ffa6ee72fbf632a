"""A real S3 server on loopback."""

from __future__ import annotations

import contextlib
import os
import urllib.request
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while; obstore reads them when a store is opened."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    with environment(**variables):
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT"))
        yield "s3://bucket"
    server.stop()
