"""Policies decide from the label rows of a snapshot row whether it is a sample, when, and with which label.

====================  ===========================================================================================
``delayed``           one sample when the window has passed; optionally corrections, sampled negatives
``fast_emit``         a negative soon after the exposure, a positive when the positive event has come
``return_days``       one sample per declared day of age, until the positive event has come
====================  ===========================================================================================

A policy looks at a snapshot row once or several times, each time when the label watermark has passed a *horizon* after
its request: its lanes. Between lanes the rows that may still give a sample wait in a topic, not in memory.
"""

from __future__ import annotations

from dovetail.joiners.policies.delayed import Delayed
from dovetail.joiners.policies.fast_emit import FastEmit
from dovetail.joiners.policies.policy import (
    EMISSIONS,
    NEVER,
    OUTCOMES,
    Candidates,
    Decision,
    Policy,
)
from dovetail.joiners.policies.return_days import ReturnDays
from dovetail.platform.config.policy import PolicyConfig

__all__ = [
    "EMISSIONS",
    "NEVER",
    "OUTCOMES",
    "Candidates",
    "Decision",
    "Delayed",
    "FastEmit",
    "Policy",
    "ReturnDays",
    "policy_of",
]


def policy_of(declared: PolicyConfig) -> Policy:
    """The policy that ``dovetail.toml`` declares."""
    roles = (declared.exposure, declared.positive)
    if declared.policy == "fast_emit":
        return FastEmit(*roles, declared.horizons_us)
    if declared.policy == "return_days":
        return ReturnDays(*roles, declared.window, declared.days)
    return Delayed(
        *roles,
        declared.window,
        corrections_us=declared.corrections,
        unexposed_fraction=declared.unexposed_fraction,
        negative_fraction=declared.negative_fraction,
    )
