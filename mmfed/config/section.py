"""Base of every section of the configuration: unknown keys refused, frozen, "none" for None."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """Part of the configuration; its fields are its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _none_by_name(cls, tree: Any) -> Any:
        """TOML has no null: "none" stands for it wherever None is allowed."""
        if not isinstance(tree, dict):
            return tree
        return {key: None if value == "none" and _optional(cls, key) else value for key, value in tree.items()}


def _optional(section: type[BaseModel], key: str) -> bool:
    field = section.model_fields.get(key)
    return field is not None and type(None) in get_args(field.annotation)
