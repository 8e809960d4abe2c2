"""What ``Dispatcher.counts`` counts, in words for the report."""

from __future__ import annotations

CAUSES: dict[str, str] = {
    "cache_inferred": "allocations whose event names no cache; it was inferred from frees and pages",
    "cache_unknown": "allocations whose cache nothing in the trace names; kept apart as unknown:<call site>:<size>",
    "unknown_event": "rows of events that memtrace does not know; kept and ignored",
    "lost_events": "events lost while recording",
    "time_backwards": "rows whose time lies before the row above; set to that row's",
    "object_compared": "objects whose recorded address is known",
    "object_at_recorded_address": "of these, objects that the model put at the recorded address",
    "page_compared": "page blocks whose recorded pfn is known",
    "page_at_recorded_pfn": "of these, blocks that the model put at the recorded pfn",
    "start_object_placed": "objects that pre-date the trace and have a place in the model",
    "start_object_unplaced": "objects that pre-date the trace and have none; their frees do nothing",
    "start_page_placed": "page blocks that pre-date the trace and have a place in the model",
    "start_page_unplaced": "page blocks that pre-date the trace and have none; their frees do nothing",
    "model_alloc_failed": "object allocations that the model could not serve; their frees do nothing",
    "model_page_alloc_failed": "page allocations that the model could not serve; their frees do nothing",
    "free_of_nothing": "frees of what the model could not place or serve",
    "bulk_free_without_end": "bulk frees whose last object the trace does not show; freed at the end",
}
