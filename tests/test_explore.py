"""Explorers: one figure in batch, live controls for a person."""

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Image
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from weaktr.errors import UserError
from weaktr.workbench import explorer


class Recorder:
    """A render function that remembers its arguments."""

    def __init__(self):
        self.calls = []

    def __call__(self, *values, **named):
        self.calls.append((*values, *named.values()))
        return Figure(figsize=(1, 1))


@pytest.fixture
def render():
    return Recorder()


class Shell:
    """IPython in a kernel, while it runs a cell of a front end."""

    def __init__(self, **content):
        self.kernel, self.content = self, content

    def get_parent(self, channel):
        assert channel == "shell"
        return {"content": self.content}


@pytest.fixture
def person(monkeypatch):
    monkeypatch.setattr(explorer, "watched", lambda: True)


def controls(box):
    return {control.description: control for control in box.children[0].children}


def test_batch_draws_the_first_choice_and_makes_no_widget(monkeypatch, render):
    monkeypatch.setenv("WEAKTR_RUNNER", "notebooks")
    monkeypatch.setattr("ipywidgets.VBox", None)
    shown = [
        explorer.explore(render, image=["a", "b"], threshold=[0.4, 0.1]),
        explorer.explore(render, cam={"a · cat": ("a", 0), "a · owl": ("a", 1)}, layer={"1": 0, "2": 1}),
    ]
    assert all(isinstance(picture, Image) and picture.data.startswith(b"\x89PNG") for picture in shown)
    assert render.calls == [("a", 0.4), (("a", 0), 0)]


@pytest.mark.parametrize(
    ("shell", "expected"),
    [(Shell(allow_stdin=True), True), (Shell(allow_stdin=False), False), (Shell(), False), (None, False)],
    ids=["person", "nbclient", "unsaid", "no kernel"],
)
def test_a_front_end_with_a_person_can_ask_for_input(monkeypatch, render, shell, expected):
    monkeypatch.delenv("WEAKTR_RUNNER", raising=False)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    assert explorer.watched() is expected
    assert isinstance(explorer.explore(render, value=[1, 2]), Image) is not expected
    assert render.calls == [(1,)]
    assert expected or explorer.explore_attention(None, None, {}) is None


def test_slider_is_sorted_starts_at_the_first_choice_and_draws_on_move(person, render):
    box = explorer.explore(render, image=["a", "b"], threshold=[0.4, 0.1, 0.7, 0.4])
    moving = controls(box)
    assert [value for _, value in moving["threshold"].options] == [0.1, 0.4, 0.7]
    assert not moving["threshold"].continuous_update
    moving["threshold"].value = 0.7
    moving["image"].value = "b"
    assert render.calls == [("a", 0.4), ("a", 0.7), ("b", 0.7)]


def test_choices_with_labels_give_their_values(person, render):
    moving = controls(explorer.explore(render, cam={"a · cat": ("a", 0), "b · owl": ("b", 1)}, layer={"1": 0, "2": 1}))
    assert [label for label, _ in moving["cam"].options] == ["a · cat", "b · owl"]
    assert [label for label, _ in moving["layer"].options] == ["1", "2"]
    moving["cam"].value = ("b", 1)
    moving["layer"].value = 1
    assert render.calls[1:] == [(("b", 1), 0), (("b", 1), 1)]


def test_figures_are_closed_after_drawing(person):
    explorer.explore(lambda value: plt.figure(figsize=(1, 1)), value=[1, 2])
    assert not plt.get_fignums()


def test_the_picture_is_replaced_in_its_place(person):
    """A lower figure leaves the frame as high as it was, so that nothing below moves."""
    box = explorer.explore(lambda inches: Figure(figsize=(2, inches)), inches={"low": 1, "high": 3})
    _, frame, error = box.children
    (picture,) = frame.children
    first = picture.value
    controls(box)["inches"].value = 3
    assert (picture.width, picture.height, frame.layout.min_height) == ("200", "300", "300px")
    controls(box)["inches"].value = 1
    assert (picture.value, picture.height, frame.layout.min_height) == (first, "100", "300px")
    assert frame.children == (picture,) and error.value == ""


def test_an_error_after_a_move_is_said_below_the_picture(person):
    def broken(value):
        return {1: Figure(figsize=(1, 1))}[value]

    box = explorer.explore(broken, value=[1, 2])
    controls(box)["value"].value = 2
    assert box.children[2].value == "KeyError: 2"
    controls(box)["value"].value = 1
    assert box.children[2].value == ""


def test_errors_of_the_render_function_are_not_swallowed(person):
    def broken(value):
        raise RuntimeError("no such image")

    with pytest.raises(RuntimeError, match="no such image"):
        explorer.explore(broken, value=[1])


def test_a_refusal_is_shown_in_a_notebook_as_its_words_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell()
    shell.user_ns["error"] = UserError("no run here; make one")
    shell.run_cell("raise error")
    assert capsys.readouterr().out == "UserError: no run here; make one\n"


def test_no_choice_is_refused(render):
    with pytest.raises(ValueError, match="image: nothing to choose from"):
        explorer.explore(render, image=[])
