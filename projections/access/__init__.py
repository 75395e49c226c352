"""Who may use what now, and why not?

Three forms of one answer. ``rows`` is for lists, for the past as it was known, and for a restart;
it is written in the append transaction. ``index`` is in memory and answers checks; it applies an
event once its append is committed. ``follower`` keeps an index in a gateway's own process. All
answer as ``ledger/domain/access.py`` rules.
"""

from projections.access.follower import AccessFollower, CutOff, RequireAccess, Verdict
from projections.access.index import (
    CHANGES_ANSWERS,
    NEVER,
    AccessIndex,
    Answer,
    Restriction,
)
from projections.access.rows import AccessRows, selectors_of, snapshot

__all__ = [
    "CHANGES_ANSWERS",
    "NEVER",
    "AccessFollower",
    "AccessIndex",
    "AccessRows",
    "Answer",
    "CutOff",
    "RequireAccess",
    "Restriction",
    "Verdict",
    "selectors_of",
    "snapshot",
]
