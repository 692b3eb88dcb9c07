package informer

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"go.uber.org/zap"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

// streamsPerConn is how many watches share one connection: an apiserver allows a machine
// 250 streams on each, and other calls need some.
const streamsPerConn = 200

// CustomsConfig is what Customs needs. All fields are required.
type CustomsConfig struct {
	// Definitions of the kinds.
	Definitions *Informer[*apiextensionsv1.CustomResourceDefinition]
	// Dial opens one more connection; each holds up to 200 watches.
	Dial func() (c *client.Client, closer func() error, err error)
	Log  *zap.Logger
}

// Customs keeps the metadata of the objects of all kinds that users have defined, as those
// come and go. It is safe for concurrent use.
type Customs struct {
	cfg    CustomsConfig
	synced chan struct{} // closed once the kinds defined at the start are complete

	mu       sync.Mutex
	members  map[string]*customs // by the definition's name
	retired  map[schema.GroupKind]object.Kind
	handlers []func(kind object.Kind, before, after *object.Custom)
	conns    []*customConn
}

type customConn struct {
	client *client.Client
	close  func() error
	users  int
}

// customs is one kind.
type customs struct {
	informer *Informer[*object.Custom]
	uid      types.UID
	stop     context.CancelFunc
}

// indexOwners is the index by the uid of any owner.
const indexOwners = "owners"

// CustomsOf adds the collections of all kinds that users define to a set. Call it before
// the set runs.
func CustomsOf(s *Set, cfg CustomsConfig) *Customs {
	c := &Customs{cfg: cfg, synced: make(chan struct{}), members: map[string]*customs{}, retired: map[schema.GroupKind]object.Kind{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = append(s.members, member{name: "custom resources", run: c.run, synced: c.synced})
	return c
}

// CustomKindOf returns the kind that a definition makes, in the version that objects are
// stored in if that is served; false if none is served.
func CustomKindOf(crd *apiextensionsv1.CustomResourceDefinition) (object.Kind, bool) {
	established := slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	})
	version := ""
	for _, v := range crd.Spec.Versions {
		if v.Served && (version == "" || v.Storage) {
			version = v.Name
		}
	}
	names := crd.Status.AcceptedNames
	gvk := schema.GroupVersionKind{Group: crd.Spec.Group, Version: version, Kind: names.Kind}
	return object.CustomKind(gvk, names.Plural, crd.Spec.Scope == apiextensionsv1.NamespaceScoped), established && version != ""
}

// run follows the definitions until ctx ends.
func (c *Customs) run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	c.cfg.Definitions.OnChange(func(_, _ *apiextensionsv1.CustomResourceDefinition) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	group := lifecycle.NewGroup(ctx)
	group.Go(func(ctx context.Context) error {
		defer c.closeAll()
		select {
		case <-ctx.Done():
			return nil
		case <-c.cfg.Definitions.synced:
		}
		first := true
		for {
			if err := c.adjust(group); err != nil {
				c.cfg.Log.Warn("not all custom resources can be followed", zap.Error(err))
			}
			if first {
				first = false
				group.Go(c.awaitFirst)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
		}
	})
	return group.Wait()
}

// awaitFirst closes synced once all kinds of now are complete.
func (c *Customs) awaitFirst(ctx context.Context) error {
	c.mu.Lock()
	members := make([]*customs, 0, len(c.members))
	for _, m := range c.members {
		members = append(members, m)
	}
	c.mu.Unlock()
	for _, m := range members {
		select {
		case <-m.informer.synced:
		case <-ctx.Done():
			return nil
		}
	}
	close(c.synced)
	return nil
}

// adjust starts and stops informers, so that there is one for each kind that is served.
func (c *Customs) adjust(group *lifecycle.Group) error {
	wanted := map[string]*apiextensionsv1.CustomResourceDefinition{}
	for _, crd := range c.cfg.Definitions.List() {
		if _, served := CustomKindOf(crd); served {
			wanted[crd.Name] = crd
		}
	}
	var gone []*customs
	defer func() { // without mu, which handlers may take
		for _, m := range gone {
			c.lost(m)
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, m := range c.members {
		crd, ok := wanted[name]
		if ok && crd.UID == m.uid {
			if kind, _ := CustomKindOf(crd); kind.GVK == m.informer.Kind().GVK {
				continue
			}
		}
		m.stop()
		delete(c.members, name)
		// A kind that is gone has no objects: whoever names one as its owner has none.
		c.retired[m.informer.Kind().GVK.GroupKind()] = m.informer.Kind()
		if !ok || crd.UID != m.uid {
			gone = append(gone, m)
		}
	}
	for name, crd := range wanted {
		if c.members[name] != nil {
			continue
		}
		if err := c.start(group, crd); err != nil {
			return err
		}
	}
	return nil
}

// lost tells of the objects of a kind that is gone, whose deletion its watch may not have
// seen.
func (c *Customs) lost(m *customs) {
	c.mu.Lock()
	handlers := c.handlers
	c.mu.Unlock()
	for _, obj := range m.informer.List() {
		for _, handler := range handlers {
			handler(m.informer.Kind(), obj, nil)
		}
	}
}

// start begins to follow a kind. The caller holds mu.
func (c *Customs) start(group *lifecycle.Group, crd *apiextensionsv1.CustomResourceDefinition) error {
	kind, _ := CustomKindOf(crd)
	conn, err := c.conn()
	if err != nil {
		return fmt.Errorf("connect for %s: %w", crd.Name, err)
	}
	opts := options{
		indexes: map[string]func(object.Object) []string{indexOwners: func(obj object.Object) []string {
			var uids []string
			for _, ref := range obj.GetOwnerReferences() {
				uids = append(uids, string(ref.UID))
			}
			return uids
		}},
		trim: func(obj object.Object) { obj.(*object.Custom).DropContent() },
	}
	inf := newInformerOf[*object.Custom](kind, conn.client, c.cfg.Log, opts)
	inf.OnChange(func(before, after *object.Custom) {
		c.mu.Lock()
		handlers := c.handlers
		c.mu.Unlock()
		for _, handler := range handlers {
			handler(kind, before, after)
		}
	})
	ctx, stop := context.WithCancel(group.Context())
	c.members[crd.Name] = &customs{informer: inf, uid: crd.UID, stop: stop}
	delete(c.retired, kind.GVK.GroupKind())
	conn.users++
	group.Go(func(context.Context) error {
		defer func() {
			c.mu.Lock()
			conn.users--
			c.mu.Unlock()
		}()
		return inf.run(ctx)
	})
	return nil
}

// conn returns a connection with room for a watch. The caller holds mu.
func (c *Customs) conn() (*customConn, error) {
	for _, conn := range c.conns {
		if conn.users < streamsPerConn {
			return conn, nil
		}
	}
	opened, closer, err := c.cfg.Dial()
	if err != nil {
		return nil, err
	}
	conn := &customConn{client: opened, close: closer}
	c.conns = append(c.conns, conn)
	return conn, nil
}

func (c *Customs) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		m.stop()
	}
	for _, conn := range c.conns {
		_ = conn.close() // what was to be read has been
	}
	clear(c.members)
	c.conns = nil
}

// OnChange adds a handler that is called for every change of an object, with the metadata
// before and after it, nil for a new or removed one. It must not block.
func (c *Customs) OnChange(handler func(kind object.Kind, before, after *object.Custom)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlers = append(slices.Clone(c.handlers), handler)
}

// Followed are the objects of one kind.
type Followed struct {
	Kind object.Kind
	// informer is nil for a kind that is gone.
	informer *Informer[*object.Custom]
}

// All returns the kinds that are served, and with gone those that have been as well, which
// have no objects.
func (c *Customs) All(gone bool) []Followed {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Followed, 0, len(c.members))
	for _, m := range c.members {
		out = append(out, Followed{Kind: m.informer.Kind(), informer: m.informer})
	}
	if gone {
		for _, kind := range c.retired {
			out = append(out, Followed{Kind: kind})
		}
	}
	return out
}

// Kinds returns the kinds that were served at a resource version or are now.
func (c *Customs) Kinds(ctx context.Context, resourceVersion string) ([]object.Kind, error) {
	if err := c.cfg.Definitions.WaitVersion(ctx, resourceVersion); err != nil {
		return nil, err
	}
	var out []object.Kind
	for _, crd := range c.cfg.Definitions.List() {
		if kind, served := CustomKindOf(crd); served {
			out = append(out, kind)
		}
	}
	return out, nil
}

// Get returns one object's metadata, or a NotFound StatusError.
func (f Followed) Get(key object.Key) (*object.Custom, error) {
	if f.informer == nil {
		return nil, apierrors.NewNotFound(f.Kind.GroupResource(), key.Name)
	}
	return f.informer.Get(key)
}

// List returns the metadata of all objects.
func (f Followed) List() []*object.Custom {
	if f.informer == nil {
		return nil
	}
	return f.informer.List()
}

// Dependents returns the objects with an owner of this uid.
func (f Followed) Dependents(owner types.UID) []*object.Custom {
	if f.informer == nil {
		return nil
	}
	return f.informer.ByIndex(indexOwners, string(owner))
}

// WaitVersion returns once the collection reflects a resource version.
func (f Followed) WaitVersion(ctx context.Context, resourceVersion string) error {
	if f.informer == nil {
		return nil
	}
	return f.informer.WaitVersion(ctx, resourceVersion)
}
