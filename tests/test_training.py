"""Both training loops on a network of two blocks: they learn, repeat bit by bit, and survive being killed."""

import copy
import math
import re
import time
from functools import partial
from multiprocessing import active_children, get_context

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from weaktr.data.images import read_label_png
from weaktr.data.transforms import CamSamples, SegmentationSamples, seed_everything
from weaktr.device import set_precision
from weaktr.errors import ParameterError, RunError, UserError
from weaktr.method import cam_measures, cam_training, retraining, training_state
from weaktr.method.cam_measures import (
    EpochMeasures,
    average_precision,
    class_attention_correlation,
    head_weight_measures,
    validate,
)
from weaktr.method.cam_training import CamTrainingOptions, best_by, cam_losses, train_cam
from weaktr.method.clipping import COUNTS, clipping_counts, clipping_quality, gradient_clipping
from weaktr.method.retraining import (
    WATCHES,
    Recorder,
    RetrainingOptions,
    StartValue,
    beside,
    learning_rate,
    train_and_save,
    train_segmenter,
)
from weaktr.method.training_state import DivergedError, check_loss
from weaktr.models.cam import create_cam_model
from weaktr.models.checkpoints import save_model
from weaktr.models.segmenter import create_segmenter

BACKBONE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
SIDE = 32
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Bar:
    """Progress that keeps its counts, and breaks off the run after `kill` updates in all."""

    def __init__(self, kill=math.inf):
        self.kill, self.labels, self.totals, self.counts, self.notes = kill, [], [], [], []

    def __call__(self, total, label):
        self.labels.append(label)
        self.totals.append(total)
        self.counts.append(0)
        return self

    def update(self, n, note):
        self.counts[-1] += n
        self.notes.append(note)
        self.kill -= 1
        if self.kill == 0:
            raise KeyboardInterrupt


def same_weights(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def without_speed(history):
    return history.drop(columns=["images_per_second", "wait_share"])


# ---------------------------------------------------------------- step 1


def cam_model(seed=1):
    seed_everything(seed)
    return create_cam_model(BACKBONE, 8, pretrained=False, image_size=SIDE, reduction=2, drop_path=0.1)


def learn_cams(
    dataset, folder, *, seed=1, initial=None, progress=None, model=None, checkpoint="last", val_list="val", **more
):
    """Three epochs of two steps → the trained model and its history."""
    folder.mkdir(exist_ok=True)
    model = model or cam_model(initial or seed)
    options = {"epochs": 3, "batch_size": 4, "lr": 0.5, "warmup": 0, "precision": "fp32", "seed": seed, "workers": 1}
    options = CamTrainingOptions(**options | more)
    measure = EpochMeasures(
        dataset=dataset,
        val_list=val_list,
        oracle_list="train" if checkpoint == "oracle_miou" else "",
        precision=options.precision,
        workers=1,
    )
    history = train_cam(
        model,
        CamSamples(dataset, "train", SIDE, model.mean, model.std, augmentation="", min_crop=0.5, seed=seed),
        options,
        measure=measure,
        keep_best=best_by(checkpoint),
        folder=folder,
        progress=progress or Bar(),
    )
    return model, history


@pytest.fixture(scope="module")
def trained_cams(tiny_dataset, tmp_path_factory):
    """One uninterrupted run: model, history, folder, progress."""
    folder, bar = tmp_path_factory.mktemp("cam"), Bar()
    return *learn_cams(tiny_dataset, folder, progress=bar), folder, bar


def test_cam_training_reports_what_it_did(trained_cams):
    model, history, folder, bar = trained_cams
    assert not model.training and (folder / "resume.pt").is_file()
    assert bar.labels == ["epoch 1/3", "epoch 2/3", "epoch 3/3"] and bar.totals == bar.counts == [8, 8, 8]
    assert list(history["epoch"]) == [1, 2, 3]
    parts = history[["loss_cls", "loss_coarse", "loss_fine"]]
    assert np.allclose(history["loss"], parts.sum(axis=1)) and (parts.nunique() == 3).all()
    assert history["map_val"].between(0, 100).all() and (history["images_per_second"] > 0).all()
    assert history["wait_share"].between(0, 1, inclusive="neither").all()
    assert all(re.fullmatch(r"\d+\.\d% data wait", note) for note in bar.notes)
    peak = 0.5 * 4 / 512
    assert np.allclose(history["lr"], [cam_training.learning_rate(e, peak, 3, 0) for e in range(3)], rtol=1e-12)


def test_cam_training_lowers_its_loss(tiny_dataset, tmp_path):
    _, history = learn_cams(tiny_dataset, tmp_path, epochs=6)
    assert history["loss"].iloc[-1] < 0.9 * history["loss"].iloc[0]
    assert history["loss_cls"].iloc[-1] < history["loss_cls"].iloc[0]


def test_same_seed_same_cam_weights(trained_cams, tiny_dataset, tmp_path):
    model, history, *_ = trained_cams
    again, again_history = learn_cams(tiny_dataset, tmp_path)
    assert same_weights(model, again) and without_speed(history).equals(without_speed(again_history))


def test_a_finished_cam_training_is_read_and_not_repeated(trained_cams, tiny_dataset, tmp_path):
    model, history, *_ = trained_cams
    save_model(model, tmp_path / "model.safetensors")
    history.to_csv(tmp_path / "history.csv", index=False)
    bar = Bar()
    again, read = learn_cams(tiny_dataset, tmp_path, initial=99, progress=bar)
    assert not bar.labels and same_weights(model, again)
    pd.testing.assert_frame_equal(read, history)


def test_another_seed_other_cam_weights(trained_cams, tiny_dataset, tmp_path):
    """Same initial weights: the order and the crops alone make the difference."""
    other, history = learn_cams(tiny_dataset, tmp_path, seed=2, initial=1)
    assert not same_weights(trained_cams[0], other)
    assert history["loss"].iloc[-1] != trained_cams[1]["loss"].iloc[-1]


@pytest.mark.parametrize("updates", [2, 3], ids=["at the end of an epoch", "within an epoch"])
def test_a_killed_cam_training_goes_on_as_if_nothing_had_happened(trained_cams, tiny_dataset, tmp_path, capfd, updates):
    with pytest.raises(KeyboardInterrupt):
        learn_cams(tiny_dataset, tmp_path, progress=Bar(kill=updates))
    assert (tmp_path / "resume.pt").is_file() == (updates == 3)
    bar = Bar()
    model, history = learn_cams(tiny_dataset, tmp_path, initial=1 if updates == 2 else 99, progress=bar)
    assert bar.labels == ["epoch 2/3", "epoch 3/3"] if updates == 3 else len(bar.labels) == 3
    assert same_weights(model, trained_cams[0])
    assert without_speed(history).equals(without_speed(trained_cams[1]))
    assert ("going on after 1 finished" in capfd.readouterr().out) == (updates == 3)


def test_a_finished_cam_training_is_only_loaded(trained_cams, tiny_dataset):
    model, history, folder, _ = trained_cams
    bar = Bar()
    again, again_history = learn_cams(tiny_dataset, folder, initial=99, progress=bar)
    assert bar.labels == [] and same_weights(model, again) and again_history.equals(history)


def test_a_loss_that_is_nan_names_the_learning_rate(tiny_dataset, tmp_path):
    model = cam_model()
    torch.nn.init.constant_(model.head.weight, math.nan)
    with pytest.raises(DivergedError, match=r"loss became nan in epoch 1; lower the learning rate 0\.5"):
        learn_cams(tiny_dataset, tmp_path, model=model)
    assert not (tmp_path / "resume.pt").exists()


def test_a_training_that_diverges_is_a_failed_run_and_no_bad_input():
    """Also from a process of its own, and the runner shows its words."""
    with pytest.raises(DivergedError) as caught, beside(check_loss, math.inf, "in epoch 2", 0.5):
        pass
    assert isinstance(caught.value, RunError) and not isinstance(caught.value, UserError)
    assert str(caught.value) == "the loss became inf in epoch 2; lower the learning rate 0.5"
    check_loss(1.0, "in epoch 2", 0.5)


def test_a_list_smaller_than_the_batch_is_refused(tiny_dataset, tmp_path):
    with pytest.raises(ParameterError, match="the list has 8 images, fewer than batch size 9; lower it"):
        learn_cams(tiny_dataset, tmp_path, batch_size=9)


def test_a_long_list_is_monitored_on_a_part_of_it(tiny_dataset, tmp_path, monkeypatch):
    """COCO14's val has 40,137 images, which an epoch of training should not wait for."""
    seen = []

    def spied(model, dataset, list_name, *rest):
        seen.append(list_name)
        return validate(model, dataset, list_name, *rest)

    monkeypatch.setattr(cam_measures, "validate", spied)
    monkeypatch.setattr(cam_measures, "MOST_MONITORED", 2)
    for val_list in ("val", "val:3"):
        learn_cams(tiny_dataset, tmp_path / val_list[-1], epochs=1, val_list=val_list)
    assert seen == ["val:2", "val:3"]


@pytest.mark.parametrize("rule, column", [("map", "map_val"), ("oracle_miou", "oracle_miou")])
def test_the_best_epoch_can_be_kept(tiny_dataset, tmp_path, monkeypatch, rule, column):
    """By the mAP of image labels, or, an oracle, by CAMs against masks; here the second of three epochs is best."""
    scores = iter([10.0, 30.0, 20.0])
    if rule == "map":
        monkeypatch.setattr(cam_measures, "average_precision", lambda *_: np.array([next(scores) / 100]))
    else:
        monkeypatch.setattr(cam_measures, "oracle_miou", lambda *_: next(scores))
    seen = []
    keep = training_state.keep
    monkeypatch.setattr(
        cam_training,
        "keep",
        lambda folder, model, *rest: (seen.append(copy.deepcopy(model)), keep(folder, model, *rest)),
    )
    model, history = learn_cams(tiny_dataset, tmp_path, checkpoint=rule)
    assert history[column].tolist() == pytest.approx([10.0, 30.0, 20.0])
    assert same_weights(model, seen[1]) and not same_weights(model, seen[2])
    again, _ = learn_cams(tiny_dataset, tmp_path, checkpoint=rule)
    assert same_weights(again, seen[1]), "a finished training comes back with the chosen epoch"


def test_oracle_miou_is_the_best_of_the_threshold_curve(trained_cams, tiny_dataset):
    from weaktr.evaluation.metrics import confusion_matrix, mean_iou, seed_mask
    from weaktr.method.cam_generation import generate_cams

    model, *_ = trained_cams
    found = cam_measures.oracle_miou(model, tiny_dataset, "val")
    ids = tiny_dataset.ids("val")
    cams = {i: generate_cams(model, tiny_dataset.image(i), tiny_dataset.labels(i), (1.0,)) for i in ids}
    scores = []
    for t in np.linspace(0, 1, 101):
        seeds = {i: seed_mask(cams[i], t, tiny_dataset.mask(i).shape) for i in ids}
        scores.append(mean_iou(sum(confusion_matrix(seeds[i], tiny_dataset.mask(i), 9) for i in ids)))
    assert found == pytest.approx(max(scores))


def test_an_unknown_checkpoint_rule_is_refused():
    with pytest.raises(ParameterError, match="checkpoint 'best' is unknown; one of last, map, oracle_miou"):
        best_by("best")


def test_what_is_measured_is_handed_in(tiny_dataset, tmp_path):
    """The loop calls it once per epoch, keeps the epoch that it likes best, and knows nothing else of it."""
    model, seen, values = cam_model(), [], iter([0.5, 2.0, 1.0])

    def measure(trained):
        seen.append({name: tensor.clone() for name, tensor in trained.state_dict().items()})
        return {"anything": next(values)}

    samples = CamSamples(tiny_dataset, "train", SIDE, model.mean, model.std, augmentation="", min_crop=0.5, seed=1)
    options = CamTrainingOptions(epochs=3, batch_size=4, lr=0.5, seed=1, workers=1, precision="fp32")
    history = train_cam(model, samples, options, measure=measure, keep_best="anything", folder=tmp_path, progress=Bar())
    assert history["anything"].tolist() == [0.5, 2.0, 1.0] and "map_val" not in history
    kept = model.state_dict()
    assert all(torch.equal(kept[name], seen[1][name]) for name in kept)
    assert not all(torch.equal(kept[name], seen[2][name]) for name in kept)


def test_no_mask_is_read_by_step_one(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tiny_dataset), "mask", lambda *_: pytest.fail("a mask was read"))
    learn_cams(tiny_dataset, tmp_path, epochs=1)


def test_scores_are_the_mean_of_three_logits_over_whole_images(trained_cams, tiny_dataset):
    from PIL import Image

    from weaktr.data.transforms import normalise

    model = trained_cams[0]
    seen = validate(model, tiny_dataset, "val", "fp32")
    scores, labels = seen.scores, seen.labels
    assert np.array_equal(scores, validate(model, tiny_dataset, "val", "fp32", workers=0).scores)
    ids = tiny_dataset.ids("val")
    assert (labels == np.stack([tiny_dataset.labels(i) for i in ids])).all()
    for row, image_id in zip(scores, ids):
        small = Image.fromarray(tiny_dataset.image(image_id)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        with torch.no_grad():
            out = model(normalise(np.asarray(small), model.mean, model.std)[None])
        assert np.allclose(row, (out.cls_logits + out.coarse_logits + out.fine_logits)[0] / 3, atol=1e-5)


def test_the_history_says_how_heads_are_weighed_and_classes_look(trained_cams, tiny_dataset):
    """After the last epoch, from the images that are classified anyway; measuring changes no weight."""
    model, history, *_ = trained_cams
    seen = validate(model, tiny_dataset, "val", "fp32")
    assert seen.head_weights.shape == (4, 2, 2) and seen.class_correlations.shape == (4,)
    last = history.iloc[-1]
    names = ["head_weight_mean", "head_weight_std", "head_weight_min", "head_weight_max", "head_weight_images_std"]
    assert last[names].tolist() == pytest.approx(naive.head_weight_measures(seen.head_weights))
    assert last["class_attention_correlation"] == pytest.approx(seen.class_correlations.mean())
    assert (history[names] > 0).all(axis=None) and history["class_attention_correlation"].between(-1, 1).all()
    order = ["map_val", *names, "class_attention_correlation", "images_per_second"]
    assert list(history.columns[6:14]) == order


def test_measuring_changes_no_weight(trained_cams, tiny_dataset, tmp_path):
    model = cam_model()
    samples = CamSamples(tiny_dataset, "train", SIDE, model.mean, model.std, augmentation="", min_crop=0.5, seed=1)
    options = CamTrainingOptions(epochs=3, batch_size=4, lr=0.5, warmup=0, precision="fp32", seed=1, workers=1)
    history = train_cam(model, samples, options, measure=lambda _: {}, folder=tmp_path, progress=Bar())
    assert same_weights(model, trained_cams[0])
    assert list(history["loss"]) == list(trained_cams[1]["loss"]) and "map_val" not in history


def test_head_weights_against_a_loop():
    weights = np.random.default_rng(0).random((5, 3, 4)).astype(np.float32)
    assert list(head_weight_measures(weights).values()) == pytest.approx(naive.head_weight_measures(weights))
    uniform = head_weight_measures(np.full((5, 3, 4), 0.3, np.float32))
    assert uniform["head_weight_std"] == uniform["head_weight_images_std"] == 0
    assert uniform["head_weight_min"] == uniform["head_weight_max"] == uniform["head_weight_mean"] == np.float32(0.3)
    constant = head_weight_measures(np.repeat(weights[:1], 5, 0))
    assert constant["head_weight_images_std"] == pytest.approx(0, abs=1e-12) and constant["head_weight_std"] > 0.1


def test_class_attention_correlation_against_a_loop(tiny_dataset):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 4, 5, 6, generator=generator)
    maps[1, 2] = 2 * maps[1, 0] + 1
    expected = [naive.class_attention_correlation(image) for image in maps]
    assert class_attention_correlation(maps).tolist() == pytest.approx(expected)
    copies = maps[:, :1].repeat(1, 4, 1, 1) * torch.tensor([1.0, 2.0, 0.5, 3.0])[:, None, None]
    assert class_attention_correlation(copies).tolist() == pytest.approx([1.0] * 3)
    assert class_attention_correlation(maps[:, :1]).isnan().all(), "a single class has nothing to be compared with"


def test_class_tokens_begin_as_copies_that_look_alike(trained_cams, tiny_dataset):
    """Before any training each class is the same class token."""
    assert validate(cam_model(), tiny_dataset, "val", "fp32").class_correlations == pytest.approx(np.ones(4))
    assert trained_cams[1]["class_attention_correlation"].iloc[-1] < 1 - 1e-5


def test_average_precision_against_a_loop():
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(30, 4)), (generator.random((30, 4)) < 0.3).astype(np.float32)
    labels[:, 2] = 0
    found = average_precision(scores, labels)
    assert math.isnan(found[2])
    for c in (0, 1, 3):
        order = np.argsort(-scores[:, c])
        hits, total = 0, 0.0
        for rank, index in enumerate(order, start=1):
            if labels[index, c]:
                hits += 1
                total += hits / rank
        assert found[c] == pytest.approx(total / hits)


# ---------------------------------------------------------------- step 2


def segmenter(seed=1):
    seed_everything(seed)
    return create_segmenter(BACKBONE, 9, pretrained=False, image_size=SIDE, drop_path=0.1)


def noisy(dataset, image_id):
    """The mask with its left third called background."""
    label = read_label_png(dataset.mask_path(image_id)).copy()
    label[:, : label.shape[1] // 3] = 0
    return label


def samples_of(dataset, seed=1):
    ids = dataset.ids("train") + dataset.ids("val")
    return SegmentationSamples(
        ids,
        dataset.image,
        partial(noisy, dataset),
        dataset.mask,
        base_size=36,
        crop=SIDE,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        seed=seed,
    )


def mask_options(**more):
    options = {"epochs": 4, "batch_size": 1, "lr": 0.05, "min_lr": 0.001, "start_value": 0.0, "start_share": 0.5}
    options |= {"cell": 8, "scope": "batch", "seed": 1, "workers": 1, "precision": "fp32"}
    return RetrainingOptions(**options | more)


def learn_masks(
    dataset, folder, *, seed=1, initial=None, progress=None, samples=None, model=None, watched=None, **more
):
    """Four epochs of twelve steps → the trained model and its history."""
    folder.mkdir(exist_ok=True)
    model = model or segmenter(initial or seed)
    history = train_segmenter(
        model,
        samples or samples_of(dataset, seed),
        mask_options(seed=seed, **more),
        folder=folder,
        progress=progress or Bar(),
        watched=watched,
    )
    return model, history


@pytest.fixture(scope="module")
def views(tiny_dataset):
    """Two fixed views to watch."""
    samples = samples_of(tiny_dataset)
    samples.augment = False
    pairs = [samples[0, index] for index in range(2)]
    return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])


class RememberingSGD(torch.optim.SGD):
    """SGD that keeps the rates of its groups at every step."""

    made = None

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.rates = []
        RememberingSGD.made = self

    def step(self, *arguments):
        self.rates.append([group["lr"] for group in self.param_groups])
        return super().step(*arguments)


@pytest.fixture(scope="module")
def trained_masks(tiny_dataset, views, tmp_path_factory):
    """One uninterrupted run: model, history, folder, progress, optimizer."""
    folder, bar = tmp_path_factory.mktemp("segmenter"), Bar()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining.torch.optim, "SGD", RememberingSGD)
        model, history = learn_masks(tiny_dataset, folder, progress=bar, watched=views)
    return model, history, folder, bar, RememberingSGD.made


def test_a_finished_mask_training_is_read_and_not_repeated(trained_masks, tiny_dataset, tmp_path):
    model, history, *_ = trained_masks
    save_model(model, tmp_path / "model.safetensors")
    history.to_csv(tmp_path / "history.csv", index=False)
    bar = Bar()
    again, read = learn_masks(tiny_dataset, tmp_path, progress=bar)
    assert not bar.labels and same_weights(model, again)
    pd.testing.assert_frame_equal(read, history)


def test_mask_training_reports_every_iteration(trained_masks):
    model, history, folder, bar, _ = trained_masks
    assert not model.training and (folder / "resume.pt").is_file()
    assert list(history["iteration"]) == list(range(48)) and bar.totals == bar.counts == [12] * 4
    assert bar.labels == [f"epoch {e}/4" for e in (1, 2, 3, 4)]
    assert (history["loss"] <= history["loss_unclipped"] + 1e-6).all()
    assert history["loss_unclipped"].iloc[-12:].mean() < 0.9 * history["loss_unclipped"].iloc[:12].mean()
    assert history["clipped_share"].between(0, 1).all() and (history["images_per_second"] > 0).all()
    assert history["wait_share"].between(0, 1, inclusive="neither").all()
    assert all(re.fullmatch(r"\d+\.\d% data wait", note) for note in bar.notes)


def test_groups_have_their_rates(trained_masks):
    """SGD with Nesterov momentum 0.9 and no weight decay; the encoder at a tenth of the decoder's rate."""
    model, history, _, _, optimizer = trained_masks
    expected = np.array([learning_rate(i, 48, 0.05, 0.001) for i in range(48)])
    assert np.allclose(expected, 0.001 + 0.049 * (1 - np.arange(48) / 48) ** 0.9)
    assert np.allclose(np.array(optimizer.rates), np.stack([0.1 * expected, expected], 1), rtol=1e-12)
    assert np.allclose(history["lr"], expected, rtol=1e-12)
    groups = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    assert groups == [{id(p) for p in part.parameters()} for part in (model.encoder, model.decoder)]
    assert set.union(*groups) == {id(p) for p in model.parameters()}
    for group in optimizer.param_groups:
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 0)


def test_start_value_is_found_from_the_loss(trained_masks):
    """Nothing is clipped in the first half; then τ is the mean loss of the last tenth of that half (2 of 24)."""
    history = trained_masks[1]
    before, after = history.iloc[:24], history.iloc[24:]
    assert before["start_value"].isna().all() and (before["clipped_share"] == 0).all()
    assert (before["loss"] == before["loss_unclipped"]).all()
    tau = history["loss_unclipped"].iloc[22:24].mean()
    assert np.allclose(after["start_value"], tau, rtol=1e-12)
    below = after["loss_unclipped"] <= tau
    assert below.any() and (~below).any()
    assert (after.loc[~below, "clipped_share"] == 0).all() and (after.loc[below, "clipped_share"] > 0).mean() > 0.9
    assert (after.loc[below, "loss"] < after.loc[below, "loss_unclipped"]).mean() > 0.9


def test_long_trainings_are_recorded_over_several_iterations(trained_masks, tiny_dataset, tmp_path, monkeypatch):
    """Their rows mean what the rows of the single iterations mean, and the network is the same."""
    expected, _ = learn_masks(tiny_dataset, tmp_path, start_value=1.0)
    monkeypatch.setattr("weaktr.method.retraining.RECORDS", 24)  # two iterations each: τ has its 22nd and 23rd
    _, history = learn_masks(tiny_dataset, tmp_path / "pairs")
    assert list(history["iteration"]) == list(range(1, 48, 2))
    every = trained_masks[1].groupby(trained_masks[1]["iteration"] // 2)
    for column in ("loss", "loss_unclipped"):
        np.testing.assert_allclose(history[column], every[column].mean(), rtol=1e-5)
    for column in ("lr", "start_value"):
        np.testing.assert_allclose(history[column], every[column].last(), rtol=1e-5)
    monkeypatch.setattr("weaktr.method.retraining.RECORDS", 10)  # five iterations each, and two at the end of an epoch
    with pytest.raises(KeyboardInterrupt):
        learn_masks(tiny_dataset, tmp_path / "killed", start_value=1.0, progress=Bar(kill=30))
    _, history = learn_masks(tiny_dataset, tmp_path / "killed", start_value=1.0)
    model, straight = learn_masks(tiny_dataset, tmp_path / "straight", start_value=1.0)
    assert same_weights(model, expected)
    assert list(history["iteration"]) == [epoch * 12 + step for epoch in range(4) for step in (4, 9, 11)]
    assert without_speed(history).equals(without_speed(straight))


def test_a_start_value_is_found_however_early_and_however_rare_the_rows(tiny_dataset, tmp_path, monkeypatch):
    """No row of a long training may lie in the last tenth before an early start: then it is that of the first row."""
    monkeypatch.setattr("weaktr.method.retraining.RECORDS", 10)
    _, history = learn_masks(tiny_dataset, tmp_path, start_share=0.05)
    assert history["start_value"].notna().sum() == len(history) - 1
    assert history["start_value"].iloc[-1] == pytest.approx(history["loss_unclipped"].iloc[0])


@pytest.mark.parametrize("iteration", [0, 19, 20, 21, 40, 99])
def test_start_value_against_a_loop(iteration):
    """A hundred iterations, a row for each: τ is the mean of the 18th and 19th as soon as both are there."""
    losses = np.random.default_rng(0).random(100)
    history = [{"iteration": i, "loss_unclipped": losses[i]} for i in range(iteration)]
    tau = StartValue(0.0, 0.2, 100).at(iteration, history)
    assert tau == (pytest.approx(losses[18:20].mean()) if iteration >= 20 else -math.inf)
    assert StartValue(1.2, 0.2, 100).at(iteration, history) == 1.2


def test_rows_of_a_recorder_add_up_and_come_at_the_end_of_an_epoch():
    """Rows of three, three and one of seven steps; counts are those of all their pixels."""
    generator = torch.Generator().manual_seed(0)
    recorder, rows, losses, pixels = Recorder(every=3, steps=7, batch_size=2), [], [], []
    for _ in range(7):
        logits = torch.randn(2, 3, 8, 8, generator=generator)
        labels, truth = torch.randint(0, 3, (2, 2, 8, 8), generator=generator)
        clipped = gradient_clipping(logits, labels, 9.0, 4)
        row = recorder.add(clipped, clipping_counts(~clipped.kept, labels, truth))
        losses.append((clipped.loss.item(), clipped.pixel_loss.mean().item()))
        pixels.append(((~clipped.kept).sum().item(), (labels != truth).sum().item()))
        if row:
            found = np.array([[row["loss"], row["loss_unclipped"]], [row["clipped"], row["wrong"]]])
            assert np.allclose(found, [np.mean(losses, 0), np.sum(pixels, 0)])
            assert row["clipped_share"] == row["clipped"] / row["labelled"] and row["images_per_second"] > 0
            rows.append(len(losses))
            losses, pixels = [], []
    assert rows == [3, 3, 1]


def test_a_given_start_value_stands(tiny_dataset, tmp_path):
    _, history = learn_masks(tiny_dataset, tmp_path / "high", epochs=1, start_value=100.0)
    assert (history["start_value"] == 100).all() and (history["clipped_share"] > 0).all()
    _, history = learn_masks(tiny_dataset, tmp_path / "low", epochs=1, start_value=1e-6)
    assert (history["start_value"] == 1e-6).all() and (history["clipped_share"] == 0).all()


def test_watched_views_are_written_evenly(trained_masks, views):
    model, history, folder, _, _ = trained_masks
    files = sorted((folder / "clipping").iterdir())
    seen = [-(-48 * n // WATCHES) for n in range(1, WATCHES + 1)]
    assert [path.name for path in files] == [f"{i:06d}.npz" for i in seen]
    losses = []
    for path, tau in zip(files, history["start_value"].iloc[np.array(seen) - 1], strict=True):
        with np.load(path) as file:
            loss, clipped = file["loss"].astype(np.float32), file["clipped"]
        assert loss.shape == clipped.shape == (2, SIDE, SIDE) and clipped.dtype == bool
        assert (loss[views[1].numpy() == 255] == 0).all()
        assert not clipped.any() if math.isnan(tau) or loss.mean() > tau * 1.01 else clipped.any()
        losses.append(loss.mean())
    assert losses[-1] < losses[0]
    with torch.no_grad():  # the last one shows the finished network, without dropout
        expected = gradient_clipping(model(views[0]), views[1], history["start_value"].iloc[-1], 8)
    assert np.allclose(loss, expected.pixel_loss, atol=0.01)
    assert (clipped == (~expected.kept).numpy()).all()


def test_watching_changes_nothing(trained_masks, tiny_dataset, tmp_path):
    """Also: the same seed gives the same weights."""
    model, history = learn_masks(tiny_dataset, tmp_path)
    assert same_weights(model, trained_masks[0])
    assert without_speed(history).equals(without_speed(trained_masks[1]))
    assert not (tmp_path / "clipping").exists()


def test_another_seed_other_masks(trained_masks, tiny_dataset, tmp_path):
    model, _ = learn_masks(tiny_dataset, tmp_path, seed=2, initial=1)
    assert not same_weights(model, trained_masks[0])


@pytest.mark.parametrize("updates", [14, 30], ids=["before τ is found", "after"])
def test_a_killed_mask_training_goes_on_as_if_nothing_had_happened(
    trained_masks, tiny_dataset, views, tmp_path, updates
):
    with pytest.raises(KeyboardInterrupt):
        learn_masks(tiny_dataset, tmp_path, progress=Bar(kill=updates), watched=views)
    bar = Bar()
    model, history = learn_masks(tiny_dataset, tmp_path, initial=99, progress=bar, watched=views)
    assert bar.labels == [f"epoch {e}/4" for e in range(updates // 12 + 1, 5)]
    assert same_weights(model, trained_masks[0])
    assert without_speed(history).equals(without_speed(trained_masks[1]))
    for path in (trained_masks[2] / "clipping").iterdir():
        with np.load(path) as one, np.load(tmp_path / "clipping" / path.name) as two:
            assert all((one[key] == two[key]).all() for key in ("loss", "clipped"))


def test_nan_in_step_two_names_the_learning_rate(tiny_dataset, tmp_path):
    model = segmenter()
    torch.nn.init.constant_(model.decoder.cls_emb, math.nan)
    with pytest.raises(DivergedError, match=r"loss became (nan|inf) at iteration 0; lower the learning rate 0\.05"):
        learn_masks(tiny_dataset, tmp_path, model=model)
    assert not (tmp_path / "resume.pt").exists()


def test_fewer_images_than_the_batch_are_refused_in_step_two(tiny_dataset, tmp_path):
    with pytest.raises(ParameterError, match="12 images, fewer than batch size 13"):
        learn_masks(tiny_dataset, tmp_path, batch_size=13)


def test_truth_does_not_reach_the_weights(trained_masks, tiny_dataset, tmp_path):
    """The true masks ride along for the analysis: without them the weights are the same, the analysis is empty."""
    samples = samples_of(tiny_dataset)
    samples.truth = None
    model, history = learn_masks(tiny_dataset, tmp_path, samples=samples)
    assert same_weights(model, trained_masks[0])
    assert history[["noise", "precision", "recall"]].isna().all(axis=None)
    assert trained_masks[1]["noise"].between(0, 1).all() and trained_masks[1]["noise"].max() > 0.05


# ---------------------------------------------------------------- beside another training


class Silent:
    """Progress that goes to another process."""

    def __init__(self, total, label):
        pass

    def update(self, n, note):
        pass


def test_a_training_beside_another_makes_what_it_makes_alone(tiny_dataset, tmp_path):
    build = partial(create_segmenter, BACKBONE, 9, pretrained=False, image_size=SIDE, drop_path=0.1)
    training = {"progress": Silent, "device": torch.device("cpu"), "details": {"classes": ["a"]}}
    work = build, samples_of(tiny_dataset), mask_options(epochs=2, batch_size=2)
    places = [tmp_path / name for name in ("other", "block", "alone")]
    for place in places:
        place.mkdir()
    threads = torch.get_num_threads()
    with beside(train_and_save, *work, folder=places[0], **training):
        assert torch.get_num_threads() == max(1, threads // 2)
        train_and_save(*work, folder=places[1], **training)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(max(1, threads // 2))
    train_and_save(*work, folder=places[2], **training)
    first, *others = [load_file(place / "model.safetensors") for place in places]
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
    first, *others = [without_speed(pd.read_csv(place / "history.csv")) for place in places]
    assert len(first) == 12 and all(first.equals(other) for other in others)


def test_what_fails_beside_the_block_is_raised_after_it():
    reached = False
    with pytest.raises(ValueError, match="math domain error"), beside(math.sqrt, -1):
        reached = True
    assert reached


def test_a_block_that_fails_ends_what_runs_beside_it():
    threads, start = torch.get_num_threads(), time.monotonic()
    other = get_context("spawn").Process(target=time.sleep, args=(300,))
    other.start()
    before = set(active_children())
    with pytest.raises(KeyboardInterrupt), beside(time.sleep, 300):
        assert len(set(active_children()) - before) == 1
        raise KeyboardInterrupt
    assert time.monotonic() - start < 200 and torch.get_num_threads() == threads
    assert not set(active_children()) - before
    assert other.is_alive(), "what was there before is none of its business"
    other.kill()


# ---------------------------------------------------------------- does clipping find noise


def quality(*masks, of=""):
    counts = clipping_counts(*masks)
    assert tuple(counts) == COUNTS
    return clipping_quality({name: int(count) for name, count in counts.items()}, of)


@pytest.mark.parametrize("seed", range(4))
def test_clipping_quality_against_a_loop(seed):
    generator = np.random.default_rng(seed)
    labels = generator.choice([0, 1, 2, 255], (2, 6, 5))
    truth = np.where(generator.random((2, 6, 5)) < 0.6, labels, generator.choice([0, 1, 2, 255], (2, 6, 5)))
    clipped = generator.random((2, 6, 5)) < 0.4
    counts = dict.fromkeys(("labelled", "clipped", "known", "wrong", "clipped known", "clipped wrong"), 0)
    for label, true, clip in zip(labels.ravel(), truth.ravel(), clipped.ravel()):
        if label == 255:
            continue
        counts["labelled"] += 1
        counts["clipped"] += clip
        if true != 255:
            counts["known"] += 1
            counts["clipped known"] += clip
            counts["wrong"] += label != true
            counts["clipped wrong"] += clip and label != true
    found = quality(*map(torch.from_numpy, (clipped, labels, truth)))
    assert found == pytest.approx(
        {
            "clipped_share": counts["clipped"] / counts["labelled"],
            "noise": counts["wrong"] / counts["known"],
            "precision": counts["clipped wrong"] / counts["clipped known"],
            "recall": counts["clipped wrong"] / counts["wrong"],
        }
    )


def test_clipping_quality_is_undefined_without_cases():
    nothing, void = torch.zeros(1, 2, 2, dtype=torch.bool), torch.full((1, 2, 2), 255)
    labels = torch.ones(1, 2, 2, dtype=torch.long)
    right = pd.Series(quality(nothing, labels, labels))
    assert right["clipped_share"] == right["noise"] == 0 and right[["precision", "recall"]].isna().all()
    unknown = pd.Series(quality(~nothing, labels, void))
    assert unknown["clipped_share"] == 1 and unknown[["noise", "precision", "recall"]].isna().all()
    assert pd.Series(quality(nothing, void, void)).isna().all()


def test_batches_that_clip_are_counted_by_themselves():
    """Where nothing is clipped nothing counts; elsewhere the whole batch does, clipped or not."""
    labels, truth = torch.ones(2, 2, 2, dtype=torch.long), torch.ones(2, 2, 2, dtype=torch.long)
    truth[0, 0] = 2
    clipped = torch.zeros(2, 2, 2, dtype=torch.bool)
    assert pd.Series(quality(clipped, labels, truth, of="active")).isna().all()
    clipped[0, 0, 0] = clipped[1, 1, 1] = True
    expected = {"clipped_share": 2 / 8, "noise": 2 / 8, "precision": 1 / 2, "recall": 1 / 2}
    assert quality(clipped, labels, truth, of="active") == quality(clipped, labels, truth) == expected


def test_images_that_clip_are_counted_by_themselves_where_each_is_clipped_alone():
    labels, truth = torch.ones(2, 2, 2, dtype=torch.long), torch.ones(2, 2, 2, dtype=torch.long)
    truth[0, 0], labels[1, 1, 1] = 2, 255
    clipped = torch.zeros(2, 2, 2, dtype=torch.bool)
    clipped[1, 0, 0] = True
    expected = {
        "batch": {"labelled_active": 7, "known_active": 7, "wrong_active": 2},
        "own": {"labelled_active": 3, "known_active": 3, "wrong_active": 0},
    }
    for scope, active in expected.items():
        counts = {name: int(count) for name, count in clipping_counts(clipped, labels, truth, scope).items()}
        assert {name: counts[name] for name in active} == active
        assert (counts["labelled"], counts["clipped"], counts["known"], counts["wrong"]) == (7, 1, 7, 2)


def test_images_clipped_alone_find_their_start_value(tiny_dataset, tmp_path):
    """Found from the mean loss as ever; then some images of a batch are clipped, and others not."""
    _, history = learn_masks(tiny_dataset, tmp_path, batch_size=4, scope="own")
    before, after = history.iloc[:6], history.iloc[6:]
    assert before["start_value"].isna().all() and (before["clipped"] == 0).all()
    assert np.allclose(after["start_value"], history["loss_unclipped"].iloc[5])
    assert (after["clipped"] > 0).any()
    some = (after["labelled_active"] > 0) & (after["labelled_active"] < after["labelled"])
    assert some.any(), "an iteration in which every image, or none, is clipped tells nothing"


# ---------------------------------------------------------------- precision


def test_unknown_precision_is_refused():
    with pytest.raises(ParameterError, match="precision 'fp16' is unknown; one of auto, bf16, fp32"):
        set_precision(torch.device("cpu"), "fp16")
    for precision, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with set_precision(torch.device("cpu"), precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind


@pytest.mark.gpu
@needs_gpu
def test_a_step_on_the_gpu_has_the_cpus_loss():
    """One step of each network on CUDA with autocast against float32 on the CPU, before and after the step."""
    torch.manual_seed(0)
    x, labels = torch.randn(4, 3, SIDE, SIDE), (torch.rand(4, 8) < 0.3).float()
    target = torch.randint(0, 9, (4, SIDE, SIDE))

    def losses(name, device):
        seed_everything(1)
        model = create_cam_model(BACKBONE, 8, pretrained=False, image_size=SIDE, reduction=2) if name == "cam" else None
        model = model or create_segmenter(BACKBONE, 9, pretrained=False, image_size=SIDE, decoder_dropout=0.0)
        model = model.to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        found = []
        for _ in range(2):
            with set_precision(torch.device(device), "auto" if device == "cuda" else "fp32"):
                output = model(x.to(device))
            if name == "cam":
                loss = sum(cam_losses(output, labels.to(device)).values())
            else:
                loss = gradient_clipping(output, target.to(device), 100.0, 8).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    for name in ("cam", "segmenter"):
        on_cpu = losses(name, "cpu")
        assert losses(name, "cuda") == pytest.approx(on_cpu, rel=0.02)
        assert on_cpu[1] < on_cpu[0]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_both_loops_take_a_step_on_the_gpu(tiny_dataset, views, tmp_path, precision):
    """One step of each, and on from there after a restart; the numbers of the first are those of the CPU."""
    options = {"epochs": 1, "batch_size": 8, "precision": precision}
    model, history = learn_cams(tiny_dataset, tmp_path / "cam", model=cam_model().cuda(), **options)
    _, on_cpu = learn_cams(tiny_dataset, tmp_path / "cam_cpu", **options | {"precision": "fp32"})
    assert next(model.parameters()).is_cuda
    assert history["loss"][0] == pytest.approx(on_cpu["loss"][0], rel=0.05)
    _, longer = learn_cams(tiny_dataset, tmp_path / "cam", model=cam_model().cuda(), **options | {"epochs": 2})
    assert len(longer) == 2 and np.isfinite(longer["loss"]).all()

    options |= {"batch_size": 12, "start_value": 100.0}
    model, history = learn_masks(tiny_dataset, tmp_path / "masks", model=segmenter().cuda(), watched=views, **options)
    _, on_cpu = learn_masks(tiny_dataset, tmp_path / "masks_cpu", **options | {"precision": "fp32"})
    assert next(model.parameters()).is_cuda and len(list((tmp_path / "masks" / "clipping").iterdir())) == 1
    for column in ("loss", "loss_unclipped", "noise"):
        assert history[column][0] == pytest.approx(on_cpu[column][0], rel=0.05)
