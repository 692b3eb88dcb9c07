package kinds

import (
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/object"
)

func serviceAccount() *Kind {
	return &Kind{
		Kind: object.KindOf[*corev1.ServiceAccount](), Singular: "serviceaccount", ShortNames: []string{"sa"}, Verbs: standardVerbs(),
		Subresources: []Subresource{{Name: "token", GVK: authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), Verbs: []string{"create"}}},
		Columns:      []metav1.TableColumnDefinition{nameColumn(), column("Secrets", "string", "Number of secrets the account lists"), ageColumn()},
		Row: rowOf(func(s *corev1.ServiceAccount, now time.Time) []any {
			return []any{s.Name, int64(len(s.Secrets)), age(s.CreationTimestamp, now)}
		}),
		ValidateName: validation.ValidateServiceAccountName,
	}
}
