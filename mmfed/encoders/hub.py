"""A transformers model by folder or name: where its files are, what they hash to, and loading them in silence."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmfed.errors import ExitCode, MmfedError
from mmfed.records import sha256_file

_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")  # what a model is made of; no pickled weights


def locate_model(encoder: str, modality: str) -> tuple[Path, str]:
    """Folder of the model, downloaded when it is no folder yet, and its name for the cache record.

    Raises:
        MmfedError: the folder is no model, or the hub cannot be reached.
    """
    folder = Path(encoder)
    if not folder.is_dir():
        return _download(encoder, modality), encoder
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise unusable_model(folder, modality, "it needs config.json and *.safetensors")
    return folder, folder.resolve().name


def model_sha256(folder: Path) -> str:
    """Hash over the files a model is read from, by name."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()):
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def unusable_model(folder: Path, modality: str, reason: str | Exception) -> MmfedError:
    """The fault of a folder that is no model of this modality."""
    return MmfedError(
        ExitCode.FEATURES,
        f"{folder}: not a usable {modality} model ({_line(reason)}).",
        "give another folder, or use 'default'.",
    )


@contextmanager
def silence() -> Iterator[None]:
    """No warnings, log lines or progress bars from transformers; the process's own settings come back afterwards."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as chatter

    level, bars, hub_bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled(), not are_progress_bars_disabled()
    chatter.set_verbosity(logging.CRITICAL)
    chatter.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


def _download(name: str, modality: str) -> Path:
    """The hub's local copy of a model, fetched when it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    with silence():
        try:
            return Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError, OSError):
            pass
        try:
            return Path(snapshot_download(name, allow_patterns=list(_FILES)))
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
            raise MmfedError(
                ExitCode.FEATURES,
                f"features.{modality}.encoder: '{name}' is no folder and cannot be downloaded ({_line(error)}).",
                "connect to the internet once, give a folder with the model, or use 'default'.",
            ) from None


def _line(reason: str | Exception) -> str:
    return " ".join(str(reason).split())[:160]
