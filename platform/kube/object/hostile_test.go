package object_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	appsv1 "k8s.io/api/apps/v1"

	"google.golang.org/protobuf/encoding/protowire"

	"kijabi.dev/platform/kube/object"
)

// What only protobuf can say is found wherever it is.
func TestUnreadableObjects(t *testing.T) {
	far := metav1.NewTime(time.Unix(1<<40, 0))
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	for name, c := range map[string]struct {
		obj  object.Object
		says string
	}{
		"text":       {&corev1.ConfigMap{Data: map[string]string{"a": "\xff"}}, `.Data["a"]`},
		"key":        {&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"\xff": "a"}}}, ".ObjectMeta.Labels[]"},
		"time":       {&corev1.Pod{Status: corev1.PodStatus{StartTime: &far}}, ".Status.StartTime"},
		"micro time": {&corev1.Event{EventTime: metav1.NewMicroTime(far.Time)}, ".EventTime"},
		"owners":     {&corev1.Pod{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{FieldsV1: metav1.NewFieldsV1("{")}}}}, ".ManagedFields[0].FieldsV1"},
		"raw":        {&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte("nothing")}}, ".Data"},
		"deep raw":   {&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(deep)}}, "nested deeper"},
		"neither":    {&corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{}, {TargetPort: intstr.IntOrString{Type: 7}}}}}, ".Spec.Ports[1].TargetPort"},
	} {
		if err := object.CheckReadable(c.obj); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	port := int32(80)
	for _, fine := range []object.Object{
		&corev1.Secret{Data: map[string][]byte{"a": {0xff}}},
		&corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "é", LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("x")}}}}}}},
		&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(`{"a":["}"]}`)}},
		&discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{Port: &port}}},
	} {
		if err := object.CheckReadable(fine); err != nil {
			t.Errorf("%T: %v", fine, err)
		}
	}
}

// Every served kind has a check, whatever it is made of.
func TestAllKindsCanBeChecked(t *testing.T) {
	for _, kind := range object.Kinds() {
		if err := object.CheckReadable(kind.New()); err != nil {
			t.Errorf("%s: %v", kind.GVK, err)
		}
	}
}

// hostile are quantities that must never reach their parser.
var hostile = []string{"1e2147483647", "12345678901234567890e1000000", "1e-2147483648", "1E+99999", "0." + strings.Repeat("0", 1<<20) + "1", strings.Repeat("9", 1<<20)}

func TestCostlyQuantitiesInJSON(t *testing.T) {
	for _, q := range hostile {
		for form, text := range map[string]string{
			"text":     `{"spec":{"containers":[{"resources":{"limits":{"cpu":"` + q + `"}}}]}}`,
			"number":   `{"spec":{"overhead":{"cpu":` + q + `}}}`,
			"repeated": `{"spec":{"overhead":{"cpu":"` + q + `","cpu":"1"}}}`,
			"hidden":   `{"spec":{"overhead":{"cpu":"\u003` + q[:1] + q[1:] + `"}}}`,
			"pointer":  `{"spec":{"volumes":[{"emptyDir":{"sizeLimit":"` + q + `"}}]}}`,
		} {
			if err := object.CheckJSON([]byte(text), &corev1.Pod{}); err == nil || len(err.Error()) > 100 {
				t.Errorf("%s, %.20s: %v", form, q, err)
			}
		}
	}
	if err := object.CheckJSON([]byte(`{"spec":{"overhead":{"cpu":"1\u0065100000"}}}`), &corev1.Pod{}); err == nil {
		t.Error("an escaped exponent is not seen")
	}
	for _, fine := range []string{
		`{"data":{"hash":"1e2147483647"}}`, `{"metadata":{"annotations":{"a":"` + strings.Repeat("1", 1000) + `"}}}`, `{"spec":{"overhead":{"cpu":"1e3"}}}`, `{"data":{"a":1e100000`, `[`,
	} {
		if err := object.CheckJSON([]byte(fine), &corev1.Pod{}); err != nil {
			t.Errorf("%.60s: %v", fine, err)
		}
	}
}

func TestCostlyQuantitiesInProtobuf(t *testing.T) {
	good := resource.MustParse("123456789")
	limit := &good
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": good}}}},
		Volumes:    []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: limit}}}},
	}}
	for place, drop := range map[string]func(*corev1.Pod){
		"map": func(p *corev1.Pod) { p.Spec.Volumes = nil }, "pointer": func(p *corev1.Pod) { p.Spec.Containers = nil },
	} {
		one := pod.DeepCopy()
		drop(one)
		text, err := one.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		// As long as what it replaces, so that all lengths stay right.
		if err := object.CheckProtobuf([]byte(strings.ReplaceAll(string(text), "123456789", "1e9999999")), &corev1.Pod{}); err == nil {
			t.Errorf("%s: not seen", place)
		}
	}
	cm, err := (&corev1.ConfigMap{Data: map[string]string{"a": "1e999999"}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := object.CheckProtobuf(cm, &corev1.ConfigMap{}); err != nil {
		t.Error(err)
	}
	if err := object.CheckProtobuf(append(protowire.AppendTag(nil, 2, protowire.BytesType), "1e99999"...), &corev1.Pod{}); err == nil {
		t.Error("a broken message is not refused")
	}
}

// Every quantity that passes is cheap: it is compared and added at once, whatever its size.
func FuzzQuantity(f *testing.F) {
	for _, seed := range append([]string{"1", "1500m", "1Ei", "1e999", "9e-999", "0x1", "1e3Ki", "-.5", "+1.E3", "\u0661"}, hostile[:4]...) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		quoted, err := json.Marshal(map[string]any{"spec": map[string]any{"overhead": map[string]string{"cpu": text}}})
		if err != nil {
			t.Fatal(err)
		}
		if object.CheckJSON(quoted, &corev1.Pod{}) != nil {
			return
		}
		var pod corev1.Pod
		if json.Unmarshal(quoted, &pod) != nil {
			return
		}
		q, small := pod.Spec.Overhead["cpu"], resource.MustParse("1500m")
		sum := q.DeepCopy()
		sum.Add(small)
		if q.Cmp(sum) > 0 && q.Sign() < 0 {
			t.Errorf("%q is more than with 1500m: %s", text, sum.String())
		}
		if len(sum.String()) > 5000 {
			t.Errorf("%q makes %d digits", text, len(sum.String()))
		}
		encoded, err := pod.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if err := object.CheckProtobuf(encoded, &pod); err != nil {
			t.Errorf("%q passes as JSON only: %v", text, err)
		}
		var back corev1.Pod
		if err := back.Unmarshal(encoded); err != nil {
			t.Errorf("%q cannot be read back: %v", text, err)
		}
	})
}
