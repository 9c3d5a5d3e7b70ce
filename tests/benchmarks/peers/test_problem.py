"""What peers are given survives the file, and a few users stand for all."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from simulations.benchmarks.peers.export import problem_of, representative
from simulations.benchmarks.peers.problem import Problem
from simulations.benchmarks.workloads import WORKLOADS


def test_a_problem_comes_back_as_it_was(tmp_path):
    workload = next(one for one in WORKLOADS if one.name == "W2")
    config = workload.config()
    model, histories = workload.model(config), workload.histories(4)
    problem = problem_of(workload, config, model, histories, workload.vectors(model, 4).numpy())
    problem.save(tmp_path / "problem.npz")
    found = Problem.load(tmp_path / "problem.npz")
    assert found.settings == problem.settings
    assert found.widths == problem.widths
    assert found.parameters.keys() == problem.parameters.keys()
    for name, value in problem.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], value)
    for name in ("features", "keys", "indptr", "items", "vectors"):
        np.testing.assert_array_equal(getattr(found, name), getattr(problem, name))


def test_few_users_are_as_long_as_all():
    lengths = np.random.default_rng(0).lognormal(4, 0.8, 1000).astype(np.int64)
    chosen = representative(lengths, 64)
    assert len(set(chosen.tolist())) == 64
    assert abs(lengths[chosen].mean() / lengths.mean() - 1) < 0.03
    np.testing.assert_array_equal(representative(np.array([3, 1, 2]), 3), [0, 1, 2])


def test_the_maths_needs_neither_flower_nor_opacus_nor_mmfeds_models():
    """pfl's environment holds PyTorch, NumPy and pfl alone."""
    program = (
        "import sys, simulations.benchmarks.peers.serve, simulations.benchmarks.peers.plain\n"
        "unwanted = ('flwr', 'opacus', 'pydantic', 'mmfed.config', 'mmfed.models')\n"
        "print([name for name in unwanted if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
