"""What may go on with what was begun: by which settings two experiments are one."""

import pytest
from helpers import tiny

from mbnas.errors import SettingsError
from mbnas.sameness import differences, identity, require_same, require_same_networks


@pytest.mark.parametrize("change", ["device=cpu", "data.root=/elsewhere", "test.audit=full"])
def test_where_images_lie_what_computes_and_later_audits_decide_no_network(change: str) -> None:
    assert identity(tiny(change)) == identity(tiny())


@pytest.mark.parametrize(
    "change",
    [
        "seed=7",
        "backbone.prelu=true",
        "data.shift=2",
        "threat.steps=9",
        "supernet.rule=fair",
        "search.engine=optuna",
        "retraining.teacher=null",
        "retraining.start=/a/network",
        "test.runs=9",
    ],
)
def test_all_else_does(change: str) -> None:
    key, _, value = change.partition("=")
    (told,) = differences(identity(tiny()), identity(tiny(change)))
    shown = {"null": "None", "true": "True", "/a/network": "a network"}.get(value, value)
    assert told.startswith(f"{key}: ")
    assert told.endswith(f" -> {shown}")


def test_a_network_to_begin_with_is_known_by_its_content_wherever_it_lies() -> None:
    for role in ("start", "teacher"):
        here, there = (tiny(f"retraining.{role}=/{place}") for place in ("here", "there"))
        assert identity(here) == identity(there)


def test_differences_are_told_key_by_key_even_of_what_only_one_has() -> None:
    old = {"a": {"b": [1, 2], "c": [1, 2]}, "d": 3}
    new = {"a": {"b": [1, 2], "c": [1]}, "e": 5}
    assert differences(old, old) == []
    assert differences(old, new) == ["a.c: [1, 2] -> [1]", "d: 3 -> None", "e: None -> 5"]
    told = r"^it was begun with other settings \(a\.c: .*; e: None -> 5\); go on with those$"
    with pytest.raises(SettingsError, match=told):
        require_same(old, new, "it was begun", "go on with those")
    require_same(old, old, "it was begun", "go on with those")


def test_networks_of_one_shape_may_differ_in_all_that_decides_no_shape() -> None:
    require_same_networks(
        tiny(), tiny("seed=7", "threat.eps=0.1", "data.shift=2"), "it was trained"
    )
    for change in ("backbone.width=3", "choices.activation_bases=[1]", "data.image_size=9"):
        with pytest.raises(SettingsError, match=r"; networks of another shape"):
            require_same_networks(tiny(), tiny(change), "it was trained")
