"""A model on its way through a log: step by step the bits that a replay has, unless the run holds something back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from indexer.refresh import refresh
from instep.settings import Settings
from instep.study.plans import Run
from ranker.mirror import Mirror
from stream.events import Version
from trainer.batch import Batch, boundaries
from trainer.learner import Learner, predict
from trainer.loop import LoopRules, crossed, difference, expire


class Copy:
    """A ranker's copy of a model, brought up to date by publications as a ranker would."""

    def __init__(self, learner: Learner, capacity: int) -> None:
        self._learner = learner
        self._mirror = Mirror(learner.config.shape, learner.config.bits, capacity)
        self.follow()

    def follow(self) -> None:
        """Take what changed since the last time."""
        version = Version(0, self._learner.n_steps)
        publication = difference(self._learner, version, self._mirror.version, 0, {}, [])
        self._mirror.apply(refresh(publication, self._learner.table.planes))
        self._learner.table.forget_tombstones(version.step)

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """As ``Learner.predict``, of the model as it was."""
        config, version = self._learner.config, self._mirror.version
        assert version is not None
        young = version.step < config.warm_up_steps
        return predict(self._mirror.network, self._mirror.table, batch, config.short, config.k, young=young)


class Learning:
    """A model on its way through a log.

    Parameters
    ----------
    n_batches
        That the log has: parts of it are parts of these.
    """

    def __init__(self, run: Run, settings: Settings, n_batches: int) -> None:
        config = replace(settings.learner_config(), refresh_every=run.refresh_every, threads=1)
        self.learner = Learner(config, settings.trainer.capacity)
        self._run, self._n_batches = run, n_batches
        self._rules: LoopRules = settings.loop_rules()
        self._copy = Copy(self.learner, settings.trainer.capacity) if run.sync_every is not None else None
        self._n = 0
        self._since_ms = 0
        self._at_ms = 0
        self._expired_ms = 0

    def step(self, batch: Batch, closed_ms: int) -> tuple[NDArray[np.float32], int]:
        """Predict the next batch and learn it; nan for one that could not be learned.

        Returns
        -------
        Probabilities float32 ``[N, K]``, and how many code bits flipped.
        """
        run, i = self._run, self._n
        self._n += 1
        if i == 0:
            self._since_ms = int(batch.at_ms[0])
        if run.length is not None:
            batch = most_recent(batch, run.length)
        if self._over(i, batch):
            return self.learner.predict(batch), 0
        self.learner.frozen = run.frozen_at is not None and i >= run.frozen_at * self._n_batches
        served = self._copy.predict(batch) if self._copy is not None else None
        predicted = self.learner.step(batch)
        p = predicted.p if served is None else served
        if not predicted.learned:
            p = np.full_like(p, np.nan)
        before_ms, self._at_ms = self._at_ms, closed_ms
        self._expired_ms = expire(self.learner, self._expired_ms, closed_ms, self._rules.row_ttl_ms)
        if self._copy is not None:
            assert run.sync_every is not None
            if self._n % run.sync_every == 0:
                self._copy.follow()
        elif crossed(before_ms, closed_ms, self._rules.publish_ms):
            self.learner.table.forget_tombstones(self.learner.n_steps)
        return p, predicted.n_flipped

    def _over(self, i: int, batch: Batch) -> bool:
        """Whether the model learns no more."""
        run = self._run
        if run.learn_until is not None and i >= run.learn_until * self._n_batches:
            return True
        return run.learn_ms is not None and int(batch.at_ms.max()) >= self._since_ms + run.learn_ms


def most_recent(batch: Batch, length: int) -> Batch:
    """A batch whose histories are cut to their last ``length`` behaviours."""
    start, stop = batch.start[:-1], batch.start[1:]
    cut = np.maximum(start, stop - length)
    kept = np.arange(len(batch.sequence)) >= np.repeat(cut, stop - start)
    return replace(
        batch,
        sequence=batch.sequence[kept],
        sequence_at=batch.sequence_at[kept],
        start=boundaries((stop - cut).tolist()),
    )
