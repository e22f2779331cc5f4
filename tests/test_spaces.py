"""The spaces that are shipped: they load, build what they name, and fit their data."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import README, SPACES

from mbnas import config
from mbnas.bops import bops
from mbnas.networks import multibit

FILES = sorted(SPACES.glob("*.yaml"))
every_space = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def test_the_spaces_of_the_readme_are_there() -> None:
    page = README.read_text()
    listed = re.search(r"\*\*Spaces\*\* are YAML files: (.*?) recipes", page, re.DOTALL)
    assert listed is not None
    assert {file.stem for file in FILES} == set(re.findall(r"`([\w-]+)`", listed[1]))


@every_space
def test_a_space_is_named_after_its_file(file: Path) -> None:
    assert config.load(file).name == file.stem


@every_space
def test_a_space_comes_back_from_its_dump(file: Path) -> None:
    settings = config.load(file)
    assert config.validate(yaml.safe_load(config.dump(settings))) == settings


@every_space
def test_a_space_builds_its_backbone(file: Path) -> None:
    settings = config.load(file)
    table, space = settings.table, settings.space
    network = multibit(table, space.smallest).eval()
    with torch.no_grad():
        logits = network(torch.rand(1, *settings.data.image))
    assert logits.shape == (1, settings.data.classes)
    assert len(table.searchable) == space.layers
    assert bops(table, space.smallest) < bops(table, space.largest)


@every_space
def test_a_space_states_a_search_that_can_be_run(file: Path) -> None:
    settings = config.load(file)
    assert settings.search.images <= settings.data.validation
    assert settings.threat.step <= settings.threat.eps
    assert len(settings.space.uniforms) <= settings.search.population <= settings.search.evaluations
    assert settings.search.budget is None  # --budget is the user's to say
