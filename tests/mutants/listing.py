# The list of mutants, and what becomes of the sources that they are in.
import collections
import pathlib
import re
import zlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Bad(Exception):
    """An entry that does not fit the sources, or is malformed: named in the text."""


class Mutant:
    """A small bug: in `file`, `old` becomes `new`."""

    def __init__(self, area, name, file, where):
        self.name, self.area, self.file, self.where = f"{area}/{name}", area, file, where
        self.number = zlib.crc32(self.name.encode())
        self.texts = collections.defaultdict(list)  # by the sign their lines begin with
        self.line = 0  # in its file; known once it is placed

    def text(self, sign):
        return "\n".join(self.texts[sign])

    @property
    def equivalent(self):
        return self.text("=")

    @property
    def guests(self):
        return self.text("@")

    def bad(self, why):
        return Bad(f"{self.where}: {self.name}: {why}")

    def check(self):
        if not self.text("-") or "+" not in self.texts:
            raise self.bad("needs lines with - (what is there) and + (what it becomes)")
        code = re.sub(r'"(?:\\.|[^"\\])*"', "", self.text("-"))
        if any(code.count(a) != code.count(b) for a, b in ("()", "[]", "{}")):
            raise self.bad("what is there is a whole expression, or whole statements")
        return self

    def switched(self, original):
        """C++ that is `original` unless this mutant is switched on."""
        new, old = self.text("+"), self.text("-").rstrip()
        if old.endswith(";") or old.endswith("}") and ";" in old:
            return f"if (::mutant({self.number}u)) {{ {new} }} else {{ {original} }}"
        return f"(::mutant({self.number}u) ? ({new}) : ({original}))"


def read_list(path):
    """The mutants of one file of the list: README.md says how it is written."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{path.relative_to(ROOT)}:{number}"
        head = re.fullmatch(r"== (\S+) (\S+)", line)
        if head:
            found.append(Mutant(path.stem, head[1], head[2], where))
        elif line[:1] in ("~", "-", "+", "=", "@") and line[1:2] in ("", " ") and found:
            found[-1].texts[line[0]].append(line[2:])
        elif line and not line.startswith("#"):
            raise Bad(f"{where}: a line begins with ==, ~, -, +, =, @ or #: {line}")
    return [mutant.check() for mutant in found]


def read_all():
    mutants = [mutant for path in sorted(HERE.glob("*.txt")) for mutant in read_list(path)]
    seen = {}
    for mutant in mutants:
        other = seen.setdefault(mutant.number, mutant)
        if other is not mutant:
            raise mutant.bad(f"has the name, or the number, of {other.name}: {other.where}")
    return mutants


class Source:
    """A file's text, to be searched without regard to how it is laid out."""

    def __init__(self, text):
        self.text = text
        self.places = [at for at, letter in enumerate(text) if not letter.isspace()]
        self.dense = "".join(text[at] for at in self.places)

    def cuts(self, at):
        """Whether the place `at` in `dense` is within a word."""
        return 0 < at < len(self.dense) and self.places[at] == self.places[at - 1] + 1 and re.fullmatch(
            r"\w\w", self.dense[at - 1:at + 1])

    def find(self, mutant, text, begin=0, unique=True):
        """Where `text` is, from `begin` on: the indices in `dense` of its start and its end."""
        wanted = "".join(text.split())
        found = [at.start() for at in re.finditer(f"(?={re.escape(wanted)})", self.dense) if at.start() >= begin]
        found = [at for at in found if not self.cuts(at) and not self.cuts(at + len(wanted))]
        if not found:
            raise mutant.bad(f"{mutant.file} does not have: {text}")
        if unique and len(found) > 1:
            raise mutant.bad(f"{mutant.file} has more than once (put a line with ~ before): {text}")
        return found[0], found[0] + len(wanted)

    def place(self, mutant):
        """Start and end in `text` of what the mutant changes."""
        near = mutant.text("~")
        begin = self.find(mutant, near)[1] if near else 0
        start, end = self.find(mutant, mutant.text("-"), begin, unique=not near)
        mutant.line = self.text.count("\n", 0, self.places[start]) + 1
        return self.places[start], self.places[end - 1] + 1, mutant


def apply(text, places):
    """`text` with its mutants as switches; one may lie within another."""
    done, at = [], 0
    todo = collections.deque(sorted(places, key=lambda place: (place[0], -place[1])))
    while todo:
        start, end, mutant = todo.popleft()
        inner = []
        while todo and todo[0][0] < end:
            inner.append(todo.popleft())
            if inner[-1][1] > end:
                raise inner[-1][2].bad(f"overlaps {mutant.name}, and neither holds the other")
        original = apply(text[start:end], [(a - start, b - start, other) for a, b, other in inner])
        done += [text[at:start], mutant.switched(original)]
        at = end
    return "".join(done) + text[at:]


def mutated(root, mutants):
    """The text of each file that has mutants, by name, with all of them as switches."""
    by_file = collections.defaultdict(list)
    for mutant in mutants:
        by_file[mutant.file].append(mutant)
    texts, problems = {}, []
    for file, of_file in by_file.items():
        try:
            source = Source((root / file).read_text())
        except OSError:
            problems += [str(mutant.bad(f"there is no {file}")) for mutant in of_file]
            continue
        places = []
        for mutant in of_file:
            try:
                places.append(source.place(mutant))
            except Bad as bad:
                problems.append(str(bad))
        if not problems:
            up = "../" * file.count("/")
            texts[file] = f'#include "{up}tests/mutants/mutant.hpp"\n#line 1\n{apply(source.text, places)}'
    if problems:
        raise Bad("\n".join(problems))
    return texts
