"""Alerts posted to a real server: one that works, fails, hangs, redirects, or is not there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Event, Thread

import pytest

from monitor.alert import Alert, decode_alert
from monitor.webhook import TRIES, Webhook, WebhookError
from stream.metrics import Metrics
from tests.monitor.alerts import alert

SECRET = "hunter2"
FAST = (0.001, 0.002)


class Server:
    """Answers with the next of ``statuses``, then with 200; 0 for no answer until it is let go."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[Alert] = []
        self.changed = Condition()
        self.let_go = Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.statuses.pop(0) if outer.statuses else 200
                if status == 0:
                    outer.let_go.wait(30)
                    status = 500
                if status == 200:
                    with outer.changed:
                        outer.got.append(decode_alert(body))
                        outer.changed.notify_all()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                raise AssertionError("a redirect was followed")

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/{SECRET}"

    def await_alerts(self, n: int) -> list[Alert]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.got) >= n, 20)
        return self.got


@contextmanager
def serving(*statuses: int) -> Iterator[Server]:
    server = Server(*statuses)
    thread = Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.let_go.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def posts(metrics: Metrics) -> dict[str, int]:
    """By outcome, of those that there were."""
    return {outcome: n for outcome, n in counted(metrics).items() if n}


def counted(metrics: Metrics) -> dict[str, int]:
    found = {}
    for line in metrics.page().decode().splitlines():
        if line.startswith("instep_webhook_posts_total{"):
            found[line.split('outcome="')[1].split('"')[0]] = int(float(line.split()[-1]))
    return found


def test_alerts_arrive_whole_and_in_order() -> None:
    metrics = Metrics("monitor")
    with serving() as server:
        hook = Webhook(server.url, metrics)
        for minute in range(20):
            hook.put(alert(minute, over=minute + 3 if minute % 2 else None))
        hook.close()
        assert server.got == [alert(n, over=n + 3 if n % 2 else None) for n in range(20)]
    assert posts(metrics) == {"sent": 20}


def test_what_has_not_happened_yet_is_counted_as_none() -> None:
    metrics = Metrics("monitor")
    Webhook("http://127.0.0.1:9/", metrics).close()
    assert counted(metrics) == {"sent": 0, "failed": 0, "lost": 0}


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_work_later_is_tried_again(status: int) -> None:
    metrics = Metrics("monitor")
    with serving(status, status) as server:
        hook = Webhook(server.url, metrics, retry_s=FAST)
        hook.put(alert(1))
        assert server.await_alerts(1) == [alert(1)]
        hook.close()
    assert posts(metrics) == {"failed": 2, "sent": 1}


@pytest.mark.parametrize(("status", "n"), [(404, 1), (302, 1), (500, TRIES)])
def test_what_does_not_work_is_let_go_and_the_next_is_sent(
    status: int, n: int, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics("monitor")
    with serving(*[status] * n) as server:
        hook = Webhook(server.url, metrics, retry_s=FAST)
        hook.put(alert(1))
        hook.put(alert(2))
        assert server.await_alerts(1) == [alert(2)]
        hook.close()
    assert posts(metrics) == {"failed": n, "lost": 1, "sent": 1}
    assert f"status {status}" in caplog.text
    assert alert(1).id in caplog.text


def test_nobody_waits_for_a_server_that_hangs_and_the_oldest_goes() -> None:
    metrics = Metrics("monitor")
    with serving(*[0] * 3) as server:
        hook = Webhook(server.url, metrics, n_most=5, timeout_s=20.0)
        hook.put(alert(0))
        for minute in range(1, 100):
            hook.put(alert(minute))
        hook.close(within_s=0.05)
        assert posts(metrics)["lost"] >= 100 - 5 - 1


def test_a_server_that_does_not_answer_in_time_is_asked_again() -> None:
    metrics = Metrics("monitor")
    with serving(0) as server:
        hook = Webhook(server.url, metrics, timeout_s=0.05, retry_s=FAST)
        hook.put(alert(1))
        assert server.await_alerts(1) == [alert(1)]
        hook.close()
    assert posts(metrics) == {"failed": 1, "sent": 1}


def test_the_url_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(500, 404) as server:
        url = server.url
        hook = Webhook(url, Metrics("monitor"), retry_s=FAST)
        hook.put(alert(1))
        hook.put(alert(2))
        server.await_alerts(1)
        hook.close()
    away = Webhook(url, Metrics("monitor"), retry_s=FAST)  # nobody listens there any more
    away.put(alert(3))
    away.close(20)
    bad = Webhook(f"http://[{SECRET}/", Metrics("monitor"), retry_s=FAST)
    bad.put(alert(4))
    bad.close(20)
    with pytest.raises(WebhookError) as e:
        Webhook(f"ftp://{SECRET}", Metrics("monitor"))
    assert "gave up" in caplog.text
    assert SECRET not in caplog.text + str(e.value)
    assert str(url) not in caplog.text
