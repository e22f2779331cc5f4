"""One YAML file, and ``key.path=value`` overrides, to settings; a mistake to one clear line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mbnas.errors import SettingsError
from mbnas.settings import Settings


def load(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a space from YAML, apply ``key.path=value`` overrides, validate.

    Raises:
        SettingsError: with one line that names the key, what was given and what is allowed.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            tree = yaml.load(file, _Loader)
    except OSError as error:
        raise SettingsError(
            f"cannot read space {str(path)!r}: {error.strerror}; "
            "give a YAML file such as search_spaces/digits.yaml"
        ) from None
    except _NOT_YAML as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"space {str(path)!r} is not valid YAML: {reason}") from None
    if not isinstance(tree, dict):
        raise SettingsError(f"space {str(path)!r} must hold keys and values, see search_spaces/")
    return validate(tree, overrides)


def validate(tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> Settings:
    """Settings from a tree of plain values, with overrides applied first.

    Raises:
        SettingsError: with one line that names the key, what was given and what is allowed.
    """
    if isinstance(overrides, str):  # a sequence of characters
        raise SettingsError(f"overrides are a list, such as [{overrides!r}]")
    for override in overrides:
        tree = _override(tree, override)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(_first_mistake(error)) from None


# Tags such as !!bool or !!timestamp before something else end in one of the latter.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError, KeyError, AttributeError)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        names = [key.value for key in keys]
        twice = [key for key in keys if names.count(key.value) > 1]
        if twice:
            message = f"key {twice[-1].value!r} is given twice"
            raise yaml.constructor.ConstructorError(None, None, message, twice[-1].start_mark)
        return super().construct_mapping(node, deep)


def dump(settings: Settings) -> str:
    """YAML that :func:`load` reads back to equal settings."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _override(tree: Mapping[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise SettingsError(f"--set {override!r} is not of the form key.path=value")
    try:
        value = yaml.load(text, _Loader)
    except _NOT_YAML as error:
        reason = " ".join(str(getattr(error, "problem", error)).split())
        raise SettingsError(f"--set {override!r}: {text!r} is not a YAML value: {reason}") from None
    return _replaced(tree, path.strip().split("."), value)


def _replaced(tree: Any, keys: Sequence[str], value: Any) -> dict[str, Any]:  # noqa: ANN401
    head, *rest = keys
    branch = dict(tree) if isinstance(tree, Mapping) else {}
    branch[head] = _replaced(branch.get(head), rest, value) if rest else value
    return branch


def _first_mistake(error: ValidationError) -> str:
    mistakes = error.errors()
    misspelt = (each for each in mistakes if each["type"] == "extra_forbidden")
    mistake = next(misspelt, mistakes[0])  # a misspelt key is also reported as a missing one
    # Of values that are words or a path the validator names the kind it tried first, too.
    words = [key for key in mistake["loc"] if str(key).startswith("literal[")]
    location = ".".join(str(key) for key in mistake["loc"] if key not in words)
    if mistake["type"] == "extra_forbidden":
        allowed = list(_section(mistake["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(mistake["loc"][-1]), allowed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown key {location!r}; {hint}allowed here: {', '.join(allowed)}"
    if mistake["type"] == "missing":
        model = _section(mistake["loc"][:-1]).model_fields[str(mistake["loc"][-1])].annotation
        section = isinstance(model, type) and issubclass(model, BaseModel)
        value = f"{location}.KEY=VALUE for what it holds" if section else f"{location}=VALUE"
        return f"missing key {location!r}; add it to the space or give --set {value}"
    message = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] in _WORDS:
        message = _WORDS[mistake["type"]].format(location)
    if words:
        message += ", or give the folder of a network"
    if not location:  # of several keys at once, which it names
        return message
    return f"{location}: {message} (given: {mistake['input']!r})"


_WORDS = {  # for what the validator says in Python's
    "tuple_type": "give a list such as [1, 2, 3]",
    "too_short": "give at least one value",
    "model_type": "holds several keys; set one of them, such as {}.KEY=VALUE",
    "model_attributes_type": "holds several keys; set one of them, such as {}.KEY=VALUE",
    "float_parsing": "give a number such as 0.5 or 2e8",
    "path_type": "give the path of a folder",
    "string_pattern_mismatch": "give letters, digits, dots, dashes and underscores",
}


def _section(location: Sequence[int | str]) -> type[BaseModel]:
    model: type[BaseModel] = Settings
    for key in location:
        annotation = model.model_fields[str(key)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    return model
