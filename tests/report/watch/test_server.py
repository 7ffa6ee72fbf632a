"""The page in a real browser beside a real training, and whom the server answers."""

import contextlib
import http.client
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

from ckptlab.cli import _run
from ckptlab.errors import ConfigError
from ckptlab.report.watch import server as module
from ckptlab.report.watch.feed import Feed
from ckptlab.report.watch.server import serve
from tests.record.loops import everything, record, update
from tests.report.browser import visit

POINTS = "document.querySelector('#panel-loss .plot').data[0].x.length"


@contextlib.contextmanager
def training(path, **options):
    """Train in a thread, about fifty updates a second, until the block ends."""
    ended, begun = threading.Event(), threading.Event()

    def loop():
        model, optimizer = everything()
        with record(path, model, optimizer, block=8, flush_seconds=0.2, **options) as recorder:
            step = 0
            while not ended.is_set():
                recorder.step(loss=update(model, optimizer, step))
                step += 1
                if step % 50 == 0:
                    recorder.evaluate(loss=1.0, accuracy=0.5)
                if step == 60:
                    recorder.flush()
                    begun.set()
                time.sleep(0.02)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        while not begun.wait(0.1):
            assert thread.is_alive()
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def often(monkeypatch):
    """Look at a run twice a second."""
    monkeypatch.setattr("ckptlab.report.watch.feed.LOCAL_SECONDS", 0.5)
    monkeypatch.setattr("ckptlab.report.watch.feed.REMOTE_SECONDS", 0.5)
    monkeypatch.setattr("ckptlab.report.watch.feed.REMOTE_BYTES", 1e9)
    monkeypatch.setattr(module, "LOCAL_SECONDS", 0.5)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_panels_grow_while_a_run_is_recorded(tab, often, where, tmp_path, request):
    path = str(tmp_path / "run.zarr")
    if where == "s3":
        path = f"{request.getfixturevalue('s3')}/live/run.zarr"
    answered = []

    def hear(one):
        answered.append(int(one.headers["content-length"]))

    with (
        training(path, observe="0:"),
        serve(Feed(path)) as address,
        visit(tab, address, offline=False) as page,
    ):
        tab.on("response", hear)
        counts, began = [], time.monotonic()
        for _ in range(3):
            counts.append(tab.evaluate(POINTS))
            page.wait_until(f"{POINTS} > {counts[-1]}")
        minutes = (time.monotonic() - began) / 60
        tab.remove_listener("response", hear)
        # Looked at four times as often as usual, or twenty times.
        assert sum(answered) / 4 < 2**20 * minutes
        assert answered
        titles = tab.locator("#panels h3").all_inner_texts()
        assert {"Loss", "Distance of the weights", "Changed signs", "Pace"} <= set(titles)
        assert tab.inner_text("#state").startswith("recording: step ")
        assert "fast motion" in tab.inner_text("#phases")
        tab.check("input[name=axis][value=log]", force=True)
        assert tab.evaluate("document.querySelector('#panel-lr .plot').layout.xaxis.type") == "log"
        tab.set_viewport_size({"width": 420, "height": 900})
        page.wait_until("document.documentElement.scrollWidth <= 420")
        assert page.console == []
        assert all(url.startswith(address) for url in page.requests)


def test_a_run_that_is_removed_is_said_and_what_was_drawn_stays(tab, often, tmp_path):
    path = tmp_path / "run.zarr"
    with training(path):
        pass
    with serve(Feed(path)) as address, visit(tab, address, offline=False):
        path.rename(tmp_path / "moved.zarr")  # at once, unlike a removal
        tab.wait_for_selector("#notice:not([hidden])")
        assert "does not exist" in tab.inner_text("#notice")
        assert tab.evaluate(POINTS) > 50


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("watched") / "run.zarr"
    with training(path):
        pass
    return path


def answer(address, path, host=None):
    """Ask for a path; return the status and the headers."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.netloc)
    connection.request("GET", path, headers={"Host": host or place.netloc})
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply.status, reply.headers


def test_only_who_has_the_address_is_answered(finished):
    with serve(Feed(finished)) as address, serve(Feed(finished)) as second:
        place = urlsplit(address)
        assert place.hostname == "127.0.0.1"
        assert answer(address, place.path)[0] == 200
        assert answer(address, f"{place.path}points?epoch=0&training=-5&x=y")[0] == 200
        assert answer(address, f"{place.path}../../etc/passwd")[0] == 404
        assert answer(address, "/")[0] == 404
        assert answer(address, urlsplit(second).path)[0] == 404
        status, headers = answer(address, place.path, host=f"evil.example:{place.port}")
        assert status == 404
        assert "Access-Control-Allow-Origin" not in headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_a_port_in_use_is_one_line(finished, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert _run(["watch", str(finished), "--port", str(port)], debug=False) == 2
        found = capsys.readouterr().err
        assert f"port {port} cannot be listened on" in found
        assert "0 for a free one" in found
        assert len(found.splitlines()) == 1
        with pytest.raises(ConfigError), serve(Feed(finished), port):
            pass
    assert [t.name for t in threading.enumerate() if t.name == "ckptlab-watch"] == []


def test_lines_end_with_the_run(finished, tmp_path, capsys):
    assert _run(["watch", "--text", str(finished)], debug=False) == 0
    assert capsys.readouterr().out.startswith("complete: step ")
    assert _run(["watch", str(tmp_path / "none.zarr")], debug=False) == 2
    assert "does not exist" in capsys.readouterr().err
