"""What was judged goes to those who want to know: the log, the record, the metrics and the webhook."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from monitor.alert import SEVERITIES, Alert
from monitor.alerting import Judged
from monitor.record import AlertRecord
from monitor.rules import Rule
from monitor.webhook import Webhook
from stream.metrics import Metrics

log = logging.getLogger(__name__)

LEVELS = {"page": logging.ERROR, "ticket": logging.WARNING, "note": logging.INFO}


class Delivery:
    """Tells of alerts. None of it waits for the network, and none of it can stop the judging.

    Parameters
    ----------
    rules
        Those whose alerts are counted from 0 on: where a count begins with 1, nobody sees that it grew.
    """

    def __init__(
        self,
        record: AlertRecord,
        metrics: Metrics,
        webhook: Webhook | None = None,
        rules: Iterable[Rule] = (),
    ) -> None:
        self.record = record
        self._metrics = metrics
        self._webhook = webhook
        for rule in rules:
            metrics.add("instep_alerts_total", 0, rule=rule.id, severity=rule.severity)
        self._count_open()

    def tell(self, judged: Judged) -> list[Alert]:
        """All that a window changed; what of it is news."""
        for silenced in judged.silenced:
            log.info("alert is explained alert=%s by=%s", silenced.alert.id, silenced.by)
        news = [alert for alert in (*judged.raised, *judged.cleared) if self._pass_on(alert)]
        if news:
            self._count_open()
        return news

    def resume(self, open_alerts: Sequence[Alert]) -> None:
        """After a restart: what the judge holds as raised was told of, whether it could be recorded or not."""
        for alert in open_alerts:
            self.record.add(alert)
        self._count_open()

    def close(self) -> None:
        """Send what waits for a while, and close the record."""
        if self._webhook is not None:
            self._webhook.close()
        self.record.close()

    def _pass_on(self, alert: Alert) -> bool:
        """Tell everybody, if it is news."""
        if not self.record.add(alert):
            return False
        if alert.is_open:
            self._metrics.add("instep_alerts_total", rule=alert.rule, severity=alert.severity)
            log.log(LEVELS[alert.severity], "alert raised alert=%s: %s", alert.id, alert.reason)
        else:
            log.log(LEVELS[alert.severity], "alert is over alert=%s", alert.id)
        if self._webhook is not None:
            self._webhook.put(alert)
        return True

    def _count_open(self) -> None:
        raised = [alert.severity for alert in self.record.alerts if alert.is_open]
        for severity in SEVERITIES:
            self._metrics.set("instep_alerts_open", raised.count(severity), severity=severity)
