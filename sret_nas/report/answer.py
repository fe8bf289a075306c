"""Why a member is recommended, how sure that is, and what a run cannot tell, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sret_nas.report import words
from sret_nas.runner import Member, Recommendation, RunResult
from sret_nas.runner.best import LEVEL
from sret_nas.study.objectives import costs, quality
from sret_nas.units import Budget, format_quantity


def why(outcome: RunResult) -> list[str]:
    """Why this one, in sentences; empty where there is none."""
    found = outcome.recommendation
    if found is None:
        return []
    members = outcome.front
    standing = [member for member in members if not member.dethroned]
    told = chosen(outcome)
    if outcome.config.budget:
        over = _over(outcome.config.budgets, found.member)
        told.append(
            f"Measured at the end, it exceeds the budget: {', '.join(over)}."
            if over
            else f"It satisfies the budget: {', '.join(map(str, outcome.config.budgets))}."
        )
    lost = len(members) - len(standing)
    if lost:
        counts = "counts" if lost == 1 else "count"
        told.append(
            f"{lost} of the front fell behind another once confirmed, and no longer {counts}."
        )
    return told + words.cheaper(outcome, found.member)


def chosen(outcome: RunResult) -> list[str]:
    """By what the recommendation was chosen and how sure it is; empty where there is none."""
    found = outcome.recommendation
    return [_choice(outcome, found), *_sureness(outcome, found)] if found else []


def _choice(outcome: RunResult, found: Recommendation) -> str:
    goal, best = quality(outcome.config.goals), found.best
    cost = costs(outcome.config.goals)[0]
    standing = [member for member in outcome.front if not member.dethroned]
    if found.cheaper:
        return (
            f"It is the cheapest architecture on the front by {cost.title} "
            f"that is not significantly worse than the best, trial {best.trial}: "
            f"{goal.title} {words.reached(outcome, found.member, goal)} against "
            f"{words.reached(outcome, best, goal)}, means over {_seeds(found)} seeds "
            f"({LEVEL:.0%} level, all comparisons counted)."
        )
    most = "lowest" if goal.direction == "minimize" else "highest"
    if len(standing) == 1:
        first = "It is the only architecture that stands on the front"
    else:
        first = f"It has the {most} {goal.title} of the {len(standing)} architectures on the front"
    if best.confirmation:
        return f"{first}, as the mean over {best.confirmation.seeds} seeds."
    declared = outcome.config.declaration
    if declared.seeds == 1:
        return f"{first}; another seed would change nothing."
    once = "training" if declared.trains else "evaluation"
    return f"{first}; a single {once}, not confirmed with other seeds yet."


def _seeds(found: Recommendation) -> str:
    own, other = found.member.seeds, found.best.seeds
    return f"{own}" if own == other else f"{own} and {other}"


def _sureness(outcome: RunResult, found: Recommendation) -> list[str]:
    """The probability, or why there is none."""
    goal = quality(outcome.config.goals)
    if found.noise is None or found.probability is None:
        if outcome.config.declaration.seeds == 1 or len(outcome.front) == 1:
            return []
        return [
            "How much another seed changes is not known, so nothing is said about which members "
            "differ."
        ]
    if len(outcome.front) == 1:
        return []
    margin = goal.beside_name(found.noise.std)
    return [
        f"With a probability of {_percent(found.probability)} no other member is truly better than "
        f"it by more than {margin}, which is what another seed changes (standard deviation, "
        f"{found.noise.dof:.0f} degrees of freedom)."
    ]


def _percent(share: float) -> str:
    """Without claiming certainty."""
    return "more than 99 %" if share > 0.99 else f"{100 * share:.0f} %"


def groups(outcome: RunResult) -> str:
    """What the groups of the front are, in a sentence; empty where there are none."""
    found = outcome.recommendation
    if found is None or not found.groups:
        return ""
    numbers = list(found.groups.values())
    if len(set(numbers)) == len(numbers):
        return "Every member is significantly worse than a dearer one, the last aside."
    return (
        "Members of one group cannot be told apart: what costs more than its cheapest member is "
        f"not significantly better ({LEVEL:.0%} level, all comparisons counted)."
    )


def one_size(outcome: RunResult) -> dict[str, Any] | None:
    """How far the run can rank designs of one size; ``None`` where no order is judged."""
    found = outcome.one_size()
    if found is None:
        return None
    goal = outcome.config.declaration.quality
    band = f"MACs within {found.macs - 1:.0%} and parameters within {found.params - 1:.0%}"
    spread = ""
    if found.spread is not None:
        spread = (
            f"One evaluation of designs of one size spreads by {goal.beside_name(found.spread)}"
        )
        spread += (
            f", of one design with several seeds by {goal.beside_name(found.noise)}"
            if found.noise is not None
            else "; by how much seeds of one design do is not known"
        ) + " (standard deviations)."
    doubts = found.doubts
    verdict = (
        f"This run cannot rank designs of one size ({band}): {', and '.join(doubts)}."
        if doubts
        else f"Designs of one size ({band}) are ranked better than by chance, in {found.pairs} "
        "pairs."
    )
    return {"verdict": verdict, "spread": spread, "orders": found.orders, "pairs": found.pairs}


def _over(budgets: Sequence[Budget], member: Member) -> list[str]:
    """Bounds that a measurement exceeds: a latency that was predicted, at its first batch."""
    timed = [bound for bound in budgets if bound.metric == "latency_ms"][:1]
    taken = member.metrics["latency_ms"]
    return [
        f"{format_quantity('latency_ms', taken)} instead of {bound}"
        for bound in timed
        if taken is not None and taken > bound.limit
    ]
