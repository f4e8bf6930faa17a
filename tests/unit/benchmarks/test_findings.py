"""The findings page from made-up recordings whose truth is known."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.findings import page as pages
from benchmarks.findings import power, statistics
from benchmarks.findings.__main__ import report
from benchmarks.findings.analysis import Analysis
from benchmarks.findings.claims import Claim, claims, repeats, verdict
from benchmarks.findings.features import base_losses, diverged, signals, underfit
from benchmarks.findings.loading import Configuration, Sweep, load
from benchmarks.findings.page import declaration
from benchmarks.findings.rivals import rivalry
from benchmarks.findings.secondary import within_configurations
from benchmarks.recording.export import export
from benchmarks.recording.grid import RecordedSweep
from tests.fixtures.recorded_sweeps import Truth, write_recording

SWEEPS = (
    RecordedSweep("first", "words"),
    RecordedSweep("second", "gsm8k"),
    RecordedSweep(
        "orders", "skills", rates=(2e-4, 1e-3, 4e-3), middle=1, strategies=("stacked", "phased")
    ),
)
PAPER = Truth(sign=0.2, rise=0.5)
"""Norm and loss say what the paper says beyond rate and batch, and the best rate rises."""
PLAIN = Truth(schedules=(("phased", 0.3),))
"""Norm and loss say nothing, warmup and schedule do nothing, phased ends worse."""


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "PERMUTATIONS", 999)
        patch.setattr(statistics, "BOOTSTRAPS", 99)
        yield


def curves_of(truth: Truth, folder: Path) -> Path:
    write_recording(folder / "recording", SWEEPS, truth)
    export(folder / "recording", folder / "curves", sweeps=SWEEPS)
    return folder / "curves"


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> list[Sweep]:
    return load(curves_of(PAPER, tmp_path_factory.mktemp("paper"))).sweeps


@pytest.fixture(scope="module")
def plain_curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return curves_of(PLAIN, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def plain(plain_curves: Path) -> list[Sweep]:
    return load(plain_curves).sweeps


@pytest.fixture(scope="module")
def plain_report(plain_curves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    report(plain_curves, out / "docs" / "findings.md", out / "findings.json", out / "docs/images")
    return out


def by_id(found: list[Claim]) -> dict[str, Claim]:
    return {c.id: c for c in found}


def test_where_the_paper_is_right_beyond_rate_and_batch_the_claim_is_supported(
    paper: list[Sweep],
) -> None:
    found = by_id(claims(paper))
    assert found["H2a"].verdict == found["H2c"].verdict == "supported"
    assert (found["H2a"].value or 0) > 0.4


def test_the_rise_of_the_best_rate_is_measured(paper: list[Sweep], plain: list[Sweep]) -> None:
    assert by_id(claims(paper))["H4"].value == pytest.approx(0.5, abs=0.25)
    assert by_id(claims(plain))["H4"].value == pytest.approx(0.0, abs=0.1)


def test_twins_that_end_the_same_are_equivalent_and_phased_that_ends_worse_is_not(
    plain: list[Sweep],
) -> None:
    found = by_id(claims(plain))
    assert [found[i].verdict for i in ("H5a", "H5b", "H5c", "H5d")] == ["supported"] * 4
    assert found["H6a"].verdict == "contradicted"
    assert found["H6a"].value == pytest.approx(0.3, abs=0.03)
    assert found["H6a"].size == "9 pairs"
    # It gets to its own end, the worse one, only when stacked is long past it.
    assert found["H6b"].verdict == "supported"


def with_failures(sweep: Sweep, names: set[str]) -> Sweep:
    """The sweep with these configurations' second seeds blown up."""

    def changed(configuration: Configuration) -> Configuration:
        first, second = configuration.trials
        worst = dict.fromkeys(second.outcomes, float("-inf"))
        return replace(configuration, trials=(first, replace(second, outcomes=worst, failed=True)))

    return replace(
        sweep,
        configurations=tuple(changed(c) if c.name in names else c for c in sweep.configurations),
    )


def test_pairs_with_a_diverged_run_are_left_out_and_too_many_leave_it_undecided(
    plain: list[Sweep],
) -> None:
    one = "r0.001-b1-constant-w0.03-stacked"
    two = "r0.001-b60-constant-w0.03-stacked"
    first = by_id(claims([with_failures(plain[0], {one}), *plain[1:]]))["H5c"]
    assert (first.size, first.verdict, first.note) == ("5 of 6 pairs", "supported", "")
    second = by_id(claims([with_failures(plain[0], {one, two}), *plain[1:]]))["H5c"]
    assert (second.size, second.verdict) == ("4 of 6 pairs", "undecided")
    assert second.note == "2 of 6 pairs have a diverged run"


def test_there_are_sixteen_claims_and_holm_counts_all_of_them(plain: list[Sweep]) -> None:
    found = claims(plain)
    assert len(found) == 16
    least = min(found, key=lambda c: c.p)
    assert least.holm == pytest.approx(min(1.0, 16 * least.p))


def test_a_sweep_that_repeats_anothers_runs_is_found_and_can_be_left_out(
    plain: list[Sweep],
) -> None:
    again = replace(plain[0], name="again")
    assert repeats(plain) == []
    assert repeats([*plain, again]) == ["again"]
    twice = by_id(claims([*plain, again]))
    once = by_id(claims([*plain, again], without=["again"]))
    assert twice["H1a"].size.startswith("4 sweeps")
    assert once["H1a"] == by_id(claims(plain))["H1a"]
    assert once["H6a"].value == twice["H6a"].value


def test_without_an_order_to_compare_the_claim_is_undecided_not_an_error(
    plain: list[Sweep],
) -> None:
    found = by_id(claims([s for s in plain if s.name != "orders"]))
    assert found["H6a"].verdict == found["H6b"].verdict == "undecided"
    assert found["H6a"].note == "not recorded yet"


def test_features_need_eight_steps_so_the_largest_batch_has_none_early(plain: list[Sweep]) -> None:
    sweep = plain[0]
    strict, _ = signals(sweep.stacked, sweep.budget, 1 / 8)
    every, found = signals(sweep.stacked, sweep.budget, 1 / 8, every=True)
    assert {c.batch for c in strict} == {1, 8}
    assert len(strict) == 16
    assert len(every) == 26
    assert found["sign"].min() >= 0
    assert found["sign"].max() <= 1


def test_runs_that_blow_up_are_the_worst_and_diverged(paper: list[Sweep]) -> None:
    sweep = paper[0]
    bases = base_losses(paper)
    failed = [c for c in sweep.configurations if c.failed]
    assert failed
    assert min(c.rate for c in failed) > 0.01
    assert all(diverged(c, bases[sweep.name]) for c in failed)
    assert all(c.outcome("loss") == c.outcome("exact_match") == float("-inf") for c in failed)
    # A run that goes on above the base model's loss is diverged as well, and none of both is lazy.
    above = {c.name for c in sweep.configurations if diverged(c, bases[sweep.name])}
    assert len(above) > len(failed)
    assert not above & underfit(sweep, bases)


def test_a_surface_over_rate_and_batch_predicts_a_smooth_world(plain: list[Sweep]) -> None:
    found = rivalry(plain, 1 / 8, every=True)
    assert found.sweeps == 3
    assert found.agreement["held_out"].value > 0.9
    for sweep in ("first", "second"):  # The third is too small to leave a cell out.
        assert found.agreement["surface"].parts[sweep] > 0.6
        assert found.agreement["sign"].parts[sweep] < 0.2


def test_seeds_of_one_configuration_are_compared_with_each_other_only(paper: list[Sweep]) -> None:
    """The hidden quality is the same for both seeds, so here the sign can say nothing."""
    found = within_configurations(paper, "retention")
    assert found is not None
    assert found.agree == pytest.approx(0.5, abs=0.2)
    assert abs(found.better_by) < 0.01


def test_a_sweep_that_lacks_runs_is_not_used(tmp_path: Path) -> None:
    planned = RecordedSweep("knowledge-full", "demo-knowledge", vary=False, rates=(1e-3,))
    write_recording(tmp_path / "recording", [planned], PLAIN)
    export(tmp_path / "recording", tmp_path / "curves", sweeps=[planned])
    loaded = load(tmp_path / "curves")
    assert loaded.sweeps == []
    assert loaded.incomplete["knowledge-full"] == "6 of 52 runs"
    assert loaded.incomplete["demo-full"] == "not there"
    with pytest.raises(SystemExit, match="no sweep in"):
        report(tmp_path / "curves", tmp_path / "f.md", tmp_path / "f.json", tmp_path)


def test_missing_curves_are_named_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"runs\.parquet is missing; make it with"):
        load(tmp_path)


def test_the_page_holds_the_declaration_unchanged(plain_report: Path) -> None:
    page = (plain_report / "docs" / "findings.md").read_text("utf-8")
    assert declaration().rstrip() in page
    assert pages.SHA256 in page
    assert page.index("## Declared in advance") < page.index("## Results")


def test_a_declaration_that_was_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "declaration.md"
    changed.write_text(declaration().replace("0.3 |", "0.1 |"), "utf-8")
    monkeypatch.setattr(pages, "DECLARATION", changed)
    with pytest.raises(RuntimeError, match="changed after it was declared"):
        declaration()


def test_the_page_says_what_the_numbers_say(plain_report: Path) -> None:
    page = (plain_report / "docs" / "findings.md").read_text("utf-8")
    results = json.loads((plain_report / "findings.json").read_text("utf-8"))
    rows = {m[1]: m[0] for m in re.finditer(r"^\| (H\d[a-d]?) \|.*$", page, re.MULTILINE)}
    for claim in results["claims"]:
        assert f"**{claim['verdict']}**" in rows[claim["id"]]
    short = " ".join(page.split("## Declared")[0].split())
    assert "Phased doesn't end as stacked" in short
    assert "Constant ends as cosine, within the margin" in short
    assert "provisional" in short
    assert "knowledge-full (not there)" in short


def test_the_page_and_its_plots_are_made_the_same_again(
    plain_report: Path, plain_curves: Path, tmp_path: Path
) -> None:
    again = tmp_path
    report(
        plain_curves, again / "docs" / "findings.md", again / "findings.json", again / "docs/images"
    )
    first = {p.relative_to(plain_report): p for p in plain_report.rglob("*") if p.is_file()}
    assert len(first) == 6
    for name, path in first.items():
        assert (again / name).read_bytes() == path.read_bytes(), name
        assert path.suffix != ".png" or path.stat().st_size < 80_000


@pytest.mark.parametrize(
    ("value", "interval", "adjusted", "expected"),
    [
        (0.5, (0.3, 0.7), 0.01, "supported"),
        (-0.5, (-0.7, -0.3), 0.01, "contradicted"),
        (0.1, (-0.1, 0.29), 0.5, "not supported"),
        (0.1, (-0.1, 0.31), 0.5, "undecided"),
    ],
)
def test_the_verdict_on_a_correlation_follows_the_declared_rule(
    value: float, interval: tuple[float, float], adjusted: float, expected: str
) -> None:
    claim = Claim("H1a", "", "correlation", value, interval, 0.5, 0.3, "", holm=adjusted)
    assert verdict(claim) == expected


@pytest.mark.parametrize(
    ("interval", "adjusted", "note", "expected"),
    [
        ((-0.02, 0.02), 0.01, "", "supported"),
        ((0.06, 0.09), 1.0, "", "contradicted"),
        ((0.01, 0.09), 1.0, "", "not supported"),
        ((-0.03, 0.09), 1.0, "", "undecided"),
        ((0.01, 0.04), 0.3, "", "undecided"),
        ((-0.02, 0.02), 0.01, "5 of 16 pairs have a diverged run", "undecided"),
    ],
)
def test_the_verdict_on_an_equivalence_follows_the_declared_rule(
    interval: tuple[float, float], adjusted: float, note: str, expected: str
) -> None:
    claim = Claim(
        "H5a", "", "nats", sum(interval) / 2, interval, 0.5, 0.05, "", holm=adjusted, note=note
    )
    assert verdict(claim) == expected


def test_the_declared_power_follows_from_the_design() -> None:
    """The numbers of the declaration's last table, from the sizes of the planned sweeps."""
    eight = [16, 16, 16, 12, 16, 16, 16, 16]
    for covariates, name in ((0, "H1 (k = 0)"), (4, "H2 (k = 4)")):
        cells = [
            power.detectable_correlation(sizes, covariates, alpha)
            for alpha in (0.05, 0.05 / 16)
            for sizes in (eight, eight[:5])
        ]
        row = next(r for r in declaration().splitlines() if r.startswith(f"| {name} |"))
        declared = [float(c) for c in row.split("|")[2:6]]
        assert declared == pytest.approx(cells, abs=0.006)
    pairs = (16, 10, 12)
    tolerable = [f"{power.tolerable_deviation(n):.2f}" for n in pairs]
    assert tolerable == ["1.32", "1.02", "1.13"]
    assert [f"{power.detectable_shift(n):.2f}" for n in pairs] == ["0.74", "0.98", "0.88"]


def test_the_analysis_is_plain_json() -> None:
    empty = Analysis((), {"a": "not there"}, 0, (), (), (), (), {}, {}, (), {}, (), ())
    assert json.loads(json.dumps(empty.as_json()))["incomplete"] == {"a": "not there"}
