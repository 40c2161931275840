"""Networks that were trained before: read, held against what a run says of its own, and given another fusion."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, counted
from ..files import resolve
from .backbones import NORMALISATIONS, Backbone, PlainViT, make_vit, normalisation
from .cam import CamModel
from .checkpoints import load_model, read_released
from .fusion import AttentionFusion
from .segmenter import Segmenter, create_segmenter, starting_position_mode
from .weights import load_pretrained

UNTRAINED_FUSIONS = ("mean", "random", "last-k")  # those that can take the place of a trained one
KINDS = {  # of networks: which step's they are, the parameter that takes one
    "cam": (1, "trained_cam"),
    "segmenter": (2, "trained_segmenter"),
}


def load_trained_cam(
    file: str | Path,
    classes: Sequence[str],
    *,
    backbone: Backbone,
    image_size: int,
    fusion: str = "adaptive",
    pool: str = "max",
    reduction: float = 8,
    last_k: int = 1,
) -> CamModel:
    """The CAM network of a checkpoint, ours or the authors', whose fusion may be replaced.

    Args:
        file: Of the checkpoint; a relative path starts at the repository's root.
        classes: The names of the C classes that it has to know.
        backbone: What it has to be, see `create_cam_model`.
        image_size: The size in pixels that it has to be trained at.
        fusion: That of the file, or one of UNTRAINED_FUSIONS in its place: "random" is a random vector and a gate that
            nothing has trained.
        pool: Of the adaptive fusion; the authors' files do not tell.
        reduction: Of a random fusion in place of the file's.
        last_k: Of the fusion "last-k".

    Returns:
        The network in eval mode. Its `details` have `oracle`: whether masks may have had a part in its making.

    Raises:
        UserError: For a file that is missing or of another kind, class, size, backbone or fusion.
        ValueError: For options that no fusion can have.
    """
    model = _read(file, "cam", classes, backbone, pool=pool)
    assert isinstance(model, CamModel)
    _refuse_other(file, model, backbone, image_size, patch_size=None)
    own = model.config["fusion"]
    if fusion == "last-k" or (fusion in UNTRAINED_FUSIONS and fusion != own):
        replace_fusion(model, fusion, pool=pool, reduction=reduction, last_k=last_k)
    elif fusion != own:
        raise UserError(
            f"{file}: its fusion is {own!r}, and {fusion!r} would have to be trained; give fusion={own}, or one that "
            f"needs no training: {', '.join(UNTRAINED_FUSIONS)}"
        )
    elif own == "adaptive" and pool != model.config["pool"]:
        raise UserError(f"{file}: its fusion has pool {model.config['pool']!r}, not {pool!r}; give the same")
    return model


def load_trained_segmenter(
    file: str | Path, classes: Sequence[str], *, backbone: Backbone, image_size: int, patch_size: int | None = None
) -> Segmenter:
    """The segmenter of a checkpoint, ours or the authors'.

    Args:
        file: Of the checkpoint; a relative path starts at the repository's root.
        classes: The names of the C classes that it has to know, without background.
        backbone: What it has to be, see `create_segmenter`.
        image_size: The crop in pixels that it has to be trained at.
        patch_size: Pixels; None is the backbone's own.

    Returns:
        The network in eval mode. Its `details` have `oracle`: whether masks may have had a part in its making.

    Raises:
        UserError: For a file that is missing or of another kind, class, size or backbone.
    """
    model = _read(file, "segmenter", classes, backbone)
    assert isinstance(model, Segmenter)
    _refuse_other(file, model, backbone, image_size, patch_size)
    return model


def create_segmenter_from_cam(file: str | Path, backbone: Backbone, num_classes: int, **options: Any) -> Segmenter:
    """A new segmenter whose encoder begins with what a network of step 1 has learned; beyond the paper.

    Args:
        file: Checkpoint of step 1.
        backbone: Of both networks.
        num_classes: K = C + 1, background included.
        options: Others of `create_segmenter`.

    Raises:
        UserError: As from `load_model` and `create_segmenter`, and for a network with another backbone.
    """
    model = create_segmenter(backbone, num_classes, **options)
    cam = load_model(file, step="cam")
    assert isinstance(cam, CamModel)
    vit = model.encoder.vit
    load_pretrained(vit, _encoder_state(cam, vit), starting_position_mode(backbone), file)
    return model


def replace_fusion(model: CamModel, fusion: str, *, pool: str, reduction: float, last_k: int) -> None:
    """Give a CAM network a new fusion and leave all else as it is; options as for `AttentionFusion`."""
    options: dict[str, Any] = {"pool": pool, "reduction": reduction, "last_k": last_k}
    options["feat_reduction"] = model.config["feat_reduction"]
    old = model.fusion
    device = next(model.parameters()).device
    new = AttentionFusion(old.depth, old.heads, model.encoder.vit.embed_dim, variant=fusion, **options)
    model.fusion = new.to(device).eval()
    model.config |= {"fusion": fusion, **options}


def _encoder_state(cam: CamModel, vit: PlainViT) -> dict[str, Tensor]:
    """The weights of step 1's encoder by the names of step 2's.

    Step 1 has a class token for each class, of which the mean remains: step 2 leaves its own out in the end. The final
    norm, which step 1 lacks, stays that of `vit`.
    """
    encoder = cam.encoder
    state = dict(vit.state_dict()) | dict(encoder.vit.state_dict())
    token = encoder.cls_token.detach().mean(1, keepdim=True)
    if encoder.pos_embed is not None:
        before = encoder.num_classes + encoder.registers
        of_classes, of_registers, of_patches = encoder.pos_embed.detach().tensor_split([encoder.num_classes, before], 1)
        of_class = of_classes.mean(1, keepdim=True)
        if vit.no_embed_class:  # tokens before the patches hold their position themselves
            token = token + of_class
            if vit.reg_token is not None:
                state["reg_token"] = state["reg_token"] + of_registers
            state["pos_embed"] = of_patches
        elif vit.cls_token is None:
            state["pos_embed"] = torch.cat([of_registers, of_patches], 1)
        else:
            state["pos_embed"] = torch.cat([of_class, of_registers, of_patches], 1)
    if vit.cls_token is not None:
        state["cls_token"] = token
    return state


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _read(
    file: str | Path, step: str, classes: Sequence[str], backbone: Backbone, **released: Any
) -> CamModel | Segmenter:
    """The network of a file, refused where it is another step's or knows other classes."""
    path = resolve(file)
    number, _ = KINDS[step]
    if not path.is_file():
        raise UserError(f"{file} does not exist or is not a file; give a checkpoint of step {number}")
    ours = path.suffix == ".safetensors"
    model = load_model(path) if ours else _read_authors(path, step, backbone, **released)
    found, parameter = KINDS[model.config["step"]]
    if found != number:
        raise UserError(f"{file} is a network of step {found}, not {number}; give it as {parameter}")
    _refuse_other_classes(file, model, classes)
    # The authors kept the epoch whose CAMs fitted masks best, and whoever does not say may have done so too.
    model.details = {"oracle": True} | model.details
    return model


def _read_authors(path: Path, step: str, backbone: Backbone, **released: Any) -> CamModel | Segmenter:
    """The network of a released file, whose normalisation, and heads in step 2, are those of the backbone."""
    statistics = normalisation(backbone)
    known = [name for name, pair in NORMALISATIONS.items() if tuple(map(tuple, pair)) == tuple(map(tuple, statistics))]
    released["normalise"] = known[0] if known else ""
    if step == "segmenter":
        released["num_heads"] = _reference(backbone, None).blocks[0].attn.num_heads
    try:
        return read_released(path, **released)
    except UserError as error:
        raise UserError(
            f"{path}: {error} (read as a checkpoint of weaktr or of the authors' code, backbone {backbone}; pretrained "
            "weights alone are given as weights)"
        ) from error


def _refuse_other_classes(file: str | Path, model: CamModel | Segmenter, classes: Sequence[str]) -> None:
    count = model.config["num_classes"] - (model.config["step"] == "segmenter")
    if count != len(classes):
        raise UserError(
            f"{file} knows {counted(count, 'classes')}, the data set has {len(classes)}; give a checkpoint trained on "
            "it"
        )
    for number, (own, needed) in enumerate(zip(model.details.get("classes", classes), classes, strict=True), start=1):
        if own != needed:
            raise UserError(
                f"{file} knows class {number} as {own!r}, the data set as {needed!r}; give a checkpoint trained on "
                "these classes, in this order"
            )


# ── Comparing ─────────────────────────────────────────────────────────────────────────────────────────────────────
def _refuse_other(
    file: str | Path, model: CamModel | Segmenter, backbone: Backbone, image_size: int, patch_size: int | None
) -> None:
    """Refuse a network of another backbone, normalisation or training size than the run's."""
    own = _facts(model.encoder.vit) | {"normalisation": _in_words(model.mean, model.std)}
    needed = _facts(_reference(backbone, patch_size)) | {"normalisation": _in_words(*normalisation(backbone))}
    different = [name for name in needed if own[name] != needed[name]]
    if different:
        named = model.config["backbone"]
        remedy = "the backbone that it was trained with"
        if named == backbone:
            remedy = f"seg_patch={own['patch']}"
        elif isinstance(named, str):
            remedy = f"backbone {named}"
        raise UserError(
            f"{file} has {', '.join(f'{name} {own[name]}' for name in different)}, the run's backbone {backbone} "
            f"{', '.join(f'{name} {needed[name]}' for name in different)}; give {remedy}"
        )
    trained_at = model.config["image_size"]
    if trained_at != image_size:
        size = "image_size" if model.config["step"] == "cam" else "crop_size"
        raise UserError(f"{file} was trained at {trained_at} pixels, the run has {size} {image_size}; give the same")


def _reference(backbone: Backbone, patch_size: int | None) -> PlainViT:
    """A backbone without its weights."""
    with torch.device("meta"):
        return make_vit(backbone, image_size=4 * patch_size if patch_size else 224, patch_size=patch_size)


def _facts(vit: PlainViT) -> dict[str, Any]:
    """What tells plain ViTs apart."""
    registers = getattr(vit, "reg_token", None)
    return {
        "family": type(vit).__name__,
        "width": vit.embed_dim,
        "blocks": len(vit.blocks),
        "heads": vit.blocks[0].attn.num_heads,
        "patch": vit.patch_embed.patch_size[0],
        "registers": 0 if registers is None else registers.shape[1],
        "layer scale": any(name.endswith("ls1.gamma") for name in vit.state_dict()),
    }


def _in_words(mean: Sequence[float], std: Sequence[float]) -> str:
    return f"{[round(float(m), 3) for m in mean]} ± {[round(float(s), 3) for s in std]}"
