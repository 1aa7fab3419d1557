from collections import Counter
from itertools import pairwise

import pytest

from spanwright import ConfigError, Example, Span
from spanwright.data.batches import plan_batches
from spanwright.data.labels import LabelSampler, inventories
from spanwright.data.mixture import Mixture
from spanwright.train_config import LabelOptions, MixtureOptions, TrainConfig, from_mapping

SOURCES = ["big"] * 90 + ["mid"] * 9 + ["own"]


def counts(mixture, epoch):
    return Counter(SOURCES[row] for row in mixture.rows(seed=1, epoch=epoch))


def test_shares_and_powers_decide_how_many_rows_come():
    # 100 rows; half of them "own"; the others in proportion to the roots of 90 and 9: 9.487 : 3 = 38 : 12
    mixture = Mixture(SOURCES, MixtureOptions(power=0.5, shares={"own": 0.5}))
    assert counts(mixture, 0) == {"own": 50, "big": 38, "mid": 12}
    assert counts(Mixture(SOURCES, MixtureOptions(power=0)), 3) == {"big": 33, "mid": 33, "own": 33}
    assert counts(Mixture(SOURCES, MixtureOptions(shares={"big": 0})), 0) == {"mid": 90, "own": 10}


def test_no_row_comes_again_before_all_of_its_source_have_come():
    mixture = Mixture(SOURCES, MixtureOptions(shares={"big": 0.4, "mid": 0.5}))
    for turn in range(5):  # epoch by epoch the same stream, however it is cut
        seen = Counter(row for epoch in range(turn + 1) for row in mixture.rows(seed=1, epoch=epoch))
        for low, high in ((0, 90), (90, 99)):
            each = [seen[row] for row in range(low, high)]
            assert max(each) - min(each) <= 1
    epochs = [tuple(mixture.rows(seed=1, epoch=epoch)) for epoch in range(4)]
    assert all(one != other for one, other in pairwise(epochs))
    assert tuple(mixture.rows(seed=1, epoch=2)) == epochs[2]
    assert tuple(mixture.rows(seed=2, epoch=2)) != epochs[2]


def test_a_plan_holds_the_rows_of_its_mixture():
    mixture = Mixture(SOURCES, MixtureOptions(shares={"own": 0.5}))
    plan = plan_batches([10] * 100, batch_size=8, max_tokens=100, seed=1, epoch=2, mixture=mixture)
    assert sorted(row for batch in plan for row in batch) == sorted(mixture.rows(seed=1, epoch=2))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"power": 1.5}, "`power` must lie in"),
        ({"shares": {"own": 1.5}}, "`shares.own` must be a share"),
        ({"shares": {"own": "half"}}, "`shares.own` must be a share"),
        ({"shares": {"own": 0.6, "mid": 0.6}}, "`shares` must sum to 1 at most"),
    ],
)
def test_shares_are_checked(values, told):
    with pytest.raises(ConfigError, match=told):
        from_mapping(TrainConfig, {"mixture": values})


def test_shares_must_fit_the_data():
    with pytest.raises(ConfigError, match=r"names 'owm'.*Did you mean `own`"):
        Mixture(SOURCES, MixtureOptions(shares={"owm": 0.1}))
    with pytest.raises(ConfigError, match="leave an epoch some rows"):
        Mixture(["own"], MixtureOptions(shares={"own": 0.0}))


# -- labels by source

ROWS = [
    Example.from_words(["Ada"], [Span(0, 1, "person")], source="a"),
    Example.from_words(["Rome"], [Span(0, 1, "city")], source="a"),
    Example.from_words(["aspirin"], [Span(0, 1, "drug")], source="b", negatives=("dose",)),
    Example.from_words(["zinc"], [Span(0, 1, "metal")], source="b"),
]


def asked(row, **options):
    sampler = LabelSampler(inventories(ROWS), LabelOptions(**options), seed=0)
    return [set(sampler.labels_for(row, epoch=epoch, index=0)) for epoch in range(40)]


def test_negatives_come_from_the_rows_own_source():
    assert inventories(ROWS) == {"a": ["city", "person"], "b": ["dose", "drug", "metal"]}
    assert asked(ROWS[0]) == [{"person", "city"}] * 40
    assert asked(ROWS[3]) == [{"metal", "drug", "dose"}] * 40
    elsewhere = Example.from_words(["x"], source="unknown")
    assert asked(elsewhere)[0] == {"person", "city", "dose", "drug", "metal"}


def test_rows_of_an_open_vocabulary_are_asked_only_what_they_state():
    assert asked(ROWS[2], stated_only=("b",)) == [{"drug", "dose"}] * 40
    assert asked(ROWS[3], stated_only=("b",)) == [{"metal", "drug", "dose"}] * 40  # it states none


def test_a_varied_number_of_negatives():
    many = [Example.from_words(["x"], [Span(0, 1, f"label {n}")]) for n in range(30)]
    sampler = LabelSampler(inventories(many), LabelOptions(max_labels=10, varied=True), seed=0)
    numbers = Counter(len(sampler.labels_for(many[0], epoch=epoch, index=0)) for epoch in range(400))
    assert set(numbers) == set(range(2, 11))  # its own, and 1 to 9 others
    with pytest.raises(ConfigError, match="at least 1 where it is `varied`"):
        LabelOptions(varied=True, num_negatives=0)


def test_negatives_are_drawn_evenly():
    inventory = [f"label {n}" for n in range(12)]
    row = Example.from_words(["x"], [Span(0, 1, "label 0")], negatives=("label 1",))
    sampler = LabelSampler(inventory, LabelOptions(max_labels=5), seed=0)
    drawn = Counter(label for epoch in range(2000) for label in sampler.labels_for(row, epoch=epoch, index=0))
    assert drawn["label 0"] == drawn["label 1"] == 2000
    others = [drawn[label] for label in inventory[2:]]  # 3 of 10 each time: 600, deviation 20
    assert sum(others) == 6000
    assert min(others) > 500
    assert max(others) < 700
