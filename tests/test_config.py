"""Settings: what a file may say, and the one clear line that answers each mistake."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mbnas.assignment import Space
from mbnas.config import dump, load, validate
from mbnas.errors import SettingsError
from mbnas.sameness import differences, identity
from mbnas.settings import Settings, Surrogate

SPACE = """
name: tiny
backbone: {name: resnet8, width: 4}
choices: {weight_bases: [3, 1, 3], activation_bases: [1, 2]}
data: {name: digits, validation: 200}
threat: {eps: 8/255, step: 2/255}
supernet: {epochs: 2, training: fastat, step: 10/255}
search: {evaluations: 8, images: 64}
retraining: {epochs: 2}
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def load_text(text: str) -> Settings:
    return validate(yaml.safe_load(text))


def mistake(path: Path, *overrides: str) -> str:
    """The line a user sees."""
    with pytest.raises(SettingsError) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


@pytest.mark.parametrize("switch", ["prelu", "averaged_shortcuts", "block_shortcuts"])
def test_a_switch_of_the_backbone_reaches_its_table(space: Path, switch: str) -> None:
    plain, switched = load(space).table, load(space, [f"backbone.{switch}=true"]).table
    assert plain != switched == replace(plain, **{switch: True})


def test_a_space_is_read(space: Path) -> None:
    settings = load(space)
    assert settings.name == "tiny"
    assert settings.threat.eps == 8 / 255
    assert settings.supernet.step == 10 / 255
    assert settings.threat.surrogate is Surrogate.POLYNOMIAL
    assert settings.data.image == (1, 8, 8)
    assert settings.data.classes == 10
    assert settings.table.name == "resnet8"
    assert settings.table.stem.out_channels == 4


@pytest.mark.parametrize(
    ("training", "asked", "computes"),
    [
        ("natural", "auto", "bfloat16"),
        ("fastat", "auto", "float32"),
        ("n-fgsm", "auto", "float32"),
        ("natural", "float32", "float32"),
        ("fastat", "bfloat16", "bfloat16"),
    ],
)
def test_natural_training_computes_in_bfloat16_unless_told_otherwise(
    space: Path, training: str, asked: str, computes: str
) -> None:
    changes = [f"retraining.training={training}", f"retraining.precision={asked}"]
    assert load(space, changes).retraining.computes_in == computes
    assert load(space).retraining.precision == "auto"


def test_choices_become_a_sorted_space(space: Path) -> None:
    assert load(space).space == Space((1, 3), (1, 2), layers=6)


@pytest.mark.parametrize(
    ("name", "image", "classes"),
    [
        ("cifar10", (3, 32, 32), 10),
        ("cifar100", (3, 32, 32), 100),
        ("imagenet", (3, 224, 224), 1000),
    ],
)
def test_data_sets_know_their_images(
    space: Path, name: str, image: tuple[int, int, int], classes: int
) -> None:
    data = load(space, [f"data.name={name}"]).data
    assert (data.image, data.classes) == (image, classes)


def test_what_is_stated_overrules_what_is_known(space: Path) -> None:
    data = load(space, ["data.name=cifar10", "data.image_size=16", "data.root=/images"]).data
    assert (data.image, data.classes, data.root) == ((3, 16, 16), 10, Path("/images"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=7", 7),
        ("backbone.width=32", 32),
        ("choices.weight_bases=[1, 2, 5]", (1, 2, 5)),
        ("threat.eps=2/255", 2 / 255),
        ("threat.eps=0.25", 0.25),
        ("threat.step=0.5/255", 0.5 / 255),
        ("threat.surrogate=ste", Surrogate.STE),
        ("search.budget=2e8", 2e8),
        ("search.budget=null", None),
        ("supernet.learning_rate=1e-3", 1e-3),
        ("supernet.step=null", None),
        ("data.flip=true", True),
        ("test.images=100", 100),
    ],
)
def test_override_replaces_one_value(space: Path, override: str, expected: object) -> None:
    changed, key = load(space, [override]), override.partition("=")[0]
    value: object = changed
    for part in key.split("."):
        value = getattr(value, part)
    assert value == expected
    assert all(
        line.startswith(f"{key}: ")
        for line in differences(identity(load(space)), identity(changed))
    )


def test_the_last_override_wins(space: Path) -> None:
    assert load(space, ["seed=1", "seed=2"]).seed == 2


def test_override_creates_a_section_the_file_leaves_out(space: Path) -> None:
    assert "test:" not in SPACE
    assert load(space, ["test.runs=3"]).test.runs == 3


def test_dumped_settings_are_loaded_back(space: Path) -> None:
    settings = load(space, ["data.root=~/images", "supernet.step=null"])
    space.write_text(dump(settings))
    assert load(space) == settings


@given(
    seed=st.integers(0, 2**63 - 1),
    eps=st.floats(0, 1, exclude_min=True),
    budget=st.none() | st.floats(1, 1e300),
    bases=st.sets(st.integers(1, 8), min_size=1),
)
def test_dump_loses_no_digit(
    *, seed: int, eps: float, budget: float | None, bases: set[int]
) -> None:
    settings = load_text(SPACE).model_dump(mode="json")
    settings["seed"] = seed
    settings["threat"]["eps"] = eps
    settings["search"]["budget"] = budget
    settings["choices"]["weight_bases"] = list(bases)
    varied = validate(settings)
    again = load_text(dump(varied))
    assert again == varied
    assert (again.seed, again.threat.eps, again.search.budget) == (seed, eps, budget)
    assert differences(identity(again), identity(varied)) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("serch.images=3", "unknown key 'serch'; did you mean 'search'? allowed here: name, seed"),
        (
            "threat.step_size=0.1",
            "unknown key 'threat.step_size'; did you mean 'steps'? allowed here: eps, step,",
        ),
        ("threat.quux=1", "unknown key 'threat.quux'; allowed here: eps, step,"),
        (
            "choices.weight_bases=3",
            "choices.weight_bases: give a list such as [1, 2, 3] (given: 3)",
        ),
        ("name=a/b", "name: give letters, digits, dots, dashes and underscores (given: 'a/b')"),
        ("seed=-1", "seed: Input should be greater than or equal to 0 (given: -1)"),
        ("seed=many", "seed: Input should be a valid integer"),
        ("seed.deep=1", "seed: Input should be a valid integer (given: {'deep': 1})"),
        ("search=3", "search: holds several keys; set one of them, such as search.KEY=VALUE"),
        ("search.budget=0", "search.budget: Input should be greater than 0 (given: 0)"),
        ("search.budget=.nan", "search.budget: Input should be a finite number"),
        ("search.engine=grid", "search.engine: Input should be 'optuna' or 'pymoo'"),
        ("threat.eps=0/255", "8 of 255 levels: 8/255 (given: '0/255')"),
        ("threat.eps=8", "threat.eps: distances are in the scale of images in [0, 1]; 8 of 255"),
        ("threat.eps=-0.1", "threat.eps: distances are in the scale of images in [0, 1]; 8 of 255"),
        ("threat.eps=8/0", "threat.eps: give a number such as 0.5"),
        ("choices.weight_bases=[]", "choices.weight_bases: give at least one value (given: [])"),
        ("choices.weight_bases=[1, 0]", "choices.weight_bases.1: Input should be greater than"),
        ("choices.activation_bases=[9]", "choices.activation_bases.0: Input should be less than"),
        ("backbone.name=resnet21", "unknown backbone 'resnet21'; did you mean 'resnet"),
        ("backbone.width=0", "backbone.width: Input should be greater than or equal to 1"),
        ("search.images=201", "search.images=201 of data.validation=200 validation images"),
        ("data.classes=1", "data.classes: Input should be greater than or equal to 2 (given: 1)"),
        ("data.name=cifar11", "data.name: Input should be 'digits', 'cifar10', 'cifar100'"),
        ("data.name=folder", "missing key 'data.image_size'"),
        ("retraining.start=./scratch", "retraining.start: a folder of that name must be given by"),
        ("retraining.teacher=./supernet", "retraining.teacher: a folder of that name must be"),
        (
            "backbone={name: resnet18, averaged_shortcuts: true}",
            "those of resnet18 are convolution",
        ),
        ("test.runs=1001", "test.runs: Input should be less than or equal to 1000 (given: 1001)"),
        ("backbone.width=100000000", "backbone.width: Input should be less than or equal to 1024"),
        ("data.image_size=100000", "data.image_size: Input should be less than or equal to 1024"),
        ("data.shift=8", "data.shift=8 moves images of 8 pixels out of sight; give fewer"),
        ("supernet.learning_rate=1e+300", "supernet.learning_rate: Input should be less than"),
        ("threat.eps=true", "threat.eps: give a value other than true or false (given: True)"),
        ("threat.steps=true", "threat.steps: give a value other than true or false"),
        ("choices.weight_bases=[true]", "choices.weight_bases: give a value other than true or"),
        ("data=true", "data: holds several keys; set one of them"),
        ("retraining.batch_size=1", "retraining.batch_size: Input should be greater than or equal"),
        ("search={images: 64, images: 32}", "is not a YAML value: key 'images' is given twice"),
        ("choices=!!map [1]", "is not a YAML value: expected a mapping node, but found sequence"),
        ("seed", "--set 'seed' is not of the form key.path=value"),
        ("=3", "--set '=3' is not of the form key.path=value"),
        ("seed=[1", "--set 'seed=[1': '[1' is not a YAML value"),
        ("seed=!!bool x", "'!!bool x' is not a YAML value"),
        ("seed=!!timestamp x", "'!!timestamp x' is not a YAML value"),
        ("seed=\x01", "is not a YAML value: unacceptable character"),
        ("seed=" + 5_000 * "[", "is not a YAML value"),
    ],
)
def test_mistaken_override_is_explained(space: Path, override: str, message: str) -> None:
    assert message in mistake(space, override)


def test_one_override_is_not_taken_for_a_list_of_letters(space: Path) -> None:
    with pytest.raises(SettingsError, match=r"overrides are a list, such as \['seed=3'\]"):
        load(space, "seed=3")


def test_a_mistake_of_several_keys_repeats_no_settings(space: Path) -> None:
    assert mistake(space, "search.images=201") == (
        "search.images=201 of data.validation=200 validation images; ask for at most as many"
    )


def test_data_name_of_a_wrong_type_is_explained(space: Path) -> None:
    assert "data.name" in mistake(space, "data.name=[digits]")


def test_missing_key_is_named(space: Path) -> None:
    space.write_text(SPACE.replace("evaluations: 8, ", ""))
    assert mistake(space) == (
        "missing key 'search.evaluations'; "
        "add it to the space or give --set search.evaluations=VALUE"
    )
    assert load(space, ["search.evaluations=8"]).search.evaluations == 8


def test_missing_section_is_named(space: Path) -> None:
    space.write_text(SPACE.replace("threat: {eps: 8/255, step: 2/255}\n", ""))
    assert mistake(space) == (
        "missing key 'threat'; add it to the space or give --set threat.KEY=VALUE for what it holds"
    )
    settings = load(space, ["threat.eps=8/255", "threat.step=2/255"])
    assert settings.threat.eps == 8 / 255


def test_channels_that_cannot_be_repeated_are_not_averaged(space: Path) -> None:
    table = load(space).table
    wider = (replace(row, out_channels=2 * row.out_channels - 1) for row in table.rows)
    uneven = replace(table, rows=tuple(wider))
    with mock.patch("mbnas.settings.backbones.build", return_value=uneven):
        load(space)
        assert "no multiple of theirs; leave it false" in mistake(
            space, "backbone.averaged_shortcuts=true"
        )


def test_misspelt_necessary_key_is_recognised(space: Path) -> None:
    space.write_text(SPACE.replace("evaluations: 8", "evaluation: 8"))
    assert "did you mean 'evaluations'?" in mistake(space)


def test_unreadable_file_is_explained(tmp_path: Path) -> None:
    absent = tmp_path / "absent.yaml"
    assert f"cannot read space {str(absent)!r}: No such file" in mistake(absent)
    assert "cannot read space" in mistake(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [tiny", "is not valid YAML: while parsing"),
        (b"name: " + 5_000 * b"[", "is not valid YAML: maximum recursion depth"),
        (b"name: \xff", "is not valid YAML: 'utf-8' codec"),
        (b"name: a\nname: b", "key 'name' is given twice in \""),
        (b"data: {a: 1, b: 2, a: 3}", "key 'a' is given twice in \""),
        (b"", "must hold keys and values"),
        (b"- name\n- tiny", "must hold keys and values"),
    ],
)
def test_malformed_file_is_explained(space: Path, content: bytes, message: str) -> None:
    space.write_bytes(content)
    assert message in mistake(space)


def test_settings_are_frozen(space: Path) -> None:
    settings = load(space)
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.threat.eps = 0.5  # type: ignore[misc]
    assert hash(settings) == hash(load(space))
