"""Who may use what now, and why not?

Two forms of one answer. ``rows`` is for lists, for the past as it was known, and for a restart; it
is written in the append transaction. ``index`` is in memory and answers checks; it applies an event
once its append is committed. Both answer as ``ledger/domain/access.py`` rules.
"""

from projections.access.index import NEVER, AccessIndex, Answer, Restriction
from projections.access.rows import AccessRows, snapshot

__all__ = ["NEVER", "AccessIndex", "AccessRows", "Answer", "Restriction", "snapshot"]
