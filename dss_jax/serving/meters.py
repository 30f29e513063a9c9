"""What is counted, for Prometheus. Owns the names; who counts is service.py's and gate.py's."""

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Meters:
  """The counters of one server, in a registry of its own."""

  def __init__(self) -> None:
    self.registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=self.registry)
    count = lambda name, text, labels=(): Counter(name, text, labels, registry=self.registry)  # noqa: E731
    self.requests = count('dss_requests', 'requests by path and status', ('path', 'status'))
    self.seconds = Histogram(
      'dss_request_seconds', 'from the head of a request to the end of its answer', ('path',),
      buckets=_SECONDS, registry=self.registry,
    )  # fmt: skip
    self.rows = Histogram(
      'dss_batch_rows', 'rows of each batch', buckets=_ROWS, registry=self.registry
    )
    self.waiting = Gauge('dss_waiting', 'requests that wait for a batch', registry=self.registry)
    self.cancelled = count('dss_cancelled', 'requests whose client went before the answer')
    self.answered = count('dss_answered', 'answers by who gave them', ('by',))
    self.teacher_failures = count('dss_teacher_failures', 'unsure answers that it did not replace')
    self.tokens = count('dss_tokens', 'tokens of the student', ('kind',))

  def text(self) -> bytes:
    """All of it, as Prometheus reads it."""
    return prometheus_client.generate_latest(self.registry)
