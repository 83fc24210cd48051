"""Write the model card from the results of `evaluate.py`: `python examples/demo_model/card.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stc_export.world.questions import DETAIL, GROUPS, TEMPLATES

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "demo-model.json"
#: So many kinds of questions are named as weaknesses.
_WEAKEST = 3
CARD = ROOT / "stc_export" / "demo" / "model" / "README.md"


def card(results: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    text = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    for key, value in _values(results).items():
        text = text.replace(f"[[{key}]]", value)
    return text


def _values(results: dict[str, Any]) -> dict[str, str]:
    text_only, machine = results["text_only"], results["machine"]
    return {
        "questions": f"{results['questions']:,}",
        "clips": f"{results['clips']:,}",
        "accuracy": _groups(results["torch"]),
        "templates": _templates(results["torch"]),
        "text_only_model": _share(text_only["model"]),
        "text_only_prior": _share(text_only["prior"]),
        "agreement": f"{100 * results['exported_equals_torch']:.2f} %",
        "policies": _policies(results["policies"]),
        "random": _points(results["random_against_paper_detail"]),
        "detail": DETAIL,
        "weaknesses": _weaknesses(results["torch"]),
        "machine": f"{machine['processor']}, {machine['cores']} cores",
        "versions": ", ".join(f"{name} {number}" for name, number in results["versions"].items()),
    }


def _groups(row: dict[str, Any]) -> str:
    lines = ["| group | right | 95 % interval | questions |", "|---|---|---|---|"]
    lines += [_line(group, row["groups"][group]) for group in GROUPS]
    return "\n".join([*lines, _line("**all**", row["all"])])


def _templates(row: dict[str, Any]) -> str:
    lines = ["| question | right | 95 % interval | questions |", "|---|---|---|---|"]
    return "\n".join([*lines, *(_line(t.text.replace("{}", "..."), row["templates"][t.name]) for t in TEMPLATES)])


def _weaknesses(row: dict[str, Any]) -> str:
    """Name the kinds of questions that go wrong most often."""
    weak = sorted((row["templates"][t.name]["value"], t.text.replace("{}", "...")) for t in TEMPLATES)
    return "\n".join(f'- "{text}" is right in {_percent(share)} only.' for share, text in weak[:_WEAKEST])


def _line(name: str, interval: dict[str, float]) -> str:
    return f"| {name} | {_percent(interval['value'])} | {_range(interval)} | {interval['n']} |"


def _policies(rows: dict[str, Any]) -> str:
    lines = [
        "| policy | right | against `off`, points | "
        + " | ".join(GROUPS)
        + " | ViT tokens computed | visual tokens kept |",
        "|---|---|---|" + "---|" * (len(GROUPS) + 2),
    ]
    for name, row in rows.items():
        work = row["work"]
        cells = [
            f"`{name}`",
            _percent(row["all"]["value"]),
            "" if name == "off" else _points(row["against_off"]),
            *(_percent(row["groups"][group]["value"]) for group in GROUPS),
            f"{100 * work['vit_recomputed'] / work['vit_tokens']:.0f} %",
            f"{100 * work['kept_tokens'] / work['visual_tokens']:.0f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(interval: dict[str, float]) -> str:
    return f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f}"


def _share(interval: dict[str, float]) -> str:
    return f"{_percent(interval['value'])} ({_range(interval)})"


def _points(interval: dict[str, float]) -> str:
    value, low, high = (round(100 * interval[name], 1) + 0.0 for name in ("value", "low", "high"))  # + 0.0: no "-0.0"
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    CARD.write_text(card(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
