package loops

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

func testNamespaceDeletion(t *harness.T, s *stack) {
	ns := namespace(t, s, "doomed")
	held := configMap(ns, "held")
	held.Finalizers = []string{"example.com/keep"}
	create(t, s, held)
	for i := range 20 {
		create(t, s, configMap(ns, fmt.Sprintf("plain-%d", i)))
	}
	create(t, s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "secret"}})
	create(t, s, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "service"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	})
	create(t, s, deployment(ns, "web", 3))
	harness.Eventually(t, patience, "the deployment has pods", func() error {
		if n := len(list[*corev1.Pod](t, s, ns)); n != 3 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
	s.remove(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, client.DeleteOptions{})

	harness.Eventually(t, patience, "conditions say what keeps the namespace", func() error {
		obj, err := get[*corev1.Namespace](s, "", ns)
		if err != nil {
			t.Fatal(err) // it must not go
		}
		said := map[corev1.NamespaceConditionType]string{}
		for _, c := range obj.Status.Conditions {
			if c.Status == corev1.ConditionTrue {
				said[c.Type] = c.Message
			}
		}
		if obj.Status.Phase != corev1.NamespaceTerminating ||
			!strings.Contains(said[corev1.NamespaceFinalizersRemaining], "example.com/keep in 1 resource instances") ||
			!strings.HasSuffix(said[corev1.NamespaceContentRemaining], ": configmaps. has 1 resource instances") {
			return fmt.Errorf("phase %s, conditions %v", obj.Status.Phase, said)
		}
		return nil
	})
	ctx, cancel := contextOf(t)
	defer cancel()
	_, err := s.api.Create(ctx, configMap(ns, "late"))
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("creating in a namespace that is going: %v", err)
	}
	change(t, s, ns, "held", "", func(m *corev1.ConfigMap) { m.Finalizers = nil })
	harness.Eventually(t, patience, "the namespace goes", gone[*corev1.Namespace](s, "", ns))
	if left := list[*corev1.ConfigMap](t, s, ns); len(left) > 0 {
		t.Errorf("%d ConfigMaps outlive their namespace", len(left))
	}
	if left := list[*corev1.Pod](t, s, ns); len(left) > 0 {
		t.Errorf("%d pods outlive their namespace", len(left))
	}
}

func testServiceAccounts(t *harness.T, s *stack) {
	ns := namespace(t, s, "accounts")
	complete := func() error {
		_, err := get[*corev1.ServiceAccount](s, ns, "default")
		root, rootErr := get[*corev1.ConfigMap](s, ns, "kube-root-ca.crt")
		if rootErr == nil && (root.DeletionTimestamp != nil || root.Data["ca.crt"] != string(s.ca.CertificatePEM()) || len(root.Data) != 1) {
			rootErr = fmt.Errorf("wrong root CA: %v", root.Data)
		}
		return errors.Join(err, rootErr)
	}
	harness.Eventually(t, patience, "a new namespace has account and root CA", complete)
	account, err := get[*corev1.ServiceAccount](s, ns, "default")
	if err != nil {
		t.Fatal(err)
	}
	s.remove(t, account, client.DeleteOptions{})
	s.remove(t, configMap(ns, "kube-root-ca.crt"), client.DeleteOptions{})
	harness.Eventually(t, patience, "both are restored", complete)
	change(t, s, ns, "kube-root-ca.crt", "", func(m *corev1.ConfigMap) { m.Data = map[string]string{"ca.crt": "forged", "more": "x"} })
	harness.Eventually(t, patience, "a changed root CA is put right", complete)
	if restored, err := get[*corev1.ServiceAccount](s, ns, "default"); err != nil || restored.UID == account.UID {
		t.Errorf("restored account %v, %v", restored, err)
	}
}
