#!/usr/bin/env python3
"""Cuts an API description down to the operations that a built-in server uses, for the strict fakes of the tests.

Usage: reduce_api.py DESCRIPTION WANTED > FIXTURE

DESCRIPTION is an OpenAPI 3 document (JSON or YAML) or a Google discovery document (JSON). WANTED is a JSON file with
  source, licence   where the description comes from, copied into the fixture
  operations        the ids of the operations to keep
  opaque            schemas to keep as "an object" only: {name: [required members]}
Kept are paths, methods, parameters, bodies, answers, scopes and the schemas that these need; descriptions are not.
Objects in request bodies are closed: the real services refuse members that they do not know, and so must the fake.
"""

import json
import sys

KEPT = {
    "type", "enum", "const", "items", "properties", "required", "minimum", "maximum", "minItems", "maxItems",
    "minLength", "maxLength", "allOf", "oneOf", "anyOf", "additionalProperties", "$ref", "nullable",
}


def cleaned(schema, closed):
    """The schema without prose; closed where the members are all known."""
    if not isinstance(schema, dict):
        return schema
    out = {}
    for key, value in schema.items():
        if key not in KEPT:
            continue
        if key == "properties":
            out[key] = {name: cleaned(inner, closed) for name, inner in value.items()}
        elif key in ("items", "additionalProperties"):
            out[key] = cleaned(value, closed)
        elif key in ("allOf", "oneOf", "anyOf"):
            # A closed part of a union of objects would refuse the members of its siblings.
            out["anyOf" if key == "oneOf" else key] = [cleaned(inner, closed and key != "allOf") for inner in value]
        elif key == "$ref":
            name = value.rsplit("/", 1)[-1]
            out[key] = "#/" + ("requests" if closed else "answers") + "/" + name
        elif key == "required" and not isinstance(value, list):
            continue
        elif key == "nullable":
            continue
        else:
            out[key] = value
    if schema.get("nullable") and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
        if "enum" in out and None not in out["enum"]:
            out["enum"] = out["enum"] + [None]
    if closed and "properties" in out and "additionalProperties" not in out:
        out["additionalProperties"] = False
    return out


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def with_schemas(fixture, schemas, opaque):
    """Adds every schema that is referred to, until none is missing."""
    fixture["requests"], fixture["answers"] = {}, {}
    while True:
        missing = [ref for ref in references(fixture) if ref.split("/")[2] not in fixture[ref.split("/")[1]]]
        if not missing:
            return fixture
        for ref in missing:
            _, kind, name = ref.split("/")
            if name in opaque:
                fixture[kind][name] = {"type": "object", "required": opaque[name]}
            else:
                fixture[kind][name] = cleaned(schemas[name], kind == "requests")


def from_openapi(document, wanted):
    components = document.get("components", {})

    def resolved(node):
        while "$ref" in node:
            target = document
            for part in node["$ref"].split("/")[1:]:
                target = target[part]
            node = target
        return node

    def json_schema(holder, closed):
        content = resolved(holder).get("content", {}) if holder else {}
        media = content.get("application/json")
        return cleaned(media["schema"], closed) if media else None

    operations = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if not isinstance(operation, dict) or operation.get("operationId") not in wanted["operations"]:
                continue
            parameters = {}
            for parameter in map(resolved, item.get("parameters", []) + operation.get("parameters", [])):
                if parameter["in"] == "query":
                    schema = cleaned(resolved(parameter["schema"]), True)
                    parameters[parameter["name"]] = {"schema": schema, "required": parameter.get("required", False)}
            body = operation.get("requestBody")
            answers = {
                status: json_schema(answer, False)
                for status, answer in operation["responses"].items()
                if status.startswith("2")
            }
            operations.append({
                "id": operation["operationId"],
                "method": method.upper(),
                "path": path,
                "query": parameters,
                "body": json_schema(body, True),
                "bodyRequired": bool(body and resolved(body).get("required")),
                "answers": answers,
                "scopes": sorted({scope for way in operation.get("security", []) for scopes in way.values()
                                  for scope in scopes}),
            })
    return operations, components.get("schemas", {}), document["info"]["version"]


def from_discovery(document, wanted):
    operations = []

    def required_members(method, body):
        members = document["schemas"][body["$ref"]]["properties"].items() if body else []
        return [name for name, member in members if method in member.get("annotations", {}).get("required", [])]

    def walk(resource):
        for method in resource.get("methods", {}).values():
            if method["id"] not in wanted["operations"]:
                continue
            query = {}
            for name, parameter in method.get("parameters", {}).items():
                if parameter["location"] == "query":
                    query[name] = {
                        "schema": cleaned(parameter, True),
                        "required": parameter.get("required", False),
                        "repeated": parameter.get("repeated", False),
                    }
                    for bound in ("minimum", "maximum"):
                        if bound in query[name]["schema"]:
                            query[name]["schema"][bound] = int(query[name]["schema"][bound])
            body = method.get("request")
            answer = method.get("response")
            operation = {
                "id": method["id"],
                "method": method["httpMethod"],
                "path": "/" + method["path"],
                "query": query,
                "body": {"$ref": "#/requests/" + body["$ref"]} if body else None,
                "bodyRequired": bool(body),
                "bodyMembers": required_members(method["id"], body),
                "answers": {"200": {"$ref": "#/answers/" + answer["$ref"]} if answer else None},
                "scopes": sorted(method["scopes"]),
            }
            upload = method.get("mediaUpload", {}).get("protocols", {}).get("simple")
            if upload:
                operation["uploadPath"] = upload["path"]
            operations.append(operation)
        for inner in resource.get("resources", {}).values():
            walk(inner)

    walk(document)
    return operations, document["schemas"], document["revision"]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        if sys.argv[1].endswith((".yaml", ".yml")):
            import yaml

            document = yaml.safe_load(file)
        else:
            document = json.load(file)
    with open(sys.argv[2], encoding="utf-8") as file:
        wanted = json.load(file)
    read = from_discovery if "discoveryVersion" in document else from_openapi
    operations, schemas, version = read(document, wanted)
    missing = set(wanted["operations"]) - {operation["id"] for operation in operations}
    if missing:
        sys.exit(f"not in the description: {', '.join(sorted(missing))}")
    fixture = {
        "source": wanted["source"],
        "version": version,
        "licence": wanted["licence"],
        "made_by": "mcp-templates/rest/tests/support/reduce_api.py",
        "operations": operations,
    }
    fixture = with_schemas(fixture, schemas, wanted.get("opaque", {}))
    json.dump(fixture, sys.stdout, indent=1, ensure_ascii=False)
    print()


main()
