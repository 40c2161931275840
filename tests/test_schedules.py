"""Learning rates of both steps against the formulas and against the released code."""

import json

import naive
import pytest

from weaktr.method import cam_training, retraining


@pytest.mark.parametrize("epochs", [3, 8, 60])
def test_cam_schedule_is_the_formula(epochs):
    rates = [cam_training.learning_rate(epoch, 7.5e-5, epochs) for epoch in range(epochs)]
    assert rates == pytest.approx([naive.cam_learning_rate(epoch, 7.5e-5, epochs) for epoch in range(epochs)])


def test_cam_schedule_never_reaches_its_base_rate():
    rates = [cam_training.learning_rate(epoch, 7.5e-5, 60) for epoch in range(60)]
    assert rates[0] == rates[1] == pytest.approx(1e-6)
    assert rates.index(max(rates)) == 6 and max(rates) < 7.5e-5
    assert rates[6:] == sorted(rates[6:], reverse=True) and rates[-1] > 1e-5


def test_cam_schedule_agrees_with_released_code(shared):
    golden = json.loads((shared / "goldens" / "schedules.json").read_text())["cam_training_voc12_batch64"]
    assert golden["effective_lr"] == pytest.approx(golden["base_lr"] * 64 / 512)
    rates = [cam_training.learning_rate(epoch, golden["effective_lr"], 60) for epoch in range(60)]
    assert rates == pytest.approx(golden["lr_per_epoch"], rel=1e-9)


@pytest.mark.parametrize(("lr", "min_lr"), [(1e-4, 1e-5), (1e-5, 1e-6)])
def test_segmenter_schedule_is_the_formula(lr, min_lr):
    rates = [retraining.learning_rate(i, 50, lr, min_lr) for i in range(50)]
    assert rates == pytest.approx([naive.segmenter_learning_rate(i, 50, lr, min_lr) for i in range(50)])
    assert rates[0] == pytest.approx(lr) and rates == sorted(rates, reverse=True) and rates[-1] > min_lr


def test_segmenter_schedule_agrees_with_released_code(shared):
    golden = json.loads((shared / "goldens" / "schedules.json").read_text())["retraining"]
    for name, factor in (("decoder_lr", 1.0), ("encoder_lr", 0.1)):
        rates = [
            retraining.learning_rate(i, golden["iterations"], 1e-4 * factor, 1e-5 * factor)
            for i in range(golden["iterations"])
        ]
        assert rates == pytest.approx(golden[name], rel=1e-9), name
