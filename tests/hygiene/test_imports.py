from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.hygiene.sources import PACKAGES, module_files, module_name

DEVICE_SIDE = ("stc_runtime", "stc_engines", "stc_export.spec")
#: Nothing of the environment but numpy: what a device has before a backend is installed.
REFUSED = [
    *("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "safetensors", "onnxruntime", "tensorrt", "av"),
    *("tokenizers", "typer", "rich", "pydantic", "jinja2", "PIL", "psutil", "huggingface_hub", "pytest"),
]
IMPORT = """
import importlib, json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
before = set(sys.modules)
for name in {names!r}:
    importlib.import_module(name)
found = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(found - set(sys.stdlib_module_names))))
"""


def import_alone(names: list[str], refused: list[str]) -> set[str]:
    """Import modules in a fresh interpreter and return the top-level packages, beyond the standard library."""
    code = IMPORT.format(names=names, refused=refused)
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def modules_of(*packages: str) -> list[str]:
    names = [module_name(file) for file in module_files()]
    return [name for name in names if any(name == p or name.startswith(f"{p}.") for p in packages)]


def test_device_side_every_module_imports_with_numpy_only() -> None:
    found = import_alone(modules_of(*DEVICE_SIDE), REFUSED)
    assert found <= {"stc_export", "stc_engines", "stc_runtime", "numpy"}


@pytest.mark.parametrize("package", ["stc_export.spec", "stc_engines"])
def test_spec_and_engines_import_with_the_standard_library_only(package: str) -> None:
    assert import_alone(modules_of(package), [*REFUSED, "numpy"]) <= {"stc_export", "stc_engines"}


def test_pipeline_types_and_inspect_import_with_the_standard_library_only() -> None:
    names = ["stc_export.pipeline.types", "stc_export.pipeline.inspect", "stc_export.pipeline.doctor"]
    assert import_alone(names, [*REFUSED, "numpy"]) <= {"stc_export", "stc_engines"}


def test_command_line_start_imports_only_the_standard_library() -> None:
    assert import_alone(["stc_export.cli.main", "stc_export.__main__"], [*REFUSED, "numpy"]) == {"stc_export"}


@pytest.mark.parametrize("folder", ["runtime", "engines", "calib"])
def test_folder_of_a_package_is_no_module_of_its_own(folder: str) -> None:
    code = f"import importlib.util as u; spec = u.find_spec({folder!r}); print(spec.origin if spec else None)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_module_names_cover_all_four_packages() -> None:
    names = {module_name(file) for file in module_files()}
    assert set(PACKAGES) <= names
    assert {"stc_engines.table", "stc_export.spec.errors"} <= names
