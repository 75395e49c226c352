"""Lists that leave the ledger as files: what can be exported, in which forms, and how."""

from ledger.service.exports.export import (
    Export,
    begin_export,
    export_of,
    manifest,
    stream_export,
)
from ledger.service.exports.formats import FORMATS, formats_of
from ledger.service.exports.views import VIEWS

__all__ = [
    "FORMATS",
    "VIEWS",
    "Export",
    "begin_export",
    "export_of",
    "formats_of",
    "manifest",
    "stream_export",
]
