"""What a run would stumble over later, refused before its first kernel starts: values, model, data, memory.

Importing this module takes seconds, since what it checks needs torch and timm; those who check import it when they do.
"""

import math
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch
from timm.data import create_transform

from ..data import LISTS, open_dataset, read_named
from ..data.images import read_image
from ..data.inspection import Inspection, Seen, inspect
from ..device import available_device
from ..errors import DataError, ParameterError, UserError, counted, near
from ..files import also_here, resolve, short, weights_file
from ..method.cam_training import CHECKPOINTS
from ..method.clipping import SCOPES
from ..method.crf import LABEL_SETTINGS
from ..models.backbones import make_vit
from ..models.cam import CAM_KINDS, create_cam_model
from ..models.fusion import FUSIONS, POOLS
from ..models.segmenter import create_segmenter
from ..models.trained import load_trained_cam, load_trained_segmenter
from ..models.weights import pretrained_state
from ..ranks import wanted
from .given import makes_cams, refuse_contradictions, trains
from .given_labels import check_given_labels
from .keys import starting_weights
from .needs import estimate, refuse_what_cannot_fit

Values = Mapping[str, Any]  # {name: value} of a run's parameters, types already checked
MOST_LETTERS = 120  # of each finding in the line that tells them


# ── What a value has to fulfil ────────────────────────────────────────────────────────────────────────────────────
Rule = Callable[[Any], str]  # what is wrong with a value, in words that follow its parameter's name; "" for nothing


@dataclass(frozen=True)
class Between:
    """The rule of a number between two limits, which it may reach where they are not open."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __call__(self, value: float) -> str:
        """What is wrong with the value, "" for nothing."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return "" if above and below else f"{value} must be {self}"

    def __str__(self) -> str:
        limits = []
        if self.low > -math.inf:
            limits.append(f"{'greater than' if self.low_open else 'at least'} {self.low}")
        if self.high < math.inf:
            limits.append(f"{'below' if self.high_open else 'at most'} {self.high}")
        return " and ".join(limits)


@dataclass(frozen=True)
class OneOf:
    """The rule of a name that is one of some."""

    names: Collection[str]

    def __call__(self, value: str) -> str:
        """What is wrong with the value, "" for nothing."""
        if value in self.names:
            return ""
        return f"{value!r} is unknown{near(value, self.names)}; one of {', '.join(self.names)}"


def factors(value: list[float]) -> str:
    """The rule of a list of factors by which images are scaled."""
    return "" if value and min(value) > 0 else f"{value} must hold at least one factor, all above 0"


def factor_range(value: list[float]) -> str:
    """The rule of the smallest and the largest factor by which images are scaled."""
    fits = len(value) == 2 and 0 < value[0] <= value[1]
    return "" if fits else f"{value} must be two factors above 0, the smallest first"


POSITIVE = Between(0, low_open=True)
NOT_NEGATIVE = Between(0)
SHARE = Between(0, 1, high_open=True)

RULES: dict[str, Rule] = {  # each parameter with the first notebook that has it
    # 01 CAM training
    "image_size": POSITIVE,
    "fusion": OneOf(FUSIONS),
    "pool": OneOf(POOLS),
    "reduction": POSITIVE,
    "last_k": POSITIVE,
    "drop_path": SHARE,
    "cam_epochs": POSITIVE,
    "cam_batch_size": POSITIVE,
    "cam_lr": POSITIVE,
    "cam_warmup": NOT_NEGATIVE,
    "cam_weight_decay": NOT_NEGATIVE,
    "cam_checkpoint": OneOf(CHECKPOINTS),
    "cam_min_crop": Between(0, 1, low_open=True),
    "seed": NOT_NEGATIVE,
    "precision": OneOf(("auto", "bf16", "fp32")),
    "workers": NOT_NEGATIVE,
    "processes": NOT_NEGATIVE,
    # 02 CAM generation
    "cam_scales": factors,
    "cam_kind": OneOf(CAM_KINDS),
    "threshold": SHARE,
    "variant_images": POSITIVE,
    # 03 pseudo labels
    "crf_settings": OneOf(LABEL_SETTINGS),
    # 04 online retraining
    "seg_start": OneOf(("pretrained", "cam")),
    "seg_patch": NOT_NEGATIVE,
    "crop_size": POSITIVE,
    "base_size": POSITIVE,
    "window_stride": POSITIVE,
    "seg_scales": factors,
    "seg_augment": factor_range,
    "seg_epochs": POSITIVE,
    "seg_batch_size": POSITIVE,
    "seg_lr": POSITIVE,
    "seg_min_lr": NOT_NEGATIVE,
    "clip_scope": OneOf(SCOPES),
    "clip_start_value": NOT_NEGATIVE,
    "clip_start_share": SHARE,
    "clip_cell": POSITIVE,
    "oracle_noise": Between(high=1),
    # 05 evaluation
    "early_weight": NOT_NEGATIVE,
}


@dataclass(frozen=True)
class Extremes:
    """Of all images that a run reads, the one with the most pixels and the one with the shortest side."""

    largest: Seen
    narrowest: Seen

    @classmethod
    def of(cls, images: Sequence[Seen]) -> "Extremes":
        """The extremes of some images, at least one."""
        largest = max(images, key=lambda image: image.height * image.width)
        narrowest = min(images, key=lambda image: min(image.height, image.width))
        return cls(largest, narrowest)


# ── A run ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def check_run(
    values: Values, data: bool = True, weights: Collection[int] = (), extremes: Extremes | None = None
) -> Extremes | None:
    """Refuses a run for the first of its parameters that cannot work.

    Args:
        values: {name: value} of all stages, types already checked; what a missing name stands for is not inspected.
        data: read every file that the run will read, not the lists alone.
        weights: load, and so fetch, the pretrained weights that these steps will start from.
        extremes: of the data, as returned by an earlier call, where this one does not read the files.

    Returns:
        The extremes of the data, as read or as given; None where neither.

    Raises:
        ParameterError: for a value.
        DataError: for a list, an image or a mask.
        UserError: for a backbone or a file of weights.
    """
    check_values(values)
    _check_paths(values)
    if values.get("photograph"):
        read_named(lambda path: read_image(resolve(path)), values, "photograph")
    _check_processes(values)
    patch = check_model(values, fetch=weights) if "backbone" in values else None
    images = check_data(values, files=data)
    if images:
        extremes = Extremes.of(images)
    if extremes and patch and "cam_scales" in values and makes_cams(values):
        check_sizes(extremes, values, patch)
    if images and patch and "run_folder" in values:
        print(f"needs · {refuse_what_cannot_fit(estimate(values, images, patch), values)}", flush=True)
    return extremes


# ── Paths ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _check_paths(values: Values) -> None:
    """Refuses files and folders that are not there, before anything is fetched or read."""
    for name in ("weights", "seg_weights", "trained_cam", "trained_segmenter"):
        if values.get(name):
            file, part = weights_file(values[name])
            if not file.is_file():
                where = also_here(values[name].removesuffix(f"#{part}"))
                run, stage = short(file.parent.parent), file.parent.name[:2]
                of_a_run = f"run stage {stage} of {run}, or give another" if stage.isdigit() else ""
                raise UserError(
                    f"parameter {name}: {values[name]} does not exist or is not a file{where}; "
                    f"{of_a_run or 'give one, or leave it empty'}"
                )
    folder = values.get("label_folder")
    if folder and not resolve(folder).is_dir():
        raise DataError(
            f"parameter label_folder: {folder} does not exist or is not a folder{also_here(folder)}; give one with a "
            "PNG for each image"
        )


# ── Values ────────────────────────────────────────────────────────────────────────────────────────────────────────
def check_values(values: Values) -> None:
    """Refuses values out of range, unknown names, and values that do not fit each other, by ParameterError."""
    refuse_contradictions(values)
    for name, rule in RULES.items():
        if name in values:
            fault = rule(values[name])
            if fault:
                raise ParameterError(f"parameter {name}: {fault}")
    _check_windows(values)
    if values.get("cam_balanced") and not values.get("cam_refined", True):
        raise ParameterError(
            "parameter cam_balanced: it changes the patch attention along which cam_refined=False carries nothing; "
            "leave cam_refined as it is, or cam_balanced out"
        )
    if values.get("cam_augmentation"):
        _check_augmentation(values["cam_augmentation"])


def _check_windows(values: Values) -> None:
    """Crop, windows, cells and scales of step 2 against each other."""
    crop = values.get("crop_size")
    stride, cell = values.get("window_stride"), values.get("clip_cell")
    if crop and stride and stride > crop:
        raise ParameterError(
            f"parameter window_stride: {stride} leaves gaps between windows of crop_size {crop}; give {crop} at most"
        )
    if crop and cell and crop % cell:
        fits = max(side for side in range(1, cell + 1) if crop % side == 0)
        raise ParameterError(f"parameter clip_cell: {cell} does not divide crop_size {crop}; give {fits}")
    if {"base_size", "seg_scales"} <= values.keys():
        smallest = min(values["seg_scales"])
        if values["base_size"] * smallest < 1:
            raise ParameterError(
                f"parameter seg_scales: {smallest} leaves nothing of base_size {values['base_size']}; raise it"
            )


def _check_augmentation(policy: str) -> None:
    try:
        create_transform(32, is_training=True, auto_augment=policy)
    except (AssertionError, ValueError, KeyError) as error:
        raise ParameterError(
            f"parameter cam_augmentation: {policy!r} is not a policy of timm; such as rand-m9-mstd0.5-inc1"
        ) from error


# ── Model ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def check_model(values: Values, fetch: Collection[int] = ()) -> int:
    """Builds the networks of both steps, from their weights where those are files.

    Args:
        values: as for `check_run`.
        fetch: the steps whose pretrained weights are loaded, and so fetched, also where they are not files: without
            network this fails, before a run that would need them has computed anything.

    Returns:
        The side of step 1's patches in pixels, 0 for a run without step 1.

    Raises:
        ParameterError: for a backbone that does not fit other parameters.
        UserError: for an unknown backbone, and for files that are missing or do not start it.
    """
    patch = _check_cam_model(values) if makes_cams(values) else 0
    if values.get("trained_segmenter"):
        _check_trained_segmenter(values)
    else:
        _check_segmenter(values, patch)
    for backbone, file in dict.fromkeys(starting_weights(values, step) for step in fetch):
        if not file:
            pretrained_state(backbone)
    return patch


def _check_cam_model(values: Values) -> int:
    backbone, file = starting_weights(values, step=1)
    names = ("image_size", "fusion", "pool", "reduction", "last_k")
    options = {name: values[name] for name in names if name in values}
    try:
        if values.get("trained_cam"):
            classes = open_dataset(values["dataset"], values["data_root"]).classes
            model = _given(
                "trained_cam", partial(load_trained_cam, classes=classes, backbone=backbone), values, options
            )
        elif file:
            model = create_cam_model(backbone, 1, weights=str(resolve(file)), **options)
        else:
            model = create_cam_model(backbone, 1, pretrained=False, **options)
    except (ValueError, AssertionError) as error:
        raise ParameterError(f"backbone {backbone} does not fit the parameters: {error}") from error
    patch = model.encoder.vit.patch_embed.patch_size[0]
    _check_side("image_size", values, patch)
    return patch


def _given(name: str, load: Callable[..., Any], values: Values, options: Mapping[str, Any]) -> Any:
    """The network of a file, refused with the parameter that names it."""
    try:
        return load(values[name], **options)
    except UserError as error:
        raise UserError(f"parameter {name}: {error}") from error


def _check_trained_segmenter(values: Values) -> None:
    backbone, _ = starting_weights(values, step=2)
    options = {"image_size": values["crop_size"], "patch_size": values.get("seg_patch") or None}
    classes = open_dataset(values["dataset"], values["data_root"]).classes
    load = partial(load_trained_segmenter, classes=classes, backbone=backbone)
    model = _given("trained_segmenter", load, values, options)
    _check_side("crop_size", values, model.encoder.vit.patch_embed.patch_size[0])


def _check_segmenter(values: Values, patch: int) -> None:
    """Step 2's network. patch: side of step 1's patches, which it has where it names no other; 0 without step 1."""
    backbone, file = starting_weights(values, step=2)
    patch_size = values.get("seg_patch") or None
    if values.get("seg_backbone") or not patch:
        vit = make_vit(backbone, image_size=values["crop_size"], patch_size=patch_size, step=2)
        patch = vit.patch_embed.patch_size[0]
    _check_side("crop_size", values, patch_size or patch)
    if file and (values.get("seg_weights") or not trains(values, step=1)):  # else read for the network of step 1
        options = {"image_size": values["crop_size"], "patch_size": patch_size}
        create_segmenter(backbone, 2, weights=str(resolve(file)), **options)


def _check_side(name: str, values: Values, patch: int) -> None:
    if name in values and values[name] % patch:
        below = values[name] // patch * patch
        fits = f"{below} or {below + patch}" if below else patch
        raise ParameterError(
            f"parameter {name}: {values[name]} is not a multiple of the patch of {patch} pixels; give {fits}"
        )


# ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def check_data(values: Values, files: bool = True) -> list[Seen]:
    """Reads the lists that the parameters name and, unless `files` is False, every file that the run will read.

    Returns:
        All images with their sizes; none where the lists alone were read.

    Raises:
        DataError: at the first fault.
    """
    dataset = open_dataset(values["dataset"], values["data_root"])
    mask_of = check_lists(dataset, values)
    if not files or not mask_of:
        return []
    lists = {values[name]: dataset.ids(values[name]) for name in LISTS if name in values}
    inspection = inspect(dataset, lists, mask_of, values.get("workers", 1))
    words = ["weaktr", "data", "check", str(dataset.root), "--dataset", values["dataset"], "--lists", *lists]
    more = f"`{shlex.join(words)}`"
    refuse_mistakes(inspection, more)
    for sentence in dataset.noticed():
        print(f"{dataset.name}: {sentence}", flush=True)
    if makes_cams(values):
        _check_labels({seen.image_id for seen in inspection.images if seen.labels}, lists, values)
    tell_findings(inspection, more)
    if values.get("label_folder"):
        check_given_labels(values, dataset)
    return inspection.images


def refuse_mistakes(inspection: Inspection, more: str) -> None:
    """Raises DataError for the first thing that can only be a mistake. more: the command that names all."""
    for finding in inspection.findings:
        if finding.refused:
            others = len(finding.where) - 1
            also = f" (and {others} more {finding.kind}; {more} names them)" if others else ""
            raise DataError(finding.where[0] + also)


def tell_findings(inspection: Inspection, more: str) -> None:
    """Prints what is to be known of the data in one line, if anything. more: the command that says all of it."""
    told = [finding for finding in inspection.findings if finding.told]
    if told:
        kinds = [f"{counted(len(finding.where), finding.kind)} ({_head(finding.where[0])})" for finding in told]
        print(f"data · {', '.join(kinds)} · {more} says more", flush=True)


def _head(text: str) -> str:
    """The beginning of a finding, without its remedy."""
    head = text.partition("; ")[0]
    return head if len(head) <= MOST_LETTERS else f"{head[:MOST_LETTERS]}…"


def check_lists(dataset: Any, values: Values) -> dict[str, str | None]:
    """Reads `train_list`, `eval_list` and `val_list`, those of them that the parameters have.

    Returns:
        {image id: the list that needs its mask, None where none does}. Masks are needed where they are evaluated, and
        where a network learns from them; a list none of whose images has one is not evaluated.
    """
    mask_of: dict[str, str | None] = {}
    for name in LISTS:
        if name not in values:
            continue
        ids = read_named(dataset.ids, values, name)
        has_masks = dataset.has_masks and any(dataset.mask_path(image_id).is_file() for image_id in ids)
        if name == "eval_list" and values.get("cam_checkpoint") == "oracle_miou" and not has_masks:
            raise DataError(
                f"parameter cam_checkpoint: oracle_miou needs masks, and list {values[name]} has none; take last or map"
            )
        needs_masks = has_masks
        if name == "train_list":
            _check_batches(len(ids), values)
            needs_masks = values.get("oracle_noise", -1) >= 0
        for image_id in ids:
            if needs_masks:
                mask_of[image_id] = values[name]
            else:
                mask_of.setdefault(image_id, None)
    return mask_of


def _check_processes(values: Values) -> None:
    """The device is there, has room for the processes, and these can share the batches."""
    processes = wanted(values.get("processes", 0), available_device(values.get("device", "auto")))
    for name in ("cam_batch_size", "seg_batch_size"):
        if name in values and values[name] % processes:
            raise ParameterError(
                f"parameter {name}: {values[name]} images cannot be shared equally by {processes} processes; take a "
                f"multiple of {processes}, or another number of processes"
            )


def _check_batches(images: int, values: Values) -> None:
    sizes = {1: "cam_batch_size", 2: "seg_batch_size"}
    batch = max(values.get(name, 1) if trains(values, step) else 1 for step, name in sizes.items())
    if images < batch:
        raise DataError(
            f"list {values['train_list']} has {counted(images, 'images')}, fewer than a batch of {batch}; lower "
            "cam_batch_size or seg_batch_size"
        )


def _check_labels(labelled: Collection[str], lists: Mapping[str, Sequence[str]], values: Values) -> None:
    """Each list whose labels something is learned from, or chosen by, has an image that shows a class.

    labelled: the images that show one. lists: {name: ids}.
    """
    by = {"map": "val_list", "oracle_miou": "eval_list"}.get(values.get("cam_checkpoint", ""), "train_list")
    for name in dict.fromkeys(("train_list", by)):
        if name in values and not any(image_id in labelled for image_id in lists[values[name]]):
            raise DataError(
                f"list {values[name]}: no image of it shows a class, so there is nothing to go by; label some, or give "
                "another"
            )


# ── Sizes ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def check_sizes(extremes: Extremes, values: Values, patch: int) -> None:
    """The narrowest image has a patch at the smallest of `cam_scales`, the largest fits the memory at the largest one.

    patch: side of step 1's patches in pixels. Raises DataError.
    """
    image, scale = extremes.narrowest, min(values["cam_scales"])
    if min(image.height, image.width) * scale < patch:
        raise DataError(
            f"{image.path} is {image.width}×{image.height} pixels: at scale {scale} it has no patch of {patch} pixels; "
            "raise cam_scales, or take it off its list"
        )
    check_memory(extremes.largest, max(values["cam_scales"]), patch, values["device"])


def check_memory(image: Seen, scale: float, patch: int, device_name: str) -> None:
    """Refuses an image whose attention maps fit no memory, by DataError.

    Even where maps are not kept, an image and its mirror have three N×N arrays in float32 at a time: the scores of a
    head, its map, and the sum of all maps so far.
    """
    tokens = (int(image.height * scale) // patch) * (int(image.width * scale) // patch)
    needed = 2 * 3 * 4 * tokens**2  # bytes
    device = available_device(device_name)
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = psutil.virtual_memory().total
    if needed > memory:
        percent = 100 * (memory / needed) ** 0.25  # of the sides: memory grows with their fourth power
        raise DataError(
            f"{image.path} is {image.width}×{image.height} pixels: at scale {scale} its attention maps take "
            f"{needed / 1e9:.1f} GB, {memory / 1e9:.1f} GB are there; shrink it to {percent:.0f} %, or lower cam_scales"
        )
