"""Single errors in Python's source: where they can be made, and what they make of it; the rest stays byte for byte."""

import ast
import hashlib
from typing import NamedTuple

ARITHMETIC = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
              ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*")}
ORDERS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")}
OPPOSITES = {ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
             ast.In: ("in", "not in"), ast.NotIn: ("not in", "in")}
COMPARISONS = ORDERS | OPPOSITES
NAMES = (("minimum", "maximum"), ("min", "max"), ("sum", "mean"), ("any", "all"), ("argmin", "argmax"),
         ("floor", "ceil"), ("zeros_like", "ones_like"))
SWAPS = {a: b for pair in NAMES for a, b in (pair, pair[::-1])}
SEQUENCES = ast.Tuple, ast.List, ast.JoinedStr
QUIET = "annotation", "returns", "defaults", "kw_defaults"


class Site(NamedTuple):
    """One possible error: bytes `start` to `end` of the file become `new`."""

    id: str
    path: str
    lines: range
    kind: str
    start: int
    end: int
    new: bytes
    before: str
    after: str


def nodes(tree):
    """What is computed: no annotations, default values, fields of classes, errors, texts."""
    yield tree
    for name, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            field = isinstance(tree, ast.ClassDef) and isinstance(child, ast.Assign | ast.AnnAssign)
            if isinstance(child, ast.AST) and name not in QUIET and not field \
                    and not isinstance(child, ast.Raise | ast.JoinedStr):
                yield from nodes(child)


def is_text(node):
    return isinstance(node, SEQUENCES) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def changes(node, at, source):
    """(kind, start, end, new bytes) of every error in one node; `at(node)` is (start, end) of it in the source."""

    def between(left, right, old, new, kind):
        start, end = at(left)[1], at(right)[0]
        yield kind, start, end, source[start:end].replace(old.encode(), new.encode(), 1)

    def negated(test):
        if not (isinstance(test, ast.Compare) and type(test.ops[0]) in OPPOSITES):
            yield "condition", *at(test), b"(not (" + source[slice(*at(test))] + b"))"

    match node:
        case ast.BinOp(left, op, right) if type(op) in ARITHMETIC and not (is_text(left) or is_text(right)):
            yield from between(left, right, *ARITHMETIC[type(op)], "arithmetic")
        case ast.Compare(left, [op], [right]) if type(op) in COMPARISONS:
            yield from between(left, right, *COMPARISONS[type(op)], "comparison")
        case ast.BoolOp(op, [left, right, *_]):
            words = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
            yield from between(left, right, *words, "boolean")
        case ast.UnaryOp(ast.USub()):
            yield "sign", at(node)[0], at(node)[0] + 1, b"+"
        case ast.UnaryOp(ast.Not()):
            yield "boolean", at(node)[0], at(node)[0] + 3, b"   "
        case ast.Constant(value) if type(value) in (int, float):
            yield "constant", *at(node), f"({value + 1 if type(value) is int else 2 * value + 1})".encode()
        case ast.Call(ast.Attribute(_, "where"), [_, a, b]):
            (start, comma), (other, end) = at(a), at(b)
            yield "branches", start, end, source[other:end] + source[comma:other] + source[start:comma]
        case ast.Call(ast.Attribute(_, name) as function) if name in SWAPS:
            yield "function", at(function)[1] - len(name), at(function)[1], SWAPS[name].encode()
        case ast.Call(ast.Name(name) as function) if name in ("min", "max", "any", "all"):
            yield "function", *at(function), SWAPS[name].encode()
    match node:
        case ast.If(test) | ast.IfExp(test) | ast.While(test):
            yield from negated(test)
        case ast.comprehension(ifs=[test, *_]):
            yield from negated(test)


def sites(path, source):
    """Every Site of a file's bytes. Its id comes from its line's text, so that edits elsewhere keep it."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def at(node):
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    found, seen = [], {}
    for node in nodes(ast.parse(source)):
        for kind, start, end, new in changes(node, at, source):
            first = source.count(b"\n", 0, start)
            last = source.count(b"\n", 0, max(start, end - 1))
            text = source[start:end]
            line = b"".join(lines[first:last + 1])
            after = line[:start - starts[first]] + new + line[end - starts[first]:]
            name = (path, line, kind, after)
            seen[name] = seen.get(name, 0) + 1
            digest = hashlib.sha256(repr((*name, seen[name])).encode()).hexdigest()[:12]
            if new != text:
                found.append(Site(digest, path, range(first + 1, last + 2), kind, start, end, new,
                                  " ".join(line.decode().split()), " ".join(after.decode().split())))
    return found


def applied(site, source):
    return source[:site.start] + site.new + source[site.end:]


def sample(sites, count, seed):
    """`count` sites at random, spread over the files in proportion; more of one seed contain fewer."""
    def draw(*words):
        return int(hashlib.sha256(repr((seed, *words)).encode()).hexdigest()[:12], 16) / 16**12

    files = {}
    for site in sorted(sites, key=lambda site: draw(site.id)):
        files.setdefault(site.path, []).append(site)
    ranks = {site: (rank + draw(path)) / len(some) for path, some in files.items() for rank, site in enumerate(some)}
    return sorted(sorted(sites, key=ranks.get)[:count], key=lambda site: (site.path, site.start))
