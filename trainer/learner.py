"""One step of online learning: predict, then learn.

The prediction of a batch is the forward pass that its gradient starts from, so testing before training costs nothing
and cannot look ahead.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trainer.batch import STAGES, Batch
from trainer.model.ctr import Network, Shape
from trainer.model.inputs import Inputs, Located, prepare
from trainer.model.sim import Index, SIMSoft
from trainer.model.simhash import make_planes
from trainer.table import EmbeddingTable

log = logging.getLogger(__name__)


PRIOR_RATE, PRIOR_N, PRIOR_UNTIL = 0.05, 20, 10_000
"""A model begins by predicting the base rate: that of so many imagined candidates, then of those it has seen, until
there are enough."""


class DivergedError(RuntimeError):
    """Several batches in a row gave a loss or a gradient that is not finite."""


@dataclass(frozen=True)
class LearnerConfig:
    """Everything that decides the bits of a model, besides the samples. Recorded in the checkpoint."""

    shape: Shape = field(default_factory=Shape)
    seed: int = 0
    bits: int = 64
    """Of an item's code, shared out between its coded fields."""
    short: int = 16
    """The most recent behaviours, attended over whatever the candidate."""
    k: int = 48
    """Behaviours that the search picks from the rest."""
    warm_up_steps: int = 0
    """The first so many steps search by category: ids are compared from then on, when their vectors mean something."""
    row_lr: float = 0.05
    """Row-wise Adagrad, embedding rows."""
    lr: float = 0.001
    """Adam, dense weights."""
    loss_weights: tuple[float, ...] = ()
    """Of each kind's loss in what is learned; 1 each when not given."""
    init_std: float = 0.05
    accumulator: float = 1e-6
    admit_after: int = 1
    born_from_category: bool = True
    refresh_every: int = 1
    """Steps between recomputing what the search compares, codes of the rows that moved or an index; 1 keeps it in step.
    0 never does."""
    threads: int = 1
    max_bad_batches: int = 5


@dataclass(frozen=True)
class Predicted:
    """What a step said of its batch before learning it."""

    p: NDArray[np.float32]
    """``[N, K]`` probabilities."""
    loss: float
    """Mean log loss of a candidate, summed over kinds with their weights."""
    learned: bool
    n_flipped: int
    """Code bits that this step changed."""


class Learner:
    """Table and network, and the step that moves both.

    Parameters
    ----------
    config
        Fixed for the life of a model.
    capacity
        Rows that the table may ever hold.
    """

    def __init__(self, config: LearnerConfig, capacity: int = 1 << 24) -> None:
        shape = config.shape
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.network = Network(shape)
        planes = make_planes(shape.n_coded, shape.dim, config.bits, config.seed)
        self.table = EmbeddingTable(
            shape.row_dim,
            shape.n_item_fields + shape.n_side,
            np.pad(planes, ((0, 0), (0, shape.row_dim - shape.dim), (0, 0))),  # what is auxiliary has no code
            seed=config.seed,
            init_std=config.init_std,
            accumulator=config.accumulator,
            admit_after=config.admit_after,
            born_from_parent=config.born_from_category,
            capacity=capacity,
        )
        self._dense = _flatten(self.network)
        self.adam = torch.optim.Adam([self._dense], lr=config.lr, fused=True)
        self.n_steps = 0
        self.n_bad = 0
        self._bad_in_a_row = 0
        self._refreshed = 0
        self._seen = np.array([PRIOR_N, *[PRIOR_N * PRIOR_RATE] * shape.n_kinds])
        self._set_prior()
        self.frozen = False
        """While set, codes stay as they are, and the search falls out of step. For studies of what that costs."""

    def step(self, batch: Batch) -> Predicted:
        """Predict the batch, then learn it.

        Raises
        ------
        DivergedError
            After ``max_bad_batches`` batches in a row whose loss or gradient is not finite. One of these is skipped
            and counted: it moves no weight.
        """
        self.n_steps += 1
        at = meet(self.table, batch, self.n_steps)
        inputs = self._prepare(batch, at)
        rows = torch.from_numpy(self.table.rows[inputs.unique]).requires_grad_()
        logits = self.network(rows, inputs)
        loss = self._loss(logits, batch)
        mean_loss = float(loss.detach()) / batch.n_candidates
        if self.network.extra_logits is not None:
            loss = loss + self._loss(self.network.extra_logits, batch)
        extra = self.network.extra_loss
        self._gradient.zero_()
        (loss if extra is None else loss + batch.n_candidates * extra).backward()  # type: ignore[no-untyped-call]
        p = torch.sigmoid(logits.detach()).numpy()
        assert rows.grad is not None
        if not self._finite(mean_loss, rows.grad):
            return Predicted(p, mean_loss, learned=False, n_flipped=0)
        self.adam.step()
        self.network.learned()
        self._count(batch)
        in_step = self.config.refresh_every == 1 and not self.frozen
        flipped = self.table.learn(
            inputs.unique, rows.grad.numpy(), self.config.row_lr, self.n_steps, encode=in_step
        )
        return Predicted(p, mean_loss, learned=True, n_flipped=flipped + self._refresh())

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Probabilities float32 ``[N, K]``; changes nothing."""
        return predict(
            self.network,
            self.table,
            batch,
            self.config.short,
            self.config.k,
            young=self.n_steps < self.config.warm_up_steps,
        )

    def pass_by(self, batch: Batch) -> Predicted:
        """Predict a batch that is not to be learned; it counts as a step."""
        p = self.predict(batch)
        self.n_steps += 1
        return Predicted(p, float("nan"), learned=False, n_flipped=0)

    def dense(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the network's weights by name."""
        return {name: w.numpy().copy() for name, w in self.network.state_dict().items()}

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that the next step depends on, by name."""
        tensors: dict[str, NDArray[Any]] = {f"table.{k}": v for k, v in self.table.state().items()}
        tensors |= {f"dense.{name}": w for name, w in self.dense().items() if name != "prior"}
        tensors |= {f"adam.{k}": m.numpy().copy() for k, m in self.adam.state[self._dense].items()}
        if isinstance(unit := self.network.long, SIMSoft) and unit.index is not None:
            tensors |= {f"index.{name}": values.copy() for name, values in unit.index.state().items()}
        counters = [self.n_steps, self.n_bad, self._bad_in_a_row, self._refreshed, int(self.frozen)]
        return tensors | {"steps": np.array(counters, np.int64), "seen": self._seen.copy()}

    @classmethod
    def restore(
        cls, config: LearnerConfig, state: Mapping[str, NDArray[Any]], capacity: int = 1 << 24
    ) -> Learner:
        """The learner that ``state`` was taken from; its next steps are the same to the bit."""
        learner = cls(config, 1)
        of_table = {k.removeprefix("table."): v for k, v in state.items() if k.startswith("table.")}
        learner.table = EmbeddingTable.restore(of_table, capacity=capacity)
        for name, w in learner.network.state_dict().items():
            if name != "prior":
                w.copy_(torch.from_numpy(state[f"dense.{name}"]))
        index = {k.removeprefix("index."): v.copy() for k, v in state.items() if k.startswith("index.")}
        if isinstance(unit := learner.network.long, SIMSoft) and index:
            unit.index = Index(**index)
        moments = {k.removeprefix("adam."): v for k, v in state.items() if k.startswith("adam.")}
        learner.adam.state[learner._dense] = {k: torch.from_numpy(m.copy()) for k, m in moments.items()}
        n_steps, n_bad, in_a_row, refreshed, frozen = (int(n) for n in state["steps"])
        learner.n_steps, learner.n_bad, learner._bad_in_a_row = n_steps, n_bad, in_a_row
        learner._refreshed, learner.frozen = refreshed, bool(frozen)
        learner._seen = state["seen"].copy()
        learner._set_prior()
        return learner

    @property
    def _gradient(self) -> Tensor:
        assert self._dense.grad is not None
        return self._dense.grad

    def _prepare(self, batch: Batch, at: Located) -> Inputs:
        return prepare(
            self.table,
            batch,
            at,
            self.network.reading,
            short=self.config.short,
            k=self.config.k,
            young=self.n_steps <= self.config.warm_up_steps,  # this step is counted already
        )

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum over candidates and kinds of weighted log loss; under the eager policy also for fake negatives.

        An impression that was learned as negative at once and comes again when it is clicked is seen from a biased
        distribution; the weights ``(1 + p)`` of positives and ``(1 - p)(1 + p)`` of negatives undo that (Ktena et al.
        2019, arXiv 1907.06558, section 4.2: fake negative weighted).
        """
        labels = torch.from_numpy(batch.labels)[:, : logits.shape[1]]
        losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if self.config.loss_weights:
            losses = losses * torch.tensor(self.config.loss_weights[: logits.shape[1]])
        if batch.stage.any():
            p = torch.sigmoid(logits.detach())
            stage = torch.from_numpy(batch.stage[batch.slate])[:, None]
            weights = torch.where(labels > 0, 1 + p, (1 - p) * (1 + p))
            weights[(stage == STAGES.index("click")) & (labels == 0)] = 0  # says nothing of other kinds
            losses = losses * torch.where(stage == STAGES.index("final"), torch.ones(()), weights)
        return losses.sum()

    def _finite(self, loss: float, grad: Tensor) -> bool:
        """Whether this batch may be learned; counts those that may not."""
        if np.isfinite(loss + float(self._gradient.sum()) + float(grad.sum())):
            self._bad_in_a_row = 0
            return True
        self.n_bad += 1
        self._bad_in_a_row += 1
        log.warning("batch skipped, loss or gradient not finite step=%d loss=%s", self.n_steps, loss)
        if self._bad_in_a_row >= self.config.max_bad_batches:
            raise DivergedError(
                f"step {self.n_steps}: expected a finite loss, got {loss} and {self.n_bad} bad batches"
            )
        return False

    def _count(self, batch: Batch) -> None:
        """Follow the base rate while it is not known yet; what it does later is for the weights to learn."""
        if self._seen[0] < PRIOR_UNTIL:
            self._seen += [batch.n_candidates, *batch.labels.sum(0)]
            self._set_prior()

    def _set_prior(self) -> None:
        rate = np.clip(self._seen[1:] / self._seen[0], 1e-4, 1 - 1e-4)
        self.network.prior.copy_(torch.from_numpy(np.log(rate / (1 - rate)).astype(np.float32)))

    def _refresh(self) -> int:
        """Bring the search up to now, if its time has come; returns how many bits of codes flipped."""
        every = self.config.refresh_every
        if self.frozen and isinstance(unit := self.network.long, SIMSoft) and unit.index is None:
            unit.rebuild(self.table, self.table.n_slots)
        if self.frozen or every <= 1 or self.n_steps - self._refreshed < every:
            return 0
        slots, _ = self.table.changed_since(self._refreshed)
        self._refreshed = self.n_steps
        if isinstance(self.network.long, SIMSoft):
            self.network.long.rebuild(self.table, self.table.n_slots)
        return self.table.encode(slots)


def _flatten(network: Network) -> nn.Parameter:
    """One vector that holds all weights, and one with all gradients; the network's own become views of them.

    A step then costs one call of the optimiser for all of them, instead of one for each of some twenty small tensors.
    """
    weights = list(network.parameters())
    flat = nn.Parameter(torch.cat([w.data.flatten() for w in weights]))
    flat.grad = torch.zeros_like(flat)
    at = 0
    for w in weights:
        w.data = flat.data[at : at + w.numel()].view_as(w)
        w.grad = flat.grad[at : at + w.numel()].view_as(w)
        at += w.numel()
    return flat


def meet(table: EmbeddingTable, batch: Batch, step: int) -> Located:
    """Rows of a batch's keys, with every key of side and slate sighted once; unknown keys may be born."""
    n_fields = batch.items.shape[1]
    items = np.empty(batch.items.shape, np.int64)
    side = np.empty(batch.side.shape, np.int64)
    at_ms = batch.at_ms[batch.slate]
    for f in reversed(range(n_fields)):  # categories before items: an item is born from its category
        items[:, f] = table.see(batch.items[:, f], f, _parents(batch.items, f), at_ms, step)
    sequence, unknown = table.known(batch.sequence)
    if unknown is not None:
        for f in reversed(range(n_fields)):
            parents, seen_ms = _parents(batch.sequence, f), np.repeat(batch.at_ms, np.diff(batch.start))
            sequence[:, f] = table.meet(batch.sequence[:, f], f, parents, seen_ms, step)
    for s in range(batch.side.shape[1]):
        side[:, s] = table.see(batch.side[:, s], n_fields + s, 0, batch.at_ms, step)
    return Located(side, items, sequence)


def locate(table: EmbeddingTable, batch: Batch) -> Located:
    """Rows of a batch's keys as the table stands."""
    items, sequence = locate_items(table, batch.items), locate_items(table, batch.sequence)
    return Located(table.find(batch.side), items, sequence)


def locate_items(table: EmbeddingTable, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Rows int64 ``[n, F]`` of items' keys uint64 ``[n, F]``; an item without a row reads as its category."""
    columns = [table.find(keys[:, f], _parents(keys, f)) for f in range(keys.shape[1])]
    return np.stack(columns, 1)


def _parents(keys: NDArray[np.uint64], field_number: int) -> NDArray[np.uint64] | int:
    """What a key of this item field is born from: an item from its category, anything else from nothing."""
    return keys[:, 1] if field_number == 0 and keys.shape[1] > 1 else 0


def predict(
    network: Network, table: EmbeddingTable, batch: Batch, short: int, k: int, *, young: bool = False
) -> NDArray[np.float32]:
    """Probabilities float32 ``[N, K]`` of a batch; the same code serves trainer and ranker."""
    inputs = prepare(table, batch, locate(table, batch), network.reading, short=short, k=k, young=young)
    with torch.no_grad():
        logits: Tensor = network(torch.from_numpy(table.rows[inputs.unique]), inputs)
        return torch.sigmoid(logits).numpy()
