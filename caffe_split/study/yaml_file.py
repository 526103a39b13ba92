"""A study's file as YAML. What YAML 1.2 forbids, and PyYAML takes, is refused: a key that is given twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caffe_split.errors import CaffeSplitError

_DATE, _MERGE = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """The value in a file; dates are texts, as no key of a study takes one. Raises `CaffeSplitError`, one line."""
    try:
        import yaml
    except ImportError:
        raise CaffeSplitError("a study needs PyYAML and Snakemake: pip install pyyaml snakemake") from None
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        loader.yaml_implicit_resolvers = {
            first: [each for each in found if each[0] != _DATE]
            for first, found in loader.yaml_implicit_resolvers.items()
        }
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(path, node)
        return loader.construct_document(node)
    except (OSError, UnicodeDecodeError) as error:
        raise CaffeSplitError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except yaml.YAMLError as error:
        raise CaffeSplitError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # PyYAML does not check what a tag as !!int, or a number as 0x_, stands before.
        raise CaffeSplitError(f"{path}: not YAML: a value is not of its type ({error}); put it in quotes") from None
    except RecursionError:
        raise CaffeSplitError(f"{path}: its values are nested too deeply for a study") from None


def _check_keys(path: Path, root: Any) -> None:
    """Raises `CaffeSplitError` for a key that a mapping has twice: the first value would be lost without a word."""
    left, seen = [root], {id(root)}
    while left:
        node = left.pop()
        children = node.value if node.id == "sequence" else []
        if node.id == "mapping":
            children = [value for _, value in node.value]
            lines: dict[str, int] = {}
            for key in (key for key, _ in node.value if key.id == "scalar" and key.tag != _MERGE):
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise CaffeSplitError(
                        f"{path}: line {line}: the key '{key.value}' is given twice, first in line {lines[key.value]}; "
                        "leave one of them out"
                    )
                lines[key.value] = line
        new = [child for child in children if id(child) not in seen]
        seen.update(map(id, new))
        left += new
