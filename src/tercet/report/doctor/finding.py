"""The result of one check of a run."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "advice", "alarm"]  # an alarm: what the run learns is not what was meant; it may stop the run


@dataclass(frozen=True)
class Finding:
    """What a check found: `text` says how it knows, with the numbers, and `remedy` which key to turn.

    `docs` is a page of the documentation, and `name` stays the same between versions.
    """

    name: str
    level: Level
    title: str
    text: str
    remedy: str = ""
    docs: str = ""

    @property
    def is_good(self) -> bool:
        """True if the check found nothing wrong."""
        return self.level == "good"

    @property
    def sentence(self) -> str:
        """The text and the remedy."""
        return f"{self.text}. {self.remedy[:1].upper()}{self.remedy[1:]}." if self.remedy else f"{self.text}."

    @property
    def line(self) -> str:
        """The whole finding in one line."""
        return f"{self.title}: {self.sentence}" + (f" See docs/{self.docs}" if self.docs else "")
