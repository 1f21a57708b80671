import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.dataset.audit import (
    FileFacts,
    byte_copies,
    conflicts,
    group_files,
    near_copies,
    read_files,
)
from tests.pictures import COPIES, encoded, picture, save

BITS, CORRELATION = 4, 0.965


def facts_of(folder, files):
    save(folder, files)
    return read_files(folder, [(path, path.split("/")[0]) for path in files], 10_000_000)


def fact(path="a/x.png", **values):
    plain = FileFacts(
        path, path.split("/")[0], "", 0, 0, np.zeros((64, 64), np.uint8), "", "L", "PNG", ""
    )
    return replace(plain, **values)


def test_a_look_at_a_file_tells_what_it_is(tmp_path):
    image = picture(0)
    files = {
        "a/1.png": encoded(image, "JPEG"),
        "b/2.png": b"",
        "b/3.png": b"text",
        "b/4.png": image,
    }
    found = facts_of(tmp_path, files)
    data = (tmp_path / "a/1.png").read_bytes()
    assert [(f.path, f.label) for f in found] == [(path, path[0]) for path in files]
    assert (found[0].format, found[0].mode, found[0].size, found[0].bytes) == (
        "JPEG",
        "L",
        "96x80",
        len(data),
    )
    assert found[0].sha256 == hashlib.sha256(data).hexdigest()
    assert found[0].thumbnail.shape == (64, 64)
    assert [f.fault.partition(":")[0] for f in found] == ["", "empty", "not_an_image", ""]
    (missing,) = read_files(tmp_path, [("a/none.png", "a")], 10)
    assert missing.fault.startswith("unreadable: No such file")
    (large,) = read_files(tmp_path, [("b/4.png", "b")], 96 * 80 - 1)
    assert large.fault.startswith("too_large")


def test_of_byte_copies_the_shortest_name_is_kept():
    names = ["a/10 (2).png", "a/10.png", "b/deep/1.png", "a/9.png", "a/x.png"]
    facts = [
        fact(name, sha256=digest)
        for name, digest in zip(names, ["s", "s", "s", "t", ""], strict=True)
    ]
    facts += [fact("a/y.png")]  # unreadable files have no sha256 and aren't copies of each other
    assert byte_copies(facts) == {0: 2, 1: 2}
    tie = [fact("b/1.png", sha256="s"), fact("a/1.png", sha256="s")]
    assert byte_copies(tie) == {0: 1}


def test_near_copies_are_found_and_other_pictures_are_not(tmp_path):
    originals = {f"a/{seed}.png": picture(seed) for seed in range(12)}
    copies = {
        f"b/{seed} {name}.png": change(picture(seed))
        for seed, (name, change) in enumerate(COPIES.items())
    }
    facts = facts_of(tmp_path, originals | copies)
    assert not [f.fault for f in facts if f.fault]
    found = {(facts[i].path, facts[j].path) for i, j in near_copies(facts, BITS, CORRELATION)}
    assert found == {(f"a/{seed}.png", f"b/{seed} {name}.png") for seed, name in enumerate(COPIES)}
    assert near_copies(facts, BITS, 1.1) == []


def test_flat_pictures_are_near_copies_of_none(tmp_path):
    flat = {f"a/{level}.png": Image.new("L", (40, 40), level) for level in (0, 7, 255)}
    again = {"b/7.png": Image.new("L", (40, 40), 7), "b/picture.png": picture(0)}
    facts = facts_of(tmp_path, flat | again)
    assert near_copies(facts, BITS, CORRELATION) == []
    assert [fact.unusual for fact in facts] == [("blank",)] * 4 + [()]


@pytest.mark.parametrize("bits", [0, 1, 3, 4, 7, 16])
def test_near_copies_agree_with_comparing_all_pairs(bits):
    rng = np.random.default_rng(bits)
    hashes = [int(value) for value in rng.integers(0, 2**64, 120, np.uint64)] + [0, 2**64 - 1]
    for base in hashes[:60]:  # and neighbours up to a few bits beyond what is asked for
        flips = rng.choice(64, rng.integers(0, bits + 4), replace=False)
        hashes.append(base ^ sum(1 << int(bit) for bit in flips))
    same = rng.integers(0, 256, (64, 64), np.uint8)
    facts = [
        fact(f"a/{number}", phash=value, thumbnail=same) for number, value in enumerate(hashes)
    ]
    wanted = [
        pair
        for pair in itertools.combinations(range(len(hashes)), 2)
        if (hashes[pair[0]] ^ hashes[pair[1]]).bit_count() <= bits
    ]
    assert near_copies(facts, bits, 0.9) == wanted
    assert bits == 0 or len(wanted) > 5
    assert near_copies([], bits, 0.9) == []


@pytest.mark.parametrize(
    ("names", "pairs", "groups"),
    [
        (["a/p1_1.png", "a/p1_2.png", "b/p2_1.png"], [], ["p1", "p1", "p2"]),
        (["a/p1_1.png", "b/x.png", "a/p2_1.png", "a/p2_2.png"], [(0, 1), (1, 2)], ["b/x.png"] * 4),
        (["a/x.png", "b/x.png"], [], ["a/x.png", "b/x.png"]),
        (["a/_1.png", "a/_2.png", "a/ _3.png"], [], ["a/_1.png", "a/_2.png", "a/ _3.png"]),
        (
            ["a/p3_1.png", "a/p2_1.png", "a/p1_1.png", "a/p4_1.png"],
            [(0, 1), (2, 3), (3, 0)],
            ["p1"] * 4,
        ),
    ],
)
def test_groups_are_what_the_name_says_joined_with_near_copies(names, pairs, groups):
    facts = [fact(name) for name in names]
    assert group_files(facts, r"^(?P<group>p\d+|\s*)_", pairs) == groups


def test_groups_without_a_pattern_or_whose_group_takes_no_part():
    facts = [fact("a/p1_1.png"), fact("a/p1_2.png")]
    assert group_files(facts, None, []) == ["a/p1_1.png", "a/p1_2.png"]
    assert group_files(facts, r"p1|(?P<group>never)", []) == ["a/p1_1.png", "a/p1_2.png"]


def test_groups_agree_with_searching_the_graph():
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(1, 30))
        facts = [fact(f"a/p{rng.integers(0, 12):02}_{number}.png") for number in range(count)]
        pairs = [
            tuple(sorted(map(int, pair)))
            for pair in rng.integers(0, count, (int(rng.integers(0, 12)), 2))
        ]
        names = [f.path[2:5] for f in facts]
        near = {(a, b) for a, b in pairs} | {
            (a, b) for a, b in itertools.combinations(range(count), 2) if names[a] == names[b]
        }
        reach = np.eye(count, dtype=bool)
        for a, b in near:
            reach[a, b] = reach[b, a] = True
        for _ in range(6):
            reach = reach @ reach
        wanted = [min(names[other] for other in np.flatnonzero(row)) for row in reach]
        assert group_files(facts, r"^(?P<group>p\d+)_", pairs) == wanted


def test_conflicts_are_what_is_the_same_under_two_classes():
    facts = [
        fact(name, sha256=digest)
        for name, digest in [("a/1", "s"), ("a/2", "s"), ("a/3", "t"), ("b/3", "t")]
    ]
    assert [[f.path for f in files] for files in conflicts(facts, lambda f: f.sha256)] == [
        ["a/3", "b/3"]
    ]
