"""What a run would stumble over later, refused before its first kernel starts: values, files, model, data."""

import math
from functools import partial

import psutil

from ..data import LISTS, open_dataset, read_named
from ..data.images import read_image
from ..errors import DataError, ParameterError, UserError, near
from ..files import resolve
from ..processes import in_shares

POSITIVE = (
    *("image_size", "reduction", "cam_epochs", "cam_batch_size", "cam_lr", "variant_images", "crop_size", "base_size"),
    *("last_k", "window_stride", "seg_epochs", "seg_batch_size", "seg_lr", "clip_cell"),
)
SHARES = ("drop_path", "threshold", "clip_start_share")
NOT_NEGATIVE = ("seed", "workers", "seg_patch", "cam_weight_decay", "cam_warmup", "seg_min_lr", "clip_start_value")
RULES = (  # names of parameters, what a value has to fulfil, the same in words
    (POSITIVE, lambda value: value > 0, "be greater than 0"),
    (NOT_NEGATIVE, lambda value: value >= 0, "not be negative"),
    (SHARES, lambda value: 0 <= value < 1, "be at least 0 and below 1"),
    (["cam_min_crop"], lambda value: 0 < value <= 1, "be above 0 and at most 1"),
    (["oracle_noise"], lambda value: value <= 1, "be at most 1"),
    (["seg_augment"], lambda value: len(value) == 2 and 0 < value[0] <= value[1], "be two factors, the smallest first"),
    (["cam_scales", "seg_scales"], lambda value: value and min(value) > 0, "hold at least one factor, all above 0"),
)


def check_run(values, data=True, weights=False, extremes=None):
    """Raise ParameterError, DataError or UserError for the first of a run's parameters that cannot work.

    values: {name: value} of all stages, types already checked; names that are missing are not looked at. data: read
    every file that the run will read, not the lists alone. weights: load, and so fetch, those the run will start from.
    → path and size of the data's largest and narrowest image, as read or as given by `extremes`, None where neither.
    """
    from ..device import pick_device
    from ..method.cam_training import CHECKPOINTS
    from ..method.clipping import SCOPES
    from ..method.crf import LABEL_SETTINGS
    from ..models.cam import CAM_KINDS
    from ..models.fusion import FUSIONS, POOLS

    choices = {
        "cam_kind": CAM_KINDS,
        "fusion": FUSIONS,
        "pool": POOLS,
        "clip_scope": SCOPES,
        "crf_settings": tuple(LABEL_SETTINGS),
        "precision": ("auto", "bf16", "fp32"),
        "cam_checkpoint": CHECKPOINTS,
    }
    for name, known in choices.items():
        if name in values and values[name] not in known:
            close = near(values[name], known)
            raise ParameterError(f"parameter {name}: {values[name]!r} is unknown{close}; one of {', '.join(known)}")
    for names, fits, rule in RULES:
        for name in names:
            if name in values and not fits(values[name]):
                raise ParameterError(f"parameter {name}: {values[name]} must {rule}")
    if {"crop_size", "window_stride"} <= values.keys() and values["window_stride"] > values["crop_size"]:
        sizes = f"{values['window_stride']} leaves gaps between windows of crop_size {values['crop_size']}"
        raise ParameterError(f"parameter window_stride: {sizes}")
    if {"crop_size", "clip_cell"} <= values.keys() and values["crop_size"] % values["clip_cell"]:
        sizes = f"{values['clip_cell']} does not divide crop_size {values['crop_size']}"
        raise ParameterError(f"parameter clip_cell: {sizes}")
    if {"base_size", "seg_scales"} <= values.keys() and values["base_size"] * min(values["seg_scales"]) < 1:
        raise ParameterError(
            f"parameter seg_scales: {min(values['seg_scales'])} leaves nothing of {values['base_size']}"
        )
    if values.get("cam_augmentation"):
        from timm.data import create_transform

        try:
            create_transform(32, is_training=True, auto_augment=values["cam_augmentation"])
        except (AssertionError, ValueError, KeyError) as error:
            raise ParameterError(
                f"parameter cam_augmentation: {values['cam_augmentation']!r} is no policy of timm; such as "
                "rand-m9-mstd0.5-inc1"
            ) from error
    if values.get("photograph"):
        read_named(lambda path: read_image(resolve(path)), values, "photograph")
    pick_device(values.get("device", "auto"))
    patch = _check_model(values, weights) if "backbone" in values else None
    extremes = check_data(values, files=data) or extremes
    if extremes and patch and "cam_scales" in values:
        (path, (height, width)), scale = extremes[1], min(values["cam_scales"])
        if min(height, width) * scale < patch:
            raise DataError(
                f"{path} is {width}×{height} pixels: at scale {scale} it has no patch of {patch} pixels; raise "
                "cam_scales, or take it off its list"
            )
        _check_memory(*extremes[0], max(values["cam_scales"]), patch, values["device"])
    return extremes


def _check_model(values, weights):
    from ..models.backbones import make_vit
    from ..models.cam import create_cam_model
    from ..models.segmenter import create_segmenter
    from ..models.weights import pretrained_state

    for name in ("weights", "seg_weights"):
        if values.get(name) and not resolve(values[name]).is_file():
            raise UserError(
                f"parameter {name}: {values[name]} does not exist or is no file; give one, or leave it empty"
            )
    try:
        names = ("image_size", "fusion", "pool", "reduction", "last_k")
        options = {name: values[name] for name in names if name in values}
        given = str(resolve(values["weights"])) if values["weights"] else ""
        model = create_cam_model(values["backbone"], 1, pretrained=bool(given), weights=given, **options)
    except (ValueError, AssertionError) as error:
        raise ParameterError(f"backbone {values['backbone']} does not fit the parameters: {error}") from error
    patch = seg_patch = model.encoder.vit.patch_embed.patch_size[0]
    if values.get("seg_backbone"):
        vit = make_vit(values["seg_backbone"], image_size=values["crop_size"], patch_size=values["seg_patch"] or None)
        seg_patch = vit.patch_embed.patch_size[0]
    for name, side in (("image_size", patch), ("crop_size", values.get("seg_patch") or seg_patch)):
        if values.get(name, side) % side:
            raise ParameterError(f"parameter {name}: {values[name]} is no multiple of the patch of {side} pixels")
    if values.get("seg_weights"):
        own = {"image_size": values["crop_size"], "patch_size": values["seg_patch"] or None}
        own["weights"] = str(resolve(values["seg_weights"]))
        create_segmenter(values["seg_backbone"] or values["backbone"], 2, **own)
    for name, file in (("backbone", "weights"), ("seg_backbone", "seg_weights")) if weights else ():
        if values.get(name) and not values.get(file):
            pretrained_state(values[name])  # now: a machine without network fails before it computes
    return patch


def _check_memory(path, size, scale, patch, device):
    """Of an image and its mirror, a head's scores, its map and the sum of all have N×N floats (`fusion.head_maps`)."""
    import torch

    from ..device import pick_device

    tokens = int(size[0] * scale) // patch * (int(size[1] * scale) // patch)
    cuda = pick_device(device).type == "cuda"
    there = torch.cuda.get_device_properties(0).total_memory if cuda else psutil.virtual_memory().total
    need = 2 * 3 * 4 * tokens**2
    if need > there:
        raise DataError(
            f"{path} is {size[1]}×{size[0]} pixels: at scale {scale} its attention maps take {need / 1e9:.1f} GB, "
            f"{there / 1e9:.1f} GB are there; shrink it to {100 * (there / need) ** 0.25:.0f} %, or lower cam_scales"
        )


def check_data(parameters, files=True):
    """Read every file the run will read, before it starts. parameters: the run's; raises DataError at the first fault.

    The lists are those of `train_list`, `eval_list` and `val_list`; masks are needed only where they are evaluated.
    files=False reads the lists alone. → path and size (height, width) of the largest image and of that with the
    shortest side, None where none was read.
    """
    dataset, needs_mask = open_dataset(parameters["dataset"], parameters["data_root"]), {}
    batch = max(parameters.get("cam_batch_size", 1), parameters.get("seg_batch_size", 1))
    if parameters.get("cam_checkpoint") == "oracle_miou" and not dataset.has_masks:
        raise DataError("parameter cam_checkpoint: oracle_miou needs masks, and this data has none; take last or map")
    for name in LISTS:
        if name in parameters:
            ids = read_named(dataset.ids, parameters, name)
            if name == "train_list" and len(ids) < batch:
                raise DataError(
                    f"list {parameters[name]} has {len(ids)} images, fewer than a batch of {batch}; lower "
                    "cam_batch_size or seg_batch_size"
                )
            masks = parameters.get("oracle_noise", -1) >= 0 if name == "train_list" else dataset.has_masks
            needs_mask |= {i: parameters[name] if masks else needs_mask.get(i) for i in ids}
    if files:
        dataset.labels(next(iter(needs_mask)))  # COCO's annotations are read here, not in every process
        job = partial(_check_images, dataset=dataset, needs_mask=needs_mask)
        sizes = [one for share in in_shares(job, list(needs_mask), parameters.get("workers", 1)) for one in share]
        labelled = ("train_list", "eval_list", *["val_list"] * (parameters.get("cam_checkpoint") == "map"))
        for name in (parameters[name] for name in labelled if name in parameters):
            if not any(dataset.labels(image_id).any() for image_id in dataset.ids(name)):
                raise DataError(f"list {name}: no image of it shows a class; without labels there is nothing to go by")
        return max(sizes, key=lambda one: math.prod(one[1])), min(sizes, key=lambda one: min(one[1]))


def _check_images(ids, *, dataset, needs_mask):
    return [(dataset.image_path(i), dataset.check_image(i, needs_mask[i])[0].shape[:2]) for i in ids]
