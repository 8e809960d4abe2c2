"""
Reclaim: which pages can be taken back, kswapd's state, direct reclaim (MODEL 10.1-10.4, 10.6).

In a replay the recorded kernel's reclaim is in the trace, as frees of page cache. The model takes pages back by
itself only when a request shows that it needs more than those gave: then the oldest page cache goes, and
``journal`` says which, so that its owner's later free does nothing.
"""

from __future__ import annotations

import cython

from memtrace.mm.constants import (
    LRU_ANON,
    LRU_FILE,
    MAX_RECLAIM_RETRIES,
    NIL,
    SWAP_CLUSTER_MAX,
    WAKE_KCOMPACTD,
    WAKE_KSWAPD,
    WAKE_KSWAPD_RUN,
)
from memtrace.mm.gfp import GFP_BIT_DIRECT_RECLAIM, GFP_BIT_THISNODE, GFP_BIT_ZERO, GFP_ZONEMASK
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.mmzone import Frames, Node, Zone
from memtrace.mm.page_alloc_watermark import Watermarks
from memtrace.mm.paths import COST_RECLAIM
from memtrace.mm.shrinker import DEF_PRIORITY


@cython.cclass
class Reclaim(Watermarks):
    """
    Single pages asked for as movable, in order of age, and who takes them back.

    A zone has two lists of them: page cache, and anonymous pages, which were asked for zeroed and cannot be
    taken back, because there is no swap. Which page cache is dirty, busy or locked the model does not know.
    """

    journal: list
    """(pfn, new pfn) of pages that reclaim took (new pfn NIL) or compaction moved, since the owner last looked."""
    journalled: cython.bint
    shrinkers: list
    """``Shrinker``s, asked after page cache; none in a replay."""

    def __init__(self, frames: Frames, zones: list, it: Itinerary, cpu_node: list) -> None:
        Watermarks.__init__(self, frames, zones, it, cpu_node)
        self.journal = []
        self.journalled = False
        self.shrinkers = []

    # -- the lists --------------------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(check=False)
    def lru_add(self, zone: Zone, pfn: cython.int, gfp: cython.longlong) -> cython.void:
        """
        Let reclaim and compaction have a page in use, as the youngest.

        Kernel: folio_add_lru(). The page is a single one, asked for as movable; whoever calls follows ``journal``.
        """
        self.frames.add_tail(zone.lru0 + (LRU_ANON if gfp & GFP_BIT_ZERO else LRU_FILE), pfn)

    @cython.cfunc
    def note_move(self, pfn: cython.int, new: cython.int) -> cython.void:
        self.journal.append((pfn, new))
        self.journalled = True

    def take_journal(self) -> list:
        """(pfn, new pfn or -1) of pages taken from their owners since the last call, in order."""
        journal = self.journal
        self.journal = []
        self.journalled = False
        return journal

    @cython.ccall
    @cython.exceptval(check=False)
    def nr_reclaimable(self, zone: Zone) -> cython.longlong:
        """Kernel: zone_reclaimable_pages(), without swap; counted, because it is seldom asked for."""
        head: cython.int = zone.lru0 + LRU_FILE
        pfn: cython.int = self.frames.next[head]
        found: cython.longlong = 0
        while pfn != head:
            found += 1
            pfn = self.frames.next[pfn]
        return found

    @cython.cfunc
    def shrink_zone(self, zone: Zone, want: cython.longlong, cpu: cython.int) -> cython.longlong:
        """
        Take back up to ``want`` pages of page cache, the oldest first; how many there were.

        Kernel: shrink_node(), shrink_page_list() (MODEL 10.6, rules 1 and 2)
        Departs: all page cache is clean and unused since it was allocated
        """
        frames: Frames = self.frames
        head: cython.int = zone.lru0 + LRU_FILE
        done: cython.longlong = 0
        while done < want:
            pfn: cython.int = frames.next[head]
            if pfn == head:
                break
            frames.remove(pfn)
            self.note_move(pfn, NIL)
            zone.used_pages -= 1
            zone.lru_reclaimed += 1
            self.free_unref_page(zone, cpu, pfn, 0)
            done += 1
        if done:
            self.it.step(COST_RECLAIM, cython.cast(cython.int, done))
        return done

    @cython.cfunc
    def shrink_slab(self, want: cython.longlong) -> cython.longlong:
        """
        Let shrinkers free objects until ``want`` pages of slabs came back; how many did.

        Kernel: shrink_slab(), a round for each priority (MODEL 10.3, 10.4)
        Departs: page cache has been taken before, all of it that was wanted, not a share by priority
        """
        zone: Zone
        before: cython.longlong = 0
        after: cython.longlong
        priority: cython.int = DEF_PRIORITY
        done: cython.longlong = 0
        for zone in self.zones:
            before += zone.slab_pages
        while priority >= 0 and (done < want or priority == DEF_PRIORITY):
            for shrinker in self.shrinkers:
                shrinker.do_shrink_slab(priority)
            after = 0
            for zone in self.zones:
                after += zone.slab_pages
            done = before - after
            priority -= 1
        return max(done, 0)

    # -- kswapd -----------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def pgdat_balanced(self, node: Node, order: cython.int, highest: cython.int) -> cython.bint:
        """Kernel: pgdat_balanced(): has some zone that the request may use its high mark free, and a block for it?"""
        zone: Zone
        managed: cython.bint = False
        for zone in node.zones:
            if zone.zone_idx > highest or zone.managed == 0:
                continue
            managed = True
            if self.zone_watermark_ok(zone, order, zone.watermark_high + zone.boost, highest, 0):
                return True
        return not managed

    @cython.cfunc
    @cython.exceptval(check=False)
    def is_boosted(self, node: Node, highest: cython.int) -> cython.bint:
        zone: Zone
        for zone in node.zones:
            if zone.zone_idx <= highest and zone.boost > 0:
                return True
        return False

    @cython.cfunc
    def wakeup_kswapd(
        self, zone: Zone, gfp: cython.longlong, order: cython.int, highest: cython.int
    ) -> cython.void:
        """Kernel: wakeup_kswapd() (MODEL 10.1)."""
        node: Node = self.nodes[zone.node]
        if zone.managed == 0:
            return
        node.kswapd_highest_zoneidx = max(node.kswapd_highest_zoneidx, highest)
        node.kswapd_order = max(node.kswapd_order, order)
        if node.kswapd_awake:
            return
        if node.kswapd_failures >= MAX_RECLAIM_RETRIES or (
            self.pgdat_balanced(node, order, highest) and not self.is_boosted(node, highest)
        ):
            if not gfp & GFP_BIT_DIRECT_RECLAIM:
                self.wakeup_kcompactd(node, order, highest)
            return
        node.kswapd_awake = True
        self.events.append(("kswapd_wake", {"zone": zone.index, "order": order, "boost": zone.boost}))
        self.it.wake(WAKE_KSWAPD, node.node)

    @cython.cfunc
    def wake_all_kswapds(self, gfp: cython.longlong, order: cython.int, node: cython.int) -> cython.void:
        """Kernel: wake_all_kswapds(): once for each node of the zonelist, at its first zone that may serve."""
        zone: Zone
        highest: cython.int = self.gfp_zone[gfp & GFP_ZONEMASK]
        last: cython.int = NIL
        zonelist: list = self.local_zonelists[node] if gfp & GFP_BIT_THISNODE else self.zonelists[node]
        for zone in zonelist:
            if zone.zone_idx <= highest and zone.managed > 0 and zone.node != last:
                self.wakeup_kswapd(zone, gfp, order, highest)
                last = zone.node

    @cython.cfunc
    def wakeup_kcompactd(self, node: Node, order: cython.int, highest: cython.int) -> cython.void:
        """Kernel: wakeup_kcompactd() (MODEL 10.5); whether there is work is asked when it runs."""
        if order == 0:
            return
        node.kcompactd_order = max(node.kcompactd_order, order)
        node.kcompactd_highest_zoneidx = max(node.kcompactd_highest_zoneidx, highest)
        if node.kcompactd_awake:
            return
        node.kcompactd_awake = True
        self.it.wake(WAKE_KCOMPACTD, node.node)

    # -- direct reclaim ---------------------------------------------------------------------------

    @cython.cfunc
    def direct_reclaim(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """
        Take back a cluster of pages on behalf of a request, or what the nearest zone lacks; how many there were.

        Kernel: try_to_free_pages() (MODEL 10.3, 10.6 rule 3)
        Departs: no throttling; zones give in the order of the zonelist. The kernel takes 32 pages, while
        kswapd works beside it; the model's kswapd may be leaving that to the trace. Boosts, which kswapd's
        run would end, end here
        """
        zone: Zone
        want: cython.longlong = 0
        mark: cython.longlong
        highest: cython.int = self.gfp_zone[gfp & GFP_ZONEMASK]
        done: cython.longlong = 0
        zonelist: list = self.local_zonelists[node] if gfp & GFP_BIT_THISNODE else self.zonelists[node]
        for zone in zonelist:
            if zone.zone_idx > highest:
                continue
            # Nobody else acts while a request is decided: kswapd would end boosts, and the request come to an end then.
            zone.boost = 0
            if want == 0:
                mark = zone.watermark_min + zone.lowmem_reserve[highest] + zone.nr_reserved_highatomic
                want = max(SWAP_CLUSTER_MAX, mark + (1 << order) - zone.free_pages)
            if done < want:
                done += self.shrink_zone(zone, want - done, cpu)
        if self.shrinkers:
            done += self.shrink_slab(want - done)
        if done:
            for owner in self.nodes:
                cython.cast(Node, owner).kswapd_failures = 0
        self.events.append(("direct_reclaim", {"order": order, "reclaimed": done}))
        return done

    # -- a run of kswapd, in the pieces that its daemon plays in time -------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def count_returned(self, node: Node) -> cython.longlong:
        """Pages of the node's reclaimable lists that came back since the last look, whoever freed them."""
        zone: Zone
        freed: cython.longlong = 0
        for zone in node.zones:
            freed += zone.lru_freed + zone.lru_reclaimed
        new: cython.longlong = freed - node.seen_returned
        node.seen_returned = freed
        return new

    @cython.ccall
    def kswapd_begin(self, nid: cython.int) -> cython.void:
        """Kernel: the beginning of balance_pgdat() (MODEL 10.2): lists are kept short, and boosts are noted."""
        node: Node = self.nodes[nid]
        zone: Zone
        node.run_order = node.kswapd_order
        node.run_highest_zoneidx = node.kswapd_highest_zoneidx
        node.kswapd_order = 0
        node.kswapd_highest_zoneidx = NIL
        node.boosts = []
        node.boost = 0
        node.run_returned = 0
        self.count_returned(node)
        for zone in node.zones:
            concerned: cython.bint = zone.zone_idx <= node.run_highest_zoneidx
            node.boosts.append(zone.boost if concerned else 0)
            if concerned:
                node.boost += zone.boost
                zone.reclaim_active = True

    @cython.ccall
    def kswapd_wants(self, nid: cython.int) -> cython.longlong:
        """
        Kernel: one turn of balance_pgdat()'s loop up to the reclaiming itself (MODEL 10.2, steps 2 to 5).

        Returns
        -------
        Pages that this turn is to bring back; 0 when the run is over.
        """
        node: Node = self.nodes[nid]
        zone: Zone
        new: cython.longlong = self.count_returned(node)
        node.run_returned += new
        node.boost -= min(node.boost, new)
        if new:
            node.kswapd_failures = 0
        if node.run_order > 0 and node.run_returned >= 2 << node.run_order:
            node.run_order = 0
        balanced: cython.bint = self.pgdat_balanced(node, node.run_order, node.run_highest_zoneidx)
        if not balanced:
            node.boost = 0
        elif node.boost == 0:
            return 0
        else:
            return node.boost
        want: cython.longlong = 0
        for zone in node.zones:
            if zone.zone_idx <= node.run_highest_zoneidx:
                want += max(zone.watermark_high, SWAP_CLUSTER_MAX)
        return want

    @cython.ccall
    def kswapd_shrink(self, nid: cython.int, want: cython.longlong, cpu: cython.int) -> cython.longlong:
        """Take back up to ``want`` pages of the zones that the run is about; how many there were."""
        node: Node = self.nodes[nid]
        zone: Zone
        done: cython.longlong = 0
        for zone in reversed(node.zones):
            if zone.zone_idx <= node.run_highest_zoneidx and done < want:
                done += self.shrink_zone(zone, want - done, cpu)
        if self.shrinkers:
            done += self.shrink_slab(want - done)
        return done

    @cython.ccall
    def kswapd_end(self, nid: cython.int, failed: cython.bint) -> cython.void:
        """Kernel: the end of balance_pgdat() (MODEL 10.2): boosts that the run began with go, kcompactd is woken."""
        node: Node = self.nodes[nid]
        zone: Zone
        highest: cython.int = node.run_highest_zoneidx
        boosted: cython.bint = False
        for zone, boost in zip(node.zones, node.boosts, strict=True):
            if zone.zone_idx <= highest:
                zone.reclaim_active = False
            if boost:
                boosted = True
                zone.boost -= min(zone.boost, boost)
        if failed:
            node.kswapd_failures += 1
        node.kswapd_awake = False
        if boosted and len(node.zones):
            zone = node.zones[0]
            self.wakeup_kcompactd(node, zone.pageblock_order, highest)
        self.events.append(("kswapd_done", {"node": nid, "returned": node.run_returned, "failed": failed}))

    def kswapd_follow(self, nid: int, begins: bool) -> None:
        """
        Let the recorded kswapd of a node begin or end a run; what it freed is in the trace.

        Departs: for which zones it runs a trace does not tell; for all that the node has
        """
        node: Node = self.nodes[nid]
        if len(node.zones) == 0:
            return
        if begins:
            node.kswapd_highest_zoneidx = max([cython.cast(Zone, zone).zone_idx for zone in node.zones])
            node.kswapd_awake = True
            self.kswapd_begin(nid)
        else:
            node.run_returned = self.count_returned(node)
            node.kswapd_failures = 0
            self.kswapd_end(nid, False)
        self.it.wake(WAKE_KSWAPD_RUN, 2 * nid + (1 if begins else 0))

    def kswapd_sleep(self, nid: int) -> None:
        """Note that kswapd sleeps for good; it can be woken all the time."""
        self.events.append(("kswapd_sleep", {"node": nid}))

    @cython.ccall
    def lru_counts(self, nid: cython.int) -> tuple:
        """(pages that owners freed, pages that the model took back) of a node's reclaimable lists so far."""
        node: Node = self.nodes[nid]
        zone: Zone
        freed: cython.longlong = 0
        taken: cython.longlong = 0
        for zone in node.zones:
            freed += zone.lru_freed
            taken += zone.lru_reclaimed
        return freed, taken
