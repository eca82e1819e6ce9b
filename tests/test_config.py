"""Every setting has help, a range that holds with and without a command line, and a flag of its name."""

import dataclasses
import inspect
import math
from enum import Enum
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from edgetl import config
from edgetl.cli import COMMANDS
from edgetl.config import Precision, PredictConfig, Recipe, TrainConfig, VerifyConfig
from edgetl.errors import UsageError

CONFIGS = {
    name: kind
    for name, kind in vars(config).items()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type)
}
CONFIG_OF = {name: CONFIGS.get(f"{name.capitalize()}Config") for name in COMMANDS}
FIELDS = [(kind, field) for kind in CONFIGS.values() for field in dataclasses.fields(kind)]
each_field = pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda item: getattr(item, "name", None))


def test_every_config_belongs_to_a_command():
    assert set(CONFIG_OF.values()) - {None} == set(CONFIGS.values())


@pytest.mark.parametrize("kind", CONFIGS.values())
def test_defaults_are_allowed_and_settings_do_not_change(kind):
    settings = kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, dataclasses.fields(kind)[0].name, None)


@each_field
def test_every_setting_explains_itself_in_a_sentence(kind, field):
    text = field.metadata["help"]
    assert text.endswith(".")
    assert 15 <= len(text) <= 150


@each_field
def test_limits_belong_to_numbers_and_numbers_have_limits(kind, field):
    numeric = {int, float} & {get_type_hints(kind)[field.name], *get_args(get_type_hints(kind)[field.name])}
    assert bool(numeric) is (field.metadata["min"] is not None)
    assert numeric or field.metadata["max"] is None


@each_field
def test_the_range_is_inclusive_and_holds(kind, field):
    low, high = field.metadata["min"], field.metadata["max"]
    for edge, outside in ((low, -1), (high, 1)):
        if edge is not None:
            assert getattr(kind(**{field.name: edge}), field.name) == edge
            with pytest.raises(UsageError, match=f"{field.name} is") as caught:
                kind(**{field.name: edge + outside})
            assert str(edge) in caught.value.fix


@each_field
def test_other_types_are_refused(kind, field):
    for wrong in (object(), b"1", [1]):
        with pytest.raises(UsageError, match=f"{field.name} is"):
            kind(**{field.name: wrong})


@pytest.mark.parametrize(
    ("make", "fix"),
    [
        (lambda: VerifyConfig(max_drop=math.nan), "Choose a value from 0.01 to 100."),
        (lambda: TrainConfig(patience=0), "Choose a value of at least 1."),
        (lambda: VerifyConfig(max_drop="1"), "Give a number."),
        (lambda: VerifyConfig(max_drop=True), "Give a number."),
        (lambda: PredictConfig(top=2.0), "Give a whole number."),
        (lambda: PredictConfig(output=Path("rows.csv")), "Give a text."),
        (lambda: TrainConfig(resume=1), "Give True or False."),
        (lambda: TrainConfig(recipe="classic"), "Give Recipe.DEFAULT or Recipe.CLASSIC."),
        (lambda: TrainConfig(class_map="classes.txt"), "Give a Path or None."),
        (lambda: TrainConfig(minutes="5"), "Give a number or None."),
    ],
)
def test_the_hint_says_what_is_allowed(make, fix):
    with pytest.raises(UsageError) as caught:
        make()
    assert caught.value.fix == fix


def test_whole_numbers_are_fractions_too():
    assert VerifyConfig(max_drop=2).max_drop == 2


@pytest.mark.parametrize("name", [name for name, kind in CONFIG_OF.items() if kind])
def test_every_setting_is_a_flag_with_its_default_and_help(name, invoke):
    plain = " ".join(invoke(name, "--help").stdout.split())
    parameters = inspect.signature(COMMANDS[name]).parameters
    for field in dataclasses.fields(CONFIG_OF[name]):
        assert f"--{field.name.replace('_', '-')}" in plain
        assert parameters[field.name].default == field.default
        assert field.metadata["help"].split(" (")[0].split(" - ")[0][:25] in plain


def test_enum_values_are_what_is_typed():
    for kind in vars(config).values():
        if isinstance(kind, type) and issubclass(kind, Enum):
            assert all(member.value == member.name.lower().replace("_", "-") for member in kind)
    assert Precision("w8a32") is Precision.W8A32
    assert Recipe("classic") is Recipe.CLASSIC
