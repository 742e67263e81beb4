"""What `finalizer schema` says of events and webhooks, against what the program itself takes and sends:
formats.py PROGRAM BODIES. Every event of the fixtures is changed in every place; what decodes must be valid, and what
is refused must not be, but for reasons that no schema can tell.
"""

import collections
import copy
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
# A number for a string, an object for a list, …
STRANGERS = [None, True, -1, 1.5, "text", "", [], {}, [0], {"a": 1}]
# Long lists hold more of the same.
LOOKED_AT = 2
# What no schema can say: what one value means for another, or is for a calendar.
UNSAYABLE = {
    "untimed_turns": r"",
    "invalid_event": "|".join([
        r"before started_at|after its started_at|60 s before|more than|days after",
        r"RFC 3339",  # the 31st of February
        r"at most \d+ bytes",
        r"[Cc]ached",
        r"with a role such as|role that is known",
        r"integer of 64 bits",
    ]),
}


def main():
    program, bodies = sys.argv[1:]
    check_bodies(program, Path(bodies).read_text().splitlines())
    events = jsonschema.Draft202012Validator(schema(program, "events"))
    documents = {path.name: json.loads(path.read_text()) for path in sorted(FIXTURES.glob("events/*.json"))}
    # The recording's own tests take it from there.
    changed = [(name, *change) for name, document in documents.items() for change in changes(document)]
    verdicts = decide(program, [document for _, _, document in changed])
    wrong, reasons = [], collections.Counter()
    for (name, where, document), verdict in zip(changed, verdicts, strict=True):
        is_valid = events.is_valid(document)
        reasons[verdict and verdict["code"], is_valid] += 1
        if verdict is None and not is_valid:
            wrong.append(f"{name}{where} is taken, and invalid: {jsonschema.exceptions.best_match(events.iter_errors(document)).message[:200]}")
        if verdict is not None and is_valid and not is_unsayable(verdict):
            wrong.append(f"{name}{where} is valid, and refused: {verdict}")
    for line in wrong:
        print(line)
    for (code, is_valid), count in sorted(reasons.items(), key=str):
        print(f"{count:6} events {code or 'taken'}, {'valid' if is_valid else 'not valid'} by the schema")
    if wrong:
        sys.exit(f"{len(wrong)} events of which schema and program say different things")


def check_bodies(program, bodies):
    """They are valid, and are not with any of their fields gone."""
    described = schema(program, "webhooks")
    webhooks = jsonschema.Draft202012Validator(described)
    counts = collections.Counter()
    for body in map(json.loads, bodies):
        webhooks.validate(body)
        is_session = body["type"].startswith("session.")
        kind = "FullSession" if "transcript" in body["data"] else "ThinSession" if is_session else ""
        counts[f"{body['type']} {kind}".rstrip()] += 1
        # Without what only a full one has, it is a thin one.
        one = {"$defs": described["$defs"], "$ref": f"#/$defs/{kind}"}
        of_kind = jsonschema.Draft202012Validator(one) if kind else None
        for field in body["data"]:
            data = without(body["data"], field)
            is_valid = of_kind.is_valid(data) if of_kind else webhooks.is_valid({**body, "data": data})
            if is_valid and field != "egress_id":
                sys.exit(f"a {body['type']} without {field} is valid")
    print(f"valid bodies: {dict(counts)}")
    if len(counts) < 5:
        sys.exit("there should be thin and full bodies, of sessions and recordings, and of an endpoint")


def without(fields, name):
    return {field: value for field, value in fields.items() if field != name}


def schema(program, what):
    text = subprocess.run([program, "schema", what], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def changes(document):
    """The document itself, and with one place changed: `(where, document)`."""
    yield "", document
    for path in places(document, ()):
        for change in [gone, *(replace_by(stranger) for stranger in STRANGERS)]:
            other = copy.deepcopy(document)
            parent = other
            for step in path[:-1]:
                parent = parent[step]
            change(parent, path[-1])
            yield f"/{'/'.join(map(str, path))} {change.__name__}", other


def places(value, path):
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:LOOKED_AT]) if isinstance(value, list) else ()
    for step, child in inner:
        yield from places(child, (*path, step))


def gone(parent, step):
    del parent[step]


def replace_by(stranger):
    def change(parent, step):
        parent[step] = stranger

    change.__name__ = f"= {stranger!r}"
    return change


def decide(program, documents):
    """What the program says of each event: none, or why not."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "events.ndjson"
        file.write_text("".join(json.dumps(document) + "\n" for document in documents))
        done = subprocess.run(
            [program, "ingest", "--dry-run", "--json", file], cwd=folder, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )
    verdicts = [None] * len(documents)
    for line in done.stderr.splitlines():
        found = re.match(r"\S*events\.ndjson:(\d+)\s+(\w+)\s+(?:(/\S*)\s+)?(.*)", line)
        if found:
            number, code, pointer, message = found.groups()
            verdicts[int(number) - 1] = {"code": code, "pointer": pointer, "message": message}
    if done.returncode != 1:
        sys.exit(f"the dry run ended with {done.returncode}: {done.stderr[-1000:]}")
    return verdicts


def is_unsayable(verdict):
    reason = UNSAYABLE.get(verdict["code"])
    return reason is not None and re.search(reason, verdict["message"]) is not None


if __name__ == "__main__":
    main()
