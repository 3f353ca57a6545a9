"""`baremetal train --stages`: what is refused in one line, before any process or folder is made."""

import multiprocessing.context

import pytest

from baremetal.cli import main

TEXT = "".join(f"{n} green bottles hanging on the wall, and then {n - 1}.\n" for n in range(60))
SIZES = [
    "--stages", "2", "--microbatches", "4", "--batch", "4", "--layers", "4", "--width", "16",
    "--heads", "2", "--context", "16", "--steps", "4", "--eval-batches", "1", "--sample-tokens",
    "0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    def start(process):
        raise AssertionError("a process was started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", start, raising=False)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def refusal(capsys, here, *options):
    """The one line that these options are refused with."""
    assert main(["train", "--data", "text.txt", *SIZES, *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *_, line = captured.err.strip().splitlines()
    assert line.startswith("baremetal: ")
    assert "Traceback" not in captured.err
    assert not (here / "runs").exists()
    return line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--stages 5", "5 stages of a model of 4 blocks: every stage holds at least one"),
        (
            "--schedule zb-v --stages 4 --batch 8 --microbatches 8",
            "8 stages of a model of 4 blocks: zb-v has 2 stages on each of the 4 ranks, and every "
            "stage holds at least one block; give 8 layers or more, or at most 2 ranks (--stages)",
        ),
        ("--microbatches 3", "--batch 4 --microbatches 3: microbatches are of equal size; try"),
        ("--link 801g", "unknown link '801g'"),
        ("--chip gb301", "unknown chip 'gb301'"),
        ("--schedule zb-h9", "zb-h9"),
        ("--straggler 2:1.5", "--straggler '2:1.5': expected a rank of 0 to 1"),
        ("--degrade 0", "0 of its bandwidth; expected above 0 and at most 1"),
        ("--jitter 3parsecs", "parsecs"),
        ("--slots -1", "--slots -1: expected 0 or more"),
        ("--fault explode", "--fault 'explode': unknown 'explode'"),
        ("--fault kill_rank_1", "--fault 'kill_rank_1': unknown"),
        ("--stages 0 --fault kill", "--fault kill without --stages"),
        ("--stages 0 --schedule zb-v", "--schedule zb-v without --stages: a schedule is for the"),
    ],
)
def test_options_that_do_not_go_together(capsys, here, options, said):
    assert said in refusal(capsys, here, *options.split())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("kill rank 2 step 1", "there are ranks 0 to 1"),
        ("kill rank 1 step 5", "the run has 4 steps"),
        ("drop 0B0 step 1", "no action 0B0 that sends a message to another rank"),
    ],
)
def test_faults_that_cannot_be(capsys, here, fault, said):
    assert said in refusal(capsys, here, "--fault", fault)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        pytest.param(
            "0F0 0B0\n1F0 1B0\n", (), "is for 2 stages and 1 microbatches, but", id="microbatches"
        ),
        pytest.param("0F0 0F1 0F2 0F3 0B0 0B1 0B2 0B3\n", (), "is for 1 stages", id="stages"),
        pytest.param(
            "0F0 0B0 0F1 0B1 0F2 0B2 0F3 0B3\n1F1 1B1 1F0 1B0 1F2 1B2 1F3 1B3\n",
            (),
            "deadlocked: rank 0 waits in 0B0 for the gradient of 1B0 from rank 1, which waits in "
            "1F1 for the activations of 0F1 from rank 0",
            id="a circle",
        ),
        pytest.param(
            "0F0 0F1 0F2 0F3 0B0 0B1 0B2 0B3\n1F3 1B3 1F0 1B0 1F1 1B1 1F2 1B2\n",
            ("--slots", "2"),
            "for a free slot (2 in all, until 1F0 takes a message) towards rank 1",
            id="too few slots",
        ),
    ],
)
def test_schedules_from_files(capsys, here, text, options, said):
    (here / "mine.txt").write_text(text, encoding="utf-8")
    assert said in refusal(capsys, here, "--schedule", "mine.txt", *options)
