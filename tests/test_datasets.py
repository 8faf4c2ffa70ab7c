"""Named data sets: two sources, one content; the cache whole or not at all; nothing from the network."""

import hashlib
import io
import json
import logging
import os
import re
import shutil
import threading
import time
import zipfile
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recunlearn.engine.tables import InteractionFileError
from recunlearn.eval import datasets
from recunlearn.eval.datasets import (
    DATASETS,
    DatasetError,
    Description,
    Source,
    cache,
    cache_dir,
    clean_title,
    download,
    load_dataset,
    read_adjacency,
    readers,
)

RATINGS = b"2\t10\t3\t881250949\n1\t10\t5\t881250950\n1\t11\t4\t881250951\n"
TITLES = {10: "The Net (1995)", 11: "Les Misérables (1995)"}


def zipped(members):
    """Zip name -> bytes, always to the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


OFFICIAL = zipped(
    {
        "ml-100k/u.data": RATINGS,
        "ml-100k/u.item": "10|Net, The (1995)|01-Jan-1995||x\n11|Misérables, Les (1995)|||\n".encode(
            "latin-1"
        ),
    }
)
FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
WHEEL = zipped(
    {
        f"{FOLDER}.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + RATINGS,
        f"{FOLDER}.item": "id\ttitle\tyear\n10\tNet, The\t1995\n11\tMisérables, Les\t1995\n".encode(),
        "recbole-1.2.1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
        "recbole-1.2.1.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "recbole-1.2.1.dist-info/RECORD": b"",
    }
)


def sha256(data):
    """Hash as the registry does."""
    return hashlib.sha256(data).hexdigest()


def source(name, file_name, answer, read, content=None):
    """Describe a source whose archive is ``content``, and which answers what ``answer`` returns."""
    checksum = None if content is None else f"sha256:{sha256(content)}"
    return Source(name, file_name, checksum, lambda path: path.write_bytes(answer()), read)


def never():
    """Stand in for a source that must not be asked."""
    raise AssertionError("nothing should be fetched")


def offline():
    """Stand in for a source that cannot be reached."""
    raise OSError("no route to host")


def cached():
    """Names of what is in the cache."""
    return sorted(path.name for path in cache_dir().iterdir())


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Register the data set "tiny" with an empty cache; its two sources' answers can be set by name."""
    monkeypatch.setenv("RECUNLEARN_CACHE_DIR", str(tmp_path / "cache"))
    answers = {"zip": lambda: OFFICIAL, "wheel": lambda: WHEEL}
    sources = (
        source("official", "tiny.zip", lambda: answers["zip"](), readers.movielens_100k, OFFICIAL),
        source("copy", "tiny.whl", lambda: answers["wheel"](), readers.recbole_100k, WHEEL),
    )
    described = Description("tiny", "for research only", sources, sha256(RATINGS), is_titled=True)
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": described})
    return answers


def load():
    """Load the registered data set, the notice unseen."""
    return load_dataset("tiny", show_notice=lambda notice: None)


def test_both_sources_give_the_same_data_set(registry):
    """Ratings, times and titles are the same from the official archive and from the copy."""
    first = load()
    shutil.rmtree(cache_dir())
    registry["zip"] = offline
    second = load()
    assert (first.source, second.source) == ("official", "copy")
    assert first.table.frame.equals(second.table.frame)
    assert first.titles == second.titles == TITLES
    assert first.table.frame.row(0) == (1, 10, 5.0, datetime(1997, 12, 4, 15, 55, 50, tzinfo=UTC))


def test_the_second_load_fetches_nothing(registry):
    """What was loaded once is loaded again from the cache, the same, without any source."""
    first = load()
    registry["zip"] = registry["wheel"] = never
    second = load()
    assert second.table.frame.equals(first.table.frame)
    assert (second.titles, second.source) == (first.titles, first.source)


@pytest.mark.parametrize("file", ["ratings.parquet", "titles.parquet", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_damaged_cache_is_fetched_again(registry, file, damage):
    """Any file of the cache that is cut off, missing or changed by a bit is noticed and replaced."""
    first = load()
    path = cache_dir() / "tiny" / file
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 0x80]) + whole[middle + 1 :]
        path.write_bytes(whole[:middle] if damage == "cut" else flipped)
    calls = []
    registry["zip"] = lambda: calls.append("fetched") or OFFICIAL
    assert load().table.frame.equals(first.table.frame)
    assert calls == ["fetched"]
    assert path.read_bytes() == whole
    assert cached() == ["tiny"]


def test_other_data_with_a_right_manifest_is_not_taken(registry):
    """The registry's pin decides, not the manifest beside the files."""
    load()
    folder = cache_dir() / "tiny"
    pl.read_parquet(folder / "ratings.parquet").with_columns(value=pl.lit(1)).write_parquet(
        folder / "ratings.parquet"
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["ratings.parquet"] = sha256((folder / "ratings.parquet").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load().table.frame["value"].to_list() == [5.0, 4.0, 3.0]


def test_other_titles_are_not_taken(registry):
    """A sound file with other titles than those that were stored is noticed by its checksum."""
    load()
    other = pl.DataFrame({"item_id": [10, 11], "title": ["x", "y"]})
    other.write_parquet(cache_dir() / "tiny" / "titles.parquet")
    assert load().titles == TITLES


def tampered():
    """Stand in for a source that gives other bytes."""
    return OFFICIAL + b"\0"


@pytest.mark.parametrize("answer", [offline, tampered, lambda: b"<html>please log in</html>"])
def test_an_archive_that_is_not_the_one_is_not_used(registry, answer):
    """A source that cannot be reached or gives other bytes is passed over."""
    registry["zip"] = answer
    assert load().source == "copy"


def test_a_source_with_other_ratings_is_not_used(registry, monkeypatch):
    """The content is checked too: an archive that passes its own checksum can hold other ratings."""
    described = datasets.DATASETS["tiny"]
    other = Description("tiny", described.notice, described.sources, "0" * 64)
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": other})
    with pytest.raises(DatasetError, match=f"SHA-256 of the interactions is {sha256(RATINGS)}, not 0000"):
        load()


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"ml-100k/u.data": RATINGS}, "cannot be unpacked"),
        ({"ml-100k/u.data": RATINGS, "ml-100k/u.item": b"10|Net, The|\n"}, "1 items have no title"),
        ({"ml-100k/u.data": RATINGS, "ml-100k/u.item": b"ten|Net, The|\n"}, "cannot be unpacked"),
    ],
)
def test_an_incomplete_archive_is_named(registry, monkeypatch, members, complaint):
    """An archive that lacks a member or a title is refused with what it lacks."""
    archive = zipped(members)
    only = source("s", "s.zip", lambda: archive, readers.movielens_100k, archive)
    described = Description("tiny", "", (only,), sha256(RATINGS), is_titled=True)
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": described})
    with pytest.raises(DatasetError, match=complaint):
        load()


def test_offline_the_error_says_what_was_tried_and_the_way_out(registry):
    """Without any source, the error gives each reason and how to supply a file by hand."""
    registry["zip"] = offline
    registry["wheel"] = tampered
    with pytest.raises(DatasetError) as caught:
        load()
    message = str(caught.value)
    assert "official: no route to host" in message
    assert f"copy: SHA-256 of tiny.whl is {sha256(tampered())}, not {sha256(WHEEL)}" in message
    assert f"Put tiny.zip or tiny.whl into {cache_dir()} by hand" in message
    assert not cache_dir().exists()


@pytest.mark.parametrize(("name", "content"), [("tiny.zip", OFFICIAL), ("tiny.whl", WHEEL)])
def test_a_file_supplied_by_hand_is_used(registry, name, content):
    """Either archive, put into the cache directory, does without the network, and is checked as well."""
    registry["zip"] = registry["wheel"] = offline
    cache_dir().mkdir()
    (cache_dir() / name).write_bytes(content[:-1])
    with pytest.raises(DatasetError, match=f"{name}: SHA-256"):
        load()
    (cache_dir() / name).write_bytes(content)
    assert load().source == str(cache_dir() / name)
    assert load().titles == TITLES


@pytest.mark.parametrize("stroke", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_nothing(registry, monkeypatch, stroke):
    """Whatever stops the second file of two, the cache has neither, and the next load works."""
    write, written = pl.DataFrame.write_parquet, []

    def interrupted(self, file):
        if written:
            raise stroke
        written.append(file)
        write(self, file)

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", interrupted)
        if isinstance(stroke, OSError):
            assert load().titles == TITLES  # a full disk costs the cache, not the data
        else:
            with pytest.raises(stroke):
                load()
    assert written
    assert cached() == []
    assert load().titles == TITLES
    assert cached() == ["tiny"]


def test_an_interrupted_download_leaves_nothing(registry):
    """Ctrl-C during a download leaves no cache at all."""

    def interrupted():
        raise KeyboardInterrupt

    registry["zip"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        load()
    assert not cache_dir().exists()


def test_what_a_killed_process_left_is_cleared_away(registry):
    """Half-written folders are never read; old ones are removed, a fresh one may be somebody's."""
    old, fresh = cache_dir() / ".partial-old", cache_dir() / ".partial-fresh"
    old.mkdir(parents=True)
    fresh.mkdir()
    os.utime(old, (0, time.time() - 2 * cache._STALE_SECONDS))
    load()
    assert cached() == [".partial-fresh", "tiny"]


def test_loads_at_the_same_time_agree(registry):
    """Several processes or threads may fill the cache at once: each gets the data, one copy stays."""
    barrier = threading.Barrier(4)

    def together():
        barrier.wait(timeout=10)
        return OFFICIAL

    registry["zip"] = together
    found = []
    threads = [threading.Thread(target=lambda: found.append(load())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert [data.titles for data in found] == [TITLES] * 4
    assert cached() == ["tiny"]


def test_a_cache_that_cannot_be_written_costs_a_warning(registry, tmp_path, monkeypatch, caplog):
    """Where the cache path is a file, the data come all the same, and a warning says how to have a cache."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RECUNLEARN_CACHE_DIR", str(tmp_path / "file"))
    assert load().titles == TITLES
    assert "cannot be written (File exists)" in caplog.messages[-1]
    assert "set RECUNLEARN_CACHE_DIR to a folder that can" in caplog.messages[-1]


def test_the_notice_is_shown_once_a_load(registry, caplog):
    """Each load shows the licence once: to the caller who asks for it, else in the log."""
    shown = []
    for count in (1, 2):
        load_dataset("tiny", show_notice=shown.append)
        assert shown == ["for research only"] * count
    with caplog.at_level(logging.WARNING):
        load_dataset("tiny")
    assert caplog.messages == ["for research only"]


def test_an_unknown_name_lists_the_known_ones(registry):
    """A name that is not in the registry is refused with those that are."""
    with pytest.raises(DatasetError, match="data set 'movielens' is not known; choose one of tiny"):
        load_dataset("movielens")


def test_the_registry_is_complete():
    """Every row has a title, a notice with a licence and an address, and names of files nobody else uses."""
    files = [one.file_name for described in DATASETS.values() for one in described.sources]
    assert len(set(files)) == len(files)
    for name, described in DATASETS.items():
        assert re.fullmatch("[a-z0-9-]+", name)
        assert re.search(r"research|[Nn]on-commercial|educational", described.notice), name
        assert "https://" in described.notice or "arXiv" in described.notice or "Cite" in described.notice
        assert described.title
        for one in described.sources:
            assert one.checksum is None or re.fullmatch("sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", one.checksum)
            assert one.name.startswith("https://") or one.checksum
    for name in (
        "movielens-100k",
        "movielens-1m",
        "movielens-25m",
        "lastfm-1k",
        "lastfm-360k",
        "lastfm-hetrec",
    ):
        assert all(one.checksum for one in DATASETS[name].sources), name


def test_the_first_copy_is_trusted_and_later_ones_held_to_it(registry, monkeypatch, caplog):
    """Without a published checksum the first copy's is written down and said; another copy is refused."""
    answers = [OFFICIAL, zipped({"ml-100k/u.data": RATINGS[:17], "ml-100k/u.item": b"10|Net, The|\n"})]
    only = source("s", "tofu.zip", lambda: answers[0], readers.movielens_100k)
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": Description("tiny", "", (only,))})
    load()
    assert f"this copy is trusted, its SHA-256 is {sha256(OFFICIAL)}" in caplog.text
    shutil.rmtree(cache_dir() / "tiny")
    load()  # the same copy again
    shutil.rmtree(cache_dir() / "tiny")
    answers.reverse()
    with pytest.raises(
        DatasetError, match=f"the first copy fetched here had {sha256(OFFICIAL)}.*trusted.json"
    ):
        load()
    (cache_dir() / "trusted.json").unlink()
    assert load().table.frame.height == 1


def test_a_copy_that_cannot_be_read_is_not_trusted(registry, monkeypatch):
    """What is no archive, a page that says "moved" for instance, does not become the copy to compare with."""
    answers = [b"<html>moved</html>"]
    only = source("s", "tofu.zip", lambda: answers[0], readers.movielens_100k)
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": Description("tiny", "", (only,))})
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        load()
    answers[0] = OFFICIAL
    assert load().titles == TITLES


@pytest.mark.parametrize("name", ["yelp", "yelp2018", "instacart"])
def test_terms_to_accept_in_person_are_not_gone_round(tmp_path, monkeypatch, name):
    """Sets for those who accept the terms are not fetched: where to get them and put them is said."""
    monkeypatch.setenv("RECUNLEARN_CACHE_DIR", str(tmp_path))
    with pytest.raises(DatasetError) as caught:
        load_dataset(name)
    first = DATASETS[name].sources[0]
    assert "accept its terms in person" in str(caught.value)
    assert f"{first.file_name}" in str(caught.value)
    assert f"into {tmp_path} by hand (get it at {first.name})" in str(caught.value)


def test_what_was_fetched_of_an_archive_is_kept_for_the_next_time(registry, monkeypatch):
    """A download that breaks off leaves its beginning, which the next one is given; then nothing is left."""
    seen = []

    def broken(path):
        seen.append(path.read_bytes() if path.exists() else b"")
        path.write_bytes(OFFICIAL[: 10 * len(seen)])
        if len(seen) < 3:
            raise OSError("connection reset")
        path.write_bytes(OFFICIAL)

    only = Source("s", "big.zip", f"sha256:{sha256(OFFICIAL)}", broken, readers.movielens_100k)
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": Description("tiny", "", (only,))})
    for _ in range(2):
        with pytest.raises(DatasetError, match="connection reset"):
            load()
    load()
    assert seen == [b"", OFFICIAL[:10], OFFICIAL[:20]]
    assert cached() == ["tiny"]


def test_the_default_cache_is_the_users(monkeypatch, tmp_path):
    """Without the variable, or with an empty one, the cache is the platform's folder for the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("RECUNLEARN_CACHE_DIR", "")
    assert cache_dir().name == "recunlearn"
    assert cache_dir() != tmp_path / "other"


def test_pip_downloads_the_wheel(tmp_path, monkeypatch):
    """The wheel comes through pip with the user's own settings; what pip says is in the error."""
    pytest.importorskip("pip")
    (tmp_path / "recbole-1.2.1-py3-none-any.whl").write_bytes(WHEEL)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel = DATASETS["movielens-100k"].sources[1]
    wheel.fetch(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == WHEEL
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "none"))
    with pytest.raises(DatasetError, match=r"pip download recbole==1.2.1 failed \(1\): .*[Nn]o match"):
        wheel.fetch(tmp_path / "again")


def test_only_https_is_fetched(tmp_path):
    """An address that is not https is refused before anything is sent."""
    with pytest.raises(DatasetError, match="http://localhost/x is not an https address"):
        download.download("http://localhost/x", tmp_path / "x")


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("Postino, Il (1994)", "Il Postino (1994)"),
        ("American in Paris, An (1951)", "An American in Paris (1951)"),
        ("Cry, the Beloved Country (1995)", "Cry, the Beloved Country (1995)"),
        ("Sex, Lies, and Videotape (1989)", "Sex, Lies, and Videotape (1989)"),
        ("Hate (Haine, La) (1995)", "Hate (La Haine) (1995)"),
        ("Star Maker, The (Uomo delle stelle, L') (1995)", "The Star Maker (L'Uomo delle stelle) (1995)"),
        ("Mrs. Brown (Her Majesty, Mrs. Brown) (1997)", "Mrs. Brown (Her Majesty, Mrs. Brown) (1997)"),
        ("  Two   blanks (1990) ", "Two blanks (1990)"),
        ("Sequel III (1995) (V)", "Sequel III (1995)"),
        ("unknown", "unknown"),
    ],
)
def test_titles_read_as_people_write_them(title, expected):
    """An article behind the comma goes in front, also in a title in brackets; other commas stay."""
    assert clean_title(title) == expected


# -- adjacency files ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), min_size=1, max_size=12))
def test_adjacency_lines_are_a_user_and_their_items(tmp_path, lines):
    """Each line adds one interaction for each item after its user; lines with no item are named."""
    file = tmp_path / "train.txt"
    file.write_text("\n".join(" ".join(map(str, line)) for line in lines))
    expected: dict[tuple[int, int], float] = {}
    for user, *items in lines:
        for item in items:
            expected[user, item] = expected.get((user, item), 0) + 1
    empty = [number for number, line in enumerate(lines, start=1) if len(line) == 1]
    if not expected:
        with pytest.raises(InteractionFileError, match="no usable interaction"):
            read_adjacency(file)
        return
    table = read_adjacency(file)
    assert table.frame.rows() == sorted((user, item, value) for (user, item), value in expected.items())
    assert [row.line for row in table.rejected.sample] == empty


def test_adjacency_files_that_cannot_be_read_are_named(tmp_path):
    """A missing file, one that is not text and an empty one give an error with their name."""
    (tmp_path / "latin.txt").write_bytes(b"1 \xe9\n")
    (tmp_path / "empty.txt").write_bytes(b"\n\n")
    for name, complaint in (("no", "No such file"), ("latin", "not UTF-8"), ("empty", "it has no rows")):
        with pytest.raises(InteractionFileError, match=f"{name}.txt.*{complaint}"):
            read_adjacency(tmp_path / f"{name}.txt")


def test_adjacency_files_may_have_windows_ends(tmp_path):
    """A byte-order mark, CRLF, tabs and trailing blanks make no difference."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf0 5\t7 \r\n\r\n1 5\r\n")
    assert read_adjacency(tmp_path / "a.txt").frame.rows() == [(0, 5, 1.0), (0, 7, 1.0), (1, 5, 1.0)]
