"""Pruned baselines: masks, their gradients, and a search that keeps to half the BOPS."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import same, tiny
from hypothesis import given
from hypothesis import strategies as st

from mbnas import pruning
from mbnas.assignment import Assignment, Bases
from mbnas.backbones import Row
from mbnas.bops import bops
from mbnas.checkpoints import load_network
from mbnas.data import Data
from mbnas.errors import DataError, SettingsError
from mbnas.files import alone_in
from mbnas.formats import Family, Format
from mbnas.layers import PrunedWeights
from mbnas.networks import build_network
from mbnas.pipeline import train_network
from mbnas.pruning import Dense, prune_network
from mbnas.randomness import seeded
from mbnas.search.executors import Executor
from mbnas.settings import DataSettings, Surrogate

ROW = Row("layer", "main", 1, 8, 4, kernel=3, stride=1, size=4)
# With 16 channels, stem and classifier are a small part of the cost.
SETTINGS = tiny("backbone.width=16", "retraining.training=natural", "search.evaluations=10")
BRIEF = SETTINGS.retraining.model_copy(update={"learning_rate": 0.001})
INPROCESS = Executor("inprocess", workers=1)


@pytest.mark.parametrize("kept", range(1, 9))
def test_the_largest_weights_are_kept_and_only_they_get_a_gradient(kept: int) -> None:
    torch.manual_seed(kept)
    weight = torch.randn(4, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    pruned = PrunedWeights(kept, channels=False)(weight, Surrogate.STE)
    (gradient,) = torch.autograd.grad(pruned.sum(), weight)
    alive = pruned != 0
    assert int(alive.sum()) == weight.numel() * kept // 8
    assert torch.equal(pruned[alive], weight[alive])
    assert kept == 8 or weight[alive].abs().min() >= weight[~alive].abs().max()
    assert torch.equal(gradient, alive.double())


@pytest.mark.parametrize("kept", range(1, 9))
def test_the_input_channels_of_greatest_norm_are_kept(kept: int) -> None:
    torch.manual_seed(kept)
    weight = torch.randn(4, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    pruned = PrunedWeights(kept, channels=True)(weight, Surrogate.STE)
    (gradient,) = torch.autograd.grad(pruned.sum(), weight)
    best = weight.abs().sum(dim=(0, 2, 3)).topk(kept).indices
    mask = torch.zeros_like(weight)
    mask[:, best] = 1
    assert torch.equal(pruned, weight * mask)
    assert torch.equal(gradient, mask)


@given(channels=st.integers(1, 20), kept=st.integers(1, 8))
def test_no_more_channels_are_kept_than_are_paid_for_but_one(channels: int, kept: int) -> None:
    weight = torch.ones(2, channels, 3, 3)
    pruned = PrunedWeights(kept, channels=True)(weight, Surrogate.STE)
    alive = int(pruned.sum(dim=(0, 2, 3)).count_nonzero())
    paid = channels * kept / 8
    assert alive <= paid < alive + 1 if paid >= 1 else alive == 1


def test_a_candidate_shares_the_weights_and_the_cost_is_what_is_kept() -> None:
    table = SETTINGS.table
    layers = len(table.searchable)
    with seeded(0):
        dense = build_network(table, Format.parse("float", layers)).eval()
    source = Dense(dense, Family.WEIGHT_PRUNED)
    x = torch.rand(3, *table.image)
    whole = source.network(source.space.largest).eval()
    assert torch.equal(whole(x), dense(x))
    half = Assignment((Bases(4, 8),) * layers)
    macs = sum(row.macs for row in table.searchable)
    assert bops(table, source.space.largest) - bops(table, half) == 32 * macs
    assert not torch.equal(source.network(half).eval()(x), dense(x))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks") / "float"
    train_network(SETTINGS, "float", folder)
    return folder


def test_a_pruning_belongs_to_one_process_at_a_time(tmp_path: Path, trained: Path) -> None:
    with alone_in(tmp_path), pytest.raises(DataError, match="another process works in"):
        prune_network(SETTINGS, Family.WEIGHT_PRUNED, trained, tmp_path, INPROCESS)


@pytest.mark.parametrize("family", [Family.WEIGHT_PRUNED, Family.CHANNEL_PRUNED])
def test_the_best_within_half_the_cost_is_fine_tuned(
    tmp_path: Path, trained: Path, family: pruning.Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = prune_network(SETTINGS, family, trained, tmp_path / "pruned", INPROCESS)
    network, format_, _ = load_network(tmp_path / "pruned")
    assert metrics["format"] == str(format_)
    assert format_.family is family
    dense = bops(SETTINGS.table, Assignment((Bases(8, 8),) * len(format_.widths)))
    assert metrics["bops"] == bops(SETTINGS.table, format_.widths) <= dense / 2
    assert metrics["start"] == "dense"
    trials = (tmp_path / "pruned" / "trials.jsonl").read_text().splitlines()
    assert len(trials) == SETTINGS.search.evaluations
    records = [json.loads(line) for line in trials]
    assert all(each["bops"] <= dense / 2 for each in records)
    best = max(records, key=lambda each: each["natural"])
    assert metrics["assignment"] == best["assignment"]
    assert best["natural"] > min(each["natural"] for each in records)
    before = load_network(trained)[0]
    assert not same(network.convolutions, before.convolutions)  # fine-tuned
    monkeypatch.setattr(pruning, "retrain", None)
    assert prune_network(SETTINGS, family, trained, tmp_path / "pruned", INPROCESS) == metrics


def test_only_float_networks_are_pruned(tmp_path: Path) -> None:
    train_network(SETTINGS, "xnor", tmp_path / "xnor")
    with pytest.raises(SettingsError, match="holds xnor; only float networks are pruned"):
        prune_network(
            SETTINGS, Family.WEIGHT_PRUNED, tmp_path / "xnor", tmp_path / "pruned", INPROCESS
        )


def test_what_cannot_be_pruned_is_told_before_the_search(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "searched", None)
    nowhere = Executor("inprocess", address="there:6379")
    with pytest.raises(SettingsError, match="--address there:6379 is of a Ray cluster"):
        prune_network(SETTINGS, Family.WEIGHT_PRUNED, trained, tmp_path / "pruned", nowhere)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").touch()
    with pytest.raises(SettingsError, match="is there already and not empty"):
        prune_network(SETTINGS, Family.WEIGHT_PRUNED, trained, tmp_path / "foreign", INPROCESS)
    teacher = SETTINGS.retraining.model_copy(update={"teacher": tmp_path / "none"})
    taught = SETTINGS.model_copy(update={"retraining": teacher})
    with pytest.raises(DataError, match="no checkpoint"):
        prune_network(taught, Family.WEIGHT_PRUNED, trained, tmp_path / "pruned", INPROCESS)
    monkeypatch.setattr(pruning.parallel, "count", lambda: 7)
    monkeypatch.setattr("mbnas.parallel.leader_first", nullcontext)
    with pytest.raises(SettingsError, match="have no 7 equal parts"):
        prune_network(SETTINGS, Family.WEIGHT_PRUNED, trained, tmp_path / "pruned", INPROCESS)
    assert {each.name for each in tmp_path.rglob("*")} == {"foreign", "thesis.txt"}


@pytest.mark.parametrize(
    ("split", "said"),
    [("test", "these test images are not those that"), ("validation", "held out here")],
)
def test_a_network_of_other_test_or_validation_images_is_not_pruned(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, split: str, said: str
) -> None:
    """Else it might be chosen, or measured, by images that it has learned."""
    data = pruning.datasets.load(SETTINGS.data, SETTINGS.seed)
    changed = replace(data, **{split: data.train.first(len(getattr(data, split)))})
    monkeypatch.setattr(pruning.datasets, "load", lambda *_: changed)
    monkeypatch.setattr(pruning, "searched", None)
    with pytest.raises(DataError, match=said):
        prune_network(SETTINGS, Family.WEIGHT_PRUNED, trained, tmp_path / "pruned", INPROCESS)


def test_the_budget_is_half_of_what_the_dense_network_costs(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[float] = []

    def asked(*_: object, budget: float, **__: object) -> None:
        budgets.append(budget)
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "searched", asked)
    with pytest.raises(KeyboardInterrupt):
        prune_network(SETTINGS, Family.WEIGHT_PRUNED, trained, tmp_path / "pruned", INPROCESS)
    assert budgets == [bops(SETTINGS.table, Assignment.uniform(8, 8, SETTINGS.space.layers)) / 2]


def test_what_was_pruned_otherwise_is_not_taken_for_what_is_asked_for(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither finished nor interrupted, when its journal tells nothing but assignments."""

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    load = pruning.datasets.load

    def in_another_order(settings: DataSettings, seed: int) -> Data:
        data = load(settings, seed)
        return replace(data, train=data.train.take(torch.arange(len(data.train)).flip(0)))

    short = tiny("backbone.width=16", "retraining.training=natural", "search.evaluations=4")
    pruned = tmp_path / "pruned"
    other = tmp_path / "other"
    train_network(SETTINGS.model_copy(update={"retraining": BRIEF}), "float", other)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pruning, "retrain", stopped)
        prune_network(short, Family.WEIGHT_PRUNED, trained, pruned, INPROCESS)
    for finished in (False, True):
        assert (pruned / "metrics.json").exists() == finished
        with pytest.raises(SettingsError, match=r"search\.evaluations: 4 -> 10"):
            prune_network(SETTINGS, Family.WEIGHT_PRUNED, trained, pruned, INPROCESS)
        with pytest.raises(SettingsError, match=r"format: wprune -> cprune"):
            prune_network(short, Family.CHANNEL_PRUNED, trained, pruned, INPROCESS)
        with pytest.raises(SettingsError, match=r"network: \w+ -> \w+"):
            prune_network(short, Family.WEIGHT_PRUNED, other, pruned, INPROCESS)
        with monkeypatch.context() as patch:
            patch.setattr(pruning.datasets, "load", in_another_order)
            with pytest.raises((SettingsError, DataError), match=r"images: \w+ -> \w+|changed"):
                prune_network(short, Family.WEIGHT_PRUNED, trained, pruned, INPROCESS)
        prune_network(short, Family.WEIGHT_PRUNED, trained, pruned, INPROCESS)


@pytest.mark.parametrize("change", ["backbone.width=8", "seed=1", "data.validation=100"])
def test_a_network_of_other_layers_or_images_is_not_pruned(
    tmp_path: Path, trained: Path, change: str
) -> None:
    other = tiny("backbone.width=16", "retraining.training=natural", change)
    key, _, value = change.partition("=")
    with pytest.raises(SettingsError, match=rf"was trained with other .*{key}: \d+ -> {value}\)"):
        prune_network(other, Family.WEIGHT_PRUNED, trained, tmp_path / "pruned", INPROCESS)
