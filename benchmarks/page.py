"""Write sections of a page. Each benchmark replaces its own table and nothing else."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"


def write(section: str, text: str, path: Path = PAGE) -> None:
    """Replace the text between a page's `<!-- section -->` and `<!-- /section -->`."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(f"<!-- {section} -->\n")
    _, end, after = rest.partition(f"<!-- /{section} -->")
    if not begin or not end:
        raise SystemExit(f"{path}: has no section {section}")
    path.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")
