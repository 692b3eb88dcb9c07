// Package signing answers CertificateSigningRequests for the signers that Kubernetes
// itself has: who talks to the apiserver, kubelets that do, and kubelets that serve.
//
// It runs beside the key it signs with, in the apiserver that leads, and is asked by
// nobody: an approved request is all that it acts on. Requests of kubelets for
// certificates as clients are approved if roles say so; all others a person approves.
package signing

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"go.uber.org/zap"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/pki"
)

const (
	resource = "certificatesigningrequests.certificates.k8s.io"
	// followPause is the time between two attempts to watch.
	followPause = time.Second
	// lookAgain is how often requests are looked at though none has changed: a role may
	// have come, or a write have failed.
	lookAgain = 5 * time.Second
)

// Config of a Signer; every field is required.
type Config struct {
	// Store holds the requests.
	Store *store.Store
	// Registry to write through, as Caller.
	Registry registry.Registry
	Caller   registry.Caller
	// CA signs.
	CA *pki.CA
	// Authorize returns nil if a user may do something.
	Authorize func(ctx context.Context, attr authz.Attributes) error
	// Services are the addresses of services, under which no kubelet serves.
	Services netip.Prefix
	Clock    clock.Clock
	Log      *zap.Logger
}

// Signer answers requests while its master leads.
type Signer struct {
	cfg  Config
	wake chan struct{} // has a token when a request has changed
}

// New returns a signer that is ready to run.
func New(cfg Config) *Signer { return &Signer{cfg: cfg, wake: make(chan struct{}, 1)} }

// Run works until ctx ends.
func (s *Signer) Run(ctx context.Context) error {
	select {
	case <-s.cfg.Store.Ready():
	case <-ctx.Done():
		return nil
	}
	return lifecycle.RunAll(ctx, s.follow, s.work)
}

func (s *Signer) follow(ctx context.Context) error {
	for {
		err := s.watch(ctx)
		if ctx.Err() != nil || errors.Is(err, store.ErrStopped) {
			return nil
		}
		s.cfg.Log.Debug("watch of certificate requests ended", zap.Error(err))
		select {
		case <-ctx.Done():
			return nil
		case <-s.cfg.Clock.After(followPause):
		}
	}
}

func (s *Signer) watch(ctx context.Context) error {
	_, watcher, err := s.cfg.Store.SnapshotAndWatch(ctx, store.WatchOptions{Resource: resource})
	if err != nil {
		return err
	}
	defer watcher.Close()
	for {
		select {
		case s.wake <- struct{}{}:
		default:
		}
		batch, err := watcher.Next(ctx)
		for err == nil && len(batch.Events) == 0 {
			batch, err = watcher.Next(ctx)
		}
		if err != nil {
			return err
		}
	}
}

func (s *Signer) work(ctx context.Context) error {
	for {
		changed := s.cfg.Store.TermChanged() // before looking: no change is missed
		var again <-chan time.Time
		if s.cfg.Store.Term().Leading {
			if s.all(ctx) {
				again = s.cfg.Clock.After(lookAgain)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		case <-s.wake:
		}
	}
}

// all answers every request that can be answered, and tells whether one remains.
func (s *Signer) all(ctx context.Context) (left bool) {
	for _, record := range s.cfg.Store.Snapshot(resource, "").Records {
		obj, err := object.Decode(object.KindOf[*certificatesv1.CertificateSigningRequest](), record.Value)
		if err != nil {
			continue // quarantined by the store
		}
		request, ok := obj.(*certificatesv1.CertificateSigningRequest)
		if !ok || settled(request) {
			continue
		}
		left = true
		// Whoever wrote it meanwhile has woken this signer.
		if err := s.answer(ctx, request); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			s.cfg.Log.Warn("certificate request not answered, it is tried again", zap.String("name", request.Name), zap.Error(err))
		}
	}
	return left
}

// answer approves, signs or fails one request.
func (s *Signer) answer(ctx context.Context, request *certificatesv1.CertificateSigningRequest) error {
	j := judge(request, s.cfg.Services)
	switch {
	case !has(request, certificatesv1.CertificateApproved):
		return s.approve(ctx, request, j)
	case j.refusal != "":
		return s.write(ctx, withCondition(request, certificatesv1.CertificateFailed, "SignerValidationFailure", j.refusal), "status")
	}
	certificate, err := s.cfg.CA.SignCSR(request.Spec.Request, j.leaf)
	if err != nil {
		return err
	}
	signed := request.DeepCopy()
	signed.Status.Certificate = certificate
	if err := s.write(ctx, signed, "status"); err != nil {
		return err
	}
	s.cfg.Log.Info("certificate signed", zap.String("name", request.Name), zap.String("signer", request.Spec.SignerName),
		logging.User(j.leaf.CommonName), zap.Strings("groups", j.leaf.Organizations))
	return nil
}

// approve approves what needs no person, if the requester may have it.
func (s *Signer) approve(ctx context.Context, request *certificatesv1.CertificateSigningRequest, j judgement) error {
	if j.review == "" || j.refusal != "" {
		return nil
	}
	kind := object.KindOf[*certificatesv1.CertificateSigningRequest]()
	err := s.cfg.Authorize(ctx, authz.Attributes{
		User: request.Spec.Username, Groups: request.Spec.Groups, Verb: "create", Resource: kind.GroupResource(), Subresource: j.review,
	})
	if err != nil {
		return nil //nolint:nilerr // a person decides
	}
	message := "Auto approving kubelet client certificate after SubjectAccessReview."
	if j.review == selfNodeClient {
		message = "Auto approving self kubelet client certificate after SubjectAccessReview."
	}
	return s.write(ctx, withCondition(request, certificatesv1.CertificateApproved, "AutoApproved", message), "approval")
}

func (s *Signer) write(ctx context.Context, request *certificatesv1.CertificateSigningRequest, subresource string) error {
	ref := registry.Ref{Resource: object.KindOf[*certificatesv1.CertificateSigningRequest]().GVR, Name: request.Name, Subresource: subresource}
	_, err := s.cfg.Registry.Update(ctx, s.cfg.Caller, ref, request, registry.WriteOptions{})
	return err
}
