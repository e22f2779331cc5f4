"""Weights on disk: safetensors that carry the settings they belong to, so a file stands alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from mbnas import config
from mbnas.data import fingerprint
from mbnas.errors import DataError, SettingsError
from mbnas.files import at_home, write_atomically
from mbnas.formats import Format
from mbnas.images import Images
from mbnas.networks import Network, build_network
from mbnas.settings import Settings
from mbnas.supernet import Supernet

NETWORK_FILE = "network.safetensors"
_OF_NETWORKS = f"give candidates/<id> of a run, or its {NETWORK_FILE}"
_OF_SUPERNETS = "give supernet.safetensors of a run"


def network_file(path: str | Path) -> Path:
    """A folder stands for the network file in it, and ``~`` for the home folder."""
    path = at_home(path)
    return path / NETWORK_FILE if path.is_dir() else path


def digest(path: Path) -> str:
    """SHA-256 of a network's file.

    Raises:
        DataError: if it cannot be read.
    """
    file = network_file(path)
    _require_readable(file, _OF_NETWORKS)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def save_supernet(path: Path, supernet: Supernet, settings: Settings) -> None:
    """Write a supernet and the settings it was trained with."""
    _save(path, supernet, {"settings": settings.model_dump(mode="json")})


def load_supernet(path: str | Path) -> Supernet:
    """Read what :func:`save_supernet` wrote; in evaluation mode.

    Raises:
        DataError: if the file is missing, truncated, or holds something else.
    """
    path = at_home(path)
    settings = supernet_settings(path)
    with torch.device("meta"):
        supernet = Supernet(settings.table, settings.space)
    _fill(path, supernet)
    return supernet


def supernet_settings(path: Path) -> Settings:
    """What a supernet was trained with.

    Raises:
        DataError: if the file is missing, truncated, or holds something else.
    """
    settings, format_ = _describe(path, _OF_SUPERNETS)
    if format_ is not None:
        raise DataError(f"{str(path)!r} holds a network, not a supernet; {_OF_SUPERNETS}")
    return settings


def save_network(
    path: Path,
    network: Network,
    format_: Format,
    settings: Settings,
    images: Images,
    held_out: Images,
) -> None:
    """Write a network, its number format and the settings it was trained with.

    Args:
        images: the test images, the only ones it may be measured on.
        held_out: the validation images; others may be among those that it was trained on.
    """
    described = {
        "settings": settings.model_dump(mode="json"),
        "format": str(format_),
        "images": fingerprint(images),
        "held out": fingerprint(held_out),
    }
    _save(path, network, described)


def load_network(path: str | Path) -> tuple[Network, Format, Settings]:
    """Read what :func:`save_network` wrote, a file or the folder it lies in.

    Raises:
        DataError: if the file is missing, truncated, or holds something else.
    """
    path = network_file(path)
    settings, text = _describe(path)
    if text is None:
        raise DataError(
            f"{str(path)!r} holds a supernet, not a network; give candidates/<id> of its run, "
            "or make one with `mbnas retrain RUN --candidate ID`"
        )
    try:
        format_ = Format.parse(text, settings.space.layers)
    except (SettingsError, TypeError):
        raise _foreign(path) from None
    with torch.device("meta"):
        network = build_network(settings.table, format_)
    _fill(path, network)
    return network, format_, settings


def require_images_of(path: Path, images: Images) -> None:
    """Check that these are the test images that a network belongs to.

    Raises:
        DataError: if they are not.
    """
    file = network_file(path)
    if _metadata(file).get("images") == fingerprint(images):
        return
    settings, _ = _describe(file)
    there, here = settings.data.image, tuple(images.pixels.shape[1:])
    if there != here:
        raise DataError(
            f"{str(path)!r} takes images of {'x'.join(map(str, there))} (channels, height, width), "
            f"these are {'x'.join(map(str, here))}; give a network for such images"
        )
    raise DataError(
        f"these test images are not those that {str(path)!r} belongs to; "
        "give the folder it was trained on with --data DIR"
    )


def require_held_out(path: Path, validation: Images) -> None:
    """Check that a network was trained on none of these images, as far as its file tells.

    Raises:
        DataError: if they are others than those that were held out from it.
    """
    here = fingerprint(validation)
    known = _metadata(network_file(path))
    if known.get("held out", here) != here:  # earlier versions did not write it
        raise DataError(
            f"{str(path)!r} may have been trained on images that are held out here: the training "
            "set is not what it was; give the folder it was trained on with --data DIR"
        )


def _save(path: Path, module: nn.Module, described: dict[str, Any]) -> None:
    tensors = {key: value.cpu().contiguous() for key, value in module.state_dict().items()}
    metadata = {"mbnas": json.dumps(described)}
    content = save(tensors, metadata)  # writing itself, safetensors would hide a full disk
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _metadata(path: Path, advice: str = _OF_NETWORKS) -> dict[str, Any]:
    """What a file says beside its tensors."""
    _require_readable(path, advice)
    try:
        with safe_open(path, framework="pt") as file:
            described: dict[str, Any] = json.loads((file.metadata() or {})["mbnas"])
    except OSError as error:
        raise _unreadable(path, error) from None
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise _foreign(path) from None
    return described


def _describe(path: Path, advice: str = _OF_NETWORKS) -> tuple[Settings, str | None]:
    """The settings in the file and, for a network, the text of its format."""
    described = _metadata(path, advice)
    try:
        return config.validate(described["settings"]), described.get("format")
    except SettingsError as mistake:
        raise DataError(
            f"checkpoint {str(path)!r} was written by another version of mbnas ({mistake}); "
            "read it with that one, or train it anew"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise _foreign(path) from None


def _require_readable(path: Path, advice: str) -> None:
    """Ask the system, since safetensors calls missing whatever it cannot open."""
    try:
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"no checkpoint {str(path)!r}; {advice}") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _fill(path: Path, module: nn.Module) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        module.load_state_dict(state, assign=True)
    except OSError as error:
        raise _unreadable(path, error) from None
    except (SafetensorError, RuntimeError):
        raise _foreign(path) from None
    if not all(each.isfinite().all() for each in state.values()):  # sign would hide them
        raise DataError(
            f"checkpoint {str(path)!r} holds numbers that are not finite (NaN or infinite); "
            "its training diverged or the file is damaged: train it anew"
        )
    module.eval()


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot read checkpoint {str(path)!r}: {error.strerror or error}")


def _foreign(path: Path) -> DataError:
    return DataError(
        f"checkpoint {str(path)!r} is truncated or was not written by this version of mbnas; "
        "give a file that mbnas search, retrain or train wrote, or train it anew: move it away, "
        "with its whole folder where that is of one network"
    )
