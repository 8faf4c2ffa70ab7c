"""Readers of archives, one for each format that the publishers use: (archive, scratch folder) -> contents.

A reader leaves judging rows to :func:`recunlearn.engine.tables.table_from_frame`: what cannot be a number is
null, and is counted and named there.
"""

import ast
import gzip
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from .adjacency import read_adjacency
from .description import Contents
from .titles import clean_title, dated_title

_NAMES = ("user_id", "item_id", "value", "time")


def movielens_100k(archive: Path, scratch: Path) -> Contents:
    """GroupLens's ml-100k: ``u.data``, tabs; ``u.item`` in Latin-1, bars between fields."""
    del scratch
    with zipfile.ZipFile(archive) as members:
        rows = members.read("ml-100k/u.item").decode("latin-1").splitlines()
        ratings = members.read("ml-100k/u.data")
    fields = [row.split("|") for row in rows if row]
    return Contents(_whole_numbers(ratings), {int(row[0]): clean_title(row[1]) for row in fields})


def recbole_100k(archive: Path, scratch: Path) -> Contents:
    """RecBole's copy of ml-100k: the same lines below a header; titles and years in two columns."""
    del scratch
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    with zipfile.ZipFile(archive) as members:
        _, ratings = members.read(f"{folder}.inter").split(b"\n", 1)
        rows = members.read(f"{folder}.item").decode("utf-8").splitlines()[1:]
    titles: dict[int | str, str] = {}
    for row in rows:
        item, title, year, *_ = row.split("\t")
        titles[int(item)] = dated_title(title, year)
    return Contents(_whole_numbers(ratings), titles)


def movielens_dat(archive: Path, scratch: Path) -> Contents:
    """GroupLens's ml-1m: ``ratings.dat`` and ``movies.dat`` in Latin-1, two colons between fields."""
    del scratch
    with zipfile.ZipFile(archive) as members:
        ratings = members.read("ml-1m/ratings.dat").replace(b"::", b"\t")
        films = members.read("ml-1m/movies.dat").decode("latin-1").splitlines()
    fields = [film.split("::") for film in films if film]
    return Contents(_whole_numbers(ratings), {int(row[0]): clean_title(row[1]) for row in fields})


def movielens_csv(archive: Path, scratch: Path) -> Contents:
    """GroupLens's later sets: ``ratings.csv`` and ``movies.csv`` with headers."""
    ratings = pl.read_csv(_unzipped(archive, "ratings.csv", scratch), infer_schema=False)
    films = pl.read_csv(_unzipped(archive, "movies.csv", scratch), infer_schema=False)
    frame = ratings.select(
        pl.col("userId").cast(pl.Int64).alias("user_id"),
        pl.col("movieId").cast(pl.Int64).alias("item_id"),
        pl.col("rating").cast(pl.Float64).alias("value"),
        pl.col("timestamp").cast(pl.Int64).alias("time"),
    )
    ids = films["movieId"].cast(pl.Int64).to_list()
    titles = dict(zip(ids, map(clean_title, films["title"].to_list()), strict=True))
    return Contents(frame, titles)


def lastfm_360k(archive: Path, scratch: Path) -> Contents:
    """MTG's Last.fm 360K: hash of the user, MusicBrainz id (may lack), name of the artist, plays."""
    file = _untarred(archive, "usersha1-artmbid-artname-plays.tsv", scratch)
    columns = _tabbed(file, ["user_id", "artist_id", "item_id", "value"])
    return Contents(columns.select("user_id", "item_id", "value"))


def lastfm_1k(archive: Path, scratch: Path) -> Contents:
    """MTG's Last.fm 1K: one line a play, with its time; a track's artist by name, as in the 360K."""
    file = _untarred(archive, "userid-timestamp-artid-artname-traid-traname.tsv", scratch)
    columns = _tabbed(file, ["user_id", "time", "artist_id", "item_id", "track_id", "track"])
    return Contents(columns.select("user_id", "item_id", pl.lit(1.0).alias("value"), "time"))


def lastfm_hetrec(archive: Path, scratch: Path) -> Contents:
    """HetRec 2011's Last.fm: ``user_artists.dat`` (plays) and ``artists.dat``, tabs and headers."""
    plays = _tabbed(
        _unzipped(archive, "user_artists.dat", scratch), ["user_id", "item_id", "value"], header=True
    )
    artists = _tabbed(
        _unzipped(archive, "artists.dat", scratch), ["id", "name", "url", "picture"], header=True
    )
    titles = dict(zip(artists["id"].cast(pl.Int64).to_list(), artists["name"].to_list(), strict=True))
    return Contents(plays.cast({"user_id": pl.Int64, "item_id": pl.Int64}), titles)


def gowalla(archive: Path, scratch: Path) -> Contents:
    """SNAP's Gowalla: one line a check-in: user, time, latitude, longitude, place; gzip."""
    file = _gunzipped(archive, scratch)
    columns = _tabbed(file, ["user_id", "time", "latitude", "longitude", "item_id"])
    return Contents(columns.select("user_id", "item_id", pl.lit(1.0).alias("value"), "time"))


def yelp(archive: Path, scratch: Path) -> Contents:
    """Yelp's open data: ``yelp_academic_dataset_review.json``, an object a line, in their tar or alone."""
    file = archive
    if tarfile.is_tarfile(archive):
        file = _untarred(archive, "yelp_academic_dataset_review.json", scratch)
    schema = {"user_id": pl.String, "business_id": pl.String, "stars": pl.Float64, "date": pl.String}
    reviews = pl.scan_ndjson(file, schema=schema).collect()
    return Contents(
        reviews.select(
            "user_id",
            pl.col("business_id").alias("item_id"),
            pl.col("stars").alias("value"),
            pl.col("date").alias("time"),
        )
    )


def adjacency(archive: Path, scratch: Path) -> Contents:
    """Lines of ``user item item ...``: how NGCF and LightGCN publish their splits; joined by hand."""
    del scratch
    return Contents(read_adjacency(archive).frame)


def amazon(archive: Path, scratch: Path) -> Contents:
    """McAuley Lab's Amazon Reviews 2023, ratings only: a header, times in milliseconds; gzip."""
    ratings = pl.read_csv(_gunzipped(archive, scratch), infer_schema=False)
    return Contents(
        ratings.select(
            "user_id",
            pl.col("parent_asin").alias("item_id"),
            pl.col("rating").cast(pl.Float64, strict=False).alias("value"),
            pl.col("timestamp").cast(pl.Int64, strict=False).alias("time"),
        )
    )


def instacart(archive: Path, scratch: Path) -> Contents:
    """Instacart's zip as Kaggle gives it: orders, and the products of the prior ones; zips within allowed."""
    orders = pl.read_csv(_unzipped(archive, "orders.csv", scratch), columns=["order_id", "user_id"])
    baskets = pl.read_csv(
        _unzipped(archive, "order_products__prior.csv", scratch), columns=["order_id", "product_id"]
    )
    products = pl.read_csv(
        _unzipped(archive, "products.csv", scratch), columns=["product_id", "product_name"]
    )
    bought = baskets.join(orders, on="order_id", how="inner", maintain_order="left")
    frame = bought.select("user_id", pl.col("product_id").alias("item_id"), pl.lit(1.0).alias("value"))
    return Contents(frame, dict(products.rows()))


def steam(archive: Path, scratch: Path) -> Contents:
    """McAuley Lab's Steam library: a Python literal a line, a user with games and minutes played; gzip.

    A game that is owned and was never played is no interaction.
    """
    del scratch
    users: list[str] = []
    items: list[str] = []
    minutes: list[float] = []
    titles: dict[int | str, str] = {}
    with gzip.open(archive, "rt", encoding="utf-8") as lines:
        for line in lines:
            player = ast.literal_eval(line)
            for game in player["items"]:
                if game["playtime_forever"] > 0:
                    users.append(str(player["user_id"]))
                    items.append(str(game["item_id"]))
                    minutes.append(float(game["playtime_forever"]))
                    titles[int(game["item_id"])] = str(game["item_name"])
    return Contents(pl.DataFrame({"user_id": users, "item_id": items, "value": minutes}), titles)


def _whole_numbers(lines: bytes) -> pl.DataFrame:
    """Read user, item, rating and Unix time, all whole numbers, tabs between them."""
    text = pl.read_csv(lines, has_header=False, separator="\t", new_columns=list(_NAMES), infer_schema=False)
    return text.select(pl.all().cast(pl.Int64))


def _tabbed(file: Path, names: Sequence[str], *, header: bool = False) -> pl.DataFrame:
    """Read fields between tabs, where a quote is a character as any other; values as numbers."""
    frame = pl.read_csv(
        file, has_header=header, separator="\t", quote_char=None, infer_schema=False,
        truncate_ragged_lines=True, encoding="utf8-lossy",
    )  # fmt: skip
    frame = frame.rename(dict(zip(frame.columns, names, strict=True)))
    if "value" in names:
        frame = frame.with_columns(pl.col("value").cast(pl.Float64, strict=False))
    return frame


def _unzipped(archive: Path, name: str, scratch: Path) -> Path:
    """Take the member that ends in ``/name`` out of a zip, or out of ``name.zip`` within it."""
    with zipfile.ZipFile(archive) as members:
        found = {Path(member).name: member for member in members.namelist() if "__MACOSX" not in member}
        if name not in found and f"{name}.zip" in found:
            return _unzipped(_copied(members, found[f"{name}.zip"], scratch / f"{name}.zip"), name, scratch)
        if name not in found:
            raise KeyError(f"there is no {name} in it")
        return _copied(members, found[name], scratch / name)


def _copied(members: zipfile.ZipFile, member: str, path: Path) -> Path:
    with members.open(member) as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    return path


def _untarred(archive: Path, name: str, scratch: Path) -> Path:
    """Take the member that ends in ``/name`` out of a tar, however it is compressed."""
    with tarfile.open(archive) as members:
        for member in members:
            if Path(member.name).name == name and (packed := members.extractfile(member)) is not None:
                with packed, (scratch / name).open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
                return scratch / name
    raise KeyError(f"there is no {name} in it")


def _gunzipped(archive: Path, scratch: Path) -> Path:
    path = scratch / "unpacked"
    with gzip.open(archive) as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    return path
