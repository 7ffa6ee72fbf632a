import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import ConfigError, DataError
from ckptlab.record.convert.step_numbers import step_in_name, step_inside
from ckptlab.record.convert.tensors import Content

NAMES = {
    "500": 500,
    "step_000500": 500,
    "resnet20-500": 500,
    "Epoch3_step=40_acc0.91": 40,
    "checkpoint-epoch12-loss0.5": 12,
    "iter30-loss7": 30,
    "model.ep4.best2": 4,
    "deep2_500": 500,
    "global_step7_rep3": 7,
    "step_1_000_000": 1_000_000,
    "iter5k": 5000,
    "step1.5M": 1_500_000,
    "multiberts-seed_0-step_20k": 20_000,
    "val_step10_train_step200": 200,
    "resnet18_seed1_100": 100,
    "stage1-step150-tokens1B": 150,
    "stage2-ingredient1-step1000-tokens5B": 1000,
    "step-001000-2BT": 1000,
    "epoch=0-step=100": 100,
    "epoch=1-step=200-v1": 200,
    "model_ep0_it500": 500,
    "ep0-ba100-rank0": 100,
    "checkpoint-10000-epoch-23": 10_000,
    "checkpoint_1_5000": 5000,
    "model_0004999": 4999,
    "step=100-val_loss=0.91": 100,
    "state_step006200": 6200,
    "update100": 100,
    "ckpt_e10_s500": 500,
    "2026-01-02_step5": 5,
    "iter_0000500": 500,
    **dict.fromkeys(["model_0.91", "resnet18_seed42", "run_2024-05-01T12:00:00", "best"]),
    **dict.fromkeys(["model-v2", "last", "20240501_123000", "net_acc95", "llama-7B", "mask"]),
}


@pytest.mark.parametrize(("name", "step"), NAMES.items())
def test_the_step_is_read_from_the_name(name, step):
    found = step_in_name(name)
    assert (found.step if found else None) == step


@given(
    step=st.integers(0, 10**9),
    prefix=st.sampled_from(["", "seed7-", "vit-b16_", "2024-05-01_", "ep3-", "acc0.91_"]),
    word=st.sampled_from(["step", "step_", "step-", "global_step", "iter_", "it", "ba", "update"]),
    suffix=st.sampled_from(["", "-loss0.25", "_seed3", "-3BT", "-rank0", "-v1"]),
)
def test_a_number_behind_a_word_is_the_step_whatever_stands_around(prefix, word, suffix, step):
    found = step_in_name(f"{prefix}{word}{step}{suffix}")
    assert found is not None
    assert found.step == step


def test_what_could_be_several_steps_or_none_is_refused():
    with pytest.raises(DataError, match=r"names several steps \(step1, step2.*--step-from"):
        step_in_name("step1_step2")
    with pytest.raises(DataError, match="at most 15 digits"):
        step_in_name("a9999999999999999999")


def test_an_expression_of_the_user_tells_the_step():
    assert step_in_name("a3_b70", r"b(\d+)").step == 70
    both = step_in_name("model_ep2_it30", r"ep(\d+)_it(\d+)")
    assert (both.epoch, both.step) == (2, 30)
    assert step_in_name("other", r"b(\d+)") is None
    for expression, said in [
        ("(", "no regular expression"),
        ("a", "0 groups"),
        ("(a)", "no number"),
    ]:
        with pytest.raises(ConfigError, match=said):
            step_in_name("a3", expression)


@pytest.mark.parametrize(
    ("tree", "step"),
    [
        ({"global_step": 5, "epoch": 1}, 5),
        ({"iteration": 7, "model": {}}, 7),
        ({"state": {"timestamp": {"Timestamp": {"batch": {"value": 9}}}}}, 9),
        ({"train_state": {"step": 4}}, 4),
        ({"step": True}, None),
        ({"step": -1}, None),
        ({"step": "5"}, None),
        ({"epoch": 3}, None),
    ],
)
def test_a_checkpoint_tells_its_step(tree, step):
    assert step_inside(Content(tree=tree)) == step


def test_a_tensor_of_the_model_called_step_is_not_its_step():
    tree = {"step": 5, "weight": 1}
    assert step_inside(Content(tree=tree), tree) is None
    assert step_inside(Content(tree=tree, step=8), tree) == 8
