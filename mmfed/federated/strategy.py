"""Our Flower strategy: one loop of numbered steps for simulation and deployment alike.

1. draw the cohort (Poisson, users, not nodes)   2. send work   3. collect and check updates   4. sum in a fixed order
5. add noise, charge the ledger, only then go on   6. server optimiser   7. checkpoint   8. validate and report
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import faults, tasks, wire
from mmfed.federated.optimiser import ServerOptimiser
from mmfed.federated.participation import SeparatedSampler
from mmfed.federated.release import Release
from mmfed.federated.robust import centre, row_bound
from mmfed.federated.sampling import poisson_cohort, sampling_rate
from mmfed.types import IntArray

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundRecord:
    """What a round leaves in ``metrics.jsonl``.

    Attributes:
        planned: expected cohort, users.
        asked: users drawn.
        realised: users whose update is in the sum.
        refused_nodes: nodes whose reply was an error or was refused.
        seconds: wall time of the round.
        epsilon: spent so far, None without an account at the coordinator.
        validation: metric by name, where this round was validated.
        scaled_rows: rows of an item beyond ``defence.row_bound``, over all updates of the round.
        alarms: items whose exposure rose by ``defence.alarm_rise``, as ``exposure.Alarm`` with plain values.
    """

    round: int
    planned: float
    asked: int
    realised: int
    refused_nodes: int
    seconds: float
    epsilon: float | None
    validation: Mapping[str, float] | None
    scaled_rows: int = 0
    alarms: tuple[Mapping[str, str | float], ...] = ()


@dataclass(frozen=True, eq=False)
class RoundState:
    """Everything a checkpoint holds after a round."""

    record: RoundRecord
    parameters: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    release: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Collected:
    """The sum of a round's updates.

    Attributes:
        total: flat; of a median or trimmed mean, that times the users in it.
        realised: users in it.
        within: those within the clip norm (adaptive clipping).
        scaled_rows: rows that ``defence.row_bound`` scaled down.
    """

    total: np.ndarray
    realised: int
    within: int = 0
    scaled_rows: int = 0
    refused: list[str] = field(default_factory=list)


class CohortStrategy(Strategy):
    """Poisson cohorts, equal weights, own privacy mechanism.

    Args:
        config: of the run.
        run_id: names the run in ledgers.
        nodes: user keys by node id.
        catalogue: digest of the catalogue's features.
        shapes: the wire's allow-list.
        release: noise and charge (or neither, by mode).
        optimiser: turns mean updates into a model.
        noise_multiplier: record mode: σ the devices add.
        public: what is sent beside the parameters and never comes back (``wire.public_shapes``).
        public_update: what the coordinator adds to a mean update, given the round's parameters (auxiliary tasks on
            public labels); nothing by default.
        row_parameters: names of the parameters with one row per item (``defence.row_bound``).
        sampler: user-ftrl: who may take part again; None: Poisson cohorts.
        after_round: called with each round's state; checkpoints, validates, reports. Returns True to stop early.
    """

    def __init__(
        self,
        *,
        config: Config,
        run_id: str,
        nodes: Mapping[int, IntArray],
        catalogue: str,
        shapes: wire.Shapes,
        release: Release,
        optimiser: ServerOptimiser,
        noise_multiplier: float,
        after_round: Callable[[RoundState], bool],
        row_parameters: Sequence[str] = (),
        sampler: SeparatedSampler | None = None,
        public: Mapping[str, Tensor] | None = None,
        public_update: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda parameters: {},
    ) -> None:
        self._config = config
        self._run_id = run_id
        # Flower draws node ids at random; ordered by their users, nodes are summed alike in every run and backend.
        self._nodes = dict(sorted(nodes.items(), key=lambda node: int(node[1].min()) if len(node[1]) else -1))
        self._rank = {node: rank for rank, node in enumerate(self._nodes)}
        self._catalogue = catalogue
        self._shapes = shapes
        self._release = release
        self._optimiser = optimiser
        self._noise_multiplier = noise_multiplier
        self._after_round = after_round
        self._row_bound = row_bound(config.defence, shapes, row_parameters)
        self._public_update = public_update
        self._public = dict(public or {})
        self.population = sum(len(users) for users in self._nodes.values())
        self.rate = sampling_rate(config.federation.cohort, self.population)
        self._sampler = sampler
        if sampler is not None:
            self.rate = sampler.planned / self.population
        self._asked: dict[int, IntArray] = {}

    def summary(self) -> None:
        """Nothing to log: the run folder holds the configuration."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Steps 1 and 2: one message for every node that holds a user of the cohort.

        Where a defence reads single updates, one for every user: the same for a device, which holds one.
        """
        del config
        self._asked = {}
        messages = []
        seed, source = self._config.run.seed, self._config.privacy.noise_source
        drawn = None if self._sampler is None else self._sampler.draw(server_round, seed=seed, source=source)
        for node, users in self._nodes.items():
            if drawn is not None:
                cohort = users[np.isin(users, drawn)]
            else:
                cohort = poisson_cohort(users, self.rate, seed=seed, round_number=server_round, source=source)
            if not len(cohort):
                continue
            self._asked[node] = cohort
            for users in np.split(cohort, len(cohort)) if self._apart else [cohort]:
                task = tasks.Task(
                    config=self._config,
                    run_id=self._run_id,
                    population=self.population,
                    noise_multiplier=self._noise_multiplier,
                    catalogue=self._catalogue,
                    round_number=server_round,
                    users=users,
                    clip_norm=self._release.moving_clip_norm,
                )
                content = tasks.task_content(task, arrays)
                messages.append(grid.create_message(content, tasks.TRAIN, node, str(server_round)))
        return messages

    @property
    def _apart(self) -> bool:
        """Whether every user's update comes in a message of its own."""
        return self._config.defence.single_updates

    def collect(self, server_round: int, replies: Iterable[Message]) -> Collected:
        """Steps 3 and 4: the sum, in a fixed order of nodes, of the replies that hold up."""
        size = sum(int(np.prod(shape)) for shape in self._shapes.values())
        collected = Collected(np.zeros(size), 0)
        answered: Counter[int] = Counter()
        single: list[np.ndarray] = []
        for reply in sorted(replies, key=lambda reply: self._rank.get(reply.metadata.src_node_id, len(self._rank))):
            node = reply.metadata.src_node_id
            try:
                vector, realised, within = self._checked(reply, answers=answered[node])
            except MmfedError as fault:
                collected.refused.append(f"node {node}: {fault.message}")
                continue
            answered[node] += 1
            if self._row_bound is not None:
                vector, scaled = self._row_bound.applied(vector)
                collected.scaled_rows += scaled
            if self._config.defence.aggregation == "mean":
                collected.total += vector
            elif realised:
                single.append(vector)
            collected.realised += realised
            collected.within += within
        if single:
            collected.total = centre(single, self._config.defence) * len(single)
        silent = sorted(self._asked.keys() - answered.keys())
        if self._asked and not answered:
            reasons = (
                faults.condensed(collected.refused) or f"no reply within {self._config.federation.round_timeout:g} s"
            )
            raise MmfedError(
                ExitCode.FEDERATION,
                f"round {server_round}: none of {len(self._asked)} nodes gave an update ({reasons}).",
                "look at the nodes and continue with --resume; raise federation.round_timeout if they were only slow.",
            )
        named = {entry.split(":")[0] for entry in collected.refused}
        collected.refused += [f"node {node}: no reply" for node in silent if f"node {node}" not in named]
        return collected

    def _checked(self, reply: Message, *, answers: int) -> tuple[np.ndarray, int, int]:
        """The update of one reply as a vector, how many users are in it, and within the clip norm.

        Args:
            answers: accepted from this node before.
        """
        node = reply.metadata.src_node_id
        if reply.has_error():
            raise MmfedError(ExitCode.FEDERATION, faults.reason(reply.error), "look at the node's log.")
        asked = self._asked.get(node)
        if asked is None or answers >= (len(asked) if self._apart else 1):
            raise MmfedError(ExitCode.FEDERATION, "an update nobody asked for", "update the node.")
        counted = self._release.moving_clip_norm is not None
        arrays, realised = tasks.read_training_reply(reply.content, counted=counted)
        most = 1 if self._apart else len(asked)
        if realised > most:
            raise MmfedError(ExitCode.FEDERATION, f"claims {realised} users of {most}", "update the node.")
        vector = wire.flatten(wire.decode(arrays, self._shapes), self._shapes)
        self._release.check_norm(vector, realised)
        return vector, realised, tasks.read_within(reply.content, realised) if counted else 0

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Steps 3 to 5: the mean update of the round, noised and charged."""
        collected = self.collect(server_round, replies)
        if collected.refused:
            _log.warning("round %d goes on without %s", server_round, faults.condensed(collected.refused))
        mean = self._release.mean(
            collected.total,
            round_number=server_round,
            rate=self.rate,
            planned=max(1, round(self.rate * self.population)),
            realised=collected.realised,
            dropouts=sum(len(users) for users in self._asked.values()) - collected.realised,
            within=collected.within,
        )
        arrays = wire.encode(wire.unflatten(mean, self._shapes), self._shapes, dtype=np.float64)
        counts = {"realised": collected.realised, "refused-nodes": len(collected.refused)}
        return arrays, MetricRecord({**counts, "scaled-rows": collected.scaled_rows})

    def _kept(self) -> dict[str, Tensor]:
        """What release and sampler need to go on."""
        sampler = {} if self._sampler is None else self._sampler.state()
        return self._release.state() | {f"sampler.{name}": value for name, value in sampler.items()}

    def exchange(
        self, server_round: int, arrays: ArrayRecord, grid: Grid
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Steps 1 to 5: the mean update of the round."""
        messages = list(self.configure_train(server_round, arrays, ConfigRecord(), grid))
        timeout = self._config.federation.round_timeout
        replies = list(grid.send_and_receive(messages, timeout=timeout)) if messages else []
        return self.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No metric is asked of devices: it would be a release of its own."""
        del server_round, arrays, config, grid
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """See ``configure_evaluate``."""
        del server_round, replies
        return None

    def start(  # type: ignore[override]
        self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, *, first_round: int = 1
    ) -> Result:
        """Run rounds ``first_round`` to ``num_rounds``; see the module docstring for the steps."""
        parameters = wire.decode(initial_arrays, self._shapes)
        result = Result()
        result.arrays = initial_arrays
        for number in range(first_round, num_rounds + 1):
            started = time.perf_counter()
            everything = self._shapes | {name: tuple(value.shape) for name, value in self._public.items()}
            arrays = wire.encode(dict(parameters) | self._public, everything)
            mean, metrics = self.exchange(number, arrays, grid)
            if mean is None or metrics is None:
                raise MmfedError(ExitCode.FEDERATION, f"round {number} gave no update.", "continue with --resume.")
            update = wire.decode(mean, self._shapes)
            for name, value in self._public_update(parameters).items():
                update[name] = update[name] + value
            parameters = self._optimiser.step(parameters, update)
            record = RoundRecord(
                round=number,
                planned=self.rate * self.population,
                asked=sum(len(users) for users in self._asked.values()),
                realised=int(metrics["realised"]),  # type: ignore[arg-type]
                refused_nodes=int(metrics["refused-nodes"]),  # type: ignore[arg-type]
                seconds=time.perf_counter() - started,
                epsilon=self._release.spent(),
                validation=None,
                scaled_rows=int(metrics.get("scaled-rows", 0)),  # type: ignore[arg-type]
            )
            stop = self._after_round(RoundState(record, parameters, self._optimiser.state(), self._kept()))
            result.arrays = wire.encode(parameters, self._shapes)
            if stop:
                break
        return result
