"""Checkpoints of weaktr: safetensors that carry their configuration."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..data.coco import NAMES as COCO_CLASSES
from ..data.voc import VOC_CLASSES
from ..errors import UserError
from ..files import atomic
from .backbones import NORMALISATIONS, ImageSize
from .cam import CamModel, create_cam_model
from .released import (
    RELEASED_INFERENCE,
    import_released_cam,
    import_released_model,
    import_released_segmenter,
    released_names,
)
from .segmenter import Segmenter, create_segmenter
from .weights import State, read_weights

__all__ = [
    "import_released",
    "import_released_cam",
    "import_released_segmenter",
    "load_model",
    "read_released",
    "released_names",
    "save_model",
]

FORMAT = 2  # of our files; 1 left the normalisation to timm
BUILDERS: dict[str, Callable[..., CamModel | Segmenter]] = {"cam": create_cam_model, "segmenter": create_segmenter}


def save_model(model: CamModel | Segmenter, path: str | Path, **details: Any) -> None:
    """Write a model to one safetensors file, whole.

    Args:
        model: With its configuration and normalisation, which go into the file.
        path: Of the file.
        details: What else is to be known of it (classes, preset, data fingerprint …), as JSON holds it.
    """
    header = {"format": FORMAT, "config": model.config, "mean": model.mean, "std": model.std, "details": details}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(path) as aside:
        # not by save_file, whose files only their owner can read
        aside.write_bytes(save(weights, metadata={"weaktr": json.dumps(header)}))


def load_model(path: str | Path, **expected: Any) -> CamModel | Segmenter:
    """Read what `save_model` wrote, which needs nothing else.

    Args:
        path: Of the file.
        expected: Configuration the caller needs, for example step="cam" or num_classes=20.

    Returns:
        The model in eval mode, with `.config` and `.details`.

    Raises:
        UserError: For a missing or truncated file, one that weaktr did not write or in another format, and a
            configuration that contradicts what is expected.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"checkpoint {path} does not exist; run the stage that trains it, with --force if it is finished"
        )
    header, state = _read(path)
    config = header["config"]
    for name, value in expected.items():
        if config.get(name) != value:
            raise UserError(
                f"checkpoint {path} has {name} {config.get(name)!r}, but {value!r} is needed; choose another "
                "one, or run the stage that trains it again with this data set"
            )
    try:
        build = BUILDERS[config.pop("step")]
        model = build(**config, pretrained=False)
        model.load_state_dict(state)
        model.mean = tuple(header["mean"])
        model.std = tuple(header["std"])
        model.details = header["details"]
    except Exception as error:  # what it says of itself fits neither a network nor its tensors
        raise _damaged(path, error) from error
    model.eval()
    return model


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"checkpoint {path} cannot be read ({type(error).__name__}: {error}); it is truncated, damaged, or not one of "
        "weaktr's: delete it and the metrics.json beside it, and run the stage that trains it again"
    )


def _read(path: Path) -> tuple[dict[str, Any], State]:
    """Header and tensors of one of our files; UserError for any other."""
    state: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("weaktr", "null"))
            for name in file.keys():  # noqa: SIM118 (the file cannot be iterated over)
                state[name] = file.get_tensor(name)
        written = header and header["format"]
        if written == FORMAT:
            header["config"] = dict(header["config"])
    except Exception as error:  # of the file, its header, and what that says
        raise _damaged(path, error) from error
    if header is None:
        raise UserError(f"checkpoint {path} was not written by weaktr; `weaktr import` reads released ones")
    if written != FORMAT:
        raise UserError(
            f"checkpoint {path} has format {written}, and this version of weaktr reads {FORMAT}; run the "
            "stage that trains it again, or use the version that wrote it"
        )
    return header, state


def import_released(
    path: str | Path,
    output: str | Path | None = None,
    *,
    num_heads: int = 0,
    normalise: str = "",
    pool: str = "max",
    decoder_heads: int | None = None,
    image_size: ImageSize | None = None,
) -> tuple[CamModel | Segmenter, Path]:
    """Turn a released checkpoint, step 1 or 2, into one of ours. No code of the file runs.

    The names of the classes are VOC12's or COCO14's where their number is.

    Args:
        path: Of the released file.
        output: Of the new one; None is `path` with the suffix .safetensors.
        num_heads: See `import_released_model`.
        normalise: "imagenet", "half" (ViT-S) or "clip"; "" is what the tensors suggest, which cannot tell ViT-S from
            DeiT-S.
        pool: See `import_released_cam`.
        decoder_heads: See `import_released_segmenter`.
        image_size: See `import_released_cam`.

    Returns:
        The model and the path of the new file.

    Raises:
        UserError: For an unknown `normalise`, for an output that is the input, and for a file that is not a released
            checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file; give a checkpoint of the authors' code")
    output = Path(output) if output else path.with_suffix(".safetensors")
    if output.exists() and output.samefile(path):
        raise UserError(f"{path} would be overwritten; give another output (released checkpoints end in .pth)")
    model = read_released(
        path,
        num_heads=num_heads,
        normalise=normalise,
        pool=pool,
        decoder_heads=decoder_heads,
        image_size=image_size,
    )
    save_model(model, output, **model.details)
    return model, output


def read_released(
    path: Path,
    *,
    num_heads: int = 0,
    normalise: str = "",
    pool: str = "max",
    decoder_heads: int | None = None,
    image_size: ImageSize | None = None,
) -> CamModel | Segmenter:
    """The network of a released checkpoint, with `details` as far as the file tells; see `import_released`."""
    if normalise and normalise not in NORMALISATIONS:
        raise UserError(f"normalise {normalise!r} is unknown; one of {', '.join(NORMALISATIONS)}")
    model = import_released_model(
        read_weights(path), num_heads=num_heads, pool=pool, decoder_heads=decoder_heads, image_size=image_size
    )
    if normalise:
        model.config["backbone"]["normalise"] = normalise
        model.mean, model.std = NORMALISATIONS[normalise]
    details: dict[str, Any] = {"imported_from": path.name}
    background = isinstance(model, Segmenter)
    for names in (VOC_CLASSES, COCO_CLASSES):
        if len(names) + background == model.config["num_classes"]:
            details["classes"] = list(names)
    if background:
        details["inference"] = RELEASED_INFERENCE
    model.details = details
    return model
