"""Presets: named sets of parameters. What a preset leaves out has the notebooks' own default.

To add one, append a `Preset` to `ALL`; a backbone of step 2 goes into `BACKBONES` and `PUBLISHED`.
"""

from dataclasses import dataclass
from typing import Any

from ..errors import ParameterError, near


@dataclass(frozen=True)
class Preset:
    """A named set of parameters, and what a person wants to know before running it."""

    name: str
    summary: str
    cost: str  # time it takes
    expected: str  # result
    command: str
    parameters: dict[str, Any]
    differences: str = ""  # what makes the published number beside a run's no like-for-like comparison


# ── The embedded data set and small trials ────────────────────────────────────────────────────────────────────────
DEMO = Preset(
    name="demo",
    summary="The whole pipeline on the embedded data set",
    cost="11 to 13 minutes on two CPU cores that multiply bfloat16, 20 on older ones",
    expected="73.1 ± 0.5 % mIoU on val, three seeds; 78 % with true masks",
    command="make demo, or weaktr run --preset demo",
    parameters={},
)
DEMO_SMALL = Preset(
    name="demo_small",
    summary="The demo at a quarter of its size, for sweeps of many runs",
    cost="3 to 9 minutes on two CPU cores; a sweep shares most of it between its runs",
    expected="57.9 ± 3.1 % mIoU on val, three seeds",
    command="weaktr sweep sweeps/demo/*.toml",
    parameters={
        "train_list": "train_aug:500",
        "cam_epochs": 8,
        "variant_images": 100,
        "eval_list": "train:100",
        "seg_epochs": 4,
        "seg_scales": [1.0],
        "train_ceiling": False,
    },
)
SMOKE = Preset(
    name="smoke",
    summary="All notebooks with next to no training",
    cost="about 80 seconds on two CPU cores, and 20 more for drawing the data the first time",
    expected="poor masks",
    command="weaktr run --preset smoke",
    parameters={
        "train_list": "smoke:32",
        "eval_list": "smoke:32",
        "val_list": "smoke_val:16",
        "cam_epochs": 1,
        "variant_images": 16,
        "seg_epochs": 1,
        "seg_batch_size": 8,
        "seg_scales": [1.0],
    },
)
VOC_MINI = Preset(
    name="voc_mini",
    summary="Some photographs in VOC12's layout with the small backbone",
    cost="a few minutes on two CPU cores for some dozens of photographs",
    expected="poor masks; for real ones the method needs an ImageNet backbone and all of VOC12",
    command="weaktr run --preset voc_mini --set data_root=<the folder that holds VOCdevkit>",
    parameters={
        "dataset": "voc12",
        "train_list": "train",
        "cam_epochs": 2,
        "cam_scales": [0.25],
        "threshold": 0.4,
        "variant_images": 14,
        "seg_epochs": 2,
        "seg_batch_size": 4,
        "seg_scales": [1.0],
    },
)

# ── The published tables (paper, tables of VOC12 and COCO14; docs/method.md) ──────────────────────────────────────
# Costs for an A100 (312 TFLOP/s) are computed from two CPU cores in bfloat16: 9.5 images/s in step 1, 1.07 in step 2,
# 69 and 49 % of their rate in matrix products. The short time is that of the same share, the long one of a quarter.
VOC12: dict[str, Any] = {
    "dataset": "voc12",
    "train_list": "train_aug",
    "eval_list": "train",
    "val_list": "val",
    "backbone": "deit_small_patch16_224",
    "image_size": 224,
    "fusion": "adaptive",
    "pool": "max",
    "reduction": 8,
    "drop_path": 0.1,
    "cam_epochs": 60,
    "cam_batch_size": 64,
    "cam_lr": 6e-4,
    "cam_warmup": 5,
    "cam_weight_decay": 0.03,
    "cam_augmentation": "rand-m9-mstd0.5-inc1",
    "cam_min_crop": 0.08,
    "cam_checkpoint": "last",
    "cam_scales": [1.0, 1.2],
    "cam_kind": "fused",
    "cam_refined": True,
    "threshold": 0.43,
    "crf_settings": "voc",
    "crop_size": 480,
    "base_size": 520,
    "window_stride": 320,
    "seg_scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
    "seg_augment": [0.5, 2.0],
    "seg_patch": 16,
    "seg_epochs": 100,
    "seg_batch_size": 4,
    "seg_lr": 1e-4,
    "seg_min_lr": 1e-5,
    "clip_start_value": 1.2,
    "clip_scope": "batch",
    "clip_cell": 120,
    "train_ceiling": False,
    "workers": 8,
}
COCO14 = VOC12 | {
    "dataset": "coco14",
    "train_list": "train",
    "cam_lr": 2e-4,
    "cam_scales": [1.0, 0.8, 1.2],
    "threshold": 0.42,
    "crf_settings": "coco",
    "clip_scope": "own",  # the released command gives each of four processes one image, and compares none with another
}
OWN_PHOTOGRAPHS = VOC12 | {
    "dataset": "folder",
    "train_list": "train",
    "cam_batch_size": 16,
    "threshold": 0.0,
    "clip_start_value": 0.0,
}

# ── Photographs without a GPU ─────────────────────────────────────────────────────────────────────────────────────
# Rates and lengths were found on photographs of six animals (docs/results.md) without masks of val. Step 1, peak of
# 4e-5 (1.28e-3 at batch 16): three epochs, one seed, fine CAM on 196 images of train 54.0; a peak of 1e-4 gives 46.2
# after two epochs and 45.2 after six, while mAP on val goes on rising, 79.8, 85.9: what names images better need not
# find objects better, and the attention is lost first (42 to 35). A warm-up of one epoch costs two, since the schedule
# is one epoch behind. RandAugment is for trainings ten times as long. Step 2 at the published rate learns less than its
# labels know; at this length a start from step 1 (seg_start=cam, not in the paper) gains 3 to 4 points on val.
WITHOUT_GPU: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "image_size": 160,
    "cam_epochs": 3,
    "cam_batch_size": 16,
    "cam_lr": 1.28e-3,
    "cam_warmup": 0,
    "cam_augmentation": "",
    "cam_min_crop": 0.2,
    "cam_scales": [1.0],
    "threshold": 0.0,
    "variant_images": 500,
    "crop_size": 224,
    "base_size": 240,
    "window_stride": 160,
    "seg_scales": [1.0],
    "seg_augment": [0.75, 1.5],
    "seg_epochs": 3,
    "seg_lr": 8e-3,
    "seg_min_lr": 3e-4,
    "clip_start_value": 0.0,
    "clip_cell": 56,
    "workers": 2,
}

# preset → published mIoU (%), always with CRF: CAM labels on train for step 1, masks on val and train for step 2
PUBLISHED: dict[str, tuple[float | None, float]] = {
    "voc12_cam": (None, 69.4),
    "voc12_deit_s": (74.0, 76.5),
    "voc12_dinov2_s": (75.8, 78.1),
    "voc12_vit_s": (78.4, 80.3),
    "voc12_eva02_s": (78.5, 80.0),
    "coco14_cam": (None, 42.6),
    "coco14_deit_s": (46.9, 48.9),
    "coco14_dinov2_s": (48.9, 50.7),
    "coco14_vit_s": (50.3, 51.3),
    "coco14_eva02_s": (51.1, 52.2),
}
BACKBONES = {  # of step 2: name in print, timm's name, empty for that of step 1
    "deit_s": ("DeiT-S", ""),
    "dinov2_s": ("DINOv2-S", "vit_small_patch14_dinov2"),
    "vit_s": ("ViT-S (ImageNet-21k, then 1k)", "vit_small_patch16_384"),
    "eva02_s": ("EVA-02-S", "eva02_small_patch14_224"),
}
EARLY_WEIGHT = 0.8  # of the prediction after the decoder's first block, in the released evaluation of step 2
COMPUTED = "of training on an A100, computed from throughput measured on a CPU, not run"

PHOTOGRAPHS = Preset(
    name="photographs",
    summary="Your own photographs, a folder with labels.csv, the published way",
    cost="that of voc12_deit_s for as many images",
    expected="unknown. No mask chooses anything: the background score and the start of clipping are found without",
    command="weaktr run --preset photographs --set data_root=<folder of labels.csv>",
    parameters=OWN_PHOTOGRAPHS,
)

PHOTOGRAPHS_CPU = Preset(
    name="photographs_cpu",
    summary="Your own photographs, a folder with labels.csv, on a computer without a GPU",
    cost="about an hour on two CPU cores for 3,000 photographs of 320 pixels",
    expected="six animals in 3,131 photographs: labels of 56.8 % mIoU, masks of 49.6 % on val with CRF, one run",
    command="weaktr run --preset photographs_cpu --set data_root=<folder of labels.csv>",
    parameters=OWN_PHOTOGRAPHS | WITHOUT_GPU | {"eval_list": "train:1000"},
)
VOC12_CPU = Preset(
    name="voc12_cpu",
    summary="VOC12 on a computer without a GPU, at the sizes of photographs_cpu",
    cost="some four hours on two CPU cores, by number and size of the images; not run",
    expected="unknown; below the published numbers, which need DeiT-S, 480 px and 100 epochs",
    command="weaktr run --preset voc12_cpu --set data_root=<folder of VOCdevkit>",
    parameters=VOC12 | WITHOUT_GPU | {"eval_list": "train:1000"},
)

STEP_1_DIFFERS = (
    "The last epoch is kept; the paper's is the one whose CAMs fitted the true masks of {images} images best, and its "
    "background score, {score}, was chosen by masks too."
)
VOC12_CAM = Preset(
    name="voc12_cam",
    summary="Step 1 on VOC12 with DeiT-S",
    cost=f"1.5 to 6 minutes {COMPUTED}",
    expected="69.4 % mIoU of CAM labels on train (1,464), CRF; its authors chose score and epoch by masks",
    command="weaktr run --preset voc12_cam --stages 01 02 03 --set data_root=<folder of VOCdevkit>",
    parameters=VOC12,
    differences=STEP_1_DIFFERS.format(images="1,464", score=VOC12["threshold"]),
)
COCO14_CAM = Preset(
    name="coco14_cam",
    summary="Step 1 on COCO14 with DeiT-S",
    cost=f"11 to 45 minutes {COMPUTED}",
    expected="42.6 % mIoU of CAM labels on train (82,081), CRF; its authors chose score and epoch by masks",
    command="weaktr run --preset coco14_cam --stages 01 02 03 --set data_root=<folder of images/>",
    parameters=COCO14,
    differences=STEP_1_DIFFERS.format(images="1,250", score=COCO14["threshold"]),
)


def _with_step_2(
    step_1: dict[str, Any], *, dataset: str, title: str, val_size: str, train_size: str, hours: str, differences: str
) -> list[Preset]:
    """The presets of a published table: both steps, with each of BACKBONES in step 2. All texts as they are printed."""
    presets = []
    for suffix, (in_print, backbone) in BACKBONES.items():
        name = f"{dataset}_{suffix}"
        val, train = PUBLISHED[name]
        own: dict[str, Any] = {"early_weight": EARLY_WEIGHT}
        if backbone:
            own["seg_backbone"] = backbone
        preset = Preset(
            name=name,
            summary=f"WeakTr on {title}, step 2 with {in_print}",
            cost=f"{hours} {COMPUTED}",
            expected=f"{val} % mIoU on val ({val_size}), {train} % on train ({train_size}), six scales mirrored, CRF",
            command=f"weaktr run --preset {name} --set data_root=<folder of the data>",
            parameters=step_1 | own,
            differences=differences,
        )
        presets.append(preset)
    return presets


STEP_2_DIFFERS = (
    "Step 1 differs as in {step_1}. Step 2 learns from the labels made here; the published row was trained on those of "
    "an earlier version, of {published} % mIoU."
)
VOC12_TABLE = _with_step_2(
    VOC12,
    dataset="voc12",
    title="VOC12",
    val_size="1,449",
    train_size="1,464",
    hours="22 to 87 minutes",
    differences=STEP_2_DIFFERS.format(step_1="voc12_cam", published=69.0),
)
COCO14_TABLE = _with_step_2(
    COCO14,
    dataset="coco14",
    title="COCO14",
    val_size="40,137",
    train_size="82,081",
    hours="3 to 11 hours",
    differences=STEP_2_DIFFERS.format(step_1="coco14_cam", published=41.9)
    + " Its val may have been val_5000, a part of the 40,137 images that are measured here.",
)

# ── All of them, in the order in which they are listed ────────────────────────────────────────────────────────────
ALL = [
    DEMO,
    DEMO_SMALL,
    SMOKE,
    VOC_MINI,
    PHOTOGRAPHS_CPU,
    VOC12_CPU,
    PHOTOGRAPHS,
    VOC12_CAM,
    *VOC12_TABLE,
    COCO14_CAM,
    *COCO14_TABLE,
]
PRESETS = {preset.name: preset for preset in ALL}


def get(name: str) -> Preset:
    """The preset of a name. Raises ParameterError for an unknown one, with the nearest known ones."""
    if name not in PRESETS:
        raise ParameterError(f"unknown preset {name!r}{near(name, PRESETS)}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def differences() -> list[str]:
    """How the published presets differ from the paper: a line for all those that differ in the same way."""
    names: dict[str, list[str]] = {}
    for preset in ALL:
        if preset.differences:
            names.setdefault(preset.differences, []).append(preset.name)
    return [f"{', '.join(alike)}: {text}" for text, alike in names.items()]
