"""Checks the Kubernetes objects that standard input has as YAML by their schemas, and prints them as a JSON list.

A member that a schema does not have is an error. The one kind from outside Kubernetes, the Gateway API's HTTPRoute, has no
schema here."""

import json
import sys

import kubernetes_validate
import yaml

# The oldest and the newest for which the objects are written.
VERSIONS = ("1.29", "1.37")
FOREIGN = ("HTTPRoute",)


class UniqueKeys(yaml.SafeLoader):
    """Refuses a repeated key, of which YAML's reader would keep the last."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise ValueError(f"{node.start_mark}: a key is there twice: {keys}")
        return super().construct_mapping(node, deep)


objects = [found for found in yaml.load_all(sys.stdin, UniqueKeys) if found is not None]
for found in objects:
    if found["kind"] in FOREIGN:
        continue
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            sys.exit(f"{found['kind']} {found['metadata']['name']}, {version}: {'.'.join(map(str, error.path))}: {error.message}")
json.dump(objects, sys.stdout)
