import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import ConfigError, StepError
from ckptlab.record.schedule import parse_schedule
from ckptlab.train.config import load_config

steps = st.tuples(st.sampled_from(["", "it", "ep"]), st.integers(0, 40)).map(
    lambda drawn: f"{drawn[1]}{drawn[0]}"
)


@given(start=steps, stop=steps, epoch=st.integers(1, 500), key=st.sampled_from(["record", "eval"]))
def test_a_range_is_refused_only_if_no_epoch_lets_it_hold_a_step(start, stop, epoch, key):
    text = f"{start}:{stop}"
    try:
        parse_schedule(text, epoch)
    except StepError:
        holds = False
    else:
        holds = True
    setting = f"{key}.steps='{text}'"
    if holds:
        load_config(overrides=[setting])
    elif start[-2:] != "ep" and stop[-2:] != "ep":
        with pytest.raises(ConfigError, match="half-open"):
            load_config(overrides=[setting])


@pytest.mark.parametrize("text", ["1ep:20", "1ep:20, log:3", "0.001ep:1ep", "20:1ep", "3ep:9:2"])
@pytest.mark.parametrize("key", ["record.steps", "eval.steps"])
def test_steps_and_epochs_mix(key, text):
    load_config(overrides=[f"{key}={text}"])


def test_so_they_do_in_stages():
    load_config(overrides=["task.stages=[{name='blur', steps='1ep:20'}]"])
    with pytest.raises(ConfigError, match="half-open"):
        load_config(overrides=["task.stages=[{name='blur', steps='20ep:20'}]"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optim.name=adamw", "optim.momentum=0.5"], "optim.momentum=0.5 .*'adamw'.*is for sgd"),
        # Whatever its value, and in whatever order.
        (["optim.momentum=0.9", "optim.name=adamw"], "optim.momentum=0.9 .*'adamw'.*is for sgd"),
        (["optim.betas=[0.9, 0.99]"], "optim.betas=.*'sgd'.*is for adamw"),
        (["optim.schedule=cosine", "optim.milestones=3"], "optim.milestones.*'cosine'.*multistep"),
        (["optim.gamma=0.5"], "optim.gamma=0.5 .*'constant'.*multistep"),
        (["data.name=cifar10", "data.samples=9"], "data.samples=9 .*'cifar10'.*is for synthetic"),
        (["model.name=a:b", "model.optionz=3"], "Did you mean 'model.options'"),
    ],
)
def test_a_setting_of_another_name_is_refused(overrides, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(overrides=overrides)
    assert "\n" not in str(caught.value)


def test_another_name_drops_what_a_preset_or_a_file_set_for_the_one_before(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[optim]\nmomentum = 0.5\nweight_decay = 0.25\n[data]\nname = "synthetic"\n')
    config = load_config(path, ["optim.name=adamw", "data.name=digits"], preset="vgg13-cifar10")
    assert (config.optim.name, config.optim.weight_decay) == ("adamw", 0.25)
    assert config.optim.milestones == ("80ep", "120ep")
    constant = load_config(overrides=["optim.schedule=constant"], preset="vgg13-cifar10")
    assert constant.optim.milestones == ()


@pytest.mark.parametrize(("section", "key"), [("eval", "steps"), ("record", "observe")])
def test_a_file_says_none_as_the_command_line_does(tmp_path, section, key):
    file = tmp_path / "a.toml"
    file.write_text(f'[{section}]\n{key} = "none"\n')
    assert load_config(file) == load_config(overrides=[f"{section}.{key}=none"])
