"""Builds edgetl/samples: the same emoji drawn by two designers, as a small two-domain image set.

    python scripts/make_samples.py [--packages DIR] [--out edgetl/samples]

The images come byte for byte from two pinned npm packages (fetched with `npm pack`, or taken from
--packages), are sorted into classes by Unicode subcategory and split by identity: an emoji and its variants
are in the same split, and in the same split in both styles. Nothing is random; a second run writes the same
bytes.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
VERSION = "16.0.0"
SPLITS = ("train", "val", "test")
VAL_SHARE, TEST_SHARE = 0.10, 0.38  # a large test part on purpose: it certifies parity
CLASS_LIMIT = 48
FILE_TIME = 1_727_740_800  # 2024-10-01 UTC, about when Emoji 16.0 came out
THUMBNAIL = 16
SAME_CORRELATION, SAME_GREY_LEVELS = 0.995, 3.0


class Style(NamedTuple):
    """One designer's images: where they come from and the licence statement that goes with them."""

    name: str
    vendor: str
    sha256: str
    full_text: str
    statement: str

    @property
    def package(self) -> str:
        """The npm package of this style."""
        return f"emoji-datasource-{self.vendor}"


class Recipe(NamedTuple):
    """What a class is made of: whole Unicode subcategories, plus and minus single short names."""

    subcategories: tuple[str, ...] = ()
    plus: str = ""
    minus: str = ""


UNCHANGED = f"""\
The images were taken from the npm package {{package}} {VERSION} (emoji-data by Cal
Henderson, which holds them at 64 x 64 pixels; its own licence is in LICENSE-emoji-data.txt).
Changes made here: a part of the images was selected, renamed to its Unicode code points and sorted
into folders. The image bytes are unchanged.
"""

STYLES = (
    Style(
        "noto",
        "google",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "LICENSE-Apache-2.0.txt",
        """\
The images in this folder are from Noto Emoji, version 2.048
Copyright Google LLC and the Noto Emoji authors
https://github.com/googlefonts/noto-emoji

They are licensed under the Apache License, Version 2.0; its text is in LICENSE-Apache-2.0.txt.
Noto's flags are in the public domain or otherwise exempt from copyright (third_party/region-flags
in that repository).

""",
    ),
    Style(
        "twemoji",
        "twitter",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "LICENSE-CC-BY-4.0.txt",
        """\
The images in this folder are from Twemoji, version 16.0.1
Copyright Twitter, Inc and other contributors
https://github.com/jdecked/twemoji

They are licensed under the Creative Commons Attribution 4.0 International licence (CC-BY 4.0):
https://creativecommons.org/licenses/by/4.0/ - the legal code is in LICENSE-CC-BY-4.0.txt.
They come without any warranty, and their authors do not endorse this project.

""",
    ),
)

FACES = (
    "face-affection",
    "face-concerned",
    "face-glasses",
    "face-hand",
    "face-hat",
    "face-negative",
    "face-neutral-skeptical",
    "face-sleepy",
    "face-smiling",
    "face-tongue",
    "face-unwell",
)
HANDS = (
    "hand-fingers-closed",
    "hand-fingers-open",
    "hand-fingers-partial",
    "hand-prop",
    "hand-single-finger",
    "hands",
)

CLASSES = {
    "activity": Recipe(("person-activity", "person-sport")),
    "animal": Recipe(("animal-mammal",), minus="pig_nose feet"),
    "arrow": Recipe(
        ("arrow", "av-symbol"),
        minus="back end on soon top cinema vibration_mode mobile_phone_off signal_strength low_brightness"
        " high_brightness wireless",
    ),
    "building": Recipe(
        ("place-building", "place-religious"),
        plus="circus_tent",
        minus="bricks rock wood statue_of_liberty",
    ),
    "face": Recipe(FACES),
    "flag": Recipe(("country-flag",)),
    "food": Recipe(("food-asian", "food-prepared", "food-sweet"), minus="egg"),
    "hand": Recipe(HANDS),
    "paper": Recipe(("book-paper", "mail")),
    "person": Recipe(("person-gesture", "person-role")),
    "produce": Recipe(("food-fruit", "food-vegetable")),
    "scene": Recipe(
        ("place-geographic",),
        plus="foggy night_with_stars sunrise_over_mountains sunrise city_sunset city_sunrise bridge_at_night"
        " cityscape milky_way stars fireworks sparkler rice_scene motorway railway_track ocean"
        " frame_with_picture rainbow fog",
    ),
    "sign": Recipe(("alphanum", "transport-sign"), minus="a b"),
    "sky": Recipe(
        ("sky & weather",),
        minus="closed_umbrella milky_way ocean stars thermometer umbrella umbrella_with_rain_drops"
        " umbrella_on_ground droplet fire rainbow snowman snowman_without_snow wind_blowing_face fog",
    ),
    "vehicle": Recipe(
        ("transport-air", "transport-ground", "transport-water"),
        minus="station busstop traffic_light vertical_traffic_light construction octagonal_sign wheel"
        " oil_drum motorway railway_track fuelpump rotating_light roller_skate skateboard seat anchor"
        " ring_buoy satellite parachute flying_saucer motorized_wheelchair manual_wheelchair"
        " suspension_railway mountain_cableway aerial_tramway rocket",
    ),
}

# Variants of one drawing that neither the code points nor the thumbnails give away.
RELATED = (
    "prince princess person_with_crown",
    "pregnant_man pregnant_person pregnant_woman",
    "breast-feeding person_feeding_baby",
    "dancer man_dancing",
    "dog2 guide_dog service_dog",
    "cat2 black_cat",
    "apple green_apple",
    "closed_book green_book blue_book orange_book",
    "mailbox mailbox_closed mailbox_with_mail mailbox_with_no_mail",
    "inbox_tray outbox_tray",
    "waxing_crescent_moon waning_crescent_moon",
    "first_quarter_moon last_quarter_moon",
    "moon waning_gibbous_moon",
    "first_quarter_moon_with_face last_quarter_moon_with_face",
    "left-facing_fist right-facing_fist",
    "leftwards_hand rightwards_hand",
    "leftwards_pushing_hand rightwards_pushing_hand",
    "point_left point_right",
    "point_up point_up_2",
    "imp smiling_imp",
    "repeat repeat_one",
    "capital_abcd abcd",
)
FAMILY = {name: names.split()[0] for names in RELATED for name in names.split()}
PERSON, MAN_OR_WOMAN = "1F9D1", {"1F468", "1F469"}
VARIANT_MARKS = {"200D", "FE0F", "2640", "2642", "27A1"}  # joiner, emoji style, woman, man, facing right


def main() -> None:
    """Read the command line, build both styles and their README."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--packages", type=Path, help="a folder that holds the two npm tarballs")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "edgetl" / "samples")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.packages or Path(scratch)
        if not arguments.packages:
            download(folder)
        packages = {style: read_package(verified(style, folder), style) for style in STYLES}
    splits = plan(packages)
    for style, files in packages.items():
        write_style(arguments.out / style.name, style, files, splits)
    write(arguments.out / "README.md", readme(splits).encode())
    print(f"{len(splits)} images per style in {arguments.out}")


def download(folder: Path) -> None:
    """Put the tarballs of both styles into a folder."""
    names = [f"{style.package}@{VERSION}" for style in STYLES]
    subprocess.run(["npm", "pack", "--silent", *names], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def verified(style: Style, folder: Path) -> Path:
    """The path of the style's tarball in a folder, its checksum compared."""
    path = folder / f"{style.package}-{VERSION}.tgz"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != style.sha256:
        raise SystemExit(f"{path} has sha256 {found}; this script knows {style.sha256}.")
    return path


def read_package(path: Path, style: Style) -> dict[str, bytes]:
    """The files this script needs, by short name: images as `<image>.png`, emoji.json and LICENSE."""
    images = f"package/img/{style.vendor}/64/"
    files = {}
    with tarfile.open(path) as tarball:
        for member in tarball:
            name = member.name.removeprefix(images)
            wanted = name != member.name or name in {"package/emoji.json", "package/LICENSE"}
            content = tarball.extractfile(member) if wanted else None
            if content:
                files[name.removeprefix("package/")] = content.read()
    return files


def plan(packages: dict[Style, dict[str, bytes]]) -> dict[str, tuple[str, str, str]]:
    """For each chosen image: its split, class and file name, keyed by its name in the package."""
    emoji = drawn_by_all(packages)
    chosen: dict[str, tuple[str, str, str]] = {}
    for label, recipe in CLASSES.items():
        candidates = [one for one in emoji if belongs(one, recipe)]
        groups = choose(identity_groups(candidates, packages))
        for split, members in split_groups(groups):
            chosen |= {one["image"]: (split, label, f"{one['unified']}.png") for one in members}
    return chosen


def drawn_by_all(packages: dict[Style, dict[str, bytes]]) -> list[dict[str, Any]]:
    """The emoji (without skin tones, which emoji.json lists apart) that every style draws, by code point."""
    emoji = json.loads(packages[STYLES[0]]["emoji.json"])
    drawn = [one for one in emoji if all(one["image"] in files for files in packages.values())]
    return sorted(drawn, key=lambda one: one["unified"])


def belongs(one: dict[str, Any], recipe: Recipe) -> bool:
    """Whether an emoji is a candidate for the class of this recipe."""
    name = one["short_name"]
    if name in recipe.minus.split():
        return False
    return one["subcategory"] in recipe.subcategories or name in recipe.plus.split()


def identity_groups(
    candidates: list[dict[str, Any]], packages: dict[Style, dict[str, bytes]]
) -> list[list[dict[str, Any]]]:
    """The candidates of a class, those that are variants or near-copies of each other put together."""
    leader = list(range(len(candidates)))

    def find(index: int) -> int:
        """Follow the leaders of an index to the last one."""
        while leader[index] != index:
            index = leader[index]
        return index

    for first, second in [*same_base(candidates), *near_copies(candidates, packages)]:
        low, high = sorted((find(first), find(second)))
        leader[high] = low
    groups: dict[int, list[dict[str, Any]]] = {}
    for index, one in enumerate(candidates):
        groups.setdefault(find(index), []).append(one)
    return list(groups.values())


def same_base(candidates: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Pairs of candidates (by index) that are man/woman/person or related variants of one emoji."""
    first_of: dict[str, int] = {}
    for index, one in enumerate(candidates):
        keys = [base(one["unified"])]
        if one["short_name"] in FAMILY:
            keys.append(FAMILY[one["short_name"]])
        for key in keys:
            yield first_of.setdefault(key, index), index


def base(unified: str) -> str:
    """The code points without gender and direction: woman farmer, man farmer and farmer are the same."""
    points = [PERSON if point in MAN_OR_WOMAN else point for point in unified.split("-")]
    return "-".join(point for point in points if point not in VARIANT_MARKS)


def near_copies(
    candidates: list[dict[str, Any]], packages: dict[Style, dict[str, bytes]]
) -> Iterator[tuple[int, int]]:
    """Pairs of candidates whose thumbnails, or one and the other's mirror image, nearly agree in a style."""
    for files in packages.values():
        plain = np.stack([thumbnail(files[one["image"]]) for one in candidates])
        for other in (plain, plain[:, :, ::-1]):
            rows, columns = np.nonzero(nearly_equal(flat(plain), flat(other)))
            yield from zip(rows.tolist(), columns.tolist(), strict=True)


def thumbnail(content: bytes) -> np.ndarray:
    """An image on white, 16 x 16 x 3."""
    drawing = Image.open(io.BytesIO(content)).convert("RGBA")
    paper = Image.new("RGBA", drawing.size, "white")
    paper.alpha_composite(drawing)
    small = paper.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)


def flat(thumbnails: np.ndarray) -> np.ndarray:
    """One row per thumbnail."""
    return thumbnails.reshape(len(thumbnails), -1)


def nearly_equal(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each row of `left` and of `right`: whether they correlate and differ by very few grey levels."""
    correlation = np.corrcoef(left, right)[: len(left), len(left) :]
    distance = np.stack([np.abs(right - row).mean(axis=1) for row in left])
    same: np.ndarray = (correlation > SAME_CORRELATION) & (distance <= SAME_GREY_LEVELS)
    return same


def choose(groups: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """At most CLASS_LIMIT emoji: one of each group first, then a second of each, and so on."""
    ordered = [by_hash(group, "choose") for group in groups]
    ordered.sort(key=lambda group: digest(group, "choose"))
    rounds = [one for members in zip_longest(*ordered) for one in members if one]
    kept = {one["unified"] for one in rounds[:CLASS_LIMIT]}
    remaining = ([one for one in group if one["unified"] in kept] for group in ordered)
    return [group for group in remaining if group]


def split_groups(groups: list[list[dict[str, Any]]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give each group a split: test and val are filled in hash order up to their share, the rest is train."""
    total = sum(len(group) for group in groups)
    room = {"test": round(TEST_SHARE * total), "val": round(VAL_SHARE * total), "train": total}
    for group in sorted(groups, key=lambda group: digest(group, "split")):
        split = next(name for name, free in room.items() if free >= len(group))
        room[split] -= len(group)
        yield split, group


def by_hash(group: list[dict[str, Any]], purpose: str) -> list[dict[str, Any]]:
    """The members of a group in an order that is arbitrary and always the same."""
    return sorted(group, key=lambda one: digest([one], purpose))


def digest(group: list[dict[str, Any]], purpose: str) -> str:
    """A hash of a group's identity, different for each purpose."""
    identity = min(one["unified"] for one in group)
    return hashlib.sha256(f"{purpose}:{identity}".encode()).hexdigest()


def write_style(
    folder: Path, style: Style, files: dict[str, bytes], splits: dict[str, tuple[str, str, str]]
) -> None:
    """Write one style's images and licences; what an earlier run left in its split folders goes away."""
    for split in SPLITS:
        shutil.rmtree(folder / split, ignore_errors=True)
    for image, (split, label, name) in splits.items():
        write(folder / split / label / name, files[image])
    write(folder / "LICENSE.txt", (style.statement + UNCHANGED.format(package=style.package)).encode())
    write(folder / "LICENSE-emoji-data.txt", files["LICENSE"])
    write(folder / style.full_text, full_text(style))


def full_text(style: Style) -> bytes:
    """The licence's own text: the project's for Apache-2.0, else the one committed with the samples."""
    if "Apache" in style.full_text:
        return (REPOSITORY / "LICENSE").read_bytes()
    return (REPOSITORY / "edgetl" / "samples" / style.name / style.full_text).read_bytes()


def write(path: Path, content: bytes) -> None:
    """Write a file, its folders first, with a fixed time of change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (FILE_TIME, FILE_TIME))


def readme(splits: dict[str, tuple[str, str, str]]) -> str:
    """The text of edgetl/samples/README.md."""
    counts = Counter((label, split) for split, label, _ in splits.values())
    rows = {label: [counts[label, split] for split in SPLITS] for label in CLASSES}
    rows["**all**"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    table = "\n".join(f"| {name} | {' | '.join(map(str, row))} | {sum(row)} |" for name, row in rows.items())
    sources = "\n".join(
        f"| `{style.name}/` | {style.package} {VERSION} | `{style.sha256}` | {style.name}/LICENSE.txt |"
        for style in STYLES
    )
    return README.format(table=table, sources=sources, val=VAL_SHARE, test=TEST_SHARE)


README = """\
# Sample images: the same emoji, drawn by two designers

A small image set with two domains, made by `scripts/make_samples.py`: emoji of 64 x 64 pixels with
transparency, in the style of Noto Emoji (Google) and of Twemoji (Twitter). Both folders hold the same emoji
under the same names, `<style>/<split>/<class>/<Unicode code points>.png`, so a model trained on one style
can be tested on the other without having seen any of its subjects.

Images of each style:

| class | train | val | test | all |
|---|---:|---:|---:|---:|
{table}

`activity` is people in motion, `person` is people with a role or a gesture, `paper` is books, papers and
mail.

## How it was made

- A class is made of Unicode subcategories, with single emoji taken out or added; `CLASSES` in the script
  says which. Skin tones are left out.
- An identity is one emoji with its variants: man, woman and person; facing left and right; and drawings
  whose 16 x 16 thumbnails (or mirror images) nearly agree in either style. No identity is in two splits.
- In each class, {test:.0%} of the images are for test and {val:.0%} for validation, chosen by a hash of the
  identity. The test part is large on purpose: it certifies that exported models agree with the original.
- Image bytes are those of the packages. Most files are RGBA; about one in twenty is
  palette or grey with alpha.

## Sources and licences

| folder | npm package | sha256 of the tarball | licence |
|---|---|---|---|
{sources}

Noto Emoji: Copyright Google LLC and the Noto Emoji authors, Apache License 2.0.
Twemoji: Copyright Twitter, Inc and other contributors, [CC-BY 4.0](https://creativecommons.org/licenses/by/4.0/);
selected, renamed and sorted here, otherwise unchanged.
The packages and the subcategories in them are from [emoji-data](https://github.com/iamcal/emoji-data) (MIT,
Copyright Cal Henderson). The full texts lie next to each style's images.

## Rebuild

    python scripts/make_samples.py                 # needs npm and the network
    python scripts/make_samples.py --packages DIR  # DIR holds the two tarballs

The script checks the tarballs' sha256 and writes the same bytes each time.
"""


if __name__ == "__main__":
    main()
