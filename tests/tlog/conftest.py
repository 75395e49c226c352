"""A busy machine must not fail a property that holds."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tlog", deadline=None)
settings.load_profile("tlog")
