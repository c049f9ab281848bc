"""Takes out of a manifest what is nobody's business once it is shared: the host, local paths, where servers stood.

It knows manifests and recipes, not datasets; model names, hub ids and relative paths inside the project stay.
"""

import json
import re
from typing import Any

from pipeline.manifest import Manifest
from pipeline.section import declared

# An absolute, home or upward path within a text, of two parts at least; the last part is kept.
_PATH = re.compile(
    r"(?:file://(?=/)|(?<![\w.:/\\<-]))(?:~[\w.-]*/|(?:\.\./)+|/(?=[^\s/]+/)|[A-Za-z]:[\\/])"
    r"(?:[^\s/\\\"'<>|]+[/\\])*([^\s/\\\"'<>|]*)"
)
_WHOLE_PATH = re.compile(r"(?:file://)?(?:/|~[\w.-]*/|\.\./|[A-Za-z]:[\\/])[^\n\"'<>|:,;]*[/\\]([^/\\\n\"'<>|:,;]+)")
_SERVER = re.compile(
    r"\bhttps?://(?:[\w-]+|[\w.-]+\.(?:lan|local|internal|home|corp|localdomain)|\d+(?:\.\d+){3}|\[[0-9a-f:]+\])(?=[:/\s\"']|$)\S*"
)
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@\"']+@")


def scrub_text(text: str, host: str = "") -> str:
    """A value without local paths (their last part stays), local servers, credentials in addresses, and the host."""
    whole = _WHOLE_PATH.fullmatch(text)
    if whole:
        text = whole[1]
    text = _SERVER.sub("(a local server)", _CREDENTIALS.sub("", text))
    text = _PATH.sub(lambda found: found[1] or "(a folder)", text)
    return re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", "(host)", text) if host else text


def scrub(value: Any, host: str = "") -> Any:
    """`scrub_text` in every string and key of a JSON value."""
    if isinstance(value, str):
        return scrub_text(value, host)
    if isinstance(value, dict):
        return {scrub_text(key, host): scrub(item, host) for key, item in value.items()}
    return [scrub(item, host) for item in value] if isinstance(value, list | tuple) else value


def shareable(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON to publish. Its recipe goes without `exec` keys; its shards stay as the run knew them."""
    host = manifest.host
    values = manifest.model_dump(mode="json", exclude={"host", "recipe"})
    kept = {key: values[key] for key in ("datasets", "artifacts")}  # shard paths and digests, all relative
    rest = scrub({key: item for key, item in values.items() if key not in kept}, host)
    return {**rest, **kept, "recipe": scrub(declared(json.loads(manifest.recipe)), host)}
