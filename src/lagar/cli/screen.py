"""Versions as people read them: each screen at most 40 lines of 100 columns; `--json` has everything."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lagar.registry import environments
from lagar.registry.answers import TrafficCard, VersionCard, VersionReport, field_words
from lagar.registry.manifest import Form, Golden, Manifest
from lagar.registry.proof import verdict
from lagar.registry.signature import Signature

WIDTH = 100
_LABEL = 11
MAX_INPUTS = 8
MAX_STEPS = 8


def write_lines(lines: Iterable[str]) -> None:
    """Lines on stdout, each cut to the width of the screen."""
    for line in lines:
        sys.stdout.write(cut(line.rstrip(), WIDTH) + "\n")
    sys.stdout.flush()  # words on stderr that come after it stand after it


def cut(text: str, width: int) -> str:
    """The text, or its beginning and "…"."""
    return text if len(text) <= width else text[: width - 1] + "…"


def shares(weights: Mapping[str, int]) -> str:
    """Which versions answer: "v1.2.0", "v1.1.0 90 %, v1.2.0 10 %", "-" for none."""
    if len(weights) == 1:
        return next(iter(weights))
    return ", ".join(f"{version} {share} %" for version, share in weights.items()) or "-"


def size(count: int) -> str:
    """Bytes in a unit that people read."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError("the last unit takes every amount")


def scores(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in metrics.items())


def standing(card: VersionCard) -> str:
    """What a version does now: "100 % of the traffic", "shadow", "retired", "no traffic"."""
    if card.traffic:
        return f"{card.traffic} % of the traffic"
    return "shadow" if card.shadow else "retired" if card.state == "retired" else "no traffic"


def summary(report: VersionReport) -> list[str]:
    """A pushed version in a few lines."""
    card, manifest = report.card, report.manifest
    return _labelled(
        [
            (f"{card.model}@{card.version}", f"{card.kind} {card.task}, {size(card.bytes)}, {standing(card)}"),
            ("inputs", _input_names(manifest.signature)),
            ("outputs", _outputs(manifest.signature)),
            ("metrics", scores(card.metrics)),
            ("aliases", ", ".join(card.aliases)),
            ("golden", _golden_count(manifest.golden)),
            ("loads in", _load(manifest)),
        ]
    )


def screen(report: VersionReport, history: Sequence[TrafficCard]) -> list[str]:
    """All of a version that fits on one screen."""
    card, manifest = report.card, report.manifest
    lines = _labelled(
        [
            (f"{card.model}@{card.version}", f"{card.kind} {card.task}, {size(card.bytes)}, {card.state}"),
            ("traffic", _traffic(card, history)),
            ("aliases", ", ".join(card.aliases)),
            ("metrics", scores(card.metrics)),
            ("note", card.note),
            ("pushed", _pushed(card, manifest)),
            ("built with", _libraries(manifest)),
            ("lock", _lock(manifest)),
            ("runs in", _environment(manifest)),
            ("profile", "" if manifest.profile is None else f"{manifest.profile.path}, {size(manifest.profile.bytes)}"),
            ("loads in", _load(manifest)),
            ("manifest", f"sha256 {card.manifest_sha256}"),
        ]
    )
    lines += _inputs(manifest.signature)
    lines += _labelled([("outputs", _outputs(manifest.signature)), ("classes", _classes(manifest.signature))])
    width = max(10, *(len(form.name) for form in manifest.forms[:3]))
    lines += ["forms", *(f"  {_form(form, width)}" for form in manifest.forms[:3])]
    lines.append(f"  {_answering(report)}")
    lines += _golden(manifest.golden)
    steps = [f"  {step.name:<10} {step.seconds:6.2f} s  {'; '.join(step.words)}" for step in manifest.steps[:MAX_STEPS]]
    return lines + (["steps", *steps] if steps else [])


def _labelled(facts: Sequence[tuple[str, str]]) -> list[str]:
    """One line per fact that there is; the first one's label is the title."""
    width = max(_LABEL, len(facts[0][0]) + 2 if "@" in facts[0][0] else 0)
    return [f"{label:<{width if '@' in label else _LABEL}}{text}" for label, text in facts if text]


def _traffic(card: VersionCard, history: Sequence[TrafficCard]) -> str:
    if not card.traffic and not card.shadow:
        return "none"
    now = history[0] if history else None
    since = "" if now is None else f" since {now.at}, {now.action} by {now.by}"
    return f"{card.traffic} %{since}" if card.traffic else f"shadow{since}"


def _pushed(card: VersionCard, manifest: Manifest) -> str:
    made = manifest.provenance
    commit = ""
    if made.git_commit:
        commit = f", git {made.git_commit[:12]}{' with changes' if made.git_dirty else ''}"
    return f"{card.created_at} by {card.created_by} on {made.host}, from {made.source}{commit}"


def _libraries(manifest: Manifest) -> str:
    named = manifest.original.libraries
    found = [f"{name} {version}" for name, version in named.items()]
    others = len([name for name in manifest.libraries if name not in named])
    return ", ".join([f"Python {manifest.python}", *found, *([f"{others} more libraries"] if others else [])])


def _load(manifest: Manifest) -> str:
    memory = f", {size(manifest.memory_bytes)} of memory" if manifest.memory_bytes else ""
    return f"{manifest.load_s:.2f} s{memory}"


def _lock(manifest: Manifest) -> str:
    if manifest.lock is None:
        return "none"
    return f"{manifest.lock.path}, sha256 {manifest.lock.sha256[:12]}"


def _environment(manifest: Manifest) -> str:
    """Which environment a version needs; nothing for Lagar's own."""
    if not manifest.requirements:
        return ""
    asked = ", ".join(manifest.requirements)
    return f"an environment of its own ({environments.key_for(manifest)}): {asked}"


def _input_names(signature: Signature) -> str:
    if signature.fields is None:
        return "not known: any row of numbers"
    names = ", ".join(field.name for field in signature.fields)
    return f"{len(signature.fields)}: {names}"


def _inputs(signature: Signature) -> list[str]:
    if signature.fields is None:
        return ["inputs     not known: any row of numbers"]
    fields = signature.fields
    width = min(max((len(field.name) for field in fields[:MAX_INPUTS]), default=0), 40)
    lines = [f"inputs     {len(fields)}{f', from {signature.origin}' if signature.origin else ''}"]
    lines += [f"  {cut(field.name, 40):<{width}}  {field_words(field)}" for field in fields[:MAX_INPUTS]]
    return lines + ([f"  … {len(fields) - MAX_INPUTS} more"] if len(fields) > MAX_INPUTS else [])


def _outputs(signature: Signature) -> str:
    return ", ".join(
        f"{output.name} {output.datatype}{list(output.shape) if output.shape else ''}" for output in signature.outputs
    )


def _classes(signature: Signature) -> str:
    return "" if signature.classes is None else ", ".join(map(str, signature.classes))


def _form(form: Form, width: int) -> str:
    rows = f"{form.min_rows} or more rows" if form.max_rows is None else f"{form.min_rows} to {form.max_rows} rows"
    total = sum(entry.bytes for entry in form.files)
    sha256 = next((entry.sha256 for entry in form.files if entry.path == form.entry), form.files[0].sha256)
    entry = form.entry or "the folder"
    return f"{form.name:<{width}} {form.kind:<8}  {rows}, {entry}, {size(total)}, sha256 {sha256[:12]}"


def _answering(report: VersionReport) -> str:
    """Which form answers where this was asked, or why the original does."""
    manifest, proof = report.manifest, report.proof
    if proof is not None:
        return verdict(proof) + ("" if proof == manifest.proof or proof.given_up else "; compiled here")
    saved = "it serves as it was saved"
    if manifest.requirements:
        return f"{saved}: what has an environment of its own is not compiled"
    if manifest.proof is not None:
        return f"{saved} until its forms are proved again: they were on another machine"
    if manifest.compile_later:
        return "the servers that answer with it build and prove faster ones: pushed with --compile background"
    return f"{saved}: `lagar compile {report.card.model}@{report.card.version}` builds and proves faster ones here"


def _golden_count(golden: Golden) -> str:
    return f"{len(golden.records)} rows that every load must answer alike" if golden.records else "no rows"


def _golden(golden: Golden) -> list[str]:
    if not golden.records:
        return ["golden     no rows: what it answers is not checked when it is loaded"]
    first = {name: values[0] for name, values in golden.outputs.items()}
    return [
        f"golden     {_golden_count(golden)}; the first:",
        f"  {cut(words(golden.records[0]), WIDTH - 2)}",
        f"  → {cut(words(first), WIDTH - 4)}",
    ]


def words(value: Any) -> str:
    """A value on one line, as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)
