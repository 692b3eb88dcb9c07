package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

var errNotSeen = errors.New("it exists, the cache does not show it yet")

// Save writes what makes the history true; it must succeed before a pod refers to Update.
func (h *History) Save(ctx context.Context, w client.Writer, owner object.Object) error {
	for _, revision := range h.adopt {
		patch, err := adoption(owner, revision)
		if err != nil {
			return err
		}
		if _, err := w.Patch(ctx, revision, types.MergePatchType, patch, ""); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("adopt controller revision %s: %w", object.KeyOf(revision), err)
		}
	}
	var err error
	switch {
	case h.create:
		if _, err = w.Create(ctx, h.Update); apierrors.IsAlreadyExists(err) {
			// Our own, from an attempt whose answer was lost, or somebody else's: the cache will tell.
			err = apierrors.NewConflict(object.KindOf[*appsv1.ControllerRevision]().GroupResource(), h.Update.Name, errNotSeen)
		}
	case h.renumber:
		var patch []byte
		patch, err = json.Marshal(map[string]any{"metadata": map[string]any{"uid": h.Update.UID}, "revision": h.Update.Revision})
		if err == nil {
			_, err = w.Patch(ctx, h.Update, types.MergePatchType, patch, "")
		}
	}
	if err != nil {
		return fmt.Errorf("controller revision %s: %w", object.KeyOf(h.Update), err)
	}
	return nil
}

func adoption(owner object.Object, revision *appsv1.ControllerRevision) ([]byte, error) {
	kind, err := object.KindOfObject(owner)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": revision.UID, "resourceVersion": revision.ResourceVersion,
		"ownerReferences": append(revision.OwnerReferences[:len(revision.OwnerReferences):len(revision.OwnerReferences)], *metav1.NewControllerRef(owner, kind.GVK)),
	}})
}

// Remove deletes revisions, if nobody has changed them since.
func Remove(ctx context.Context, w client.Writer, revisions []*appsv1.ControllerRevision) error {
	for _, revision := range revisions {
		err := w.Delete(ctx, revision, client.DeleteOptions{UID: revision.UID, ResourceVersion: revision.ResourceVersion})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete controller revision %s: %w", object.KeyOf(revision), err)
		}
	}
	return nil
}
