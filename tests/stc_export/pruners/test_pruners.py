"""Every method with a history, over whole streams: the modules and their ONNX graphs keep what the reference keeps."""

import inspect
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from stc_export.pruners import PRUNERS, pruner_method
from stc_export.spec.errors import UnsupportedError
from stc_export.spec.policy import named_policies
from tests.reference.pruners import REFERENCES, lowest
from tests.stc_export.pruners.streams import HOSTS, boundary_gap, feed, frames

# torch.onnx.export uses a deprecated helper of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

STATEFUL = [method for method in PRUNERS if method.history != "none"]
#: Scores are of order 1 and computed in float32: a gap below this could be decided by rounding.
SAFE_GAP = 1e-5


def module_of(method, width):
    return method.factory(SimpleNamespace(text=SimpleNamespace(width=width))).eval()


def run_module(method, tokens, inputs):
    outputs = module_of(method, tokens.shape[1])(
        torch.from_numpy(tokens), *(torch.from_numpy(value) for value in inputs.values())
    )
    return dict(zip(method.outputs, (output.numpy() for output in outputs), strict=True))


def check_stream(method, run, shape, keeps, *, window=5, alpha=0.4, dtype=np.float32):
    """Drive 24 frames through ``run`` and the reference; K does not change the history, so all K share a stream."""
    tokens_per_frame, width = shape
    reference = REFERENCES[method.name](window, alpha)
    host = HOSTS[method.history](method.history_width(width), window)
    for tokens in frames(24, tokens_per_frame, width, seed=tokens_per_frame + width):
        frame = tokens.astype(dtype)
        reference.step(frame, 1)
        for keep in keeps:
            assert boundary_gap(reference.scores, keep) > SAFE_GAP
            outputs = run(method, frame, feed(method, host, alpha, keep))
            expected = lowest(reference.scores, keep)
            np.testing.assert_array_equal(outputs["kept_indices"], expected)
            np.testing.assert_array_equal(outputs["visual_tokens"], frame[expected])
            assert outputs["visual_tokens"].dtype == dtype
        host.push(outputs["history_entry"])
    return reference, host


@pytest.mark.parametrize("method", STATEFUL, ids=lambda m: m.name)
@pytest.mark.parametrize("shape", [(9, 5), (49, 16), (196, 33)], ids=str)
def test_module_over_a_stream_keeps_what_the_reference_keeps(method, shape):
    tokens = shape[0]
    check_stream(method, run_module, shape, [1, tokens // 4, tokens // 2, tokens])


@pytest.mark.parametrize("method", STATEFUL, ids=lambda m: m.name)
def test_module_with_half_tokens_scores_in_float32(method):
    check_stream(method, run_module, (49, 16), [1, 15, 49], dtype=np.float16)


@pytest.mark.parametrize("window", [1, 2, 24, 40])
def test_dual_anchor_with_any_window_forgets_like_the_reference(window):
    check_stream(pruner_method("stc_dual_anchor"), run_module, (49, 16), [15], window=window)


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
    tokens, width = shape
    for frame in (tied_frame(tokens, width), np.full(shape, 3, dtype=np.float32)):
        for keep in (1, 3, 11, 35, tokens):
            reference = REFERENCES[method.name](2, 0.5)
            host = HOSTS[method.history](method.history_width(width), 2)
            outputs = run(method, frame, feed(method, host, 0.5, keep))
            np.testing.assert_array_equal(outputs["kept_indices"], reference.step(frame, keep))


@pytest.mark.parametrize("method", STATEFUL, ids=lambda m: m.name)
def test_module_with_equal_scores_keeps_lower_indices(method):
    check_ties(method, run_module, (64, 9))


@pytest.fixture(scope="module", params=STATEFUL, ids=lambda m: m.name)
def graph(request, tmp_path_factory):
    """One ONNX graph per method for M = 64, D = 9, with K and W dynamic; returned as (method, run)."""
    path = tmp_path_factory.mktemp("pruner") / "pruner.onnx"
    return request.param, onnx_runner(request.param, torch.float32, path)


def onnx_runner(method, dtype, path):
    width, rows, keep = 9, 3, 20
    host = HOSTS[method.history](method.history_width(width), rows) if method.history != "none" else None
    example = [torch.from_numpy(value) for value in feed(method, host, 0.5, keep, np.zeros(64, np.float32)).values()]
    counted = {0: torch.export.Dim.DYNAMIC}  # W of the history, K of the carrier
    dynamic = {"history": counted, "history_weights": counted, "alpha": None, "noise": None, "carrier": counted}
    torch.onnx.export(
        module_of(method, width),
        (torch.zeros(64, width, dtype=dtype), *example),
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


@pytest.mark.parametrize("method", STATEFUL, ids=lambda m: m.name)
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
                outputs = run(method, tokens, feed(method, None, 0.5, keep, noise))
                np.testing.assert_array_equal(outputs["kept_indices"], expected)
                np.testing.assert_array_equal(outputs["visual_tokens"], tokens[expected])
                assert outputs["visual_tokens"].dtype == dtype


def test_table_every_method_has_a_reference_and_a_name_of_its_own():
    names = [method.name for method in PRUNERS]
    assert sorted(names) == sorted(REFERENCES)


def test_table_covers_the_methods_of_the_named_policies():
    assert {policy.pruner.method for policy in named_policies().values()} <= {method.name for method in PRUNERS}


@pytest.mark.parametrize("method", PRUNERS, ids=lambda m: m.name)
def test_table_row_agrees_with_its_module(method):
    module = module_of(method, 9)
    assert ("tokens", *method.inputs) == tuple(inspect.signature(module.forward).parameters)
    assert not list(module.parameters())
    assert not list(module.buffers())
    has_history = method.history != "none"
    assert has_history == ("history" in method.inputs) == ("history_entry" in method.outputs)
    assert has_history == (method.history_width(9) > 0)


@pytest.mark.parametrize("method", STATEFUL, ids=lambda m: m.name)
@pytest.mark.parametrize("width", [4, 9])
def test_table_history_width_is_the_width_of_an_entry(method, width):
    host = HOSTS[method.history](method.history_width(width), 2)
    outputs = run_module(method, next(frames(1, 9, width, seed=0)), feed(method, host, 0.5, 3))
    assert outputs["history_entry"].shape == (method.history_width(width),)
    assert outputs["history_entry"].dtype == np.float32


def test_pruner_method_with_unknown_name_names_the_nearest():
    with pytest.raises(UnsupportedError, match=r'no pruning method "stc_gausian"\. Did you mean "stc_gaussian"\?'):
        pruner_method("stc_gausian")
