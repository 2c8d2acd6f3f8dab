"""The fields of KubeRay's RayJob that the shipped manifest uses, as a JSON schema.

Written by hand after the field reference of the ray.io/v1 custom resources (ray-project/kuberay, docs/reference/api.md,
release 1.6.2): names, types and enums are theirs. Closed on purpose: a misspelt field, which a Kubernetes server may
drop in silence, is an error here. Pod templates and the network policy hold the fields of Kubernetes' core/v1 and
networking.k8s.io/v1 that are used.
"""

from typing import Any

STRING: dict[str, Any] = {"type": "string", "minLength": 1}
BOOLEAN: dict[str, Any] = {"type": "boolean"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
WORDS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"}
NAME = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}


def record(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these fields and no others."""
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def items(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1}


QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
RESOURCES = record({"requests": QUANTITIES, "limits": QUANTITIES})
CONTAINER = record(
    {
        "name": NAME,
        "image": STRING,
        "resources": RESOURCES,
        "securityContext": record(
            {"allowPrivilegeEscalation": BOOLEAN, "capabilities": record({"drop": items(STRING)})}
        ),
    },
    {
        "ports": items(record({"name": NAME, "containerPort": {"type": "integer", "minimum": 1, "maximum": 65535}})),
        "envFrom": items(record({"secretRef": record({"name": NAME})})),
        "volumeMounts": items(record({"name": NAME, "mountPath": STRING}, {"readOnly": BOOLEAN})),
    },
)
POD_TEMPLATE = record(
    {
        "metadata": record({"labels": WORDS}),
        "spec": record(
            {
                "containers": items(CONTAINER),
                "securityContext": record(
                    {
                        "runAsNonRoot": BOOLEAN,
                        "runAsUser": COUNT,
                        "runAsGroup": COUNT,
                        "fsGroup": COUNT,
                        "seccompProfile": record({"type": {"enum": ["RuntimeDefault", "Unconfined", "Localhost"]}}),
                    }
                ),
            },
            {
                "automountServiceAccountToken": BOOLEAN,
                "nodeSelector": WORDS,
                "serviceAccountName": NAME,
                # Ray's autoscaler 2 makes and ends pods itself: KubeRay refuses any other policy with it.
                "restartPolicy": {"const": "Never"},
                "terminationGracePeriodSeconds": COUNT,
                "tolerations": items(
                    record(
                        {"operator": {"enum": ["Exists", "Equal"]}},
                        {
                            "key": STRING,
                            "value": STRING,
                            "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                        },
                    )
                ),
                "volumes": items(
                    record(
                        {"name": NAME}, {"persistentVolumeClaim": record({"claimName": NAME}, {"readOnly": BOOLEAN})}
                    )
                ),
            },
        ),
    }
)
GROUP = {"rayStartParams": WORDS, "template": POD_TEMPLATE}
RAY_CLUSTER = record(
    {
        "rayVersion": {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
        "authOptions": record({"mode": {"enum": ["disabled", "token"]}}, {"secretName": NAME}),
        "headGroupSpec": record(GROUP, {"serviceType": {"enum": ["ClusterIP"]}}),
        "workerGroupSpecs": items(
            record({"groupName": NAME, **GROUP}, {"replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT})
        ),
    },
    {
        "enableInTreeAutoscaling": BOOLEAN,
        "autoscalerOptions": record(
            {},
            {
                "version": {"enum": ["v1", "v2"]},
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                "idleTimeoutSeconds": COUNT,
                "resources": RESOURCES,
            },
        ),
    },
)
RAY_JOB = record(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": record({"name": NAME | {"maxLength": 47}}, {"labels": WORDS, "annotations": WORDS}),
        "spec": record(
            {"entrypoint": STRING, "rayClusterSpec": RAY_CLUSTER},
            {
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "backoffLimit": COUNT,
                "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
                "preRunningDeadlineSeconds": {"type": "integer", "minimum": 1},
                "shutdownAfterJobFinishes": BOOLEAN,
                "ttlSecondsAfterFinished": COUNT,
                "metadata": WORDS,
                "runtimeEnvYAML": STRING,
            },
        ),
    }
)
LABELLED = record({}, {"matchLabels": WORDS})
NETWORK_POLICY = record(
    {
        "apiVersion": {"const": "networking.k8s.io/v1"},
        "kind": {"const": "NetworkPolicy"},
        "metadata": record({"name": NAME}),
        "spec": record(
            {
                "podSelector": LABELLED,
                "policyTypes": items({"enum": ["Ingress", "Egress"]}),
                "ingress": items(
                    record(
                        {"from": items(record({}, {"podSelector": LABELLED, "namespaceSelector": LABELLED}))},
                        {"ports": items(record({"port": COUNT}, {"protocol": {"enum": ["TCP", "UDP"]}}))},
                    )
                ),
            }
        ),
    }
)
