"""Commands that are wrong because of their tables or image folders, as in `helpers.wrong`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.wrong import Wrong

Rows = Callable[[int], str]


def csv(**tables: str) -> Callable[[Path], None]:
    """Write tables, `t="..."` as t.csv."""

    def write(here: Path) -> None:
        for name, text in tables.items():
            (here / f"{name}.csv").write_text(text)

    return write


def rows(row: Rows, header: str = "a,b,y", count: int = 60) -> str:
    """A table of so many rows."""
    return "".join(f"{line}\n" for line in ([header] if header else []) + [row(i) for i in range(count)])


def photos(*folders: str, count: int = 4, pixels: type = np.uint8, white: int = 200) -> Callable[[Path], None]:
    """Write small images into folders of `photos`."""

    def write(here: Path) -> None:
        for level, folder in enumerate(folders, 1):
            (here / "photos" / folder).mkdir(parents=True)
            for number in range(count):
                values = np.full((8, 8), white * level // len(folders), pixels)
                Image.fromarray(values).save(here / "photos" / folder / f"{number}.{'png' if white < 256 else 'tif'}")

    return write


def not_utf_8(here: Path) -> None:
    (here / "t.csv").write_bytes("a,b,y\n1,2,é\n".encode("latin-1"))


def a_damaged_image(here: Path) -> None:
    photos("cat", "dog")(here)
    (here / "photos" / "cat" / "0.png").write_bytes(b"x")


def a_class_without_images(here: Path) -> None:
    photos("cat", "dog")(here)
    (here / "photos" / "bird").mkdir()


def one_file_in_two_classes(here: Path) -> None:
    photos("cat", "dog")(here)
    (here / "photos" / "dog" / "again.png").hardlink_to(here / "photos" / "cat" / "0.png")


TABLE = ["data=csv", "data.path=t.csv"]
VALUES = [*TABLE, "loss=mse"]
SOUND = rows(lambda i: f"{i},{i % 7},{'xy'[i % 2]}")
NUMBERS = rows(lambda i: f"{i},{i % 7},{1 + i % 2}")

PHOTOS = ["data=image_folder", "data.path=photos", "data.size=8"]
CATS_AND_DOGS = photos("cat", "dog")

WRONG_DATA = [
    # Settings of tables.
    Wrong([*TABLE, "data.target=yy"], [("data.target", "unknown")], [*TABLE, "data.target=y"], csv(t=SOUND)),
    Wrong([*TABLE, "data.index=aa"], [("data.index", "unknown")], [*TABLE, "data.index=a"], csv(t=SOUND)),
    Wrong([*TABLE, "data.target=a", "data.index=a"], [("data.target", "conflict")], None, csv(t=SOUND)),
    Wrong(
        [*TABLE, "data.test_fraction=1"],
        [("data.test_fraction", "range")],
        [*TABLE, "data.test_fraction=0.2"],
        csv(t=SOUND),
    ),
    Wrong(
        [*TABLE, "data.test_path=t.csv", "data.test_fraction=0.3"],
        [("data.test_fraction", "conflict")],
        [*TABLE, "data.test_path=t.csv", "data.test_fraction=null"],
        csv(t=SOUND),
    ),
    Wrong(
        VALUES,
        [("data.test_fraction", "data")],
        ["data.test_fraction=0", *VALUES],
        csv(t=rows(lambda i: "1,2,3.5", count=1)),
    ),
    Wrong(
        ["data=table", "data.path=t.csv", "data.target=yy"],
        [("data.target", "unknown")],
        ["data=table", "data.path=t.csv", "data.target=y"],
        csv(t=SOUND),
    ),
    Wrong(
        ["data=table", "data.path=t.csv", "loss=mse"],
        [("data.target_type", "data")],
        ["data.target_type=category", "loss=cross_entropy", "data=table", "data.path=t.csv"],
        csv(t=SOUND),
    ),
    Wrong(
        ["data=table", "data.path=t.csv", "data.test_path=u.csv"],
        [("data.test_path", "data")],
        None,
        csv(t=SOUND, u=rows(lambda i: f"{i},{i % 7},3,{'xy'[i % 2]}", "a,b,more,y")),
    ),
    Wrong(["model=tabular"], [("model", "conflict")], ["model=mlp"]),
    # The layout of tables.
    Wrong(
        VALUES,
        [("data.header", "data")],
        ["data.header=true", *VALUES],
        csv(t=rows(lambda i: f"{i * 0.5},{i * 0.25},{i * 0.1:.1f}", "5,3,12")),
    ),
    Wrong(
        TABLE,
        [("data.index", "data")],
        ["data.index=Unnamed: 0", *TABLE],
        csv(t=rows(lambda i: f"{i % 30},{i * 0.5},{i % 3}", ",a,y")),
    ),
    Wrong(
        TABLE, [("data.index", "data")], ["data.index=0", *TABLE], csv(t=rows(lambda i: f"{i},{i * 0.5},{i % 3}", ""))
    ),
    Wrong(TABLE, [("data.path", "data")], None, csv(t=SOUND.replace("b", "a", 1))),
    Wrong(TABLE, [("data.path", "data")], None, csv(t=SOUND.replace("b", "", 1))),
    Wrong(TABLE, [("data.path", "data")], None, csv(t=f"{SOUND}1,2,x,4\n")),
    Wrong(TABLE, [("data.path", "data")], None, csv(t="a,b,y\n")),
    Wrong(TABLE, [("data.path", "data")], None, csv(t="y\n1\n2\n")),
    Wrong(TABLE, [("data.path", "data")], None, csv(t=rows(lambda i: f"{i},5;{i % 2}", ""))),
    Wrong(TABLE, [("data.path", "data")], None, csv(t=f'{SOUND}1,2,"x\n')),
    Wrong(TABLE, [("data.path", "data")], None, not_utf_8),
    # The cells of tables; all problems of a table are reported together.
    Wrong(
        TABLE,
        [("data.path", "data")] * 3,
        None,
        csv(t=rows(lambda i: f"{i},{['', 1][i % 2]},{['inf', 2][i % 2]},k,{i % 2}", "a,b,c,d,y")),
    ),
    # The target of tables.
    Wrong(
        TABLE,
        [("data.target_type", "data")],
        ["data.target_type=number", "loss=mse", *TABLE],
        csv(t=rows(lambda i: f"{i}.5,{i},{i % 7}")),
    ),
    Wrong(
        [*TABLE, "data.target_type=category"],
        [("data.target", "data")],
        ["data.target_type=number", *TABLE],
        csv(t=rows(lambda i: f"{i},{i % 7},{i}.5")),
    ),
    Wrong(
        [*TABLE, "loss=cross_entropy", "data.target_type=number"],
        [("data.target_type", "conflict")],
        [*TABLE, "loss=cross_entropy", "data.target_type=category"],
        csv(t=NUMBERS),
    ),
    Wrong(
        [*TABLE, "loss.label_smoothing=0.1"],
        [("loss.label_smoothing", "conflict")],
        TABLE,
        csv(t=rows(lambda i: f"{i},{i % 7},{i / 8}")),
    ),
    Wrong(
        [*VALUES, "data.target_type=category"],
        [("data.target_type", "conflict")],
        [*VALUES, "data.target_type=number"],
        csv(t=NUMBERS),
    ),
    Wrong(
        [*TABLE, "data.target_type=number"],
        [("data.target_type", "data")],
        [*TABLE, "data.target_type=category"],
        csv(t=SOUND),
    ),
    Wrong(
        [*VALUES, "data.target_type=number"],
        [("data.target_type", "data")],
        [*TABLE, "data.target_type=category", "loss=cross_entropy"],
        csv(t=SOUND),
    ),
    Wrong(
        TABLE,
        [("data.target_type", "data")],
        ["data.target_type=category", *TABLE],
        csv(t=rows(lambda i: f"{i},{i % 7},{['0', '00', '1'][i % 3]}")),
    ),
    Wrong(
        TABLE,
        [("data.target_type", "data")],
        ["data.target_type=category", *TABLE],
        csv(t=rows(lambda i: f"{i},{i % 7},{['cat', 'cat ', 'dog'][i % 3]}")),
    ),
    Wrong(
        VALUES,
        [("data.target_type", "data")],
        ["data.target_type=number", *VALUES],
        csv(t=rows(lambda i: f"{i},{i % 7},00{i % 3}")),
    ),
    Wrong(TABLE, [("data.target_type", "data")], None, csv(t=rows(lambda i: f"{i},{i % 7},2020-01-0{1 + i % 3}"))),
    Wrong(TABLE, [("data.target", "data")], None, csv(t=rows(lambda i: f"{i},{i % 7},x"))),
    # Other parts of tables.
    Wrong([*TABLE, "data.val_path=v.csv"], [("data.val_path", "data")], None, csv(t=SOUND, v="a,c,y\n1,2,x\n")),
    Wrong([*TABLE, "data.val_path=v.csv"], [("data.val_path", "data")], None, csv(t=SOUND, v="a,b,y\n1,2,z\n")),
    Wrong([*TABLE, "data.test_path=v.csv"], [("data.test_path", "data")], None, csv(t=SOUND, v="a,b,y\n1,,x\n")),
    # Settings of image folders.
    Wrong(["data=image_folder"], [("data.path", "missing")]),
    Wrong([*PHOTOS, "data.channels=2"], [("data.channels", "choice")], [*PHOTOS, "data.channels=3"], CATS_AND_DOGS),
    Wrong([*PHOTOS, "data.classes=[dog,cow]"], [("data.classes", "unknown")], None, CATS_AND_DOGS),
    Wrong(
        [*PHOTOS, "data.classes=[dog,bord]"],
        [("data.classes", "unknown")],
        [*PHOTOS, "data.classes=[dog,bird]"],
        photos("cat", "dog", "bird"),
    ),
    Wrong(
        [*PHOTOS, "data.test_fraction=0.3"],
        [("data.test_fraction", "conflict")],
        [*PHOTOS, "data.test_fraction=null"],
        photos("train/cat", "train/dog", "test/cat", "test/dog"),
    ),
    Wrong(
        [*PHOTOS, "data.val_path=photos/train"],
        [("data.val_path", "conflict")],
        [*PHOTOS, "data.val_path=null"],
        photos("train/cat", "train/dog", "val/cat", "val/dog"),
    ),
    Wrong(PHOTOS, [("data.test_fraction", "data")], ["data.test_fraction=0", *PHOTOS], photos("cat", count=1)),
    # Parts or classes.
    Wrong(
        PHOTOS,
        [("data.classes", "data")],
        ["data.classes=[te,tr]", *PHOTOS],
        photos("tr/cat", "tr/dog", "te/cat", "te/dog"),
    ),
    Wrong(PHOTOS, [("data.classes", "data")], ["data.classes=[images,labels]", *PHOTOS], photos("images", "labels")),
    Wrong(PHOTOS, [("data.classes", "data")], ["data.classes=[test,train]", *PHOTOS], photos("train", "test")),
    Wrong(PHOTOS, [("data.path", "data")], None, photos("train/cat", "train/dog", "Train/cat")),
    Wrong(PHOTOS, [("data.path", "data")], None, photos("train/cat", "train/dog", "more")),
    Wrong(PHOTOS, [("data.path", "data")], None, photos("test/cat", "test/dog")),
    Wrong(PHOTOS, [("data.path", "data")], None, photos("")),
    Wrong(PHOTOS, [("data.path", "data")], None, a_class_without_images),
    Wrong(PHOTOS, [("data.path", "data")], None, one_file_in_two_classes),
    Wrong(
        ["data=image_folder", "data.size=8", "data.path=photos/train", "data.test_path=photos/more"],
        [("data.test_path", "data")],
        None,
        photos("train/cat", "train/dog", "more/cow"),
    ),
    # Pixels.
    Wrong(PHOTOS, [("data.path", "file")], None, a_damaged_image),
    Wrong(
        [*PHOTOS, "data.scale=none"],
        [("data.scale", "data")],
        [*PHOTOS, "data.scale=4095"],
        photos("cat", "dog", pixels=np.uint16, white=4095),
    ),
    Wrong(
        PHOTOS,
        [("data.scale", "data")],
        ["data.scale=100000", *PHOTOS],
        photos("cat", "dog", pixels=np.int32, white=100_000),
    ),
    Wrong(PHOTOS, [("data.scale", "data")], ["data.scale=3", *PHOTOS], photos("cat", "dog", white=3)),
]
