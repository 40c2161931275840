"""Presets: named sets of parameter overrides. What a preset leaves out has the notebooks' own default.

Each is a function that returns {parameter: value}; its docstring says what it is, what it costs, what to expect and
how to run it. To add one, write the function and name it in `PRESETS`, for a backbone of step 2 in `BACKBONES`.
"""

from functools import partial
from typing import NamedTuple

from ..errors import ParameterError, near


class Preset(NamedTuple):
    """A preset's overrides with the facts of its docstring."""

    name: str
    parameters: dict
    summary: str
    cost: str
    expected: str


def demo():
    """The whole pipeline on the embedded data set.

    Cost: 10 to 12 minutes on two CPU cores that multiply bfloat16, some 24 on older ones (computed).
    Expected: 75.0 ± 1.1 % mIoU on val, three seeds; 79 % with true masks.
    Command: make demo, or python -m weaktr run --preset demo
    """
    return {}


def demo_small():
    """The demo at a quarter of its size, for sweeps of many runs.

    Cost: 3 to 9 minutes on two CPU cores; a sweep shares most of it between its runs.
    Expected: 57.9 ± 3.1 % mIoU on val, three seeds.
    Command: python -m weaktr sweep sweeps/demo/*.toml
    """
    return {
        "train_list": "train_aug:500",
        "cam_epochs": 8,
        "variant_images": 100,
        "eval_list": "train:100",
        "seg_epochs": 4,
        "seg_scales": [1.0],
        "train_ceiling": False,
    }


def smoke():
    """All notebooks with next to no training.

    Cost: about 80 seconds on two CPU cores, and 20 more for drawing the data the first time.
    Expected: poor masks.
    Command: python -m weaktr run --preset smoke
    """
    return {
        "train_list": "smoke:32",
        "eval_list": "smoke:32",
        "val_list": "smoke_val:16",
        "cam_epochs": 1,
        "variant_images": 16,
        "seg_epochs": 1,
        "seg_batch_size": 8,
        "seg_scales": [1.0],
    }


def voc_mini():
    """Some photographs in VOC12's layout with the small backbone.

    Cost: a few minutes on two CPU cores for some dozens of photographs.
    Expected: poor masks; for real ones the method needs an ImageNet backbone and all of VOC12.
    Command: python -m weaktr run --preset voc_mini --set data_root=<the folder that holds VOCdevkit>
    """
    return {
        "dataset": "voc12",
        "train_list": "train",
        "cam_epochs": 2,
        "cam_scales": [0.25],
        "threshold": 0.4,
        "variant_images": 14,
        "seg_epochs": 2,
        "seg_batch_size": 4,
        "seg_scales": [1.0],
    }


# ── The published tables (paper, Tables of VOC12 and COCO14; METHOD.md) ─────────────────────────────────────────────
# Costs for an A100 (312 TFLOP/s) are computed from two CPU cores in bfloat16: 9.5 images/s in step 1, 1.07 in step 2,
# 69 and 49 % of their rate in matrix products. The short time is that of the same share, the long one of a quarter.
def voc12_cam():
    """Step 1 on VOC12 with DeiT-S.

    Cost: 1.5 to 6 minutes of training on an A100, computed from throughput measured on a CPU, not run.
    Expected: 69.4 % mIoU of CAM labels on train (1,464), CRF; its authors chose score and epoch by masks.
    Command: python -m weaktr run --preset voc12_cam --stages 01 02 03 --set data_root=<folder of VOCdevkit>
    """
    return {
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


def coco14_cam():
    """Step 1 on COCO14 with DeiT-S.

    Cost: 11 to 45 minutes of training on an A100, computed from throughput measured on a CPU, not run.
    Expected: 42.6 % mIoU of CAM labels on train (82,081), CRF; its authors chose score and epoch by masks.
    Command: python -m weaktr run --preset coco14_cam --stages 01 02 03 --set data_root=<folder of images/>
    """
    return voc12_cam() | {
        "dataset": "coco14",
        "train_list": "train",
        "cam_lr": 2e-4,
        "cam_scales": [1.0, 0.8, 1.2],
        "threshold": 0.42,
        "crf_settings": "coco",
    }


def photographs():
    """Your own photographs, a folder with labels.csv, the published way.

    Cost: that of voc12_deit_s for as many images.
    Expected: unknown. No mask chooses anything: the background score and the start of clipping are found without.
    Command: python -m weaktr run --preset photographs --set data_root=<folder of labels.csv>
    """
    own = {"dataset": "folder", "train_list": "train", "cam_batch_size": 16, "threshold": 0.0, "clip_start_value": 0.0}
    return voc12_cam() | own


# preset → published mIoU (%), always with CRF: CAM labels on train for step 1, masks on val and train for step 2
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
BACKBONES = {  # of step 2: name in print, timm's name, empty for that of step 1
    "deit_s": ("DeiT-S", ""),
    "dinov2_s": ("DINOv2-S", "vit_small_patch14_dinov2"),
    "vit_s": ("ViT-S (ImageNet-21k, then 1k)", "vit_small_patch16_384"),
    "eva02_s": ("EVA-02-S", "eva02_small_patch14_224"),
}


def _with_step_2(step_1, title, val_size, train_size, hours):
    """{name: function}: `step_1` with each of BACKBONES in step 2, documented like the presets above."""
    made, dataset = {}, step_1.__name__.removesuffix("_cam")
    for suffix, (text, backbone) in BACKBONES.items():
        val, train = PUBLISHED[name := f"{dataset}_{suffix}"]
        made[name] = partial(lambda own: step_1() | own, {"seg_backbone": backbone} if backbone else {})
        made[name].__doc__ = f"""WeakTr on {title}, step 2 with {text}.

        Cost: {hours} of training on an A100, computed from throughput measured on a CPU, not run.
        Expected: {val} % mIoU on val ({val_size}), {train} % on train ({train_size}), six scales mirrored, CRF.
        Command: python -m weaktr run --preset {name} --set data_root=<folder of the data>
        """
    return made


PRESETS = {function.__name__: function for function in (demo, demo_small, smoke, voc_mini, photographs)}
PRESETS |= {"voc12_cam": voc12_cam} | _with_step_2(voc12_cam, "VOC12", "1,449", "1,464", "22 to 87 minutes")
PRESETS |= {"coco14_cam": coco14_cam} | _with_step_2(coco14_cam, "COCO14", "40,137", "82,081", "3 to 11 hours")


def get(name):
    """The Preset `name`. Raises ParameterError for an unknown one, with the nearest known ones."""
    if name not in PRESETS:
        raise ParameterError(f"unknown preset {name!r}{near(name, PRESETS)}; there are {', '.join(PRESETS)}")
    lines = [line.strip() for line in PRESETS[name].__doc__.splitlines()]
    cost, expected = (
        next(line.removeprefix(key).rstrip(".") for line in lines if line.startswith(key))
        for key in ("Cost: ", "Expected: ")
    )
    return Preset(name, PRESETS[name](), lines[0].rstrip("."), cost, expected)
