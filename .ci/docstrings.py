"""For the site: examples of docstrings as blocks of code, constants described, functions named as their file."""

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


class Docstrings(griffe.Extension):
    """Fences the examples of every docstring; a constant is described by the comment above it."""

    def on_package(self, *, pkg, loader, **kwargs):
        loader.resolve_aliases()  # while the files are still found by their names
        for object in everything(pkg):
            if object.docstring is None and object.is_attribute and object.parent.is_module:
                object.docstring = comment(object)
            if object.docstring:
                object.docstring.value = fenced(object.docstring.value)
        for room in pkg.modules.values():
            for name in map(str, room.exports or ()):
                # What a room exports is shown, not the file of the same name: `explain.cam` is a function.
                if not room.members[name].is_alias and room.members[name].is_module:
                    room.members[name] = griffe.Alias(name, room.members[name].members[name], parent=room)


def everything(object):
    """The object and all that is defined in it."""
    yield object
    for member in object.members.values():
        if not member.is_alias:
            yield from everything(member)


def comment(attribute):
    """The docstring that the lines of comment above an attribute are, or None."""
    above, lines = attribute.lineno - 1, attribute.lines_collection[attribute.filepath]
    first = above
    while first and lines[first - 1].startswith("# "):
        first -= 1
    text = "\n".join(line[2:] for line in lines[first:above])
    return griffe.Docstring(text, parent=attribute) if text else None
