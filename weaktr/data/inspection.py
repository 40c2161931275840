"""The one look at a data set's files, for `weaktr data check` and for the check before a run.

Each file is read once. What was seen image by image is then judged as a whole: whether labels and masks tell the same,
whether values, bits and turns can be meant as they are read, and what the lists cannot show.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import atomic_name
from ..processes import in_shares
from .dataset import Dataset
from .images import VOID, colours_of, palette, pixels_by_value
from .spelling import listed

MOST_BYTES = 255  # of a file's name, on nearly every file system
FEW = 0.005  # share of an image's pixels that an outline, or a rest of an object at the border, may have
SOME = 3  # images from which on a class that always disagrees is no accident
NEARLY_ALL = 0.9
MANY = 0.05  # share of labels: crowds and hidden objects leave fewer of them without a pixel
NAMED = 3  # colours that a sentence names
DARK = 64  # of 255: what the upper eight of 16 bits hold where 14 or fewer are used
VOC_COLOURS: dict[tuple[int, ...], int] = {
    colour: value for value, colour in enumerate(zip(*[iter(palette())] * 3, strict=True))
}
GREYS: dict[tuple[int, ...], int] = {(grey,) * 3: grey for grey in range(256)}


# ── What is seen ──────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class Seen:
    """What the files of an image hold."""

    image_id: str
    path: Path
    error: str = ""  # why a file cannot be used; the rest is empty then
    height: int = 0
    width: int = 0
    labels: frozenset[int] = frozenset()  # values in masks of the classes that its label names
    drawn: Mapping[int, int] | None = None  # pixels of each value of its mask; None without one
    colours: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # of these values, where a palette has them
    turned: bool = False  # by its EXIF note
    deep: str = ""  # "grey" or "colour" where it is stored in more than eight bits
    largest: float = 0  # value of these
    digest: str = ""  # of its pixels, where it was asked for

    @property
    def classes(self) -> frozenset[int]:
        """The values of classes in its mask."""
        return frozenset(self.drawn or ()) - {0, VOID}

    def is_small(self, value: int) -> bool:
        """Whether only a few pixels of its mask have a value."""
        return (self.drawn or {}).get(value, 0) < FEW * self.height * self.width

    @property
    def measurable(self) -> bool:
        """Whether it has a mask that is not all void."""
        return self.drawn is not None and set(self.drawn) != {VOID}


@dataclass
class Finding:
    """Something that a person should know about a data set."""

    kind: str  # in words that follow a number
    where: list[str]  # files, images, classes or lists, each with what is to be done
    fault: bool = True  # whether it is to be looked at; else it is as it may be
    refused: bool = False  # whether it can only be a mistake: no run is started
    told: bool = True  # whether a run says it in a word


@dataclass
class Inspection:
    """What was seen in the files of some lists, and what is to be said about it."""

    images: list[Seen]
    findings: list[Finding]


def inspect(
    dataset: Dataset,
    lists: Mapping[str, Sequence[str]],
    mask_list: Mapping[str, str | None] | None = None,
    workers: int = 1,
    digests: bool = False,
) -> Inspection:
    """Read every file of some lists, once, and judge what is in them.

    Args:
        dataset: The data set.
        lists: {name: ids}.
        mask_list: {id: the list for which its mask is required}; masks that exist must be right in any case.
        workers: How many processes read at most.
        digests: Whether to look for copies of one image, which takes longer.
    """
    dataset.warm()
    ids = list(dict.fromkeys(image_id for own in lists.values() for image_id in own))
    look = partial(_look_at_all, dataset=dataset, mask_list=mask_list or {}, digests=digests)
    images = [seen for share in in_shares(look, ids, workers) for seen in share]
    return Inspection(images, list(_judge(dataset, lists, images)))


def _look_at_all(
    ids: Iterable[str], *, dataset: Dataset, mask_list: Mapping[str, str | None], digests: bool
) -> list[Seen]:
    images = []
    for image_id in ids:
        try:
            images.append(_look(image_id, dataset, mask_list.get(image_id), digests))
        except DataError as error:
            images.append(Seen(image_id, dataset.image_path(image_id), error=str(error)))
    return images


def _look(image_id: str, dataset: Dataset, mask_list: str | None, digests: bool) -> Seen:
    """Read every file of an image; DataError for one that cannot be used."""
    longest = atomic_name(f"{image_id}.png")
    if len(longest.encode()) > MOST_BYTES:
        raise DataError(
            f"{dataset.image_path(image_id)}: files that are made of it are called {image_id}.png and, while they are "
            f"written, {longest}, {len(longest.encode())} bytes, of which {MOST_BYTES} are the most; shorten its "
            "name or those of its folders"
        )
    picture, mask = dataset.check_image(image_id, mask_list, coarse=not digests)
    height, width = picture.size
    seen = Seen(image_id, dataset.image_path(image_id), height=height, width=width, turned=picture.turned)
    seen.labels = frozenset((np.flatnonzero(dataset.labels(image_id)) + 1).tolist())
    if picture.largest:
        seen.deep, seen.largest = "grey", picture.largest
    elif ";16" in picture.stored:  # colours of 16 bits, of which Pillow reads the upper eight
        seen.deep, seen.largest = "colour", float(picture.pixels.max())
    if mask is not None:
        seen.drawn = pixels_by_value(mask)
        seen.colours = colours_of(dataset.mask_path(image_id), seen.drawn)
    if digests:
        seen.digest = hashlib.sha256(picture.pixels.tobytes()).hexdigest()
    return seen


# ── What is to be said ────────────────────────────────────────────────────────────────────────────────────────────
def _judge(dataset: Dataset, lists: Mapping[str, Sequence[str]], images: Sequence[Seen]) -> Iterator[Finding]:
    """Everything that a person should know, what no run is started with first."""
    found = [
        *_kinds("files that cannot be used", [seen.error for seen in images if seen.error], refused=True),
        *_of_reader(dataset),
    ]
    images = [seen for seen in images if not seen.error]
    found += [
        *_masks_without_class(dataset, images),
        *_palettes(dataset, images),
        *_masks_against_labels(dataset, images),
        *_bits(dataset, images),
        *_turns(images),
        *_copies(images),
        *_of_lists(dataset, lists, {seen.image_id: seen for seen in images}),
    ]
    yield from sorted(found, key=lambda finding: not finding.refused)


def _kinds(
    kind: str, where: Iterable[str], *, fault: bool = True, refused: bool = False, told: bool = True
) -> Iterator[Finding]:
    """A finding, where there is something to find."""
    if where := list(where):
        yield Finding(kind, where, fault, refused, told)


def _of_reader(dataset: Dataset) -> Iterator[Finding]:
    """What the reader of this layout sees."""
    remarks = list(dataset.remarks())
    for kind, refused in dict.fromkeys((remark.fault, remark.refused) for remark in remarks):
        where = [remark.text for remark in remarks if (remark.fault, remark.refused) == (kind, refused)]
        yield from _kinds(kind or "remarks on the folder", where, fault=bool(kind), refused=refused, told=bool(kind))
    yield from _kinds("remarks on how it is read", dataset.noticed(), fault=False, told=False)  # in full, by a run


def _masks_without_class(dataset: Dataset, images: Sequence[Seen]) -> Iterator[Finding]:
    """No mask at all holds a class, though labels name some: 0 and 255, or background alone."""
    labelled = [seen for seen in images if seen.measurable and seen.labels]
    if not labelled or any(seen.classes for seen in images):
        return
    first = dataset.classes[0]
    meant = f"write 1 where {first} is" if len(dataset.classes) == 1 else f"write c for class c from 1, 1 for {first}"
    where = []
    for seen in labelled:
        void = VOID in (seen.drawn or ())
        holds = "0 and 255 alone; 255 is void, which counts for nothing" if void else "0 alone; 0 is background"
        where.append(f"mask {dataset.mask_path(seen.image_id)} holds {holds}: {meant}")
    yield Finding("masks without any class, of images that show one", where, refused=True)


def _masks_against_labels(dataset: Dataset, images: Sequence[Seen]) -> Iterator[Finding]:
    """Labels none of whose pixels are in the mask, and classes in masks that labels lack."""
    images = [seen for seen in images if seen.measurable]
    if not any(seen.classes for seen in images):
        return
    pairs = [(seen, value) for seen in images for value in sorted(seen.labels)]
    undrawn = [(seen, value) for seen, value in pairs if value not in seen.classes]
    yield from _numbering(dataset, images, pairs, undrawn)
    where = [f"{seen.image_id}: {dataset.classes[value - 1]}" for seen, value in undrawn]
    many = len(undrawn) > MANY * len(pairs)
    yield from _kinds("labels none of whose pixels is in the mask", where, fault=many, told=many)

    unlabelled = [(seen, value) for seen in images for value in sorted(seen.classes - seen.labels)]
    for small, kind in ((False, "classes"), (True, "classes of a few pixels")):
        own = [(seen, value) for seen, value in unlabelled if seen.is_small(value) == small]
        where = [f"{seen.image_id}: {dataset.classes[value - 1]}" for seen, value in own]
        yield from _kinds(f"{kind} in the mask that the label lacks", where, fault=not small)


def _numbering(
    dataset: Dataset, images: Sequence[Seen], pairs: Sequence[tuple[Seen, int]], undrawn: Sequence[tuple[Seen, int]]
) -> Iterator[Finding]:
    """Classes that are in no mask of the images that show them: masks are numbered in another way."""
    shown, missing = Counter(value for _, value in pairs), Counter(value for _, value in undrawn)
    where = []
    for value, count in sorted(missing.items()):
        if shown[value] < SOME or count < NEARLY_ALL * shown[value]:
            continue
        instead: Counter[int] = Counter()
        for seen in images:
            if value in seen.labels:
                instead.update(seen.classes - seen.labels)
        name = dataset.classes[value - 1]
        text = f"{count} of {shown[value]} images of {name} have no pixel of value {value} in their mask"
        if instead:
            other, times = instead.most_common(1)[0]
            text += f", {times} have {other} ({dataset.classes[other - 1]})"
        where.append(f"{text}; number masks by the order of the classes: {_numbers(dataset.classes)}")
    if not where and len(pairs) >= 2 * SOME and len(undrawn) > len(pairs) / 2:
        text = f"{len(undrawn)} of {len(pairs)} labels have no pixel in their mask"
        where.append(f"{text}; number masks by the order of the classes: {_numbers(dataset.classes)}")
    yield from _kinds("classes that masks number in another way", where, refused=True)


def _numbers(classes: Sequence[str]) -> str:
    return "0 background, " + listed([f"{value} {name}" for value, name in enumerate(classes, start=1)])


def _palettes(dataset: Dataset, images: Sequence[Seen]) -> Iterator[Finding]:
    """Palettes that a program has renumbered: values are read as they are stored, whatever their colours are."""
    most = len(dataset.classes)
    foreign = [seen for seen in images if seen.colours and not _is_usual(seen.colours)]
    by_colour = [(seen, values) for seen in foreign if (values := _values_of_colours(seen.colours, most)) is not None]
    as_stored = sum(len(seen.labels & seen.classes) for seen, _ in by_colour)
    as_drawn = sum(len(seen.labels & values) for seen, values in by_colour)
    remedy = "a program has renumbered the colours; write the classes' numbers as values, which alone count"
    if by_colour and as_drawn >= as_stored:
        where = [f"mask {_mask_and_colours(dataset, seen)}; {remedy}" for seen, _ in by_colour]
        yield Finding("masks whose colours, not their values, are the classes", where, refused=True)
        return
    if where := [f"{text}; {remedy}" for text in _several_colours(dataset, foreign)]:
        yield Finding("values of masks that have several colours", where, refused=True)
    else:
        where = [f"mask {_mask_and_colours(dataset, seen)}" for seen in foreign]
        yield from _kinds("masks whose colours are neither VOC's nor grey", where, fault=False, told=False)


def _several_colours(dataset: Dataset, images: Iterable[Seen]) -> Iterator[str]:
    """The values that have another colour in another mask, in words."""
    first: dict[int, Seen] = {}
    told = {VOID}
    for seen in images:
        for value, colour in seen.colours.items():
            other = first.setdefault(value, seen)
            if other.colours[value] != colour and value not in told:
                told.add(value)
                one, two = (dataset.mask_path(each.image_id) for each in (other, seen))
                yield f"value {value} is {other.colours[value]} in {one} and {colour} in {two}"


def _is_usual(colours: Mapping[int, tuple[int, ...]]) -> bool:
    """Whether the colours of some values are VOC's, or each is the grey of its value; void may have any."""
    known = [(value, colour) for value, colour in colours.items() if value != VOID]
    as_voc = all(VOC_COLOURS.get(colour) == value for value, colour in known)
    return as_voc or all(colour == (value,) * 3 for value, colour in known)


def _values_of_colours(colours: Mapping[int, tuple[int, ...]], most: int) -> frozenset[int] | None:
    """The classes that colours of VOC's palette, or greys, stand for; None unless all are values that masks may have.

    most: the number of classes.
    """
    for table in (VOC_COLOURS, GREYS):
        values = {table.get(colour, most + 1) for colour in colours.values()}
        if all(value <= most or value == VOID for value in values):
            return frozenset(values - {0, VOID})
    return None


def _mask_and_colours(dataset: Dataset, seen: Seen) -> str:
    """The mask of an image with its first colours, in words."""
    colours = [f"value {value} is {colour}" for value, colour in list(seen.colours.items())[:NAMED]]
    return f"{dataset.mask_path(seen.image_id)}: {', '.join(colours)}"


def _bits(dataset: Dataset, images: Sequence[Seen]) -> Iterator[Finding]:
    """Pictures of more than eight bits."""
    grey, colour = ([seen for seen in images if seen.deep == kind] for kind in ("grey", "colour"))
    if grey:
        white = dataset.white(grey[0].path)
        where = [
            f"{seen.path} holds up to {seen.largest:g}, {white} is read as white; the same in all of them"
            for seen in grey
        ]
        yield Finding("pictures of more than eight bits", where, fault=False)
        over = [
            f"{seen.path} holds {seen.largest:g}; all above {white} is white" for seen in grey if seen.largest > white
        ]
        yield from _kinds("pictures brighter than white", over)
    if colour and max(seen.largest for seen in colour) < DARK:
        remedy = "16 bits a colour, of which 14 or fewer are used, so that hardly anything is left in 8; save it with 8"
        where = [f"{seen.path} has {remedy}" for seen in colour]
        yield Finding("pictures that would be read as nearly black", where, refused=True)


def _turns(images: Sequence[Seen]) -> Iterator[Finding]:
    """EXIF notes, wherever there are masks, which have none."""
    remedy = "images are read upright, as viewers show them: see that their masks are upright, too"
    where = [f"{seen.path}; {remedy}" for seen in images if seen.turned and seen.drawn is not None]
    yield from _kinds("images with masks that their EXIF note turns or mirrors", where, fault=False)


def _copies(images: Sequence[Seen]) -> Iterator[Finding]:
    """Images with the same pixels."""
    same: dict[str, list[str]] = {}
    for seen in images:
        if seen.digest:
            same.setdefault(seen.digest, []).append(seen.image_id)
    yield from _kinds("copies of one image", [listed(sorted(ids)) for ids in same.values() if len(ids) > 1])


# ── Of each list ──────────────────────────────────────────────────────────────────────────────────────────────────
def _of_lists(dataset: Dataset, lists: Mapping[str, Sequence[str]], seen_of: Mapping[str, Seen]) -> Iterator[Finding]:
    """What the lists cannot teach, or cannot measure."""
    own = {name: [seen_of[image_id] for image_id in ids if image_id in seen_of] for name, ids in lists.items()}
    own = {name: images for name, images in own.items() if images}
    hints = [hint for name, images in own.items() for hint in _of_list(name, images, dataset.classes)]
    yield from _kinds("hints on lists", hints, fault=False)
    unlabelled = dict.fromkeys(seen.image_id for images in own.values() for seen in images if not seen.labels)
    yield from _kinds("images without a label", unlabelled, fault=False, told=False)
    if not dataset.has_masks:
        return
    with_masks = [name for name, images in own.items() if any(seen.drawn is not None for seen in images)]
    none = [
        f"{name}: none of its images has a mask; it can be learned from, and is not measured"
        for name in own
        if name not in with_masks
    ]
    yield from _kinds("lists without masks", none, fault=False)
    some = dict.fromkeys(seen.image_id for name in with_masks for seen in own[name] if seen.drawn is None)
    yield from _kinds("images without a mask", some, told=False)


def _of_list(name: str, images: Sequence[Seen], classes: Sequence[str]) -> Iterator[str]:
    """Hints on a list that holds too little."""
    if not images:
        return
    if len(images) == 1:
        yield f"{name}: it is one image; what is measured on it says nothing of others"
    shown = Counter(value for seen in images for value in seen.labels)
    if not shown:
        yield f"{name}: no image of it shows a class; nothing can be learned from it, and image labels not be measured"
        return
    never = [own for value, own in enumerate(classes, start=1) if not shown[value]]
    if never:
        yield f"{name}: no image of it shows {listed(never)}; there it can be neither learned nor measured"
    always = [own for value, own in enumerate(classes, start=1) if shown[value] == len(images) > 1]
    if always:
        yield f"{name}: every image of it shows {listed(always)}; add images that do not"
