"""Checkpoints of weaktr: safetensors that carry their configuration."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..data.coco import NAMES as COCO_CLASSES
from ..data.voc import VOC_CLASSES
from ..errors import UserError
from ..files import atomic
from .backbones import NORMALISATIONS
from .cam import create_cam_model
from .released import _head_width, _require, import_released_cam, import_released_segmenter
from .released import released_names as released_names  # under this path for code outside the package
from .segmenter import create_segmenter
from .weights import read_weights

FORMAT = 2  # of our files; 1 left the normalisation to timm
BUILDERS = {"cam": create_cam_model, "segmenter": create_segmenter}


def save_model(model, path, **details):
    """Write a model with its configuration, normalisation and `details` (classes, preset, data fingerprint … as JSON)
    to one safetensors file, whole.
    """
    header = {"format": FORMAT, "config": model.config, "mean": model.mean, "std": model.std, "details": details}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(path) as aside:
        aside.write_bytes(save(weights, metadata={"weaktr": json.dumps(header)}))  # save_file's only its owner reads


def load_model(path, **expected):
    """Read what save_model wrote, needing nothing else → model in eval mode, with `.config` and `.details`.

    expected: configuration the caller needs, for example step="cam" or num_classes=20. Raises UserError for a missing
    or truncated file, one that weaktr did not write or in another format, and a configuration that contradicts what is
    expected.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"checkpoint {path} does not exist; run the stage that trains it, with --force if it is finished"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("weaktr", "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iteration over the file)
    except SafetensorError as error:
        raise UserError(
            f"checkpoint {path} cannot be read ({error}); it is truncated or no safetensors file"
        ) from error
    if header is None:
        raise UserError(f"checkpoint {path} was not written by weaktr; `python -m weaktr import` reads released ones")
    if header["format"] != FORMAT:
        raise UserError(
            f"checkpoint {path} has format {header['format']}, and this version of weaktr reads {FORMAT}; run the "
            "stage that trains it again, or use the version that wrote it"
        )
    config = dict(header["config"])
    for name, value in expected.items():
        if config.get(name) != value:
            raise UserError(
                f"checkpoint {path} has {name} {config.get(name)!r}, but {value!r} is needed; choose another "
                "one, or run the stage that trains it again with this data set"
            )
    model = BUILDERS[config.pop("step")](**config, pretrained=False)
    model.load_state_dict(state)
    model.mean, model.std, model.details = tuple(header["mean"]), tuple(header["std"]), header["details"]
    return model.eval()


def import_released(path, output=None, *, num_heads=0, normalise="", pool="max", decoder_heads=None, image_size=None):
    """Turn a released checkpoint, step 1 or 2, into one of ours → model, path of the new file.

    No code of the file runs. num_heads: 0 reads them off a step-1 file's fusion, and means width / 64 in step 2.
    normalise: "imagenet", "half" (ViT-S) or "clip"; "" is what the tensors suggest, which cannot tell ViT-S from
    DeiT-S. pool, decoder_heads, image_size: see import_released_cam and import_released_segmenter. The classes' names
    are VOC12's or COCO14's where their number is. Raises UserError for a file that is none.
    """
    path = Path(path)
    output = Path(output) if output else path.with_suffix(".safetensors")
    if normalise and normalise not in NORMALISATIONS:
        raise UserError(f"normalise {normalise!r} is unknown; one of {', '.join(NORMALISATIONS)}")
    if output.exists() and output.samefile(path):
        raise UserError(f"{path} would be overwritten; give another output")
    state = read_weights(path)
    segmenter = any(name.startswith("decoder.") for name in state)
    prefix = "encoder." if segmenter else ""
    _require(state, f"{prefix}cls_token", 3)
    num_heads = num_heads or max(1, state[f"{prefix}cls_token"].shape[2] // _head_width(state))
    if segmenter:
        model = import_released_segmenter(
            state, num_heads=num_heads, decoder_heads=decoder_heads, image_size=image_size
        )
    else:
        model = import_released_cam(state, num_heads=num_heads, pool=pool, image_size=image_size)
    if normalise:
        model.config["backbone"]["normalise"] = normalise
        model.mean, model.std = NORMALISATIONS[normalise]
    known = {len(names): list(names) for names in (VOC_CLASSES, COCO_CLASSES)}
    classes = known.get(model.config["num_classes"] - segmenter)
    save_model(model, output, imported_from=path.name, **({"classes": classes} if classes else {}))
    return model, output
