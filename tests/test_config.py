"""Configuration: every key can be set, comes back from disk and wire, and a wrong one is named."""

from __future__ import annotations

import pathlib
import tomllib
from typing import Any, Literal, get_args, get_origin

import pytest
import tomli_w

from mmfed.config import Config, ModalityName, build_config, known_keys, load_config
from mmfed.errors import ExitCode, MmfedError

MODALITIES = get_args(ModalityName)
SPECIAL: dict[str, Any] = {
    "run.name": "other-1",
    "run.folder": "elsewhere",
    "data.path": "some/where",
    "data.people": {"age": [20.0, 30.0], "region": ["north", "south"]},
    "features.cache": "a/cache",
    "features.modalities": ["audio"],
    "evaluation.metric": "recall@5",
    "features.text.vectors": "some/words.txt",
    "defence.trim": 0.25,
    **{f"features.{name}.network": "linear" for name in MODALITIES},
}
RELATIVE = ("data.path", "features.text.vectors")  # in a scenario file, relative to it
NEEDED = {
    "features.text.vectors": "features.text.training=full",
    "defence.norm_bound": "privacy.mode=none",
    "defence.aggregation": "privacy.mode=none",
    **{
        f"features.{name}.{key}": f"features.{name}.training=adapter"
        for name in MODALITIES
        for key in ("network", "scope")
    },
}


def other_value(key: str, info: Any) -> Any:
    """A valid value of the key that is not its default."""
    if key in SPECIAL:
        return SPECIAL[key]
    kinds = [kind for kind in get_args(info.annotation) if kind is not type(None)] if get_args(info.annotation) else []
    kind = info.annotation
    if get_origin(kind) is Literal:
        return next(value for value in get_args(kind) if value != info.default)
    if type(None) in get_args(kind):
        kind = kinds[0]
        if get_origin(kind) is Literal:
            return next(value for value in get_args(kind) if value != info.default)
    if get_origin(kind) is tuple:
        return {
            "model.decays": [0.25],
            "evaluation.k": [5],
            "evaluation.baselines": ["ease"],
            "training.rating_range": [0.0, 10.0],
        }[key]
    if kind is bool:
        return not info.default
    if kind is int:
        return (info.default or 0) + 3
    if kind is float:
        return 0.625
    if kind is str:
        return "something"
    raise AssertionError(f"{key}: {info.annotation}")


def value_of(config: Config, key: str) -> Any:
    node: Any = config.model_dump(mode="json")
    for part in key.split("."):
        node = node[part]
    return node


def as_override(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{key}={{{', '.join(as_override(name, one) for name, one in value.items())}}}"
    return f"{key}={tomli_w.dumps({'v': value}).removeprefix('v = ').strip()}"


@pytest.mark.parametrize("key", known_keys())
def test_every_key_can_be_set_and_comes_back(key, tmp_path):
    value = other_value(key, known_keys()[key])
    more = [NEEDED[key]] if key in NEEDED else []
    config = build_config({}, [*more, as_override(key, value)])
    assert value_of(config, key) == value
    assert value_of(Config(), key) != value
    plain = build_config({}, more)
    changed = [other for other in known_keys() if value_of(config, other) != value_of(plain, other)]
    assert changed == [key]
    assert Config.from_flat(config.to_flat()) == config
    (tmp_path / "x.toml").write_text(config.to_toml())
    if key in RELATIVE:
        assert value_of(load_config(tmp_path / "x.toml"), key) == str(tmp_path / value), "relative to the scenario"
    else:
        assert load_config(tmp_path / "x.toml") == config


@pytest.mark.parametrize("key", [key for key, info in known_keys().items() if type(None) in get_args(info.annotation)])
def test_none_is_written_as_none(key, tmp_path):
    more = ["privacy.noise_multiplier=1.0"] if key == "privacy.epsilon" else []
    config = build_config({}, [*more, f"{key}=none"])
    assert value_of(config, key) is None
    (tmp_path / "x.toml").write_text(config.to_toml())
    assert value_of(load_config(tmp_path / "x.toml"), key) is None
    assert Config.from_flat(config.to_flat()) == config


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["features.image.training=full", "features.image.scope=private"], "adapter"),
        (["features.image.scope=private"], "training"),
        (["features.image.network=cnn"], "training"),
        (["features.text.training=adapter", "features.text.scope=private", "features.text.network=lora"], "linear"),
        (["features.text.training=adapter", "features.text.vectors=w.txt"], "full"),
        (["features.image.vectors=w.txt"], "unknown"),
        (
            [
                "features.image.training=adapter",
                "features.image.scope=private",
                "privacy.mode=none",
                "federation.backend=centralised",
            ],
            "no devices",
        ),
    ],
)
def test_an_encoder_that_cannot_be_trained_like_this_is_refused(wrong, says):
    with pytest.raises(MmfedError, match=says) as fault:
        build_config({}, wrong)
    assert fault.value.code is ExitCode.CONFIG


def test_a_private_adapter_keeps_the_last_round():
    config = build_config({}, ["features.image.training=adapter", "features.image.scope=private", "privacy.mode=none"])
    assert config.features.private_adapters == ("image",)
    assert config.selection == "last"
    assert build_config({}, ["privacy.mode=none"]).selection == "best-validation"


def test_none_is_a_word_where_a_word_is_wanted():
    assert build_config({}, ["features.image.encoder=none"]).features.image.encoder == "none"
    with pytest.raises(MmfedError, match=r"federation\.rounds"):
        build_config({}, ["federation.rounds=none"])


def test_the_flat_form_holds_scalars_only():
    assert {type(value) for value in Config().to_flat().values()} == {str}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("federation.round=3", "federation.rounds"),
        ("training.lerning_rate=1", "training.learning_rate"),
        ("rounds=3", "federation.rounds"),
        ("privacy.epsilom=3", "privacy.epsilon"),
        ("model.fusoin='concat'", "model.fusion"),
        ("federation.server_optimiser.beta3=0.1", "federation.server_optimiser.beta"),
    ],
)
def test_an_unknown_key_names_the_nearest(wrong, right):
    with pytest.raises(MmfedError) as fault:
        build_config({}, [wrong])
    assert fault.value.code is ExitCode.CONFIG
    assert wrong.split("=")[0] in fault.value.message
    assert right in fault.value.fix
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "federation.rounds=0",
        "federation.rounds=2.5",
        "federation.rounds=many",
        "model.decays=[]",
        "model.decays=[0.0]",
        "model.decays=[1.5]",
        "evaluation.k=[0]",
        "privacy.clip_norm=0",
        "privacy.clip_norm=inf",
        "privacy.clip_norm=nan",
        "privacy.epsilon=inf",
        "privacy.epsilon=-1",
        "privacy.delta=1",
        "privacy.mode=public",
        "privacy.record_sample_rate=0",
        "training.learning_rate=inf",
        "federation.server_optimiser.beta1=1.0",
        "run.name=../x",
        "run.name=",
        "data.split.test=0",
        "features.modalities=['smell']",
        "model=5",
        "model.name.x=5",
    ],
)
def test_a_wrong_value_names_its_key(wrong):
    with pytest.raises(MmfedError) as fault:
        build_config({}, [wrong])
    assert fault.value.code is ExitCode.CONFIG
    assert wrong.split("=")[0].split(".")[0] in fault.value.message
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("text", ["", "federation.rounds", "=3", " = 3"])
def test_an_override_that_is_none(text):
    with pytest.raises(MmfedError, match="key=value"):
        build_config({}, [text])


def test_privacy_needs_one_of_two():
    with pytest.raises(MmfedError, match=r"epsilon or privacy\.noise_multiplier"):
        build_config({}, ["privacy.epsilon=none"])
    assert build_config({}, ["privacy.epsilon=none", "privacy.mode=none"]).privacy.epsilon is None


def test_overrides_beat_the_file_and_the_last_wins(tmp_path):
    (tmp_path / "x.toml").write_text("[federation]\nrounds = 5\ncohort = 7\n[compare]\nseeds = [1]\n")
    config = load_config(tmp_path / "x.toml", ["federation.rounds=6", "federation.rounds=8"])
    assert (config.federation.rounds, config.federation.cohort) == (8, 7)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.toml").write_text("[federation\nrounds = 5")
    (tmp_path / "latin.toml").write_bytes(b'[run]\nname = "\xff"')
    for path in (tmp_path / "absent.toml", tmp_path / "bad.toml", tmp_path / "latin.toml", tmp_path):
        with pytest.raises(MmfedError) as fault:
            load_config(path)
        assert fault.value.code is ExitCode.CONFIG
        assert str(path) in fault.value.message


def test_selection_follows_privacy_and_private_vectors():
    def selection(*overrides: str) -> str:
        return build_config({}, overrides).selection

    assert selection() == "last"
    assert selection("privacy.mode=none") == "best-validation"
    assert selection("federation.selection=best-validation") == "best-validation"
    assert selection("privacy.mode=none", "federation.selection=last") == "last"
    assert selection("privacy.mode=none", "model.private_user_vector=true") == "last"


def test_the_toml_is_plain():
    tree = tomllib.loads(Config().to_toml())
    assert tree["federation"]["cohort"] == "none"
    assert isinstance(build_config(tree).run.folder, pathlib.Path)


def test_a_permuted_control_cannot_read_raw_inputs():
    with pytest.raises(MmfedError, match="permuted"):
        build_config({}, ["features.permuted=true", "features.image.training=full"])


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["model.history=0"], "private_user_vector"),
        (["model.history=0", "model.private_user_vector=true", "privacy.mode=record"], "record"),
        (["model.history=0", "model.private_user_vector=true", "training.objective=mse"], "mse"),
        (["privacy.mode=record", "training.epochs=2"], "training.epochs"),
        (["privacy.mode=record", "training.optimiser=adam"], "training.optimiser"),
    ],
)
def test_a_user_that_nothing_trains_and_steps_that_nobody_counts_are_refused(chosen, said):
    with pytest.raises(MmfedError, match=said):
        build_config({}, chosen)
