"""Short names of datasets and class subsets. Standard library only, so that `--help` stays quick."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hf_condense.config import nearest
from hf_condense.errors import DataError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class KnownDataset:
    """The Hub location of a dataset with a short name, and how it is usually read.

    Args:
        hub_id: repository on the Hub; the name itself for an embedded set.
        config: configuration to load.
        train_split, test_split: None means "find it".
        image_column, label_column: None means "find it by feature type".
        image_size: usual side in pixels of the input of networks.
        flip: whether a mirrored image keeps its class (not so for digits).
        mean, std: of training pixels in [0, 1], as published code normalises; None means "measure".
        page: web page with its description and, for gated datasets, the terms to accept.
        embedded: made by `data.embedded`, no network needed.
        revision: branch to read where the main one cannot be loaded as it is.
        data_dir: folder of that branch.
        classes: named class subset to take (a key of `CLASS_SETS`).
    """

    hub_id: str
    config: str | None = None
    train_split: str | None = "train"
    test_split: str | None = "test"
    image_column: str | None = "image"
    label_column: str | None = "label"
    image_size: int | None = 32
    flip: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    page: str = ""
    embedded: bool = False
    revision: str | None = None
    data_dir: str | None = None
    classes: str | None = None

    def __post_init__(self) -> None:
        if not self.page and not self.embedded:
            object.__setattr__(self, "page", f"https://huggingface.co/datasets/{self.hub_id}")


def _imagenet(**changes) -> KnownDataset:
    # its split "test" is unlabelled, so "validation" is used for scores
    return KnownDataset(
        **{
            "hub_id": "ILSVRC/imagenet-1k",
            "test_split": "validation",
            "image_size": 224,
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            **changes,
        }
    )


KNOWN: dict[str, KnownDataset] = {
    "digits": KnownDataset("digits", image_size=8, flip=False, embedded=True),
    "generated-200": KnownDataset("generated-200", image_size=64, embedded=True),
    "mnist": KnownDataset("ylecun/mnist", image_size=28, flip=False, mean=(0.1307,), std=(0.3081,)),
    "fashion_mnist": KnownDataset("zalando-datasets/fashion_mnist", image_size=28, mean=(0.2861,), std=(0.3530,)),
    "svhn": KnownDataset(
        "ufldl-stanford/svhn",
        config="cropped_digits",
        flip=False,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
    ),
    "cifar10": KnownDataset(
        "uoft-cs/cifar10", image_column="img", mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
    ),
    "cifar100": KnownDataset(
        "uoft-cs/cifar100",
        image_column="img",
        label_column="fine_label",
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
    "tiny-imagenet": KnownDataset(
        "zh-plus/tiny-imagenet", test_split="valid", image_size=64, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    "imagenet-1k": _imagenet(),
    "imagenet-10": _imagenet(classes="imagenet-10"),
    # the repository holds a loading script; the Hub's own Parquet copy of it needs none
    "imagenette": _imagenet(hub_id="frgfm/imagenette", revision="refs/convert/parquet", data_dir="full_size"),
    "imagewoof": _imagenet(classes="imagewoof"),
    **{name: _imagenet(classes=name) for name in ("imagefruit", "imagemeow", "imagesquawk", "imageyellow")},
}

ALIASES = {
    "cifar-10": "cifar10",
    "cifar-100": "cifar100",
    "fashion-mnist": "fashion_mnist",
    "fashionmnist": "fashion_mnist",
    "tinyimagenet": "tiny-imagenet",
    "tiny_imagenet": "tiny-imagenet",
    "imagenet": "imagenet-1k",
    "imagenet1k": "imagenet-1k",
    "imagenet_1k": "imagenet-1k",
    "imagenet10": "imagenet-10",
    "imagenet-nette": "imagenette",
    "imagenet-woof": "imagewoof",
}

# WordNet id, then the readable names of ImageNet-1k's class labels. A dataset may use either.
CLASS_SETS: dict[str, tuple[str, ...]] = {
    # the ten first of the hundred classes that IDC (and RDED and EDC after it) took
    "imagenet-10": (
        "n02869837 bonnet, poke bonnet",
        "n01749939 green mamba",
        "n02488291 langur",
        "n02107142 Doberman, Doberman pinscher",
        "n13037406 gyromitra",
        "n02091831 Saluki, gazelle hound",
        "n04517823 vacuum, vacuum cleaner",
        "n04589890 window screen",
        "n03062245 cocktail shaker",
        "n01773797 garden spider, Aranea diademata",
    ),
    "imagenette": (
        "n01440764 tench, Tinca tinca",
        "n02102040 English springer, English springer spaniel",
        "n02979186 cassette player",
        "n03000684 chain saw, chainsaw",
        "n03028079 church, church building",
        "n03394916 French horn, horn",
        "n03417042 garbage truck, dustcart",
        "n03425413 gas pump, gasoline pump, petrol pump, island dispenser",
        "n03445777 golf ball",
        "n03888257 parachute, chute",
    ),
    "imagewoof": (
        "n02096294 Australian terrier",
        "n02093754 Border terrier",
        "n02111889 Samoyed, Samoyede",
        "n02088364 beagle",
        "n02086240 Shih-Tzu",
        "n02089973 English foxhound",
        "n02087394 Rhodesian ridgeback",
        "n02115641 dingo, warrigal, warragal, Canis dingo",
        "n02099601 golden retriever",
        "n02105641 Old English sheepdog, bobtail",
    ),
    # the other subsets of MTT
    "imagefruit": (
        "n07753275 pineapple, ananas",
        "n07753592 banana",
        "n07745940 strawberry",
        "n07747607 orange",
        "n07749582 lemon",
        "n07768694 pomegranate",
        "n07753113 fig",
        "n07720875 bell pepper",
        "n07718472 cucumber, cuke",
        "n07742313 Granny Smith",
    ),
    "imagemeow": (
        "n02123045 tabby, tabby cat",
        "n02123159 tiger cat",
        "n02123394 Persian cat",
        "n02123597 Siamese cat, Siamese",
        "n02124075 Egyptian cat",
        "n02129165 lion, king of beasts, Panthera leo",
        "n02129604 tiger, Panthera tigris",
        "n02128925 jaguar, panther, Panthera onca, Felis onca",
        "n02128757 snow leopard, ounce, Panthera uncia",
        "n02127052 lynx, catamount",
    ),
    "imagesquawk": (
        "n01806143 peacock",
        "n02007558 flamingo",
        "n01818515 macaw",
        "n02051845 pelican",
        "n02056570 king penguin, Aptenodytes patagonica",
        "n01614925 bald eagle, American eagle, Haliaeetus leucocephalus",
        "n01843383 toucan",
        "n01518878 ostrich, Struthio camelus",
        "n01860187 black swan, Cygnus atratus",
        "n01819313 sulphur-crested cockatoo, Kakatoe galerita, Cacatua galerita",
    ),
    "imageyellow": (
        "n02206856 bee",
        "n12057211 yellow lady's slipper, yellow lady-slipper, Cypripedium calceolus, Cypripedium parviflorum",
        "n07753592 banana",
        "n07749582 lemon",
        "n12144580 corn",
        "n04146614 school bus",
        "n03530642 honeycomb",
        "n02129165 lion, king of beasts, Panthera leo",
        "n01773157 black and gold garden spider, Argiope aurantia",
        "n01531178 goldfinch, Carduelis carduelis",
    ),
}

# a repository that several names share maps to the whole dataset
_HUB_IDS = {known.hub_id.lower(): name for name, known in KNOWN.items() if known.classes is None}

_WORDNET = re.compile(r"n\d{8}")


def canonical_name(name: str) -> str:
    """The key of `KNOWN` that `name`, a short name or its Hub id, stands for, else `name` as it is."""
    lower = name.lower()
    return ALIASES.get(lower) or _HUB_IDS.get(lower) or (lower if lower in KNOWN else name)


def _spoken(name: str) -> str:
    """Normalises names that differ in case, underscores or hyphens."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name).lower().split())


def synonyms(name: str) -> list[str]:
    """The synonyms of one class, most exact first: the whole name, then its WordNet id and each comma-separated part.

    >>> synonyms("n01440764 tench, Tinca tinca")
    ['n01440764 tench, tinca tinca', 'tench, tinca tinca', 'n01440764', 'tench', 'tinca tinca']
    """
    found = [_spoken(name)]
    ids = _WORDNET.findall(name)
    readable = _spoken(_WORDNET.sub("", name).strip(" ,:;()"))
    found += [readable, *ids, *(part.strip() for part in readable.split(","))]
    return list(dict.fromkeys(f for f in found if f))


def match_class(wanted: str, class_names: Sequence[str]) -> int | None:
    """Number of the class that `wanted` means, or None. Exact names go before synonyms, WordNet ids before words.

    Raises:
        DataError: two classes match `wanted` ("crane" is a bird and a machine).
    """
    wanted = str(wanted).strip()
    if wanted in class_names:
        return list(class_names).index(wanted)
    spoken = [synonyms(name) for name in class_names]
    for said in synonyms(wanted):
        whole = [i for i, names in enumerate(spoken) if names[0] == said]
        part = whole or [i for i, names in enumerate(spoken) if said in names]
        if len(part) == 1:
            return part[0]
        if len(part) > 1 and said == synonyms(wanted)[-1]:
            both = " and ".join(repr(class_names[i]) for i in part[:4])
            raise DataError("classes", wanted, f"a name that only one class has; this one fits {both}", "write it out")
    if wanted.isdigit() and int(wanted) < len(class_names):
        return int(wanted)
    return None


def _readable(wordnet_id: str) -> str:
    """ImageNet's readable names of a WordNet id (the id itself where ImageNet does not have it)."""
    from timm.data import ImageNetInfo  # imported here because it takes seconds

    info = ImageNetInfo("imagenet-1k")
    return info.label_name_to_description(wordnet_id) if wordnet_id in info.label_names() else wordnet_id


def _with_commas(wanted: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Puts the parts of a class name that holds commas together again: a command line splits there.

    Parts that are exact class names stay separate.
    """
    whole = {tuple(_spoken(part) for part in name.split(",")): name for name in class_names if "," in name}
    longest, parts, joined = max(map(len, whole), default=1), [str(name).strip() for name in wanted], []
    while parts:
        for count in range(min(longest, len(parts)), 1, -1):
            head = parts[:count]
            name = whole.get(tuple(_spoken(part) for part in head))
            if name is not None and not all(part in class_names for part in head):
                break
        else:
            count, name = 1, parts[0]
        joined.append(name)
        parts = parts[count:]
    return joined


def select_classes(wanted: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Class numbers, in the order asked for.

    Args:
        wanted: class names (whole, or split at their commas), parts of their synonyms, WordNet ids, class numbers, or one key of `CLASS_SETS`.
        class_names: all class names of the dataset, in label order.

    Raises:
        DataError: a name that matches no class or several classes, or the same class twice.
    """
    if len(wanted) == 1 and wanted[0] in CLASS_SETS and match_class(wanted[0], class_names) is None:
        wanted = CLASS_SETS[wanted[0]]
    found: list[int] = []
    for name in _with_commas(wanted, class_names):
        number = match_class(name, class_names)
        if number is None and _WORDNET.fullmatch(str(name)):
            number = match_class(_readable(name), class_names)
        if number is None:
            near = nearest(str(name), [*(n.split(",")[0] for n in class_names), *CLASS_SETS])
            raise DataError("classes", name, f"names or numbers of the dataset's {len(class_names)} classes", near)
        if number in found:
            raise DataError("classes", name, "each class once", f"{class_names[number]!r} is named twice; drop one")
        found.append(number)
    if len(found) < 2:
        raise DataError("classes", tuple(wanted), "two classes or more", "add a class")
    return found
