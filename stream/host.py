"""One partition of the joiner: its state read back first, then the Joiner and where its outputs go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from stream.dead import Dead, check_dead
from stream.events import Sample, encode_sample
from stream.history import digest
from stream.join import Joiner
from stream.log import Record, Sink, Source

SAMPLES, STATE, DEAD = "samples", "joiner", "dead"
"""Topics: the sink's own, and the others that it writes by name."""

READ_BACK = 20_000
"""Records of the state that are read in one step."""


class Host:
    """The Joiner of a partition, where its outputs go, and how much of it may be unusable; see `stream.dead`."""

    def __init__(self, joiner: Joiner, sink: Sink, max_dead: float) -> None:
        self.joiner = joiner
        self.sink = sink
        self.max_dead = max_dead
        self.told = Counter(joiner.counts)
        self.written: dict[str, tuple[int, int]] = {}
        self.skew: Counter[str] = Counter()
        """Samples whose behaviours are the ``same`` as their impression was scored with, and ``other`` ones."""

    def join(self, records: Iterable[Record]) -> None:
        """Put what becomes of these records into a transaction, with where that leaves the joiner.

        Raises
        ------
        TooManyDeadError
            At the same record of the partition, however they are polled.
        """
        write, apply = self.sink.write, self.joiner.apply
        partition = self.joiner.partition
        n_samples = n_sample_bytes = 0
        for record in records:
            for out in apply(record):
                if isinstance(out, Dead):
                    check_dead(out, self.joiner.recent, self.max_dead)
                    self._write(record.key, msgspec.json.encode(out), DEAD)
                else:
                    value = encode_sample(out)
                    write(partition, record.key, value)
                    if isinstance(out, Sample) and out.digest and out.stage != "click":
                        is_same = digest(out.sequence, out.sequence_at) == out.digest
                        self.skew["same" if is_same else "other"] += 1
                    n_samples += 1
                    n_sample_bytes += len(record.key) + len(value)
        self.written[SAMPLES] = (n_samples, n_sample_bytes)
        for key, kept in self.joiner.changes().items():
            self._write(key, kept, STATE)

    def _write(self, key: bytes, value: bytes | None, topic: str) -> None:
        self.sink.write(self.joiner.partition, key, value, topic)
        n, n_bytes = self.written.get(topic, (0, 0))
        self.written[topic] = (n + 1, n_bytes + len(key) + len(value or b""))


class ReadBack:
    """The state of a partition as it is read back."""

    def __init__(self, partition: int, sink: Sink, source: Source) -> None:
        self.partition = partition
        self.sink = sink
        self.source = source
        self.state: dict[bytes, bytes] = {}
        self._end = source.end()[partition]

    @property
    def is_done(self) -> bool:
        return self.source.offsets[self.partition] >= self._end

    def step(self) -> int:
        """Read some more; an empty value says that what has this key is gone."""
        records = self.source.poll(READ_BACK)
        for record in records:
            if record.value:
                self.state[record.key] = record.value
            else:
                self.state.pop(record.key, None)
        return len(records)

    def close(self) -> None:
        self.source.close()
        self.sink.close()
