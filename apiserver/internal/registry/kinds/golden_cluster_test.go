package kinds_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

func limitRangeGolden() golden {
	return golden{
		resource: "limitranges",
		base:     "metadata: {name: limits, namespace: default}\nspec: {limits: [{type: Container, max: {cpu: 2}, min: {cpu: 100m}}]}",
		defaults: []row{
			{"", "spec.limits[0].default = {cpu: '2'} & spec.limits[0].defaultRequest = {cpu: '2'}"},
			{"spec.limits[0].default = {cpu: 1}", "spec.limits[0].default = {cpu: '1'} & spec.limits[0].defaultRequest = {cpu: '1'}"},
			{"spec.limits[0].max = ~", "spec.limits[0].default = ~ & spec.limits[0].defaultRequest = {cpu: 100m}"},
			{"spec.limits[0].type = Pod", "spec.limits[0].default = ~ & spec.limits[0].defaultRequest = ~"},
		},
		valid: []string{
			"spec.limits = []",
			"spec.limits[1] = {type: Pod, max: {cpu: 4, memory: 8Gi}}",
			"spec.limits[1] = {type: PersistentVolumeClaim, min: {storage: 1Gi}}",
			"spec.limits[1] = {type: example.com/widget, max: {example.com/size: 3}}",
			"spec.limits[0].maxLimitRequestRatio = {cpu: 2}",
		},
		invalid: []row{
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"spec.limits[0].type = Namespace", "spec.limits[0].type: FieldValueInvalid"},
			{"spec.limits[0].type = 'a b'", "spec.limits[0].type: FieldValueInvalid"},
			{"spec.limits[1] = {type: Container}", "spec.limits[1].type: FieldValueDuplicate"},
			{"spec.limits[0].min = {cpu: 3}", "spec.limits[0].defaultRequest[cpu]: FieldValueInvalid, spec.limits[0].default[cpu]: FieldValueInvalid, spec.limits[0].min[cpu]: FieldValueInvalid"},
			{"spec.limits[0].defaultRequest = {cpu: 50m}", "spec.limits[0].defaultRequest[cpu]: FieldValueInvalid"},
			{"spec.limits[0].defaultRequest = {cpu: 1} & spec.limits[0].default = {cpu: 500m}", "spec.limits[0].defaultRequest[cpu]: FieldValueInvalid"},
			{"spec.limits[0].default = {cpu: 3}", "spec.limits[0].defaultRequest[cpu]: FieldValueInvalid, spec.limits[0].default[cpu]: FieldValueInvalid"},
			{"spec.limits[0].maxLimitRequestRatio = {cpu: 500m}", "spec.limits[0].maxLimitRequestRatio[cpu]: FieldValueInvalid"},
			{"spec.limits[0].maxLimitRequestRatio = {cpu: 21}", "spec.limits[0].maxLimitRequestRatio[cpu]: FieldValueInvalid"},
			{"spec.limits[0] = {type: Pod, default: {cpu: 1}}", "spec.limits[0].default: FieldValueForbidden"},
			{"spec.limits[0] = {type: Pod, defaultRequest: {cpu: 1}}", "spec.limits[0].defaultRequest: FieldValueForbidden"},
			{"spec.limits[0] = {type: PersistentVolumeClaim}", "spec.limits[0].limits: FieldValueRequired"},
			{"spec.limits[0] = {type: Container, max: {apples: 1}}", "spec.limits[0].defaultRequest[apples]: FieldValueInvalid, spec.limits[0].default[apples]: FieldValueInvalid, spec.limits[0].max[apples]: FieldValueInvalid"},
			{"spec.limits[0] = {type: Pod, max: {cpu: -1}}", "spec.limits[0].max[cpu]: FieldValueInvalid"},
			{"spec.limits[0] = {type: Container, default: {example.com/gpu: 2}, defaultRequest: {example.com/gpu: 1}}", "spec.limits[0].defaultRequest[example.com/gpu]: FieldValueInvalid"},
		},
		update: []row{{"spec.limits = []", ""}, {"spec.limits[0].type = Odd", "spec.limits[0].type: FieldValueInvalid"}},
	}
}

func resourceQuotaGolden() golden {
	return golden{
		resource: "resourcequotas",
		base:     "metadata: {name: quota, namespace: default}\nspec: {hard: {cpu: 4, memory: 8Gi, pods: 10}}",
		defaults: []row{{"status = {used: {pods: 3}}", "status = {}"}},
		valid: []string{
			"spec.hard = {requests.cpu: 500m, limits.memory: 1Gi, requests.storage: 1.5Gi, count/deployments.apps: 3, services.nodeports: 0}",
			"spec.hard = {fast.storageclass.storage.k8s.io/requests.storage: 5Gi, requests.nvidia.com/gpu: 4, hugepages-2Mi: 4Mi}",
			"spec.scopes = [NotBestEffort, Terminating]",
			"spec.hard = {pods: 3} & spec.scopes = [BestEffort]",
			"spec.hard = {requests.nvidia.com/gpu: 4, count/jobs.batch: 2} & spec.scopes = [Terminating]",
			"spec.scopeSelector = {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [high]}]}",
			"spec.hard = {requests.storage: 1Gi} & spec.scopeSelector = {matchExpressions: [{scopeName: VolumeAttributesClass, operator: In, values: [gold]}]}",
		},
		invalid: []row{
			{"spec.hard = {'a b': 1}", "spec.hard[a b]: FieldValueInvalid"},
			{"spec.hard = {apples: 1}", "spec.hard[apples]: FieldValueInvalid"},
			{"spec.hard = {pods: -1}", "spec.hard[pods]: FieldValueInvalid"},
			{"spec.hard = {pods: 500m}", "spec.hard[pods]: FieldValueInvalid"},
			{"spec.hard = {secrets: 1500m}", "spec.hard[secrets]: FieldValueInvalid"},
			{"spec.scopes = [Odd]", "spec.scopes: FieldValueInvalid"},
			{"spec.scopes = [BestEffort]", "spec.scopes: FieldValueInvalid"},
			{"spec.hard = {services: 1} & spec.scopes = [Terminating]", "spec.scopes: FieldValueInvalid"},
			{"spec.hard = {ephemeral-storage: 1Gi} & spec.scopes = [Terminating]", "spec.scopes: FieldValueInvalid"},
			{"spec.scopes = [VolumeAttributesClass]", "spec.scopes: FieldValueInvalid"},
			{"spec.scopes = [Terminating, NotTerminating]", "spec.scopes: FieldValueInvalid"},
			{"spec.scopeSelector = {matchExpressions: [{scopeName: Odd, operator: Exists}]}", "spec.scopeSelector.matchExpressions[0].scopeName: FieldValueInvalid"},
			{"spec.scopeSelector = {matchExpressions: [{scopeName: PriorityClass, operator: In}]}", "spec.scopeSelector.matchExpressions[0].values: FieldValueRequired"},
			{"spec.scopeSelector = {matchExpressions: [{scopeName: PriorityClass, operator: Exists, values: [a]}]}", "spec.scopeSelector.matchExpressions[0].values: FieldValueInvalid"},
			{"spec.scopeSelector = {matchExpressions: [{scopeName: PriorityClass, operator: Like}]}", "spec.scopeSelector.matchExpressions[0].operator: FieldValueInvalid"},
			{"spec.scopeSelector = {matchExpressions: [{scopeName: Terminating, operator: In, values: [a]}]}", "spec.scopeSelector.matchExpressions[0].operator: FieldValueInvalid"},
			{"spec.scopeSelector = {matchExpressions: [{scopeName: Terminating, operator: Exists}, {scopeName: NotTerminating, operator: Exists}]}", "spec.scopeSelector.matchExpressions: FieldValueInvalid"},
		},
		update: []row{
			{"spec.hard = {pods: 20}", ""},
			{"spec.scopes = [NotBestEffort]", "spec.scopes: FieldValueInvalid"},
			{"spec.scopes = [NotBestEffort, Terminating] => spec.scopes = [Terminating, NotBestEffort]", ""},
		},
		status: []row{
			{"status = {hard: {pods: 10}, used: {pods: 3}}", ""},
			{"status = {used: {apples: 3}}", "status.used[apples]: FieldValueInvalid"},
			{"status = {hard: {pods: -1}}", "status.hard[pods]: FieldValueInvalid"},
		},
	}
}

// signingMaterial makes a request and a certificate, both in PEM and base64.
func signingMaterial(t *testing.T) (request, certificate string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	name := pkix.Name{CommonName: "jane"}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: name}, key)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name, NotAfter: time.Unix(1<<31, 0)}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE REQUEST", der), encode("CERTIFICATE", signed)
}

func certificateSigningRequestGolden(t *testing.T) golden {
	request, certificate := signingMaterial(t)
	forged := base64.StdEncoding.EncodeToString([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	return golden{
		resource: "certificatesigningrequests.certificates.k8s.io",
		base: `
metadata: {name: jane}
spec: {signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], request: ` + request + `}
`,
		defaults: []row{
			{"spec.username = root & spec.uid = x & spec.groups = [system:masters] & spec.extra = {a: [b]}", "spec.username = ~ & spec.uid = ~ & spec.groups = ~ & spec.extra = ~"},
			{"status.conditions = [{type: Approved, status: 'True'}]", "status = {}"},
		},
		valid: []string{"spec.expirationSeconds = 600", "spec.usages = [digital signature, key encipherment, server auth]", "spec.signerName = example.com/my.signer-1", "metadata.name = 'system:node:n1'"},
		invalid: []row{
			{"metadata.name = a/b", "metadata.name: FieldValueInvalid"},
			{"spec.request = ''", "spec.request: FieldValueInvalid"},
			{"spec.request = YQ==", "spec.request: FieldValueInvalid"},
			{"spec.request = " + forged, "spec.request: FieldValueInvalid"},
			{"spec.request = " + certificate, "spec.request: FieldValueInvalid"},
			{"spec.usages = []", "spec.usages: FieldValueRequired"},
			{"spec.usages = [client auth, flying]", "spec.usages[1]: FieldValueNotSupported"},
			{"spec.usages = [client auth, client auth]", "spec.usages[1]: FieldValueDuplicate"},
			{"spec.signerName = ''", "spec.signerName: FieldValueRequired"},
			{"spec.signerName = signer", "spec.signerName: FieldValueInvalid"},
			{"spec.signerName = local/signer", "spec.signerName: FieldValueInvalid"},
			{"spec.signerName = example.com/a/b", "spec.signerName: FieldValueInvalid"},
			{"spec.signerName = kubernetes.io/legacy-unknown", "spec.signerName: FieldValueInvalid"},
			{"spec.expirationSeconds = 599", "spec.expirationSeconds: FieldValueInvalid"},
		},
		update: []row{
			{"metadata.labels = {a: b}", ""},
			{"spec.signerName = other", ""}, // kept as it was
			{"status.conditions = [{type: Approved, status: 'True'}]", ""},
		},
		status: []row{
			{"status.certificate = " + certificate, ""},
			{"status.certificate = YQ==", "status.certificate: FieldValueInvalid"},
			{"status.certificate = " + request, "status.certificate: FieldValueInvalid"},
			{"status.conditions = [{type: Failed, status: 'True', reason: SignerValidationFailure}]", ""},
			{"status.conditions = [{type: Approved, status: 'True'}]", "status.conditions: FieldValueForbidden"},
			{"status.conditions = [{type: Denied, status: 'True'}]", "status.conditions: FieldValueForbidden"},
			{"status.conditions = [{type: Failed, status: 'False'}]", "status.conditions[0].status: FieldValueNotSupported"},
			{"status.conditions = [{type: example.com/own, status: 'False'}, {type: '', status: ''}]", "status.conditions[1].status: FieldValueRequired, status.conditions[1].type: FieldValueRequired"},
			{"status.conditions = [{type: Failed, status: 'True'}, {type: Failed, status: 'True'}]", "status.conditions[1].type: FieldValueDuplicate"},
		},
	}
}

const webhookBase = `
metadata: {name: hooks}
webhooks:
- name: pods.hooks.example.com
  clientConfig: {service: {name: hook, namespace: hooks}}
  rules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]
  sideEffects: None
  admissionReviewVersions: [v1]
`

func webhookInvalid() []row {
	return []row{
		{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
		{"webhooks[0].name = ''", "webhooks[0].name: FieldValueRequired"},
		{"webhooks[0].name = pods.example", "webhooks[0].name: FieldValueInvalid"},
		{"webhooks[0].clientConfig = {}", "webhooks[0].clientConfig: FieldValueRequired"},
		{"webhooks[0].clientConfig.url = 'https://a.example'", "webhooks[0].clientConfig: FieldValueRequired"},
		{"webhooks[0].clientConfig = {url: 'http://a.example'}", "webhooks[0].clientConfig.url: FieldValueInvalid"},
		{"webhooks[0].clientConfig = {url: 'https://'}", "webhooks[0].clientConfig.url: FieldValueInvalid"},
		{"webhooks[0].clientConfig = {url: 'https://u:p@a.example/x?y#z'}", "webhooks[0].clientConfig.url: FieldValueInvalid"},
		{"webhooks[0].clientConfig = {url: ':'}", "webhooks[0].clientConfig.url: FieldValueRequired"},
		{"webhooks[0].clientConfig.service = {name: '', namespace: ''}", "webhooks[0].clientConfig.service.name: FieldValueRequired, webhooks[0].clientConfig.service.namespace: FieldValueRequired"},
		{"webhooks[0].clientConfig.service.port = 70000", "webhooks[0].clientConfig.service.port: FieldValueInvalid"},
		{"webhooks[0].clientConfig.service.path = hook", "webhooks[0].clientConfig.service.path: FieldValueInvalid"},
		{"webhooks[0].clientConfig.service.path = /a//b", "webhooks[0].clientConfig.service.path: FieldValueInvalid"},
		{"webhooks[0].sideEffects = ~", "webhooks[0].sideEffects: FieldValueRequired"},
		{"webhooks[0].sideEffects = Some", "webhooks[0].sideEffects: FieldValueNotSupported"},
		{"webhooks[0].timeoutSeconds = 31", "webhooks[0].timeoutSeconds: FieldValueInvalid"},
		{"webhooks[0].timeoutSeconds = 0", "webhooks[0].timeoutSeconds: FieldValueInvalid"},
		{"webhooks[0].failurePolicy = Retry", "webhooks[0].failurePolicy: FieldValueNotSupported"},
		{"webhooks[0].matchPolicy = Fuzzy", "webhooks[0].matchPolicy: FieldValueNotSupported"},
		{"webhooks[0].admissionReviewVersions = []", "webhooks[0].admissionReviewVersions: FieldValueRequired"},
		{"webhooks[0].admissionReviewVersions = [v2]", "webhooks[0].admissionReviewVersions: FieldValueInvalid"},
		{"webhooks[0].admissionReviewVersions = [v1, v1]", "webhooks[0].admissionReviewVersions[1]: FieldValueInvalid"},
		{"webhooks[0].admissionReviewVersions = [v1, 1v]", "webhooks[0].admissionReviewVersions[1]: FieldValueInvalid"},
		{"webhooks[0].objectSelector = {matchExpressions: [{key: a, operator: Odd}]}", "webhooks[0].objectSelector.matchExpressions[0].operator: FieldValueInvalid"},
		{"webhooks[0].namespaceSelector = {matchLabels: {'a b': c}}", "webhooks[0].namespaceSelector.matchLabels: FieldValueInvalid"},
		{"webhooks[0].rules[0] = {}", "webhooks[0].rules[0].apiGroups: FieldValueRequired, webhooks[0].rules[0].apiVersions: FieldValueRequired, webhooks[0].rules[0].operations: FieldValueRequired, webhooks[0].rules[0].resources: FieldValueRequired"},
		{"webhooks[0].rules[0].operations = ['*', CREATE]", "webhooks[0].rules[0].operations: FieldValueInvalid"},
		{"webhooks[0].rules[0].operations = [READ]", "webhooks[0].rules[0].operations[0]: FieldValueNotSupported"},
		{"webhooks[0].rules[0].apiGroups = ['*', apps]", "webhooks[0].rules[0].apiGroups: FieldValueInvalid"},
		{"webhooks[0].rules[0].apiVersions = ['']", "webhooks[0].rules[0].apiVersions[0]: FieldValueRequired"},
		{"webhooks[0].rules[0].apiVersions = ['*', v1]", "webhooks[0].rules[0].apiVersions: FieldValueInvalid"},
		{"webhooks[0].rules[0].resources = ['*/*', pods]", "webhooks[0].rules[0].resources: FieldValueInvalid"},
		{"webhooks[0].rules[0].resources = ['*', pods]", "webhooks[0].rules[0].resources: FieldValueInvalid"},
		{"webhooks[0].rules[0].resources = ['pods/*', pods/log]", "webhooks[0].rules[0].resources[1]: FieldValueInvalid"},
		{"webhooks[0].rules[0].resources = ['*/scale', deployments/scale]", "webhooks[0].rules[0].resources[1]: FieldValueInvalid"},
		{"webhooks[0].rules[0].resources = ['']", "webhooks[0].rules[0].resources[0]: FieldValueRequired"},
		{"webhooks[0].rules[0].scope = World", "webhooks[0].rules[0].scope: FieldValueNotSupported"},
		{"webhooks[0].matchConditions = [{name: '', expression: ''}]", "webhooks[0].matchConditions[0].expression: FieldValueRequired, webhooks[0].matchConditions[0].name: FieldValueRequired"},
		{"webhooks[0].matchConditions = [{name: a, expression: 'true'}, {name: a, expression: 'true'}]", "webhooks[0].matchConditions[1].name: FieldValueDuplicate"},
		{"webhooks[0].matchConditions = [{name: 'a b', expression: 'true'}]", "webhooks[0].matchConditions[0].name: FieldValueInvalid"},
	}
}

func validatingWebhookGolden() golden {
	return golden{
		resource: "validatingwebhookconfigurations.admissionregistration.k8s.io",
		base:     webhookBase,
		defaults: []row{
			{"", "webhooks[0].failurePolicy = Fail & webhooks[0].matchPolicy = Equivalent & webhooks[0].namespaceSelector = {} & webhooks[0].objectSelector = {} & webhooks[0].timeoutSeconds = 10"},
			{"", "webhooks[0].clientConfig.service.port = 443 & webhooks[0].rules[0].scope = '*'"},
			{"webhooks[0].failurePolicy = Ignore & webhooks[0].timeoutSeconds = 3 & webhooks[0].rules[0].scope = Namespaced", "webhooks[0].failurePolicy = Ignore & webhooks[0].timeoutSeconds = 3 & webhooks[0].rules[0].scope = Namespaced"},
		},
		valid: []string{
			"webhooks = ~",
			"webhooks[0].clientConfig = {url: 'https://hook.example:8443/path'}",
			"webhooks[0].clientConfig.service.path = /validate/pods",
			"webhooks[0].rules[0].resources = ['*', 'pods/*']",
			"webhooks[0].admissionReviewVersions = [v1, v1beta1, v2]",
			"webhooks[0].matchConditions = [{name: example.com/no-leases, expression: 'request.resource.group != \"coordination.k8s.io\"'}]",
		},
		invalid: append(webhookInvalid(),
			row{"webhooks[1] = {name: pods.hooks.example.com, clientConfig: {url: 'https://a.example'}, sideEffects: None, admissionReviewVersions: [v1]}", "webhooks[1].name: FieldValueDuplicate"}),
		update: []row{{"webhooks = []", ""}, {"webhooks[0].clientConfig.caBundle = YQ==", ""}, {"webhooks[0].timeoutSeconds = 99", "webhooks[0].timeoutSeconds: FieldValueInvalid"}},
	}
}

func mutatingWebhookGolden() golden {
	return golden{
		resource: "mutatingwebhookconfigurations.admissionregistration.k8s.io",
		base:     webhookBase,
		defaults: []row{
			{"", "webhooks[0].reinvocationPolicy = Never & webhooks[0].failurePolicy = Fail & webhooks[0].matchPolicy = Equivalent & webhooks[0].timeoutSeconds = 10"},
			{"webhooks[0].reinvocationPolicy = IfNeeded", "webhooks[0].reinvocationPolicy = IfNeeded"},
		},
		invalid: append(webhookInvalid(), row{"webhooks[0].reinvocationPolicy = Always", "webhooks[0].reinvocationPolicy: FieldValueNotSupported"}),
	}
}

func policyFrameInvalid() []row {
	return []row{
		{"spec.failurePolicy = Retry", "spec.failurePolicy: FieldValueNotSupported"},
		{"spec.paramKind = {}", "spec.paramKind.apiVersion: FieldValueRequired, spec.paramKind.kind: FieldValueRequired"},
		{"spec.paramKind = {apiVersion: a/b/c, kind: K}", "spec.paramKind.apiVersion: FieldValueInvalid"},
		{"spec.paramKind = {apiVersion: example.com/v1, kind: 'a b'}", "spec.paramKind.kind: FieldValueInvalid"},
		{"spec.matchConstraints = ~", "spec.matchConstraints: FieldValueRequired"},
		{"spec.matchConstraints = {}", "spec.matchConstraints.resourceRules: FieldValueRequired"},
		{"spec.matchConstraints.matchPolicy = Fuzzy", "spec.matchConstraints.matchPolicy: FieldValueNotSupported"},
		{"spec.matchConstraints.resourceRules[0].operations = []", "spec.matchConstraints.resourceRules[0].operations: FieldValueRequired"},
		{"spec.matchConstraints.resourceRules[0].resourceNames = [a, a, b/c]", "spec.matchConstraints.resourceRules[0].resourceNames[1]: FieldValueDuplicate, spec.matchConstraints.resourceRules[0].resourceNames[2]: FieldValueInvalid"},
		{"spec.matchConstraints.excludeResourceRules = [{operations: [CREATE], apiGroups: [apps], apiVersions: [v1], resources: []}]", "spec.matchConstraints.excludeResourceRules[0].resources: FieldValueRequired"},
		{"spec.variables = [{name: a-b, expression: '1'}]", "spec.variables[0].name: FieldValueInvalid"},
		{"spec.variables = [{name: while, expression: '1'}]", "spec.variables[0].name: FieldValueInvalid"},
		{"spec.variables = [{name: '', expression: ' '}]", "spec.variables[0].expression: FieldValueRequired, spec.variables[0].name: FieldValueRequired"},
		{"spec.variables = [{name: a, expression: '1'}, {name: a, expression: '2'}]", "spec.variables[1].name: FieldValueDuplicate"},
		{"spec.matchConditions = [{name: a, expression: ''}]", "spec.matchConditions[0].expression: FieldValueRequired"},
	}
}

func validatingPolicyGolden() golden {
	return golden{
		resource: "validatingadmissionpolicies.admissionregistration.k8s.io",
		base: `
metadata: {name: replicas.example.com}
spec:
  matchConstraints: {resourceRules: [{operations: [CREATE, UPDATE], apiGroups: [apps], apiVersions: [v1], resources: [deployments]}]}
  validations: [{expression: object.spec.replicas <= 5}]
`,
		defaults: []row{
			{"", "spec.failurePolicy = Fail & spec.matchConstraints.matchPolicy = Equivalent & spec.matchConstraints.namespaceSelector = {} & spec.matchConstraints.objectSelector = {} & spec.matchConstraints.resourceRules[0].scope = '*'"},
			{"status.observedGeneration = 3", "status = {}"},
		},
		valid: []string{
			"spec.paramKind = {apiVersion: v1, kind: ConfigMap}",
			"spec.validations = ~ & spec.auditAnnotations = [{key: high, valueExpression: '\"many\"'}]",
			"spec.validations[0].reason = Forbidden",
			"spec.variables = [{name: _count1, expression: object.spec.replicas}]",
			"spec.matchConstraints.resourceRules[0].operations = ['*']",
		},
		invalid: append(policyFrameInvalid(),
			row{"spec.validations = ~", "spec.auditAnnotations: FieldValueRequired, spec.validations: FieldValueRequired"},
			row{"spec.validations[0].expression = ' '", "spec.validations[0].expression: FieldValueRequired"},
			row{"spec.validations[0].message = ' '", "spec.validations[0].message: FieldValueInvalid"},
			row{"spec.validations[0].message = \"a\\nb\"", "spec.validations[0].message: FieldValueInvalid"},
			row{"spec.validations[0].expression = \"true ||\\nfalse\"", "spec.validations[0].message: FieldValueRequired"},
			row{"spec.validations[0].messageExpression = ' '", "spec.validations[0].messageExpression: FieldValueInvalid"},
			row{"spec.validations[0].reason = Bored", "spec.validations[0].reason: FieldValueNotSupported"},
			row{"spec.auditAnnotations = [{key: '', valueExpression: ''}]", "spec.auditAnnotations[0].key: FieldValueRequired, spec.auditAnnotations[0].valueExpression: FieldValueRequired"},
			row{"spec.auditAnnotations = [{key: 'a b', valueExpression: x}]", "spec.auditAnnotations[0].key: FieldValueInvalid"},
			row{"spec.auditAnnotations = [{key: a, valueExpression: x}, {key: a, valueExpression: x}]", "spec.auditAnnotations[1].key: FieldValueDuplicate"},
			row{"spec.auditAnnotations = [{key: a, valueExpression: " + strings.Repeat("x", 5121) + "}]", "spec.auditAnnotations[0].valueExpression: FieldValueTooLong"},
		),
		update: []row{{"spec.failurePolicy = Ignore", ""}, {"spec.matchConstraints = ~", "spec.matchConstraints: FieldValueRequired"}},
		status: []row{
			{"status = {observedGeneration: 1, typeChecking: {expressionWarnings: [{fieldRef: 'spec.validations[0].expression', warning: odd}]}}", ""},
			{"status = {observedGeneration: -1}", "status.observedGeneration: FieldValueInvalid"},
			{"status = {typeChecking: {expressionWarnings: [{fieldRef: '', warning: ''}]}}", "status.typeChecking.expressionWarnings[0].fieldRef: FieldValueRequired, status.typeChecking.expressionWarnings[0].warning: FieldValueRequired"},
		},
	}
}

func mutatingPolicyGolden() golden {
	return golden{
		resource: "mutatingadmissionpolicies.admissionregistration.k8s.io",
		base: `
metadata: {name: sidecar.example.com}
spec:
  reinvocationPolicy: Never
  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]}
  mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[]'}}]
`,
		defaults: []row{{"", "spec.failurePolicy = Fail & spec.matchConstraints.matchPolicy = Equivalent"}},
		valid:    []string{"spec.mutations = [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{}'}}]", "spec.matchConstraints.resourceRules[0].operations = ['*']"},
		invalid: append(policyFrameInvalid(),
			row{"spec.matchConstraints.resourceRules[0].operations = [DELETE]", "spec.matchConstraints.resourceRules[0].operations[0]: FieldValueNotSupported"},
			row{"spec.reinvocationPolicy = ~", "spec.reinvocationPolicy: FieldValueRequired"},
			row{"spec.reinvocationPolicy = Often", "spec.reinvocationPolicy: FieldValueNotSupported"},
			row{"spec.mutations = []", "spec.mutations: FieldValueRequired"},
			row{"spec.mutations[0].patchType = ''", "spec.mutations[0].patchType: FieldValueRequired"},
			row{"spec.mutations[0].patchType = Merge", "spec.mutations[0].patchType: FieldValueNotSupported"},
			row{"spec.mutations[0].patchType = ApplyConfiguration", "spec.mutations[0].applyConfiguration: FieldValueRequired, spec.mutations[0].jsonPatch: FieldValueInvalid"},
			row{"spec.mutations[0].jsonPatch = {expression: ''}", "spec.mutations[0].jsonPatch.expression: FieldValueRequired"},
		),
	}
}

func bindingInvalid() []row {
	return []row{
		{"spec.policyName = ''", "spec.policyName: FieldValueRequired"},
		{"spec.policyName = A_", "spec.policyName: FieldValueInvalid"},
		{"spec.paramRef = {parameterNotFoundAction: Deny}", "spec.paramRef: FieldValueRequired"},
		{"spec.paramRef = {name: a, selector: {}, parameterNotFoundAction: Deny}", "spec.paramRef.name: FieldValueForbidden, spec.paramRef.selector: FieldValueForbidden"},
		{"spec.paramRef = {name: a/b, parameterNotFoundAction: Deny}", "spec.paramRef.name: FieldValueInvalid"},
		{"spec.paramRef = {name: a}", "spec.paramRef.parameterNotFoundAction: FieldValueRequired"},
		{"spec.paramRef = {name: a, parameterNotFoundAction: Shrug}", "spec.paramRef.parameterNotFoundAction: FieldValueNotSupported"},
		{"spec.matchResources = {resourceRules: [{operations: [READ], apiGroups: [a], apiVersions: [v1], resources: [b]}]}", "spec.matchResources.resourceRules[0].operations[0]: FieldValueNotSupported"},
	}
}

func validatingBindingGolden() golden {
	return golden{
		resource: "validatingadmissionpolicybindings.admissionregistration.k8s.io",
		base:     "metadata: {name: replicas}\nspec: {policyName: replicas.example.com, validationActions: [Deny]}",
		defaults: []row{{"spec.matchResources = {}", "spec.matchResources = {matchPolicy: Equivalent, namespaceSelector: {}, objectSelector: {}}"}},
		valid:    []string{"spec.validationActions = [Warn, Audit]", "spec.paramRef = {selector: {}, namespace: default, parameterNotFoundAction: Allow}"},
		invalid: append(bindingInvalid(),
			row{"spec.validationActions = []", "spec.validationActions: FieldValueRequired"},
			row{"spec.validationActions = [Shout]", "spec.validationActions[0]: FieldValueNotSupported"},
			row{"spec.validationActions = [Deny, Deny]", "spec.validationActions[1]: FieldValueDuplicate"},
			row{"spec.validationActions = [Deny, Warn]", "spec.validationActions: FieldValueInvalid"},
		),
	}
}

func mutatingBindingGolden() golden {
	return golden{
		resource: "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
		base:     "metadata: {name: sidecar}\nspec: {policyName: sidecar.example.com}",
		invalid: append(bindingInvalid(),
			row{"spec.matchResources = {resourceRules: [{operations: [DELETE], apiGroups: [a], apiVersions: [v1], resources: [b]}]}", "spec.matchResources.resourceRules[0].operations[0]: FieldValueNotSupported"}),
	}
}

func flowSchemaGolden() golden {
	return golden{
		resource: "flowschemas.flowcontrol.apiserver.k8s.io",
		base: `
metadata: {name: ci}
spec:
  priorityLevelConfiguration: {name: low}
  rules:
  - subjects: [{kind: User, user: {name: ci}}]
    resourceRules: [{verbs: [get, list], apiGroups: [''], resources: [pods], namespaces: [default]}]
`,
		defaults: []row{
			{"", "spec.matchingPrecedence = 1000"},
			{"spec.matchingPrecedence = 5 & status.conditions = [{type: Dangling, status: 'True'}]", "spec.matchingPrecedence = 5 & status = {}"},
		},
		valid: []string{
			"spec.distinguisherMethod = {type: ByNamespace}",
			"spec.rules = ~",
			"spec.rules[0].subjects = [{kind: Group, group: {name: '*'}}, {kind: ServiceAccount, serviceAccount: {name: '*', namespace: default}}]",
			"spec.rules[0].resourceRules = ~ & spec.rules[0].nonResourceRules = [{verbs: [get], nonResourceURLs: [/healthz, '/metrics/*']}]",
			"spec.rules[0].resourceRules[0] = {verbs: ['*'], apiGroups: ['*'], resources: ['*'], clusterScope: true}",
			"metadata.name = exempt & spec = {matchingPrecedence: 1, priorityLevelConfiguration: {name: exempt}, rules: [{subjects: [{kind: Group, group: {name: 'system:masters'}}], resourceRules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], clusterScope: true, namespaces: ['*']}], nonResourceRules: [{verbs: ['*'], nonResourceURLs: ['*']}]}]}",
		},
		invalid: []row{
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"spec.matchingPrecedence = 1", "spec.matchingPrecedence: FieldValueInvalid"},
			{"spec.matchingPrecedence = -1", "spec.matchingPrecedence: FieldValueInvalid"},
			{"spec.matchingPrecedence = 10001", "spec.matchingPrecedence: FieldValueInvalid"},
			{"metadata.name = exempt & spec.matchingPrecedence = 1", "spec: FieldValueInvalid"},
			{"metadata.name = catch-all", "spec: FieldValueInvalid"},
			{"spec.priorityLevelConfiguration.name = ''", "spec.priorityLevelConfiguration.name: FieldValueRequired"},
			{"spec.priorityLevelConfiguration.name = A_", "spec.priorityLevelConfiguration.name: FieldValueInvalid"},
			{"spec.distinguisherMethod = {type: ByMoon}", "spec.distinguisherMethod.type: FieldValueNotSupported"},
			{"spec.rules[0].subjects = []", "spec.rules[0].subjects: FieldValueRequired"},
			{"spec.rules[0].resourceRules = []", "spec.rules[0]: FieldValueRequired"},
			{"spec.rules[0].subjects[0] = {kind: Robot}", "spec.rules[0].subjects[0].kind: FieldValueNotSupported"},
			{"spec.rules[0].subjects[0] = {kind: User}", "spec.rules[0].subjects[0].user: FieldValueRequired"},
			{"spec.rules[0].subjects[0] = {kind: User, user: {name: ''}, group: {name: a}}", "spec.rules[0].subjects[0].group: FieldValueForbidden, spec.rules[0].subjects[0].user.name: FieldValueRequired"},
			{"spec.rules[0].subjects[0] = {kind: ServiceAccount, serviceAccount: {name: A_, namespace: ''}}", "spec.rules[0].subjects[0].serviceAccount.name: FieldValueInvalid, spec.rules[0].subjects[0].serviceAccount.namespace: FieldValueRequired"},
			{"spec.rules[0].resourceRules[0].verbs = []", "spec.rules[0].resourceRules[0].verbs: FieldValueRequired"},
			{"spec.rules[0].resourceRules[0].verbs = [read]", "spec.rules[0].resourceRules[0].verbs: FieldValueNotSupported"},
			{"spec.rules[0].resourceRules[0].verbs = ['*', get]", "spec.rules[0].resourceRules[0].verbs: FieldValueInvalid"},
			{"spec.rules[0].resourceRules[0].apiGroups = []", "spec.rules[0].resourceRules[0].apiGroups: FieldValueRequired"},
			{"spec.rules[0].resourceRules[0].resources = ['*', pods]", "spec.rules[0].resourceRules[0].resources: FieldValueInvalid"},
			{"spec.rules[0].resourceRules[0].namespaces = []", "spec.rules[0].resourceRules[0].namespaces: FieldValueRequired"},
			{"spec.rules[0].resourceRules[0].namespaces = ['*', default]", "spec.rules[0].resourceRules[0].namespaces: FieldValueInvalid"},
			{"spec.rules[0].resourceRules[0].namespaces = [A_]", "spec.rules[0].resourceRules[0].namespaces[0]: FieldValueInvalid"},
			{"spec.rules[0].nonResourceRules = [{verbs: [list], nonResourceURLs: [/a]}]", "spec.rules[0].nonResourceRules[0].verbs: FieldValueNotSupported"},
			{"spec.rules[0].nonResourceRules = [{verbs: [get], nonResourceURLs: []}]", "spec.rules[0].nonResourceRules[0].nonResourceURLs: FieldValueRequired"},
			{"spec.rules[0].nonResourceRules = [{verbs: [get], nonResourceURLs: [a, '/hea*', /a//b]}]", "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: FieldValueInvalid, spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: FieldValueInvalid, spec.rules[0].nonResourceRules[0].nonResourceURLs[2]: FieldValueInvalid"},
		},
		update: []row{{"spec.matchingPrecedence = 900", ""}},
		status: []row{
			{"status.conditions = [{type: Dangling, status: 'False'}]", ""},
			{"status.conditions = [{type: Dangling, status: 'False'}, {type: Dangling, status: 'True'}]", "status.conditions[1].type: FieldValueDuplicate"},
		},
	}
}

func priorityLevelGolden() golden {
	return golden{
		resource: "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
		base:     "metadata: {name: low}\nspec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {}}}}",
		defaults: []row{
			{"", "spec.limited = {nominalConcurrencyShares: 30, lendablePercent: 0, limitResponse: {type: Queue, queuing: {queues: 64, handSize: 8, queueLengthLimit: 50}}}"},
			{"spec.limited = {nominalConcurrencyShares: 0, limitResponse: {type: Reject}}", "spec.limited.nominalConcurrencyShares = 0"},
			{"metadata.name = exempt & spec = {type: Exempt, exempt: {}}", "spec.exempt = {nominalConcurrencyShares: 0, lendablePercent: 0}"},
		},
		valid: []string{
			"metadata.name = catch-all & spec.limited = {nominalConcurrencyShares: 5, limitResponse: {type: Reject}}",
			"metadata.name = exempt & spec = {type: Exempt}",
			"spec.limited.borrowingLimitPercent = 250",
		},
		invalid: []row{
			{"spec.type = ''", "spec.type: FieldValueRequired"},
			{"spec.type = Free", "spec.type: FieldValueNotSupported"},
			{"spec = {type: Exempt}", "spec.type: FieldValueInvalid"},
			{"metadata.name = exempt", "spec.type: FieldValueInvalid"},
			{"metadata.name = exempt & spec = {type: Exempt, limited: {limitResponse: {type: Reject}}}", "spec.limited: FieldValueForbidden"},
			{"metadata.name = catch-all", "spec: FieldValueInvalid"},
			{"spec.limited = ~", "spec.limited: FieldValueRequired"},
			{"spec.exempt = {}", "spec.exempt: FieldValueForbidden"},
			{"spec.limited.nominalConcurrencyShares = -1", "spec.limited.nominalConcurrencyShares: FieldValueInvalid"},
			{"spec.limited.lendablePercent = 101", "spec.limited.lendablePercent: FieldValueInvalid"},
			{"spec.limited.borrowingLimitPercent = -1", "spec.limited.borrowingLimitPercent: FieldValueInvalid"},
			{"spec.limited.limitResponse = {type: ''}", "spec.limited.limitResponse.type: FieldValueRequired"},
			{"spec.limited.limitResponse = {type: Drop}", "spec.limited.limitResponse.type: FieldValueNotSupported"},
			{"spec.limited.limitResponse.type = Reject", "spec.limited.limitResponse.queuing: FieldValueForbidden"},
			{"spec.limited.limitResponse = {type: Queue}", "spec.limited.limitResponse.queuing: FieldValueRequired"},
			{"spec.limited.limitResponse.queuing = {queues: -1, handSize: -1, queueLengthLimit: -1}", "spec.limited.limitResponse.queuing.handSize: FieldValueInvalid, spec.limited.limitResponse.queuing.queueLengthLimit: FieldValueInvalid, spec.limited.limitResponse.queuing.queues: FieldValueInvalid"},
			{"spec.limited.limitResponse.queuing = {queues: 4, handSize: 5}", "spec.limited.limitResponse.queuing.handSize: FieldValueInvalid"},
			{"spec.limited.limitResponse.queuing = {queues: 512, handSize: 8}", "spec.limited.limitResponse.queuing.handSize: FieldValueInvalid"},
			{"spec.limited.limitResponse.queuing = {queues: 10000001, handSize: 1}", "spec.limited.limitResponse.queuing.queues: FieldValueInvalid"},
		},
		update: []row{{"spec.limited.nominalConcurrencyShares = 40", ""}},
		status: []row{
			{"status.conditions = [{type: ConcurrencyShared, status: 'True'}]", ""},
			{"status.conditions = [{status: 'True'}]", "status.conditions[0].type: FieldValueRequired"},
		},
	}
}
