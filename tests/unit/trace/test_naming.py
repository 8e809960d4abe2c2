"""The rules that name the cache of an allocation."""

from __future__ import annotations

from memtrace.trace.causes import CLASS_KMALLOC, CLASS_NAMED, CLASS_SITE
from memtrace.trace.naming import (
    AllocClass,
    Votes,
    kmalloc_cache_name,
    name_by_function,
    name_classes,
    unknown_name,
    unnamed_groups,
    unpack_links,
    unpack_votes,
)


def site_class(site: int, size: int = 64) -> AllocClass:
    return AllocClass(CLASS_SITE, site, -1, size, size, 1, False)


def kmalloc_class(size: int) -> AllocClass:
    return AllocClass(CLASS_KMALLOC, 0, -1, size, size, 1, False)


def test_the_name_in_the_event_beats_every_vote() -> None:
    named = AllocClass(CLASS_NAMED, 0, 7, 64, 64, 1, False)
    assert name_classes([named], Votes({(0, 3): 9}, {}, {}, False)).tolist() == [7]


def test_the_majority_of_frees_wins_and_a_tie_goes_to_the_name_seen_first() -> None:
    votes = Votes({(0, 3): 2, (0, 1): 1, (1, 5): 1, (1, 4): 1}, {}, {}, False)
    assert name_classes([site_class(0), site_class(1)], votes).tolist() == [3, 4]


def test_pages_name_what_no_free_named() -> None:
    votes = Votes({(0, 3): 1}, {(0, 8): 99, (1, 8): 1}, {}, False)
    assert name_classes([site_class(0), site_class(1)], votes).tolist() == [3, 8]


def test_a_name_spreads_along_links_but_not_where_pages_are_mixed() -> None:
    classes = [site_class(i) for i in range(4)]
    links = {(0, 1): 1, (1, 2): 5}
    assert name_classes(classes, Votes({(0, 3): 1}, {}, links, False)).tolist() == [3, 3, 3, -1]
    assert name_classes(classes, Votes({(0, 3): 1}, {(1, 4): 1}, links, True)).tolist() == [3, -1, -1, -1]


def test_unnamed_classes_that_share_pages_are_one_cache() -> None:
    classes = [site_class(0), site_class(1), kmalloc_class(64), site_class(2), site_class(3)]
    votes = Votes({(1, 9): 1}, {}, {(0, 4): 1, (3, 4): 1}, False)
    names = name_classes(classes, votes)
    assert unnamed_groups(classes, names, votes).tolist() == [0, -1, -1, 0, 0]


def test_names_of_our_own_making() -> None:
    assert unknown_name(site_class(2, 200), "f+2") == "unknown:f+2:200"
    assert [kmalloc_cache_name(kmalloc_class(size)) for size in (8, 96, 1024, 8192, 100, 16384)] == [
        "kmalloc-8", "kmalloc-96", "kmalloc-1k", "kmalloc-8k", "", ""]
    assert kmalloc_cache_name(site_class(0, 64)) == ""


def test_packed_votes_and_links_come_back() -> None:
    by_free, by_page = unpack_votes([((5 + 1 << 24 | 7) << 1, 3), ((5 + 1 << 24 | 8) << 1 | 1, 4)])
    assert (by_free, by_page) == ({(5, 7): 3}, {(5, 8): 4})
    assert unpack_links([((2 + 1) << 31 | (9 + 1), 6)]) == {(2, 9): 6}


def test_what_describes_a_cache_is_known_by_the_function_that_asks() -> None:
    assert name_by_function("__kmem_cache_create+0x1eb/0x570") == "kmem_cache_node"
    assert name_by_function("kmem_cache_create_usercopy+0x11c/0x310") == "kmem_cache"
    assert name_by_function("getname_flags+0x3a/0x1b0") == ""
