"""benchmarks/bench_compare.py: ratios, agreement of masks, and that each tree runs its own code."""

import math
import shutil
from pathlib import Path

import bench_compare
import numpy as np
import pytest
from bench_compare import Agreement, ForeignModuleError, Spent
from pycocotools import mask as coco_mask

ROOT = Path(__file__).parents[1]


def block(left: int, width: int = 10) -> dict[str, object]:
    mask = np.zeros((20, 60), np.uint8, order="F")
    mask[:, left : left + width] = 1
    return coco_mask.encode(mask)


def test_masks_are_matched_one_to_one() -> None:
    base = [[block(0), block(20)], [block(0)], [], []]
    ours = [[block(20), block(0)], [block(5)], [block(0)], []]
    found = bench_compare.agreement(base, ours)
    # Two are equal, two share a third, and one is alone.
    assert found == Agreement(base=3, ours=4, mean_iou=pytest.approx(2 * (1 + 1 + 1 / 3) / 7), differ=3)
    same = bench_compare.agreement(base, base)
    assert (same.mean_iou, same.differ) == (1, 0)
    assert math.isnan(bench_compare.agreement([[]], [[]]).mean_iou)


def test_the_ratio_is_that_of_the_images_per_second() -> None:
    ratio, low, high = bench_compare.ratio_of([8, 10, 12], [4, 5, 6])
    assert (ratio, low, high) == pytest.approx((2, 2, 2))
    ratio, low, high = bench_compare.ratio_of([10, 10, 10], [4, 5, 6.25])
    assert (ratio, low * high) == pytest.approx((2, 4))
    assert high / ratio == pytest.approx(np.exp(4.302653 * np.log(1.25) / np.sqrt(3)))  # t of two degrees of freedom
    assert np.isnan(bench_compare.ratio_of([10], [5])[1:]).all()


def test_a_row_a_turn_and_one_of_all() -> None:
    turns = [{"base": Spent(20, 10), "ours": Spent(10, 4)}, {"base": Spent(20, 10), "ours": Spent(20, 6.25)}]
    *single, together = bench_compare.rows_of("cuts3d", 5, turns, Agreement(7, 8, 0.98765, 3))
    assert [(row["turn"], row["cpu_ratio"], row["cpu_ratio_low"]) for row in single] == [(1, 2.5, ""), (2, 1.6, "")]
    assert (together["turn"], together["photos"]) == ("all", 4)
    assert (together["cpu_ratio"], together["base_cpu_s"], together["ours_cpu_s"]) == (2, 10, 5.12)
    assert together["cpu_ratio_low"] < 1.6 < 2.5 < together["cpu_ratio_high"]
    assert set(together) < set(bench_compare.COLUMNS)
    assert "2.00 [" in bench_compare.said(together)
    assert ": 2.50 by the processor, 2.00 by the clock" in bench_compare.said(together | single[0])
    assert "7 and 8, mean IoU 0.9877, 3 not equal" in bench_compare.said(together)


def tree_of(folder: Path, cli: str) -> Path:
    """A checkout whose `pipeline.cli.main` runs this code."""
    package = folder / "pipeline"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(f"import sys\n\ndef main():\n    {cli}\n")
    return folder


def test_each_tree_runs_its_own_code(tmp_path: Path) -> None:
    tree = tree_of(tmp_path / "tree", "print(*sys.argv[1:])")
    spent = bench_compare.spent_by(tree, ["run", "--out", "x"], tmp_path)
    assert (tmp_path / "log.txt").read_text() == "run --out x\n"
    assert 0 < spent.cpu < spent.wall + 1


def test_modules_of_another_tree_are_an_error(tmp_path: Path) -> None:
    """What the other commit has not is found where this environment has its own code."""
    tree = tree_of(tmp_path / "tree", "import stages.score")
    with pytest.raises(ForeignModuleError, match=r"tree loaded modules from elsewhere: stages(\.score)? from /"):
        bench_compare.spent_by(tree, [], tmp_path)
    with pytest.raises(ForeignModuleError, match=r"pipeline\.cli: not there"):
        bench_compare.need_own({"stages": None}, tmp_path)


def test_a_run_that_fails_is_shown(tmp_path: Path) -> None:
    tree = tree_of(tmp_path / "tree", "sys.exit('no such photo')")
    tree_of(tmp_path / "other", "sys.exit(2)")
    bench_compare.spent_by(tree, [], tmp_path)  # 1: photos were set aside
    with pytest.raises(SystemExit, match=r"`cuts3d run` of .*other ended with 2"):
        bench_compare.spent_by(tmp_path / "other", ["run"], tmp_path)


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="not a git checkout")
def test_the_checkout_of_a_commit_is_gone_afterwards() -> None:
    with bench_compare.worktree("HEAD") as (tree, name):
        assert (tree / "setup.cfg").is_file()
        assert bench_compare.git("rev-parse", "HEAD").startswith(name)
    assert not tree.exists()
    assert str(tree) not in bench_compare.git("worktree", "list")
    with pytest.raises(SystemExit, match="no-such-commit"), bench_compare.worktree("no-such-commit"):
        pass


def test_paths_hold_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench_compare.located("a.jpg") == str(tmp_path / "a.jpg")
    assert bench_compare.located("s3://bucket/a.jpg") == "s3://bucket/a.jpg"
