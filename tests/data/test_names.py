import subprocess
import sys

import pytest

from hf_condense.data.names import ALIASES, CLASS_SETS, KNOWN, canonical_name, match_class, select_classes, synonyms
from hf_condense.errors import DataError

IMAGENET_LIKE = [
    "tench, Tinca tinca", "crane", "crane, machine", "church, church building", "French horn, horn", "chain saw, chainsaw",
    "English springer, English springer spaniel", "cassette player", "garbage truck, dustcart",
    "gas pump, gasoline pump, petrol pump, island dispenser", "golf ball", "parachute, chute", "harp", "ox, harp",
]  # fmt: skip


def test_the_table_is_readable_without_heavy_libraries():
    code = "import sys, hf_condense.data.names; print({'torch', 'datasets', 'numpy', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_every_entry_is_complete():
    assert {"imagenet-1k", "cifar10", "cifar100", "tiny-imagenet", "fashion_mnist", "imagenette", "digits"} <= set(
        KNOWN
    )
    for name, known in KNOWN.items():
        assert known.embedded or known.page.startswith("https://huggingface.co/datasets/"), name
        assert (known.mean is None) == (known.std is None)
        assert known.classes is None or known.classes in CLASS_SETS
    assert set(ALIASES.values()) <= set(KNOWN)
    assert KNOWN["imagenet-1k"].test_split == "validation"  # its "test" has no labels


def test_names_are_found_however_they_are_written():
    assert canonical_name("CIFAR-10") == "cifar10"
    assert canonical_name("ImageNet") == "imagenet-1k"
    assert canonical_name("Org/Some-Set") == "Org/Some-Set"


def test_a_hub_id_stands_for_its_short_name():
    for name, known in KNOWN.items():
        whole = "imagenet-1k" if known.classes else name  # of subsets the repository is that of all classes
        assert canonical_name(known.hub_id) == canonical_name(known.hub_id.upper()) == whole
    assert not KNOWN[canonical_name("ylecun/mnist")].flip and not KNOWN[canonical_name("ufldl-stanford/svhn")].flip
    assert canonical_name("somebody/mnist") == "somebody/mnist", "the owner counts"


def test_synonyms_hold_the_wordnet_id_and_each_part():
    assert synonyms("n01440764 tench, Tinca tinca")[1:] == ["tench, tinca tinca", "n01440764", "tench", "tinca tinca"]


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("tench", 0), ("Tinca tinca", 0), ("0", 0), ("church_building", 3), ("french-horn", 4), ("crane", 1),
        ("crane, machine", 2), ("harp", 12), ("13", 13), ("n01440764 tench", 0),
    ],
)  # fmt: skip
def test_a_class_answers_to_name_synonym_and_number(said, number):
    assert match_class(said, IMAGENET_LIKE) == number


def test_a_name_of_two_classes_is_refused():
    with pytest.raises(DataError, match="maillot, tank suit"):
        match_class("maillot", ["maillot, swimsuit", "maillot, tank suit"])


def test_named_sets_match_readable_names_and_wordnet_ids():
    chosen = select_classes(["imagenette"], IMAGENET_LIKE)
    assert [IMAGENET_LIKE[c].split(",")[0] for c in chosen][:3] == ["tench", "English springer", "cassette player"]
    assert len(set(chosen)) == 10
    ids = [entry.split()[0] for entry in CLASS_SETS["imagewoof"]][::-1]
    assert select_classes(["imagewoof"], ids) == list(range(9, -1, -1))


def test_named_sets_are_classes_of_imagenet():
    timm_data = pytest.importorskip("timm.data")
    info = timm_data.ImageNetInfo()
    names = [info.label_name_to_description(w) for w in info.label_names()]
    for entries in CLASS_SETS.values():
        assert len(set(entries)) == 10
        chosen = select_classes(entries, names)
        assert [info.label_names()[c] for c in chosen] == [e.split()[0] for e in entries]
    # a bare WordNet id on a dataset with readable names
    assert select_classes(["n01440764", "n02113799"], names) == [0, info.label_names().index("n02113799")]


@pytest.mark.parametrize("wanted", [["tensh", "church"], ["church", "church building"], ["church"], ["imagenette"]])
def test_wrong_classes_are_named(wanted):
    with pytest.raises(DataError) as caught:
        select_classes(wanted, ["church, church building", "tench", "harp"])
    assert caught.value.field == "classes"
    if wanted[0] == "tensh":
        assert "tench" in caught.value.next_step


def test_class_names_that_hold_commas():
    names = ["tench, Tinca tinca", "bonnet, poke bonnet", "harp", "a", "b", "a,b"]
    assert select_classes("bonnet, poke bonnet,harp".split(","), names) == [1, 2]
    assert select_classes("harp,tench,Tinca tinca,bonnet".split(","), names) == [2, 0, 1]
    assert select_classes(["bonnet, poke bonnet", "harp"], names) == [1, 2]
    assert select_classes(["a", "b"], names) == [3, 4]
    assert select_classes(["a,b", "a"], names) == [5, 3]


def test_quotes_keep_a_comma_on_the_command_line():
    from hf_condense.config import DataSettings
    from hf_condense.run.resolve import convert

    assert convert(DataSettings, "classes", '"a,b", harp,a') == ("a,b", "harp", "a")
    assert convert(DataSettings, "classes", "a, b,,c") == ("a", "b", "c")
    assert convert(DataSettings, "classes", "") == ()
