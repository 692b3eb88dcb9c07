package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
)

// leaderPoll is the pause between two attempts of a write that found no leader.
const leaderPoll = 30 * time.Millisecond

// maxReplans bounds how often a write is planned anew because what the plan was made of has
// changed meanwhile.
const maxReplans = 8

// errReplan is returned by a plan's compute when the plan must be made anew.
var errReplan = errors.New("what the request is about has changed meanwhile, try again")

// plan is one write on its way to the store.
type plan struct {
	kind *Kind
	key  store.Key
	// compute decides the write against the object's current record. It leaves its inputs
	// alone, so that it can be called again when the object has changed meanwhile.
	compute func(current *store.Record) (outcome, error)

	// guard may refuse what compute stores; nil for most kinds.
	guard func(current *store.Record, obj object.Object) error

	// removal is true for deletions.
	removal bool

	// warnings of the object as it came.
	warnings []string

	// decisions of webhooks and policies about it; nil: none are asked.
	decisions *decisions

	// with are writes that are committed together with this one, or not at all. Their
	// results go nowhere.
	with []*plan

	prepared    bool
	preparedFor *store.Record
	costly      bool // to compute
	ready       outcome
	readyErr    error

	done   outcome // what the last Decide answered
	replan bool    // the last Decide wants the write planned anew
}

// outcome is what a write does and what its caller gets.
type outcome struct {
	change store.Change
	// obj is the object after the write (before it, for deletes), without a version.
	obj object.Object
	// body is returned instead of the object: the body of a subresource.
	body object.Object
	// charge takes what the write needs from quotas, or refuses it; nil if it needs nothing.
	// It is for the single writer: what was prepared is charged when it is decided.
	charge func(dry bool) error
	// warnings of what the write makes of the object.
	warnings []string
}

// prepare computes the write before the single writer asks, outside of its loop.
func (p *plan) prepare(current *store.Record) {
	p.ready, p.readyErr = p.compute(current)
	p.prepared, p.preparedFor = true, current
}

func (p *plan) decide(current *store.Record) (store.Change, error) {
	if p.decisions != nil {
		p.decisions.writing = true
		defer func() { p.decisions.writing = false }()
	}
	result, err := p.ready, p.readyErr
	switch {
	case p.prepared && p.preparedFor == current:
	case p.costly:
		result, err = outcome{}, errReplan
	default:
		result, err = p.compute(current)
	}
	p.done = result
	err = p.check(current, result, err)
	if err == nil && result.charge != nil {
		err = result.charge(false)
	}
	p.replan = errors.Is(err, errReplan)
	return result.change, err
}

// check asks the guard about what was computed.
func (p *plan) check(current *store.Record, result outcome, err error) error {
	if err != nil || p.guard == nil || result.change.Keep || result.change.Delete {
		return err
	}
	return p.guard(current, result.obj)
}

// result tells the caller what became of the write.
func (p *plan) result(r store.Result) OperationResult {
	if r.Err != nil {
		return OperationResult{Kind: p.kind.Kind, Err: statusError(r.Err)}
	}
	if r.Repeated {
		// The writer did not ask again; what was prepared for this attempt says what was meant.
		p.done = p.ready
		p.done.change.Delete = p.removal && (p.preparedFor == nil || p.ready.change.Delete)
	}
	if r.Record == nil {
		if p.done.change.Delete {
			return OperationResult{Kind: p.kind.Kind, Deleted: true, Object: p.placeholder()}
		}
		// Only a repeated request can end here: it was done, and undone by somebody since.
		return OperationResult{Kind: p.kind.Kind, Err: conflict(p.kind, p.key.Name, "the request was performed before, but the object has been deleted since")}
	}
	version := object.FormatVersion(r.Record.Version)
	if body := p.done.body; body != nil && !r.Repeated {
		body.SetResourceVersion(version)
		kind, err := object.KindOfObject(body)
		return OperationResult{Object: body, Kind: kind, Warnings: p.done.warnings, Err: err}
	}
	out := OperationResult{Kind: p.kind.Kind, Deleted: p.done.change.Delete, Record: r.Record, Warnings: slices.Concat(p.warnings, p.done.warnings)}
	if p.done.obj != nil && !r.Repeated {
		p.done.obj.SetResourceVersion(version)
		out.Object = p.done.obj
	}
	out.Record, out.Err = served(p.kind, r.Record)
	return out
}

// placeholder names an object of which nothing is known any more.
func (p *plan) placeholder() object.Object {
	obj := p.kind.New()
	obj.GetObjectKind().SetGroupVersionKind(p.kind.GVK)
	obj.SetNamespace(p.key.Namespace)
	obj.SetName(p.key.Name)
	return obj
}

// objectOf returns the result as an object of the caller's own.
func objectOf(r OperationResult) (object.Object, error) {
	if r.Err != nil || r.Object != nil {
		return r.Object, r.Err
	}
	obj, err := object.Decode(r.Kind, r.Record.Value)
	return obj, statusError(err)
}

// write runs local while this master leads and remote while another one does, until one
// of them has an answer. Both are repeated under one request id, by which the store
// recognizes what it has done before.
func (e *Engine) write(ctx context.Context, caller Caller, local, remote func(ctx context.Context, caller Caller) error) error {
	if caller.RequestID == "" {
		caller.RequestID = newRequestID()
	}
	if e.store.Term().Leading { // the usual case
		if err := local(ctx, caller); !errors.Is(err, store.ErrNotLeading) && !errors.Is(err, store.ErrUnknownOutcome) {
			return statusError(err)
		}
	}
	if caller.Forwarded {
		return apierrors.NewServiceUnavailable(store.ErrNotLeading.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.WriteTimeout)
	defer cancel()
	for {
		err := store.ErrNotLeading
		switch {
		case e.store.Term().Leading:
			if err = local(ctx, caller); !errors.Is(err, store.ErrNotLeading) && !errors.Is(err, store.ErrUnknownOutcome) {
				return statusError(err)
			}
		case e.cfg.Forwarder != nil:
			if err = remote(ctx, caller); !tryAgain(err) {
				return statusError(err)
			}
		}
		select {
		case <-ctx.Done():
			return statusError(err)
		case <-e.cfg.Clock.After(leaderPoll):
		}
	}
}

// tryAgain tells whether another attempt may find a leader.
func tryAgain(err error) bool {
	return err != nil && (apierrors.IsServiceUnavailable(err) || apierrors.IsServerTimeout(err) ||
		errors.Is(err, store.ErrNotLeading) || errors.Is(err, store.ErrUnknownOutcome))
}

func newRequestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// commit performs plans as one group.
func (e *Engine) commit(ctx context.Context, caller Caller, plans []*plan, atomic bool) ([]OperationResult, error) {
	if caller.Epoch == 0 && pki.FollowsLeader(caller.Groups) {
		return nil, fenced("a scheduler or controller says with each write under which epoch it was started") // it may be left over
	}
	group := store.Group{
		Writes: make([]store.Write, len(plans)), Atomic: atomic,
		User: caller.User, RequestID: caller.RequestID, Epoch: caller.Epoch, Ephemeral: true,
	}
	for i, p := range plans {
		group.Writes[i] = store.Write{Key: p.key, Decide: p.decide}
		group.Ephemeral = group.Ephemeral && ephemeral(p)
	}
	results, err := e.store.Commit(ctx, group)
	if err != nil {
		return nil, err
	}
	if e.cfg.Access != nil && slices.ContainsFunc(plans, func(p *plan) bool { return p.key.Resource == clusterRolesResource }) {
		if err := e.aggregate(ctx); err != nil {
			e.cfg.Log.Warn("aggregated roles will follow", zap.Error(err))
		}
	}
	out := make([]OperationResult, len(plans))
	for i, p := range plans {
		out[i] = p.result(results[i])
	}
	return out, nil
}

// ephemeral writes stay out of the history: Events, and the heartbeats of nodes.
func ephemeral(p *plan) bool {
	return p.kind.Ephemeral || p.key.Namespace == nodeLeaseNamespace && p.key.Resource == "leases.coordination.k8s.io"
}

// rehearse answers a dry run: what the write would do to the object as it is now.
func (e *Engine) rehearse(ctx context.Context, p *plan) (OperationResult, error) {
	if err := e.store.Fresh(ctx); err != nil {
		return OperationResult{}, err
	}
	current, _ := e.store.Get(p.key)
	done, err := p.compute(current)
	err = p.check(current, done, err)
	if err == nil && done.charge != nil {
		err = done.charge(true)
	}
	if err != nil {
		return OperationResult{}, err
	}
	for _, other := range p.with {
		current, _ := e.store.Get(other.key)
		if _, err := other.compute(current); err != nil {
			return OperationResult{}, err
		}
	}
	if done.body != nil {
		kind, err := object.KindOfObject(done.body)
		return OperationResult{Object: done.body, Kind: kind, Warnings: done.warnings}, err
	}
	out := OperationResult{Kind: p.kind.Kind, Object: done.obj, Deleted: done.change.Delete, Warnings: slices.Concat(p.warnings, done.warnings)}
	switch {
	case done.change.Keep || done.change.Delete:
		if out.Record = current; current != nil {
			out.Object.SetResourceVersion(object.FormatVersion(current.Version))
		}
	default:
		if current != nil { // what is not changed keeps its version
			done.obj.SetResourceVersion(object.FormatVersion(current.Version))
		}
		value, err := done.obj.Marshal()
		if err != nil {
			return out, err
		}
		out.Record = &store.Record{Key: p.key, Value: value, Index: done.change.Index}
	}
	return out, nil
}

// one performs a single operation.
func (e *Engine) one(ctx context.Context, caller Caller, op Operation) (OperationResult, error) {
	if op.Verb == VerbCreate && op.Ref.Subresource == tokenSubresource {
		d := e.decisionsOn(ctx, caller, op)
		out, err := e.token(ctx, caller, op, d)
		d.report(&out)
		return out, err
	}
	if dryRun(op) {
		// This master may not lead: what is decided must be by what has been acknowledged.
		if err := e.store.Fresh(ctx); err != nil {
			return OperationResult{}, statusError(err)
		}
		d := e.decisionsOn(ctx, caller, op)
		out, err := e.rehearseOne(ctx, caller, op, d)
		d.report(&out)
		return out, err
	}
	var out OperationResult
	var p *plan
	var d *decisions
	release := func() {}
	defer func() { release() }()
	local := func(ctx context.Context, caller Caller) error {
		if d == nil {
			d = e.decisionsOn(ctx, caller, op)
		}
		for attempt := 0; ; attempt++ {
			var err error
			if p == nil {
				d.again()
				if p, err = e.plan(caller, op, d); err != nil {
					return err
				}
			}
			e.prepare(p, op.Verb)
			results, err := e.commit(ctx, caller, append([]*plan{p}, p.with...), true)
			if err == nil {
				out = results[0]
				return out.Err
			}
			if attempt < maxNameAttempts && op.Verb == VerbCreate && generated(op) && apierrors.IsAlreadyExists(err) {
				p = nil
				continue
			}
			if !errors.Is(err, errReplan) || attempt == d.most() {
				return err
			}
			if d != nil && attempt == 0 {
				release()
				release = e.turns.take(ctx, p.key)
			}
			p = nil
		}
	}
	remote := func(ctx context.Context, caller Caller) error {
		d = nil // the leader decides
		var err error
		if out, err = e.cfg.Forwarder.Do(ctx, caller, op); err != nil {
			return err
		}
		return e.reached(ctx, out)
	}
	err := e.write(ctx, caller, local, remote)
	d.report(&out)
	return out, err
}

// rehearseOne answers a dry run.
func (e *Engine) rehearseOne(ctx context.Context, caller Caller, op Operation, d *decisions) (OperationResult, error) {
	for attempt := 0; ; attempt++ {
		d.again()
		p, err := e.plan(caller, op, d)
		if err != nil {
			return OperationResult{}, err
		}
		out, err := e.rehearse(ctx, p)
		if !errors.Is(err, errReplan) || attempt == maxReplans {
			return out, statusError(err)
		}
	}
}

// prepare computes what needs the current object before the writer does. Creates are
// computed when planned, and services, which take addresses, by the writer alone.
func (e *Engine) prepare(p *plan, verb Verb) {
	if verb == VerbCreate || p.key.Resource == servicesResource && p.decisions == nil {
		return
	}
	current, _ := e.store.Get(p.key)
	if p.key.Resource == servicesResource {
		p.scout(current)
		return
	}
	began := e.cfg.Clock.Now()
	p.prepare(current)
	p.costly = e.cfg.Clock.Since(began) > maxComputing
}

// prepareAll prepares several plans, some at once when somebody is asked about them.
func (e *Engine) prepareAll(ctx context.Context, plans []*plan, verb func(i int) Verb) error {
	if !slices.ContainsFunc(plans, func(p *plan) bool { return p.decisions != nil }) {
		for i, p := range plans {
			e.prepare(p, verb(i))
		}
		return nil
	}
	return eachAtOnce(ctx, len(plans), func(i int) { e.prepare(plans[i], verb(i)) })
}

func dryRun(op Operation) bool {
	if eviction, ok := op.Object.(*policyv1.Eviction); ok && eviction.DeleteOptions != nil && len(eviction.DeleteOptions.DryRun) > 0 {
		return true
	}
	return op.Options.DryRun || op.Verb == VerbDelete && len(op.Delete.DryRun) > 0
}

// reached waits until this master's memory holds what the leader answered.
func (e *Engine) reached(ctx context.Context, results ...OperationResult) error {
	var newest uint64
	for _, r := range results {
		if r.Record != nil {
			newest = max(newest, r.Record.Version)
		} else if r.Object != nil {
			if version, err := object.ParseVersion(r.Object.GetResourceVersion()); err == nil {
				newest = max(newest, version)
			}
		}
	}
	if newest == 0 {
		return nil
	}
	if err := e.store.WaitVersion(ctx, newest); err != nil {
		return apierrors.NewTimeoutError("the write succeeded, but this master has not seen it yet: "+err.Error(), 1)
	}
	return nil
}

// plan makes the plan of an operation.
func (e *Engine) plan(caller Caller, op Operation, d *decisions) (*plan, error) {
	kind, err := e.resolve(op.Ref, op.Verb != VerbCreate || op.Ref.Subresource != "")
	if err != nil {
		return nil, err
	}
	p, err := e.planOf(caller, kind, op, d)
	if err == nil {
		p.decisions = d
		e.guard(caller, kind, p)
	}
	return p, err
}

func (e *Engine) planOf(caller Caller, kind *Kind, op Operation, d *decisions) (*plan, error) {
	if op.Verb != VerbCreate && op.Ref.Name == "" {
		return nil, apierrors.NewBadRequest("name is required")
	}
	switch op.Verb {
	case VerbCreate:
		switch op.Ref.Subresource {
		case "":
			return e.planCreate(caller, kind, op, d)
		case "binding":
			return e.planBinding(kind, op, d)
		case "eviction":
			return e.planEviction(kind, op, d)
		}
	case VerbUpdate:
		if op.Ref.Subresource == "scale" {
			return e.planScale(caller, kind, op, d)
		}
		return e.planUpdate(caller, kind, op, d)
	case VerbPatch:
		return e.planPatch(caller, kind, op, d)
	case VerbDelete:
		if op.Ref.Subresource == "" {
			return e.planDelete(kind, op.Ref, op.Delete, d)
		}
	}
	return nil, notAllowed(kind, string(op.Verb))
}

// Create stores a new object, or performs a subresource's create (binding, eviction).
func (e *Engine) Create(ctx context.Context, caller Caller, ref Ref, obj object.Object, opts WriteOptions) (object.Object, error) {
	r, err := e.one(ctx, caller, Operation{Verb: VerbCreate, Ref: ref, Object: obj, Options: opts})
	if err != nil {
		return nil, err
	}
	return objectOf(r)
}

// Update replaces an object or a subresource of it.
func (e *Engine) Update(ctx context.Context, caller Caller, ref Ref, obj object.Object, opts WriteOptions) (object.Object, error) {
	r, err := e.one(ctx, caller, Operation{Verb: VerbUpdate, Ref: ref, Object: obj, Options: opts})
	if err != nil {
		return nil, err
	}
	return objectOf(r)
}

// Patch changes part of an object.
func (e *Engine) Patch(ctx context.Context, caller Caller, ref Ref, patchType types.PatchType, patch []byte, opts WriteOptions) (object.Object, error) {
	r, err := e.one(ctx, caller, Operation{Verb: VerbPatch, Ref: ref, PatchType: patchType, Patch: patch, Options: opts})
	if err != nil {
		return nil, err
	}
	return objectOf(r)
}

// Delete removes an object or marks it for removal.
func (e *Engine) Delete(ctx context.Context, caller Caller, ref Ref, opts metav1.DeleteOptions) (object.Object, bool, error) {
	r, err := e.one(ctx, caller, Operation{Verb: VerbDelete, Ref: ref, Delete: opts})
	if err != nil {
		return nil, false, err
	}
	obj, err := objectOf(r)
	return obj, r.Deleted, err
}

// Do performs one write and returns the record.
func (e *Engine) Do(ctx context.Context, caller Caller, op Operation) (OperationResult, error) {
	r, err := e.one(ctx, caller, op)
	if err == nil && r.Record != nil {
		r.Object = nil
	}
	return r, err
}

// sameEncoding tells whether a record holds exactly this encoding, its version aside.
func sameEncoding(record *store.Record, encoding []byte) bool {
	rest, ok := bytes.CutPrefix(record.Value, encoding)
	// What the store appends is a second occurrence of metadata holding the version only.
	return ok && len(rest) > 4 && rest[0] == 0x0a && int(rest[1]) == len(rest)-2 && rest[2] == 0x32 && int(rest[3]) == len(rest)-4
}

// encode encodes an object as it is stored, and derives its index.
func encode(kind *Kind, obj object.Object) (store.Change, error) {
	stored := obj
	switch {
	case kind.StoredAs != nil:
		stored = kind.ToStored(obj)
	case kind.Custom != nil && kind.Custom.Storage != kind:
		stored = inStorageVersion(kind, obj)
	}
	stored.SetResourceVersion("")
	value, err := stored.Marshal()
	if err != nil {
		return store.Change{}, apierrors.NewInternalError(fmt.Errorf("encode %s: %w", kind.GVK.Kind, err))
	}
	return store.Change{Value: value, Index: indexOf(kind.Stored(), stored)}, nil
}

// inStorageVersion converts an object to the version that its definition stores: nothing
// but the version's name and what the schemas say differs between versions.
func inStorageVersion(kind *Kind, obj object.Object) object.Object {
	custom := obj.DeepCopyObject().(*object.Custom)
	custom.SetGroupVersionKind(kind.Custom.Storage.GVK)
	kind.Custom.Storage.Custom.Revise(custom)
	return custom
}

// decode decodes a record in the served kind.
func decode(kind *Kind, record *store.Record) (object.Object, error) {
	obj, err := object.Decode(kind.Stored().Kind, record.Value)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	switch {
	case kind.StoredAs != nil:
		obj = kind.FromStored(obj)
	case !asStored(kind, record):
		kind.Custom.Revise(obj.(*object.Custom))
	}
	return obj, nil
}

// asStored tells whether a record holds just what the kind shows.
func asStored(kind *Kind, record *store.Record) bool {
	if kind.Custom == nil {
		return kind.StoredAs == nil
	}
	return kind.Custom.Storage == kind && object.RevisionOf(record.Value) == kind.Custom.Revision
}
