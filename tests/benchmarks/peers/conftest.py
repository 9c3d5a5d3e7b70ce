"""Workloads small enough for a test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmfed.training.reference import train_user

USERS = 6


def small(workload):
    """The workload on few users and items, its clip norm in the middle of the users' norms."""
    workload = replace(workload, users=USERS, items=min(workload.items, 200), mean_length=40)
    config = workload.config()
    model, histories = workload.model(config), workload.histories(USERS)
    vectors, work = workload.vectors(model, USERS), workload.work(config)
    free = replace(work, privacy=work.privacy.model_copy(update={"clip_norm": 1e9}))
    changes = [train_user(model, histories.take(np.array([one])), vectors[one], free)[0] for one in range(USERS)]
    norms = [
        float(torch.sqrt(sum((value.square().sum() for value in one.values()), torch.zeros(())))) for one in changes
    ]
    workload = replace(workload, settings={**workload.settings, "privacy.clip_norm": float(np.median(norms))})
    config = workload.config()
    return workload, config, model, histories, vectors, workload.work(config)


@pytest.fixture(name="small", scope="session")
def small_workload():
    """The function above."""
    return small
