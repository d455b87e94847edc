"""One set of defaults: what a class or a function does by itself is what the command does unless told otherwise."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

import linear_eval
import simclr.losses
import simclr.mining
from linear_eval.config import EvalConfig
from simclr.config import OptimConfig, SamplerConfig
from simclr.losses import LossConfig
from simclr.objectives import OBJECTIVES
from simclr.optim.muon import Muon
from simclr.optim.optimizers import LARS

OF_A_RUN = {"lr_multiplier", "class_beta", "sample_beta", "momentum", "momentum_schedule", "low", "high"}
"""Fields that say how a run trains with the loss or what it builds it for; a class has another argument for it, or none."""


def defaults(call: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a function or class that have a default, and "none" for None, as a config writes it."""
    given = inspect.signature(call).parameters.values()
    return {one.name: "none" if one.default is None else one.default for one in given if one.default is not one.empty}


def values(config: Any) -> dict[str, Any]:
    return {one.name: "none" if (value := getattr(config, one.name)) is None else value for one in fields(config)}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_a_loss_and_its_config_have_one_set_of_defaults(objective: type[LossConfig]) -> None:
    config = objective()
    loss, wanted = defaults(type(config.build(3, 4, 5))), values(config)
    shared = loss.keys() & wanted.keys()
    assert {name: loss[name] for name in shared} == {name: wanted[name] for name in shared}
    unknown = wanted.keys() - set(inspect.signature(type(config.build(3, 4, 5))).parameters) - OF_A_RUN
    assert not unknown, f"{objective.name} has settings that its class does not know by this name: {unknown}"


FUNCTIONS = {
    "nt_xent": "nt-xent",
    "momentum_contrast": "moco",
    "sup_con": "supcon",
    "quality_focal_loss": "quality-focal",
    "sigreg": "lejepa",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_loss_as_a_function_has_the_same(name: str) -> None:
    config = next(one for one in OBJECTIVES if one.name == FUNCTIONS[name])
    function, wanted = defaults(getattr(simclr.losses, name)), values(config())
    shared = function.keys() & wanted.keys()
    assert shared and {one: function[one] for one in shared} == {one: wanted[one] for one in shared}


def test_what_mines_draws_and_steps_has_those_of_its_config() -> None:
    margin = values(next(one for one in OBJECTIVES if one.name == "margin")())
    for name in ("distance_weighted", "distance_weights"):
        found = defaults(getattr(simclr.mining, name))
        assert (found["cutoff"], found["nonzero_below"]) == (margin["cutoff"], margin["nonzero_below"])
    mined, sampler = defaults(simclr.mining.offline_triplets), SamplerConfig()
    assert (mined["strategy"], mined["margin"]) == (sampler.mine_strategy, sampler.mine_margin)
    assert defaults(simclr.mining.semi_hard)["fallback"] == margin["fallback"]
    lars, optim = defaults(LARS), OptimConfig()
    assert (lars["momentum"], lars["trust"]) == (optim.momentum, optim.trust)
    assert defaults(Muon)["betas"] == optim.betas


IN_A_CONFIG: dict[str, dict[str, str]] = {
    "linear_probe": {"strengths": "strengths", "validation": "validation", "seed": "seed", "resamples": "resamples"},
    "knn_accuracy": {"k": "knn_k", "temperature": "knn_temperature"},
    "knn_predictions": {"k": "knn_k", "temperature": "knn_temperature"},
    "few_labels": {
        "per_class": "labels_per_class",
        "fractions": "label_fractions",
        "trials": "trials",
        "c": "few_label_c",
        "seed": "seed",
    },
    "sgd_probe": {
        "epochs": "sgd_epochs",
        "batch_size": "sgd_batch_size",
        "learning_rate": "sgd_learning_rate",
        "horizontal_flip": "sgd_flip",
        "seed": "seed",
        "workers": "workers",
        "resamples": "resamples",
    },
    "extract_features": {"batch_size": "batch_size", "workers": "workers"},
    "pixel_features": {"size": "pixel_size", "batch_size": "batch_size", "workers": "workers"},
    "open_set": {"trials": "one_shot_trials", "distance": "distance", "seed": "seed"},
    "one_shot": {"trials": "one_shot_trials", "distance": "distance", "seed": "seed"},
    "few_shot": {"episodes": "episodes", "distance": "distance", "seed": "seed"},
    "lake_trials": {"distance": "distance"},
    "identification": {"distance": "distance", "seed": "seed"},
    "retrieval": {"distance": "distance"},
    "recall_at_k": {"distance": "distance"},
    "map_at_r": {"distance": "distance"},
    "r_precision": {"distance": "distance"},
    "nmi": {"distance": "distance", "seed": "seed"},
    "verification": {"distance": "distance"},
    "fit_threshold": {"distance": "distance"},
    "fit_pair_calibration": {"distance": "distance"},
    "bootstrap_interval": {"resamples": "resamples", "seed": "seed"},
    "paired_difference": {"resamples": "resamples", "seed": "seed"},
}
"""Arguments of the scores, and what `EvalConfig` calls them."""


@pytest.mark.parametrize("name", IN_A_CONFIG)
def test_a_score_and_the_evaluations_config_have_one_set_of_defaults(name: str) -> None:
    found, wanted = defaults(getattr(linear_eval, name)), values(EvalConfig())
    names = IN_A_CONFIG[name]
    assert {one: found[one] for one in names} == {one: wanted[names[one]] for one in names}
    # An argument that the config knows by the same name is listed above; the validation set of open_set is another thing.
    left = {one for one in found.keys() & wanted.keys() if one != "validation" or found[one] != "none"} - set(names)
    assert not left, f"{name} has arguments of EvalConfig that are not compared: {left}"


def test_one_protocol_has_one_set_of_ks() -> None:
    whole = defaults(linear_eval.open_set)
    assert whole["ks"] == defaults(linear_eval.retrieval)["ks"] == defaults(linear_eval.recall_at_k)["ks"]
    assert whole["ranks"] == defaults(linear_eval.identification)["ks"]
    assert whole["fars"] == defaults(linear_eval.verification)["fars"]
    assert defaults(linear_eval.one_shot)["ways"] in whole["ways"]
