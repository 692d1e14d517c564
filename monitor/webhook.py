"""Alerts to a URL, one POST of JSON each, from a thread of its own that nothing waits for. An edge.

The URL may hold a secret, so it is never logged: an error is told by its kind or status alone.
"""

from __future__ import annotations

import logging
from collections import deque
from http.client import HTTPException
from threading import Condition, Thread
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from monitor.alert import Alert, encode_alert
from stream.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_S = (1.0, 30.0)
"""First and longest wait before an alert is sent again."""
TRIES = 8
"""With these waits about two minutes."""
AGAIN = frozenset({408, 425, 429})
"""Statuses below 500 after which it may work later."""
OUTCOMES = ("sent", "failed", "lost")


class WebhookError(ValueError):
    """A URL that cannot be posted to."""


class Webhook:
    """Sends alerts in their order. What cannot be sent is counted and logged, and let go.

    Parameters
    ----------
    url
        ``http://`` or ``https://``.
    n_most
        Alerts that may wait; when there are more, the oldest goes.
    timeout_s
        Of one try.
    """

    def __init__(
        self,
        url: str,
        metrics: Metrics,
        *,
        n_most: int = 1_000,
        timeout_s: float = 5.0,
        retry_s: tuple[float, float] = RETRY_S,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise WebhookError(
                "webhook: expected a URL that begins with http:// or https://, got one that does not"
            )
        self._url = url
        self._metrics = metrics
        for outcome in OUTCOMES:  # where a count begins with 1, nobody sees that it grew
            metrics.add("instep_webhook_posts_total", 0, outcome=outcome)
        self._n_most = n_most
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._opener = build_opener(_NoRedirect)
        self._waiting: deque[Alert] = deque()
        self._changed = Condition()
        self._is_closing = False
        self._has_given_up = False
        self._thread = Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def put(self, alert: Alert) -> None:
        """Take an alert to be sent; returns at once."""
        with self._changed:
            if len(self._waiting) >= self._n_most:
                dropped = self._waiting.popleft()
                self._lost(dropped, "too many wait")
            self._waiting.append(alert)
            self._changed.notify()

    def close(self, within_s: float = 5.0) -> None:
        """Send what waits, if that can be done in time; what cannot is counted as lost."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(within_s)
        with self._changed:
            self._has_given_up = True
            self._changed.notify()

    def _run(self) -> None:
        while (alert := self._next()) is not None:
            self._send(alert)
        with self._changed:
            for alert in self._waiting:
                self._lost(alert, "closed")

    def _next(self) -> Alert | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if self._has_given_up or not self._waiting:
                return None
            return self._waiting.popleft()

    def _send(self, alert: Alert) -> None:
        wait_s, longest_s = self._retry_s
        for left in reversed(range(TRIES)):
            problem, may_work_later = self._try(alert)
            if not problem:
                self._metrics.add("instep_webhook_posts_total", outcome="sent")
                return
            self._metrics.add("instep_webhook_posts_total", outcome="failed")
            log.warning("webhook failed alert=%s problem=%s tries_left=%d", alert.id, problem, left)
            if not may_work_later or self._rest(wait_s if left else 0):
                break
            wait_s = min(2 * wait_s, longest_s)
        self._lost(alert, "gave up")

    def _try(self, alert: Alert) -> tuple[str, bool]:
        """One POST: what is wrong, nothing if it worked; and whether it may work later."""
        headers = {"Content-Type": "application/json", "User-Agent": "instep"}
        try:
            request = Request(self._url, encode_alert(alert), headers, method="POST")
            with self._opener.open(request, timeout=self._timeout_s):
                return "", True
        except HTTPError as e:
            e.close()
            return f"status {e.code}", e.code >= 500 or e.code in AGAIN
        except URLError as e:
            return type(e.reason).__name__, True
        except (OSError, HTTPException) as e:
            return type(e).__name__, True
        except ValueError as e:  # a URL that is none after all
            return type(e).__name__, False

    def _rest(self, wait_s: float) -> bool:
        """Wait before the next try; whether there is to be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_given_up, wait_s)
            return self._has_given_up

    def _lost(self, alert: Alert, why: str) -> None:
        self._metrics.add("instep_webhook_posts_total", outcome="lost")
        log.error("alert was not delivered to the webhook alert=%s why=%s", alert.id, why)


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would become a GET without the alert."""

    def redirect_request(self, *_: object) -> None:
        return None
