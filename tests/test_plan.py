"""The plan of a training run: what fits into time and disk, never against what the user said."""

import math
import re
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

if find_spec("tensorflow") is None:
    pytest.skip("needs edgetl[train]", allow_module_level=True)

from edgetl.cache import ActivationCache
from edgetl.config import (
    Arithmetic,
    Augment,
    Block,
    FeaturePrecision,
    Head,
    Optimizer,
    TrainConfig,
    Unfreeze,
)
from edgetl.errors import StorageError, UsageError
from edgetl.keras import rates as rates_module
from edgetl.keras.plan import (
    DEFAULT_SIDE,
    LEAST_TUNED_SIDE,
    SMALLER_SIDES,
    Plan,
    Situation,
    Work,
    check_room,
    estimate_work,
    make_plan,
    needed_bytes,
)
from edgetl.keras.rates import Rates, has_fast_int8, measure_rates, resolved_arithmetic
from edgetl.keras.schedule import finetune_schedule, hidden_schedule, refuse_contradictions
from edgetl.listing import Entry, Listing
from edgetl.records import from_json, to_json
from edgetl.transfer.cuts import Candidate
from edgetl.vgg16 import block_below, map_shape

RATES = Rates(images_read=300.0, forward=4e10)  # two cores of 2021
CANDIDATES = [
    Candidate(cut, head, scales)
    for cut in Block
    for head in (Head.GAP, Head.MAX, Head.GRID)
    for scales in ((cut,), (block_below(cut), cut))
    if None not in scales
]


@pytest.fixture(autouse=True)
def plain_cpu(monkeypatch):
    """Plans depend on the CPU; here it has neither int8 nor bfloat16 instructions."""
    monkeypatch.setattr(rates_module, "instruction_set", lambda: "x86-64 AVX2")
    monkeypatch.setattr(rates_module, "has_bfloat16", lambda: False)


def work_of(images):
    """Divided as the default shares do."""
    certification, tuning = round(0.25 * images), round(0.12 * images)
    train = images - certification - tuning
    return Work(images, train - min(256, round(0.08 * train)), tuning, certification)


def plan_for(images, rates=RATES, deepest=Block.BLOCK5, **settings):
    return make_plan(TrainConfig(**settings), Situation(work_of(images), rates, deepest))


def least_minutes(images, rates=RATES, **settings):
    """What the refusal of too little time names."""
    with pytest.raises(UsageError, match="the least is about") as caught:
        plan_for(images, rates, minutes=0.01, **settings)
    (least,) = re.findall(r"--minutes (\S+) or more", caught.value.fix)
    assert f"about {least}" in str(caught.value)
    return float(least)


def size_of(plan):
    """What comes first is given up last."""
    return plan.tunes, plan.views, plan.image_size, plan.epochs


@pytest.mark.parametrize(
    ("images", "views", "depth", "unfreeze", "epochs", "optimizer", "batch"),
    [
        (100, 4, 1, None, 8, Optimizer.SGD, 32),
        (1_000, 4, 1, None, 8, Optimizer.SGD, 32),
        (10_000, 4, 2, None, 8, Optimizer.SGD, 32),
        (100_000, 1, 2, Unfreeze.ALL, 4, Optimizer.ADAM, 64),
    ],
)
def test_the_default_plan(images, views, depth, unfreeze, epochs, optimizer, batch):
    plan = plan_for(images)
    assert (plan.image_size, plan.deepest, plan.augment) == (DEFAULT_SIDE, Block.BLOCK5, Augment.LIGHT)
    assert (plan.views, plan.depth, plan.unfreeze) == (views, depth, unfreeze)
    assert (plan.epochs, plan.most_epochs) == (epochs, epochs)
    assert (plan.optimizer, plan.batch) == (optimizer, batch)
    assert (plan.features, plan.arithmetic) == (FeaturePrecision.FP32, Arithmetic.FLOAT32)
    assert plan.tunes
    assert plan.minutes is None


def test_a_cpu_that_is_made_for_small_numbers_uses_them(monkeypatch):
    monkeypatch.setattr(rates_module, "instruction_set", lambda: "x86-64 AVX512-VNNI")
    monkeypatch.setattr(rates_module, "has_bfloat16", lambda: True)
    small, large = plan_for(100, image_size=32), plan_for(10_000)
    assert (small.features, large.features) == (FeaturePrecision.FP32, FeaturePrecision.INT8)
    assert large.arithmetic is Arithmetic.BFLOAT16
    plain = {"features": FeaturePrecision.FP32, "arithmetic": Arithmetic.FLOAT32}
    assert plan_for(10_000, **plain).seconds > large.seconds


budgets = st.floats(0.05, 600)
amounts = st.integers(60, 300_000)
speeds = st.builds(Rates, st.floats(5, 5000), st.floats(1e9, 1e12))


@given(images=amounts, rates=speeds, one=budgets, other=budgets)
def test_more_minutes_never_give_a_smaller_plan(images, rates, one, other):
    less, more = sorted((one, other))
    try:
        small = plan_for(images, rates, minutes=less)
    except UsageError:
        return
    assert size_of(plan_for(images, rates, minutes=more)) >= size_of(small)


@given(images=amounts, rates=speeds, minutes=budgets)
def test_a_plan_fits_its_time_or_names_the_least_that_does(images, rates, minutes):
    least = least_minutes(images, rates)
    assert plan_for(images, rates, minutes=least).seconds <= 1.05 * 60 * least
    if minutes >= least:
        assert plan_for(images, rates, minutes=minutes).seconds <= 1.05 * 60 * minutes
    elif minutes < 0.9 * least - 0.1:
        with pytest.raises(UsageError, match=f"minutes are too few for {images} images"):
            plan_for(images, rates, minutes=minutes)


def test_what_is_given_up_first():
    """Epochs, then pixels, then fine-tuning with the pixels back, then pixels again, views last."""
    least = least_minutes(20_000)
    found = [plan_for(20_000, minutes=least * 1.02**power) for power in range(300, -1, -1)]
    tuned = {side for side in SMALLER_SIDES if side >= LEAST_TUNED_SIDE}
    assert {plan.image_size for plan in found if plan.tunes} == tuned
    alone = [plan for plan in found if not plan.tunes]
    assert alone[0].image_size > min(tuned)
    assert [plan.tunes for plan in found] == sorted((plan.tunes for plan in found), reverse=True)
    assert [plan.views for plan in found] == sorted((plan.views for plan in found), reverse=True)
    assert {plan.views for plan in found if plan.tunes} == {4}
    assert found[-1].views == 1
    for before, after in pairwise(found):
        assert size_of(before) >= size_of(after)


def test_of_many_images_no_few_epochs_on_large_pictures():
    """Fewer than the default's only on the smallest."""
    least = least_minutes(60_000)
    for power in range(200):
        plan = plan_for(60_000, minutes=least * 1.03**power)
        assert not plan.tunes or plan.epochs >= (4 if plan.image_size == min(SMALLER_SIDES) else 8)


def test_at_the_users_image_size_the_least_is_that_of_this_size():
    least = least_minutes(50_000, image_size=224)
    assert plan_for(50_000, minutes=least, image_size=224).image_size == 224
    assert least_minutes(50_000) < least
    with pytest.raises(UsageError, match="at this --image-size"):
        plan_for(50_000, minutes=1, image_size=224)
    with pytest.raises(UsageError, match=r"least is about [\d.]+\. "):
        plan_for(50_000, minutes=1)


CHOICES = {
    "image_size": [48, 96, 224],
    "views": [1, 3, 9],
    "augment": [Augment.LIGHT, Augment.STRONG],
    "features": [FeaturePrecision.FP32, FeaturePrecision.INT8],
    "arithmetic": [Arithmetic.FLOAT32, Arithmetic.BFLOAT16],
    "unfreeze": [Unfreeze.NONE, Unfreeze.BLOCK4, Unfreeze.ALL],
    "epochs_finetune": [1, 5, 400],
    "batch": [8, 100],
    "optimizer": list(Optimizer),
}


@pytest.mark.parametrize("images", [100, 1_000, 10_000, 100_000])
@pytest.mark.parametrize("name", CHOICES)
def test_what_the_user_says_is_done(name, images):
    for value in CHOICES[name]:
        plan = plan_for(images, **{name: value})
        found = plan.epochs if name == "epochs_finetune" else getattr(plan, name)
        assert found == value


@pytest.mark.parametrize("name", CHOICES)
def test_what_the_user_says_is_done_or_refused_whatever_the_time(name):
    for images in (100, 1_000, 10_000, 100_000):
        for minutes in (0.2, 1, 5, 20, 60):
            for value in CHOICES[name]:
                try:
                    plan = plan_for(images, minutes=minutes, **{name: value})
                except UsageError:
                    continue
                found = plan.epochs if name == "epochs_finetune" else getattr(plan, name)
                assert found == value, f"{images} images, {minutes} minutes"


def test_without_varied_copies_there_is_one_view():
    assert plan_for(1_000, augment=Augment.OFF).views == 1


def test_no_epochs_mean_no_fine_tuning():
    plan = plan_for(1_000, epochs_finetune=0)
    assert not plan.tunes
    assert plan.most_epochs == 0
    assert plan.expected_seconds["fine-tuning"] == 0
    assert not plan_for(1_000, unfreeze=Unfreeze.NONE).tunes


FIXED = {
    "views": 2, "epochs_finetune": 3, "unfreeze": Unfreeze.BLOCK4, "features": FeaturePrecision.FP32
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("epochs_finetune", (1, 2, 8, 100)),
        ("image_size", (32, 48, 96, 224, 512)),
        ("views", (1, 2, 8, 64)),
        ("unfreeze", (Unfreeze.NONE, Unfreeze.BLOCK4, Unfreeze.BLOCK3, Unfreeze.BLOCK2, Unfreeze.ALL)),
    ],
)
def test_more_of_anything_takes_longer(name, values):
    plans = [plan_for(1_000, **FIXED | {name: value}) for value in values]
    assert all(one.seconds < other.seconds for one, other in pairwise(plans))
    assert all(seconds >= 0 for plan in plans for seconds in plan.expected_seconds.values())


@given(one=amounts, other=amounts, rates=speeds)
def test_more_images_take_longer(one, other, rates):
    few, many = sorted((one, other))
    small, large = plan_for(few, rates, **FIXED), plan_for(many, rates, **FIXED)
    assert 0 < small.ending_seconds < small.seconds <= large.seconds
    for part, seconds in small.expected_seconds.items():
        assert 0 <= seconds <= large.expected_seconds[part]


@given(images=amounts)
def test_a_faster_machine_takes_less_time(images):
    assert plan_for(images, Rates(600.0, 8e10)).seconds < plan_for(images).seconds


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("unfreeze", [None, *Unfreeze])
def test_the_frozen_part_never_reaches_above_what_the_head_sees(unfreeze, depth):
    plan = replace(plan_for(1_000), unfreeze=unfreeze, depth=depth)
    for candidate in CANDIDATES:
        boundary = plan.boundary_for(candidate)
        if unfreeze is Unfreeze.NONE:
            assert boundary is candidate.cut, "nothing is trained"
        else:
            assert boundary is None or boundary <= candidate.scales[0]
            assert boundary != candidate.cut


def test_the_default_unfreezes_the_top_blocks_of_any_cut():
    order = (None, *Block)
    for cut in Block:
        for depth in (1, 2):
            boundary = replace(plan_for(1_000), depth=depth).boundary_for(Candidate(cut, Head.GAP, (cut,)))
            assert boundary == order[max(0, order.index(cut) - depth)]


@pytest.mark.parametrize("unfreeze", [Unfreeze.BLOCK2, Unfreeze.BLOCK3, Unfreeze.BLOCK4, Unfreeze.BLOCK5])
def test_the_users_lowest_block_is_trained(unfreeze):
    plan = plan_for(1_000, unfreeze=unfreeze)
    for candidate in CANDIDATES:
        if candidate.cut.value >= unfreeze.value:
            assert plan.boundary_for(candidate) == block_below(Block(unfreeze.value))


def test_a_schedule_tunes_only_what_the_plan_says():
    candidate = Candidate(Block.BLOCK4, Head.GRID, (Block.BLOCK3, Block.BLOCK4))
    for settings, stages in (
        ({}, [("finetune", Block.BLOCK3)]),
        ({"unfreeze": Unfreeze.ALL}, [("finetune", None)]),
        ({"unfreeze": Unfreeze.NONE}, []),
        ({"epochs_finetune": 0}, []),
    ):
        config = TrainConfig(**settings)
        plan = plan_for(1_000, **settings)
        schedule = finetune_schedule(config, plan, candidate, penalty=0.01, mirrored=False)
        assert [(stage.name, stage.boundary) for stage in schedule.stages] == stages
        assert (schedule.head, schedule.cut, schedule.scales) == (
            Head.GRID,
            Block.BLOCK4,
            (Block.BLOCK3, Block.BLOCK4),
        )
        assert (schedule.weight_decay, schedule.flip) == (0.01, False)
        hidden = hidden_schedule(config, plan, 1_000)
        assert [stage.name for stage in hidden.stages] == ["head", *(name for name, _ in stages)]
        assert hidden.stages[0].boundary is Block.BLOCK5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cut": Block.BLOCK2, "unfreeze": Unfreeze.BLOCK3}, "--unfreeze block3 is above block2"),
        ({"cut": Block.BLOCK1, "scales": 2}, "--scales 2 needs a block below"),
        ({"head": Head.FLATTEN, "scales": 2}, "--scales 2 needs a block below"),
    ],
)
def test_contradictions(settings, message):
    with pytest.raises(UsageError, match=message):
        refuse_contradictions(TrainConfig(**settings))


def test_a_plan_that_has_room_stays_as_it_is(tmp_path):
    plan, work = plan_for(1_000), work_of(1_000)
    cache = ActivationCache(tmp_path / "cache", needed_bytes(plan, work))
    assert check_room(plan, work, cache, shrink=False) is plan
    assert check_room(plan, work, cache, shrink=True) is plan


def test_too_small_a_limit_is_refused_before_any_work_with_what_is_needed(tmp_path):
    plan, work = plan_for(1_000), work_of(1_000)
    needed = needed_bytes(plan, work)
    cache = ActivationCache(tmp_path / "cache", needed - 1)
    with pytest.raises(StorageError, match=rf"needs about {needed / 2**20:.0f} MiB.* can have") as caught:
        check_room(plan, work, cache, shrink=False)
    for option in ("--shrink", "--views", "--image-size", "--cache-limit", "--cache-folder"):
        assert option in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_shrinking_gives_up_views_first_and_then_fine_tuning(tmp_path):
    plan, work = plan_for(1_000), work_of(1_000)
    limit, found = needed_bytes(plan, work), []
    least = needed_bytes(replace(plan, views=1, unfreeze=Unfreeze.NONE, epochs=0), work)
    while limit >= least:
        small = check_room(plan, work, ActivationCache(tmp_path, limit), shrink=True)
        assert needed_bytes(small, work) <= limit
        found.append((small.views, small.tunes))
        limit = int(0.9 * limit)
    assert list(dict.fromkeys(found)) == [(4, True), (2, True), (1, True), (1, False)]
    with pytest.raises(StorageError, match="--cache-limit"):
        check_room(plan, work, ActivationCache(tmp_path, least - 1), shrink=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [Block.BLOCK2, Block.BLOCK3, Block.BLOCK4])
def test_the_room_is_that_of_the_maps_that_will_be_stored(cut):
    work = work_of(1_000)
    plan = plan_for(1_000, deepest=cut)  # as with --cut
    pictures = plan.views * work.train + work.tuning
    least = 2 * math.prod(map_shape(plan.image_size, plan.image_size, block_below(cut)))
    assert needed_bytes(plan, work) > pictures * least


def test_training_everything_needs_no_stored_maps(tmp_path):
    plan, work = plan_for(1_000, unfreeze=Unfreeze.ALL), work_of(1_000)
    assert needed_bytes(plan, work) < needed_bytes(plan_for(1_000), work)
    small = check_room(plan, work, ActivationCache(tmp_path, needed_bytes(plan, work) - 1), shrink=True)
    assert (small.views, small.unfreeze, small.tunes) == (2, Unfreeze.ALL, True)


@pytest.mark.parametrize("minutes", [None, 3, 30])
@pytest.mark.parametrize("images", [100, 1_000, 10_000, 100_000])
def test_a_plan_survives_its_file(images, minutes):
    try:
        plan = plan_for(images, minutes=minutes)
    except UsageError:
        plan = plan_for(images)
    assert from_json(Plan, to_json(plan)) == plan


def test_the_plan_in_words():
    one, two = plan_for(1_000).lines()
    assert one == (
        "plan: 96 x 96 pixels, trunk in fp32, 4 views of each image, about 8 epochs of fine-tuning the top block"
        " in float32"
    )
    assert re.fullmatch(
        r"expected time: (up to )?about [\d.]+ (min|s) \(starting \d+ s, .*fine-tuning.*\)", two
    )
    assert "no fine-tuning" in plan_for(1_000, epochs_finetune=0).lines()[0]
    assert "the top 2 blocks" in plan_for(10_000).lines()[0]
    assert (
        "1 view of each image, about 4 epochs of fine-tuning the whole trunk" in plan_for(100_000).lines()[0]
    )
    assert "all from block3 up" in plan_for(1_000, unfreeze=Unfreeze.BLOCK3).lines()[0]
    assert "of 12.5 min allowed" in plan_for(1_000, minutes=12.5).lines()[1]


def listing_of(tmp_path, **splits):
    entries = [
        Entry(tmp_path / f"{split}{number}.png", number % 2, split.removeprefix("flat"))
        for split, count in splits.items()
        for number in range(count)
    ]
    return Listing(tmp_path, "flat" if "flat" in splits else "split folders", ("a", "b"), tuple(entries))


def test_images_are_counted_before_they_are_read(tmp_path):
    flat = estimate_work(listing_of(tmp_path, flat=1000), TrainConfig())
    assert flat == Work(1000, 630 - 50, 120, 250)
    split = estimate_work(listing_of(tmp_path, train=100, val=20, test=30), TrainConfig())
    assert split == Work(150, 92, 20, 30)
    large = estimate_work(listing_of(tmp_path, flat=100_000), TrainConfig())
    assert large.train == 63_000 - 256
    assert estimate_work(listing_of(tmp_path, flat=3), TrainConfig(certification_share=0.8)).train >= 1


def test_rates_of_this_machine(tmp_path):
    for number in range(5):
        Image.new("RGB", (20, 20), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "5.png").write_bytes(b"no image")
    entries = [Entry(tmp_path / f"{number}.png", 0, "") for number in range(6)]
    measured = measure_rates(entries, 32)
    assert measured.images_read > 0
    assert measured.forward > 1e6


def test_what_narrow_numbers_are_worth(monkeypatch):
    assert RATES.features(FeaturePrecision.FP32) == RATES.features(FeaturePrecision.INT8) == RATES.forward
    assert RATES.training(Arithmetic.BFLOAT16) > RATES.training(Arithmetic.FLOAT32)
    assert not has_fast_int8()
    assert resolved_arithmetic(Arithmetic.AUTO) is Arithmetic.FLOAT32
    assert resolved_arithmetic(Arithmetic.BFLOAT16) is Arithmetic.BFLOAT16
    monkeypatch.setattr(rates_module, "instruction_set", lambda: "x86-64 AVX-VNNI")
    monkeypatch.setattr(rates_module, "has_bfloat16", lambda: True)
    assert has_fast_int8()
    assert RATES.features(FeaturePrecision.INT8) > RATES.forward
    assert resolved_arithmetic(Arithmetic.AUTO) is Arithmetic.BFLOAT16
