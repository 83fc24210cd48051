"""Every method that ranks, over whole streams: the modules and their ONNX graphs keep what the reference keeps."""

import inspect

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from stc_export.pruners import PRUNERS, pruner_method
from stc_export.spec.errors import UnsupportedError
from stc_export.spec.policy import named_policies
from tests.reference.pruners import REFERENCES, lowest
from tests.stc_export.pruners.streams import HOSTS, boundary_gap, dims_of, feed, frames

# torch.onnx.export uses a deprecated helper of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

STATEFUL = [method for method in PRUNERS if method.history != "none"]
#: Those that look at the tokens.
RANKING = [method for method in PRUNERS if method.name not in {"none", "random", "stride"}]
#: Scores are of order 1 and computed in float32: a gap below this could be decided by rounding.
SAFE_GAP = 1e-5


def module_of(method, tokens, width):
    return method.factory(dims_of(tokens, width)).eval()


def host_of(method, tokens, width, rows):
    return HOSTS[method.history](method.history_width(dims_of(tokens, width)), rows)


def run_module(method, tokens, inputs):
    outputs = module_of(method, *tokens.shape)(
        torch.from_numpy(tokens), *(torch.from_numpy(value) for value in inputs.values())
    )
    return dict(zip(method.outputs, (output.numpy() for output in outputs), strict=True))


def check_stream(method, run, shape, keeps, *, window=5, alpha=0.4, dtype=np.float32):
    """Drive 24 frames through ``run`` and the reference; K does not change the history, so all K share a stream."""
    tokens_per_frame, width = shape
    reference = REFERENCES[method.name](window, alpha)
    host = host_of(method, *shape, window)
    for tokens in frames(24, tokens_per_frame, width, seed=tokens_per_frame + width):
        frame = tokens.astype(dtype)
        reference.step(frame, 1)
        for keep in keeps:
            # Scores that are all the same, as those of a first frame can be, leave nothing to rounding.
            assert np.ptp(reference.scores) == 0 or boundary_gap(reference.scores, keep) > SAFE_GAP
            outputs = run(method, frame, feed(method, host, alpha, keep))
            expected = lowest(reference.scores, keep)
            np.testing.assert_array_equal(outputs["kept_indices"], expected)
            np.testing.assert_array_equal(outputs["visual_tokens"], frame[expected])
            assert outputs["visual_tokens"].dtype == dtype
        if "history_entry" in outputs:
            host.push(outputs["history_entry"])
    return reference, host


@pytest.mark.parametrize("method", RANKING, ids=lambda m: m.name)
@pytest.mark.parametrize("shape", [(9, 5), (49, 16), (196, 32)], ids=str)
def test_module_over_a_stream_keeps_what_the_reference_keeps(method, shape):
    tokens = shape[0]
    check_stream(method, run_module, shape, [1, tokens // 4, tokens // 2, tokens])


@pytest.mark.parametrize("method", RANKING, ids=lambda m: m.name)
def test_module_with_half_tokens_scores_in_float32(method):
    check_stream(method, run_module, (49, 16), [1, 15, 49], dtype=np.float16)


@pytest.mark.parametrize("window", [1, 2, 24, 40])
def test_dual_anchor_with_any_window_forgets_like_the_reference(window):
    check_stream(pruner_method("stc_dual_anchor"), run_module, (49, 16), [15], window=window)


@pytest.mark.parametrize("window", [1, 2, 24, 40])
def test_vidcom2_with_any_window_has_the_mean_of_the_clip_that_ends_there(window):
    check_stream(pruner_method("vidcom2"), run_module, (49, 16), [15], window=window)


def test_evs_compares_with_the_whole_previous_frame_and_no_other():
    method, host = pruner_method("evs"), HOSTS["last"](9 * 16, 16)
    first, second, third = (tokens[:9] for tokens in frames(3, 16, 16, seed=2))
    for tokens in (first, second):
        host.push(run_module(method, tokens, feed(method, host, 0.5, 2))["history_entry"])
    # All but places 4 and 7 are as before, and the first frame is another one altogether.
    changed = np.where(np.isin(np.arange(9), (4, 7))[:, None], third, 2 * second)
    np.testing.assert_array_equal(run_module(method, changed, feed(method, host, 0.5, 2))["kept_indices"], [4, 7])


def test_evs_in_the_first_frame_keeps_the_first_tokens():
    method = pruner_method("evs")
    (tokens,) = frames(1, 9, 16, seed=0)
    found = run_module(method, tokens, feed(method, host_of(method, 9, 16, 1), 0.5, 4))
    np.testing.assert_array_equal(found["kept_indices"], [0, 1, 2, 3])


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_dual_anchor_with_any_alpha_keeps_what_the_reference_keeps(alpha):
    method = pruner_method("stc_dual_anchor")
    reference = REFERENCES[method.name](3, alpha)
    host = HOSTS["window"](16, 3)
    for number, tokens in enumerate(frames(20, 49, 16, seed=1)):
        expected = reference.step(tokens, 15)
        outputs = run_module(method, tokens, feed(method, host, alpha, 15))
        assert alpha * (number == 0) == 1 or boundary_gap(reference.scores, 15) > SAFE_GAP
        np.testing.assert_array_equal(outputs["kept_indices"], expected)
        host.push(outputs["history_entry"])


def test_dual_anchor_entries_are_the_means_of_unpruned_frames():
    reference, host = check_stream(pruner_method("stc_dual_anchor"), run_module, (49, 16), [15])
    np.testing.assert_allclose(host.history.mean(axis=0), np.mean(reference.history, axis=0), rtol=0, atol=1e-6)


def test_gaussian_running_mean_equals_the_mean_of_the_unbounded_list():
    reference, host = check_stream(pruner_method("stc_gaussian"), run_module, (49, 16), [15])
    np.testing.assert_allclose(host.history[0], np.mean(reference.past_means, axis=0), rtol=0, atol=1e-6)


def tied_frame(tokens, width):
    """Small integers, every row eight times: equal rows have equal scores, and most counts cut through them."""
    rows = np.random.default_rng(5).integers(-4, 5, size=(tokens // 8, width)).astype(np.float32)
    return np.tile(rows, (8, 1))


def check_ties(method, run, shape):
    tokens = shape[0]
    for frame in (tied_frame(*shape), np.full(shape, 3, dtype=np.float32)):
        for keep in (1, 3, 11, 35, tokens):
            reference = REFERENCES[method.name](2, 0.5)
            host = host_of(method, *shape, 2)
            outputs = run(method, frame, feed(method, host, 0.5, keep))
            np.testing.assert_array_equal(outputs["kept_indices"], reference.step(frame, keep))


@pytest.mark.parametrize("method", RANKING, ids=lambda m: m.name)
def test_module_with_equal_scores_keeps_lower_indices(method):
    check_ties(method, run_module, (64, 9))


@pytest.fixture(scope="module", params=RANKING, ids=lambda m: m.name)
def graph(request, tmp_path_factory):
    """One ONNX graph per method for M = 64, D = 9, with K and W dynamic; returned as (method, run)."""
    path = tmp_path_factory.mktemp("pruner") / "pruner.onnx"
    return request.param, onnx_runner(request.param, torch.float32, path)


def onnx_runner(method, dtype, path, tokens=64):
    width, rows, keep = 9, 3, 20
    host = host_of(method, tokens, width, rows)
    example = [
        torch.from_numpy(value) for value in feed(method, host, 0.5, keep, np.zeros(tokens, np.float32)).values()
    ]
    counted = {0: torch.export.Dim.DYNAMIC}  # W of the history, K of the carrier
    dynamic = {"history": counted, "history_weights": counted, "alpha": None, "noise": None, "carrier": counted}
    torch.onnx.export(
        module_of(method, tokens, width),
        (torch.zeros(tokens, width, dtype=dtype), *example),
        path,
        dynamo=True,
        opset_version=18,
        verbose=False,
        input_names=["tokens", *method.inputs],
        output_names=list(method.outputs),
        dynamic_shapes=[None, *(dynamic[name] for name in method.inputs)],
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(method, tokens, inputs):
        return dict(zip(method.outputs, session.run(list(method.outputs), {"tokens": tokens, **inputs}), strict=True))

    return run


@pytest.mark.parametrize("window", [1, 4, 30])
def test_onnx_graph_with_any_window_and_count_keeps_what_the_reference_keeps(graph, window):
    method, run = graph
    check_stream(method, run, (64, 9), [1, 2, 19, 63, 64], window=window)


def test_onnx_graph_with_equal_scores_keeps_lower_indices(graph):
    method, run = graph
    check_ties(method, run, (64, 9))


@pytest.mark.parametrize("method", RANKING, ids=lambda m: m.name)
def test_onnx_graph_with_half_tokens_scores_in_float32(method, tmp_path):
    check_stream(
        method, onnx_runner(method, torch.float16, tmp_path / "pruner.onnx"), (64, 9), [1, 19], dtype=np.float16
    )


def test_none_keeps_all_tokens_in_module_and_graph(tmp_path):
    method = pruner_method("none")
    tokens = next(frames(1, 64, 9, seed=0))
    for run in (run_module, onnx_runner(method, torch.float32, tmp_path / "pruner.onnx")):
        outputs = run(method, tokens, {})
        np.testing.assert_array_equal(outputs["visual_tokens"], tokens)
        np.testing.assert_array_equal(outputs["kept_indices"], REFERENCES["none"](1, 0.5).step(tokens, 64))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_random_keeps_the_tokens_of_the_lowest_noise_in_module_and_graph(tmp_path, dtype):
    method = pruner_method("random")
    kind = torch.float32 if dtype == np.float32 else torch.float16
    graph = onnx_runner(method, kind, tmp_path / "pruner.onnx")
    tokens = next(frames(1, 64, 9, seed=0)).astype(dtype)
    rng = np.random.default_rng(3)
    for noise in (rng.random(64, np.float32), rng.integers(0, 4, 64).astype(np.float32), np.zeros(64, np.float32)):
        for keep in (1, 2, 19, 63, 64):
            expected = sorted(sorted(range(64), key=lambda token: (noise[token], token))[:keep])
            for run in (run_module, graph):
                outputs = run(method, tokens, feed(method, HOSTS["none"](0, 0), 0.5, keep, noise))
                np.testing.assert_array_equal(outputs["kept_indices"], expected)
                np.testing.assert_array_equal(outputs["visual_tokens"], tokens[expected])
                assert outputs["visual_tokens"].dtype == dtype


@given(st.integers(1, 3840).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total))))
@example((3840, 3839))
@example((3840, 3840))
@example((3839, 3838))
def test_stride_any_count_keeps_the_middle_of_each_of_k_stretches(sizes):
    total, keep = sizes
    method = pruner_method("stride")
    tokens = np.arange(total, dtype=np.float32)[:, None]
    outputs = run_module(method, tokens, feed(method, HOSTS["none"](0, 0), 0.5, keep))
    expected = REFERENCES["stride"](1, 0.5).step(tokens, keep)
    np.testing.assert_array_equal(outputs["kept_indices"], expected)
    np.testing.assert_array_equal(outputs["visual_tokens"], tokens[expected])
    assert (np.diff(np.append(expected, total)) > 0).all()


def test_stride_known_indices():
    method = pruner_method("stride")
    for total, keep, expected in ((9, 3, [1, 4, 7]), (10, 3, [1, 5, 8]), (9, 1, [4]), (4, 4, [0, 1, 2, 3])):
        inputs = feed(method, HOSTS["none"](0, 0), 0.5, keep)
        found = run_module(method, np.zeros((total, 2), np.float32), inputs)
        np.testing.assert_array_equal(found["kept_indices"], expected)


@pytest.mark.parametrize("total", [64, 3840])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_stride_graph_keeps_what_the_reference_keeps(tmp_path, dtype, total):
    kind = torch.float32 if dtype == np.float32 else torch.float16
    method = pruner_method("stride")
    run = onnx_runner(method, kind, tmp_path / "pruner.onnx", total)
    tokens = next(frames(1, total, 9, seed=0)).astype(dtype)
    for keep in (1, 2, 19, total // 3, total - 1, total):
        outputs = run(method, tokens, feed(method, HOSTS["none"](0, 0), 0.5, keep))
        expected = REFERENCES["stride"](1, 0.5).step(tokens, keep)
        np.testing.assert_array_equal(outputs["kept_indices"], expected)
        np.testing.assert_array_equal(outputs["visual_tokens"], tokens[expected])


def test_table_every_method_has_a_reference_and_a_name_of_its_own():
    names = [method.name for method in PRUNERS]
    assert sorted(names) == sorted(REFERENCES)


def test_table_covers_the_methods_of_the_named_policies():
    assert {policy.pruner.method for policy in named_policies().values()} <= {method.name for method in PRUNERS}


@pytest.mark.parametrize("method", PRUNERS, ids=lambda m: m.name)
def test_table_row_agrees_with_its_module(method):
    module = module_of(method, 4, 9)
    assert ("tokens", *method.inputs) == tuple(inspect.signature(module.forward).parameters)
    assert not list(module.parameters())
    assert not list(module.buffers())
    has_history = method.history != "none"
    assert has_history == ("history" in method.inputs) == ("history_entry" in method.outputs)
    assert has_history == (method.history_width(dims_of(4, 9)) > 0)


@pytest.mark.parametrize("method", STATEFUL, ids=lambda m: m.name)
@pytest.mark.parametrize("width", [4, 9])
def test_table_history_width_is_the_width_of_an_entry(method, width):
    host = host_of(method, 9, width, 2)
    outputs = run_module(method, next(frames(1, 9, width, seed=0)), feed(method, host, 0.5, 3))
    assert outputs["history_entry"].shape == (method.history_width(dims_of(9, width)),)
    assert outputs["history_entry"].dtype == np.float32


def test_pruner_method_with_unknown_name_names_the_nearest():
    with pytest.raises(UnsupportedError, match=r'no pruning method "stc_gausian"\. Did you mean "stc_gaussian"\?'):
        pruner_method("stc_gausian")
