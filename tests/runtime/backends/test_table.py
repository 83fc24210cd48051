from __future__ import annotations

import pytest

from stc_export.spec.errors import DeviceError
from stc_runtime.backends import BACKENDS, open_backend
from stc_runtime.backends.ort import OrtBackend


def test_open_backend_known_kind_opens_it() -> None:
    assert isinstance(open_backend("ort", ("CPUExecutionProvider",), 1), OrtBackend)


def test_open_backend_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(DeviceError) as caught:
        open_backend("vulkan", ())
    assert str(caught.value) == f'This version has no backend "vulkan". Known: {", ".join(BACKENDS)}.'
