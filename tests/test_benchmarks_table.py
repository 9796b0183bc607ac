"""The table of all benchmarks has a row for each, whatever becomes of it."""

import argparse
import pathlib

import pytest

from benchmarks import all as table_of_all
from benchmarks import growth
from benchmarks.all import Benchmark
from benchmarks.rows import Limits, Row

ROOT = pathlib.Path(__file__).parent.parent
WORKS = """
from benchmarks import rows
print("a line for people")
row = rows.Row("a step", 0.5, {"another": 1.0}, flop=2e9, memory_bytes=1e9, note="as noted")
options = __import__("argparse").Namespace(json=True)
rows.write([row], options)
"""
FAILS = "raise SystemExit('it ran out of memory')"
HANGS = "import time; time.sleep(20)"
SILENT = "print('no rows')"


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Settings of a run that finds modules of these names beside the real benchmarks."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name, text in {"works": WORKS, "fails": FAILS, "hangs": HANGS, "silent": SILENT}.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return argparse.Namespace(quick=True, manual_dir="", minutes=1)


def lines_of(options, *benchmarks) -> list[str]:
    """The table's lines below its head."""
    outcomes = [table_of_all.run(each, options) for each in benchmarks]
    return table_of_all.table(outcomes, Limits(flop=8e9, memory_bytes=1e10))[2:]


def test_what_is_missing_is_named(options):
    """Modules, files and devices, each in the row of what needs it, which does not run."""
    needy = Benchmark("fails", "needs much", "", ("no_such_module", "json"), needs_files=True)
    (line,) = lines_of(options, needy)
    assert "needs much" in line and "missing: no_such_module, files (--manual_dir)" in line
    assert "json" not in line and "memory" not in line
    (line,) = lines_of(options, Benchmark("fails", "takes hours", None))
    assert "not part of --quick" in line


def test_a_failure_is_a_row_and_not_the_end(options):
    works = Benchmark("works", "fine", "--rounds=1")
    broken = [Benchmark(name, f"that {name}", "") for name in ("fails", "silent")]
    first, failed, silent, last = lines_of(options, works, *broken, works)
    assert "failed with exit code 1: it ran out of memory" in failed and "that fails" in failed
    assert "failed: it printed no rows" in silent
    assert first == last and "`works --rounds=1`" in first


def test_what_takes_too_long_is_stopped(options):
    options.minutes = 0.01
    (line,) = lines_of(options, Benchmark("hangs", "that hangs", ""))
    assert "stopped after 0.01 minutes" in line


def test_a_row_has_its_ratio_and_its_share_of_the_limit(options):
    """2 GFLOP at 8 GFLOP/s take 250 ms, more than 1 GB at 10 GB/s does: half of 500."""
    (line,) = lines_of(options, Benchmark("works", "fine", ""))
    assert line.split(" | ")[:4] == [
        "| a step",
        "500",
        "2.00 times as fast as another (1,000); as noted",
        "products: 250, 50%",
    ]


def test_limits_are_the_best_of_their_kind():
    measured = [Row("a", 2.0, flop=8.0), Row("b", 1.0, flop=6.0), Row("c", 2.0, memory_bytes=6.0)]
    limits = Limits.of(measured)
    assert (limits.flop, limits.memory_bytes) == (6.0, 3.0)
    assert limits.of_row(Row("d", 9.0, flop=6.0, memory_bytes=6.0)) == (2.0, "memory")
    assert limits.of_row(Row("e", 9.0, flop=6.0, least=5.0, least_is="decoding"))[1] == "decoding"
    assert Limits().of_row(Row("f", 9.0, flop=6.0)) == (0.0, "")


def test_every_benchmark_of_the_table_is_one_that_the_readme_lists():

    listed = (ROOT / "benchmarks" / "README.md").read_text()
    for each in (table_of_all.LIMITS, *table_of_all.BENCHMARKS):
        assert (ROOT / "benchmarks" / f"{each.name}.py").exists()
        assert f"`{each.name}`" in listed


def test_growth_over_devices_prints_both_estimates_and_their_exponents(monkeypatch, capsys):
    """Four times the devices take as long by the roofline, twice as long per op, and send twice."""

    def compile_for(config, topology, slices):
        times = {"v5e:2x2": 1, "v5e:4x4": 2}[topology]
        assert config.train.batch_size == growth.EXAMPLES_PER_DEVICE * 4**times
        return {
            "collectives": [{"bytes": times * 5e8}, {"bytes": times * 5e8}],
            "step_seconds": {"roofline": 0.1, "per_op": 0.2 * times},
            "compile_cpu_seconds": 9.0,
        }

    monkeypatch.setattr(growth.compile_report, "compile_for", compile_for)
    growth.show_devices(["v5e:2x2", "v5e:4x4"])
    first, second, *exponents = capsys.readouterr().out.splitlines()
    assert "4 devices" in first and "roofline 100.0, per op 200.0; 1.00 GB" in first
    assert "16 devices" in second and "roofline 100.0, per op 400.0; 2.00 GB" in second
    assert [line.split()[-4] for line in exponents] == ["0.00", "0.50", "0.50"]
