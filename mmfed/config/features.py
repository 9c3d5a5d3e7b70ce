"""Features of the public catalogue: an encoder for each modality."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mmfed.config.section import Section

ModalityName = Literal["image", "text", "attributes", "audio", "video"]
Precision = Literal["float32", "float16", "int8"]


class EncoderSection(Section):
    """Encoder of one modality: frozen, adapted, or trained from raw inputs."""

    encoder: str = Field(
        default="default", description="'default', a torchvision/transformers model name, a folder, or 'none'"
    )
    weights: str = Field(default="default", description="'default', a torchvision weights name, or a file")
    dimensions: int | None = Field(
        default=64, ge=1, description="PCA to this many dimensions; none keeps the encoder's own"
    )
    whiten: bool = Field(default=True, description="unit variance of every kept direction")
    training: Literal["frozen", "adapter", "full"] = Field(
        default="frozen",
        description="frozen features, an adapter trained behind them, or a network trained from raw inputs",
    )
    scope: Literal["shared", "private"] = Field(
        default="shared", description="shared weights are aggregated; a private adapter never leaves the device"
    )
    network: str = Field(
        default="default",
        description="what is trained (full: cnn, text-cnn, lstm, gru, audio-gru, audio-cnn, frame-pooling, embedding; "
        "adapter: bottleneck, linear, lora); 'default' takes the first that fits",
    )

    @model_validator(mode="after")
    def _what_can_be_trained(self) -> EncoderSection:
        if self.training == "full" and self.scope == "private":
            raise ValueError(
                "a private full network would be trained from one person's few interactions: set training = 'adapter', "
                "or scope = 'shared'"
            )
        if self.training == "frozen" and (self.scope != "shared" or self.network != "default"):
            raise ValueError("scope and network belong to trained encoders: set training = 'adapter' or 'full'")
        if self.scope == "private" and self.network not in ("default", "linear"):
            raise ValueError(f"a private adapter is linear, not {self.network!r}: leave network at 'default'")
        return self


class TextSection(EncoderSection):
    """Encoder of titles and descriptions."""

    vectors: Path | None = Field(
        default=None, description="full: Word2Vec or GloVe file with start values of the words; every party needs it"
    )
    train_words: bool = Field(default=True, description="full: whether word vectors are trained and sent")

    @model_validator(mode="after")
    def _vectors_are_of_a_full_network(self) -> TextSection:
        if self.vectors is not None and self.training != "full":
            raise ValueError("vectors are start values of a network over words: set training = 'full'")
        return self


class AttributesSection(EncoderSection):
    """Encoder of the attribute columns, whose own width is small and already on one scale."""

    dimensions: int | None = Field(
        default=None, ge=1, description="PCA to this many dimensions; none keeps the encoder's own"
    )
    whiten: bool = Field(default=False, description="unit variance of every kept direction")


class FeaturesSection(Section):
    """Features of the public catalogue."""

    modalities: tuple[ModalityName, ...] = ("image", "text", "attributes")
    cache: Path | None = Field(default=None, description="feature cache folder; none takes the user's cache folder")
    batch: int = Field(default=32, ge=1, description="pictures or texts at a time")
    precision: Precision = Field(
        default="float32",
        description="reduced features are rounded to this, so that they can be kept and sent in 2 bytes or 1 a number",
    )
    permuted: bool = Field(
        default=False, description="a control: every item gets another one's features, so content can say nothing"
    )
    image: EncoderSection = EncoderSection()
    text: TextSection = TextSection()
    attributes: AttributesSection = AttributesSection()
    audio: EncoderSection = EncoderSection()
    video: EncoderSection = EncoderSection()

    @property
    def private_adapters(self) -> tuple[ModalityName, ...]:
        """Modalities with an adapter per user."""
        return tuple(name for name in dict.fromkeys(self.modalities) if getattr(self, name).scope == "private")
