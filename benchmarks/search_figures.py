"""The figures of the search benchmark, from what its parts found."""

from itertools import chain
from typing import Any

import numpy as np
from scipy.stats import kendalltau

RESAMPLES = 2000
RESNET8_MACS = 12_501_632
TASKS = ("fm", "cifar")
OTHER_METHODS = ("random", "hyperband")
"""Of searching one space."""
OTHER_WAYS = ("separate", "thrifty")
"""Of coming to a pair."""
OF_FINALISTS = " of finalists"
"""Ending of a way whose search trained some of its nets before it chose."""


def figures(found: dict[str, Any]) -> dict[str, float]:
    """The figures by name, of the parts that were made."""
    made: dict[str, float] = {}
    if "costs" in found:
        names = ("specs_per_second", "sram_error_max_pct", "flash_error_max_pct")
        made |= {name: found["costs"][name] for name in names}
        made["latency_mape_pct"] = found["costs"]["latency"]["latency_mape_pct"]
    if "engine" in found:
        reached = {way: of["accuracy_pct"] for way, of in found["engine"].items()}
        made |= {f"engine_minus_{way}": reached["evolution"] - reached[way] for way in reached if way != "evolution"}
    if "fm" in found:
        quick = found["fm"]
        made |= {"candidates": quick["candidates"], "minutes_fm": quick["minutes"]}
        made["candidates_per_minute"] = quick["candidates_per_minute"]
    if "rank" in found:
        made |= {"kendall_tau": found["rank"]["tau"], "kendall_tau_low": found["rank"]["low"]}
        made["kendall_tau_high"] = found["rank"]["high"]
    if "chosen" in found:
        alone_figures = found["chosen"]["alone"]
        made["chosen_cifar_int8_accuracy"] = alone_figures["test_accuracy"]
        made["chosen_cifar_macs_share_of_resnet8"] = alone_figures["macs"] / RESNET8_MACS
    for name, value in found.items():
        part, _, other = name.partition(" ")
        if part == "beside":
            made[f"{other}_cifar_int8_accuracy"] = value["test_accuracy"]
    if "minutes" in found.get("cifar", {}):  # those of other searches were shared with other work, or not taken
        made["minutes_cifar"] = found["cifar"]["minutes"]
    return made | gains(found)


def gains(found: dict[str, Any]) -> dict[str, float]:
    """By how many points our searches are ahead of others, over seeds."""
    made: dict[str, float] = {}
    for other in dict.fromkeys(name.split()[1] for name in found if name.startswith("within ")):
        made |= spread(f"chosen_minus_{other}_within_cifar", within_gains(found, other))
    for other in OTHER_METHODS:
        of_seeds = [of for name, of in found.items() if name.startswith("methods ")]
        ahead = [100 * (of["ours"]["test_accuracy"] - of[other]["test_accuracy"]) for of in of_seeds]
        made |= spread(f"chosen_minus_{other}_fm", ahead)
    for other in OTHER_WAYS:
        by_task = {task: joint_gains(found, task, other) for task in TASKS}
        for task, ahead in by_task.items():
            made |= spread(f"joint_minus_{other}_{task}", ahead)
            made |= spread(f"joint_minus_{other}_{task}_of_finalists", joint_gains(found, task, other, OF_FINALISTS))
        made |= spread(f"joint_minus_{other}", list(chain(*by_task.values())))
    return made


def spread(name: str, values: list[float]) -> dict[str, float]:
    """The mean over seeds, with the least and the greatest; nothing of nothing."""
    if not values:
        return {}
    return {name: float(np.mean(values)), f"{name}_low": min(values), f"{name}_high": max(values)}


def within_gains(found: dict[str, Any], other: str) -> list[float]:
    """Points by which nets found within a hand-made one's costs are ahead of it, one a seed that has both."""
    names = [name for name in found if name.startswith(f"within {other} ")]
    ours = {name.removeprefix("within "): found[name]["alone"] for name in names}
    both = [(net, found[f"hand_made {which}"]) for which, net in ours.items() if f"hand_made {which}" in found]
    return [100 * (net["test_accuracy"] - theirs["test_accuracy"]) for net, theirs in both]


def joint_gains(found: dict[str, Any], task: str, other: str, ending: str = "") -> list[float]:
    """Points of hybrid accuracy that searching a pair gains over the other way, one a seed: means over latencies."""
    joint, alone = f"joint{ending}", f"{other}{ending}"
    of_seeds = [of.values() for name, of in found.items() if name.startswith(f"joint {task} ")]
    gains = [
        [100 * (ways[joint]["hybrid_accuracy"] - ways[alone]["hybrid_accuracy"]) for ways in by_latency]
        for by_latency in of_seeds
        if all(joint in ways for ways in by_latency)
    ]
    return [float(np.mean(of_seed)) for of_seed in gains]


def nets_of(parts: dict[str, Any]) -> dict[str, Any]:
    """What was found, net by net."""
    several = {
        f"{name} {way}": net for name, of in parts.items() if name.startswith("methods ") for way, net in of.items()
    }
    return parts | several


def tau_figures(pairs: list[Any]) -> dict[str, float]:
    """Kendall's tau and its 90 % bootstrap interval over nets; of shared weights and of the MACs alone beside it."""
    table, rng = np.array(pairs), np.random.default_rng(0)
    drawn = [table[rng.integers(len(table), size=len(table))] for _ in range(RESAMPLES)]
    taus = [kendalltau(rows[:, 0], rows[:, 1]).statistic for rows in drawn]
    low, high = np.nanquantile(taus, [0.05, 0.95])
    return {
        "tau": float(kendalltau(table[:, 0], table[:, 1]).statistic),
        "low": float(low),
        "high": float(high),
        "tau_of_shared_weights": float(kendalltau(table[:, 2], table[:, 1]).statistic),
        "tau_of_macs": float(kendalltau(table[:, 3], table[:, 1]).statistic),
    }
