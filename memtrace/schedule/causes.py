"""What a replay counts of what it could not do, and how failures are told."""

from __future__ import annotations

CAUSES = (
    ("object_compared", "objects allocated whose recorded address is known"),
    ("object_at_recorded_address", "of these, objects that the model put where the kernel did"),
    ("page_compared", "page blocks allocated whose recorded pfn is known"),
    ("page_at_recorded_pfn", "of these, blocks that the model put where the kernel did"),
    ("start_object_placed", "objects that pre-date the trace and have a place in the model"),
    ("start_object_unplaced", "objects that pre-date the trace and have none (cache unknown, or no room); not freed"),
    ("start_page_placed", "page blocks that pre-date the trace and have a place in the model"),
    ("start_page_unplaced", "page blocks that pre-date the trace and have none; not freed"),
    ("model_alloc_failed", "object allocations that the model could not serve"),
    ("model_page_alloc_failed", "page allocations that the model could not serve"),
    ("model_reclaimed", "pages of page cache that the model took back because it needed more than the trace's kernel"),
    ("freed_by_reclaim", "of these, pages whose recorded free came later and was left out"),
    ("model_migrated", "pages that the model's compaction moved"),
    ("free_of_nothing", "frees of objects and blocks that the model never held; nothing is done"),
    ("cache_not_there", "allocations from, and calls about, a cache that is not created or was destroyed; not done"),
    ("cache_create_refused", "caches that the model could not create"),
    ("cache_destroy_refused", "caches destroyed while objects were alive in them; they stay, as in the kernel"),
    ("bulk_free_without_end", "bulk frees whose last object the trace does not show; done at the end"),
    ("percpu_compared", "per-CPU areas allocated whose recorded place is known"),
    ("percpu_at_recorded_offset", "of these, areas that the model put at the recorded offset"),
    ("start_percpu_unplaced", "per-CPU areas that pre-date the trace and have no place in the model; not freed"),
    ("model_percpu_failed", "per-CPU areas that the model could not serve"),
    ("moved_to_online_cpu", "operations of offline CPUs, done by the next online CPU of the node, else by the next"),
    ("cpu_event_left_out", "CPU hotplug events, which closed timing leaves out: all CPUs stay online"),
    ("kswapd_run_left_out", "runs of the recorded kswapd, which closed timing leaves out: the model's own decide"),
    ("drain_all_left_out", "recorded drains of all per-CPU page lists, which closed timing leaves out"),
    ("cpu_event_ignored", "CPU hotplug events about CPUs that the machine does not have, or its last online one"),
)
"""Name and meaning of everything in ``Dispatcher.counts`` and ``Played.left_out``."""

FAILURE_FIELDS = ("t_ns", "row", "cpu", "op", "order", "gfp", "size", "cache", "reason")
