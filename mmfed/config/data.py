"""Which shop a run reads, and how histories are cut in time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mmfed.config.section import Section
from mmfed.person_attributes import PersonAttributes


class SplitSection(Section):
    """How a person's history is cut in time."""

    kind: Literal["leave-last-out", "ratio", "global-time", "given"] = "leave-last-out"
    validation: float = Field(
        default=0.1, ge=0, lt=1, description="share of a history (ratio) or of the time span (global-time)"
    )
    test: float = Field(
        default=0.1, gt=0, lt=1, description="share of a history (ratio) or of the time span (global-time)"
    )
    minimum_history: int = Field(default=3, ge=1, description="users with fewer interactions are kept in training only")
    cold_items: float = Field(
        default=0.0, ge=0, lt=1, description="share of items held out wholly, as if they came after training"
    )
    new_users: float = Field(
        default=0.0, ge=0, lt=1, description="share of users held out wholly, as if they came after training"
    )
    fold: int = Field(default=0, ge=0, description="which of the disjoint shares of items and users is held out")

    @model_validator(mode="after")
    def _fold_exists(self) -> SplitSection:
        share = max(self.cold_items, self.new_users)
        if (self.fold + 1) * share > 1 + 1e-9:
            raise ValueError(f"fold {self.fold} does not exist: shares of {share:g} give {int(1 / share + 1e-9)} folds")
        return self


class DataSection(Section):
    """Which shop, and how it is read."""

    source: Literal["demo", "table", "movielens", "mmrec"] = "demo"
    path: Path | None = Field(default=None, description="folder of the shop; the demo shop needs none")
    minimum_value: float | None = Field(default=None, description="drop ratings below this value; none keeps all")
    repeats: Literal["first", "last", "all"] = Field(
        default="first", description="which of a user's repeated items stay"
    )
    users: int | None = Field(
        default=None, ge=1, description="demo shop: number of simulated shoppers; elsewhere: keep only the first"
    )
    seed: int = Field(
        default=0, ge=0, description="demo shop: of the simulated shoppers, apart from the run's own seed"
    )
    own_content: bool = Field(
        default=True, description="table: read people's own queries, reviews and photos, where the folder has the file"
    )
    on_disk: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="table: keep interactions as memory-mapped files in the cache folder instead of in memory; auto: "
        "from 2 million rows (Parquet) or 100 MB (CSV)",
    )
    people: PersonAttributes = Field(
        default=(),
        description="what people may say of themselves: by attribute where its bands begin, or its categories",
    )
    split: SplitSection = SplitSection()
