"""What private evaluation figures cost and how far they are off, against the exact ones of a simulation."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.config import Config
from mmfed.federated import wire
from mmfed.federated.coordinator import enrol
from mmfed.federated.evaluation_round import evaluate_privately, layout_of, users_metrics
from mmfed.federated.participant import client_app
from mmfed.federated.private_metrics import read_metrics
from mmfed.federated.progress import chosen_model, load_parameters
from mmfed.federated.workspace import Workspace
from mmfed.privacy.calibration import noise_multiplier_for
from mmfed.privacy.ledger import Ledger, header_for
from mmfed.privacy.mechanisms import GaussianMechanism, SeededNoise
from mmfed.privacy.units import default_delta, guarantee_for
from mmfed.records import RunFolder
from mmfed.rng import derive
from mmfed.simulation.inprocess import InProcessGrid
from mmfed.simulation.run import private_vectors


@dataclass(frozen=True, kw_only=True)
class PrivateFigure:
    """One figure at one ε.

    Args:
        name: of the metric.
        epsilon, delta: charged on the line "metrics" for all figures together.
        noise_multiplier: σ of the one release.
        exact: the value that was protected.
        private: mean over repeated draws of the noise.
        error: root mean square of private minus exact over these; NaN values left out.
        undefined: share of draws without a value.
    """

    name: str
    epsilon: float
    delta: float
    noise_multiplier: float
    exact: float
    private: float
    error: float
    undefined: float


def private_figures(
    run: RunFolder, config: Config, workspace: Workspace, epsilons: Sequence[float], *, draws: int = 20
) -> list[PrivateFigure]:
    """The run's model evaluated privately, ``draws`` times at every ε; the run's own ledger is not touched.

    The first draw goes through messages, devices, mechanism and a ledger of its own (whose claim is the ε told); the
    others repeat the noise on the same sum.

    Raises:
        MmfedError: as ``evaluate_privately``.
    """
    parameters, _ = chosen_model(run, config)
    model = workspace.new_model()
    load_parameters(model, parameters)
    population = workspace.shop.interactions.user_count
    layout = layout_of(config, model.item_count)
    vectors = private_vectors(run, workspace, model)
    exact_total = users_metrics(model, workspace, np.arange(population), vectors)["metrics"].numpy()
    exact = read_metrics(exact_total, layout, 0.0).values
    delta = default_delta(population) if config.privacy.delta is None else config.privacy.delta
    run_id = (run.path / "run-id").read_text(encoding="utf-8").strip()
    guarantee = guarantee_for("user-central", population=population, delta=delta)
    found = []
    grid = InProcessGrid(client_app(), nodes=config.federation.nodes, state_folder=run.devices)
    nodes = enrol(grid, config, run_id, workspace)
    public = model.public_tensors()
    shapes = wire.shared_shapes(model) | wire.public_shapes(model)
    for epsilon in epsilons:
        sigma = noise_multiplier_for(epsilon=epsilon, delta=delta, sampling="full", sampling_rate=1.0, rounds=1)
        noise = SeededNoise(derive(config.run.seed, "private metrics"))
        mechanism = GaussianMechanism(clip_norm=1.0, noise_multiplier=sigma, noise=noise)
        header = header_for(
            guarantee,
            run_id=f"{run_id}-metrics",
            population=population,
            population_basis="users enrolled when the run started",
            target_epsilon=epsilon,
            noise_source=noise.name,
        )
        with (
            tempfile.TemporaryDirectory(prefix="mmfed-metrics-") as scratch,
            Ledger.create(Path(scratch) / "ledger.jsonl", header, Ed25519PrivateKey.generate()) as ledger,
        ):
            first = evaluate_privately(
                grid,
                config,
                run_id=run_id,
                nodes=nodes,
                catalogue=workspace.features.digest,
                item_count=model.item_count,
                arrays=dict(parameters) | public,
                shapes=shapes,
                mechanism=mechanism,
                ledger=ledger,
                round_number=1,
            )
            spent = ledger.spent(line="metrics").value
        drawn = [first.values]
        for number in range(2, draws + 1):
            noised = mechanism.release(exact_total, planned_cohort=1, round_number=number, purpose="metrics")
            drawn.append(read_metrics(noised, layout, sigma).values)
        for name, value in exact.items():
            values = np.array([one[name] for one in drawn])
            known = values[np.isfinite(values)]
            off = math.sqrt(float(np.mean((known - value) ** 2))) if len(known) else math.nan
            found.append(
                PrivateFigure(
                    name=name,
                    epsilon=spent,
                    delta=delta,
                    noise_multiplier=sigma,
                    exact=value,
                    private=float(known.mean()) if len(known) else math.nan,
                    error=off,
                    undefined=1 - len(known) / len(values),
                )
            )
    return found
