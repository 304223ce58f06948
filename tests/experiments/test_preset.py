"""Settings given as text, and presets that cannot be mistaken."""

from __future__ import annotations

import pytest

from pysemi.errors import ArgumentError
from pysemi.experiments import all_experiments, get_experiment
from pysemi.experiments.experiment import register


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


def test_every_experiment_has_a_quick_preset_and_says_what_it_does():
    experiments = all_experiments()
    assert {"japanese-vowels", "spoken-digits"} <= set(experiments)
    for name, experiment in experiments.items():
        assert experiment.name == name
        assert "quick" in experiment.presets
        assert all(preset.about for preset in experiment.presets.values())


def test_an_unknown_experiment_or_preset_is_refused_with_the_names_there_are():
    with pytest.raises(ArgumentError, match="japanese-vowels, spoken-digits"):
        get_experiment("mnist")
    with pytest.raises(ArgumentError, match="quick"):
        get_experiment("japanese-vowels").preset("huge")


def test_a_name_is_registered_only_once():
    with pytest.raises(ArgumentError, match="registered already"):
        register(get_experiment("japanese-vowels"))
