package dynamic

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

// What webhooks are for, as the metrics have it.
const (
	admit    = "admit"
	validate = "validating"
)

// Versions of AdmissionReview that are spoken.
const (
	reviewV1      = "admission.k8s.io/v1"
	reviewV1beta1 = "admission.k8s.io/v1beta1"
)

// maxPatchSteps bounds a webhook's patch, as that of a client.
const maxPatchSteps = 10_000

// hook is one webhook of a configuration. It is immutable but for what it compiles on demand.
type hook struct {
	configuration, name string
	kind                string // admit or validate
	scope               scope
	err                 error // of the configuration; every call fails with it
	ignore              bool
	reinvoke            bool
	timeout             time.Duration
	version             string // of AdmissionReview
	home                string // namespace of its service
	conditions          *conditions
	target              *target
}

// webhook is what both kinds of webhooks have in common.
type webhook struct {
	name       string
	client     *admissionregistrationv1.WebhookClientConfig
	rules      []admissionregistrationv1.RuleWithOperations
	failure    *admissionregistrationv1.FailurePolicyType
	match      *admissionregistrationv1.MatchPolicyType
	namespaces *metav1.LabelSelector
	objects    *metav1.LabelSelector
	seconds    *int32
	versions   []string
	conditions []admissionregistrationv1.MatchCondition
	reinvoke   bool
}

func webhooksOf(obj object.Object) []webhook {
	var out []webhook
	switch c := obj.(type) {
	case *admissionregistrationv1.MutatingWebhookConfiguration:
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			out = append(out, webhook{
				w.Name, &w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector, w.TimeoutSeconds,
				w.AdmissionReviewVersions, w.MatchConditions,
				w.ReinvocationPolicy != nil && *w.ReinvocationPolicy == admissionregistrationv1.IfNeededReinvocationPolicy,
			})
		}
	case *admissionregistrationv1.ValidatingWebhookConfiguration:
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			out = append(out, webhook{
				w.Name, &w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector, w.TimeoutSeconds,
				w.AdmissionReviewVersions, w.MatchConditions, false,
			})
		}
	}
	return out
}

// hooksOf makes the webhooks of one kind; targets are taken over from those there are, and
// noted in used. The caller holds mu.
func (a *Admission) hooksOf(used map[string]*target, kind string) []*hook {
	resource := "mutatingwebhookconfigurations." + admissionregistrationv1.GroupName
	if kind == validate {
		resource = "validatingwebhookconfigurations." + admissionregistrationv1.GroupName
	}
	var out []*hook
	for _, key := range a.keys(resource) {
		stored := a.stored[key]
		for i, w := range webhooksOf(stored.obj) {
			if i == len(stored.conditions) {
				stored.conditions = append(stored.conditions, &conditions{of: w.conditions})
			}
			h := a.newHook(used, kind, key.Name, &w)
			h.conditions = stored.conditions[i]
			out = append(out, h)
		}
	}
	return out
}

// keys lists the stored objects of a resource by name. The caller holds mu.
func (a *Admission) keys(resource string) []store.Key {
	var keys []store.Key
	for key := range a.stored {
		if key.Resource == resource {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(x, y store.Key) int { return cmp.Compare(x.Name, y.Name) })
	return keys
}

func (a *Admission) newHook(used map[string]*target, kind, configuration string, w *webhook) *hook {
	h := &hook{
		configuration: configuration, name: w.name, kind: kind, reinvoke: w.reinvoke, timeout: Budget,
		ignore:  w.failure != nil && *w.failure == admissionregistrationv1.Ignore,
		version: reviewV1,
	}
	if w.seconds != nil {
		h.timeout = time.Duration(*w.seconds) * time.Second
	}
	if i := slices.IndexFunc(w.versions, func(v string) bool { return v == "v1" || v == "v1beta1" }); i >= 0 && w.versions[i] == "v1beta1" {
		h.version = reviewV1beta1
	}
	if w.client.Service != nil {
		h.home = w.client.Service.Namespace
	}
	rules := make([]admissionregistrationv1.NamedRuleWithOperations, len(w.rules))
	for i := range w.rules {
		rules[i].RuleWithOperations = w.rules[i]
	}
	if h.scope, h.err = newScope(rules, nil, w.match, w.namespaces, w.objects); h.err != nil {
		return h
	}
	config, err := json.Marshal(w.client)
	if err != nil {
		h.err = err
		return h
	}
	made := kind + "/" + configuration + "/" + w.name + "/" + string(config)
	if h.target = a.targets[made]; h.target == nil {
		h.target, h.err = a.newTarget(w.client)
	}
	if h.target != nil {
		used[made] = h.target
	}
	return h
}

// sees returns the version of its kind in which a webhook is shown a request; nil: it is not.
// No webhook sees kube-system, or the namespace that its own service is in: what is needed to
// bring a webhook up, or the cluster, must not wait for it.
func (h *hook) sees(s *Session, r *Request) *kinds.Kind {
	if where := r.where(); where != "" && (where == metav1.NamespaceSystem || where == h.home) {
		return nil
	}
	return s.match(&h.scope, r)
}

// mutation is the way of one object through everybody who may change it.
type mutation struct {
	session *Session
	request *Request
	settle  func(last bool) error
	// asked are those, a *boundMutation or a *hook, that want to see what others change after them.
	asked []any
	// again are those of them that have something new to see.
	again   map[any]bool
	changed bool
}

// round gives everybody a turn; in the second round, 1, those who have something new to see.
func (m *mutation) round(round int) error {
	for _, b := range m.session.state.mutations {
		if round > 0 && !m.again[b] {
			continue
		}
		asked, changed, err := b.mutate(m)
		if err != nil {
			return err
		}
		m.note(b, round, asked && b.reinvoke, changed)
	}
	for i, h := range m.session.state.mutating {
		if round > 0 && !m.again[h] {
			continue
		}
		asked, changed, err := m.ask(h, position{round, i})
		if err != nil {
			return err
		}
		m.note(h, round, asked && h.reinvoke, changed)
	}
	return nil
}

// note notes what came of a turn.
func (m *mutation) note(who any, round int, reinvoke, changed bool) {
	if changed {
		m.changed = true
		m.repeat(who)
	}
	if reinvoke && round == 0 {
		m.asked = append(m.asked, who)
	}
}

// ask gives a webhook its turn.
func (m *mutation) ask(h *hook, at position) (asked, changed bool, err error) {
	kind := h.sees(m.session, m.request)
	if kind == nil {
		return false, false, nil
	}
	waited := m.session.waiting()
	answer, err := m.session.ask(m.session.ctx, h, m.request, kind, at)
	waited()
	if err != nil || answer == nil {
		return false, false, err
	}
	m.session.take(h, answer)
	if !answer.Allowed {
		return true, false, refusal(h, answer)
	}
	if answer.UID == noAnswer {
		return false, false, nil
	}
	if changed, err = m.patch(h, kind, answer.Patch); err != nil {
		return true, false, err
	}
	key := fmt.Sprintf("mutation.webhook.admission.k8s.io/round_%d_index_%d", at.round, at.index)
	m.session.annotate(key, fmt.Sprintf(`{"configuration":%q,"webhook":%q,"mutated":%t}`, h.configuration, h.name, changed))
	return true, changed, nil
}

// repeat notes that those who were asked before have not seen what is there now.
func (m *mutation) repeat(except any) {
	if m.again == nil {
		m.again = map[any]bool{}
	}
	for _, who := range m.asked {
		if who != except {
			m.again[who] = true
		}
	}
}

// builtin applies the built-in rules again; if they change something, all are asked again.
func (m *mutation) builtin() error {
	before, err := m.request.in(m.request.Kind)
	if err != nil {
		return err
	}
	if err := m.settle(true); err != nil {
		return err
	}
	m.request.views = nil
	after, err := m.request.in(m.request.Kind)
	if err != nil {
		return err
	}
	if !bytes.Equal(before.object, after.object) {
		m.repeat(nil)
	}
	return nil
}

// patch applies what a webhook wants changed and tells whether that was anything.
func (m *mutation) patch(h *hook, kind *kinds.Kind, text []byte) (bool, error) {
	r := m.request
	if len(text) == 0 {
		return false, nil
	}
	v, err := r.in(kind)
	if err != nil {
		return false, err
	}
	bad := func(err error) error {
		m.session.admission.cfg.Meter.WebhookRejected(h.name, h.kind, string(r.Operation), "apiserver_internal_error", http.StatusInternalServerError)
		return internalError("the patch of admission webhook %q cannot be applied to %s %s: %w", h.name, r.Kind.GVK.Kind, r.Name, err)
	}
	patch, err := jsonpatch.DecodePatch(text)
	switch {
	case err != nil:
		return false, bad(err)
	case len(patch) == 0:
		return false, nil
	case len(patch) > maxPatchSteps:
		return false, bad(fmt.Errorf("it has %d operations, the limit is %d", len(patch), maxPatchSteps))
	case v.object == nil:
		return false, internalError("admission webhook %q attempted to modify the object, which is not supported for this operation", h.name)
	}
	patched, err := patch.Apply(v.object)
	if err != nil {
		return false, bad(err)
	}
	if bytes.Equal(patched, v.object) {
		return false, nil
	}
	return m.become(kind, patched, bad)
}

// become makes the object what a text says and tells whether that changed anything; bad makes
// an error of what is wrong with the text.
func (m *mutation) become(kind *kinds.Kind, text []byte, bad func(error) error) (bool, error) {
	r := m.request
	before, err := r.in(r.Kind)
	if err != nil {
		return false, err
	}
	if err := r.replace(kind, text); err != nil {
		return false, bad(err)
	}
	if err := m.settle(false); err != nil {
		return false, err
	}
	r.views = nil
	after, err := r.in(r.Kind)
	if err != nil {
		return false, err
	}
	return !bytes.Equal(before.object, after.object), nil
}

// position of a call among those of a request, for the audit log.
type position struct{ round, index int }

// ask asks a webhook. No answer and no error: it does not want to be asked, or its failure is
// ignored. Safe for concurrent use but for what it notes in the session, see askValidating.
func (s *Session) ask(ctx context.Context, h *hook, r *Request, kind *kinds.Kind, at position) (*admissionv1.AdmissionResponse, error) {
	want, err := h.conditions.met(s, r, kind)
	if err == nil && !want {
		return nil, nil
	}
	var answer *admissionv1.AdmissionResponse
	began := s.admission.cfg.Clock.Now()
	if err == nil {
		answer, err = s.call(ctx, h, r, kind)
	}
	took := s.admission.cfg.Clock.Since(began)
	meter := s.admission.cfg.Meter
	if err == nil {
		code := 0
		if !answer.Allowed {
			code = int(refusal(h, answer).ErrStatus.Code)
			meter.WebhookRejected(h.name, h.kind, string(r.Operation), "no_error", code)
		}
		meter.Webhook(h.name, h.kind, string(r.Operation), code, took)
		return answer, nil
	}
	if ctx.Err() != nil {
		return nil, apierrors.NewTimeoutError(fmt.Sprintf("the request ended while admission webhook %q was asked: %v", h.name, ctx.Err()), 0)
	}
	if h.ignore {
		meter.Webhook(h.name, h.kind, string(r.Operation), 0, took)
		meter.WebhookFailedOpen(h.name, h.kind)
		word := "validating"
		if h.kind == admit {
			word = "mutation"
		}
		return ignored(fmt.Sprintf("failed-open.%s.webhook.admission.k8s.io/round_%d_index_%d", word, at.round, at.index), h.name), nil
	}
	meter.Webhook(h.name, h.kind, string(r.Operation), http.StatusInternalServerError, took)
	meter.WebhookRejected(h.name, h.kind, string(r.Operation), "calling_webhook_error", http.StatusInternalServerError)
	return nil, internalError("failed calling webhook %q: %w", h.name, err)
}

// ignored is the answer in place of one that could not be had.
func ignored(annotation, name string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true, AuditAnnotations: map[string]string{annotation: name}, UID: noAnswer}
}

// noAnswer marks what ignored made.
const noAnswer types.UID = "-"

// call makes one call, within the webhook's timeout and what is left of the session's budget.
func (s *Session) call(ctx context.Context, h *hook, r *Request, kind *kinds.Kind) (*admissionv1.AdmissionResponse, error) {
	if h.err != nil {
		return nil, h.err
	}
	patience := min(h.timeout, s.left)
	if patience <= 0 {
		return nil, fmt.Errorf("earlier webhooks have used up the %s that a request may wait for all of them", Budget)
	}
	question, err := r.question(kind)
	if err != nil {
		return nil, err
	}
	v, err := r.in(kind)
	if err != nil {
		return nil, err
	}
	question.UID = uuid.NewUUID()
	question.Object, question.OldObject = runtime.RawExtension{Raw: v.object}, runtime.RawExtension{Raw: v.old}
	review := &admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: h.version, Kind: "AdmissionReview"}, Request: question}

	clk := s.admission.cfg.Clock
	probe, err := h.target.breaker.enter(clk.Now())
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := h.target.inTurn(bounded, review)
	if err != nil && errors.Is(bounded.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("no answer within %s: %w", patience, err)
	}
	h.target.breaker.leave(clk.Now(), probe, ctx.Err() == nil, err)
	return answer, err
}

// inTurn calls when one of the webhook's slots is free.
func (t *target) inTurn(ctx context.Context, review *admissionv1.AdmissionReview) (*admissionv1.AdmissionResponse, error) {
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%d calls are under way: %w", concurrency, ctx.Err())
	}
	defer func() { <-t.slots }()
	return t.call(ctx, review)
}

// take notes what a webhook tells the client and the audit log.
func (s *Session) take(h *hook, answer *admissionv1.AdmissionResponse) {
	for _, text := range answer.Warnings[:min(len(answer.Warnings), maxWarnings)] {
		s.warn("%s", text)
	}
	for _, key := range slices.Sorted(func(yield func(string) bool) {
		for key := range answer.AuditAnnotations {
			if !yield(key) {
				return
			}
		}
	}) {
		if answer.UID == noAnswer {
			s.annotate(key, answer.AuditAnnotations[key])
		} else {
			s.annotate(h.name+"/"+key, answer.AuditAnnotations[key])
		}
	}
}

// refusal is the error of a write that a webhook does not allow.
func refusal(h *hook, answer *admissionv1.AdmissionResponse) *apierrors.StatusError {
	status := metav1.Status{}
	if answer.Result != nil {
		status = *answer.Result
	}
	said := string(status.Reason)
	if status.Code < http.StatusBadRequest {
		status.Code = http.StatusBadRequest
	}
	switch status.Reason {
	case metav1.StatusReasonServiceUnavailable, metav1.StatusReasonServerTimeout, metav1.StatusReasonTimeout, "Fenced":
		status.Code = http.StatusInternalServerError
	}
	if status.Code == http.StatusServiceUnavailable || status.Code == http.StatusGatewayTimeout {
		status.Code = http.StatusInternalServerError
	}
	if status.Code == http.StatusInternalServerError {
		// Other reasons of this kind are about masters, which would be asked again and again.
		status.Reason = metav1.StatusReasonInternalError
	}
	status.Status = metav1.StatusFailure
	why := cmp.Or(status.Message, said)
	status.Message = fmt.Sprintf("admission webhook %q denied the request", h.name)
	if why == "" {
		status.Message += " without explanation"
	} else {
		status.Message += ": " + why
	}
	return &apierrors.StatusError{ErrStatus: status}
}

// askValidating asks all validating webhooks at once. Of several refusals the first in order counts.
func (s *Session) askValidating(r *Request) error {
	type question struct {
		hook   *hook
		kind   *kinds.Kind
		index  int
		answer *admissionv1.AdmissionResponse
		err    error
	}
	var questions []*question
	for i, h := range s.state.validating {
		if kind := h.sees(s, r); kind != nil {
			// What all of them read is made before.
			v, err := r.in(kind)
			if err != nil {
				return err
			}
			if h.conditions.any() {
				if _, _, err := v.maps(); err != nil {
					return err
				}
			}
			questions = append(questions, &question{hook: h, kind: kind, index: i})
		}
	}
	if len(questions) == 0 {
		return nil
	}
	s.namespaceOf(r)
	waited := s.waiting()
	if len(questions) == 1 {
		q := questions[0]
		q.answer, q.err = s.ask(s.ctx, q.hook, r, q.kind, position{0, q.index})
	} else {
		group := lifecycle.NewGroup(s.ctx)
		for _, q := range questions {
			group.Go(func(ctx context.Context) error {
				q.answer, q.err = s.ask(ctx, q.hook, r, q.kind, position{0, q.index})
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return internalError("validating webhooks: %w", err)
		}
	}
	waited()
	var first error
	for _, q := range questions {
		err := q.err
		if q.answer != nil {
			s.take(q.hook, q.answer)
			if !q.answer.Allowed {
				err = refusal(q.hook, q.answer)
			}
		}
		if first == nil {
			first = err
		}
	}
	return first
}
