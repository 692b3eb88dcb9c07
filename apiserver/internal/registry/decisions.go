package registry

import (
	"context"
	"reflect"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/admission/dynamic"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

// decisions are what webhooks and policies say about one write. They may take seconds, so they
// are asked while the write is prepared, and the single writer takes their word if the object
// is still the one they were asked about; else the write is planned anew. A nil decisions
// allows everything: nothing is configured.
type decisions struct {
	session *dynamic.Session
	caller  Caller
	op      Operation
	dry     bool

	// writing is true while the single writer computes: nobody may be asked.
	writing bool
	// scouting is true while a write is computed only to learn what is decided about it,
	// because the writer has to compute it by itself.
	scouting bool
	// scouted is what came of that.
	scouted *scouted
}

// scouted is what was decided about a write of an object as it then was.
type scouted struct {
	current *store.Record
	object  runtime.Object // as it was left; nil for deletions
}

// decisionsOn begins the admission of one operation by what users have configured.
func (e *Engine) decisionsOn(ctx context.Context, caller Caller, op Operation) *decisions {
	session := e.dynamic.Session(ctx)
	if session == nil {
		return nil
	}
	return &decisions{session: session, caller: caller, op: op, dry: dryRun(op)}
}

// again forgets what was said about an earlier plan of the same write.
func (d *decisions) again() {
	if d != nil {
		d.session.Warnings, d.session.Annotations, d.scouted = nil, nil, nil
	}
}

// report adds what is to be told to a result.
func (d *decisions) report(out *OperationResult) {
	if d != nil {
		out.Warnings = slices.Concat(out.Warnings, d.session.Warnings)
		out.Annotations = append(out.Annotations, d.session.Annotations...)
	}
}

// most is how often the write is planned anew.
func (d *decisions) most() int {
	if d == nil {
		return maxReplans
	}
	return maxAsked
}

func (d *decisions) isScouting() bool { return d != nil && d.scouting }

// request is the question about the write of an object; nil when nobody is asked.
func (d *decisions) request(operation admissionv1.Operation, kind *Kind, subresource string, obj, old runtime.Object) *dynamic.Request {
	if d == nil {
		return nil
	}
	r := &dynamic.Request{
		User: d.caller.User, UID: d.caller.UID, Groups: d.caller.Groups, Extra: d.caller.Extra,
		Operation: operation, Kind: kind, Subresource: subresource, Namespace: d.op.Ref.Namespace, Name: d.op.Ref.Name,
		Object: obj, Old: old, Options: d.options(operation), DryRun: d.dry,
	}
	return r
}

// options are those of the operation that is performed, which may be another one than was
// asked for: an apply creates or updates.
func (d *decisions) options(operation admissionv1.Operation) runtime.Object {
	var dry []string
	if d.dry {
		dry = []string{metav1.DryRunAll}
	}
	of := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: kind}
	}
	opts := d.op.Options
	switch operation {
	case admissionv1.Create:
		return &metav1.CreateOptions{TypeMeta: of("CreateOptions"), DryRun: dry, FieldManager: opts.FieldManager, FieldValidation: opts.FieldValidation}
	case admissionv1.Update:
		return &metav1.UpdateOptions{TypeMeta: of("UpdateOptions"), DryRun: dry, FieldManager: opts.FieldManager, FieldValidation: opts.FieldValidation}
	case admissionv1.Delete:
		out := d.op.Delete.DeepCopy()
		out.TypeMeta = of("DeleteOptions")
		return out
	case admissionv1.Connect:
	}
	return nil
}

// creation is the question about a new object.
func (d *decisions) creation(kind *Kind, obj object.Object, name string) *dynamic.Request {
	r := d.request(admissionv1.Create, kind, "", obj, nil)
	if r != nil {
		r.Namespace, r.Name = obj.GetNamespace(), name
	}
	return r
}

// body makes a question be about the body of a subresource.
func body(r *dynamic.Request, gvk schema.GroupVersionKind) *dynamic.Request {
	if r != nil {
		r.Body = gvk
	}
	return r
}

// mutate lets an object be changed, in place, before it is prepared and validated. current is
// the record it replaces. settle brings it into form again, see dynamic.Session.Mutate.
func (d *decisions) mutate(r *dynamic.Request, current *store.Record, settle func(last bool) error) error {
	switch {
	case d == nil:
		return nil
	case d.writing:
		return d.recall(r, current)
	}
	if err := d.session.Mutate(r, settle); err != nil {
		return err
	}
	if d.scouting {
		d.scouted = &scouted{current: current}
		if r.Operation != admissionv1.Delete {
			d.scouted.object = r.Object.DeepCopyObject()
		}
	}
	return nil
}

// recall makes the object what it was left as when the write was prepared. It asks for another
// plan when there is no such thing and somebody may have something to say.
func (d *decisions) recall(r *dynamic.Request, current *store.Record) error {
	switch {
	case d.scouted != nil && d.scouted.current == current:
		if d.scouted.object != nil {
			reflect.ValueOf(r.Object).Elem().Set(reflect.ValueOf(d.scouted.object.DeepCopyObject()).Elem())
		}
		return nil
	case d.session.Concerned(r):
		return errReplan
	}
	return nil
}

// validate lets a complete object be refused; obj is what became of the question's. mutate has
// been called with the same question.
func (d *decisions) validate(r *dynamic.Request, obj runtime.Object) error {
	if d == nil || d.writing {
		return nil
	}
	r.Show(obj)
	return d.session.Validate(r)
}

// decide asks everybody about something that nobody but the one who asks looks at.
func (d *decisions) decide(r *dynamic.Request) error {
	if d == nil {
		return nil
	}
	if err := d.mutate(r, nil, func(bool) error { return nil }); err != nil {
		return err
	}
	return d.validate(r, r.Object)
}

// removal asks about a deletion.
func (d *decisions) removal(kind *Kind, current *store.Record, old object.Object) error {
	if d == nil {
		return nil
	}
	r := d.request(admissionv1.Delete, kind, "", nil, old)
	r.Namespace, r.Name = old.GetNamespace(), old.GetName()
	if err := d.mutate(r, current, func(bool) error { return nil }); err != nil {
		return err
	}
	return d.validate(r, nil)
}

// rescaling asks about a change of scale.
func (d *decisions) rescaling(kind *Kind, given, old *autoscalingv1.Scale) error {
	return d.decide(body(d.request(admissionv1.Update, kind, "scale", given, old), autoscalingv1.SchemeGroupVersion.WithKind("Scale")))
}

// scout computes a write that only the single writer can compute, to learn what is decided about it.
func (p *plan) scout(current *store.Record) {
	p.decisions.scouting = true
	out, err := p.compute(current)
	p.decisions.scouting = false
	if err != nil {
		p.ready, p.readyErr = out, err
		p.prepared, p.preparedFor = true, current
	}
}

// parallel is how many writes of one request are prepared at once when webhooks are asked.
const parallel = 16

// eachAtOnce calls do for 0 to n-1, some at a time; the error is that of a panic.
func eachAtOnce(ctx context.Context, n int, do func(i int)) error {
	group := lifecycle.NewGroup(context.WithoutCancel(ctx))
	slots := make(chan struct{}, parallel)
	for i := range n {
		slots <- struct{}{}
		group.Go(func(context.Context) error {
			defer func() { <-slots }()
			do(i)
			return nil
		})
	}
	return group.Wait()
}

// Connect admits a connection to a pod, service or node. options say what is asked for, such as
// a *corev1.PodExecOptions. What is answered holds warnings and annotations only, also beside
// an error.
func (e *Engine) Connect(ctx context.Context, caller Caller, ref Ref, options runtime.Object) (OperationResult, error) {
	var out OperationResult
	d := e.decisionsOn(ctx, caller, Operation{Ref: ref})
	if d == nil {
		return out, nil
	}
	kind, err := e.resolve(ref, true)
	if err != nil {
		return out, err
	}
	r := body(d.request(admissionv1.Connect, kind, ref.Subresource, options, nil), options.GetObjectKind().GroupVersionKind())
	err = statusError(d.decide(r))
	d.report(&out)
	return out, err
}
