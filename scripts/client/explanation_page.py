"""Write explanations as a self-contained HTML page with the words coloured by what they contribute.

Blue words raise the score of the label, orange ones lower it (a pair that colour-blind readers tell apart). The depth
of a colour is the size of a contribution, on one scale for each explanation.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from handler.protocol import JSON

STYLE = """
:root { color-scheme: light dark; --for: 33, 102, 172; --against: 224, 130, 20; --line: #8884; }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem } h2 { font-size: 1.1rem; margin: 0 } p { margin: .4rem 0 }
article { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.2rem; margin: 1.2rem 0 }
.text { font-size: 1.1rem; line-height: 2.1; white-space: pre-wrap; overflow-wrap: anywhere }
.text span { border-radius: .25rem; padding: .15rem .1rem }
.quiet, .field { opacity: .65; font-size: .9rem }
table { border-collapse: collapse; font-size: .9rem; margin-top: .6rem } td { padding: .1rem .6rem .1rem 0 }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.bar { display: inline-block; height: .8rem; border-radius: .2rem; vertical-align: middle }
"""


@dataclass(frozen=True)
class ExplainedScore:
    """One explained score: the question, the answer where the score is only a part of it, and the explanation."""

    question: JSON
    answer: JSON
    explanation: JSON


def page(model: str, explained: list[ExplainedScore]) -> str:
    """Return the page of some explanations."""
    articles = "\n".join(map(article, explained))
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Why {escape(model)} answers so</title>
<style>{STYLE}</style></head>
<body>
<h1>Why {escape(model)} answers so</h1>
<p class="quiet">Integrated gradients: each word's share of the way from the score of a text without words to the score
of this text. <span style="{colour(0.6)}">Blue</span> words speak for the label,
<span style="{colour(-0.6)}">orange</span> ones against it.</p>
{articles}
</body>
</html>
"""


def article(explained: ExplainedScore) -> str:
    """Return one explanation: label and score, the text coloured, and the heaviest words as bars."""
    explanation = explained.explanation
    words = explanation["words"]
    scale = max((abs(word["attribution"]) for word in words), default=0) or 1
    texts = "\n".join(
        (f'<p class="field">{escape(name)}</p>' if named else "")
        + f'<p class="text">{coloured(text, field_words, scale)}</p>'
        for name, text, field_words, named in fields(explained.question, words)
    )
    answer = (
        f"<p>Answer: {escape(str(explained.answer.get('answer', '')))}</p>"
        if isinstance(explained.answer, dict)
        else ""
    )
    return f"""<article>
<h2>{escape(explanation["label"])} {explanation["score"]:.3f}</h2>
{answer}{texts}
{bars(words, scale)}
<p class="quiet">without words: {explanation["baseline_score"]:.3f}; error of the sum:
{signed(explanation["convergence_delta"], 4)} in {explanation["n_steps"]} steps</p>
</article>"""


def signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign; what is rounded to zero has that of zero.

    >>> signed(-0.0704), signed(-0.0002)
    ('-0.070', '+0.000')
    """
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def fields(question: JSON, words: list[JSON]) -> list[tuple[str, str, list[JSON], bool]]:
    """Return name, text and words of each field of a question, and whether the name is worth showing."""
    texts = {"text": question} if isinstance(question, str) else dict(question)
    first = next(iter(texts))
    named = len(texts) > 1
    return [
        (name, text, [word for word in words if word.get("field", first) == name], named)
        for name, text in texts.items()
    ]


def coloured(text: str, words: list[JSON], scale: float) -> str:
    """Return a text as HTML, its words coloured; what was not explained stays as it is."""
    parts, at = [], 0
    for word in sorted(words, key=lambda word: word["start"]):
        start, end = max(word["start"], at), word["end"]
        title = signed(word["attribution"], 4)
        style = colour(word["attribution"] / scale)
        parts.append(f'{escape(text[at:start])}<span style="{style}" title="{title}">{escape(text[start:end])}</span>')
        at = max(at, end)
    return "".join(parts) + escape(text[at:])


def colour(share: float) -> str:
    """Return the style of a word that contributes so much, from -1 to 1."""
    return f"background: rgba(var(--{'for' if share >= 0 else 'against'}), {min(abs(share), 1) * 0.75:.2f})"


def bars(words: list[JSON], scale: float, count: int = 8) -> str:
    """Return the heaviest words as a table with bars."""
    heaviest = sorted(words, key=lambda word: -abs(word["attribution"]))[:count]
    rows = "".join(
        f"<tr><td>{escape(word['word'])}</td><td class=number>{signed(word['attribution'])}</td>"
        f'<td><span class="bar" style="{colour(1 if word["attribution"] >= 0 else -1)}; '
        f'width: {abs(word["attribution"]) / scale * 16:.2f}rem"></span></td></tr>'
        for word in heaviest
    )
    return f"<table>{rows}</table>"
