"""The names that code outside the package may use: the very objects of the rooms, whatever moves inside."""

from importlib import import_module

import pytest

import weaktr

HOMES = {
    "weaktr": {"workbench.predict": ["predict"]},
    "weaktr.losses": {
        "method.cam_training": ["cam_losses"],
        "method.clipping": ["SCOPES", "ClippedLoss", "gradient_clipping"],
    },
    "weaktr.inference": {
        "data.transforms": ["normalise"],
        "method.cam_generation": [
            "generate_cams",
            "generate_grids",
            "generate_variants",
            "head_correlation",
            "mirrored_views",
            "rescale",
        ],
        "method.segmentation": [
            "at_least",
            "image_views",
            "predict_probabilities",
            "segment",
            "segment_on_device",
            "window_logits",
            "window_starts",
        ],
        "workbench.predict": ["predict"],
    },
    "weaktr.metrics": {
        "data.images": ["VOID"],
        "evaluation.metrics": [
            "confusion_matrix",
            "curve_table",
            "iou",
            "iou_of_counts",
            "mean_iou",
            "pixel_counts",
            "seed_mask",
            "strongest",
            "threshold_counts",
            "threshold_curve",
            "thresholds_below",
        ],
    },
    "weaktr.crf": {
        "method.crf": [
            "LABEL_SETTINGS",
            "PREDICTION_SETTINGS",
            "refine_labels",
            "refine_probabilities",
            "refine_to_file",
        ],
    },
    "weaktr.models": {"models.cam": ["create_cam_model"], "models.segmenter": ["create_segmenter"]},
    "weaktr.models.checkpoints": {
        "models.checkpoints": ["import_released", "load_model", "save_model"],
        "models.released": ["import_released_cam", "import_released_segmenter", "released_names"],
    },
    "weaktr.data": {"data": ["open_dataset"]},
}
PROMISED = [(stable, home, name) for stable, homes in HOMES.items() for home, names in homes.items() for name in names]


@pytest.mark.parametrize(("stable", "home", "name"), PROMISED, ids=lambda value: value)
def test_a_stable_name_is_the_object_itself(stable, home, name):
    assert getattr(import_module(stable), name) is getattr(import_module(f"weaktr.{home}"), name)


@pytest.mark.parametrize("stable", ["weaktr", "weaktr.losses", "weaktr.inference", "weaktr.metrics", "weaktr.crf"])
def test_the_list_of_a_stable_module_is_what_is_promised(stable):
    promised = [name for names in HOMES[stable].values() for name in names]
    assert sorted(import_module(stable).__all__) == sorted(promised)


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="'weaktr' has no attribute 'predikt'"):
        weaktr.predikt  # noqa: B018
