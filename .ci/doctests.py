"""For the site: the examples of docstrings, runs of lines from >>> on, as blocks of code."""

import griffe


def fenced(text: str) -> str:
    """The text with each example, up to the next empty line, inside a fence.

    >>> print(fenced("One.\\n\\n>>> 1 + 1\\n2\\n\\nTwo."))
    One.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    <BLANKLINE>
    Two.
    """
    lines, inside = [], False
    for line in text.split("\n"):
        margin = line[:len(line) - len(line.lstrip())]
        if line.lstrip().startswith(">>>") and not inside:
            lines.append(margin + "```pycon")
            inside, indent = True, margin
        elif inside and not line.strip():
            lines.append(indent + "```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, indent + "```"] if inside else lines)


class Doctests(griffe.Extension):
    """Fences the docstring of every object."""

    def on_object(self, *, obj, loader, **kwargs):
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
