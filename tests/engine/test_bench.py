import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from lmmsteer.device import Device
from lmmsteer.engine import bench as command
from lmmsteer.engine.benchmark import (
    contenders,
    counting,
    race,
    report,
    roofline,
    shapes,
    sweep,
    trace,
)
from lmmsteer.engine.benchmark.contenders import (
    Answers,
    ReferenceEngine,
    Run,
    Shared,
    edit_of,
    timed,
)
from lmmsteer.engine.benchmark.hooked import Hooks, ablated
from lmmsteer.engine.benchmark.options import Options
from lmmsteer.engine.benchmark.paged import Paged
from lmmsteer.engine.benchmark.run import bench
from lmmsteer.engine.benchmark.workload import batches, workload
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.stats import Stats
from lmmsteer.errors import LmmsteerError, RunFailed

OPTIONS = Options(
    shape="tiny", pictures=2, picture_size=40, lengths="fixed:5", contenders=("reference", "hooks")
)
GREEDY = Sampling(temperature=0, max_new_tokens=9)


@cache
def lmm():
    return shapes.build("tiny", Device("cpu"), torch.float32)


@cache
def direction():
    return race.random_directions(lmm(), 1, 3)


def mixed(rows=30):
    """Greedy rows of different lengths."""
    lengths = tuple(2 + row % 7 for row in range(rows))
    return replace(workload(OPTIONS).part(rows, 9, GREEDY), lengths=lengths)


@cache
def found():
    return bench(replace(OPTIONS, repeats=2, sweep_tokens=2, check_tokens=4))


def test_the_mixed_trace_is_reproducible_and_has_the_stated_means_and_deviations():
    prompts = [row % 5 for row in range(50_000)]
    drawn = trace.lengths("mixed", prompts, seed=4)
    assert drawn == trace.lengths("mixed", prompts, seed=4)
    assert drawn != trace.lengths("mixed", prompts, seed=5)
    assert min(drawn) >= 1
    assert max(drawn) == 512
    by_prompt = np.asarray(drawn).reshape(-1, 5)
    # Cutting at 512 takes 1.1 tokens from the second mean, cutting at 1 little from the last two.
    assert np.allclose(by_prompt.mean(0), (130, 350, 250, 40, 40), atol=3)
    assert np.allclose(by_prompt.std(0), (40, 90, 80, 15, 15), atol=3)


def test_a_recorded_trace_is_read_from_json_or_parquet_and_begins_anew(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "a.json").write_text("[3, 0, 7]")
    table = pa.table({"new_tokens": pa.array([3, None, 0, 7], pa.int32())})
    parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("a.json", "a.parquet"):
        assert trace.lengths(str(tmp_path / name), [0] * 5) == [3, 1, 7, 3, 1]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("fixed:", "does not give a number"),
        ("fixed:0", "does not give a number"),
        ("nothing", "is not a file"),
        ("{}", "is not a list of whole numbers"),
        ("[]", "holds no lengths"),
        ("[1", "cannot be read as JSON"),
    ],
)
def test_lengths_that_cannot_be_used_are_told_in_one_sentence(spec, says, tmp_path):
    if spec[0] in "[{":
        (tmp_path / "lengths.json").write_text(spec)
        spec = str(tmp_path / "lengths.json")
    with pytest.raises(LmmsteerError, match=says):
        trace.lengths(spec, [0])


def test_every_row_is_in_one_batch_and_grouping_by_prompt_puts_equal_prompts_together():
    work = workload(OPTIONS)
    for by in ("picture", "prompt"):
        rows = batches(work, 6, by)
        assert sorted(row for batch in rows for row in batch) == list(range(30))
    assert all(len({work.requests[row].prompt for row in batch}) == 1 for batch in rows)


def test_the_hooks_of_the_bench_leave_every_residual_orthogonal_and_go_away_again():
    model, seen = lmm(), []
    batch = model.inputs(["Hi"], list(workload(OPTIONS).pictures.values())[:1])
    before = model.model(**batch).logits
    with ablated(model, edit_of(direction())):
        handles = [
            point.module.register_forward_hook(
                lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
            )
            for point in model.residual_points()
        ]
        model.model(**batch)
    for handle in handles:
        handle.remove()
    assert len(seen) == 3 * model.n_layers
    assert max(float((r @ direction()[0]).abs().max()) for r in seen) < 1e-5
    assert torch.equal(model.model(**batch).logits, before)


@pytest.mark.parametrize("steered", [False, True])
def test_forced_lengths_give_equal_greedy_answers_of_both_contenders(steered):
    edit = edit_of(direction() if steered else None)
    work = mixed()
    ours = timed(ReferenceEngine(7), lmm(), work, edit).answers.tokens
    for size, by in ((15, "picture"), (4, "prompt")):
        assert timed(Hooks(size, by), lmm(), work, edit).answers.tokens == ours
    assert [len(tokens) for tokens in ours] == list(work.lengths)
    assert len({tuple(tokens[:2]) for tokens in ours}) > 5


@pytest.mark.skipif(
    not hasattr(transformers, "ContinuousBatchingConfig"), reason="needs transformers 5"
)
def test_generate_batch_answers_the_language_models_part_with_forced_lengths():
    work = mixed(12)
    answers = timed(Paged(4), lmm(), work, Edit()).answers
    assert [len(tokens) for tokens in answers.tokens] == list(work.lengths)


def test_the_shared_engine_is_given_the_trace_and_its_own_figures_are_taken(monkeypatch):
    work, kept = mixed(9), []

    class Engine:
        def __init__(self, slots, strict):
            self.asked = (slots, strict)
            self.stats = Stats(wait=0.5, slots=7, first_token_seconds=0.25)
            self.cache = SimpleNamespace(clear=lambda: kept.append("cleared"))

        def generate(self, lmm, requests, pictures, edit, sampling, lengths):
            return [SimpleNamespace(token_ids=[1] * n, error=None) for n in lengths]

    monkeypatch.setattr(contenders.engine, "Shared", Engine)
    contender = Shared(slots=7, strict=True)
    answers = contender.answer(None, work, Edit())
    assert contender.engine.asked == (7, True)
    assert kept == ["cleared"]
    assert [len(tokens) for tokens in answers.tokens] == list(work.lengths)
    assert (answers.wait_seconds, answers.first_token_seconds) == (0.5, 0.25)
    assert answers.stats["slots"] == 7


def test_an_answer_of_another_length_is_not_counted():
    class Short:
        name, remark = "short", ""

        def answer(self, lmm, work, edit):
            return Answers([[1]] * len(work.requests))

    with pytest.raises(RunFailed, match="short answered row 0 with 1 tokens where 2 were"):
        timed(Short(), lmm(), mixed(3), Edit())


def test_out_of_memory_ends_the_sweep_and_a_race_goes_on_with_the_next_choice(monkeypatch):
    real = Hooks.answer

    def small_card(self, lmm, work, edit):
        if self.size > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, lmm, work, edit)

    monkeypatch.setattr(Hooks, "answer", small_card)
    work = mixed(12)
    tries = sweep.hooks(lmm(), work, Edit(), (2, 6, 8, 12), 2)
    assert [(one.rows, one.failed) for one in tries[2:]] == [(8, "out of memory")]
    assert {one.rows for one in sweep.best(tries)} == {2, 6}
    left = iter([Hooks(8), Hooks(6)])
    entry = race.Entry("hooks", Hooks(12), Edit(), lambda: next(left, None))
    runs = race.race(lmm(), work, [entry], 1, lambda _: None)
    assert runs["hooks"][0].answers.stats["batch_rows"] == 6
    entry = race.Entry("hooks", Hooks(12), Edit())
    with pytest.raises(RunFailed, match="hooks does not fit"):
        race.race(lmm(), work, [entry], 1, lambda _: None)


def test_a_sweep_predicts_padded_batches_by_their_longest_rows(monkeypatch):
    def steady(contender, lmm, work, edit):
        steps = max(work.lengths) - 1
        return Run(Answers([], first_token_seconds=2.0), 2.0 + 0.5 * steps, 1.0, 0)

    monkeypatch.setattr(sweep, "timed", steady)
    work = replace(mixed(4), lengths=(1, 5, 3, 2))
    tried = sweep.hooks(lmm(), work, Edit(), (2,), 8)[0]
    order = [row for batch in batches(work, 2, "prompt") for row in batch]
    lengths = [work.lengths[row] for row in order]
    seconds = sum(2.0 + 0.5 * (max(pair) - 1) for pair in (lengths[:2], lengths[2:]))
    assert tried.tokens_per_second == pytest.approx(11 / seconds)


def test_ratios_are_taken_pair_by_pair():
    ours, theirs = ([Run(Answers([]), s, s, 0) for s in t] for t in ((1, 2, 4), (3, 4, 20)))
    assert race.ratio(ours, theirs) == {"median": 3.0, "min": 2.0, "max": 5.0}


LLAVA_7B = roofline.Costs(
    parameters=32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32064 * 4096,
    head=32064 * 4096,
    itemsize=2,
    kv_bytes=2 * 32 * 4096 * 2,
    picture_bytes=0,
    picture_flop=0.39e12,
    attention=32 * 4096,
)
H200 = roofline.Rates(4.3e12, 790e12, 0.0)


def test_the_roofline_of_llava_7b_is_that_of_a_hand_calculation():
    # 16 pictures x 15 rows, 582 tokens of prefix, 25 of each prompt; rows are 136 tokens long in
    # the mean while they run. By hand: 0.39 + 7.63 + 1.66 TFLOP for a picture, 9.9 ms for a step.
    load = roofline.Load((272,) * 240, 16, 16, 582, (25,) * 80, 240)
    assert roofline.prefill_flop(LLAVA_7B, load) / 16 == pytest.approx(9.67e12, rel=0.003)
    seconds = roofline.seconds(LLAVA_7B, load, H200)
    assert roofline.steps(load) == 271
    assert (seconds["weights"] + seconds["kv"]) / 271 == pytest.approx(9.9e-3, rel=0.005)
    assert seconds["prefill"] == pytest.approx(16 * 9.67e12 / 790e12, rel=0.003)
    assert seconds["total"] == pytest.approx(sum(seconds[k] for k in ("prefill", "weights", "kv")))
    # At 15 slots, 13.2 GB of weights bound the step, not the matrix products.
    few = roofline.seconds(LLAVA_7B, replace(load, slots=15), H200)
    assert few["weights"] == pytest.approx(16 * 271 * 13.2e9 / 4.3e12, rel=0.005)
    assert few["kv"] == pytest.approx(seconds["kv"])


def test_a_models_costs_are_counted_as_by_hand():
    picture = lmm().prepare(next(iter(workload(OPTIONS).pictures.values())))
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64  # q, k and v, o, MLP
    tower = 2 * 2 * 17 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 4 * 17**2 * 16
    patches, projector = 2 * 16 * (3 * 8 * 8 * 16), 2 * 16 * (16 * 32 + 32 * 32)
    assert counting.costs(lmm(), picture) == roofline.Costs(
        parameters=2 * layer + 800 * 32,
        head=800 * 32,
        itemsize=4,
        kv_bytes=2 * 2 * 16 * 4,
        picture_bytes=0,
        picture_flop=tower + patches + projector,
        attention=2 * 32,
    )
    load = counting.load(lmm(), workload(OPTIONS), 15)
    whole = [len(lmm().token_ids(prompt, "<image>" * 16)) for prompt in OPTIONS.prompts.values()]
    assert [load.prefix + suffix for suffix in load.suffixes] == whole * 2
    assert load.prefix > 16


@pytest.mark.parametrize("shape", ["cpu-155m", "llava-1.5-7b", "llava-1.5-13b"])
def test_a_shape_has_as_many_parameters_as_its_name_says(shape):
    billions = {"cpu-155m": 0.155, "llava-1.5-7b": 7.06, "llava-1.5-13b": 13.35}
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(shapes.SHAPES[shape][1]())
    count = sum(weight.numel() for weight in model.parameters())
    assert count / 1e9 == pytest.approx(billions[shape], rel=0.005)


def test_the_report_has_what_a_figure_means_nothing_without():
    assert json.loads(json.dumps(found())) == found()
    keys = ("card", "threads", "load_average", "torch", "transformers", "lmmsteer", "command")
    assert set(keys) <= set(found()["machine"])
    for name in ("reference", "hooks"):
        line = found()["contenders"][name]
        assert set(line["tokens_per_second"]) == {"median", "min", "max"}
        assert line["peak_bytes"] > 0
        assert line["tokens_per_cpu_second"]["median"] > 0
    assert found()["workload"]["tokens"] == 150
    assert found()["check"]["equal_rows"] == found()["check"]["rows"] == 10
    assert set(found()["ratios"]) == {"hooks"}
    assert "one direction" in found()["overhead"]
    assert 0 < found()["roofline"]["share"] < 1
    assert found()["sweep"]["hooks"][0]["rows"] == 15


def test_the_table_names_contenders_ratio_and_share_of_the_roofline():
    shown = report.table(found())
    for words in ("tiny: 0.1 M parameters", "reference", "hooks", "x  ", "of the roofline"):
        assert words in shown
    assert "greedy answers: 10 of 10 rows equal to hooks'" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--shape", "llava-9b"], "shape=llava-9b is not a shape"),
        (["--contenders", "hooks,shared"], "does not begin with an engine of lmmsteer's"),
        (["--contenders", "vllm"], "vllm is not a contender"),
        (["--pictures", "0"], "pictures=0 is not a positive number"),
        (["--prompts", "0"], "no rows to answer"),
        (["--folder", "."], "has 0 pictures"),
        (["--device", "tpu"], "device.kind=tpu"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(
    arguments, says, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = [] if "--contenders" in arguments else ["--contenders", "reference,hooks"]
    assert command.main([*given, *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_shape_of_a_family_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(shapes, "FAMILIES", {})
    with pytest.raises(LmmsteerError, match="family llava, which lmmsteer does not know yet"):
        shapes.build("tiny", Device("cpu"), torch.float32)


WITHOUT = """
import sys
for name in ("pyarrow", "ray", "hydra", "omegaconf", "polars"):
    sys.modules[name] = None
from lmmsteer.engine.bench import main
sys.exit(main(sys.argv[1:]))
"""


def test_it_runs_where_neither_ray_nor_hydra_nor_pyarrow_is_installed():
    small = "--shape tiny --pictures 1 --picture-size 40 --lengths fixed:2 --repeats 1 --threads 1"
    more = "--contenders reference,hooks --check-rows 0 --no-overhead --batch-sizes 15 --json"
    line = [sys.executable, "-c", WITHOUT, *small.split(), *more.split()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["workload"]["tokens"] == 30
