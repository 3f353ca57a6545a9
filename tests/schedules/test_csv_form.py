"""PyTorch's CSV: there and back, with and without messages; PyTorch itself as the peer.

PyTorch's own schedule classes want a process group, but only for who they are. A stand-in stage
with the numbers that they ask for lets them make their orders in one process.
"""

import itertools

import pytest

from baremetal.schedules import SCHEDULES, from_csv, make_schedule, to_csv

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@every_schedule
@pytest.mark.parametrize("communication", [False, True])
def test_every_schedule_goes_there_and_back(name, communication):
    schedule = make_schedule(name, 4, 8)
    assert from_csv(to_csv(schedule, communication), name) == schedule


def test_how_it_looks():
    schedule = make_schedule("1f1b", 2, 2)
    assert to_csv(schedule) == "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"
    rows = to_csv(schedule, communication=True).splitlines()
    assert rows[0] == "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1"
    assert rows[1] == "1RECV_F0,1F0,1RECV_F1,1B0,1SEND_B0,1F1,1B1,1SEND_B1"


@every_schedule
def test_messages_are_sent_once_and_received_before_they_are_used(name):
    schedule = make_schedule(name, 4, 8)
    rows = [row.split(",") for row in to_csv(schedule, communication=True).splitlines()]
    sends = [cell for row in rows for cell in row if "SEND" in cell]
    receives = [cell for row in rows for cell in row if "RECV" in cell]
    edges = sum(
        schedule.rank_of[a] != schedule.rank_of[b]
        for path in schedule.paths
        for a, b in itertools.pairwise(path)
    )
    count = 2 * edges * schedule.microbatches // len(schedule.paths)
    assert len(set(sends)) == len(sends) == len(set(receives)) == len(receives) == count
    for row in rows:
        for at, cell in enumerate(row):
            if "RECV_F" in cell:
                user = cell.replace("RECV_F", "F")
                assert any(user in later for later in row[at:])


def test_waiting_and_parameters_of_others_are_skipped():
    text = "0UNSHARD,0F0,,0SEND_F0, ,0RECV_B0,0B0,0REDUCE_GRAD,0RESHARD\r\n,1F0,1B0,\r\n,,\r\n"
    assert from_csv(text).ranks == make_schedule("1f1b", 2, 1).ranks


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0F0,0B0\n1F0,1Z0", "row 2, cell 2: '1Z0': expected stage"),
        ("0F0 0B0", "row 1, cell 1: '0F0 0B0'"),
        ('"0F0', "not CSV"),
        ("", "no actions"),
        ("0F0,0B0\n\n2F0,2B0", "there is a stage 2 but no stage 1"),
    ],
)
def test_what_is_no_schedule_is_refused_with_its_place(text, words, refused):
    with refused("csv", words):
        from_csv(text)


def test_messages_of_a_deadlock_are_refused(refused):
    schedule = from_csv("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1")
    with refused("deadlocks", "rank 0 at 0B0", "rank 1 at 1F1"):
        to_csv(schedule, communication=True)


# ---------------------------------------------------------------- the peer, where installed


class Stage:
    """What PyTorch's schedule classes ask a stage when they are made."""

    has_backward, is_first, is_last, submod = True, False, False, None

    def __init__(self, index, rank, ranks, stages):
        self.stage_index, self.group_rank, self.group_size = index, rank, ranks
        self.num_stages = stages


def made_by_torch(name, ranks, microbatches, chunks=2):
    """The compute order that a schedule class of PyTorch makes, as its CSV."""
    schedules = peer()
    stages = [Stage(i * ranks, 0, ranks, chunks * ranks) for i in range(chunks)]
    return getattr(schedules, name)(stages, microbatches, loss_fn=None)


def peer():
    pytest.importorskip("torch.distributed.pipelining")
    from torch.distributed.pipelining import schedules

    return schedules


@pytest.mark.parametrize(
    ("theirs", "own", "chunks"),
    [
        ("ScheduleInterleaved1F1B", "interleaved", 2),
        ("ScheduleInterleaved1F1B", "interleaved", 3),
        ("ScheduleLoopedBFS", "looped-bfs", 2),
        ("ScheduleZBVZeroBubble", "zb-v", 2),
        ("ScheduleDualPipeV", "dualpipev", 2),
        ("ScheduleInterleavedZeroBubble", None, 2),
    ],
)
def test_what_pytorch_makes_is_read(theirs, own, chunks, tmp_path):
    schedule = made_by_torch(theirs, 4, 8, chunks)
    for form in ("compute_only", "compute_comms"):
        path = tmp_path / f"{form}.csv"
        schedule._dump_csv(path, form)
        read = from_csv(path.read_text(encoding="utf-8"), own or "theirs")
        assert (len(read.ranks), read.stages, read.microbatches) == (4, 4 * chunks, 8)
        assert read.rank_of == tuple(
            schedule.stage_index_to_group_rank[s] for s in range(read.stages)
        )
        if own not in (None, "looped-bfs", "zb-v", "dualpipev"):
            assert read == make_schedule(own, 4, 8, chunks)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "dualpipe"])
def test_pytorch_reads_and_validates_what_we_write(name, tmp_path):
    """Both formats; its own lowering adds just the messages that we write ourselves."""
    schedules = peer()
    schedule = make_schedule(name, 4, 8)
    stages = [Stage(0, 0, 4, schedule.stages)]
    runtime = schedules._PipelineScheduleRuntime(stages, 8, loss_fn=None)
    path = tmp_path / "schedule.csv"
    path.write_text(to_csv(schedule), encoding="utf-8")
    runtime._load_csv(path, "compute_only")
    ranks = runtime.pipeline_order
    assert [[str(a) for a in ranks[r]] for r in range(4)] == [
        [str(step) for step in steps] for steps in schedule.ranks
    ]
    lowered = {str(a) for row in runtime.pipeline_order_with_comms.values() for a in row}
    path.write_text(to_csv(schedule, communication=True), encoding="utf-8")
    runtime._load_csv(path, "compute_comms")
    ours = {str(a) for row in runtime.pipeline_order_with_comms.values() for a in row}
    assert ours == {cell for cell in lowered if "SHARD" not in cell and "REDUCE" not in cell}
