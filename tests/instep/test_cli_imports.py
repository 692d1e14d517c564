"""``instep import`` as a new user would try it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.instep.commands import Refused, metrics
from tests.instep.importing import write
from tests.instep.test_kuairand import NAMES, row


class TestImport:
    """Public data sets, in small."""

    def mind(self, folder: Path) -> Path:
        folder.mkdir()
        news = [f"N{i}\t{('sports', 'music')[i % 2]}\tsub{i % 3}\ttitle {i}" for i in range(6)]
        (folder / "news.tsv").write_text("\n".join(news) + "\n")
        slates = [
            f"{n}\tU{n % 3}\t11/1{n % 5}/2019 {n % 12 + 1}:14:46 PM\tN0 N1 N2\tN3-{n % 2} N4-{1 - n % 2} N5-0"
            for n in range(12)
        ]
        (folder / "behaviors.tsv").write_text("\n".join(slates) + "\n")
        return folder

    def movielens(self, folder: Path) -> Path:
        folder.mkdir()
        genres = ("Drama", "Drama|Comedy", "Comedy")
        movies = ["movieId,title,genres", *(f'{i},"Film, A {i}",{genres[i % 3]}' for i in range(9))]
        (folder / "movies.csv").write_text("\n".join(movies) + "\n")
        ratings = [
            f"{u},{(u + 2 * n) % 9},{3 + (u + n) % 3},{1_000_000 + 60 * n + u}"
            for n in range(9)
            for u in range(4)
        ]
        (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *ratings]) + "\n")
        return folder

    def taobao(self, folder: Path) -> Path:
        folder.mkdir()
        rows = [
            (u, (u * n) % 4, b, 1_511_600_000 + 900 * n + u + 60 * k)
            for u in range(9)
            for n in range(9)
            for k, b in enumerate(("pv", "cart", "fav", "buy")[: 1 + (u + n) % 4])
        ]
        rows += [(1, 1, "pv", 7), rows[0]]
        (folder / "UserBehavior.csv").write_text("".join(f"{u},{i},5,{b},{t}\n" for u, i, b, t in rows))
        return folder

    def kuairand(self, folder: Path) -> Path:
        logs = (row(n % 3, n % 4, 9_000 * n, ("is_click", "")[n % 2], 9_000 * (n % 5)) for n in range(40))
        for (name, head), text in zip(NAMES.items(), ("\n".join(logs), "", "", "", ""), strict=True):
            write(folder / name, f"{head}\n{text}" if text else head)
        return folder

    @pytest.mark.parametrize("name", ["mind", "movielens"])
    def test_a_log_and_settings_come_out_that_replay_takes(
        self, done: Callable[..., str], tmp_path: Path, name: str
    ) -> None:
        folder, out = getattr(self, name)(tmp_path / name), tmp_path / "log"
        shown = done("import", name, folder, out)
        assert shown.endswith(
            f"events written to {out / 'events.jsonl.gz'}, settings to {out / 'instep.toml'}\n"
        )
        self.check_replay(done, out, tmp_path / "out")

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("taobao", "203 rows; skipped 2: 1 outside of 2017-11-25..2017-12-03, 1 twice the same; "),
            (
                "kuairand",
                "40 rows; skipped none; 14 of users without features, 20 of videos without features, 40 s",
            ),
        ],
    )
    def test_what_was_left_out_is_told_in_the_last_line(
        self, done: Callable[..., str], tmp_path: Path, name: str, told: str
    ) -> None:
        folder, out = getattr(self, name)(tmp_path / name), tmp_path / "log"
        written, account = done("import", name, folder, out, "--memory-mb", 1).strip().splitlines()
        assert written.endswith(f"settings to {out / 'instep.toml'}")
        assert account.startswith(told)
        assert {path.name for path in out.iterdir()} == {"events.jsonl.gz", "instep.toml"}
        self.check_replay(done, out, tmp_path / "out")

    def check_replay(self, done: Callable[..., str], log: Path, out: Path) -> None:
        done("replay", log, "--out", out, "--model", "sim_hard")
        found = metrics(out)
        assert found["model"] == "sim_hard"
        assert found["candidates"] > 20
        assert 0 < found["ctr"] < 0.6
        assert not {name for name in found["counts"] if name.startswith(("dead", "late", "orphan"))}

    def test_a_file_of_ones_own_is_imported_by_its_mapping(
        self, done: Callable[..., str], refused: Refused, tmp_path: Path
    ) -> None:
        file, mapping = tmp_path / "a.csv", tmp_path / "a.toml"
        file.write_text(
            "who,what,when,did\n" + "".join(f"u{n % 3},n{n % 5},{n},{n % 2}\n" for n in range(40))
        )
        text = 'user = "who"\nitem = "what"\ntime = { column = "when" }\n[[actions]]\nkind = "click"\n'
        mapping.write_text(
            text + 'column = "did"\n[[features]]\nname = "topic"\ncolumn = "what"\nof = "item"\n'
        )
        shown = done("import", "csv", file, tmp_path / "log", "--mapping", mapping)
        assert shown.endswith("\n40 rows; skipped none; 40 slates\n")
        self.check_replay(done, tmp_path / "log", tmp_path / "out")
        mapping.write_text(mapping.read_text().replace("did", "done"))
        line = refused("import", "csv", file, tmp_path / "other", "--mapping", mapping)
        expected = f"expected a column of {file} (who, what, when, did), got 'done'"
        assert line == f"{mapping}: actions[0].column: {expected}"
        assert not list((tmp_path / "other").iterdir())

    def test_a_column_that_is_missing_is_told_with_file_and_row(
        self, refused: Refused, tmp_path: Path
    ) -> None:
        mind, movielens = self.mind(tmp_path / "mind"), self.movielens(tmp_path / "movielens")
        path = mind / "behaviors.tsv"
        rows = path.read_text().splitlines()
        path.write_text("\n".join([*rows[:4], rows[4].rpartition("\t")[0], *rows[5:]]))
        line = refused("import", "mind", mind, tmp_path / "log")
        assert line == (
            f"{path}:5: expected 5 columns separated by tabs (impression, user, time, history, slate), got 4"
        )
        path = movielens / "movies.csv"
        path.write_text(path.read_text().replace("genres", "kinds", 1))
        line = refused("import", "movielens", movielens, tmp_path / "log")
        assert line == f"{path}:1: expected the columns movieId, genres, got none called genres"
        for name in ("mind", "movielens"):
            assert "got no folder" in refused("import", name, tmp_path / "gone", tmp_path / "log")
        assert "a folder with behaviors.tsv of MIND" in refused("import", "mind", movielens, tmp_path / "log")
        assert not list((tmp_path / "log").iterdir())
