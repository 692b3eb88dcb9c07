package kinds_test

import (
	"fmt"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// What kubectl shows of kinds whose cells are more than a copy of their fields.
func TestRows(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	const meta = "metadata: {name: a, namespace: default, creationTimestamp: '2026-11-22T11:00:00Z'}\n"
	for _, c := range []struct{ resource, manifest, want string }{
		{"persistentvolumes", `
spec: {capacity: {storage: 5Gi}, accessModes: [ReadOnlyMany, ReadWriteOnce, ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, storageClassName: fast, volumeMode: Filesystem, claimRef: {namespace: default, name: data}}
status: {phase: Bound}`, "[a 5Gi RWO,ROX Retain Bound default/data fast <unset>  60m Filesystem]"},
		{"persistentvolumeclaims", `
spec: {volumeName: pv1, storageClassName: fast, volumeAttributesClassName: gold, resources: {requests: {storage: 1Gi}}}
status: {phase: Bound, capacity: {storage: 5Gi}, accessModes: [ReadWriteOncePod]}`, "[a Bound pv1 5Gi RWOP fast gold 60m <unset>]"},
		{"persistentvolumeclaims", "spec: {resources: {requests: {storage: 1Gi}}}\nstatus: {phase: Pending, capacity: {storage: 5Gi}}", "[a Pending     <unset> 60m <unset>]"},
		{"limitranges", "spec: {limits: []}", "[a 2026-11-22T11:00:00Z]"},
		{"resourcequotas", "status: {hard: {limits.cpu: 4, pods: 10, secrets: 5}, used: {limits.cpu: 1, pods: 3}}", "[a pods: 3/10, secrets: 0/5 limits.cpu: 1/4 60m]"},
		{"endpoints", "subsets: [{addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}], ports: [{port: 80}, {port: 81}]}]", "[a 10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more... 60m]"},
		{"endpoints", "subsets: [{addresses: [{ip: 10.0.0.1}]}]", "[a 10.0.0.1 60m]"},
		{"endpoints", "subsets: []", "[a <none> 60m]"},
		{"storageclasses.storage.k8s.io", "provisioner: example.com/disk\nvolumeBindingMode: Immediate\nallowVolumeExpansion: true", "[a example.com/disk Delete Immediate true 60m]"},
		{"volumeattachments.storage.k8s.io", "spec: {attacher: csi, nodeName: n1, source: {persistentVolumeName: pv1}}\nstatus: {attached: true}", "[a csi pv1 n1 true 60m]"},
		{"csidrivers.storage.k8s.io", "spec: {podInfoOnMount: true, tokenRequests: [{audience: x}, {audience: z}], volumeLifecycleModes: [Persistent, Ephemeral]}", "[a true true false x,z false Persistent,Ephemeral 60m]"},
		{"csinodes.storage.k8s.io", "spec: {drivers: [{name: a, nodeID: b, topologyKeys: []}]}", "[a 1 60m]"},
		{"csistoragecapacities.storage.k8s.io", "storageClassName: fast\ncapacity: 5Gi", "[a fast 5Gi 60m]"},
		{"ingresses.networking.k8s.io", `
spec: {ingressClassName: nginx, tls: [{}], rules: [{host: a}, {host: b}, {host: c}, {host: d}]}
status: {loadBalancer: {ingress: [{ip: 1.2.3.4}, {hostname: lb}]}}`, "[a nginx a,b,c + 1 more... 1.2.3.4,lb 80, 443 60m]"},
		{"ingresses.networking.k8s.io", "spec: {defaultBackend: {service: {name: a, port: {number: 1}}}}", "[a <none> *  80 60m]"},
		{"ingressclasses.networking.k8s.io", "spec: {controller: example.com/c, parameters: {apiGroup: example.com, kind: Setup, name: s}}", "[a example.com/c Setup.example.com/s 60m]"},
		{"networkpolicies.networking.k8s.io", "spec: {podSelector: {}}", "[a <none> 60m]"},
		{"networkpolicies.networking.k8s.io", "spec: {podSelector: {matchLabels: {app: web}}}", "[a app=web 60m]"},
		{"ipaddresses.networking.k8s.io", "spec: {parentRef: {resource: services, namespace: default, name: web}}", "[a services/default/web 60m]"},
		{"servicecidrs.networking.k8s.io", "spec: {cidrs: [10.0.0.0/16, 'fd00::/112']}", "[a 10.0.0.0/16,fd00::/112 60m]"},
		{"certificatesigningrequests.certificates.k8s.io", "spec: {signerName: example.com/s, username: jane, expirationSeconds: 3600, request: ''}", "[a 60m example.com/s jane 60m Pending]"},
		{"certificatesigningrequests.certificates.k8s.io", "spec: {signerName: example.com/s, request: ''}\nstatus: {certificate: YQ==, conditions: [{type: Approved, status: 'True'}]}", "[a 60m example.com/s  <none> Approved,Issued]"},
		{"certificatesigningrequests.certificates.k8s.io", "spec: {signerName: example.com/s, request: ''}\nstatus: {conditions: [{type: Approved, status: 'True'}, {type: Failed, status: 'True'}]}", "[a 60m example.com/s  <none> Approved,Failed]"},
		{"validatingwebhookconfigurations.admissionregistration.k8s.io", "webhooks: [{name: a}, {name: b}]", "[a 2 60m]"},
		{"validatingadmissionpolicies.admissionregistration.k8s.io", "spec: {paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: a}]}", "[a 1 v1/ConfigMap 60m]"},
		{"validatingadmissionpolicybindings.admissionregistration.k8s.io", "spec: {policyName: p, paramRef: {name: c}}", "[a p */c 60m]"},
		{"flowschemas.flowcontrol.apiserver.k8s.io", "spec: {priorityLevelConfiguration: {name: low}, matchingPrecedence: 9, distinguisherMethod: {type: ByUser}}\nstatus: {conditions: [{type: Dangling, status: 'False'}]}", "[a low 9 ByUser 60m False]"},
		{"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io", "spec: {type: Limited, limited: {nominalConcurrencyShares: 5, limitResponse: {type: Queue, queuing: {queues: 64, handSize: 6, queueLengthLimit: 50}}}}", "[a Limited 5 64 6 50 60m]"},
		{"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io", "spec: {type: Exempt}", "[a Exempt <none> <none> <none> <none> 60m]"},
	} {
		kind := kindOf(t, c.resource)
		obj := kind.New()
		if err := yaml.UnmarshalStrict([]byte(meta+c.manifest), obj); err != nil {
			t.Fatalf("%s: %v", c.manifest, err)
		}
		if got := fmt.Sprint(kind.Row(obj, now)); got != c.want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.resource, c.manifest, got, c.want)
		}
	}
}

func claim(phase corev1.PersistentVolumeClaimPhase, asked, has string) *corev1.PersistentVolumeClaim {
	text := `
metadata: {name: data, namespace: default, uid: u, resourceVersion: "1"}
spec: {accessModes: [ReadWriteOnce], storageClassName: fast, volumeMode: Filesystem, volumeName: pv1, resources: {requests: {storage: ` + asked + `}}}
status: {phase: ` + string(phase) + `, capacity: {storage: ` + has + `}}`
	var c corev1.PersistentVolumeClaim
	if err := yaml.UnmarshalStrict([]byte(text), &c); err != nil {
		panic(err) // the text above
	}
	return &c
}

// A bound claim may ask for more, take back what it did not get, and change its attributes.
func TestBoundClaimChanges(t *testing.T) {
	kind := kindOf(t, "persistentvolumeclaims")
	const shrunk, fixed = "spec.resources.requests.storage: FieldValueForbidden", "spec: FieldValueForbidden"
	for _, c := range []struct {
		name   string
		old    *corev1.PersistentVolumeClaim
		change func(c *corev1.PersistentVolumeClaim)
		want   string
	}{
		{"grow", claim(corev1.ClaimBound, "2Gi", "2Gi"), func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources = claim("", "3Gi", "0").Spec.Resources }, ""},
		{"grow unbound", claim(corev1.ClaimPending, "2Gi", "0"), func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources = claim("", "3Gi", "0").Spec.Resources }, fixed},
		{"give up growing", claim(corev1.ClaimBound, "9Gi", "2Gi"), func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources = claim("", "3Gi", "0").Spec.Resources }, ""},
		{"shrink", claim(corev1.ClaimBound, "2Gi", "2Gi"), func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources = claim("", "1Gi", "0").Spec.Resources }, shrunk},
		{"back to what it has", claim(corev1.ClaimBound, "9Gi", "2Gi"), func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources = claim("", "2Gi", "0").Spec.Resources }, shrunk},
		{"attributes", claim(corev1.ClaimBound, "2Gi", "2Gi"), func(c *corev1.PersistentVolumeClaim) { gold := "gold"; c.Spec.VolumeAttributesClassName = &gold }, ""},
		{"other volume", claim(corev1.ClaimBound, "2Gi", "2Gi"), func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "pv2" }, fixed},
	} {
		obj := c.old.DeepCopy()
		c.change(obj)
		if got := brief(update(kind, obj, c.old)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	gold := "gold"
	old := claim(corev1.ClaimBound, "2Gi", "2Gi")
	old.Spec.VolumeAttributesClassName, old.Status.CurrentVolumeAttributesClassName = &gold, &gold
	obj := old.DeepCopy()
	obj.Spec.VolumeAttributesClassName = nil
	if got := brief(update(kind, obj, old)); got != "spec.volumeAttributesClassName: FieldValueForbidden" {
		t.Errorf("attributes that are in force were taken away: %q", got)
	}
	old.Status.CurrentVolumeAttributesClassName = nil
	if got := brief(update(kind, obj, old)); got != "" {
		t.Errorf("attributes that are not in force cannot be taken away: %q", got)
	}
}

// Approval and status each add conditions of their own, and neither takes any back.
func TestCertificateApproval(t *testing.T) {
	kind := kindOf(t, "certificatesigningrequests.certificates.k8s.io")
	condition := func(kinds ...certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
		var out []certificatesv1.CertificateSigningRequestCondition
		for _, k := range kinds {
			out = append(out, certificatesv1.CertificateSigningRequestCondition{Type: k, Status: corev1.ConditionTrue})
		}
		return out
	}
	approved, denied, failed := certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	const refused = "status.conditions: FieldValueForbidden"
	for _, c := range []struct {
		name        string
		before, now []certificatesv1.RequestConditionType
		approval    string
		status      string
	}{
		{"approve", nil, []certificatesv1.RequestConditionType{approved}, "", refused},
		{"deny", nil, []certificatesv1.RequestConditionType{denied}, "", refused},
		{"fail", []certificatesv1.RequestConditionType{approved}, []certificatesv1.RequestConditionType{approved, failed}, refused, ""},
		{"both", nil, []certificatesv1.RequestConditionType{approved, denied}, "status.conditions[1].type: FieldValueInvalid", "status.conditions: FieldValueForbidden, status.conditions[1].type: FieldValueInvalid"},
		{"take back", []certificatesv1.RequestConditionType{approved}, nil, refused, refused},
		{"nothing", []certificatesv1.RequestConditionType{approved}, []certificatesv1.RequestConditionType{approved}, "", ""},
	} {
		old := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u", ResourceVersion: "1"}}
		old.Status.Conditions = condition(c.before...)
		obj := old.DeepCopy()
		obj.Status.Conditions, obj.Status.Certificate = condition(c.now...), []byte("x")
		kind.PrepareForApproval(obj, old)
		if obj.Status.Certificate != nil {
			t.Errorf("%s: approval set a certificate", c.name)
		}
		if got := brief(kind.ValidateApproval(obj, old)); got != c.approval {
			t.Errorf("%s by approval: got %q, want %q", c.name, got, c.approval)
		}
		obj = old.DeepCopy()
		obj.Status.Conditions = condition(c.now...)
		kind.PrepareForStatusUpdate(obj, old)
		if got := brief(kind.ValidateStatusUpdate(obj, old)); got != c.status {
			t.Errorf("%s by status: got %q, want %q", c.name, got, c.status)
		}
	}
	_, pem := signingMaterial(t)
	old := &certificatesv1.CertificateSigningRequest{}
	if err := yaml.Unmarshal([]byte("status: {certificate: "+pem+"}"), old); err != nil {
		t.Fatal(err)
	}
	obj := old.DeepCopy()
	obj.Status.Certificate = nil
	if got := brief(kind.ValidateStatusUpdate(obj, old)); got != "status.certificate: FieldValueForbidden" {
		t.Errorf("a certificate was taken back: %q", got)
	}
}
