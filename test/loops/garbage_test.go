package loops

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/test/harness"
)

// patience is how long a loop may take on a loaded machine.
const patience = 30 * time.Second

func namespace(t *harness.T, s *stack, name string) string {
	t.Helper()
	create(t, s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return name
}

func configMap(ns, name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, OwnerReferences: owners}}
}

// ownedBy refers to an owner that waits for its dependents when it is deleted in the foreground.
func ownedBy(owner *corev1.ConfigMap) metav1.OwnerReference {
	block := true
	return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, BlockOwnerDeletion: &block}
}

func gone[T object.Object](s *stack, ns, name string) func() error {
	return func() error {
		obj, err := get[T](s, ns, name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("%T %s/%s is there: owners %v, finalizers %v, deleted %v", obj, ns, name, obj.GetOwnerReferences(), obj.GetFinalizers(), obj.GetDeletionTimestamp())
	}
}

func owners(s *stack, ns, name string, want ...types.UID) func() error {
	return func() error {
		obj, err := get[*corev1.ConfigMap](s, ns, name)
		if err != nil {
			return err
		}
		have := map[types.UID]bool{}
		for _, ref := range obj.OwnerReferences {
			have[ref.UID] = true
		}
		for _, uid := range want {
			if !have[uid] {
				return fmt.Errorf("owner %s is missing in %v", uid, obj.OwnerReferences)
			}
		}
		if len(have) != len(want) || obj.DeletionTimestamp != nil {
			return fmt.Errorf("owners %v, want %v, deleted %v", obj.OwnerReferences, want, obj.DeletionTimestamp)
		}
		return nil
	}
}

func testGarbage(t *harness.T, s *stack) {
	ns := namespace(t, s, "garbage")
	by := func(p metav1.DeletionPropagation) client.DeleteOptions { return client.DeleteOptions{Propagation: p} }

	t.Run("Background", func(t *harness.T) {
		owner := create(t, s, configMap(ns, "background"))
		create(t, s, configMap(ns, "background-1", ownedBy(owner)))
		middle := create(t, s, configMap(ns, "background-2", ownedBy(owner)))
		create(t, s, configMap(ns, "background-3", ownedBy(middle)))
		create(t, s, configMap(ns, "unrelated"))
		s.remove(t, owner, by(metav1.DeletePropagationBackground))
		for _, name := range []string{"background-1", "background-2", "background-3"} {
			harness.Eventually(t, patience, name+" is collected", gone[*corev1.ConfigMap](s, ns, name))
		}
		if _, err := get[*corev1.ConfigMap](s, ns, "unrelated"); err != nil {
			t.Errorf("an object without owners: %v", err)
		}
	})
	t.Run("Foreground", func(t *harness.T) {
		owner := create(t, s, configMap(ns, "foreground"))
		held := configMap(ns, "foreground-held", ownedBy(owner))
		held.Finalizers = []string{"example.com/keep"}
		create(t, s, held)
		create(t, s, configMap(ns, "foreground-free", ownedBy(owner)))
		loose := ownedBy(owner)
		loose.BlockOwnerDeletion = nil
		create(t, s, configMap(ns, "foreground-loose", loose))
		s.remove(t, owner, by(metav1.DeletePropagationForeground))
		harness.Eventually(t, patience, "a dependent goes first", gone[*corev1.ConfigMap](s, ns, "foreground-free"))
		harness.Eventually(t, patience, "one that does not block goes, too", gone[*corev1.ConfigMap](s, ns, "foreground-loose"))
		harness.Eventually(t, patience, "the one with a finalizer is being deleted", func() error {
			obj, err := get[*corev1.ConfigMap](s, ns, "foreground-held")
			if err == nil && obj.DeletionTimestamp == nil {
				err = fmt.Errorf("it is not deleted")
			}
			return err
		})
		if obj, err := get[*corev1.ConfigMap](s, ns, "foreground"); err != nil || obj.DeletionTimestamp == nil {
			t.Fatalf("the owner did not wait for its dependent: %v", err)
		}
		change(t, s, ns, "foreground-held", "", func(m *corev1.ConfigMap) { m.Finalizers = nil })
		harness.Eventually(t, patience, "the owner goes last", gone[*corev1.ConfigMap](s, ns, "foreground"))
	})
	t.Run("ForegroundOfSeveralOwners", func(t *harness.T) {
		first, second := create(t, s, configMap(ns, "several-1")), create(t, s, configMap(ns, "several-2"))
		create(t, s, configMap(ns, "several", ownedBy(first), ownedBy(second)))
		s.remove(t, first, by(metav1.DeletePropagationForeground))
		harness.Eventually(t, patience, "the first owner does not wait for a dependent that stays", gone[*corev1.ConfigMap](s, ns, "several-1"))
		harness.Eventually(t, patience, "the dependent forgets it", owners(s, ns, "several", second.UID))
		s.remove(t, second, by(metav1.DeletePropagationForeground))
		harness.Eventually(t, patience, "dependent of the last owner", gone[*corev1.ConfigMap](s, ns, "several"))
		harness.Eventually(t, patience, "the last owner", gone[*corev1.ConfigMap](s, ns, "several-2"))
	})
	t.Run("ForegroundOfBothOwnersAtOnce", func(t *harness.T) {
		first, second := create(t, s, configMap(ns, "both-1")), create(t, s, configMap(ns, "both-2"))
		create(t, s, configMap(ns, "both", ownedBy(first), ownedBy(second)))
		s.remove(t, first, by(metav1.DeletePropagationForeground))
		s.remove(t, second, by(metav1.DeletePropagationForeground))
		for _, name := range []string{"both", "both-1", "both-2"} {
			harness.Eventually(t, patience, name+" goes", gone[*corev1.ConfigMap](s, ns, name))
		}
	})
	t.Run("Orphan", func(t *harness.T) {
		// Dependents made just before the deletion are the ones a cache may not show yet.
		for round := range 5 {
			name := fmt.Sprintf("orphan-%d", round)
			owner := create(t, s, configMap(ns, name))
			create(t, s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, OwnerReferences: []metav1.OwnerReference{ownedBy(owner)}}})
			create(t, s, configMap(ns, name+"-free", ownedBy(owner)))
			s.remove(t, owner, by(metav1.DeletePropagationOrphan))
			harness.Eventually(t, patience, "the owner goes", gone[*corev1.ConfigMap](s, ns, name))
			if err := owners(s, ns, name+"-free")(); err != nil {
				t.Errorf("dependent of the same kind: %v", err)
			}
			if secret, err := get[*corev1.Secret](s, ns, name); err != nil || len(secret.OwnerReferences) > 0 || secret.DeletionTimestamp != nil {
				t.Errorf("dependent of another kind: %v, %v", secret, err)
			}
		}
	})
	t.Run("DanglingReference", func(t *harness.T) {
		never := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "never", UID: "8d0f5a52-0000-4000-8000-000000000000"}
		create(t, s, configMap(ns, "dangling", never))
		harness.Eventually(t, patience, "an object whose owner never was", gone[*corev1.ConfigMap](s, ns, "dangling"))
		// The name alone is no owner: a namesake has another uid.
		namesake := create(t, s, configMap(ns, "namesake"))
		ref := ownedBy(namesake)
		ref.UID = never.UID
		create(t, s, configMap(ns, "stranger", ref))
		harness.Eventually(t, patience, "an object owned by a namesake's predecessor", gone[*corev1.ConfigMap](s, ns, "stranger"))
		// An owner of a kind nobody knows here may exist elsewhere.
		unknown := metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "thing", UID: never.UID}
		create(t, s, configMap(ns, "foreign", unknown))
		create(t, s, configMap(ns, "mixed", never, ownedBy(namesake)))
		harness.Eventually(t, patience, "dangling reference beside a living owner is dropped", owners(s, ns, "mixed", namesake.UID))
		if err := owners(s, ns, "foreign", never.UID)(); err != nil {
			t.Errorf("an object with an owner of an unknown kind: %v", err)
		}
	})
}
