"""The Kubernetes example against the published schemas, the Compose file and the Dockerfile against parsers of
their languages, and all of them against the program's settings."""

import re
import sys
from pathlib import Path

import kubernetes_validate
import yaml
from compose_spec import PyCompose
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
# A setting that nobody reads is a setting with a typing error.
KNOWN = set(re.findall(r'env = "((?:FINALIZER|LIVEKIT)_\w+)"', "".join(
    path.read_text() for path in ROOT.glob("src/**/*.rs"))))


def main():
    check_kubernetes()
    check_compose()
    check_dockerfile()


def check_kubernetes():
    text = (ROOT / "deploy" / "kubernetes.yaml").read_text()
    resources = list(yaml.safe_load_all(text))
    for resource in resources:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    require_known("deploy/kubernetes.yaml", re.findall(r"\bFINALIZER_\w+", text))
    print(f"deploy/kubernetes.yaml: {', '.join(resource['kind'] for resource in resources)}")


def check_compose():
    text = (ROOT / "docker-compose.yml").read_text()
    # The parser knows nothing of merge keys, and wants an address for `host-gateway`.
    file = yaml.safe_load(text)
    PyCompose.from_yaml(yaml.dump(file).replace("host-gateway", "192.0.2.1"))
    services = file["services"]
    for service in services.values():
        unknown = [name for name in service.get("depends_on", {}) if name not in services]
        require(not unknown, f"docker-compose.yml depends on {unknown}")
        for volume in service.get("volumes", []):
            path = volume.split(":")[0]
            require(not path.startswith(".") or (ROOT / path).is_dir(), f"docker-compose.yml: there is no {path}")
    events = [Path(word).name for word in services["demo"]["command"] if word.endswith(".json")]
    missing = [name for name in events if not (ROOT / "tests" / "fixtures" / "events" / name).exists()]
    require(events and not missing, f"docker-compose.yml: there is no {missing}")
    settings = set(re.findall(r"^ +(FINALIZER_\w+):", text, re.MULTILINE))
    require_known("docker-compose.yml", settings)
    print(f"docker-compose.yml: {', '.join(services)}")


def check_dockerfile():
    parser = DockerfileParser(fileobj=open(ROOT / "Dockerfile", "rb"))
    steps = [step for step in parser.structure if step["instruction"] != "COMMENT"]
    last = {step["instruction"]: step["value"] for step in steps}
    require(last["USER"].split(":")[0] not in ("0", "root"), "the image's user is root")
    require("HEALTHCHECK" in last, "the image has no health check")
    require_known("Dockerfile", re.findall(r"\bFINALIZER_\w+", last["ENV"]))
    print(f"Dockerfile: {len(steps)} steps from {', '.join(parser.parent_images)}")


def require_known(file, settings):
    unknown = sorted(set(settings) - KNOWN)
    require(not unknown, f"{file}: there are no settings {unknown}")


def require(is_good, sentence):
    if not is_good:
        sys.exit(sentence)


if __name__ == "__main__":
    main()
