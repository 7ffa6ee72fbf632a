"""Outages of an object store: moto's S3 server on loopback, behind a proxy that can fail."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from ckptlab.errors import WriteError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.backends.retry import OutageWarning
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.writer import StoreWriter
from tests.conftest import environment
from tests.store.samples import block_of, layout_of, trajectory

LAYOUT = layout_of(2000)
WEIGHTS = trajectory(8, LAYOUT.parameters)


class Proxy:
    """Pass requests on to the server, or answer all but `spared` methods with `status`."""

    def __init__(self, backend):
        self.status, self.spared = 0, ()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self):
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                if proxy.status and self.command not in proxy.spared:
                    status, headers, data = proxy.status, [], b""
                else:
                    connection = http.client.HTTPConnection(backend)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    status, headers, data = answer.status, answer.getheaders(), answer.read()
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                size = dict(headers).get("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", size or str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def proxy(s3):
    import os

    proxy = Proxy(os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"))
    with environment(AWS_ENDPOINT_URL=proxy.url):
        yield proxy
    proxy.server.shutdown()


def start(url, seconds):
    storage = open_storage(url, outage_seconds=seconds)
    writer = StoreWriter.create(
        storage, LAYOUT, block=4, codec="fast", attributes={"start_step": 0}
    )
    writer.write_block(block_of(WEIGHTS, 0, 4, layout=LAYOUT))
    return writer


@pytest.mark.parametrize("status", [403, 503])
def test_writing_goes_on_after_an_outage(proxy, s3, tmp_path, status):
    url = f"{s3}/{tmp_path.name}.zarr"
    writer = start(url, 60)
    proxy.status = status
    # Longer than obstore's own retries last, of which a 403 has none.
    threading.Timer(8 if status == 503 else 1, lambda: setattr(proxy, "status", 0)).start()
    with pytest.warns(OutageWarning, match=rf"{status}.*Retrying for 60 s.*buffers are full"):
        writer.write_block(block_of(WEIGHTS, 4, 8, layout=LAYOUT))
    writer.finish("complete")
    assert verify(url, deep=True).ok
    assert np.array_equal(open_store(url).snapshot(70).view(np.uint32), WEIGHTS[7].view(np.uint32))


def test_who_wants_to_leave_does_not_wait_for_the_outage(proxy, s3, tmp_path):
    url = f"{s3}/{tmp_path.name}.zarr"
    writer = start(url, 600)
    proxy.status = 403
    threading.Timer(1, writer._storage.hurry).start()
    with (
        pytest.warns(OutageWarning, match="Retrying for 600 s"),
        pytest.raises(WriteError, match="committed before is intact"),
    ):
        writer.write_block(block_of(WEIGHTS, 4, 8, layout=LAYOUT))
    proxy.status = 0
    assert len(open_store(url).steps) == 4


def test_what_was_committed_stays_when_the_outage_lasts(proxy, s3, tmp_path):
    url = f"{s3}/{tmp_path.name}.zarr"
    writer = start(url, 3)
    proxy.status = 403
    began = time.monotonic()
    with (
        pytest.warns(OutageWarning),
        pytest.raises(WriteError, match=r"403 Forbidden.*committed before is intact"),
    ):
        writer.write_block(block_of(WEIGHTS, 4, 8, layout=LAYOUT))
    assert 1 < time.monotonic() - began < 120
    proxy.status = 0
    assert len(open_store(url).steps) == 4
    assert verify(url, deep=True).ok


def test_a_store_that_refuses_from_the_start_is_not_retried(proxy, s3, tmp_path):
    """Also where reading is allowed, and writing alone is refused."""
    proxy.status, proxy.spared = 403, ("GET", "HEAD")
    began = time.monotonic()
    with pytest.raises(WriteError, match=r"403 Forbidden; set AWS_ACCESS_KEY_ID") as caught:
        start(f"{s3}/{tmp_path.name}.zarr", 600)
    assert time.monotonic() - began < 120  # of 600
    assert len(str(caught.value).splitlines()) == 1
