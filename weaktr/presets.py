"""Presets: named sets of parameter overrides. What a preset leaves out has the notebooks' own default.

To add one, give it a row in `PRESETS`.
"""

from typing import NamedTuple

from .errors import ParameterError
from .parameters import near


class Preset(NamedTuple):
    """What a preset overrides, what it costs, what to expect of it and how to run it."""

    name: str
    parameters: dict
    summary: str
    cost: str
    expected: str
    command: str


DEMO = Preset(
    "demo",
    {},
    summary="The whole pipeline on the embedded data set",
    cost="12 minutes and 1.6 GB on two CPU cores that multiply bfloat16, about 25 on older ones",
    expected="67.4 ± 2.1 % mIoU on val over three seeds (seed 504: 65.4 to 67.3, by machine), 76 % with true masks",
    command="make demo, or python -m weaktr run --preset demo",
)
SMOKE = Preset(
    "smoke",
    {
        "train_list": "smoke",
        "eval_list": "smoke",
        "val_list": "smoke_val",
        "cam_epochs": 1,
        "cam_batch_size": 16,
        "variant_images": 16,
        "seg_epochs": 1,
        "seg_batch_size": 8,
        "seg_scales": [1.0],
    },
    summary="All notebooks with next to no training",
    cost="about 90 seconds on two CPU cores, drawing the data included",
    expected="poor masks",
    command="python -m weaktr run --preset smoke",
)
VOC_MINI = Preset(
    "voc_mini",
    {
        "dataset": "voc12",
        "train_list": "train",
        "cam_epochs": 2,
        "cam_batch_size": 14,
        "cam_scales": [0.25],
        "threshold": 0.4,
        "variant_images": 14,
        "seg_epochs": 2,
        "seg_batch_size": 4,
        "seg_scales": [1.0],
    },
    summary="Some photographs in VOC12's layout with the small backbone",
    cost="a few minutes on two CPU cores for some dozens of photographs",
    expected="poor masks; for real ones the method needs an ImageNet backbone and all of VOC12",
    command="python -m weaktr run --preset voc_mini --set data_root=<the folder that holds VOCdevkit>",
)

# ── The published tables (paper, Tables of VOC12 and COCO14; METHOD.md) ─────────────────────────────────────────────
# mIoU (%), always with CRF: CAM labels on train for step 1 (`…_cam`), masks on val and train for step 2 (the others)
PUBLISHED = {
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
BACKBONES = {  # of step 2: what it is, and its name in timm; "" is that of step 1, DeiT-S
    "cam": ("DeiT-S", ""),
    "deit_s": ("DeiT-S", ""),
    "dinov2_s": ("DINOv2-S", "vit_small_patch14_dinov2"),
    "vit_s": ("ViT-S (ImageNet-21k, then 1k)", "vit_small_patch16_384"),
    "eva02_s": ("EVA-02-S", "eva02_small_patch14_224"),
}
VOC12 = {
    "dataset": "voc12",
    "train_list": "train_aug",
    "eval_list": "train",
    "val_list": "val",
    "backbone": "deit_small_patch16_224",
    "image_size": 224,
    "cam_epochs": 60,
    "cam_batch_size": 64,
    "cam_lr": 6e-4,
    "cam_warmup": 5,
    "cam_augmentation": "rand-m9-mstd0.5-inc1",
    "cam_min_crop": 0.08,
    "cam_scales": [1.0, 1.2],
    "cam_refined": True,
    "threshold": 0.43,
    "crop_size": 480,
    "base_size": 520,
    "window_stride": 320,
    "seg_scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
    "seg_augment": [0.5, 2.0],
    "seg_patch": 16,
    "seg_epochs": 100,
    "seg_lr": 1e-4,
    "seg_min_lr": 1e-5,
    "clip_start_value": 1.2,
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
}


class Benchmark(NamedTuple):
    """A data set of the published tables: parameters, its lists' lengths, the scales of step 1 in words, the cost."""

    parameters: dict
    val: int
    train: int
    scales: str
    root: str
    cam_cost: str
    seg_cost: str


# No GPU was at hand when these were written: the work is counted, 2 FLOP for a multiplication and an addition, three
# times the forward pass of every view (DeiT-S: 9.2 GFLOP at 224 pixels, 58 with the decoder at 480), and divided by
# 50 TFLOP/s, a sixth of what an A100 is sold with.
COST = "about {} of training on one GPU, computed ({} PFLOP at 50 TFLOP/s), not run on one"
BENCHMARKS = {
    "voc12": Benchmark(
        VOC12, 1449, 1464, "1.0 and 1.2", "<folder of VOCdevkit>",
        cam_cost=COST.format("6 minutes", "18"), seg_cost=COST.format("70 minutes", "208"),
    ),
    "coco14": Benchmark(
        COCO14, 40137, 82081, "1.0, 0.8 and 1.2", "<folder of images/>",
        cam_cost=COST.format("50 minutes", "140"), seg_cost=COST.format("9 hours", "1,540"),
    ),
}  # fmt: skip


def _row(name):
    """The Preset of a row of the published tables."""
    data, _, backbone = name.partition("_")
    facts, (title, timm_name), (val, train) = BENCHMARKS[data], BACKBONES[backbone], PUBLISHED[name]
    command = f"python -m weaktr run --preset {name} --set data_root={facts.root}"
    if val is None:
        summary, cost = f"Step 1 on {data.upper()} with {title}", facts.cam_cost
        expected = f"{train} % mIoU of CAM labels on train ({facts.train:,}), scales {facts.scales} mirrored, CRF"
        command = command.replace(" --set", " --stages 01 02 03 --set")
    else:
        summary = f"WeakTr on {data.upper()}, step 2 with {title}"
        cost = facts.seg_cost if backbone == "deit_s" else f"as {data}_deit_s"
        expected = (
            f"{val} % mIoU on val ({facts.val:,}), {train} % on train ({facts.train:,}), six scales mirrored, CRF"
        )
    parameters = facts.parameters | ({"seg_backbone": timm_name} if timm_name else {})
    return Preset(name, parameters, summary, cost, expected, command)


PRESETS = {preset.name: preset for preset in (DEMO, SMOKE, VOC_MINI, *map(_row, PUBLISHED))}


def published(preset, record):
    """The published value that a metrics record of a run of `preset` is to be held against; None for none."""
    val, train = PUBLISHED.get(preset, (None, None))
    if not record["crf"] or record.get("oracle"):
        return None
    if record["metric"] == "mIoU of CAM label" and preset in PUBLISHED:
        return PUBLISHED[f"{preset.split('_')[0]}_cam"][1]
    if record["metric"] != "mIoU of mask" or val is None:
        return None
    return {"val": val, "train": train}.get(record["list"])


def get(name):
    """The Preset `name`. Raises ParameterError for an unknown one, with the nearest known ones."""
    if name not in PRESETS:
        raise ParameterError(f"unknown preset {name!r}{near(name, PRESETS)}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
