"""SIGTERM and Ctrl-C stop a run wherever it is, with the command that continues it and the status a shell expects."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import make_model
from tests.kills.places import Place
from tests.kills.points import Point
from tests.kills.processes import lit_align, only_run, write_config
from tests.kills.test_kills import EVALUATE, MEASURED, POINTS, STEP, assert_same

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
STAGES = {
    "reading the config": (
        Point("lit_align.cli:AlignmentCLI.before_instantiate_classes", place=Place("", None)),
        None,
    ),
    "loading weights": (POINTS["before anything"], "--trainer.run"),
    "sampling": (POINTS["while sampling"], "--trainer.run"),
    "judging": (POINTS["between verdicts"], "--trainer.run"),
    "scoring": (POINTS["while scoring"], "--trainer.run"),
    "training": (POINTS["between minibatches of the second iteration"], "--ckpt_path"),
    "evaluating": (POINTS["while sampling held-out prompts"], "--ckpt_path"),
    "saving": (POINTS["before last.ckpt points to it"], "--ckpt_path"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(make_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    assert lit_align(folder, "fit", "-c", write_config(folder, model)) == 0
    return folder


def commands(folder: Path) -> list[list[str]]:
    """What was printed as the command that continues, as arguments."""
    said = [
        line for line in (folder / "printed.txt").read_text().splitlines() if line.startswith("stopped; to go on: ")
    ]
    return [shlex.split(line.removeprefix("stopped; to go on: python -m lit_align ")) for line in said]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=lambda number: number.name
)
@pytest.mark.parametrize(
    ("point", "option"),
    [
        pytest.param(*stage, id=name, marks=() if name == "training" else pytest.mark.slow)
        for name, stage in STAGES.items()
    ],
)
def test_a_signal_stops_every_stage_at_once(tmp_path, model, point, option, number):
    point = replace(point, number=number)
    assert lit_align(tmp_path, "fit", "-c", write_config(tmp_path, model), point=point) == STATUS[number]
    if option is None:
        assert commands(tmp_path) == []
        assert not (tmp_path / "runs").exists()
    else:
        (command,) = commands(tmp_path)
        assert command[:4] == ["fit", "-c", str(only_run(tmp_path)), option]
    assert "Traceback" not in (tmp_path / "printed.txt").read_text()


@pytest.mark.slow
def test_the_command_that_is_printed_goes_on_as_if_nothing_had_happened(tmp_path, model, whole):
    config = write_config(tmp_path, model)
    first = replace(POINTS["between verdicts"], number=signal.SIGTERM)
    assert lit_align(tmp_path, "fit", "-c", config, point=first) == 143
    # Calls are counted from the beginning of each process, not of the run.
    second = Point(STEP, 6, number=signal.SIGINT, place=Place("train", 1, "1 scored", *MEASURED))
    assert lit_align(tmp_path, *commands(tmp_path)[0], point=second) == 130
    third = Point(
        EVALUATE, 2, number=signal.SIGTERM, place=Place("", 2, "2 scored", "2 scored, verdicts: 4", "1, 2, last is 2")
    )
    assert lit_align(tmp_path, *commands(tmp_path)[1], point=third) == 143
    assert lit_align(tmp_path, *commands(tmp_path)[2]) == 0
    assert_same(whole, tmp_path)


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """``python -m lit_align`` as a process of its own."""
    environment |= {"ASKED": str(folder / "asked.txt"), "OMP_NUM_THREADS": "1"}
    with (folder / "printed.txt").open("wb") as printed:
        command = [sys.executable, "-m", "lit_align", *arguments]
        return subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=printed,
            stderr=printed,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whatever started the tests may ignore it
        )


@pytest.mark.slow
def test_a_process_of_its_own_that_waits_for_its_judge_is_stopped_from_outside(tmp_path, model, whole):
    waiting = tmp_path / "waiting"
    process = start(tmp_path, "fit", "-c", write_config(tmp_path, model), WAIT=str(waiting))
    while not waiting.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=600) == 130
    assert lit_align(tmp_path, *commands(tmp_path)[0]) == 0
    assert_same(whole, tmp_path)


@pytest.mark.slow
def test_answers_that_are_under_way_are_not_waited_for(tmp_path, model):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        arguments = {"model": "m", "base_url": url, "api_key_env": None, "timeout": 600}
        config = write_config(tmp_path, model, judge={"class_path": "LLMJudge", "init_args": arguments})
        process = start(tmp_path, "fit", "-c", config)
        connection, _ = server.accept()  # and never an answer
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=600) == 143
        connection.close()
    assert commands(tmp_path)[0][3] == "--trainer.run"
