package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/apiserver/internal/store"
)

// ReasonFenced is the status reason of a write whose epoch is over, or unknown: the component
// that made it no longer leads and must stop.
const ReasonFenced metav1.StatusReason = "Fenced"

// ReasonFull is the status reason of a write that needs space while there is none.
const ReasonFull metav1.StatusReason = "InsufficientStorage"

const optimisticLock = "the object has been modified; please apply your changes to the latest version and try again"

// statusError makes a StatusError of whatever the store returned.
func statusError(err error) error {
	if err == nil {
		return nil
	}
	if status := (apierrors.APIStatus)(nil); errors.As(err, &status) {
		return err
	}
	switch {
	case errors.Is(err, store.ErrFenced):
		return fenced("the epoch this component was started under is over")
	case errors.Is(err, errReplan):
		return apierrors.NewTimeoutError(err.Error(), 1)
	case errors.Is(err, store.ErrExpired):
		return apierrors.NewResourceExpired(err.Error())
	case errors.Is(err, store.ErrFull):
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: ReasonFull, Message: err.Error(),
		}}
	case errors.Is(err, store.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	case errors.Is(err, store.ErrUnknownOutcome):
		return apierrors.NewTimeoutError("the outcome of the write is unknown: read the object before trying again", 1)
	case errors.Is(err, store.ErrNotLeading), errors.Is(err, store.ErrStale), errors.Is(err, store.ErrStopped), errors.Is(err, store.ErrRefused):
		return apierrors.NewServiceUnavailable(err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError(err.Error(), 1)
	case errors.Is(err, context.Canceled):
		return err
	}
	return apierrors.NewInternalError(err)
}

func fenced(why string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusPreconditionFailed, Reason: ReasonFenced, Message: "fenced: " + why,
	}}
}

func notFound(kind *Kind, name string) error {
	return apierrors.NewNotFound(kind.GVR.GroupResource(), name)
}

func conflict(kind *Kind, name, format string, args ...any) error {
	return apierrors.NewConflict(kind.GVR.GroupResource(), name, fmt.Errorf(format, args...))
}

func invalid(kind *Kind, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(kind.GVK.GroupKind(), name, reported(errs))
}

func notAllowed(kind *Kind, verb string) error {
	return apierrors.NewMethodNotSupported(kind.GVR.GroupResource(), verb)
}
