"""Which graphics cards the runs of a local pool use, and which they are refused."""

import pytest
from fake_sweeps import fake_sweep, notes, pool_of
from hydra_plugins.metarl_launcher import PoolLauncher

from metarl.errors import ConfigError
from metarl.launching import pool
from metarl.launching.cards import Slot, gpu_slots


def test_a_card_without_room_gets_no_run(tmp_path, nvidia_smi, monkeypatch):
    nvidia_smi(1024, 9000)
    monkeypatch.setattr(pool, "MEMORY_INTERVAL", 0.05)
    sweep = fake_sweep(tmp_path, "seconds=0 a=1", "seconds=0 a=2")
    pool_of(sweep, [Slot("0"), Slot("1")], min_free_memory=4).run(sweep.jobs, lambda line: None)
    assert [row["CUDA_VISIBLE_DEVICES"] for row in notes(sweep)] == ["1", "1"]


VISIBLE = {
    "numbers": ("2,1", None, ["2", "1"]),
    "with blanks": (" 2 , 3 ", None, ["2", "3"]),
    "a UUID": ("GPU-2f00aaaa-1111", None, ["GPU-2f00aaaa-1111"]),
    "a short UUID": ("GPU-2f00", None, ["GPU-2f00"]),
    "a part of a card": ("MIG-abc/1/0", None, ["MIG-abc/1/0"]),
    "some of them": ("2,1", [1], ["1"]),
    "not set": (None, None, ["0", "1", "2", "3"]),
    "not set, some of them": (None, [3, "GPU-1f00"], ["3", "GPU-1f00"]),
}


@pytest.mark.parametrize("case", VISIBLE)
def test_runs_use_the_cards_that_this_process_was_given(tmp_path, nvidia_smi, monkeypatch, case):
    given, wanted, expected = VISIBLE[case]
    nvidia_smi(9000, 9000, 9000, 9000)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    slots = gpu_slots(wanted, 1)
    assert [slot.gpu for slot in slots] == expected
    sweep = fake_sweep(tmp_path, "seconds=0")
    pool_of(sweep, slots).run(sweep.jobs, lambda line: None)
    (row,) = notes(sweep)
    assert (row["CUDA_VISIBLE_DEVICES"], row["CUDA_DEVICE_ORDER"]) == (expected[0], "PCI_BUS_ID")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("", {}, "CUDA_VISIBLE_DEVICES= hides all cards; use cluster=local_pool"),
        ("-1", {}, "CUDA_VISIBLE_DEVICES=-1 hides all cards"),
        (
            "2,3",
            {"gpus": [0]},
            "hydra.launcher.gpus: 0 is not in CUDA_VISIBLE_DEVICES=2,3, which this process was given",
        ),
        (None, {"gpus": [7]}, "hydra.launcher.gpus: 7 not found; nvidia-smi lists 0, 1, 2, 3"),
        ("GPU-9", {}, "hydra.launcher.gpus: GPU-9 not found"),
        (None, {"gpus": 0}, "hydra.launcher.gpus=0: all, or a list of numbers or UUIDs"),
        (None, {"min_free_memory": 10}, "=10: no card can have that; the largest of these has 9.8 GiB in all"),
        (None, {"min_free_memory": -1}, "min_free_memory=-1: must be GiB, a number from 0"),
        (None, {"min_free_memory": float("nan")}, "min_free_memory=nan: must be GiB"),
        (None, {"min_free_memory": "10GB"}, "min_free_memory=10GB: must be GiB"),
        ("MIG-abc", {"min_free_memory": 1}, "nvidia-smi does not report the memory of MIG-abc"),
        (None, {"gpus": None, "min_free_memory": 1}, "is memory of graphics cards; use cluster=gpus, or null"),
    ],
)
def test_cards_that_runs_cannot_have_are_refused_at_the_start(nvidia_smi, monkeypatch, given, options, message):
    nvidia_smi(9000, 9000, 9000, "[N/A]")
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    with pytest.raises(ConfigError) as raised:
        PoolLauncher(**{"gpus": "all"} | options).check()
    assert message in str(raised.value)
