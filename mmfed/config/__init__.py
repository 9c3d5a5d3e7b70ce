"""Configuration: one model tree, TOML on disk, ``--set key=value`` on top."""

from mmfed.config.data import DataSection, SplitSection
from mmfed.config.defence import DefenceSection
from mmfed.config.features import (
    AttributesSection,
    EncoderSection,
    FeaturesSection,
    ModalityName,
    Precision,
    TextSection,
)
from mmfed.config.federation import FederationSection, OneShotSection, ServerOptimiserSection
from mmfed.config.load import build_config, known_keys, load_config
from mmfed.config.privacy import LinesSection, PrivacyMode, PrivacySection
from mmfed.config.training import CentralisedSection, ModelSection, TrainingSection
from mmfed.config.tree import Config, EvaluationSection, RunSection

__all__ = [
    "AttributesSection",
    "CentralisedSection",
    "Config",
    "DataSection",
    "DefenceSection",
    "EncoderSection",
    "EvaluationSection",
    "FeaturesSection",
    "FederationSection",
    "LinesSection",
    "ModalityName",
    "ModelSection",
    "OneShotSection",
    "Precision",
    "PrivacyMode",
    "PrivacySection",
    "RunSection",
    "ServerOptimiserSection",
    "SplitSection",
    "TextSection",
    "TrainingSection",
    "build_config",
    "known_keys",
    "load_config",
]
