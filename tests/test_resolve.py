"""Where a setting's value comes from, and what a person is told when it is wrong."""

from __future__ import annotations

from importlib import resources

import pytest
import yaml

from hf_condense.errors import ConfigError
from hf_condense.methods import create_method, list_methods
from hf_condense.run.resolve import SOURCES, load_preset, nearest_preset, preset_names, resolve


def no_facts(data):
    raise AssertionError("a known dataset needs no look at the data")


def test_flags_go_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("iterations: 7\nlr: 1e-3\nclasses: [a, b]\n")
    config = resolve({"method": "edc", "dataset": "digits", "config": str(file), "lr": "0.5"}, no_facts)
    assert (config.method.iterations, config.method.lr, config.data.classes) == (7, 0.5, ("a", "b"))
    assert config.method.shard_size == load_preset("edc", "digits", 10, "paper").values["shard_size"]
    assert config.came_from["iterations"] == "file" and config.came_from["lr"] == "flag"
    assert config.came_from["shard_size"] == "preset ours" and config.came_from["hold_out"] == "default"


def test_the_saved_configuration_gives_the_same_configuration(tmp_path):
    config = resolve(
        {"method": "edc", "dataset": "cifar10", "ipc": 1, "variant": "official", "overwrite": True}, no_facts
    )
    config.save(tmp_path / "config.yaml")
    again = resolve({"config": str(tmp_path / "config.yaml")}, no_facts)
    assert not again.run.overwrite, "what is said for one start does not hold for the next"
    assert again.change("run", overwrite=True).sections() == config.sections()


def test_a_quick_run_is_gone_on_with_from_its_file_and_a_file_is_shortened_by_a_flag(tmp_path):
    own = {"method": "edc", "dataset": "digits", "iterations": 7}
    quick = resolve({**own, "quick": True}, no_facts)
    assert (quick.method.iterations, quick.squeeze.squeeze_epochs) == (7, 2)
    assert quick.squeeze.min_top1_over_chance == 0.0, "two epochs on photographs may teach nothing yet"
    quick.save(tmp_path / "quick.yaml")
    assert resolve({"config": str(tmp_path / "quick.yaml")}, no_facts).sections() == quick.sections()
    resolve({**own, "iterations": 70}, no_facts).save(tmp_path / "whole.yaml")
    again = resolve({"config": str(tmp_path / "whole.yaml"), "quick": True}, no_facts)
    assert (again.method.iterations, again.squeeze.squeeze_epochs) == (20, 2)


@pytest.mark.parametrize("text", ["5: 3", "squeeze: {5: 3}", "on: 1"])
def test_a_key_that_is_no_name_is_said(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="config=.*mine.yaml.*setting: value lines; (5|True)"):
        resolve({"method": "edc", "dataset": "digits", "config": str(tmp_path / "mine.yaml")}, no_facts)


def test_official_variant_takes_the_scripts_values():
    paper, official = (
        resolve({"method": "edc", "dataset": "cifar10", "variant": v}, no_facts) for v in ("paper", "official")
    )
    assert (paper.method.crop_min, official.method.crop_min) == (0.5, 0.08)
    assert (paper.squeeze.squeeze_epochs, official.squeeze.squeeze_epochs) == (10, 1)
    assert official.method.stat_ema_zero_init and not paper.method.stat_ema_zero_init


def test_other_data_gets_the_nearest_preset_without_its_data_settings():
    config = resolve({"method": "edc", "dataset": "my/photos"}, lambda data: (12, 224))
    assert config.preset == "edc/imagenet-10" and config.data.image_size is None
    assert config.evaluation.protocol is None and config.evaluation.students == ("resnet18",)
    published = resolve({"method": "edc", "dataset": "imagenet-10"}, no_facts).evaluation
    assert published.protocol == "edc-imagenet-10" and len(published.students) == 2
    known = resolve({"method": "edc", "dataset": "imagenette"}, lambda data: (10, 224)).evaluation
    assert known.protocol == "edc-imagenet-10", "a dataset of the papers keeps their protocol"
    assert nearest_preset("edc", 1000, 224) == "imagenet-1k" and nearest_preset("edc", 150, 64) == "tiny-imagenet"


@pytest.mark.parametrize("name", preset_names("edc"))
def test_every_preset_value_says_where_it_comes_from_and_resolves(name):
    content = yaml.safe_load((resources.files("hf_condense") / "presets/edc" / f"{name}.yaml").read_text())
    assert all(entry["source"] in SOURCES for entry in content["settings"].values())
    for variant in ("paper", "official"):
        assert resolve({"method": "edc", "dataset": name, "variant": variant}, no_facts).preset == f"edc/{name}"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"method": "edcc"}, "method='edcc'.*Did you mean edc"),
        ({"method": "edc", "iteratons": 5}, "iteratons.*Did you mean iterations"),
        ({"method": "edc", "ipc": 0}, "ipc=0: expected 1 or more"),
        ({"method": "edc", "ipc": "ten"}, "ipc='ten'.*Write --ipc with a int"),
        ({"method": "edc", "variant": "best"}, "variant='best'.*paper, official"),
        ({"method": "edc", "iterations": 2.5}, "iterations=2.5"),
        ({"method": "edc", "config": "nowhere.yaml"}, "config='nowhere.yaml'.*exists"),
        ({"method": "edc", "config": "/"}, "config='/'.*directory"),
        ({"method": "edc", "prior_epochs": [1.5, 2.9]}, "prior_epochs=.1.5, 2.9."),
        ({"method": "edc", "squeeze_momentum": 5.0}, "squeeze_momentum=5.0"),
        ({"method": "edc", "squeeze_weight_decay": -1}, "squeeze_weight_decay=-1"),
        ({"method": "edc", "squeeze_pad": -3}, "squeeze_pad=-3"),
        ({"method": "edc", "squeeze_crop_min": 1.5}, "squeeze_crop_min=1.5"),
        ({"method": "edc", "teachers": "resnet50"}, "teachers=.*names of the pool"),
        ({"method": "edc", "student_epochs": 0}, "student_epochs=0: expected 1 or more"),
        ({"method": "edc", "student_epochs": -4}, "student_epochs=-4"),
        ({"method": "edc", "regimes": "hard,soft"}, "regimes='soft'.*hard, stored, online"),
        ({"method": "edc", "regimes": "hard stored"}, "regimes='hard stored'.*with commas: --regimes hard,stored"),
        ({"method": "edc", "baselines": "full random"}, "baselines='full random'.*commas: --baselines full,random"),
    ],
)
def test_bad_settings_are_named(flags, message):
    with pytest.raises(ConfigError, match=message):
        resolve({"dataset": "digits", **flags}, no_facts)


def test_methods_by_name():
    assert list_methods() == sorted(list_methods()) and {"edc", "random", "sre2l", "teddy"} <= set(list_methods())
    for name in list_methods():
        method = create_method(name)
        assert method.name == name and method.info.summary
        assert sorted(method.plan(3, 5).labels) == [0] * 5 + [1] * 5 + [2] * 5
    assert create_method("edc", iterations=5).settings.iterations == 5
    with pytest.raises(ConfigError, match="Did you mean iterations"):
        create_method("edc", iteration=5)


def test_a_preset_extends_data_pool_and_students_of_another_but_not_its_method():
    from hf_condense.run.resolve import load_preset

    edc, other = load_preset("edc", "digits", 10, "paper"), load_preset("sre2l", "digits", 10, "paper")
    assert other.values["students"] == edc.values["students"] and other.image_size == edc.image_size
    assert "patch" in edc.values and "patch" not in other.values


def test_every_preset_of_every_method_resolves_in_both_variants():
    from hf_condense.run.resolve import preset_names

    for method in list_methods():
        for name in (n for n in preset_names(method) if "-ipc" not in n):
            for variant in ("paper", "official"):
                config = resolve({"method": method, "dataset": name, "variant": variant, "ipc": 10}, no_facts)
                assert config.preset.startswith(f"{method}/{name}")


def test_a_method_without_presets_takes_nothing_of_the_method_of_another():
    config = resolve({"method": "random", "dataset": "digits"}, no_facts)
    assert config.preset == "edc/digits" and config.squeeze.base_model != ("convnet_w32",)
