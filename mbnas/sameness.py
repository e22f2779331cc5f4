"""Whether two settings are of one experiment: what may go on, or be taken for what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbnas.errors import SettingsError
from mbnas.settings import Settings


def identity(settings: Settings) -> dict[str, Any]:
    """What decides a network: all but where the images lie, what computes, and later audits.

    Of networks to begin with and to learn from it says that there are some: wherever they lie,
    whoever trains with them knows them by their digests.
    """
    tree = settings.model_dump(
        mode="json", exclude={"device": True, "data": {"root"}, "test": {"audit"}}
    )
    assert isinstance(tree, dict)
    for role in ("start", "teacher"):
        if isinstance(getattr(settings.retraining, role), Path):
            tree["retraining"][role] = "a network"
    return tree


def require_same(started: Mapping[str, Any], asked: Mapping[str, Any], what: str, do: str) -> None:
    """Check that something may go on, or be taken for what is asked for.

    Args:
        started, asked: plain values, such as two :func:`identity`.
        what: was begun; do: what to do instead, for the message.

    Raises:
        SettingsError: with each value that differs.
    """
    changed = differences(started, asked)
    if changed:
        raise SettingsError(f"{what} with other settings ({'; '.join(changed)}); {do}")


def require_same_networks(saved: Settings, asked: Settings, what: str) -> None:
    """Check that two settings are of networks of one shape, for images of one shape.

    Raises:
        SettingsError: with each value that differs.
    """

    def shape(settings: Settings) -> dict[str, Any]:
        data = {"image_size", "channels", "classes"}
        return settings.model_dump(
            mode="json", include={"backbone": True, "choices": True, "data": data}
        )

    do = "networks of another shape, or for images of another, need a training of their own"
    require_same(shape(saved), shape(asked), what, do)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One ``key: old -> new`` for each value that differs."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
