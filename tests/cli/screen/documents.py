# ruff: noqa: E501  (lines as a model writes them)
"""Documents as a model might write them: what the Markdown tests feed in pieces."""

from __future__ import annotations

__all__ = ["DOCUMENTS"]

_LONG_CODE = "\n".join(f"def function_{n}(value):\n    return value * {n}  # {'step ' * 4}\n" for n in range(400))

DOCUMENTS: dict[str, str] = {
    "headings": "# One\n\ntext\n\n## Two `code`\ntext right below\n### Three\n\nSetext\n===\n\nanother\n---\nend",
    "paragraphs": ("Many words make a long paragraph that wraps, **bold** here, *there* too. " * 12 + "\n\n") * 3,
    "emphasis": "***both*** **bold *nested* bold** ~~gone~~ snake_case_name 2 * 3 * 4 *open **never closed\n\n_x_ *y",
    "nested lists": "- a\n  - b\n    - c\n      - d\n- e\n\n- f\n\n  second paragraph of f\n- g\n\nafter",
    "ordered": "1. one\n1. two\n1. three\n   1. inner\n   2. inner\n10. four\n\ntext\n\n7) seven\n8) eight",
    "list then text": "Steps:\n- first\n- second\nlazy continuation\n\nDone.\n* other\n+ another",
    "fence in list": "1. Run:\n   ```bash\n   pip install x\n\n   echo done\n   ```\n   then\n2. Next:\n\n   ~~~\n   a\n   ~~~\n",
    "fences": "```python\ndef f():\n    '''doc\n    string'''\n    return 1\n```\ntext\n````\n```\ninner\n```\n````\n~~~js\nlet a = `x`;",
    "long fence": f"Here:\n\n```python\n{_LONG_CODE}```\n\nThat is all.",
    "fence unclosed": "text\n\n```rust\nfn main() {\n    println!();\n}\n\n",
    "tables": "| a | b |\n|---|--:|\n| 1 | **two** |\n| `x|y` | [l](http://e.com) |\n\nafter\n\nname | value\n--- | ---\nlong "
    + "word " * 40
    + "| short",
    "wide table": "|" + "column |" * 12 + "\n|" + "---|" * 12 + "\n" + ("|" + "value |" * 12 + "\n") * 3,
    "quotes": "> quote\n> more\n>\n> - list\n>   - inner\n>\n> ```\n> code\n> ```\nlazy\n\n> > deep\n> back\n",
    "rules": "a\n\n---\n\nb\n***\nc\n\n___",
    "cjk": "# 見出し\n\n日本語の長い段落です。単語の間に空白がありません、それでも折り返します。" * 6
    + "\n\n| 名前 | 値 |\n|---|---|\n| 東京 | １２ |\n",
    "emoji": "👩‍👩‍👧 family, 🇳🇴 flag, ✔️ check, " * 10 + "\n\n- 🚀 launch\n- 🧪 test\n",
    "rtl": "# שלום\n\nמה שלומך היום? هذا نص عربي طويل يلتف على عدة أسطر. " * 6 + "\n\n1. אחת\n2. שתיים\n",
    "links": "See [the docs](https://example.com/a_b) and <https://example.com>, ![image](pic.png).\n" * 5,
    "escapes": "\\*not bold\\* &amp; &lt;b&gt; <div>html</div>\n\n<details>\n<summary>x</summary>\n\n**inside**\n\n</details>\n",
    "latex": "\\[ x_1 * y_2 = \\frac{a}{b} \\]\n\nInline \\( a_i * b_i \\) and $c_1$ and \\(never closed\n\n    indented code\n\n    more\n",
}
