"""Render docs/reproduction.md and its figures from the committed rows; nothing is computed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from reproduction import rows
from reproduction.claims import CLAIMS, MARGIN
from reproduction.evidence import DIFFERS, OPEN, Claim, Evidence, Verdict, higher
from reproduction.figures import FIGURES, PILOTS, RESULTS

HEAD = """# Reproduction

*The Early Phase of Neural Network Training* ([arXiv:2002.10365](https://arxiv.org/abs/2002.10365))
and its neighbours on CIFAR-10, claim by claim, at a scale that two CPU cores can do. Made by
`make reproduction-page` from the rows in `docs/reproduction/`; do not edit.

**What differs from the paper.** Images are CIFAR-10 as JPEG files (lossy: accuracies may lie a
little lower). Figures 1 and 4 to 10 and the neighbours: ResNet-20 of width 8 on 16 × 16 pixels,
4,000 steps in place of 62,560, the rate falling to a tenth after 2,400 and 3,200; a level removes
48.8 % of the weights, as much as three of the paper's 20 %. Figures 2 and 3: 4,000 steps at the
constant rate that the paper has for its first 31,280, at width 16 on whole images (as the paper)
and at width 8 on 16 × 16. All in float32, batches of 128, one thread a job.

**Verdicts.** *agrees* and *differs*: the 95 % interval says so, at the margin that stands beside it
(accuracies are equal within {margin:g} %). *can't tell*: it includes both. *open*: too few seeds,
or not run. Tests are paired over seeds where both cells have them, else Welch's t. Certainty of
the paper's value: C confirmed from the text or from code, R recalled, I inferred.

**{done:,} of {cells:,} cells are done**; verdicts so far: {verdicts}.

```sh
make reproduction DATA=~/images       # what is missing: niced, resumable, stop it at any time
make reproduction-page                # this page
```
"""


def write_page(results: Path = RESULTS, page: Path | None = None) -> Path:
    """Write the page and its figures; return its path."""
    from reproduction.draw import draw_all

    evidence = Evidence(results)
    page = page or results.parent / "reproduction.md"
    judged = [(head, [(c, judge(c, evidence)) for c in claims]) for head, claims in CLAIMS]
    counts = Counter(verdict.verdict for _, found in judged for _, verdict in found)
    done, cells = (sum(n) for n in zip(*(evidence.planned(f.name) for f in FIGURES), strict=True))
    parts = [
        HEAD.format(
            margin=100 * MARGIN,
            done=done,
            cells=cells,
            verdicts=", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()),
        )
    ]
    for head, found in judged:
        parts += [f"## {head}\n", _table(found)]
    parts.append(_differences([pair for _, found in judged for pair in found]))
    drawn = draw_all(evidence, results)
    parts.append("## Figures\n")
    parts.append(
        "Means over seeds; bars and bands are standard deviations of the sample (n − 1).\n"
    )
    parts += [f"![{told}]({results.name}/{name})\n\n*{told}.*\n" for name, told in drawn]
    parts += [_pilots(evidence), _studies(evidence)]
    page.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    return page


def judge(claim: Claim, evidence: Evidence) -> Verdict:
    """Judge a claim; open with the reason where it cannot be."""
    if isinstance(claim.judge, str):
        return Verdict(OPEN, "", claim.judge)
    found = claim.judge(evidence, claim.figure)
    if found.verdict == OPEN and found.test == "not run yet":
        done, cells = evidence.planned(claim.figure)
        return Verdict(
            OPEN, found.ours, f"not run yet: {done} of {cells} cells of `{claim.figure}`"
        )
    return found


def _table(found: list[tuple[Claim, Verdict]]) -> str:
    lines = [
        "| claim | paper | | ours | test | rows | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for claim, verdict in found:
        cells = (
            claim.text,
            claim.paper,
            claim.sure,
            verdict.ours or "–",
            verdict.test or "–",
            f"`{claim.figure}`",
            f"**{verdict.verdict}**",
        )
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _differences(found: list[tuple[Claim, Verdict]]) -> str:
    """Tell what is known of each claim that differs."""
    lines = [
        f"- {claim.text} (`{claim.figure}`): {claim.why or 'not explained yet'}."
        for claim, verdict in found
        if verdict.verdict == DIFFERS
    ]
    return "\n".join(["## Differences\n", *lines]) + "\n" if lines else ""


def _pilots(evidence: Evidence) -> str:
    """Tell what pilots showed, also those that showed nothing."""
    lines = ["## Pilots\n", "How the setting was looked for.\n", "| setting | question | found |"]
    lines.append("| --- | --- | --- |")
    told = rows.read(evidence.folder / "pilots.json")["rows"]
    lines += [f"| {row['setting']} | {row['question']} | {row['found']} |" for row in told]
    scale = "width 8, 16 × 16, 4,000 steps, iterative to 13.4 % (the scale `cifar`)"
    for name, setting in (("fig1-cifar", scale), *((p.name, p.title) for p in PILOTS)):
        found = "; ".join(filter(None, (_separated(evidence, name, level) for level in (1, 2, 3))))
        lines.append(f"| {setting} | is k = 1,000 better than k = 0? | {found or 'not run yet'} |")
    return "\n".join(lines) + "\n"


def _separated(evidence: Evidence, figure: str, level: int) -> str:
    """Tell the accuracies of k = 1,000 and k = 0 at a level, and the test of their difference."""
    late, first = (evidence.number(figure, "accuracy", rewind=k, level=level) for k in (1000, 0))
    if not (late and first):
        return ""
    verdict = higher(late, first)
    return f"{100 * 0.512**level:.3g} % kept: {verdict.ours}, {verdict.test}"


def _studies(evidence: Evidence) -> str:
    lines = [
        "## How to run each\n",
        "`seeds` are those of rows; `sources` the commits and machines that made them.\n",
        "| rows | command | cells | seeds | settings | sources |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for figure in FIGURES:
        held = evidence.files.get(figure.name)
        if held is None:
            continue
        done, cells = evidence.planned(figure.name)
        command = f"`ckptlab study examples/{figure.file} --scale {figure.scale} --data-root DIR`"
        seeds = ", ".join(map(str, sorted({row["seed"] for row in held["rows"]}))) or "–"
        used = [held["sources"][k] for k in sorted({row["source"] for row in held["rows"]})]
        made = [f"{s['commit']}, {s['machine']}, torch {s['torch']}" for s in used]
        lines.append(
            f"| `{figure.name}` | {command} | {done} of {cells} | {seeds} | "
            f"`{held['config_hash']}` | {'; '.join(made) or '–'} |"
        )
    repeated: dict[str, Any] = rows.read(evidence.folder / "repeat.json")
    text = "\n".join(lines) + "\n"
    if "told" in repeated:
        text += f"\n{repeated['told']}\n"
    return text
