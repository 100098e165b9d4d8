"""The daemon under random operations, faults and deaths, held against a model (see support/simulator.py)."""

import os
from itertools import chain

import pytest

from tests.support.sandbox import SLOWNESS, Sandbox
from tests.support.script import Script
from tests.support.simulator import Simulator

SEEDS = [int(os.environ["DROPSIGN_TEST_SEED"])] if "DROPSIGN_TEST_SEED" in os.environ else [1, 2, 3]
"""Between them: with and without a key, notes beside failed files or none, events or polling."""

EPISODES = 2


@pytest.mark.slow
@pytest.mark.timeout(240 * max(1.0, SLOWNESS))
@pytest.mark.parametrize("seed", SEEDS)
def test_the_model_holds_whenever_it_rests(idle_box: Sandbox, seed: int) -> None:
    """After each episode every drop has its one signature, journal and disk agree, and nothing is left over."""
    simulator = Simulator(idle_box, seed)
    try:
        simulator.run(episodes=EPISODES)
    finally:
        simulator.close()
        print(dict(simulator.counts))


def test_the_same_seed_gives_the_same_operations() -> None:
    """What a failure's seed names can be done again; another seed names something else."""
    scripts = [Script(seed) for seed in (5, 5, 6)]
    first, second, other = (list(chain(script.operations(500), script.calm())) for script in scripts)
    assert first == second != other
