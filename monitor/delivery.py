"""What was judged goes to those who want to know: the log, the record, the metrics and the webhook."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from monitor.alert import SEVERITIES, Alert, cleared
from monitor.alerting import Judged
from monitor.record import AlertRecord
from monitor.webhook import Webhook
from stream.metrics import Metrics

log = logging.getLogger(__name__)

LEVELS = {"page": logging.ERROR, "ticket": logging.WARNING, "note": logging.INFO}


class Delivery:
    """Tells of alerts. None of it waits for the network, and none of it can stop the judging."""

    def __init__(self, record: AlertRecord, metrics: Metrics, webhook: Webhook | None = None) -> None:
        self.record = record
        self._metrics = metrics
        self._webhook = webhook
        self._count_open()

    def tell(self, judged: Judged) -> None:
        """All that a window changed."""
        for silenced in judged.silenced:
            log.info("alert is explained alert=%s by=%s", silenced.alert.id, silenced.by)
        for alert in judged.raised:
            self._metrics.add("instep_alerts_total", rule=alert.rule, severity=alert.severity)
            log.log(LEVELS[alert.severity], "alert raised alert=%s: %s", alert.id, alert.reason)
            self._pass_on(alert)
        for alert in judged.cleared:
            log.log(LEVELS[alert.severity], "alert is over alert=%s", alert.id)
            self._pass_on(alert)
        if judged.raised or judged.cleared:
            self._count_open()

    def resume(self, open_alerts: Sequence[Alert], at_ms: int) -> None:
        """After a restart: what the record holds as raised and the judge does not know of is over.

        Parameters
        ----------
        open_alerts
            Of the judge, as it was restored.
        at_ms
            Event time at which it goes on.
        """
        known = {alert.id for alert in open_alerts}
        for alert in self.record.alerts:
            if alert.is_open and alert.id not in known:
                self._pass_on(cleared(alert, max(at_ms, alert.raised_ms)))
        for alert in open_alerts:
            self.record.add(alert)
        self._count_open()

    def close(self) -> None:
        """Send what waits for a while, and close the record."""
        if self._webhook is not None:
            self._webhook.close()
        self.record.close()

    def _pass_on(self, alert: Alert) -> None:
        self.record.add(alert)
        if self._webhook is not None:
            self._webhook.put(alert)

    def _count_open(self) -> None:
        raised = [alert.severity for alert in self.record.alerts if alert.is_open]
        for severity in SEVERITIES:
            self._metrics.set("instep_alerts_open", raised.count(severity), severity=severity)
