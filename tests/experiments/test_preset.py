"""Settings given as text, and presets that cannot be mistaken."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from pysemi.errors import ArgumentError
from pysemi.experiments import all_experiments, get_experiment
from pysemi.experiments.experiment import register

PAPERS = ("speech-commands", "acrobot", "cnf-mnist", "cnf-cifar10")


def preset():
    return get_experiment("japanese-vowels").preset("quick")


def test_settings_are_parsed_by_their_type():
    changed = preset().override(
        {
            "epochs": "3",
            "rtol": "1e-5",
            "activation": "silu",
            "train_limit": "90",
            "test_limit": "None",
        }
    )
    assert (changed.epochs, changed.rtol, changed.activation) == (3, 1e-5, "silu")
    assert (changed.train_limit, changed.test_limit) == (90, None)
    assert changed.batch_size == preset().batch_size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": "3"}, "'epoch' is no setting; there are epochs"),
        ({"epochs": "many"}, "epochs=many is no int"),
        ({"epochs": "0"}, "epochs=0; give at least 1"),
        ({"rtol": "-1"}, "rtol=-1 is negative"),
        ({"rtol": "nan"}, "rtol=nan is negative or no number"),
        ({"about": "me"}, "'about' is no setting"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ArgumentError, match=message):
        preset().override(changes)


def test_what_is_set_holds_for_every_variant():
    varied = dataclasses.replace(
        preset(), variants={"a": {"rtol": 1e-3, "width": 8}, "b": {"rtol": 1e-4}}
    )
    assert varied.variant("a").rtol == 1e-3
    assert varied.variant("a").width == 8
    assert varied.variant("").rtol == varied.rtol
    changed = varied.override({"rtol": "1e-6"})
    # b would be the preset itself, and what a is called must not mislead.
    assert dict(changed.variants) == {"a, rtol=1e-6": {"width": 8}}
    assert changed.variant("a, rtol=1e-6").rtol == 1e-6
    assert dict(varied.override({"epochs": "2"}).variants) == dict(varied.variants)


def test_a_variant_that_is_not_there_is_refused_with_those_that_are():
    varied = dataclasses.replace(preset(), variants={"a": {"rtol": 1e-3}})
    with pytest.raises(ArgumentError, match="'c' is no variant of this preset; there are a"):
        varied.variant("c")


def test_every_experiment_says_what_it_does_and_goes_to_another_process():
    for name, experiment in all_experiments().items():
        assert experiment.name == name
        assert experiment.title
        assert set(experiment.arms) <= set(experiment.known_arms)
        pickle.loads(pickle.dumps(experiment))
        for one in experiment.presets.values():
            assert one.about
            assert one.seeds >= 1
            each = [one.variant(variant).settings() for variant in one.variants]
            assert all(each.count(settings) == 1 for settings in each)


def test_the_papers_setting_is_a_preset_of_every_experiment_of_the_paper():
    experiments = all_experiments()
    for name in PAPERS:
        assert "paper" in experiments[name].presets
    for name in set(experiments) - {"speech-commands", "cnf-cifar10"}:  # these need gigabytes
        assert "quick" in experiments[name].presets


def test_an_unknown_experiment_or_preset_is_refused_with_the_names_there_are():
    with pytest.raises(ArgumentError, match="japanese-vowels"):
        get_experiment("mnist")
    with pytest.raises(ArgumentError, match="quick"):
        get_experiment("japanese-vowels").preset("huge")


def test_a_name_is_registered_only_once():
    with pytest.raises(ArgumentError, match="registered already"):
        register(get_experiment("japanese-vowels"))


def test_a_count_may_be_zero_where_zero_is_usual():
    quick = get_experiment("cnf-mnist").preset("quick")
    assert quick.squeezes_first == 1
    assert quick.override({"squeezes_first": "0"}).squeezes_first == 0
