"""Readers of data sets: each reads a tiny file of its publisher's format, made here."""

import gzip
import io
import tarfile
import zipfile

import pytest
from recunlearn.engine.tables import table_from_frame
from recunlearn.eval.datasets import DATASETS, cache_dir, load_dataset, readers


def zipped(members):
    """Zip name -> text or bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members, mode="w:gz"):
    """Put name -> text into a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


REVIEW = (
    '{"review_id":"r%d","user_id":"%s","business_id":"%s","stars":%s,"text":"\\"so, so\\"\\n",'
    '"date":"2018-07-07 22:09:11"}\n'
)
PLAYER = (
    "{'user_id': '%s', 'items_count': 2, 'steam_id': '1', 'user_url': 'http://x', 'items': ["
    "{'item_id': '10', 'item_name': \"Player's Choice\", 'playtime_forever': %d}, "
    "{'item_id': '20', 'item_name': 'Never Played', 'playtime_forever': 0}]}\n"
)
CASES = {
    "movielens-1m": (
        zipped(
            {
                "ml-1m/ratings.dat": "1::1193::5::978300760\n2::661::3::978302109\n",
                "ml-1m/movies.dat": "661::Misérables, Les (1995)::Drama\n1193::Odd: A::B\n".encode("latin-1"),
            }
        ),
        [(1, 1193, 5.0), (2, 661, 3.0)],
        {661: "Les Misérables (1995)", 1193: "Odd: A"},
    ),
    "movielens-25m": (
        zipped(
            {
                "ml-25m/ratings.csv": "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n1,306,3.5,11\n",
                "ml-25m/movies.csv": 'movieId,title,genres\n296,"American President, The",D\n306,Red,\n',
            }
        ),
        [(1, 296, 5.0), (1, 306, 3.5)],
        {296: "The American President", 306: "Red"},
    ),
    "lastfm-360k": (
        tarred(
            {
                "lastfm-dataset-360K/README.txt": "x",
                "lastfm-dataset-360K/usersha1-artmbid-artname-plays.tsv": (
                    '00ab\t3bd7\tbetty "b\t2137\n00ab\t\tdie Ärzte\t1099\n00ff\tf2fb\tbetty "b\t-1\n'
                ),
            }
        ),
        [("00ab", 'betty "b', 2137.0), ("00ab", "die Ärzte", 1099.0)],
        {},
    ),
    "lastfm-1k": (
        tarred(
            {
                "lastfm-dataset-1K/userid-timestamp-artid-artname-traid-traname.tsv": (
                    "user_000001\t2009-05-04T23:08:57Z\tf1b1\tDeep Dish\t\tFuck Me Im Famous\n"
                    "user_000001\t2009-05-04T13:54:10Z\t\tDeep Dish\t\tAnother\n"
                    "user_000002\t2009-05-04T13:54:10Z\ta7f7\t坂本龍一\t\tComposition\n"
                ),
            }
        ),
        [("user_000001", "Deep Dish", 2.0), ("user_000002", "坂本龍一", 1.0)],
        {},
    ),
    "lastfm-hetrec": (
        zipped(
            {
                "user_artists.dat": "userID\tartistID\tweight\r\n2\t51\t13883\r\n2\t52\t11690\r\n",
                "artists.dat": (
                    "id\tname\turl\tpictureURL\r\n51\tDuran Duran\thttp://a\thttp://b\r\n"
                    '52\t"Weird Al"\thttp://a\t\r\n'
                ),
            }
        ),
        [(2, 51, 13883.0), (2, 52, 11690.0)],
        {51: "Duran Duran", 52: '"Weird Al"'},
    ),
    "gowalla": (
        gzip.compress(
            b"0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847\n"
            b"0\t2010-10-18T22:17:43Z\t30.2691029532\t-97.7493953705\t22847\n"
            b"1\t2010-10-17T23:42:03Z\t30.2557309927\t-97.7633857727\t316637\n"
        ),
        [(0, 22847, 2.0), (1, 316637, 1.0)],
        {},
    ),
    "yelp": (
        tarred(
            {
                "yelp_academic_dataset_business.json": "{}\n",
                "yelp_academic_dataset_review.json": REVIEW % (1, "mh_", "XQf", "3.0")
                + REVIEW % (2, "a", "XQf", "5"),
            },
            mode="w",
        ),
        [("a", "XQf", 5.0), ("mh_", "XQf", 3.0)],
        {},
    ),
    "yelp2018": (b"0 5 7\n1 5\n0 9\n", [(0, 5, 1.0), (0, 7, 1.0), (0, 9, 1.0), (1, 5, 1.0)], {}),
    "amazon-video-games": (
        gzip.compress(
            b"user_id,parent_asin,rating,timestamp\nAGKA,B01,4.0,1454676557000\nAGKA,B02,5.0,1454676557000\n"
        ),
        [("AGKA", "B01", 4.0), ("AGKA", "B02", 5.0)],
        {},
    ),
    "instacart": (
        zipped(
            {
                "instacart/orders.csv.zip": zipped(
                    {
                        "orders.csv": "order_id,user_id,eval_set\n2,7,prior\n3,8,prior\n4,8,train\n",
                        "__MACOSX/._orders.csv": "x",
                    }
                ),
                "instacart/order_products__prior.csv": (
                    "order_id,product_id,add_to_cart_order,reordered\n2,33120,1,1\n2,9,2,0\n3,9,1,0\n"
                ),
                "instacart/products.csv": (
                    'product_id,product_name,aisle_id,department_id\n9,"Salt, Sea",1,2\n33120,Eggs,1,2\n'
                ),
            }
        ),
        [(7, 9, 1.0), (7, 33120, 1.0), (8, 9, 1.0)],
        {9: "Salt, Sea", 33120: "Eggs"},
    ),
    "steam": (
        gzip.compress((PLAYER % ("76561", 600) + PLAYER % ("js41637", 5)).encode()),
        [("76561", 10, 600.0), ("js41637", 10, 5.0)],
        {10: "Player's Choice"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_the_publishers_format_is_read(name, tmp_path):
    """Users, items, values, summed where a pair repeats, and titles come out as they stand in the file."""
    archive, rows, titles = CASES[name]
    path, scratch = tmp_path / "archive", tmp_path / "scratch"
    path.write_bytes(archive)
    scratch.mkdir()
    contents = DATASETS[name].sources[0].read(path, scratch)
    frame = table_from_frame(contents.frame).frame
    assert frame.select("user_id", "item_id", "value").rows() == rows
    assert contents.titles == titles


def test_every_reader_is_exercised():
    """No row of the registry has a reader that is not tested, here or in test_datasets."""
    tried = {DATASETS[name].sources[0].read for name in CASES} | {
        readers.movielens_100k,
        readers.recbole_100k,
    }
    used = {source.read for described in DATASETS.values() for source in described.sources}
    assert used == tried


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_file_that_is_something_else_is_an_error_with_its_name(name, damage, tmp_path, monkeypatch):
    """An archive that is cut off, empty or of another kind, supplied by hand, is refused by name."""
    monkeypatch.setenv("RECUNLEARN_CACHE_DIR", str(tmp_path))
    one = DATASETS[name].sources[0]
    archive = CASES[name][0]
    content = {"cut": archive[: len(archive) // 6], "empty": b"", "other": b"<html>sorry</html>"}[damage]
    described = type(DATASETS[name])("t", "n", (type(one)("s", one.file_name, None, one.fetch, one.read),))
    monkeypatch.setitem(
        __import__("recunlearn.eval.datasets", fromlist=["x"]).__dict__, "DATASETS", {name: described}
    )
    (cache_dir() / one.file_name).write_bytes(content)
    with pytest.raises(
        Exception, match=rf"{one.file_name}.*cannot be unpacked|no usable interaction"
    ) as caught:
        load_dataset(name)
    assert type(caught.value).__name__ == "DatasetError"


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    """A play count of -1 or a missing artist is no reason to stop, and is named by its line."""
    lines = "u1\tm\tartist\tmany\nu1\tm\t\t3\nu1\tm\tartist\t2\n"
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tarred({"x/usersha1-artmbid-artname-plays.tsv": lines}))
    table = table_from_frame(readers.lastfm_360k(path, tmp_path).frame)
    assert table.frame.rows() == [("u1", "artist", 2.0)]
    assert [row.line for row in table.rejected.sample] == [1, 2]
