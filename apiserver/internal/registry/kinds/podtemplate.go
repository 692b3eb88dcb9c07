package kinds

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func podTemplate() *Kind {
	return &Kind{
		Kind: object.KindOf[*corev1.PodTemplate](), Singular: "podtemplate", Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Containers", "string", "Names of the containers"),
			column("Images", "string", "Images of the containers"), column("Pod Labels", "string", "Labels of pods made of the template"),
		},
		Row: rowOf(func(p *corev1.PodTemplate, _ time.Time) []any {
			names, images := containersAndImages(&p.Template.Spec)
			return []any{p.Name, names, images, formatLabels(p.Template.Labels)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default:      on(func(p *corev1.PodTemplate) { defaultPodSpec(&p.Template.Spec) }),
		SpecEqual:    specEqual(func(p *corev1.PodTemplate) *corev1.PodTemplateSpec { return &p.Template }),
		Validate: check(func(p *corev1.PodTemplate) field.ErrorList {
			return validatePodTemplate(&p.Template, field.NewPath("template"))
		}),
	}
}
