package rest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
)

const clusterManifest = `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: fast, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: example.com/disk
allowVolumeExpansion: true
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: pv1}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], storageClassName: fast, hostPath: {path: /data}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: fast, resources: {requests: {storage: 1Gi}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: front}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: nginx}
spec: {controller: example.com/ingress}
---
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec: {limits: [{type: Container, max: {cpu: 2}}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: outside}
subsets: [{addresses: [{ip: 192.0.2.1}], ports: [{port: 80}]}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: hooks}
webhooks:
- {name: pods.hooks.example.com, clientConfig: {url: "https://hook.example"}, sideEffects: None, admissionReviewVersions: [v1]}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: low}
spec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {}}}}
---
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: jane}
spec: {signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], request: REQUEST}
`

// TestKubectlOfTheCluster has kubectl make, show, describe and change kinds of storage,
// networking and the cluster's own configuration.
func TestKubectlOfTheCluster(t *testing.T) {
	h := newRealHarness(t)
	k := newKubectl(h)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	h.must(err)
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, key)
	h.must(err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
	manifest := strings.Replace(clusterManifest, "REQUEST", base64.StdEncoding.EncodeToString(text), 1)

	k.feed(manifest, "apply -f -", "storageclass.storage.k8s.io/fast created", "certificatesigningrequest.certificates.k8s.io/jane created")
	k.feed(manifest, "apply -f -", "persistentvolumeclaim/data unchanged", "validatingwebhookconfiguration.admissionregistration.k8s.io/hooks unchanged", "prioritylevelconfiguration.flowcontrol.apiserver.k8s.io/low unchanged")
	k.feed(manifest, "apply --server-side --force-conflicts -f -", "validatingwebhookconfiguration.admissionregistration.k8s.io/hooks serverside-applied")
	k.ok("create quota q --hard=pods=3", "created")
	k.ok("create ingress web --class=nginx --rule=www.example.com/=web:80", "created")

	k.ok("get sc", "fast (default)", "example.com/disk", "Immediate")
	k.ok("get pv,pvc -o wide", "pv1", "RWO", "Retain", "Pending", "Filesystem")
	k.ok("get ing,netpol,ingressclass", "www.example.com", "nginx", "app=web", "example.com/ingress")
	k.ok("get quota,limits,ep", "192.0.2.1:80")
	k.ok("get prioritylevelconfiguration", "Limited", "30", "64")
	k.ok("get csr", "kubernetes.io/kube-apiserver-client", "kubernetes-admin", "Pending")
	k.ok("certificate approve jane", "approved")
	k.ok("get csr jane", "Approved")
	k.fails("", "certificate deny jane", "already Approved")
	k.ok("get csr --field-selector=spec.signerName=example.com/other", "No resources found")

	for kind, shows := range map[string]string{
		"pv pv1": "HostPath", "pvc data": "StorageClass:  fast", "sc fast": "AllowVolumeExpansion:  True", "ingress web": "www.example.com",
		"networkpolicy front": "PodSelector: <none>", "ingressclass nginx": "example.com/ingress", "quota q": "Resource", "limits limits": "Container",
		"ep outside": "192.0.2.1", "csr jane": "Approved",
	} {
		k.ok("describe "+kind, shows)
	}
	k.ok("explain ingress.spec.rules.http.paths.pathType", "ImplementationSpecific")
	k.fails("", `patch pvc data -p {"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`, "spec is immutable after creation")
	k.ok(`patch pvc data --subresource=status -p {"status":{"phase":"Bound","capacity":{"storage":"1Gi"}}}`, "patched")
	k.ok(`patch pvc data -p {"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`, "patched")
	k.fails("", `patch sc fast -p {"provisioner":"example.com/tape"}`, "updates to provisioner are forbidden")
	k.ok("delete pvc,pv,sc,ing,netpol,ingressclass,quota,limits,ep,csr,validatingwebhookconfiguration,prioritylevelconfiguration --all", `"data" deleted`, `"jane" deleted`, `"low" deleted`)
}
