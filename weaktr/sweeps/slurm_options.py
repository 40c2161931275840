"""What a Slurm job of a sweep asks for: [slurm] in its file, or --slurm NAME=VALUE, checked."""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ParameterError, near

Options = dict[str, Any]

SBATCH = {  # option → sbatch's name for it
    "account": "account",
    "partition": "partition",
    "qos": "qos",
    "reservation": "reservation",
    "constraint": "constraint",
    "nodelist": "nodelist",
    "exclude": "exclude",
    "licenses": "licenses",
    "mem": "mem",
    "time": "time",
    "cpus": "cpus-per-task",
    "gpus": "gpus-per-node",
}
SETUP = "setup"  # lines of shell that a job runs before Python, such as module load
KNOWN = (*SBATCH, SETUP)
DEFAULTS: Options = {"cpus": "8", "gpus": "1", "time": "1440"}
GPUS = re.compile(r"(?:(?P<type>[A-Za-z][\w.-]*):)?(?P<number>\d+)")


def check_options(given: Mapping[str, Any]) -> Options:
    """Options as text, set-up lines as a list of texts; what a value means is left to Slurm.

    Raises:
        ParameterError: For an unknown option, and for a value that sbatch could not even be handed.
    """
    checked: Options = {}
    for name, value in given.items():
        if name not in KNOWN:
            raise ParameterError(f"unknown option {name!r} of a Slurm job{near(name, KNOWN)}; there are {_names()}")
        checked[name] = _lines(value) if name == SETUP else _word(name, value)
    if "cpus" in checked and not re.fullmatch(r"[1-9]\d*", checked["cpus"]):
        raise ParameterError(f"cpus={checked['cpus']}: give how many cores a job has, at least one")
    if "gpus" in checked and not GPUS.fullmatch(checked["gpus"]):
        raise ParameterError(f"gpus={checked['gpus']}: give how many GPUs a job has, such as 1, a100:1, or 0 for none")
    return checked


def _names() -> str:
    return ", ".join(KNOWN)


def _word(name: str, value: Any) -> str:
    """A value as one word of a command."""
    text = str(value)
    if not isinstance(value, str | int) or isinstance(value, bool) or not re.fullmatch(r"\S.*", text):
        raise ParameterError(f"{name} is {value!r}; give a text or a whole number, such as {_example(name)}")
    return text


def _example(name: str) -> str:
    return {"mem": "32G", "time": "12:00:00", "cpus": "8", "gpus": "a100:1"}.get(name, f"the {name} that you may use")


def _lines(value: Any) -> list[str]:
    """Set-up lines, given as a text or a list of texts."""
    lines = value.splitlines() if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ParameterError(f'{SETUP} is {value!r}; write it as {SETUP} = ["module load cuda", "…"]')
    return lines


def for_processes(options: Options, processes: int) -> Options:
    """The options of a stage that starts so many processes, one per GPU; 0 leaves the number to the option `gpus`.

    Without GPUs (gpus=0) the processes share the job's cores.
    """
    form = GPUS.fullmatch(options["gpus"])
    assert form is not None, options
    if not processes or int(form["number"]) == 0:
        return options
    kind = f"{form['type']}:" if form["type"] else ""
    return options | {"gpus": f"{kind}{processes}"}


def flags(options: Options) -> dict[str, str]:
    """{sbatch's option: value}, without the set-up lines; without `gpus` where there are to be none."""
    words = {SBATCH[name]: value for name, value in options.items() if name != SETUP}
    if words.get("gpus-per-node") == "0":
        del words["gpus-per-node"]
    return words


def in_words(options: Options) -> str:
    """The options as one would type them, set-up lines left out."""
    return " ".join(f"{name}={value}" for name, value in options.items() if name != SETUP)
