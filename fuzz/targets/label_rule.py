"""Rules that make a post's label of those of its fields, as a table or as YAML."""

from __future__ import annotations

from pathlib import Path

from cotune.tasks.label_rule import built_in_rules, read_rule

WORDS = ("text", "image", "label", "- {", "}", ": ", ",", "\n", "null", "!!python/object", "&a", "*a", "<<: ", "? ")


def seeds() -> list[bytes]:
    """Return the rules that come with the package, and small ones."""
    import cotune.tasks

    folder = Path(cotune.tasks.__file__).parent / "rules"
    shipped = [(folder / f"{name}.csv").read_bytes() for name in built_in_rules()]
    return [
        *shipped,
        b"text,image,label\na,a,x\na,b,\nb,a,\nb,b,y\n",
        b"- {text: a, image: a, label: x}\n- {text: a, image: b, label: y}\n",
        b"[{text: 1, image: true, label: null}]",
    ]


def read(data: bytes, folder: Path) -> None:
    """Read the rule and apply it to every combination."""
    path = folder / ("rule.yaml" if data[:1] in b"-[{&!" else "rule.csv")
    path.write_bytes(data)
    rule = read_rule(str(path))
    for combination, label in rule.labels.items():
        votes = {field: [name] for field, name in zip(rule.fields, combination, strict=True)}
        if rule.label_of(votes) != label:
            raise AssertionError("a rule that answers otherwise than it says")
