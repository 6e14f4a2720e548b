"""Streams of random numbers: their seeds are part of every published result."""

import pytest

from metarl.seeding import STREAMS, stream_seed

SEEDS_OF_3 = {
    "weights": 7224678797418390616,
    "environment": 9221857584964276806,
    "acting": 608004686068262013,
    "update": 8529447876139971898,
    "evaluation": 529231208181325651,
    "final_evaluation": 8772352756097207420,
    "command_line": 4899098210964823706,
}


def test_seeds_of_streams_never_change():
    assert {name: stream_seed(3, name) for name in STREAMS} == SEEDS_OF_3
    assert stream_seed(3, "acting", rank=1) == 2039999632438716159


def test_a_stream_without_a_number_is_refused():
    with pytest.raises(KeyError):
        stream_seed(3, "acting noise")
