"""How the wait for a change of traffic ends."""

from __future__ import annotations

from lagar.errors import DeadlineExceeded, PromoteRefused
from lagar.registry.answers import GenerationCard


def settled(generation: GenerationCard) -> GenerationCard:
    """A committed generation; raises PromoteRefused with the reason of one that is not."""
    if generation.state == "committed":
        return generation
    shares = generation.weights
    wanted = (
        f"@{next(iter(shares))}" if len(shares) == 1 else "".join(f" {version}={shares[version]}" for version in shares)
    )
    raise PromoteRefused(
        f"{generation.model}{wanted} did not go live, nothing has switched: {generation.reason or generation.state}"
    )


def undecided(generation: GenerationCard, timeout_s: float) -> DeadlineExceeded:
    """The error of a wait that was too short."""
    waiting = f" by {', '.join(generation.waiting)}" if generation.waiting else ""
    return DeadlineExceeded(
        f"generation {generation.number} of {generation.model} is still being prepared{waiting} after {timeout_s:g} s; "
        f"it goes live, or fails, all the same: see `lagar history {generation.model}`"
    )
