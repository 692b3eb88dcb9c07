// Package addons keeps the objects applied that the files of a master's manifest directory
// describe: what a cluster should have from its beginning, such as a network or a dashboard.
//
// The master that leads applies its own files (server-side apply, as "kijabi-addons"), again
// when a file or an object has changed, and removes what is in no file of any master any
// more. It runs in the apiserver, which has all rights already: no other program needs any
// for it.
package addons

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

const (
	// Manager owns the fields that files set.
	Manager = "kijabi-addons"
	// inventoryName is the ConfigMap in kube-system that says what came of which file.
	inventoryName = "kijabi-addons"
	// lookEvery is how often the directory is read.
	lookEvery = 2 * time.Second
	// applyEvery is how often everything is applied though no file has changed: somebody may
	// have changed an object. What is as it should be costs no write.
	applyEvery = 15 * time.Second
)

// Config of a Keeper; every field is required.
type Config struct {
	// Dir holds the files.
	Dir string
	// Self is this master's name, Masters are all that there are.
	Self    string
	Masters func() []string
	// Store says who leads.
	Store *store.Store
	// Registry to write through, as Caller.
	Registry registry.Registry
	Caller   registry.Caller
	Clock    clock.Clock
	Log      *zap.Logger
}

// Keeper keeps objects applied.
type Keeper struct {
	cfg Config
	// applied is when all was last well, and sums what the files then were; zero if never in this term.
	applied time.Time
	sums    map[string]string
}

// New returns a keeper that is ready to run.
func New(cfg Config) *Keeper { return &Keeper{cfg: cfg} }

// Run works until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		changed := k.cfg.Store.TermChanged()
		if k.cfg.Store.Term().Leading {
			if err := k.look(ctx); err != nil && ctx.Err() == nil {
				k.cfg.Log.Warn("manifests are not applied completely, it is tried again", zap.Error(err))
			}
		} else {
			k.applied = time.Time{}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-k.cfg.Clock.After(lookEvery):
		}
	}
}

// look reads the directory and does what follows from it.
func (k *Keeper) look(ctx context.Context) error {
	files, err := readDir(k.cfg.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it may be on a disk that is not there: nothing is removed
	}
	if err != nil {
		return err
	}
	sums := map[string]string{}
	for _, f := range files {
		sums[f.name] = f.sum
	}
	now := k.cfg.Clock.Now()
	if !k.applied.IsZero() && now.Sub(k.applied) < applyEvery && maps.Equal(sums, k.sums) {
		return nil
	}
	if err := k.keep(ctx, files); err != nil {
		k.applied = time.Time{}
		return err
	}
	k.applied, k.sums = now, sums
	return nil
}

func (k *Keeper) keep(ctx context.Context, files []file) error {
	stored, before, err := k.inventory(ctx)
	if err != nil {
		return err
	}
	if stored == nil && len(files) == 0 {
		return nil
	}
	p := decide(k.cfg.Self, k.cfg.Masters(), files, before)
	// What is about to be made is noted first, or a master that ends now leaves it for ever.
	if stored, err = k.note(ctx, stored, union(before, p.after)); err != nil {
		return err
	}
	var failures []error
	fail := func(file string, err error) {
		failures = append(failures, fmt.Errorf("%s: %w", file, err))
		after := p.after[file]
		after.Error = err.Error()
		p.after[file] = after
	}
	meant := map[registry.Ref]bool{} // however its file names it
	for _, w := range p.apply {
		if ref, _, err := k.refOf(itemOf(w.obj)); err == nil {
			meant[ref] = true
		}
		if err := k.apply(ctx, w); err != nil {
			fail(w.file, fmt.Errorf("%s %s: %w", w.obj.GetKind(), w.obj.GetName(), err))
		}
	}
	for _, one := range p.prune {
		if ref, _, err := k.refOf(one); err == nil && meant[ref] {
			continue
		}
		if err := k.remove(ctx, one); err != nil {
			failures = append(failures, fmt.Errorf("remove %s %s: %w", one.Kind, one.Name, err))
			p.after["removed"] = entry{Objects: append(p.after["removed"].Objects, one), Error: err.Error()}
		}
	}
	for _, f := range files {
		if f.err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", f.name, f.err))
		}
	}
	stored, err = k.note(ctx, stored, p.after)
	if err != nil {
		return err
	}
	k.tell(ctx, stored, failures)
	return errors.Join(failures...)
}

// union is an inventory with the objects of both.
func union(a, b map[string]entry) map[string]entry {
	out := maps.Clone(b)
	for name, old := range a {
		one := out[name]
		one.Objects = slices.Clone(one.Objects)
		one.Masters = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(one.Masters), old.Masters...))))
		for _, obj := range old.Objects {
			if !slices.ContainsFunc(one.Objects, obj.same) {
				one.Objects = append(one.Objects, obj)
			}
		}
		if one.Error == "" {
			one.Error = old.Error // until it is known to be over
		}
		out[name] = one
	}
	return out
}

// kindOf finds how an object is served.
func (k *Keeper) kindOf(one item) (*registry.Kind, error) {
	for _, kind := range k.cfg.Registry.Kinds() {
		if kind.GVK == one.gvk() {
			return kind, nil
		}
	}
	return nil, fmt.Errorf("no matches for kind %q in version %q", one.Kind, one.gvk().GroupVersion())
}

func (k *Keeper) refOf(one item) (registry.Ref, *registry.Kind, error) {
	kind, err := k.kindOf(one)
	if err != nil {
		return registry.Ref{}, nil, err
	}
	ref := registry.Ref{Resource: kind.GVR, Namespace: one.Namespace, Name: one.Name}
	if kind.Namespaced && ref.Namespace == "" {
		ref.Namespace = metav1.NamespaceDefault
	}
	return ref, kind, nil
}

// mode is that of the object as it is; false if it is not there.
func (k *Keeper) mode(ctx context.Context, ref registry.Ref, kind *registry.Kind) (mode string, there bool, err error) {
	record, err := k.cfg.Registry.Get(ctx, ref)
	if apierrors.IsNotFound(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	obj, err := object.Decode(kind.Kind, record.Value)
	if err != nil {
		return "", false, err
	}
	return obj.GetLabels()[modeLabel], true, nil
}

func (k *Keeper) apply(ctx context.Context, w work) error {
	ref, kind, err := k.refOf(itemOf(w.obj))
	if err != nil {
		return err
	}
	mode, there, err := k.mode(ctx, ref, kind)
	if err != nil || mode == modeIgnored || there && w.exists {
		return err
	}
	obj := w.obj.DeepCopy()
	if kind.Namespaced {
		obj.SetNamespace(ref.Namespace)
	}
	text, err := obj.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = k.cfg.Registry.Patch(ctx, k.cfg.Caller, ref, types.ApplyPatchType, text, registry.WriteOptions{FieldManager: Manager, Force: true, FieldValidation: metav1.FieldValidationStrict})
	return err
}

func (k *Keeper) remove(ctx context.Context, one item) error {
	ref, kind, err := k.refOf(one)
	if err != nil {
		return nil //nolint:nilerr // its kind is gone, and it with it
	}
	mode, there, err := k.mode(ctx, ref, kind)
	if err != nil || !there || mode == modeIgnored || mode == modeEnsureExists {
		return err
	}
	propagation := metav1.DeletePropagationBackground
	if _, _, err := k.cfg.Registry.Delete(ctx, k.cfg.Caller, ref, metav1.DeleteOptions{PropagationPolicy: &propagation}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	k.cfg.Log.Info("removed what no manifest holds any more", zap.String("kind", one.Kind), zap.String("namespace", one.Namespace), zap.String("name", one.Name))
	return nil
}

func inventoryRef() registry.Ref {
	return registry.Ref{Resource: corev1.SchemeGroupVersion.WithResource("configmaps"), Namespace: metav1.NamespaceSystem, Name: inventoryName}
}

// inventory reads the ConfigMap; nil if there is none.
func (k *Keeper) inventory(ctx context.Context) (*corev1.ConfigMap, map[string]entry, error) {
	entries := map[string]entry{}
	record, err := k.cfg.Registry.Get(ctx, inventoryRef())
	if apierrors.IsNotFound(err) {
		return nil, entries, nil
	}
	if err != nil {
		return nil, nil, err
	}
	stored := &corev1.ConfigMap{}
	if err := stored.Unmarshal(record.Value); err != nil {
		return nil, nil, err
	}
	for name, text := range stored.Data {
		var one entry
		if err := json.Unmarshal([]byte(text), &one); err != nil {
			return nil, nil, fmt.Errorf("inventory of %s in ConfigMap %s/%s: %w", name, metav1.NamespaceSystem, inventoryName, err)
		}
		entries[name] = one
	}
	return stored, entries, nil
}

// note stores the inventory.
func (k *Keeper) note(ctx context.Context, stored *corev1.ConfigMap, entries map[string]entry) (*corev1.ConfigMap, error) {
	want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: inventoryName}, Data: map[string]string{}}
	if stored != nil {
		want.ObjectMeta = *stored.ObjectMeta.DeepCopy()
	}
	for name, one := range entries {
		text, err := json.Marshal(one)
		if err != nil {
			return nil, err
		}
		want.Data[name] = string(text)
	}
	var out object.Object
	var err error
	switch {
	case stored == nil:
		ref := inventoryRef()
		ref.Name = ""
		out, err = k.cfg.Registry.Create(ctx, k.cfg.Caller, ref, want, registry.WriteOptions{FieldManager: Manager})
	case equality.Semantic.DeepEqual(stored.Data, want.Data):
		return stored, nil
	default:
		out, err = k.cfg.Registry.Update(ctx, k.cfg.Caller, inventoryRef(), want, registry.WriteOptions{FieldManager: Manager})
	}
	if err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	written, ok := out.(*corev1.ConfigMap)
	if !ok {
		return nil, fmt.Errorf("inventory: got a %T", out)
	}
	return written, nil
}

// tell reports failures as events of the inventory, each once while the event lives.
func (k *Keeper) tell(ctx context.Context, about *corev1.ConfigMap, failures []error) {
	now := metav1.Time{Time: k.cfg.Clock.Now().Truncate(time.Second)}
	for _, failure := range failures {
		h := fnv.New64a()
		_, _ = h.Write([]byte(failure.Error()))
		event := &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: about.Namespace, Name: fmt.Sprintf("%s.%x", inventoryName, h.Sum64())},
			InvolvedObject: corev1.ObjectReference{Kind: "ConfigMap", APIVersion: "v1", Namespace: about.Namespace, Name: about.Name, UID: about.UID},
			Reason:         "ManifestFailed", Type: corev1.EventTypeWarning, Message: failure.Error(), Count: 1,
			FirstTimestamp: now, LastTimestamp: now, Source: corev1.EventSource{Component: Manager}, ReportingController: Manager,
		}
		ref := registry.Ref{Resource: corev1.SchemeGroupVersion.WithResource("events"), Namespace: event.Namespace}
		if _, err := k.cfg.Registry.Create(ctx, k.cfg.Caller, ref, event, registry.WriteOptions{}); err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
			k.cfg.Log.Debug("event not written", zap.Error(err))
		}
	}
}
