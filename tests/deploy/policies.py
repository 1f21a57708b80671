"""The IAM policies that docs/deployment.md prints: who may do what."""

import json
import re
from pathlib import Path

TEXT = (Path(__file__).resolve().parents[2] / "docs/deployment.md").read_text(encoding="utf-8")
BLOCKS = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, flags=re.DOTALL)]


def actions(policy):
    """Return every action that a policy allows."""
    return {action for statement in policy["Statement"] for action in _listed(statement["Action"])}


def _listed(value):
    return [value] if isinstance(value, str) else value


BUILD_POLICY, INSTANCE_POLICY, TRUST_POLICY = BLOCKS
BUILD, INSTANCE = (tuple(sorted(actions(policy))) for policy in (BUILD_POLICY, INSTANCE_POLICY))
