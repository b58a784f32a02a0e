"""Plain DDP and FSDP2 on two gloo processes."""

import pytest
from running import STEPS, differing_steps, largest_error, run, torchrun


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def single(folder):
    return run("ddp", folder / "single")[0]


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def two(request, folder):
    return request.param, folder / request.param, torchrun(request.param, folder / request.param, ranks=2)


def test_every_rate_is_the_formulas(two, record_property):
    error = max(largest_error(lines) for lines in two[2])
    record_property("measured", f"largest relative error {error:.1g}")
    assert error < 1e-12


def test_all_ranks_have_the_rates_of_a_single_process(single, two, record_property):
    for lines in two[2]:
        assert [line["rates"] for line in lines] == [line["rates"] for line in single]
    record_property("measured", f"equal to one process in {len(two[2][1])} steps")


def test_two_ranks_together_have_the_loss_of_a_single_process(single, two):
    for one, a, b in zip(single, *two[2], strict=True):
        assert (a["loss"] + b["loss"]) / 2 == pytest.approx(one["loss"], rel=1e-4)


def test_a_resumed_run_is_the_uninterrupted_one(two, record_property):
    example, folder, whole = two
    resumed = run(example, folder, ranks=2, resume=True)
    differing = sum(differing_steps(resumed[r], whole[r]) for r in range(2))
    record_property("measured", f"{differing} steps differ")
    assert differing == 0


def test_resume_on_another_number_of_ranks(single, two, record_property):
    example, folder, _ = two
    resumed = run(example, folder, resume=True)[0]
    record_property("measured", "0 rates differ on 1 rank after 2")
    for line, one in zip(resumed, single[STEPS // 2 :], strict=True):
        assert (line["step"], line["rates"]) == (one["step"], one["rates"])
        assert line["loss"] == pytest.approx(one["loss"], rel=1e-4)
