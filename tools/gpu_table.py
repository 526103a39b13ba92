"""The table that tools/test_gpu writes: what each step found for each build, and how long it took."""

import os

NOT_RUN = "not run"


class Found:
    """What a step found for one build: a cell of the table, notes, and what is wrong, each a list of lines."""

    def __init__(self, cell, notes=(), problems=()):
        self.cell, self.notes, self.problems = cell, list(notes), list(problems)


class Table:
    """What was found so far; written anew whenever something is added.

    steps: (title, for each build) of each; a step that is not for each build has one cell.
    """

    def __init__(self, out, card, builds, steps):
        self.out, self.card = out, card
        self.builds = [os.path.basename(build) for build in builds]
        self.rows = {title: ([NOT_RUN] * (len(self.builds) if each else 1), []) for title, each in steps}
        self.notes, self.problems = [], []

    def add(self, title, place, found, seconds):
        """What a step found for the build at this place (0 for a step of no build)."""
        cells, times = self.rows[title]
        name = f"{self.builds[place]}: " if len(cells) == len(self.builds) and self.builds else ""
        cells[place] = found.cell
        times.append(seconds)
        self.notes += [f"{name}{note}" for note in found.notes]
        self.problems += [f"{name}{problem}" for problem in found.problems]
        self.write()

    def write(self):
        """Write the file, complete or not at all; returns its text."""
        lines = [f"# On a GPU: {self.card}", "", "Made by tools/test_gpu.", ""]
        lines += [f"| step | {' | '.join(self.builds)} | seconds |", "|---" * (len(self.builds) + 2) + "|"]
        for title, (cells, times) in self.rows.items():
            filled = cells + [""] * (len(self.builds) - len(cells))
            lines.append(f"| {title} | {' | '.join(filled)} | {' + '.join(f'{time:.0f}' for time in times)} |")
        lines += ["", *(f"- {note}" for note in self.notes), *(f"- FAILED {problem}" for problem in self.problems)]
        text = "\n".join(lines).rstrip() + "\n"
        with open(f"{self.out}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(f"{self.out}.new", self.out)
        return text
