"""Reads metrics from standard input, as strictly as OpenMetrics asks for, and prints them as JSON. The
queries of the boards and rules that are named may only name metrics, labels and values that are among
them: check.py [BOARD.json | RULES.yml]... < metrics
"""

import json
import re
import sys
from pathlib import Path

import promql_parser
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

# What Prometheus itself adds to every metric.
ADDED = {"job", "instance"}
# Values that depend on the traffic.
OPEN = {"route", "status", "le"}


def main():
    families = list(text_string_to_metric_families(sys.stdin.read()))
    known = {}
    for family in families:
        for sample in family.samples:
            labels = known.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    troubles = []
    for file in map(Path, sys.argv[1:]):
        queries = list(queries_of(file))
        if not queries:
            troubles.append(f"{file}: there is no query")
        for place, query in queries:
            troubles += [f"{file}: {place}: {trouble}" for trouble in troubles_of(query, known)]
    if troubles:
        sys.exit("\n".join(troubles))
    json.dump([[sample.name, sample.labels, sample.value]
               for family in families for sample in family.samples], sys.stdout)


def queries_of(file):
    if file.suffix == ".json":
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield panel["title"], target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                metric, _ = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()
                yield variable["name"], metric
    else:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                yield rule["alert"], rule["expr"]


def troubles_of(query, known):
    query = query.replace("$__rate_interval", "5m")
    try:
        expression = promql_parser.parse(query)
    except ValueError as error:
        return [f"no query: {error}: {query}"]
    troubles, selected, grouped = [], {}, set()

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            selected.setdefault(node.name, []).extend(node.matchers.matchers)
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            grouped.update(node.modifier.labels)

    promql_parser.walk(expression, visit)
    for metric, matchers in selected.items():
        if metric == "up":
            continue
        if metric not in known:
            troubles.append(f"there is no metric {metric}")
            continue
        for matcher in matchers:
            values = known[metric].get(matcher.name)
            if values is None and matcher.name not in ADDED:
                troubles.append(f"{metric} has no label {matcher.name}")
            elif values is not None and matcher.name not in OPEN:
                wanted = set(matcher.value.split("|"))
                if wanted - values:
                    troubles.append(f"{metric}: {matcher.name} is never {wanted - values}")
    of_selected = set().union(ADDED, *(known.get(metric, {}) for metric in selected))
    if grouped - of_selected:
        troubles.append(f"nothing that is asked for has the labels {grouped - of_selected}")
    return troubles


main()
