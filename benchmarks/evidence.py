"""`make evidence TARGET=NAME`: run what proves a target on this machine, and write docs/targets/<name>.md.

    python benchmarks/evidence.py [NAME]

NAME is the target that this machine is, by default the one that says most about it. The tests of tests/device run, the
demo model is built, sealed where the target has engines, and measured. Raw results go to benchmarks/results.
Exit codes: 0 done, 1 a test failed (the page says which), 2 no such target, 3 this machine is not that target.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as ET

from evidence_page import SCHEMA, DeviceTest, Evidence, Outcome, page

from stc_engines.recognise import Machine, check_is_here, detect_target, read_machine
from stc_engines.table import Target, find_target
from stc_engines.trt.product import PRODUCTS
from stc_export.cli.progress import make_progress
from stc_export.pipeline.bench.record import BenchRecord
from stc_export.pipeline.bench.run import bench
from stc_export.pipeline.build import run_build
from stc_export.pipeline.seal import seal_bundle
from stc_export.pipeline.types import BenchRequest, BuildRequest, SealRequest
from stc_export.spec import codec
from stc_export.spec.engines import SealRecord
from stc_export.spec.errors import DeviceError, StcError
from stc_export.spec.files import write_file
from stc_export.spec.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
#: What pytest calls what became of a test; one without any of these passed.
_OUTCOMES: Mapping[str, Outcome] = {"skipped": "skipped", "failure": "failed", "error": "failed"}

#: Passes over the frames: enough samples for a 95th percentile.
_REPEATS = 10


@dataclass(frozen=True)
class Places:
    """Where things are written.

    Attributes:
        results: Folder of the raw results.
        pages: Folder of the pages.
        bundles: Folder of the bundles that are built; git ignores it.
    """

    results: Path = ROOT / "benchmarks" / "results"
    pages: Path = ROOT / "docs" / "targets"
    bundles: Path = ROOT / ".cache" / "evidence"


def main(arguments: list[str] | None = None, places: Places | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", nargs="?", help="target that this machine is (default: the one detected)")
    options = parser.parse_args(arguments)
    try:
        machine = read_machine()
        evidence = gather(choose(options.target, machine), machine, places or Places(), make_progress())
    except StcError as error:
        print(f"error: {error.problem}\nfix: {error.fix}", file=sys.stderr)
        return error.exit_code
    write(evidence, places or Places())
    return 1 if any(test.outcome == "failed" for test in evidence.tests) else 0


def choose(name: str | None, machine: Machine) -> Target:
    """Return the target that was asked for, or the one that this machine is.

    Raises:
        UnsupportedError: There is no such target.
        MissingDependencyError: A package that runs it is missing.
        DeviceError: This machine is another one, or none.
    """
    target = find_target(name, machine.device) if name else detect_target(machine)
    if target is None:
        raise DeviceError("This machine is no target: nothing that runs graphs is installed.", "Run make setup.")
    check_is_here(target, machine)
    return target


def gather(target: Target, machine: Machine, places: Places, progress: Progress) -> Evidence:
    """Run the tests, build, seal and measure the demo model."""
    progress.note(f"target: {target.name}")
    with progress.stage("tests"):
        tests = run_tests()
    places.bundles.mkdir(parents=True, exist_ok=True)
    request = BuildRequest("demo", target=target.name, out=places.bundles / f"{target.name}.stc", overwrite=True)
    built = run_build(request, progress)
    sealed = seal_here(target, built.bundle, progress)
    return Evidence(
        schema=SCHEMA,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        target=target.name,
        gpu=machine.gpu,
        cuda_driver=machine.host.cuda_driver,
        l4t=machine.device.l4t,
        jetpack=machine.device.jetpack,
        tests=tests,
        parity=built.manifest.parity,
        sealed=sealed,
        bench=measure(built.bundle, progress),
    )


def run_tests() -> tuple[DeviceTest, ...]:
    """Run tests/device in a process of its own.

    Raises:
        StcError: pytest could not run them.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "tests/device", f"--junitxml={report}"]
        done = subprocess.run(command, cwd=ROOT, check=False, stdout=sys.stderr)
        if done.returncode not in (0, 1):
            raise StcError(f"The tests did not run: pytest ended with {done.returncode}.", "See what it wrote above.")
        return read_report(report.read_text(encoding="utf-8"))


def read_report(text: str) -> tuple[DeviceTest, ...]:
    """Read what pytest wrote about each test."""
    return tuple(_test(case) for case in ET.fromstring(text).iter("testcase"))


def _test(case: ET.Element) -> DeviceTest:
    name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
    needs = next((row.get("value") for row in case.iter("property") if row.get("name") == "needs"), None)
    for child in case:
        if child.tag in _OUTCOMES:
            return DeviceTest(name, _OUTCOMES[child.tag], needs, " ".join(child.get("message", "").split()))
    return DeviceTest(name, "passed", needs)


def seal_here(target: Target, bundle: Path, progress: Progress) -> SealRecord | None:
    """Seal a bundle if the target has engines."""
    if target.backend.kind not in PRODUCTS:
        return None
    return seal_bundle(SealRequest(bundle, overwrite=True), progress).record


def measure(bundle: Path, progress: Progress) -> BenchRecord:
    """Run `stc-export bench` on a bundle, and name it without its folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bench.json"
        bench(BenchRequest(bundle, repeats=_REPEATS, out=out), progress)
        record = codec.from_json(BenchRecord, out.read_text(encoding="utf-8"))
    return replace(record, result=replace(record.result, bundle=bundle.name))


def write(evidence: Evidence, places: Places) -> None:
    """Write the raw results and the page."""
    outputs = {
        places.results / f"target-{evidence.target}.json": codec.to_json(evidence),
        places.pages / f"{evidence.target}.md": page(evidence),
    }
    for path, text in outputs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(text.encode(), path)
        print(f"written: {path}")
    print(f"link the page in docs/README.md and docs/targets.md, and set evidence in targets/{evidence.target}.json")


if __name__ == "__main__":
    raise SystemExit(main())
