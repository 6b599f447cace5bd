"""State of the W&B test server: runs and artifacts, and the object graph that clients query."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

ENTITY = "tester"
"""The account that every key belongs to."""

_STREAM_FILES = {
    "wandb-history.jsonl": "history_lines",
    "wandb-events.jsonl": "event_lines",
    "output.log": "output_lines",
}


@dataclass
class TrackedRun:
    """A run as the server has it. ``history_lines`` are JSON texts, in the order of their place in the stream."""

    entity: str
    project: str
    name: str
    number: int
    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history_lines: list[str] = field(default_factory=list)
    event_lines: list[str] = field(default_factory=list)
    output_lines: list[str] = field(default_factory=list)
    state: str = "running"
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows."""
        return [json.loads(line) for line in self.history_lines]

    @property
    def global_steps(self) -> list[int]:
        """The step of every row of losses, in order."""
        return [row["global_step"] for row in self.history if "loss/total" in row]

    @property
    def settings(self) -> dict[str, Any]:
        """The config without the client's own entry."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}


@dataclass
class TrackedArtifact:
    """One version of an artifact; ``aliases`` is empty once newer versions took them all."""

    id: str
    run: TrackedRun
    type: str
    collection: str
    digest: str
    metadata: dict[str, Any]
    aliases: set[str]
    version: int
    state: str = "PENDING"
    manifest_key: str | None = None
    file_keys: dict[str, str] = field(default_factory=dict)


class WandbGraph:
    """Everything the server keeps. ``changed`` is notified whenever something arrives."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.url = ""
        self.runs: dict[str, TrackedRun] = {}
        self.artifacts: dict[str, TrackedArtifact] = {}
        self.blobs: dict[str, bytes] = {}

    # ------------------------------------------------------------------ what arrives
    def stream(self, run_name: str, message: dict[str, Any]) -> None:
        """One message of the file stream; lines take the places that their offset names."""
        run = self.runs[run_name]
        for name, part in (message.get("files") or {}).items():
            if name == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
            elif name in _STREAM_FILES:
                lines: list[str] = getattr(run, _STREAM_FILES[name])
                lines[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
        ended = bool(message.get("complete"))
        run.exit_code = message.get("exitcode") if ended else None
        run.state = "running" if not ended else "finished" if run.exit_code == 0 else "failed"

    def root(self) -> dict[str, Any]:
        """The node that a document's fields begin at."""
        names = {"entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": f"{ENTITY}@localhost"}
        none: dict[str, Any] = {"edges": []}
        viewer = {"id": "VXNlcjox", "flags": "{}", "admin": False, "teams": none, "apiKeys": none, **names}
        return {
            "viewer": viewer,
            "serverInfo": {"features": [], "cliVersionInfo": {"max_cli_version": "9"}},
            "entity": lambda name: {"id": name, "name": name, "xxhashDigestsEnabled": False},
            "project": lambda name, entityName=None: self._project(entityName or ENTITY, name),
            "model": lambda name, entityName=None: self._project(entityName or ENTITY, name),
            "artifact": lambda id: self._artifact(self.artifacts.get(id)),
            "upsertBucket": self._upsert,
            "createRunFiles": self._create_run_files,
            "createArtifact": self._create_artifact,
            "createArtifactManifest": self._create_manifest,
            "createArtifactFiles": self._create_artifact_files,
            "commitArtifact": self._commit,
            "useArtifact": lambda input: {"artifact": self._artifact(self.artifacts[input["artifactID"]])},
            "deleteArtifact": self._delete_artifact,
            "updateRunState": self._update_state,
            "markRunFilesUploaded": lambda input: {"success": True},
        }

    # ------------------------------------------------------------------ runs
    def _upsert(self, input: dict[str, Any]) -> dict[str, Any]:
        by_id = {self._run_id(run): run for run in self.runs.values()}
        run = by_id.get(input.get("id") or "") or self.runs.get(input.get("name") or "")
        inserted = run is None
        if run is None:
            entity, project = input.get("entityName") or ENTITY, input.get("modelName") or "uncategorized"
            name = input.get("name") or f"run{len(self.runs)}"
            run = self.runs[name] = TrackedRun(entity, project, name, len(self.runs))
        if input.get("state"):
            run.state = input["state"]
        if input.get("config"):
            run.config = json.loads(input["config"])
        if input.get("summaryMetrics"):
            run.summary = json.loads(input["summaryMetrics"])
        run.fields |= {key: value for key, value in input.items() if value is not None}
        return {"bucket": self._run(run), "inserted": inserted}

    def _run_id(self, run: TrackedRun) -> str:
        return base64.b64encode(f"Run:v1:{run.name}:{run.project}:{run.entity}".encode()).decode()

    def _run(self, run: TrackedRun | None) -> dict[str, Any] | None:
        if run is None:
            return None
        made = f"2026-01-01T00:{run.number // 60:02d}:{run.number % 60:02d}Z"
        client = run.config.get("_wandb", {}).get("value", {})
        outputs = [self._artifact(a) for a in self.artifacts.values() if a.run is run and a.state != "DELETED"]
        return {
            "__typename": "Run",
            "id": self._run_id(run),
            "name": run.name,
            "displayName": run.fields.get("displayName") or run.name,
            "state": run.state,
            "config": json.dumps(run.config),
            "wandbConfig": lambda keys: json.dumps({key: client.get(key, {}) for key in keys}),
            "summaryMetrics": json.dumps(run.summary),
            "systemMetrics": "{}",
            "group": run.fields.get("groupName"),
            "jobType": run.fields.get("jobType"),
            "tags": run.fields.get("tags") or [],
            "notes": run.fields.get("notes"),
            "description": run.fields.get("description"),
            "createdAt": made,
            "heartbeatAt": made,
            "readOnly": False,
            "projectId": "1",
            "project": self._project_info(run.entity, run.project),
            "user": {"name": ENTITY, "username": ENTITY},
            "historyLineCount": len(run.history_lines),
            "eventsLineCount": len(run.event_lines),
            "logLineCount": len(run.output_lines),
            "historyTail": json.dumps(run.history_lines[-1:]),
            "eventsTail": json.dumps(run.event_lines[-1:]),
            "historyKeys": _history_keys(run),
            "history": partial(_page, run.history_lines),
            "events": lambda samples=500: run.event_lines[-samples:],
            "sampledHistory": lambda specs: [_sampled(run, json.loads(spec)) for spec in specs],
            "parquetHistory": lambda liveKeys: {"parquetUrls": [], "liveData": run.history},
            "outputArtifacts": lambda after=None, first=50: _connection(outputs, after, first),
        }  # fmt: skip

    def _update_state(self, input: dict[str, Any]) -> dict[str, Any]:
        run = next(run for run in self.runs.values() if self._run_id(run) == input["id"])
        run.state = input["state"]
        return {"success": True}

    def _create_run_files(self, input: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[input["runName"]]
        files = [{"name": name, "uploadUrl": self._url(f"run/{run.name}/{name}")} for name in input["files"]]
        return {"runID": self._run_id(run), "uploadHeaders": [], "files": files}

    # ------------------------------------------------------------------ projects
    def _project_info(self, entity: str, name: str) -> dict[str, Any]:
        return {
            "id": base64.b64encode(f"Project:v1:{name}:{entity}".encode()).decode(),
            "internalId": "1",
            "name": name,
            "entity": {"id": entity, "name": entity},
            "readOnly": False,
        }

    def _project(self, entity: str, name: str) -> dict[str, Any] | None:
        runs = [run for run in self.runs.values() if (run.entity, run.project) == (entity, name)]
        if not runs:
            return None

        def run(name: str, missingOk: bool = False) -> dict[str, Any] | None:
            return self._run(next((run for run in runs if run.name == name), None))

        def selected(filters: str | None) -> list[TrackedRun]:
            return [run for run in runs if _matches(run, json.loads(filters or "{}"))]

        collections = partial(self._collection, entity, name)
        return self._project_info(entity, name) | {
            "bucket": run,
            "run": run,
            "runCount": lambda filters=None: len(selected(filters)),
            "runs": lambda filters=None, after=None, first=50, order=None: _connection(
                [self._run(run) for run in _ordered(selected(filters), order or "+created_at")], after, first
            ),
            "artifactType": lambda name: {"name": name, "artifactCollection": partial(collections, type=name)},
            "artifactCollection": collections,
            "artifactCollectionMembership": lambda name: self._membership(collections, *name.split(":")),
        }

    # ------------------------------------------------------------------ artifacts
    def versions(self, collection: str) -> list[TrackedArtifact]:
        """The versions of an artifact that are there and whole, oldest first."""
        return [a for a in self.artifacts.values() if a.collection == collection and a.state == "COMMITTED"]

    def _collection(self, entity: str, project: str, name: str, type: str | None = None) -> dict[str, Any] | None:
        versions = [a for a in self.versions(name) if (a.run.entity, a.run.project) == (entity, project)]
        if not versions:
            return None
        return {
            "__typename": "ArtifactSequence",
            "id": f"collection-{name}",
            "name": name,
            "project": self._project_info(entity, project),
            "defaultArtifactType": {"name": versions[0].type},
            "tags": {"edges": []},
            "artifacts": lambda after=None, first=50, order=None, filters=None: _connection(
                [(self._artifact(a) or {}) | {"version": f"v{a.version}"} for a in reversed(versions)], after, first
            ),
            "artifactMembership": lambda aliasName: self._member(_aliased(versions, aliasName)),
        }

    def _membership(self, collections: Any, name: str, alias: str = "latest") -> dict[str, Any] | None:
        collection = collections(name)
        found: dict[str, Any] | None = collection and collection["artifactMembership"](alias)
        return found

    def _member(self, artifact: TrackedArtifact | None) -> dict[str, Any] | None:
        if artifact is None:
            return None
        node = self._artifact(artifact) or {}
        files = [
            {"__typename": "File", "name": name, "directUrl": self._url(key)}
            for name, key in artifact.file_keys.items()
        ]
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": f"member-{artifact.id}",
            "versionIndex": artifact.version,
            "createdAt": node["createdAt"],
            "aliases": node["aliases"],
            "artifactCollection": node["artifactSequence"],
            "artifact": node,
            "files": lambda after=None, first=50: _connection(files, after, first),
        }  # fmt: skip

    def _artifact(self, artifact: TrackedArtifact | None) -> dict[str, Any] | None:
        if artifact is None:
            return None
        sequence = {
            "__typename": "ArtifactSequence",
            "name": artifact.collection,
            "project": self._project_info(artifact.run.entity, artifact.run.project),
        }
        manifest = artifact.manifest_key and {"file": {"directUrl": self._url(artifact.manifest_key)}}
        made = "2026-01-01T00:00:00Z"
        aliases = [
            {
                "__typename": "ArtifactAlias",
                "id": f"{artifact.id}-{alias}",
                "alias": alias,
                "artifactCollection": sequence,
            }
            for alias in sorted(artifact.aliases)
        ]
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": sequence,
            "versionIndex": artifact.version,
            "artifactType": {"name": artifact.type},
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "state": artifact.state,
            "size": sum(len(self.blobs.get(key, b"")) for key in artifact.file_keys.values()),
            "digest": artifact.digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": artifact.id,
            "fileCount": len(artifact.file_keys),
            "createdAt": made,
            "updatedAt": made,
            "aliases": aliases,
            "currentManifest": manifest,
        }  # fmt: skip

    def _create_artifact(self, input: dict[str, Any]) -> dict[str, Any]:
        collection = (input.get("artifactCollectionNames") or [input["artifactCollectionName"]])[0]
        versions = self.versions(collection)
        same = [version for version in versions if version.digest == input["digest"]]
        if same:
            artifact = same[-1]  # the same content again is the same version
        else:
            id_ = base64.b64encode(f"Artifact:{len(self.artifacts)}".encode()).decode()
            artifact = self.artifacts[id_] = TrackedArtifact(
                id=id_,
                run=self.runs[input["runName"]],
                type=input["artifactTypeName"],
                collection=collection,
                digest=input["digest"],
                metadata=json.loads(input.get("metadata") or "{}"),
                aliases={alias["alias"] for alias in input.get("aliases") or []},
                version=max((version.version for version in versions), default=-1) + 1,
            )
        latest = {"id": versions[-1].id} if versions else None
        return {"artifact": (self._artifact(artifact) or {}) | {"artifactSequence": {"latestArtifact": latest}}}

    def _create_manifest(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[input["artifactID"]]
        artifact.manifest_key = f"artifact/{artifact.id}/{input['name']}"
        file = {"id": artifact.manifest_key, "uploadUrl": self._url(artifact.manifest_key), "uploadHeaders": []}
        return {"artifactManifest": {"id": artifact.id, "file": file}}

    def _create_artifact_files(self, input: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for spec in input["artifactFiles"]:
            artifact = self.artifacts[spec["artifactID"]]
            key = artifact.file_keys[spec["name"]] = f"artifact/{artifact.id}/{spec['name']}"
            nodes.append(
                {
                    "name": spec["name"],
                    "storagePath": key,
                    "uploadUrl": self._url(key),
                    "uploadHeaders": [],
                    "artifact": {"id": artifact.id},
                }
            )
        return {"files": {"edges": [{"node": node} for node in nodes]}}

    def _commit(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[input["artifactID"]]
        for other in self.versions(artifact.collection):
            other.aliases -= artifact.aliases | {"latest"}
        artifact.aliases.add("latest")
        artifact.state = "COMMITTED"
        return {"artifact": self._artifact(artifact)}

    def _delete_artifact(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[input["artifactID"]]
        if artifact.aliases and not input.get("deleteAliases"):
            raise ValueError("cannot delete an artifact that has aliases")
        artifact.state = "DELETED"
        for key in artifact.file_keys.values():
            self.blobs.pop(key, None)
        return {"artifact": self._artifact(artifact)}

    def _url(self, key: str) -> str:
        return f"{self.url}/storage/{key}"


def _aliased(versions: list[TrackedArtifact], alias: str) -> TrackedArtifact | None:
    return next((v for v in reversed(versions) if alias in v.aliases or alias == f"v{v.version}"), None)


def _connection(items: list[Any], after: str | None, first: int) -> dict[str, Any]:
    start = int(after or 0)
    edges = [{"node": item, "cursor": str(at + 1), "version": item.get("version")} for at, item in enumerate(items)][
        start : start + first
    ]
    end = start + len(edges)
    page = {"__typename": "PageInfo", "endCursor": str(end), "hasNextPage": end < len(items)}
    return {"edges": edges, "pageInfo": page, "totalCount": len(items)}


def _page(lines: list[str], minStep: int = 0, maxStep: int = 2**62, samples: int = 500) -> list[str]:
    chosen = [line for line in lines if minStep <= json.loads(line).get("_step", 0) < maxStep]
    return chosen[:samples]


def _sampled(run: TrackedRun, spec: dict[str, Any]) -> list[dict[str, Any]]:
    keys = spec["keys"]
    rows = [{key: row[key] for key in keys} for row in run.history if all(key in row for key in keys)]
    low, high = spec.get("minStep", 0), spec.get("maxStep", 2**62)
    return [row for row in rows if low <= row.get("_step", 0) <= high][: spec.get("samples", 500)]


def _history_keys(run: TrackedRun) -> dict[str, Any]:
    rows = run.history
    keys = {key: {"typeCounts": [{"type": "number"}]} for row in rows for key in row}
    return {"keys": keys, "lastStep": max((row.get("_step", 0) for row in rows), default=-1), "sets": []}


def _ordered(runs: list[TrackedRun], order: str) -> list[TrackedRun]:
    key = order.lstrip("+-")

    def place(run: TrackedRun) -> Any:
        if key.startswith("summary_metrics."):
            return run.summary.get(key.removeprefix("summary_metrics."), float("-inf"))
        return run.number

    return sorted(runs, key=place, reverse=order.startswith("-"))


def _matches(run: TrackedRun, condition: dict[str, Any]) -> bool:
    """Whether a run satisfies a filter in the language of MongoDB, as far as runs are usually filtered."""
    joined = {"$and": all, "$or": any}
    for key, wanted in condition.items():
        if key in joined:
            if not joined[key](_matches(run, inner) for inner in wanted):
                return False
        elif not _satisfies(_attribute(run, key), wanted):
            return False
    return True


def _attribute(run: TrackedRun, key: str) -> Any:
    if key.startswith("config."):
        return run.settings.get(key.removeprefix("config.").removesuffix(".value"))
    if key.startswith("summary_metrics."):
        return run.summary.get(key.removeprefix("summary_metrics."))
    names = {
        "group": "groupName",
        "job_type": "jobType",
        "jobType": "jobType",
        "display_name": "displayName",
        "tags": "tags",
    }
    return getattr(run, key) if key in ("name", "state") else run.fields.get(names.get(key, key))


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, wanted: value == wanted,
    "$ne": lambda value, wanted: value != wanted,
    "$in": lambda value, wanted: value in wanted or (isinstance(value, list) and any(v in wanted for v in value)),
    "$nin": lambda value, wanted: value not in wanted,
    "$regex": lambda value, wanted: re.search(wanted, str(value)) is not None,
    "$exists": lambda value, wanted: (value is not None) is wanted,
    "$gt": lambda value, wanted: value is not None and value > wanted,
    "$gte": lambda value, wanted: value is not None and value >= wanted,
    "$lt": lambda value, wanted: value is not None and value < wanted,
    "$lte": lambda value, wanted: value is not None and value <= wanted,
}


def _satisfies(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return all(_OPERATORS[operator](value, operand) for operator, operand in wanted.items())
    return value == wanted or (isinstance(value, list) and wanted in value)
