"""Which answers are shown as Markdown, and that nothing but Markdown gets onto the page."""

import pytest

from studio.markdown import rendered


@pytest.mark.parametrize(
    "text",
    ["Paris.", "2 * 3 * 4 = 24", "- I do not know.", "1. That is my only reason.", "a_b_c", "x ** 2 ** 3", "<b>no</b>"],
)
def test_plain_answers_stay_as_they_are(text):
    assert rendered(text) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("First:\n\n1. **Boil** it.\n\n2. Pour it.", ["<ol>", "<li>", "<strong>Boil</strong>"]),
        ("- tea\n- milk", ["<ul>", "<li>tea</li>"]),
        ("It is **42**, I think.", ["<p>It is <strong>42</strong>, I think.</p>"]),
        ("```\nx = 1\n```", ["<pre><code>x = 1"]),
        ("| a | b |\n| - | - |\n| 1 | 2 |", ["<table>", "<td>1</td>"]),
    ],
)
def test_markdown_is_set(text, parts):
    html = rendered(text)
    assert html and all(part in html for part in parts)


def test_nothing_in_an_answer_can_act_or_ask_another_machine():
    text = (
        "**bold** <script>alert(1)</script> <img src=x onerror=alert(1)>\n\n![x](http://a.b/c.png)\n\n"
        "[run](javascript:alert(1)) [site](https://a.b)"
    )
    html = rendered(text)
    assert html and "<script" not in html and "<img" not in html and 'href="javascript' not in html
    assert 'href="https://a.b"' in html
